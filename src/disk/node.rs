//! How QEMU is told to open something: block nodes with every driver named, so that it never guesses.
//!
//! A guessed format is how a guest reads its host: a raw disk whose first sector is a qcow2 header that
//! names `/etc/shadow` as its backing file. In a node nothing is guessed, and `backing: null` keeps a
//! header's backing file from being opened.

use std::path::Path;

use serde_json::{Value, json};

use crate::disk::window::Place;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, SourceFormat};

const SECTOR: u64 = 512;

/// The name that makes QEMU open a node.
pub(crate) fn name(node: &Value) -> String {
    format!("json:{node}")
}

/// A plain file.
pub(crate) fn file(path: &Path) -> Result<Value> {
    let name = path.to_str().ok_or_else(|| {
        Error::new(Kind::Source, format!("the path {} is not UTF-8", path.display()))
            .advice("rename the file or its directory")
            .source(path.display().to_string())
    })?;
    Ok(json!({ "driver": "file", "filename": name, "locking": "auto" }))
}

/// An image of a known format that stands on nothing else.
pub(crate) fn standalone(format: SourceFormat, place: &Place) -> Result<Value> {
    let piece = place.only_piece().ok_or_else(|| Error::internal("QEMU was to read an image in pieces"))?;
    let file = match piece.part {
        None => file(&piece.path)?,
        // QEMU counts in sectors; what an archive has between its members are zeros.
        Some(part) => json!({
            "driver": "raw",
            "offset": part.offset,
            "size": part.bytes.next_multiple_of(SECTOR),
            "file": file(&piece.path)?,
        }),
    };
    Ok(match format {
        SourceFormat::Raw => json!({ "driver": "raw", "file": file }),
        SourceFormat::Qcow2 => json!({ "driver": "qcow2", "file": file, "backing": null }),
        SourceFormat::Vmdk => json!({ "driver": "vmdk", "file": file, "backing": null }),
        // The footer's size, not the geometry rounded up from it, is what the disk's maker meant.
        SourceFormat::Vhd => json!({ "driver": "vpc", "file": file, "force_size_calc": "current_size" }),
        SourceFormat::Vhdx => json!({ "driver": "vhdx", "file": file }),
        SourceFormat::Vdi => json!({ "driver": "vdi", "file": file }),
    })
}

/// A result of ours.
pub(crate) fn result(format: OutputFormat, path: &Path) -> Result<Value> {
    standalone(format.into(), &path.into())
}

/// QEMU's name for a format that is written.
pub(crate) fn output_driver(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Qcow2 => "qcow2",
        OutputFormat::Raw => "raw",
        OutputFormat::Vmdk => "vmdk",
        OutputFormat::Vhd => "vpc",
        OutputFormat::Vdi => "vdi",
    }
}
