//! Which files of the drop directory are one drop: pure, over what each of them names.
//!
//! A descriptor with its extents, and a disk with all that it stands on, are one. Called after the file that no other names: the
//! descriptor, or the newest of a chain. That one is dropped; the others are its companions and go where it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;

use super::kind::DropKind;
use crate::disk::{Needs, alike};
use crate::service::queue::DroppedFile;

/// What each file that is no manifest names, by its name.
pub(super) type Neighbours = BTreeMap<String, Needs>;

/// A drop with everything that is known about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lot<'a> {
    /// The path of the file after which it is called.
    pub(super) main: &'a Path,
    /// All its files, that one first.
    pub(super) files: &'a [DroppedFile],
    /// Whether it stands on another disk.
    pub(super) is_chain: bool,
    /// What its file has to hash to, in hex.
    pub(super) checksum: Option<&'a str>,
    /// The profile by which it is converted.
    pub(super) profile: &'a str,
}

/// Where an image of Windows names a file that is there only in other upper and lower case, it is taken to name that.
pub(super) fn settle_cases(neighbours: &mut Neighbours) {
    let names: Vec<String> = neighbours.keys().cloned().collect();
    for needs in neighbours.values_mut().filter(|needs| needs.any_case) {
        if let Some(parent) = &mut needs.parent
            && let [only] = alike(parent, names.iter().map(String::as_str)).as_slice()
        {
            *parent = (*only).to_owned();
        }
    }
}

/// The companions of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Companions {
    /// Those that are there.
    pub(super) there: Vec<String>,
    /// Whether one of them is what another disk stands on.
    pub(super) is_chain: bool,
    /// Those that are not.
    pub(super) missing: Vec<String>,
    /// Names that no file of the drop directory can have, or that would not be taken for disks.
    pub(super) strange: Vec<String>,
    /// Those that belong to other drops as well.
    pub(super) shared: Vec<String>,
}

/// The files after which the drops are called that a file belongs to: itself, if no other names it.
pub(super) fn mains_of(name: &str, neighbours: &Neighbours) -> BTreeSet<String> {
    let mut seen = BTreeSet::from([name.to_owned()]);
    let mut open = vec![name.to_owned()];
    let mut mains = BTreeSet::new();
    while let Some(this) = open.pop() {
        let names_this = |(other, needs): (&String, &Needs)| {
            (*other != this && named(needs).any(|named| plain(named) == Some(&this))).then(|| other.clone())
        };
        let above: Vec<String> = neighbours.iter().filter_map(names_this).collect();
        if above.is_empty() {
            mains.insert(this);
        }
        open.extend(above.into_iter().filter(|above| seen.insert(above.clone())));
    }
    if mains.is_empty() {
        // They stand on each other in a circle: one of them has to be looked at, to be refused.
        mains.extend(seen.into_iter().next());
    }
    mains
}

/// Everything that a file needs, and what that needs, and so on.
pub(super) fn companions(main: &str, neighbours: &Neighbours) -> Companions {
    let mut found = Companions::default();
    let mut seen = BTreeSet::from([main.to_owned()]);
    let mut open = vec![main.to_owned()];
    while let Some(this) = open.pop() {
        found.is_chain |= neighbours.get(&this).is_some_and(|needs| needs.parent.is_some());
        for name in neighbours.get(&this).into_iter().flat_map(named) {
            let Some(name) = plain(name) else {
                found.strange.push(name.to_owned());
                continue;
            };
            if !seen.insert(name.to_owned()) {
                continue;
            }
            if !neighbours.contains_key(name) {
                found.missing.push(name.to_owned());
                continue;
            }
            if mains_of(name, neighbours).iter().any(|other| other != main) {
                found.shared.push(name.to_owned());
            }
            found.there.push(name.to_owned());
            open.push(name.to_owned());
        }
    }
    found
}

fn named(needs: &Needs) -> impl Iterator<Item = &str> {
    needs.extents.iter().chain(&needs.parent).map(String::as_str)
}

