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
use crate::model::planner::Origin;
use crate::model::units::safe_id;
use crate::source;

/// Endings of disks, and the format that each stands for where the content does not tell.
const DISKS: [(&str, SourceFormat); 9] = [
    (".vmdk", SourceFormat::Vmdk),
    (".vhd", SourceFormat::Vhd),
    (".avhd", SourceFormat::Vhd),
    (".vhdx", SourceFormat::Vhdx),
    (".avhdx", SourceFormat::Vhdx),
    (".vdi", SourceFormat::Vdi),
    (".qcow2", SourceFormat::Qcow2),
    (".raw", SourceFormat::Raw),
    (".img", SourceFormat::Raw),
];

/// Endings of descriptions of machines, and what each describes them as.
const APPLIANCES: [(&str, Appliance); 3] =
    [(".ova", Appliance::Ova), (".ovf", Appliance::Ovf), (".vmx", Appliance::Vmx)];

/// What a file is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropKind {
    /// A text that says what is to be done.
    Manifest,
    /// A disk (or a part of one) whose ending stands for this format.
    Disk(SourceFormat),
    /// A machine, or several, with their disks.
    Appliance(Appliance),
}

/// How machines are described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appliance {
    /// In an archive, with their disks.
    Ova,
    /// In a text, with their disks beside it.
    Ovf,
    /// The same in VMware's own words.
    Vmx,
}

impl Appliance {
    fn origin(self, path: &Path) -> Origin {
        match self {
            Appliance::Ova => Origin::Ova(path.to_owned()),
            Appliance::Ovf => Origin::Ovf(path.to_owned()),
            Appliance::Vmx => Origin::Vmx(path.to_owned()),
        }
    }
}

/// What a drop that is no manifest comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Made {
    /// The manifests that it stands for: one for each machine.
    pub(super) manifests: Vec<Value>,
    /// Whether its content tells that all of it is there.
    pub(super) is_known_whole: bool,
}

/// Whether a file of this name is taken for a manifest.
pub(in crate::service) fn is_manifest(name: &OsStr) -> bool {
    DropKind::of(name) == DropKind::Manifest
}

impl DropKind {
    /// By the ending of a name, in any case.
    pub(super) fn of(name: &OsStr) -> DropKind {
        let lower = name.as_bytes().to_ascii_lowercase();
        let ends = |ending: &str| lower.ends_with(ending.as_bytes());
        if let Some((_, format)) = DISKS.iter().find(|(ending, _)| ends(ending)) {
            return DropKind::Disk(*format);
        }
        if let Some((_, appliance)) = APPLIANCES.iter().find(|(ending, _)| ends(ending)) {
            return DropKind::Appliance(*appliance);
        }
        DropKind::Manifest
    }

    /// Whether it is taken as it is, with the files that belong to it.
    pub(super) fn brings_files(self) -> bool {
        matches!(self, DropKind::Disk(_) | DropKind::Appliance(_))
    }

    /// Which other files it names, whole or not.
    pub(super) fn needs(self, path: &Path) -> Result<Needs> {
        let claimed = match self {
            DropKind::Disk(claimed) => claimed,
            DropKind::Appliance(kind) => {
                let extents = source::disks_named(&kind.origin(path))?;
                return Ok(Needs { extents, ..Needs::default() });
            }
            DropKind::Manifest => return Ok(Needs::default()),
        };
        let (found, mut needs) = disk::names_in(path)?;
        // A flat extent is bytes of a disk under the ending of its descriptor.
        needs.is_extent |= claimed == SourceFormat::Vmdk && found == Format::Raw;
        Ok(needs)
    }

    /// The manifests for a drop that is there with all its files. What is cut off, damaged or nothing that can be converted is an error.
    pub(super) fn make(self, lot: &Lot<'_>) -> Result<Made> {
        match self {
            DropKind::Disk(claimed) => disk_alone(lot, claimed),
            DropKind::Appliance(kind) => described(lot, kind),
            DropKind::Manifest => Err(Error::internal("only disks and appliances are turned into manifests")),
        }
    }
}

/// Each machine as the source of a manifest.
fn described(lot: &Lot<'_>, kind: Appliance) -> Result<Made> {
    // What it cannot name does not come along.
    source::disks_named(&kind.origin(lot.main))?;
    let machines = source::machines(&kind.origin(lot.main), &source::NoLibvirt)?;
    let key = match kind {
        Appliance::Ova => "ova",
        Appliance::Ovf => "ovf",
        Appliance::Vmx => "vmx",
    };
    let (mut manifests, mut is_known_whole) = (Vec::new(), true);
    for machine in &machines {
        let mut origin = json!({ "path": lot.main });
        if machines.len() > 1 {
            origin["vm"] = json!(machine.plain_name());
        }
        let mut manifest = manifest(lot);
        manifest["source"] = json!({ key: origin });
        manifests.push(manifest);
        for disk in &machine.disks {
            is_known_whole &= match (disk.packing, &disk.member) {
                (None, None) => disk::is_known_whole(&disk.path, disk.format)?,
                // The archive is whole, or it would have been refused.
                (_, Some(_)) => true,
                // It costs a pass over all of it to know.
                (Some(_), None) => false,
            };
        }
    }
    Ok(Made { manifests, is_known_whole })
}

fn disk_alone(lot: &Lot<'_>, claimed: SourceFormat) -> Result<Made> {
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
    let mut entry = json!({ "id": safe_id(&stem), "source_format": format.name(), "local_path": lot.main });
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
    Ok(Made { manifests: vec![manifest], is_known_whole })
}

/// What belongs to an OVF besides disks: its list of checksums, and its signature.
pub(super) fn beside(main: &str) -> Vec<String> {
    match (DropKind::of(OsStr::new(main)), main.rsplit_once('.')) {
        (DropKind::Appliance(Appliance::Ovf), Some((stem, _))) => {
            [".mf", ".cert"].map(|ending| format!("{stem}{ending}")).to_vec()
        }
        _ => Vec::new(),
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
        assert_eq!(of("a.avhd"), DropKind::Disk(SourceFormat::Vhd));
        assert_eq!(of("a.OVA"), DropKind::Appliance(Appliance::Ova));
        assert_eq!(of("a.ovf"), DropKind::Appliance(Appliance::Ovf));
        assert_eq!(of("a.vmx"), DropKind::Appliance(Appliance::Vmx));
        assert_eq!(of("vmdk.yaml"), DropKind::Manifest);
        assert_eq!(of("vmdk"), DropKind::Manifest);
    }
}
