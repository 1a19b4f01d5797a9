//! What lies on a datastore: directories listed, and files found by patterns.
//!
//! A host's browser is asked for one directory at a time. What it names is only believed if it is a name: it may become one of ours. What is not
//! here: fetching.

use roxmltree::Node;
use serde::Serialize;

use super::location::{DatastorePath, is_name};
use super::pattern::matches;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::vsphere::property::{self, Wanted};
use crate::vsphere::soap::{self, Call, Failure, MoRef};
use crate::vsphere::tree::{self, Tree, is_called};
use crate::vsphere::{Client, failure, task};

/// No more files are found at once.
const MOST_FILES: usize = 5000;
/// No directory is deeper.
const MOST_DEPTH: usize = 32;
const DATASTORES: [Wanted; 2] = [
    Wanted { kind: "Datastore", paths: &["name", "parent", "browser"] },
    Wanted { kind: "StoragePod", paths: &["name", "parent"] },
];
const RESULT: Wanted = Wanted { kind: "Task", paths: &["info.result"] };

/// A datastore that can be looked into.
#[derive(Debug, Clone)]
pub struct Datastore {
    name: String,
    /// The path of its datacenter, as addresses of files have it.
    pub(super) datacenter: String,
    browser: MoRef,
}

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `[ds1] web/web.vmdk`
    pub path: String,
    /// Its last part.
    pub name: String,
    /// Whether others are in it.
    pub directory: bool,
    /// As the datastore says; of a disk it may be that of its data.
    pub bytes: Option<u64>,
    /// When it was last written to.
    pub modified: Option<String>,
}

impl Datastore {
    /// The one of this name; where several datacenters have one, `datacenter` says which.
    pub fn find(client: &Client, name: &str, datacenter: Option<&str>) -> Result<Datastore> {
        let what = format!("cannot look for the datastore `{name}` of {}", client.host());
        let wanted: Vec<Wanted> = DATASTORES.into_iter().chain(tree::WANTED).collect();
        let read = || {
            let (mut stores, mut tree) = (Vec::new(), Tree::default());
            property::of_all(client, &wanted, |found| {
                let raw = found.text("name").unwrap_or_default();
                if !tree.take(found) && is_called(raw, name) {
                    stores.push((raw.to_owned(), found.object_at("parent"), found.object_at("browser")));
                }
                Ok(())
            })?;
            Ok((stores, tree))
        };
        let (stores, tree) = client.in_one_session(read).map_err(|failure| failure::told(&what, failure))?;
        let is_meant = |place: &str| {
            let last = place.rsplit('/').next().unwrap_or_default();
            datacenter.is_none_or(|wanted| place == wanted.trim_start_matches('/') || is_called(last, wanted))
        };
        let mut found: Vec<Datastore> = stores
            .into_iter()
            .filter_map(|(name, parent, browser)| {
                let datacenter = tree.datacenter(parent.as_ref()).unwrap_or_default();
                Some(Datastore { name, datacenter, browser: browser? })
            })
            .filter(|store| is_meant(&store.datacenter))
            .collect();
        match (found.pop(), found.is_empty()) {
            (Some(store), true) => Ok(store),
            (Some(store), false) => {
                let places = found.into_iter().chain([store]).map(|store| store.datacenter);
                Err(Error::new(
                    Kind::Source,
                    format!("several datacenters of {} have a datastore `{name}`", client.host()),
                )
                .allowed(places)
                .advice("say which one is meant: `--datacenter NAME`"))
            }
            (None, _) => Err(Error::new(
                Kind::Source,
                format!("{} has no datastore `{name}`, as far as this account sees", client.host()),
            )
            .advice("see where the machines lie: `hyper2kvm vsphere list`")),
        }
    }

    /// What is in a directory; the path is empty for the datastore itself.
    pub fn list(&self, client: &Client, directory: &str) -> Result<Vec<Entry>> {
        self.search(client, directory, "*")
    }

    /// The files that a pattern means, and all that is in the directories that it means. `excluded`: patterns of names that do not count.
    pub fn files(&self, client: &Client, pattern: &str, excluded: &[String]) -> Result<Vec<Entry>> {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let mut found = Vec::new();
        let mut walk = Walk { store: self, client, excluded, found: &mut found };
        match parts.as_slice() {
            [] => walk.all_in("", 0)?,
            parts => walk.below("", parts)?,
        }
        if found.is_empty() {
            return Err(Error::new(
                Kind::Source,
                format!("[{}] has nothing that `{pattern}` means", self.name),
            )
            .rule("disk.missing")
            .advice("see what there is: `hyper2kvm vsphere datastore-ls`"));
        }
        Ok(found)
    }

