//! The little languages that configuration is written in: shell assignments, escapes, versions to be compared.
//!
//! What is not here: what any of them means.

use std::cmp::Ordering;

/// What libblkid escaped for a shell: `\x20`, `\ `.
pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [b'x', high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |c: u8| {
                    char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0)
                };
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = &after[3..];
            }
            (b'\\', [next, ..]) => {
                bytes.push(*next);
                rest = &after[1..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of a shell assignment `KEY=value`, quotes taken off; the last one counts, as in a shell.
pub(super) fn assigned(text: &str, key: &str) -> Option<String> {
    let of_line = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        line.strip_prefix(key)?.strip_prefix('=').map(unquoted)
    };
    text.lines().filter_map(of_line).next_back().filter(|value| !value.is_empty())
}

/// One word of a shell: quotes taken off, what follows it left out.
pub(super) fn unquoted(text: &str) -> String {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.trim_start().chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.extend(chars.next()),
            (c, None) if c.is_whitespace() || c == ';' => break,
            (c, _) => word.push(c),
        }
    }
    word
}

/// Compares versions as package managers do: runs of digits by their number, everything else by letters, `~` before the end.
pub(super) fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (words_a, words_b) = (take(&mut a, false), take(&mut b, false));
        match words(words_a).cmp(words(words_b)) {
            Ordering::Equal => {}
            different => return different,
        }
        let (digits_a, digits_b) = (number(take(&mut a, true)), number(take(&mut b, true)));
        match digits_a.len().cmp(&digits_b.len()).then_with(|| digits_a.cmp(digits_b)) {
            Ordering::Equal if a.is_empty() && b.is_empty() => return Ordering::Equal,
            Ordering::Equal => {}
            different => return different,
        }
    }
}

fn take<'t>(text: &mut &'t str, digits: bool) -> &'t str {
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let (taken, rest) = text.split_at(end);
    *text = rest;
    taken
}

fn number(digits: &str) -> &str {
    digits.trim_start_matches('0')
}

/// Letters come before other signs, the end before letters, and `~` before the end.
fn words(text: &str) -> impl Iterator<Item = i32> {
    let rank = |c: char| match c {
        '~' => -1,
        c if c.is_ascii_alphabetic() => c as i32,
        c => c as i32 + 0x1000,
    };
    text.chars().map(rank).chain(std::iter::once(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_a_shell_are_undone() {
        assert_eq!(unescaped("EFI\\ system"), "EFI system");
        assert_eq!(unescaped("a\\x20b\\\\c"), "a b\\c");
        assert_eq!(unescaped("end\\"), "end\\");
    }

    #[test]
    fn the_last_assignment_counts_with_or_without_quotes() {
        let text =
            "# NAME=\"no\"\nNAME='first'\nexport NAME=\"Rocky Linux\" # said\nID=rocky\nVERSION_ID=9.4 \n";
        assert_eq!(assigned(text, "NAME").as_deref(), Some("Rocky Linux"));
        assert_eq!(assigned(text, "ID").as_deref(), Some("rocky"));
        assert_eq!(assigned(text, "VERSION_ID").as_deref(), Some("9.4"));
        assert_eq!(assigned(text, "VERSION"), None);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let rows = [
            ("6.1.0-9-amd64", "6.1.0-10-amd64", Ordering::Less),
            ("5.14.0-427.el9.x86_64", "5.14.0-70.el9.x86_64", Ordering::Greater),
            ("12", "9", Ordering::Greater),
            ("6.12~rc1", "6.12", Ordering::Less),
            ("5.10.0", "5.10.0", Ordering::Equal),
            ("5.10.007", "5.10.7", Ordering::Equal),
            ("", "1", Ordering::Less),
        ];
        for (a, b, order) in rows {
            assert_eq!(compare_versions(a, b), order, "{a} and {b}");
            assert_eq!(compare_versions(b, a), order.reverse(), "{b} and {a}");
        }
    }
}
