//! The regular expressions of SELinux's `file_contexts`: enough of them to say what the label of a path is.
//!
//! A guest wrote them, so both reading and matching are bounded: what is too long, too deep or too slow is told as not understood. What
//! is not here: which expression wins.

use std::cell::Cell;

const LONGEST: usize = 1024;
const DEEPEST: usize = 16;
/// Steps of one match; an honest one takes some hundreds.
const MOST_STEPS: u32 = 200_000;

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Vec<Item>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    node: Node,
    least: usize,
    most: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Is(char),
    Any,
    Of { ranges: Vec<(char, char)>, not: bool },
    Group(Vec<Vec<Item>>),
}

impl Pattern {
    /// Reads one; `None` for what is not understood.
    pub(super) fn parse(text: &str) -> Option<Pattern> {
        if text.len() > LONGEST {
            return None;
        }
        let mut parser = Parser { chars: text.chars().collect(), at: 0 };
        let alternatives = parser.alternatives(0)?;
        (parser.at == parser.chars.len()).then_some(Pattern(alternatives))
    }

    /// Whether it matches a whole path; `None` if that takes too long to find out.
    pub(super) fn matches(&self, path: &str) -> Option<bool> {
        let path: Vec<char> = path.chars().collect();
        if path.len() > LONGEST {
            return None;
        }
        let steps = Cell::new(MOST_STEPS);
        let search = Search { path: &path, steps: &steps };
        let found = search.any(&self.0, 0, &mut |at| at == path.len());
        (steps.get() > 0).then_some(found)
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn eats(&mut self, wanted: char) -> bool {
        let is = self.peek() == Some(wanted);
        self.at += usize::from(is);
        is
    }

    fn alternatives(&mut self, depth: usize) -> Option<Vec<Vec<Item>>> {
        if depth > DEEPEST {
            return None;
        }
        let mut all = vec![Vec::new()];
        while let Some(c) = self.peek() {
            match c {
                ')' => break,
                '|' => {
                    self.at += 1;
                    all.push(Vec::new());
                }
                _ => {
                    let item = self.item(depth)?;
                    all.last_mut()?.push(item);
                }
            }
        }
        Some(all)
    }

    fn item(&mut self, depth: usize) -> Option<Item> {
        let node = match self.next()? {
            '.' => Node::Any,
            '\\' => self.escaped()?,
            '[' => self.set()?,
            '(' => {
                if self.eats('?') && !self.eats(':') {
                    return None;
                }
                let group = self.alternatives(depth + 1)?;
                if !self.eats(')') {
                    return None;
                }
                Node::Group(group)
            }
            // The whole path is matched anyway; elsewhere than at the ends these mean what nobody writes.
            '^' if self.at == 1 => Node::Group(vec![Vec::new()]),
            '$' if self.at == self.chars.len() => Node::Group(vec![Vec::new()]),
            '*' | '+' | '?' | '{' | '^' | '$' => return None,
            c => Node::Is(c),
        };
        let (least, most) = match self.peek() {
            Some('*') => (0, usize::MAX),
            Some('+') => (1, usize::MAX),
            Some('?') => (0, 1),
            Some('{') => return None,
            _ => return Some(Item { node, least: 1, most: 1 }),
        };
        self.at += 1;
        // Lazy and possessive forms match the same whole paths, or so nearly that nobody uses them here.
        let _ = self.eats('?');
        Some(Item { node, least, most })
    }

    fn escaped(&mut self) -> Option<Node> {
        let of = |ranges: &[(char, char)], not| Node::Of { ranges: ranges.to_vec(), not };
        Some(match self.next()? {
            'd' => of(&[('0', '9')], false),
            'D' => of(&[('0', '9')], true),
            'w' => of(&[('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')], false),
            's' => of(&[(' ', ' '), ('\t', '\t')], false),
            'S' => of(&[(' ', ' '), ('\t', '\t')], true),
            c if c.is_ascii_alphanumeric() => return None,
            c => Node::Is(c),
        })
    }

    fn set(&mut self) -> Option<Node> {
        let not = self.eats('^');
        let mut ranges = Vec::new();
        loop {
            let first = match self.next()? {
                ']' if !ranges.is_empty() => return Some(Node::Of { ranges, not }),
                '[' if self.peek() == Some(':') => return None,
                '\\' => self.next()?,
                c => c,
            };
            let ranged = self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
            if ranged {
                self.at += 1;
                let last = self.next()?;
                ranges.push((first, last));
            } else {
                ranges.push((first, first));
            }
        }
    }
}

struct Search<'a> {
    path: &'a [char],
    steps: &'a Cell<u32>,
}

