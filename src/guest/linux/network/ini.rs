//! Files of sections and keys, as systemd-networkd and NetworkManager keep them, changed line by line: comments and order stay.
//!
//! What is not here: what any key means.

use crate::guest::linux::text::split_end;

/// What becomes of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Keep,
    Drop,
    /// Another value of the same key.
    Value(String),
    /// Another key and value.
    Entry(String),
}

/// A line's meaning.
enum Meaning<'a> {
    Section(&'a str),
    Entry(&'a str, &'a str),
    Other,
}

fn meaning(line: &str) -> Meaning<'_> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return Meaning::Other;
    }
    if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Meaning::Section(name);
    }
    match line.split_once('=') {
        Some((key, value)) => Meaning::Entry(key.trim(), value.trim()),
        None => Meaning::Other,
    }
}

/// All values of a key in the sections of these names.
pub(super) fn values<'a>(text: &'a str, sections: &[&str], wanted: &str) -> Vec<&'a str> {
    let mut within = false;
    let mut found = Vec::new();
    for line in text.lines() {
        match meaning(line) {
            Meaning::Section(name) => within = sections.contains(&name),
            Meaning::Entry(key, value) if within && key == wanted => found.push(value),
            Meaning::Entry(..) | Meaning::Other => {}
        }
    }
    found
}

/// Asks for every entry what becomes of it.
pub(super) fn edit(text: &str, mut decide: impl FnMut(&str, &str, &str) -> Line) -> String {
    let mut section = String::new();
    let mut new = String::with_capacity(text.len() + 128);
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        let decision = match meaning(body) {
            Meaning::Section(name) => {
                name.clone_into(&mut section);
                Line::Keep
            }
            Meaning::Entry(key, value) => decide(&section, key, value),
            Meaning::Other => Line::Keep,
        };
        match decision {
            Line::Keep => new.push_str(line),
            Line::Drop => {}
            Line::Value(value) => {
                let key = body.split('=').next().unwrap_or(body);
                new.push_str(&format!("{key}={value}{end}"));
            }
            Line::Entry(entry) => new.push_str(&format!("{entry}{end}")),
        }
    }
    new
}

/// Puts entries at the end of the first section of this name, before empty lines there; it is made at the end of the file if it is not
/// there.
pub(super) fn add(text: &str, section: &str, entries: &[String]) -> String {
    if entries.is_empty() {
        return text.to_owned();
    }
    let added: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let begins = |line: &&str| matches!(meaning(line), Meaning::Section(_));
    let ours = |line: &&str| matches!(meaning(line), Meaning::Section(name) if name == section);
    let full = |text: String| if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" };
    let Some(start) = lines.iter().position(ours) else {
        let text = full(text.to_owned());
        let gap = if text.is_empty() { "" } else { "\n" };
        return format!("{text}{gap}[{section}]\n{added}");
    };
    let next = lines[start + 1..].iter().position(begins).map_or(lines.len(), |at| start + 1 + at);
    let last = lines[..next].iter().rposition(|line| !line.trim().is_empty()).map_or(next, |at| at + 1);
    format!("{}{added}{}", full(lines[..last].concat()), lines[last..].concat())
}

/// Puts entries in the place of those that are old, where the first of them was; at the end of the section if there is none.
pub(super) fn replace(
    text: &str,
    section: &str,
    entries: &[String],
    is_old: impl Fn(&str, &str) -> bool,
) -> String {
    let mut placed = entries.is_empty();
    let new = edit(text, |of, key, value| {
        if of != section || !is_old(key, value) {
            return Line::Keep;
        }
        if std::mem::replace(&mut placed, true) { Line::Drop } else { Line::Entry(entries.join("\n")) }
    });
    if placed { new } else { add(&new, section, entries) }
}

/// The text in pieces: each section with its head and its name; what stands before the first has none.
pub(super) fn sections(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let (mut name, mut start, mut at) = ("", 0, 0);
    for line in text.split_inclusive('\n') {
        if let Meaning::Section(next) = meaning(line) {
            found.push((name, &text[start..at]));
            (name, start) = (next, at);
        }
        at += line.len();
    }
    found.push((name, &text[start..]));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a\n[Match]\nName = ens192\n\n[Network]\nDHCP=no\n; b\n\n[Match]\nName=x";

    #[test]
    fn values_are_those_of_the_section() {
        assert_eq!(values(TEXT, &["Match"], "Name"), ["ens192", "x"]);
        assert_eq!(values(TEXT, &["Network"], "Name"), [""; 0]);
    }

    #[test]
    fn an_edit_changes_its_lines_and_no_other() {
        let new = edit(TEXT, |section, key, value| match (section, key, value) {
            ("Match", "Name", "x") => Line::Drop,
            ("Match", ..) => Line::Value("lan0".to_owned()),
            _ => Line::Keep,
        });
        assert_eq!(new, "# a\n[Match]\nName =lan0\n\n[Network]\nDHCP=no\n; b\n\n[Match]\n");
        assert_eq!(edit(TEXT, |_, _, _| Line::Keep), TEXT);
    }

    #[test]
    fn new_entries_stand_where_the_first_old_one_stood() {
        let text = "[A]\nx=1\ny=2\nx=3\n[B]\nx=4\n";
        let entries = ["x=5".to_owned(), "x=6".to_owned()];
        let new = replace(text, "A", &entries, |key, _| key == "x");
        assert_eq!(new, "[A]\nx=5\nx=6\ny=2\n[B]\nx=4\n");
        assert_eq!(replace(&new, "A", &entries, |key, _| key == "x"), new);
        assert_eq!(replace(text, "A", &[], |key, _| key == "x"), "[A]\ny=2\n[B]\nx=4\n");
        assert_eq!(replace("[A]\ny=2\n", "A", &entries, |key, _| key == "x"), "[A]\ny=2\nx=5\nx=6\n");
    }

    #[test]
    fn all_sections_together_are_the_text() {
        let names: Vec<&str> = sections(TEXT).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["", "Match", "Network", "Match"]);
        assert_eq!(sections(TEXT).into_iter().map(|(_, body)| body).collect::<String>(), TEXT);
    }

    #[test]
    fn what_is_added_comes_to_the_end_of_its_section() {
        let new = add(TEXT, "Network", &["Gateway=192.0.2.1".to_owned()]);
        assert_eq!(new, TEXT.replace("; b\n", "; b\nGateway=192.0.2.1\n"));
        assert_eq!(add("[A]\nx=1\n", "B", &["y=2".to_owned()]), "[A]\nx=1\n\n[B]\ny=2\n");
        assert_eq!(add("[A]\nx=1", "A", &["y=2".to_owned()]), "[A]\nx=1\ny=2\n");
        assert_eq!(add("[A]\n\n[B]\n", "A", &["y=2".to_owned()]), "[A]\ny=2\n\n[B]\n");
    }
}
