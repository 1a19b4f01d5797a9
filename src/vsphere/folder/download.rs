//! Files and directories of a datastore, saved below a directory here.
//!
//! A disk is saved with the files that its descriptor names, also where the datastore's own list hides them. What is not here: how one file is
//! fetched ([`super::save`]).

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::browse::Datastore;
use super::extents;
use super::fetch::{File, Files};
use super::location::DatastorePath;
use super::save::{Saved, save};
use crate::disk::DESCRIPTOR_BYTES;
use crate::model::error::{Error, Kind, Result};
use crate::sys::dir::Dir;
use crate::vsphere::Client;

/// What a running machine has and nobody wants, unless somebody says so.
pub const EXCLUDED: [&str; 8] =
    ["*.lck", "*.log", "*.scoreboard", "*.vswp", "*.vmem", "*.vmsn", "*.nvram~", "*.tmp"];
const MODE: u32 = 0o700;

/// What is to be saved, and where.
#[derive(Debug)]
pub struct Order<'a> {
    /// `[ds1] web/*.vmdk`: files and directories, with `*` and `?` in any part.
    pub what: &'a str,
    /// Where several datacenters have such a datastore.
    pub datacenter: Option<&'a str>,
    /// Patterns of names that are left out.
    pub excluded: &'a [String],
    /// Below this directory.
    pub into: &'a Path,
    /// So many connections at most.
    pub connections: usize,
    /// Only say what would be saved.
    pub dry_run: bool,
}

/// A file that was saved, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Downloaded {
    /// `[ds1] web/web.vmdk`
    pub source: String,
    /// Below the directory.
    pub file: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// What came of it; nothing where it was only asked.
    #[serde(flatten)]
    pub saved: Option<Saved>,
}

/// Saves what is meant. `told` hears of each file how much of it is there.
pub fn download(
    client: &Client,
    order: &Order<'_>,
    told: &(dyn Fn(&str, u64, u64) + Sync),
) -> Result<Vec<Downloaded>> {
    let (datastore, pattern) = parts(order.what)?;
    let store = Datastore::find(client, &datastore, order.datacenter)?;
    let files = Files::new(client, &store.datacenter, order.connections);
    let control = client.control();
    let above = above(&pattern);
    let mut done = Vec::new();
    for file in found(client, &store, &files, order, &pattern)? {
        let source = file.place.to_string();
        let local = file
            .place
            .path
            .strip_prefix(above)
            .unwrap_or(&file.place.path)
            .trim_start_matches('/')
            .to_owned();
        let mut saved = None;
        if !order.dry_run {
            let (directory, name) = local.rsplit_once('/').unwrap_or(("", &local));
            let at = order.into.join(directory);
            let dir = Dir::create_all(&at, MODE).map_err(|error| {
                Error::io(Kind::Output, "make", &at, &error).output(&at).advice("choose another directory")
            })?;
            let tell = |bytes: u64| told(&source, bytes, file.size);
            saved = Some(save(&files, &file, (&dir, name), control, &tell)?);
        }
        done.push(Downloaded { source, file: local, bytes: file.size, saved });
    }
    Ok(done)
}

/// The files that are meant, each once, and with a disk those that it is made of.
fn found(
    client: &Client,
    store: &Datastore,
    files: &Files,
    order: &Order<'_>,
    pattern: &str,
) -> Result<Vec<File>> {
    let control = client.control();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for entry in store.files(client, pattern, order.excluded)? {
        let place = DatastorePath::parse(&entry.path)?;
        let file = files.look(&place, control)?;
        let is_disk = entry.name.ends_with(".vmdk") && file.size <= DESCRIPTOR_BYTES;
        let mut also = Vec::new();
        if is_disk {
            also = extents::named(&files.whole(&place, DESCRIPTOR_BYTES, control)?, &place);
        }
        if seen.insert(place.path.clone()) {
            found.push(file);
        }
        for place in also {
            if seen.insert(place.path.clone()) {
                found.push(files.look(&place, control)?);
            }
        }
    }
    Ok(found)
}

/// The datastore, and what is meant on it.
fn parts(what: &str) -> Result<(String, String)> {
    let place = DatastorePath::parse(what)?;
    Ok((place.datastore, place.path))
}

/// The directory whose name the saved files no longer have: the one above the first part that is a pattern, or above the last one.
fn above(pattern: &str) -> &str {
    let first = pattern.find(['*', '?']).unwrap_or(pattern.len());
    pattern[..first].rsplit_once('/').map_or("", |(above, _)| above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_named_from_where_it_was_looked_for() {
        for (pattern, expected) in [
            ("web", ""),
            ("a/web", "a"),
            ("a/web/*.vmdk", "a/web"),
            ("a/w*/x.vmdk", "a"),
            ("*", ""),
            ("", ""),
        ] {
            assert_eq!(above(pattern), expected, "{pattern}");
        }
    }
}
