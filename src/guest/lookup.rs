//! Where a guest's paths lead, and what is there: links followed inside the guest only, and nothing asked twice.
//!
//! Under emulation a question costs thousandths of a second and the library's own `realpath` ten times that, while every repair asks for
//! the same few directories. So paths are walked here, part by part, and what each part is is kept until somebody says that it changed.
//! What is not here: contents, and who may change what (see [`super::tree`]).

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::appliance::{Appliance, Stat};

/// As many links as a kernel follows in one path.
const MOST_LINKS: usize = 40;

/// What was found out so far. Its keys are physical paths: none of their directories is a link.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    stats: RefCell<BTreeMap<String, Option<Stat>>>,
    targets: RefCell<BTreeMap<String, String>>,
    listings: RefCell<BTreeMap<String, Vec<String>>>,
}

/// Why a question could not be answered, in the library's words.
type Answer<T> = Result<T, String>;

impl Lookup {
    /// The path with all links followed, and what is there; `None` where nothing is or a link leads nowhere.
    pub(super) fn real(&self, appliance: &Appliance, path: &str) -> Answer<Option<(String, Stat)>> {
        self.walk(appliance, path, true)
    }

    /// What is at a path itself, and the physical path of that; a link at its end is not followed.
    pub(super) fn entry(&self, appliance: &Appliance, path: &str) -> Answer<Option<(String, Stat)>> {
        self.walk(appliance, path, false)
    }

    /// Where the link at a physical path points.
    pub(super) fn target(&self, appliance: &Appliance, physical: &str) -> Answer<String> {
        if let Some(known) = self.targets.borrow().get(physical) {
            return Ok(known.clone());
        }
        let target = appliance.link_target(physical)?;
        self.targets.borrow_mut().insert(physical.to_owned(), target.clone());
        Ok(target)
    }

    /// Names in the directory at a physical path, sorted.
    pub(super) fn list(&self, appliance: &Appliance, physical: &str) -> Answer<Vec<String>> {
        if let Some(known) = self.listings.borrow().get(physical) {
            return Ok(known.clone());
        }
        let names = appliance.list(physical)?;
        self.listings.borrow_mut().insert(physical.to_owned(), names.clone());
        Ok(names)
    }

    /// Forgets what a change at a physical path may have made untrue: what is there and below, all that was not there, and which names
    /// are in the directories above, any of which may have been made for it.
    pub(super) fn changed(&self, physical: &str) {
        let is_untouched = |path: &String| !is_at_or_below(path, physical);
        self.listings.borrow_mut().retain(|path, _| is_untouched(path) && !is_at_or_below(physical, path));
        self.stats.borrow_mut().retain(|path, stat| stat.is_some() && is_untouched(path));
        self.targets.borrow_mut().retain(|path, _| is_untouched(path));
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        self.stats.take();
        self.targets.take();
        self.listings.take();
    }

    fn walk(&self, appliance: &Appliance, path: &str, follow: bool) -> Answer<Option<(String, Stat)>> {
        let mut left: Vec<String> = parts(path);
        let mut at = String::new();
        let mut stat = None;
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.truncate(at.rfind('/').unwrap_or(0));
                stat = None;
                continue;
            }
            let next = format!("{at}/{part}");
            let Some(found) = self.stat(appliance, &next)? else { return Ok(None) };
            if found.is_link() && (follow || !left.is_empty()) {
                links += 1;
                if links > MOST_LINKS {
                    return Ok(None);
                }
                let target = self.target(appliance, &next)?;
                if target.starts_with('/') {
                    at.clear();
                }
                left.extend(parts(&target));
                stat = None;
                continue;
            }
            at = next;
            stat = Some(found);
        }
        let at = if at.is_empty() { "/".to_owned() } else { at };
        match stat {
            Some(stat) => Ok(Some((at, stat))),
            // The root, or where a path or a link ended with `..`.
            None => Ok(self.stat(appliance, &at)?.map(|stat| (at, stat))),
        }
    }

    fn stat(&self, appliance: &Appliance, physical: &str) -> Answer<Option<Stat>> {
        if let Some(known) = self.stats.borrow().get(physical) {
            return Ok(*known);
        }
        let stat = appliance.look(physical)?;
        self.stats.borrow_mut().insert(physical.to_owned(), stat);
        Ok(stat)
    }
}

/// Whether a path is that of a directory or entry, or lies in it.
pub(super) fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The parts of a path, the last first: a stack of what is still to be walked.
fn parts(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_a_path_is_told_from_what_begins_alike() {
        assert!(is_at_or_below("/etc/fstab", "/etc/fstab"));
        assert!(is_at_or_below("/etc/fstab", "/etc"));
        assert!(is_at_or_below("/etc/fstab", "/"));
        assert!(!is_at_or_below("/etc/fstab.old", "/etc/fstab"));
        assert!(!is_at_or_below("/etc", "/etc/fstab"));
    }

    #[test]
    fn the_parts_of_a_path_have_no_empty_ones() {
        assert_eq!(parts("//etc/./default//grub/"), ["grub", "default", "etc"]);
        assert_eq!(parts("/"), Vec::<String>::new());
    }

    #[test]
    fn a_change_makes_what_was_absent_uncertain_and_leaves_the_rest() {
        let file = Stat { inode: 1, device: 1, mode: 0o100_644, uid: 0, gid: 0, size: 1, modified: (0, 0) };
        let lookup = Lookup::default();
        lookup.stats.borrow_mut().extend([
            ("/etc/fstab".to_owned(), Some(file)),
            ("/etc/default".to_owned(), Some(file)),
            ("/etc/default/grub".to_owned(), Some(file)),
            ("/etc/absent".to_owned(), None),
        ]);
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        lookup.listings.borrow_mut().extend([
            ("/".to_owned(), names(&["etc", "usr"])),
            ("/etc".to_owned(), names(&["default", "fstab"])),
            ("/etc/default".to_owned(), names(&["grub"])),
            ("/usr".to_owned(), names(&["lib"])),
        ]);
        lookup.changed("/etc/default");
        assert_eq!(lookup.stats.borrow().keys().collect::<Vec<_>>(), ["/etc/fstab"]);
        assert_eq!(lookup.listings.borrow().keys().collect::<Vec<_>>(), ["/usr"]);
    }
}