/// The name of a file beside the one that names it, which would be taken for a part of a disk.
fn plain(name: &str) -> Option<&str> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let is_disk = matches!(DropKind::of(OsStr::new(name)), DropKind::Disk(_));
    (is_disk && !name.starts_with('.') && !name.contains(['/', '\\', ':'])).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(extents: &[&str], parent: Option<&str>) -> Needs {
        Needs {
            extents: extents.iter().map(|&name| name.to_owned()).collect(),
            parent: parent.map(str::to_owned),
            ..Needs::default()
        }
    }

    fn neighbours(files: &[(&str, Needs)]) -> Neighbours {
        files.iter().map(|(name, needs)| ((*name).to_owned(), needs.clone())).collect()
    }

    #[test]
    fn windows_knows_no_upper_and_lower_case() {
        let of_windows = |parent: &str| Needs { any_case: true, ..needs(&[], Some(parent)) };
        let plain = needs(&[], None);
        let mut files = neighbours(&[
            ("child.avhdx", of_windows("Base.VHDX")),
            ("other.avhdx", of_windows("TWICE.vhdx")),
            ("one.qcow2", needs(&[], Some("BASE.vhdx"))),
            ("base.vhdx", plain.clone()),
            ("twice.vhdx", plain.clone()),
            ("Twice.vhdx", plain),
        ]);
        settle_cases(&mut files);
        assert_eq!(companions("child.avhdx", &files).there, ["base.vhdx"]);
        assert_eq!(companions("other.avhdx", &files).missing, ["TWICE.vhdx"]);
        assert_eq!(companions("one.qcow2", &files).missing, ["BASE.vhdx"]);
    }

    fn mains(name: &str, files: &Neighbours) -> Vec<String> {
        mains_of(name, files).into_iter().collect()
    }

    #[test]
    fn a_descriptor_takes_its_extents_along() {
        let files = neighbours(&[
            ("web.vmdk", needs(&["web-f001.vmdk", "web-f002.vmdk"], None)),
            ("web-f001.vmdk", Needs::default()),
            ("other.qcow2", Needs::default()),
        ]);
        assert_eq!(mains("web-f001.vmdk", &files), ["web.vmdk"]);
        assert_eq!(mains("other.qcow2", &files), ["other.qcow2"]);
        let companions = companions("web.vmdk", &files);
        assert_eq!(companions.there, ["web-f001.vmdk"]);
        assert_eq!(companions.missing, ["web-f002.vmdk"]);
    }

    #[test]
    fn of_a_chain_the_newest_is_the_drop() {
        let files = neighbours(&[
            ("base.qcow2", Needs::default()),
            ("one.qcow2", needs(&[], Some("./base.qcow2"))),
            ("two.qcow2", needs(&[], Some("one.qcow2"))),
        ]);
        for name in ["base.qcow2", "one.qcow2", "two.qcow2"] {
            assert_eq!(mains(name, &files), ["two.qcow2"]);
        }
        assert_eq!(companions("two.qcow2", &files).there, ["one.qcow2", "base.qcow2"]);
    }

    #[test]
    fn what_two_disks_stand_on_belongs_to_both() {
        let files = neighbours(&[
            ("base.qcow2", Needs::default()),
            ("a.qcow2", needs(&[], Some("base.qcow2"))),
            ("b.qcow2", needs(&[], Some("base.qcow2"))),
        ]);
        assert_eq!(mains("base.qcow2", &files), ["a.qcow2", "b.qcow2"]);
        assert_eq!(companions("a.qcow2", &files).shared, ["base.qcow2"]);
    }

    #[test]
    fn disks_that_stand_on_each_other_have_one_that_is_looked_at() {
        let files =
            neighbours(&[("a.qcow2", needs(&[], Some("b.qcow2"))), ("b.qcow2", needs(&[], Some("a.qcow2")))]);
        assert_eq!(mains("a.qcow2", &files), ["a.qcow2"]);
        assert_eq!(mains("b.qcow2", &files), ["a.qcow2"]);
        assert_eq!(companions("a.qcow2", &files).there, ["b.qcow2"]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_or_to_no_disk_is_never_waited_for() {
        for name in ["/etc/shadow.img", "../x.vmdk", "nbd://host/x.raw", "C:\\x.vmdk", ".hidden.img", "base"]
        {
            let files = neighbours(&[("a.qcow2", needs(&[], Some(name)))]);
            assert_eq!(companions("a.qcow2", &files).strange, [name]);
        }
    }
}
