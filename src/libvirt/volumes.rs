//! Volumes: the disks in a pool. Listed, found, made empty, removed if nobody uses them.
//!
//! What is not here: how a volume gets what it holds ([`import`](super::import)), and who uses one ([`super::volume_users`]).

use std::path::PathBuf;

use serde::Serialize;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;

use super::failure::told;
use super::link::Link;
use super::{pools, volume_users};
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, Preallocation};

/// With less than this free, what fails fails for want of room.
const LITTLE_BYTES: u64 = 1 << 20;
/// The longest name of a file.
const MOST_NAME_BYTES: usize = 255;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// The pool that it lies in.
    pub pool: String,
    /// Its name there.
    pub name: String,
    /// What names it among all volumes of this libvirt.
    pub key: String,
    /// Where a machine finds it.
    pub path: PathBuf,
    /// Its format in libvirt's word, told by its content: `qcow2`, `raw`, `vmdk`, `vpc`, `vdi`, …; none where volumes have no format.
    pub format: Option<String>,
    /// Bytes that a machine sees.
    pub capacity: u64,
    /// Bytes that it occupies.
    pub allocation: u64,
    /// Bytes of its file or device, if libvirt says so.
    pub physical: Option<u64>,
}

/// A volume that is made empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its format.
    pub format: OutputFormat,
    /// Bytes that a machine will see.
    pub capacity: u64,
    /// Bytes that it occupies from the beginning.
    pub allocation: u64,
    /// What is laid out beforehand. libvirt reserves blocks and never writes them, so `full` is the same as `falloc`.
    pub preallocation: Preallocation,
}

/// All volumes in a pool, by name.
pub fn list(link: &Link, pool: &str) -> Result<Vec<Volume>> {
    let found = pools::active(link, pool)?;
    let failed = |error| told(&format!("cannot list the volumes of the storage pool {pool}"), &error);
    let mut listed = Vec::new();
    for volume in found.list_all_volumes(0).map_err(failed)? {
        match describe(pool, &volume) {
            Ok(volume) => listed.push(volume),
            // One that was removed since it was listed is none.
            Err(error) if error.code() == ErrorNumber::NoStorageVolume => {}
            Err(error) => return Err(failed(error)),
        }
    }
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(listed)
}

/// The volume of this name in a pool, if there is one.
pub fn find(link: &Link, pool: &str, name: &str) -> Result<Option<Volume>> {
    let found = pools::active(link, pool)?;
    let Some(volume) = look_up(&found, name)? else { return Ok(None) };
    describe(pool, &volume)
        .map(Some)
        .map_err(|error| told(&format!("cannot look at the volume {name}"), &error))
}

/// Makes an empty volume; its name has to be free.
pub fn create(link: &Link, pool: &str, new: &NewVolume) -> Result<Volume> {
    let found = pools::active(link, pool)?;
    let failed =
        |error| told(&format!("cannot make the volume {} in the storage pool {pool}", new.name), &error);
    let is_of_files = pools::describe(&found).map_err(failed)?.is_of_files();
    if !is_of_files && new.format != OutputFormat::Raw {
        return Err(only_raw(pool, new.format));
    }
    let reserves = !matches!(new.preallocation, Preallocation::Off | Preallocation::Metadata);
    let allocation = if reserves || !is_of_files { new.capacity } else { new.allocation };
    let lays_out = new.format == OutputFormat::Qcow2 && new.preallocation != Preallocation::Off;
    let flags = if lays_out { sys::VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA } else { 0 };
    let xml = definition(checked_volume(&new.name)?, new.format, new.capacity, allocation);
    let made = make(link, &found, &xml, flags, (pool, &new.name, allocation))?;
    describe(pool, &made).map_err(failed)
}

/// Removes a volume that nobody uses; one that is not there is an error.
pub fn remove(link: &Link, pool: &str, name: &str) -> Result<()> {
    let (volume, _) = unused(link, pool, name)?;
    volume.delete(0).map_err(|error| {
        told(&format!("cannot remove the volume {name} from the storage pool {pool}"), &error)
    })
}

