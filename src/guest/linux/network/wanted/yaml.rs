//! The lines of a YAML file in block style, changed where they stand: a key's value is found by indentation, and replaced.
//!
//! It understands only as much of YAML as such files need; whoever uses it reads the result as YAML and compares (see
//! [`super::netplan`]). A value in flow style is opened into lines first. What is not here: what any key means.

use std::net::Ipv4Addr;
use std::ops::Range;

use serde_json::Value;

use crate::model::address::CardAddress;

/// Beyond this, what is not a file of configuration would take long.
const MOST_LINES: usize = 20_000;
const STEP: usize = 2;

/// A file as lines without their ends.
#[derive(Debug, Clone)]
pub(super) struct Lines(Vec<String>);

impl Lines {
    /// `None` for more lines than any such file has.
    pub(super) fn of(text: &str) -> Option<Lines> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() <= MOST_LINES).then_some(Lines(lines))
    }

    /// All lines, with their ends.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|line| format!("{line}\n")).collect()
    }

    /// All of it.
    pub(super) fn whole(&self) -> Range<usize> {
        0..self.0.len()
    }

    /// Where a key stands directly within these lines.
    pub(super) fn child(&self, within: &Range<usize>, key: &str) -> Option<usize> {
        let indent = self.indent_in(within)?;
        within.clone().find(|at| {
            indent_of(&self.0[*at]) == Some(indent) && key_of(&self.0[*at]).is_some_and(|of| of == key)
        })
    }

    /// The lines of the value of the key at this line.
    pub(super) fn value_of(&self, at: usize) -> Range<usize> {
        let indent = self.0.get(at).and_then(|line| indent_of(line)).unwrap_or(0);
        let mut end = at + 1;
        for (number, line) in self.0.iter().enumerate().skip(at + 1) {
            match indent_of(line) {
                // Empty lines and comments belong to what comes before only if more of it follows.
                None => {}
                // A list may stand as deep as its key.
                Some(of) if of > indent || (of == indent && is_item(line)) => end = number + 1,
                Some(_) => break,
            }
        }
        at + 1..end
    }

    /// Makes a value that stands in flow style behind its key a map in lines; false if that cannot be done.
    pub(super) fn open(&mut self, at: usize) -> bool {
        let Some(line) = self.0.get(at) else { return false };
        let indent = indent_of(line).unwrap_or(0);
        let Some((key, value)) = parts(line) else { return false };
        if value.is_empty() || value.starts_with('#') {
            return true;
        }
        let Ok(Value::Object(map)) = serde_yaml::from_str::<Value>(value) else { return false };
        let head = line[..line.len() - line.trim_start().len() + key.len() + 1].to_owned();
        let inner = " ".repeat(indent + STEP);
        let children = map.iter().map(|(key, value)| format!("{inner}{}: {}", word(key), flow(value)));
        let children: Vec<String> = children.collect();
        self.0.splice(at..=at, std::iter::once(head).chain(children));
        true
    }

    /// Puts a list in the place of a key's value, or the key with it at the end of the map of `parent`.
    pub(super) fn set_list(&mut self, parent: usize, key: &str, items: &[String]) {
        let within = self.value_of(parent);
        let indent =
            self.indent_in(&within).unwrap_or_else(|| indent_of(&self.0[parent]).unwrap_or(0) + STEP);
        let pad = " ".repeat(indent);
        let lines =
            std::iter::once(format!("{pad}{key}:")).chain(items.iter().map(|item| format!("{pad}- {item}")));
        let lines: Vec<String> = lines.collect();
        match self.child(&within, key) {
            Some(at) => self.0.splice(at..self.value_of(at).end, lines),
            None => self.0.splice(within.end..within.end, lines),
        };
    }

    /// Puts an empty map under a key that is not there; gives back where the key is.
    pub(super) fn child_or_new(&mut self, parent: usize, key: &str) -> usize {
        let within = self.value_of(parent);
        if let Some(at) = self.child(&within, key) {
            return at;
        }
        let indent =
            self.indent_in(&within).unwrap_or_else(|| indent_of(&self.0[parent]).unwrap_or(0) + STEP);
        self.0.insert(within.end, format!("{}{key}:", " ".repeat(indent)));
        within.end
    }

    /// Puts one word in the place of a key's value, if the key is there.
    pub(super) fn set_word(&mut self, parent: usize, key: &str, value: &str) {
        if let Some(at) = self.child(&self.value_of(parent), key) {
            let pad = " ".repeat(indent_of(&self.0[at]).unwrap_or(0));
            let comment = comment_of(&self.0[at]);
            self.0.splice(at..self.value_of(at).end, [format!("{pad}{key}: {value}{comment}")]);
        }
    }

    /// Takes a key away with its value.
    pub(super) fn remove(&mut self, parent: usize, key: &str) {
        if let Some(at) = self.child(&self.value_of(parent), key) {
            self.0.drain(at..self.value_of(at).end);
        }
    }

    /// The lines of each item of the list at this key; none where it is in flow style.
    pub(super) fn items(&self, at: usize) -> Vec<Range<usize>> {
        let within = self.value_of(at);
        let Some(indent) = self.indent_in(&within) else { return Vec::new() };
        let begins = |at: &usize| indent_of(&self.0[*at]) == Some(indent) && is_item(&self.0[*at]);
        let starts: Vec<usize> = within.clone().filter(begins).collect();
        let ends = starts.iter().skip(1).copied().chain([within.end]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// Takes lines away.
    pub(super) fn cut(&mut self, lines: Range<usize>) {
        self.0.drain(lines);
    }

    /// Gives a key within an item of a list another value; false if it does not stand on a line of its own.
    pub(super) fn set_in_item(&mut self, item: &Range<usize>, key: &str, value: &str) -> bool {
        for line in &mut self.0[item.clone()] {
            let start = line.len() - line.trim_start_matches([' ', '-']).len();
            if key_of(&line[start..]).is_some_and(|of| of == key) {
                let comment = comment_of(line);
                *line = format!("{}{key}: {value}{comment}", &line[..start]);
                return true;
            }
        }
        false
    }

    /// The indentation of the first line within that says something.
    fn indent_in(&self, within: &Range<usize>) -> Option<usize> {
        self.0.get(within.clone())?.iter().find_map(|line| indent_of(line))
    }
}

/// How deep a line stands; `None` of one that says nothing.
fn indent_of(line: &str) -> Option<usize> {
    let text = line.trim_start_matches(' ');
    let silent =
        text.trim().is_empty() || text.starts_with('#') || text.starts_with("---") || text.starts_with('%');
    (!silent).then(|| line.len() - text.len())
}

fn is_item(line: &str) -> bool {
    let text = line.trim_start();
    text == "-" || text.starts_with("- ")
}

/// The key as it is written, and what stands behind its colon.
fn parts(line: &str) -> Option<(&str, &str)> {
    let text = line.trim_start();
    let from = match text.chars().next()? {
        quote @ ('"' | '\'') => text[1..].find(quote)? + 2,
        _ => 0,
    };
    let colon = text[from..].match_indices(':').map(|(at, _)| from + at).find(|at| {
        let behind = &text[at + 1..];
        behind.is_empty() || behind.starts_with([' ', '\t'])
    })?;
    Some((&text[..colon], text[colon + 1..].trim()))
}

fn key_of(line: &str) -> Option<&str> {
    parts(line).map(|(key, _)| key.trim().trim_matches(['"', '\'']))
}

/// A comment behind a value, with the space before it.
fn comment_of(line: &str) -> &str {
    line.find(" #").map_or("", |at| &line[at..])
}

/// A value in flow style, which is YAML in every version.
pub(super) fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}: {}", word(key), flow(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        Value::String(text) if is_address(text) => text.clone(),
        Value::String(text) => word(text),
        scalar => scalar.to_string(),
    }
}

