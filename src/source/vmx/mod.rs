//! VMX: VMware's description of a machine, with its disks beside it, as Workstation, Fusion and copies of an ESXi host's directories have it.
//!
//! ```text
//!   bytes ─ text ─▶ keys and values ─ machine ─▶ facts, names of disks ─ shelf ─▶ disks that are there
//! ```
//!
//! A VMX of a directory that was copied still names where its disks were. One that lies beside it under its own name is taken instead; nothing
//! else outside of the directory is. What is not here: what a disk is made of.

mod machine;
mod text;

use std::collections::BTreeSet;
use std::path::Path;

use super::shelf::{Shelf, Whole};
use crate::disk::{detect, names_in, refuse_locked};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Facts, FoundDisk};
use crate::model::plan::SourceFormat;
use crate::model::units::own_id;
use machine::NamedDisk;
pub(crate) use text::MOST_BYTES;
use text::{Dictionary, bad};

/// The machine of a VMX.
pub(super) fn read(path: &Path) -> Result<Vec<Facts>> {
    machine_at(path).map(|facts| vec![facts]).map_err(|error| error.source(path.display().to_string()))
}

/// What the text of a VMX says, wherever it lies.
#[derive(Debug)]
pub(crate) struct Described {
    /// The machine; its disks by the names that the VMX has for their files, whether they are there or not.
    pub(crate) facts: Facts,
    /// Whether what it had in memory was saved.
    pub(crate) is_suspended: bool,
}

/// The machine that a text describes, if its disks and the rest of its files are somebody else's to find.
pub(crate) fn described_by(bytes: &[u8]) -> Result<Described> {
    let said = Dictionary::parse(bytes)?;
    let (mut facts, disks) = machine::machine(&said)?;
    // It lies where the machine does.
    facts.nvram = None;
    let mut ids = BTreeSet::new();
    for disk in disks {
        if disk.file.contains(char::REPLACEMENT_CHARACTER) || disk.file.chars().any(char::is_control) {
            let shown = disk.file.escape_debug().to_string();
            return Err(bad(&format!("the name of the disk `{shown}` cannot be read")));
        }
        facts.disks.push(FoundDisk {
            id: own_id(&disk.file, &mut ids),
            path: disk.file.into(),
            member: None,
            format: SourceFormat::Vmdk,
            capacity_bytes: None,
            checksum: None,
            packing: None,
            piece_checksums: Vec::new(),
            is_chain: false,
            allowed_paths: Vec::new(),
            controller: disk.slot.controller,
            bus: disk.slot.bus,
            unit: disk.slot.unit,
        });
    }
    Ok(Described { facts, is_suspended: said.get("checkpoint.vmstate").is_some() })
}

/// The names of the files of its disks.
pub(super) fn disks_named(path: &Path) -> Result<Vec<String>> {
    let (_, disks) = described(path, &Shelf::of_folder(path, Whole::Machine))?;
    Ok(disks.into_iter().map(|disk| beside(&disk.file).unwrap_or_else(|| last_part(&disk.file))).collect())
}

fn described(path: &Path, shelf: &Shelf) -> Result<(Facts, Vec<NamedDisk>)> {
    let bytes = shelf.read(name_of(path)?, text::MOST_BYTES)?.ok_or_else(|| {
        Error::new(Kind::Source, "the VMX is not there")
            .advice("check the path; relative ones count from the manifest's directory")
    })?;
    machine::machine(&Dictionary::parse(&bytes)?)
}

fn name_of(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| bad("its name is not UTF-8"))
}

fn machine_at(path: &Path) -> Result<Facts> {
    refuse_locked(path)?;
    let (name, shelf) = (name_of(path)?, Shelf::of_folder(path, Whole::Machine));
    let (mut facts, disks) = described(path, &shelf)?;
    if facts.plain_name().is_empty() {
        name.rsplit_once('.').map_or(name, |(stem, _)| stem).clone_into(&mut facts.name);
    }
    if disks.is_empty() {
        return Err(bad("the machine has no disk").advice("name the VMX of a machine that has one"));
    }
    let mut ids = BTreeSet::new();
    let mut files = BTreeSet::new();
    for disk in &disks {
        let found = found_disk(&shelf, path, disk, &mut ids, &mut facts.warnings)?;
        if !files.insert(found.path.clone()) {
            return Err(bad(&format!("two of its disks are `{}`", disk.file.escape_debug())));
        }
        facts.disks.push(found);
    }
    Ok(facts)
}

