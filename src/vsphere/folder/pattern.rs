//! Patterns of names: `*` is any number of characters, `?` is one.

/// Whether a name is one that a pattern means. It takes no longer than both are long, multiplied.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut from) = (0, 0);
    // Where the last `*` stands, and up to where it reaches.
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&c) if c == '?' || c == name[from] => (at, from) = (at + 1, from + 1),
            _ => match star {
                Some((place, reach)) => {
                    star = Some((place, reach + 1));
                    (at, from) = (place + 1, reach + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        for (pattern, name, is_meant) in [
            ("*", "", true),
            ("*.vmdk", "web.vmdk", true),
            ("*.vmdk", "web.vmdk.lck", false),
            ("w?b*", "web.vmx", true),
            ("w?b", "wb", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("[a]", "a", false),
            ("ü*", "über", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), is_meant, "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }
}
