//! The folders of an inventory: where a machine stands in it, and what people call that place.
//!
//! vSphere writes `/`, `\` and `%` in names as `%2f`, `%5c` and `%25`. People are shown and write the name itself; in a path, where a `/` parts names,
//! such a name is shown as vSphere writes it. What is not here: the machines.

use std::collections::HashMap;

use super::property::{Found, Wanted};
use super::soap::MoRef;
use crate::model::vmware::name_decoded;

/// What is asked to know the tree.
pub(super) const WANTED: [Wanted; 3] = [
    Wanted { kind: "Folder", paths: &["name", "parent"] },
    Wanted { kind: "Datacenter", paths: &["name", "parent"] },
    Wanted { kind: "VirtualApp", paths: &["name", "parentFolder", "parent"] },
];
/// No tree is deeper: what is has a loop.
const MOST_DEPTH: usize = 64;

#[derive(Debug)]
struct Place {
    /// As vSphere writes it.
    name: String,
    parent: Option<MoRef>,
    is_datacenter: bool,
}

/// All folders, datacenters and vApps.
#[derive(Debug, Default)]
pub(super) struct Tree(HashMap<MoRef, Place>);

impl Tree {
    /// Takes a place, if it is one.
    pub(super) fn take(&mut self, found: &Found<'_, '_>) -> bool {
        let is_place =
            WANTED.iter().any(|wanted| wanted.kind == found.object.kind) || found.object.kind == "StoragePod";
        if is_place {
            let parent = found.object_at("parentFolder").or_else(|| found.object_at("parent"));
            let name = found.text("name").unwrap_or_default().to_owned();
            let is_datacenter = found.object.kind == "Datacenter";
            self.0.insert(found.object.clone(), Place { name, parent, is_datacenter });
        }
        is_place
    }

    /// The places above something, outermost first, as vSphere writes them; without the root.
    pub(super) fn above(&self, parent: Option<&MoRef>) -> Vec<&str> {
        let mut names: Vec<&str> = self.climb(parent).map(|place| place.name.as_str()).collect();
        names.reverse();
        names
    }

    /// The path of the datacenter that something is in, as the server's own addresses of files have it: `Folder/DC0`.
    pub(super) fn datacenter(&self, parent: Option<&MoRef>) -> Option<String> {
        let mut places: Vec<&Place> = self.climb(parent).skip_while(|place| !place.is_datacenter).collect();
        places.reverse();
        (!places.is_empty())
            .then(|| places.iter().map(|place| place.name.as_str()).collect::<Vec<_>>().join("/"))
    }

    fn climb<'t>(&'t self, parent: Option<&MoRef>) -> impl Iterator<Item = &'t Place> {
        let first = parent.and_then(|parent| self.0.get(parent));
        std::iter::successors(first, |place| place.parent.as_ref().and_then(|parent| self.0.get(parent)))
            .take(MOST_DEPTH)
    }
}

/// Whether a name as vSphere writes it is the one that a person wrote, either way.
pub(super) fn is_called(raw: &str, wanted: &str) -> bool {
    let name = name_decoded(raw);
    raw == wanted || name == wanted || name == name_decoded(wanted)
}

/// Whether the names of a path are those that a person wrote: all of them, or the last ones.
pub(super) fn ends_with(names: &[&str], wanted: &str) -> bool {
    let is_whole = wanted.starts_with('/');
    let wanted: Vec<&str> = wanted.split('/').filter(|name| !name.is_empty()).collect();
    let Some(skipped) = names.len().checked_sub(wanted.len()) else { return false };
    !wanted.is_empty()
        && (skipped == 0 || !is_whole)
        && names[skipped..].iter().zip(wanted).all(|(raw, wanted)| is_called(raw, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_people_wrote_them_and_found_either_way() {
        for (raw, shown) in [
            ("a%2fb", "a/b"),
            ("100%25", "100%"),
            ("c%5Cd", "c\\d"),
            ("%", "%"),
            ("%2", "%2"),
            ("ü%2fé", "ü/é"),
            ("%252f", "%2f"),
        ] {
            assert_eq!(name_decoded(raw), shown, "{raw}");
            assert!(is_called(raw, shown) && is_called(raw, raw), "{raw}");
        }
        assert!(!is_called("a%2fb", "a%2fc"));
    }

    #[test]
    fn a_path_is_found_whole_or_by_its_end() {
        let names = ["DC0", "vm", "a%2fb", "web"];
        for wanted in ["/DC0/vm/a%2fb/web", "a%2fb/web", "web", "DC0/vm/a%2Fb/web/"] {
            assert!(ends_with(&names, wanted), "{wanted}");
        }
        for wanted in ["/vm/a%2fb/web", "a/b/web", "", "/", "/x/DC0/vm/a%2fb/web", "vm"] {
            assert!(!ends_with(&names, wanted), "{wanted}");
        }
    }

    #[test]
    fn a_tree_that_bites_its_tail_ends() {
        let mut tree = Tree::default();
        let folder = MoRef::new("Folder", "group-v1");
        let place = Place { name: "f".to_owned(), parent: Some(folder.clone()), is_datacenter: false };
        tree.0.insert(folder.clone(), place);
        assert_eq!(tree.above(Some(&folder)).len(), MOST_DEPTH);
        assert_eq!(tree.datacenter(Some(&folder)), None);
    }
}