fn found_disk(
    shelf: &Shelf,
    vmx: &Path,
    disk: &NamedDisk,
    ids: &mut BTreeSet<String>,
    warnings: &mut Vec<String>,
) -> Result<FoundDisk> {
    let shown = disk.file.escape_debug();
    if disk.file.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Error::new(Kind::Unsupported, format!("the name of the disk `{shown}` cannot be read"))
            .advice(
                "save the VMX as UTF-8, with `.encoding = \"UTF-8\"` in it, or name its disks in a manifest",
            ));
    }
    if disk.file.chars().any(char::is_control) {
        return Err(bad(&format!(
            "the disk `{shown}` has characters in its name that no file name should have"
        )));
    }
    let name = beside(&disk.file);
    let elsewhere = name.is_none();
    let name = name.unwrap_or_else(|| last_part(&disk.file));
    let item = if name.is_empty() { None } else { shelf.get(&name)? };
    let item = match (item, elsewhere) {
        (Some(item), _) => item,
        (None, false) => {
            return Err(bad(&format!("its disk `{shown}` is not there"))
                .advice("copy all files of the machine: the disks lie in the directory of the VMX"));
        }
        (None, true) => {
            return Err(bad(&format!("its disk `{shown}` lies outside of its directory")).advice(
                "copy the disk, with all its files, into the directory of the VMX; or name the machine's disks in a manifest",
            ));
        }
    };
    if elsewhere && Path::new(&disk.file) != vmx.with_file_name(&name) {
        warnings
            .push(format!("the VMX names the disk `{shown}`: `{}` beside it is taken", name.escape_debug()));
    }
    let found = detect(item.place.clone())?.format;
    let is_vmdk = name.to_ascii_lowercase().ends_with(".vmdk");
    let format = match found.source_format() {
        // It is opened as what it says it is, and that then tells what is wrong with it.
        Some(SourceFormat::Raw) if is_vmdk => SourceFormat::Vmdk,
        Some(format) => format,
        None => return Err(bad(&format!("its disk `{shown}` is {}", found.name()))),
    };
    Ok(FoundDisk {
        id: own_id(&name, ids),
        is_chain: names_in(&item.place.path)?.1.parent.is_some(),
        path: item.place.path,
        member: None,
        format,
        capacity_bytes: None,
        checksum: None,
        packing: None,
        piece_checksums: Vec::new(),
        allowed_paths: Vec::new(),
        controller: disk.slot.controller,
        bus: disk.slot.bus,
        unit: disk.slot.unit,
    })
}

/// The name by which a file is found beside the VMX; none if it lies elsewhere. On Windows parts of a path are told apart by `\`.
fn beside(file: &str) -> Option<String> {
    let has_drive = file.as_bytes().get(1) == Some(&b':') && file.as_bytes()[0].is_ascii_alphabetic();
    if file.starts_with(['/', '\\']) || has_drive {
        return None;
    }
    let parts: Vec<&str> = file.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

fn last_part(file: &str) -> String {
    let last = file.rsplit(['/', '\\']).next().unwrap_or_default();
    if [".", ".."].contains(&last) { String::new() } else { last.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_files_beside_the_vmx_and_nowhere_else() {
        for (file, name) in [
            ("web.vmdk", "web.vmdk"),
            ("./disks//web 1.vmdk", "disks/web 1.vmdk"),
            (r"disks\web.vmdk", "disks/web.vmdk"),
            ("a:b.vmdk.vmdk", ""),
            ("web:1.vmdk", "web:1.vmdk"),
        ] {
            assert_eq!(beside(file).unwrap_or_default(), name, "{file}");
        }
        for (file, last) in [
            ("/vmfs/volumes/5f/web/web.vmdk", "web.vmdk"),
            (r"C:\VMs\web\web.vmdk", "web.vmdk"),
            (r"\\server\share\web.vmdk", "web.vmdk"),
            ("../base/web.vmdk", "web.vmdk"),
            ("..", ""),
            ("/", ""),
        ] {
            assert_eq!((beside(file), last_part(file).as_str()), (None, last), "{file}");
        }
    }
}