/// An address of IPv4, which nothing takes for a number; one of IPv6 could be taken for a key.
fn is_address(text: &str) -> bool {
    let bare = text.split_once('/').filter(|_| text.parse::<CardAddress>().is_ok());
    bare.map_or(text, |(ip, _)| ip).parse::<Ipv4Addr>().is_ok()
}

/// A key or a word, quoted where it could be taken for something else.
pub(super) fn word(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# top\na:\n  b:\n    list:\n    - 1\n    # of two\n    - 2\n\n    word: x  # why\n  \"c:d\": {e: [1, f], g: yes}\n";

    fn at(lines: &Lines, path: &[&str]) -> usize {
        let mut within = lines.whole();
        let mut found = 0;
        for key in path {
            found = lines.child(&within, key).unwrap();
            within = lines.value_of(found);
        }
        found
    }

    #[test]
    fn a_list_is_replaced_where_it_stands() {
        let mut lines = Lines::of(TEXT).unwrap();
        let b = at(&lines, &["a", "b"]);
        lines.set_list(b, "list", &["3".to_owned()]);
        assert_eq!(lines.text(), TEXT.replace("- 1\n    # of two\n    - 2", "- 3"));
        lines.set_list(b, "more", &["4".to_owned()]);
        assert!(
            lines.text().contains("    word: x  # why\n    more:\n    - 4\n  \"c:d\""),
            "{}",
            lines.text()
        );
    }

    #[test]
    fn a_word_keeps_the_comment_behind_it_and_a_key_goes_with_its_value() {
        let mut lines = Lines::of(TEXT).unwrap();
        let b = at(&lines, &["a", "b"]);
        lines.set_word(b, "word", "y");
        assert_eq!(lines.text(), TEXT.replace("word: x  # why", "word: y # why"));
        lines.remove(b, "list");
        assert!(lines.text().starts_with("# top\na:\n  b:\n\n    word: y # why\n"), "{}", lines.text());
    }

    #[test]
    fn flow_style_is_opened_into_lines() {
        let mut lines = Lines::of(TEXT).unwrap();
        let c = at(&lines, &["a", "c:d"]);
        assert!(lines.open(c));
        let new = lines.text();
        assert!(new.contains("  \"c:d\":\n    e: [1, f]\n    g: "), "{new}");
        assert!(!Lines::of("a: [1\n").unwrap().open(0), "what is cut short cannot be opened");
    }

    #[test]
    fn items_of_a_list_are_told_apart() {
        let text = "routes:\n- to: a\n  via: b # c\n- via: d\n  to: e\nnext: 1\n";
        let mut lines = Lines::of(text).unwrap();
        let items = lines.items(0);
        assert_eq!(items, [1..3, 3..5]);
        assert!(lines.set_in_item(&items[0], "via", "x") && lines.set_in_item(&items[1], "via", "y"));
        assert_eq!(lines.text(), text.replace("b #", "x #").replace("via: d", "via: y"));
        assert!(!lines.set_in_item(&items[0], "metric", "1"));
    }
}