    /// What is called so in a directory.
    fn search(&self, client: &Client, directory: &str, name: &str) -> Result<Vec<Entry>> {
        let place = DatastorePath::parse(&format!("[{}] {directory}", self.name))?;
        let what = format!("cannot look into {place} of {}", client.host());
        let details = Element::new("details")
            .child(Element::text("fileType", true))
            .child(Element::text("fileSize", true))
            .child(Element::text("modification", true))
            .child(Element::text("fileOwner", false));
        let spec = Element::new("searchSpec").child(details).child(Element::text("matchPattern", name));
        let arguments = vec![Element::text("datastorePath", &place), spec];
        let done = client.in_one_session(|| {
            let call = Call::reads("SearchDatastore_Task", &self.browser, arguments.clone());
            let search = client.call(&call, soap::returned_object)?;
            task::wait(client, &search, &mut |_| ())?;
            let mut entries = Ok(Vec::new());
            property::of_objects(client, &[search], &[RESULT], |found| {
                entries = found
                    .get("info.result")
                    .map_or_else(|| Ok(Vec::new()), |result| entries_in(result, &place));
                Ok(())
            })?;
            entries.map_err(Failure::from)
        });
        done.map_err(|failure| failure::told(&what, failure))
    }
}

/// The way through directories.
struct Walk<'a> {
    store: &'a Datastore,
    client: &'a Client,
    excluded: &'a [String],
    found: &'a mut Vec<Entry>,
}

impl Walk<'_> {
    fn below(&mut self, directory: &str, parts: &[&str]) -> Result<()> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        if !part.contains(['*', '?']) && !rest.is_empty() {
            return self.below(&joined(directory, part), rest);
        }
        for entry in self.store.search(self.client, directory, "*")? {
            if !matches(part, &entry.name) {
                continue;
            }
            let path = joined(directory, &entry.name);
            match (entry.directory, rest.is_empty()) {
                (true, false) => self.below(&path, rest)?,
                (true, true) => self.all_in(&path, 0)?,
                (false, true) => self.take(entry)?,
                (false, false) => {}
            }
        }
        Ok(())
    }

    fn all_in(&mut self, directory: &str, depth: usize) -> Result<()> {
        if depth > MOST_DEPTH {
            return Err(Error::new(
                Kind::Source,
                format!("{directory} is more than {MOST_DEPTH} directories deep"),
            )
            .advice("name a directory further down"));
        }
        for entry in self.store.search(self.client, directory, "*")? {
            match entry.directory {
                true => self.all_in(&joined(directory, &entry.name), depth + 1)?,
                false => self.take(entry)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: Entry) -> Result<()> {
        if self.excluded.iter().any(|pattern| matches(pattern, &entry.name)) {
            return Ok(());
        }
        if self.found.len() == MOST_FILES {
            return Err(Error::new(Kind::Source, format!("more than {MOST_FILES} files are meant"))
                .advice("name fewer of them"));
        }
        self.found.push(entry);
        Ok(())
    }
}

fn joined(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn entries_in(result: Node<'_, '_>, directory: &DatastorePath) -> Result<Vec<Entry>> {
    soap::children(result, "file")
        .map(|file| {
            let name = soap::text(file, "path").unwrap_or_default();
            if !is_name(name) || name.contains(['/', '\\']) || name.chars().any(char::is_control) {
                let shown: String = name.escape_debug().take(200).collect();
                return Err(soap::odd("the server", &format!("a file that is called `{shown}`")));
            }
            Ok(Entry {
                path: format!("[{}] {}", directory.datastore, joined(&directory.path, name)),
                name: name.to_owned(),
                directory: soap::type_of(file) == Some("FolderFileInfo"),
                bytes: soap::number(file, "fileSize"),
                modified: soap::text(file, "modification").map(str::to_owned),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Entry>> {
        let text = format!(r#"<r xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{text}</r>"#);
        let document = roxmltree::Document::parse(&text).unwrap();
        entries_in(document.root_element(), &DatastorePath::parse("[ds1] web").unwrap())
    }

    #[test]
    fn names_become_paths_and_what_is_no_name_is_not_believed() {
        let found = read(
            r#"<file xsi:type="FolderFileInfo"><path>sub</path></file><file xsi:type="VmDiskFileInfo"><path>a b.vmdk</path><fileSize>7</fileSize></file>"#,
        )
        .unwrap();
        assert_eq!((found[0].path.as_str(), found[0].directory), ("[ds1] web/sub", true));
        assert_eq!((found[1].path.as_str(), found[1].bytes), ("[ds1] web/a b.vmdk", Some(7)));
        for name in ["..", "", "a/b", "../x", "a\\b", "&#10;"] {
            let error = read(&format!("<file><path>{name}</path></file>")).unwrap_err();
            assert_eq!(error.kind(), Kind::Source, "{name}");
        }
    }
}
