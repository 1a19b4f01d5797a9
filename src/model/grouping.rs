//! How the disks of a directory are told apart: a pattern over the names of their files, which says whose disk each is.
//!
//! `^(?<vm>.+)-disk(?<disk>\d+)$` makes `web-disk1` the disk `1` of the machine `web`. The pattern is a person's, so its size is bound. What is
//! not here: which files are disks.

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};

/// As much as a pattern may take once it is worked out.
const MOST_BYTES: usize = 1 << 20;
/// What a pattern has to tell.
const GROUPS: [&str; 2] = ["vm", "disk"];

/// A pattern with the groups `vm` and `disk`.
#[derive(Debug, Clone)]
pub struct Grouping(Regex);

impl Grouping {
    /// The pattern, or in words why it is none.
    pub fn new(text: &str) -> Result<Grouping, String> {
        let made = RegexBuilder::new(text).size_limit(MOST_BYTES).build().map_err(|error| {
            // The last line says why; those before show where, over several lines.
            let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
            format!("`{}` is not a regular expression: {why}", text.escape_debug())
        })?;
        let is_there = |name: &&str| made.capture_names().any(|group| group == Some(*name));
        match GROUPS.iter().find(|name| !is_there(name)) {
            Some(missing) => Err(format!("`{}` has no group `{missing}`", text.escape_debug())),
            None => Ok(Grouping(made)),
        }
    }

    /// The machine and the disk that a file's name (without its suffix) tells; none if the pattern does not fit.
    #[must_use]
    pub fn tell<'n>(&self, name: &'n str) -> Option<(&'n str, &'n str)> {
        let found = self.0.captures(name)?;
        let part = |group: &str| found.name(group).map(|part| part.as_str()).filter(|part| !part.is_empty());
        Some((part("vm")?, part("disk")?))
    }
}

/// The order in which people count: `disk2` before `disk10`.
#[must_use]
pub fn natural_order(one: &str, other: &str) -> Ordering {
    let (mut left, mut right) = (one, other);
    while let (Some(first), Some(second)) = (left.chars().next(), right.chars().next()) {
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (number, behind_left) = number(left);
            let (other_number, behind_right) = self::number(right);
            (left, right) = (behind_left, behind_right);
            number.len().cmp(&other_number.len()).then_with(|| number.cmp(other_number))
        } else {
            (left, right) = (&left[first.len_utf8()..], &right[second.len_utf8()..]);
            first.to_lowercase().cmp(second.to_lowercase())
        };
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| one.cmp(other))
}

/// The digits at the beginning, without zeros before them, and what follows.
fn number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_machine_and_its_disk() {
        let grouping = Grouping::new(r"^(?<vm>.+?)(-disk(?P<disk>\d+))?$").unwrap();
        assert_eq!(grouping.tell("web-1-disk2"), Some(("web-1", "2")));
        assert_eq!(grouping.tell("web"), None, "it has no disk");
        assert_eq!(grouping.tell(""), None);
    }

    #[test]
    fn a_pattern_that_cannot_tell_is_none() {
        for (text, word) in [
            ("(", "regular expression"),
            ("(?<vm>a)", "no group `disk`"),
            ("(?<disk>a)(b)", "no group `vm`"),
            (r"(?<vm>\w{1000}{1000})(?<disk>x)", "regular expression"),
        ] {
            assert!(Grouping::new(text).unwrap_err().contains(word), "{text}");
        }
    }

    #[test]
    fn names_are_ordered_as_people_count() {
        let mut names =
            ["disk10", "disk2", "Disk1", "disk02", "data", "disk", "diská", "disk99999999999999999999999"];
        names.sort_by(|one, other| natural_order(one, other));
        assert_eq!(
            names,
            ["data", "disk", "Disk1", "disk02", "disk2", "disk10", "disk99999999999999999999999", "diská"]
        );
    }
}