impl Search<'_> {
    fn any(&self, alternatives: &[Vec<Item>], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
        alternatives.iter().any(|items| self.all(items, at, then))
    }

    fn all(&self, items: &[Item], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
        match items.split_first() {
            None => then(at),
            Some((item, rest)) => self.repeat(item, 0, at, &mut |at| self.all(rest, at, then)),
        }
    }

    /// As often as can be first, then less often.
    fn repeat(&self, item: &Item, done: usize, at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
        let left = self.steps.get();
        if left == 0 {
            return false;
        }
        self.steps.set(left - 1);
        if done < item.most {
            let again = match &item.node {
                Node::Group(alternatives) => self.any(alternatives, at, &mut |next| {
                    // What matches nothing may be repeated for ever.
                    if next == at {
                        done < item.least && then(at)
                    } else {
                        self.repeat(item, done + 1, next, then)
                    }
                }),
                one => {
                    self.path.get(at).is_some_and(|c| one.takes(*c))
                        && self.repeat(item, done + 1, at + 1, then)
                }
            };
            if again {
                return true;
            }
        }
        done >= item.least && then(at)
    }
}

impl Node {
    fn takes(&self, c: char) -> bool {
        match self {
            Node::Is(is) => *is == c,
            Node::Any => true,
            Node::Of { ranges, not } => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *not,
            Node::Group(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> Option<bool> {
        Pattern::parse(pattern)?.matches(path)
    }

    #[test]
    fn what_policies_write_is_matched() {
        let rows = [
            ("/etc(/.*)?", "/etc/systemd/network/10-x.link", true),
            ("/etc(/.*)?", "/etcetera", false),
            ("/etc/\\.pwd\\.lock", "/etc/.pwd.lock", true),
            ("/etc/\\.pwd\\.lock", "/etc/xpwd.lock", false),
            ("/usr/lib(64)?/[^/]*\\.so(\\.[^/]*)*", "/usr/lib64/libc.so.6.1", true),
            ("/usr/lib(64)?/[^/]*\\.so(\\.[^/]*)*", "/usr/lib64/x/libc.so", false),
            ("/(root|home/[^/]+)/\\.ssh(/.*)?", "/home/a/.ssh/id", true),
            ("/dev/[shmx]d[^/]*", "/dev/sda1", true),
            ("/lib/udev/rules.d(/.*)?", "/lib/udev/rules.d/70-x.rules", true),
            ("/var/run/[0-9]+", "/var/run/42", true),
            ("/a+b?c*", "/aacc", true),
            ("(/x)?/y$", "/x/y", true),
            ("(a*)*b", "aaab", true),
        ];
        for (pattern, path, told) in rows {
            assert_eq!(matches(pattern, path), Some(told), "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        for pattern in ["(", "[", "a{2}", "(?=a)", "\\x41", "*", "a)", "[[:alpha:]]"] {
            assert_eq!(Pattern::parse(pattern), None, "{pattern}");
        }
        assert_eq!(Pattern::parse(&"(".repeat(1000)), None);
        assert_eq!(Pattern::parse(&"a".repeat(5000)), None);
    }

    #[test]
    fn an_expression_that_takes_for_ever_is_given_up() {
        let path = format!("/{}", "a".repeat(200));
        assert_eq!(matches("/(a|a)*(a|a)*(a|aa)*b", &path), None);
    }
}
