//! Where the bytes of a disk lie: in a file, in a member of an archive, or in pieces of either; and whether they are packed.
//!
//! A manifest names a disk by a file and a member. Where in the archive that is, and of which pieces it consists, is looked up by whoever
//! opens it, each time anew: `web.ova` and `web.vmdk`, or the first piece `web.vmdk.000000000` and `web.vmdk`. What is not here: reading.

use std::path::Path;

use super::shelf::{Shelf, Whole};
use crate::disk::Place;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::FoundDisk;
use crate::model::plan::{Packing, PlannedDisk};

/// What comes behind the name of a disk in the name of its first piece.
const FIRST: &str = ".000000000";
/// No disk is larger, packed or not.
const MOST_BYTES: u64 = 1 << 50;
/// What tables and headers take besides the disk's data: a part of it, and a little.
const TABLES_SHARE: u64 = 64;
const TABLES_BYTES: u64 = 64 << 20;

/// Where a disk of a plan lies.
pub fn place_of(disk: &PlannedDisk) -> Result<Place> {
    let stored = stored_place(&disk.source, disk.member.as_deref())?;
    Ok(unpacked(stored, disk.packing, disk.bytes))
}

/// Where a disk of a machine lies that was found.
pub fn place_found(disk: &FoundDisk) -> Result<Place> {
    let stored = stored_place(&disk.path, disk.member.as_deref())?;
    Ok(unpacked(stored, disk.packing, disk.capacity_bytes))
}

/// Where the bytes of a disk are stored: the file, or this member of it.
pub fn stored_place(path: &Path, member: Option<&str>) -> Result<Place> {
    let Some(name) = member else { return Ok(path.into()) };
    let named = |error: Error| error.source(path.display().to_string());
    let is_first_piece = path
        .file_name()
        .and_then(|file| file.to_str())
        .is_some_and(|file| file.strip_suffix(FIRST) == Some(name));
    let shelf = match is_first_piece {
        true => Shelf::of_folder(path, Whole::Appliance),
        false => Shelf::of_archive(path)?,
    };
    let whole = if is_first_piece { None } else { shelf.get(name)? };
    let found = match whole {
        Some(whole) => Some(whole),
        None => shelf.joined(name, None).map_err(named)?,
    };
    let found = found.ok_or_else(|| {
        named(
            Error::new(Kind::Source, format!("there is no `{}` in the archive", name.escape_debug())).advice(
                "look what is in it with `tar -tf`; members are named with the directories they lie in",
            ),
        )
    })?;
    Ok(found.place)
}

/// To be unpacked, if it is packed: to what a disk of that size can take.
pub(super) fn unpacked(stored: Place, packing: Option<Packing>, disk_bytes: Option<u64>) -> Place {
    match packing {
        None => stored,
        Some(Packing::Gzip) => {
            let disk = disk_bytes.filter(|bytes| *bytes > 0).unwrap_or(MOST_BYTES);
            stored.unpacked(disk.saturating_add(disk / TABLES_SHARE).saturating_add(TABLES_BYTES))
        }
    }
}
