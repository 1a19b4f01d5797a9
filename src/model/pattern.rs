//! Patterns with `*` (any characters, none too) and `?` (one character), and which of several that fit holds.
//!
//! Of patterns that fit a name the one with the most other characters holds; of equals the one with fewer `*`; then the one that sorts first.
//! So what holds is told by the patterns alone, in whatever order they are written.

use std::cmp::Reverse;

/// Whether it is one, and not a plain name.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether a name fits.
#[must_use]
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut there) = (0, 0);
    // Behind the last `*`: where to go on in the pattern, and in the name with one character more for it.
    let mut again: Option<(usize, usize)> = None;
    while there < name.len() {
        match pattern.get(at) {
            Some('*') => {
                again = Some((at + 1, there));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[there] => (at, there) = (at + 1, there + 1),
            _ => {
                let Some((behind, from)) = again else { return false };
                again = Some((behind, from + 1));
                (at, there) = (behind, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// The patterns that fit a name, the one that holds first.
pub fn fitting<'a>(patterns: impl Iterator<Item = &'a str>, name: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> =
        patterns.filter(|pattern| is_pattern(pattern) && fits(pattern, name)).collect();
    found.sort_by_key(|pattern| {
        let stars = pattern.chars().filter(|c| *c == '*').count();
        let plain = pattern.chars().filter(|c| !matches!(c, '*' | '?')).count();
        (Reverse(plain), stars, *pattern)
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_character() {
        for (pattern, name, does) in [
            ("*", "", true),
            ("*", "VM Network", true),
            ("VM*", "VM Network", true),
            ("*work", "VM Network", true),
            ("VM ?etwork", "VM Network", true),
            ("?", "", false),
            ("data?", "data", false),
            ("data?", "dätä1", false),
            ("d?t?1", "dätä1", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("VM*", "vm network", false),
            ("[ab]", "a", false),
        ] {
            assert_eq!(fits(pattern, name), does, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_made_to_take_long_takes_no_time() {
        let pattern = "a*".repeat(120) + "b";
        assert!(!fits(&pattern, &"a".repeat(4000)));
    }

    #[test]
    fn of_those_that_fit_the_one_that_says_most_holds() {
        let patterns = ["*", "V*k", "VM*", "VM *", "V?*", "other*"];
        let found = fitting(patterns.into_iter(), "VM Network");
        assert_eq!(found, ["VM *", "V*k", "VM*", "V?*", "*"]);
        assert_eq!(fitting(["VM Network"].into_iter(), "VM Network"), [""; 0], "a plain name is none");
    }
}
