//! What a file of the drop directory is taken for by its ending, which other files it needs, and the manifest it stands for.
//!
//! The one place that knows the kinds of drops apart: whatever is not a manifest itself is turned into one here, and from then
//! on goes the way of every manifest. When it is complete and what is one drop is decided elsewhere (`pending`, `lot`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use super::lot::Lot;
use crate::disk::{self, Format, Needs};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;
use crate::model::units::safe_id;

/// Endings of disks, and the format that each stands for where the content does not tell.
const DISKS: [(&str, SourceFormat); 8] = [
    (".vmdk", SourceFormat::Vmdk),
    (".vhd", SourceFormat::Vhd),
    (".vhdx", SourceFormat::Vhdx),
    (".avhdx", SourceFormat::Vhdx),
    (".vdi", SourceFormat::Vdi),
    (".qcow2", SourceFormat::Qcow2),
    (".raw", SourceFormat::Raw),
    (".img", SourceFormat::Raw),
];

/// Endings of appliances, which this version does not convert.
const APPLIANCES: [&str; 3] = [".ova", ".ovf", ".vmx"];

/// What a file is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropKind {
    /// A text that says what is to be done.
    Manifest,
    /// A disk (or a part of one) whose ending stands for this format.
    Disk(SourceFormat),
    /// A machine with its disks.
    Appliance,
}

/// What a drop that is no manifest comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Made {
    /// The manifest that it stands for.
    pub(super) manifest: Value,
    /// Whether its content tells that all of it is there.
    pub(super) is_known_whole: bool,
}

impl DropKind {
    /// By the ending of a name, in any case.
    pub(super) fn of(name: &OsStr) -> DropKind {
        let lower = name.as_bytes().to_ascii_lowercase();
        let ends = |ending: &str| lower.ends_with(ending.as_bytes());
        if let Some((_, format)) = DISKS.iter().find(|(ending, _)| ends(ending)) {
            return DropKind::Disk(*format);
        }
        if APPLIANCES.iter().any(|ending| ends(ending)) { DropKind::Appliance } else { DropKind::Manifest }
    }

    /// Which other files it names, whole or not.
    pub(super) fn needs(self, path: &Path) -> Result<Needs> {
        let DropKind::Disk(claimed) = self else { return Ok(Needs::default()) };
        let (found, mut needs) = disk::names_in(path)?;
        // A flat extent is bytes of a disk under the ending of its descriptor.
        needs.is_extent |= claimed == SourceFormat::Vmdk && found == Format::Raw;
        Ok(needs)
    }

    /// The manifest for a drop that is there with all its files. What is cut off, damaged or nothing that can be converted is an error.
    pub(super) fn make(self, lot: &Lot<'_>) -> Result<Made> {
        let DropKind::Disk(claimed) = self else {
            return Err(Error::internal("only disks are turned into manifests"));
        };
        let found = disk::detect(lot.main)?.format;
        let format = match found.source_format() {
            // An ending that says more than bytes as they are is taken at its word, and then found wrong.
            Some(SourceFormat::Raw) => claimed,
            Some(format) => format,
            None if found == Format::Empty => claimed,
            None => return Err(no_disk(lot, found)),
        };
        let is_known_whole = disk::is_known_whole(lot.main, format)?;
        let stem = lot.main.file_stem().unwrap_or_default().to_string_lossy();
        let mut entry =
            json!({ "id": safe_id(&stem), "source_format": format.name(), "local_path": lot.main });
        if lot.is_chain {
            entry["backing_chain"] = json!(true);
        }
        let mut manifest = manifest(lot);
        if let Some(checksum) = lot.checksum {
            entry["checksum"] = json!(format!("sha256:{checksum}"));
            // Whoever brings a checksum wants it compared, whatever the profile skips.
            manifest["preflight"] = json!("full");
        }
        manifest["disks"] = json!([entry]);
        Ok(Made { manifest, is_known_whole })
    }
}

/// What every such manifest says. The files are told, because another disk under the same name is other content.
fn manifest(lot: &Lot<'_>) -> Value {
    let file = |file: &crate::service::queue::DroppedFile| json!({ "name": file.name, "bytes": file.identity.size, "mtime_ns": file.identity.mtime_ns });
    json!({
        "manifest_version": "1.0",
        "profile": lot.profile,
        "metadata": { "tags": { "dropped_files": lot.files.iter().map(file).collect::<Vec<_>>() } },
    })
}

fn no_disk(lot: &Lot<'_>, found: Format) -> Error {
    let name = lot.main.file_name().unwrap_or_default().to_string_lossy();
    Error::new(Kind::Unsupported, format!("{name} is {}, which is not converted", found.name()))
        .source(lot.main.display().to_string())
        .advice("drop a disk image, or a manifest that says how it is to be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_appliances_are_known_by_their_ending_in_any_case() {
        let of = |name| DropKind::of(OsStr::new(name));
        assert_eq!(of("Web.VMDK"), DropKind::Disk(SourceFormat::Vmdk));
        assert_eq!(of("a.img"), DropKind::Disk(SourceFormat::Raw));
        assert_eq!(of("a.avhdx"), DropKind::Disk(SourceFormat::Vhdx));
        assert_eq!(of("a.ova"), DropKind::Appliance);
        assert_eq!(of("vmdk.yaml"), DropKind::Manifest);
        assert_eq!(of("vmdk"), DropKind::Manifest);
    }
}
