//! The one place where a text from outside becomes part of a page.
//!
//! Names of guests and disks, paths, messages of failed programs: all of it may have been written by somebody who wants a browser to run a
//! script, a table to fall apart, or a line to read differently from what it says. First [`visible`] makes of any text one line without
//! controls, and bounds it; then what the kind of page gives a meaning is taken out of it. What is not here: what the pages say.

use std::fmt::Write as _;

/// A text that was not meant to be long is cut after so many characters.
pub(super) const MOST: usize = 2_000;

/// One line, at most `most` characters of it; what cannot be seen or would turn the line around is shown as its number.
pub(super) fn visible(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most * 4));
    let mut chars = text.trim().chars();
    let mut blank = false;
    for c in chars.by_ref().take(most) {
        if c.is_whitespace() {
            if !blank {
                out.push(' ');
            }
            blank = true;
            continue;
        }
        blank = false;
        if is_hidden(c) {
            let _ = write!(out, "⟨U+{:04X}⟩", c as u32);
        } else {
            out.push(c);
        }
    }
    let rest = chars.count();
    if rest > 0 {
        let _ = write!(out, "… ({rest} more characters)");
    }
    out
}

/// Controls, and what Unicode calls format characters: marks that turn the direction, join, hide.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// For HTML: between tags, and within a quoted attribute.
pub(super) fn html(text: &str, most: usize, out: &mut String) {
    for c in visible(text, most).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

/// For Markdown, as running text: nothing of it is a mark, a link, a tag or the end of a cell.
pub(super) fn markdown(text: &str) -> String {
    let shown = visible(text, MOST);
    let mut out = String::with_capacity(shown.len() + 16);
    let chars: Vec<char> = shown.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| chars.get(before));
        let after = chars.get(at + 1);
        let is_in_word = [before, after].iter().all(|side| side.is_some_and(|c| c.is_alphanumeric()));
        let escaped = match c {
            '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '|' | '~' | '&' | '$' | '@' => true,
            '_' => !is_in_word,
            // What makes an address of a text, also without angle brackets.
            ':' => after == Some(&'/'),
            '.' => {
                is_after_www(&chars[..at]) || (is_numbering(&chars[..at]) && after.is_none_or(|c| *c == ' '))
            }
            ')' => is_numbering(&chars[..at]),
            '#' | '+' | '-' | '=' => at == 0,
            '!' => after == Some(&'['),
            _ => false,
        };
        if escaped {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn is_after_www(before: &[char]) -> bool {
    before.len() >= 3 && before[before.len() - 3..].iter().all(|c| c.eq_ignore_ascii_case(&'w'))
}

/// Whether a text so far would begin a numbered list.
fn is_numbering(before: &[char]) -> bool {
    !before.is_empty() && before.iter().all(char::is_ascii_digit)
}

/// For Markdown, as code: what it says is what it is. `in_cell`: a bar would end the cell even there.
pub(super) fn code(text: &str, in_cell: bool) -> String {
    let mut shown = visible(text, MOST);
    if in_cell {
        shown = shown.replace('|', "\\|");
    }
    let longest = shown.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let room = if shown.is_empty() || shown.starts_with('`') || shown.ends_with('`') { " " } else { "" };
    format!("{fence}{room}{shown}{room}{fence}")
}

/// One word of a command line for the shell that a person pastes it into.
pub(super) fn shell(word: &str) -> String {
    let shown = visible(word, MOST);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=,@%".contains(c);
    if !shown.is_empty() && shown.chars().all(is_plain) && !shown.starts_with('-') {
        return shown;
    }
    format!("'{}'", shown.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_html(text: &str) -> String {
        let mut out = String::new();
        html(text, MOST, &mut out);
        out
    }

    #[test]
    fn no_text_opens_a_tag_or_leaves_an_attribute() {
        assert_eq!(
            as_html("<script>alert('x')</script>\" onload=\"y & z"),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;y &amp; z"
        );
    }

    #[test]
    fn what_is_hidden_or_turns_a_line_around_is_shown() {
        assert_eq!(visible("a\u{202e}gpj.exe\u{1b}[2J", 99), "a⟨U+202E⟩gpj.exe⟨U+001B⟩[2J");
        assert_eq!(
            visible("\u{2066}x\u{2069}\u{200d}\u{feff}\u{ad}", 99),
            "⟨U+2066⟩x⟨U+2069⟩⟨U+200D⟩⟨U+FEFF⟩⟨U+00AD⟩"
        );
        assert_eq!(visible(" two\r\n\tlines\u{2028}here ", 99), "two lines here");
        assert_eq!(visible("größe", 99), "größe");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(visible(&"x".repeat(50), 10), format!("{}… (40 more characters)", "x".repeat(10)));
        assert!(visible(&"\u{202e}".repeat(1_000_000), 100).len() < 2_000);
    }

    #[test]
    fn nothing_of_a_text_is_a_mark_in_markdown() {
        for (text, written) in [
            ("a | b", r"a \| b"),
            ("`rm`", r"\`rm\`"),
            ("[x](http://evil)", r"\[x\](http\://evil)"),
            ("![x](y)", r"\!\[x\](y)"),
            ("<b>", r"\<b\>"),
            ("# head", r"\# head"),
            ("- item", r"\- item"),
            ("1. item", r"1\. item"),
            ("1) item", r"1\) item"),
            ("boot_test of _x_", r"boot_test of \_x\_"),
            ("www.example.com and me@example.com", r"www\.example.com and me\@example.com"),
            ("&lt; \\ *x* ~y~", r"\&lt; \\ \*x\* \~y\~"),
            ("one\ntwo", "one two"),
            ("version 12.5 of x", "version 12.5 of x"),
        ] {
            assert_eq!(markdown(text), written);
        }
    }

    #[test]
    fn code_holds_whatever_is_in_it() {
        assert_eq!(code("/dev/sda1", true), "`/dev/sda1`");
        assert_eq!(code("a`b``c", false), "```a`b``c```");
        assert_eq!(code("`x", false), "`` `x ``");
        assert_eq!(code("a|b\nc", true), r"`a\|b c`");
        assert_eq!(code("a|b", false), "`a|b`");
        assert_eq!(code("", false), "`  `");
    }

    #[test]
    fn a_command_that_is_pasted_does_nothing_else() {
        assert_eq!(shell("/srv/out/web.qcow2"), "/srv/out/web.qcow2");
        assert_eq!(shell("it's; rm -rf /\n$(x)"), r"'it'\''s; rm -rf / $(x)'");
        assert_eq!(shell("-x"), "'-x'");
        assert_eq!(shell(""), "''");
    }
}