/// The volume that [`remove`] would remove. Nothing is changed.
pub fn rehearse_removal(link: &Link, pool: &str, name: &str) -> Result<Volume> {
    unused(link, pool, name).map(|(_, described)| described)
}

fn unused(link: &Link, pool: &str, name: &str) -> Result<(StorageVol, Volume)> {
    let found = pools::active(link, pool)?;
    let volume = look_up(&found, name)?.ok_or_else(|| {
        Error::new(Kind::Libvirt, format!("there is no volume {name} in the storage pool {pool}"))
            .advice(format!("see which there are: `hyper2kvm libvirt volumes {pool}`"))
    })?;
    let described = describe(pool, &volume)
        .map_err(|error| told(&format!("cannot look at the volume {name}"), &error))?;
    match volume_users::of(link, &described)? {
        None => Ok((volume, described)),
        Some(why) => Err(Error::new(
            Kind::Libvirt,
            format!("the volume {name} in the storage pool {pool} is in use: {why}"),
        )
        .advice("undefine what uses it first, or leave it")),
    }
}

/// As the crate knows it.
pub(super) fn look_up(pool: &StoragePool, name: &str) -> Result<Option<StorageVol>> {
    match StorageVol::lookup_by_name(pool, checked_volume(name)?) {
        Ok(volume) => Ok(Some(volume)),
        Err(error) if error.code() == ErrorNumber::NoStorageVolume => Ok(None),
        Err(error) => Err(told(&format!("cannot look for the volume {name}"), &error)),
    }
}

/// Makes a volume by its definition.
pub(super) fn make(
    link: &Link,
    pool: &StoragePool,
    xml: &str,
    flags: u32,
    (pool_name, name, bytes): (&str, &str, u64),
) -> Result<StorageVol> {
    StorageVol::create_xml(pool, xml, flags).map_err(|error| match error.code() {
        ErrorNumber::StorageVolExist => taken(pool_name, name),
        _ => {
            let what = format!("cannot make the volume {name} in the storage pool {pool_name}");
            no_room(link, pool_name, &error, bytes).unwrap_or_else(|| told(&what, &error))
        }
    })
}

/// `<volume>`; sizes in bytes.
pub(super) fn definition(name: &str, format: OutputFormat, capacity: u64, allocation: u64) -> String {
    let bytes = |element, bytes: u64| Element::text(element, bytes).with("unit", "bytes");
    Element::new("volume")
        .child(Element::text("name", name))
        .child(bytes("capacity", capacity))
        .child(bytes("allocation", allocation))
        .child(Element::new("target").child(Element::new("format").with("type", word(format))))
        .to_string()
}

/// libvirt's word for a format.
pub(super) fn word(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Vhd => "vpc",
        other => other.name(),
    }
}

/// A volume as it is now.
pub(super) fn describe(pool: &str, volume: &StorageVol) -> Result<Volume, virt::error::Error> {
    let info = volume.get_info()?;
    let xml = volume.get_xml_desc(0)?;
    let (format, physical) = format_and_length(&xml);
    Ok(Volume {
        pool: pool.to_owned(),
        name: volume.get_name()?,
        key: volume.get_key()?,
        path: PathBuf::from(volume.get_path()?),
        format,
        capacity: info.capacity,
        allocation: info.allocation,
        physical,
    })
}

fn format_and_length(xml: &str) -> (Option<String>, Option<u64>) {
    let Ok(document) = roxmltree::Document::parse(xml) else { return (None, None) };
    let root = document.root_element();
    let target = root.children().find(|node| node.has_tag_name("target"));
    let format = target.and_then(|target| target.children().find(|node| node.has_tag_name("format")));
    let physical = root.children().find(|node| node.has_tag_name("physical"));
    (
        format.and_then(|format| format.attribute("type")).map(str::to_owned),
        physical.and_then(|physical| physical.text()?.trim().parse().ok()),
    )
}

/// Somebody has that name.
pub(super) fn taken(pool: &str, name: &str) -> Error {
    Error::new(Kind::Exists, format!("there is a volume {name} in the storage pool {pool} already"))
        .advice("give the new one another name, remove the old one, or say that it may be overwritten")
}

