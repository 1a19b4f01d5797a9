//! Names with wildcards, as people write them: `*` is any run of characters, `?` any one. No classes, no braces, no paths.

/// Whether a text fits a pattern, whole; upper and lower case count.
#[must_use]
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and up to where of the text it has taken: only that one is ever gone back to.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether a text has wildcards at all.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_and_a_question_mark_any_one_character() {
        for (pattern, text, wanted) in [
            ("web", "web", true),
            ("web", "web1", false),
            ("web-*", "web-1", true),
            ("web-*", "web", false),
            ("*", "", true),
            ("*-db-*", "a-db-b-db-c", true),
            ("*b", "abab", true),
            ("w?b", "wäb", true),
            ("w?b", "wb", false),
            ("", "", true),
            ("", "x", false),
            ("Web*", "web", false),
        ] {
            assert_eq!(fits(pattern, text), wanted, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let (pattern, text) = ("*a".repeat(2000) + "b", "a".repeat(20_000));
        assert!(!fits(&pattern, &text));
    }
}
