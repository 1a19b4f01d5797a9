//! Which label a policy gives a path: `file_contexts` with its rule that the last match wins, and its substitutions.
//!
//! Pure. What is not here: where these files are.

use super::pattern::Pattern;

/// What kind of file a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Plain,
    Directory,
    Link,
    Other,
}

/// A policy's opinion of paths.
#[derive(Debug, Clone, Default)]
pub(super) struct Contexts {
    /// Expressions, as they stand in the files.
    rules: Vec<(String, Option<FileKind>, String)>,
    /// Trees that are labelled as if they were others.
    aliases: Vec<(String, String)>,
}

impl Contexts {
    /// From `file_contexts` with `.homedirs` and `.local` behind it, and the substitutions.
    pub(super) fn parse(contexts: &str, substitutions: &str) -> Contexts {
        let rules = contexts.lines().filter_map(rule).collect();
        let aliases = substitutions
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.to_owned(), words.next()?.to_owned()))
            })
            .collect();
        Contexts { rules, aliases }
    }

    /// The label; `None` where the policy gives none.
    pub(super) fn label(&self, path: &str, kind: FileKind) -> Option<&str> {
        let path = self.aliased(path);
        let fits = |of: Option<FileKind>| of.is_none_or(|of| of == kind);
        // What has nothing but letters wins over every expression.
        let exact =
            self.rules.iter().rev().find(|(pattern, of, _)| {
                fits(*of) && literal(pattern).is_some_and(|literal| literal == path)
            });
        let found = exact.or_else(|| {
            self.rules.iter().rev().find(|(pattern, of, _)| {
                fits(*of)
                    && begins_alike(pattern, &path)
                    && Pattern::parse(pattern).and_then(|pattern| pattern.matches(&path)) == Some(true)
            })
        });
        found.map(|(_, _, label)| label.as_str()).filter(|label| *label != "<<none>>")
    }

    fn aliased(&self, path: &str) -> String {
        for (from, to) in &self.aliases {
            match path.strip_prefix(from.as_str()) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => return format!("{to}{rest}"),
                _ => {}
            }
        }
        path.to_owned()
    }
}

fn rule(line: &str) -> Option<(String, Option<FileKind>, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (pattern, kind, label) = match words.as_slice() {
        [pattern, ..] if pattern.starts_with('#') => return None,
        [pattern, label] => (pattern, None, label),
        [pattern, kind, label] => {
            let kind = match *kind {
                "--" => FileKind::Plain,
                "-d" => FileKind::Directory,
                "-l" => FileKind::Link,
                _ => FileKind::Other,
            };
            (pattern, Some(kind), label)
        }
        _ => return None,
    };
    Some(((*pattern).to_owned(), kind, (*label).to_owned()))
}

/// The path that an expression without anything special stands for.
fn literal(pattern: &str) -> Option<String> {
    let mut path = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => path.push(chars.next().filter(|c| !c.is_ascii_alphanumeric())?),
            '.' | '^' | '$' | '?' | '*' | '+' | '|' | '[' | '(' | '{' => return None,
            c => path.push(c),
        }
    }
    Some(path)
}

/// Whether the first directory could be the same: most of thousands of expressions are ruled out by that.
fn begins_alike(pattern: &str, path: &str) -> bool {
    let special = |c: char| "\\.^$?*+|[({".contains(c);
    // The letter before `?` or `*` may be missing.
    let end = pattern.find(special).map_or(pattern.len(), |at| at.saturating_sub(1));
    pattern.contains('|') || pattern.get(..end).is_some_and(|stem| path.starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Fedora's targeted policy.
    const CONTEXTS: &str = "\
/.*\tsystem_u:object_r:default_t:s0
/etc(/.*)?\tsystem_u:object_r:etc_t:s0
/etc/udev/.*\\.rules\t--\tsystem_u:object_r:udev_rules_t:s0
/etc/udev/rules.d(/.*)?\tsystem_u:object_r:udev_rules_t:s0
/usr/lib/systemd/system(/.*)?\tsystem_u:object_r:systemd_unit_file_t:s0
/var/lib(/.*)?\tsystem_u:object_r:var_lib_t:s0
/proc\t-d\t<<none>>
/etc/fstab\\.d\tsystem_u:object_r:etc_t:s0
/etc/fstab\t--\tsystem_u:object_r:fstab_t:s0
# a comment
";
    const SUBSTITUTIONS: &str = "/etc/systemd/system /usr/lib/systemd/system\n# x y\n/lib /usr/lib\n";

    fn label(path: &str, kind: FileKind) -> Option<String> {
        Contexts::parse(CONTEXTS, SUBSTITUTIONS).label(path, kind).map(str::to_owned)
    }

    #[test]
    fn the_last_match_wins_and_the_kind_of_file_counts() {
        let of = |name: &str| Some(format!("system_u:object_r:{name}:s0"));
        assert_eq!(label("/etc/systemd/network/10-x.link", FileKind::Plain), of("etc_t"));
        assert_eq!(label("/etc/udev/rules.d/70-x.rules", FileKind::Plain), of("udev_rules_t"));
        assert_eq!(label("/etc/systemd/system/x.service", FileKind::Link), of("systemd_unit_file_t"));
        assert_eq!(label("/var/lib/hyper2kvm", FileKind::Directory), of("var_lib_t"));
        assert_eq!(label("/etc/fstab", FileKind::Plain), of("fstab_t"));
        assert_eq!(label("/etc/fstab", FileKind::Directory), of("etc_t"));
        assert_eq!(label("/srv/x", FileKind::Plain), of("default_t"));
        assert_eq!(label("/proc", FileKind::Directory), None);
    }

    #[test]
    fn a_policy_that_says_nothing_gives_no_label() {
        assert_eq!(Contexts::parse("", "").label("/etc", FileKind::Directory), None);
        assert_eq!(
            Contexts::parse("nonsense\n( x\n[ -- y\n", "a\n").label("/etc", FileKind::Directory),
            None
        );
    }
}