/// Volumes that are devices hold bytes as they are.
pub(super) fn only_raw(pool: &str, format: OutputFormat) -> Error {
    let format = format.name();
    Error::new(
        Kind::Unsupported,
        format!("the storage pool {pool} keeps raw volumes only, and this is {format}"),
    )
    .advice("write it as raw (`output.format: raw`), or name a pool that is a directory")
}

/// Whether this failed for want of room, for so many bytes: then it is that which is told.
pub(super) fn no_room(link: &Link, pool: &str, error: &virt::error::Error, need: u64) -> Option<Error> {
    let says_so = error.message().contains("No space left") || error.message().contains("quota exceeded");
    let now = pools::refresh(link, pool).ok();
    (says_so || now.as_ref().is_some_and(has_little)).then(|| full(pool, now.as_ref(), need))
}

/// Whether there is no room to speak of in a pool.
pub(super) fn is_full(link: &Link, pool: &str) -> bool {
    pools::refresh(link, pool).is_ok_and(|now| has_little(&now))
}

fn has_little(pool: &pools::Pool) -> bool {
    pool.available < LITTLE_BYTES
}

/// A pool has too little room.
pub(super) fn full(name: &str, pool: Option<&pools::Pool>, need: u64) -> Error {
    let free = pool.map_or(0, |pool| pool.available);
    let error = Error::new(
        Kind::DiskSpace,
        format!("the storage pool {name} is full: {need} bytes are needed, {free} are free"),
    )
    .advice("free some space there, or name another pool")
    .space(need, free);
    match pool.and_then(|pool| pool.path.as_ref()) {
        Some(path) => error.output(path),
        None => error,
    }
}

fn checked_volume(name: &str) -> Result<&str> {
    checked("volume", name, MOST_NAME_BYTES)
}

/// A name that libvirt can keep, and that is the same when it is read again.
pub(super) fn checked<'n>(what: &str, name: &'n str, most_bytes: usize) -> Result<&'n str> {
    let unsuitable = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    let why = match name {
        "" => "it is empty".to_owned(),
        "." | ".." => "it is a directory's".to_owned(),
        _ if name.contains('/') => "it holds a slash".to_owned(),
        _ if name.contains(unsuitable) => "it holds control characters".to_owned(),
        _ if name.trim() != name => "it begins or ends with a space".to_owned(),
        _ if name.len() > most_bytes => format!("it has more than {most_bytes} bytes"),
        _ => return Ok(name),
    };
    let shown: String = name.chars().take(64).collect();
    Err(Error::new(Kind::Manifest, format!("`{shown}` cannot be the name of a {what}: {why}"))
        .advice("take letters, digits, dots and dashes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_come_back_as_they_are_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0b", "a\nb", " a", "a ", "a\u{ffff}", &"ä".repeat(128)] {
            assert_eq!(checked("volume", name, 255).unwrap_err().kind(), Kind::Manifest, "{name:?}");
        }
        for name in ["web", "a b", ".hidden", "Ünï", "it's \"<&>\"", &"x".repeat(255)] {
            assert_eq!(checked("volume", name, 255).unwrap(), name);
        }
    }

    #[test]
    fn format_and_length_are_read_out_of_a_volume() {
        let xml = "<volume type='file'><name>x</name><physical unit='bytes'>196616</physical><target><path>/x</path>\
                   <format type='qcow2'/></target><backingStore><format type='raw'/></backingStore></volume>";
        assert_eq!(format_and_length(xml), (Some("qcow2".to_owned()), Some(196_616)));
        assert_eq!(format_and_length("<volume/>"), (None, None));
    }

    #[test]
    fn nothing_in_a_name_becomes_markup() {
        let xml = definition("a'</name><x>", OutputFormat::Vhd, 7, 0);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let name = document.descendants().find(|node| node.has_tag_name("name")).unwrap();
        assert_eq!(name.text(), Some("a'</name><x>"));
        assert!(xml.contains("type='vpc'") && xml.contains("<capacity unit='bytes'>7"), "{xml}");
    }
}
