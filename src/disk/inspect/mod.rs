//! What an image says of itself, read by us: before QEMU sees it, hostile and broken ones are refused.
//!
//! Only structure is read (headers, tables, descriptors), within bounds that the file's own size sets;
//! never the guest's data. Each format has a file here. What they agree on is [`Layer`]: one image file
//! with the files it needs and the name of what it stands on.

mod blocks;
mod bytes;
mod crc;
mod descriptor;
mod needs;
mod qcow2;
mod raw;
mod size;
mod vdi;
mod vhd;
mod vhdx;
mod vhdx_log;
mod vhdx_parent;
mod vmdk;
mod vmdk_sparse;
mod windows;

use std::path::{Path, PathBuf};

pub(crate) use blocks::{BlockMap, Lies, run};
pub(crate) use bytes::{Image, le32, le64, table_be64, table_le32};
pub(crate) use descriptor::{DESCRIPTOR_BYTES, Descriptor};
pub use needs::Needs;
pub(crate) use needs::needs;
pub(crate) use qcow2::Qcow2Facts;
pub(crate) use raw::{odd_size, tells_its_end};
pub(crate) use size::virtual_size;
pub(crate) use vmdk_sparse::SparseHeader;
pub use windows::{alike, files_alike};

use crate::disk::control::Control;
use crate::disk::format::Format;
use crate::disk::window::Window;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;

/// A file of data that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtentFile {
    /// As written in the descriptor.
    pub(crate) name: String,
    /// How it is to be read.
    pub(crate) kind: ExtentKind,
    /// Its part of the disk, in bytes.
    pub(crate) bytes: u64,
    /// Where its data begins in the file, in bytes.
    pub(crate) offset: u64,
}

/// How an extent's file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtentKind {
    /// Bytes as they are.
    Flat,
    /// With tables of its own, in one of VMware's formats.
    Sparse,
}

/// What an image stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    /// As written in the image.
    pub(crate) name: String,
    /// Its format, where the image names it.
    pub(crate) format: Option<SourceFormat>,
    /// What its id has to be: one of these, if there are any.
    pub(crate) ids: Vec<String>,
    /// Whether the name is from a Windows with other directories: then it is looked for in all that are allowed, in upper or lower case.
    pub(crate) is_moved: bool,
}

/// One image file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    /// A finer name than the format's.
    pub(crate) subformat: Option<String>,
    /// Whether data is compressed.
    pub(crate) compressed: bool,
    /// Whether QEMU cannot read it: only the readers of this program can.
    pub(crate) only_ours: bool,
    /// Files of data besides this one.
    pub(crate) extents: Vec<ExtentFile>,
    /// What it stands on.
    pub(crate) parent: Option<Parent>,
    /// By what an image that stands on it knows it: the id of its content (VMDK), or of itself as it was last written (VHD, VHDX).
    pub(crate) id: Option<String>,
    /// Whether what would tell that the file has ended is not there.
    pub(crate) lacks_end: bool,
    /// Things a person should know.
    pub(crate) warnings: Vec<String>,
}

/// Reads an image's structure. `declared` decides how: a declared raw disk has no structure but its bytes.
pub(crate) fn layer(
    window: &Window,
    found: Format,
    declared: SourceFormat,
    control: &Control,
) -> Result<Layer> {
    let image = Image::new(window, control);
    match declared {
        SourceFormat::Raw => raw::layer(&image),
        SourceFormat::Qcow2 => qcow2::layer(&image),
        SourceFormat::Vmdk => vmdk::layer(&image, found),
        SourceFormat::Vhd => vhd::layer(&image, found),
        SourceFormat::Vhdx => vhdx::layer(&image),
        SourceFormat::Vdi => vdi::layer(&image),
    }
}

/// The image as it is with what its own log still has to change of it: to be read through from then on.
pub(crate) fn with_log(
    window: Window,
    found: Format,
    declared: SourceFormat,
    control: &Control,
) -> Result<Window> {
    if declared == SourceFormat::Raw || found != Format::Vhdx {
        return Ok(window);
    }
    Ok(match vhdx::log(&Image::new(&window, control))? {
        None => window,
        Some((changes, bytes)) => window.with(changes, bytes),
    })
}

/// The table of an image that has one, with every block in the file; `None` for other formats.
pub(crate) fn block_map(image: &Image<'_>, found: Format) -> Result<Option<BlockMap>> {
    match found {
        Format::VhdDynamic | Format::VhdDifferencing => vhd::block_map(image, found).map(Some),
        Format::Vhdx => vhdx::block_map(image).map(Some),
        Format::Vdi => vdi::block_map(image).map(Some),
        _ => Ok(None),
    }
}

/// Checks one extent's file against what its descriptor says.
pub(crate) fn extent(window: &Window, found: Format, wanted: &ExtentFile, control: &Control) -> Result<()> {
    let image = Image::new(window, control);
    match wanted.kind {
        ExtentKind::Flat => {
            let needed = wanted.offset.saturating_add(wanted.bytes);
            if image.size < needed {
                return Err(cut_off(&format!(
                    "the extent has {} bytes and should have {needed}",
                    image.size
                )));
            }
            Ok(())
        }
        ExtentKind::Sparse => vmdk::sparse_extent(&image, found, wanted.bytes),
    }
}

/// The name by which a path of an image is found: `name` counted from the image's directory.
pub(crate) fn beside(image: &Path, name: &str) -> PathBuf {
    crate::sys::fs::parent_of(image).join(name)
}

/// An image whose end is missing.
pub(crate) fn cut_off(what: &str) -> Error {
    Error::new(Kind::Source, format!("the image is cut off: {what}"))
        .rule("disk.cut_off")
        .advice("the copy or download was not finished: fetch the disk again and compare its checksum")
}

/// An image that is damaged or was made up.
pub(crate) fn broken(what: &str) -> Error {
    Error::new(Kind::Source, format!("the image is damaged: {what}"))
        .rule("disk.corrupt")
        .advice("fetch the disk again, or repair a copy of it with the tools of its hypervisor")
}

/// An image that cannot be read by this version.
pub(crate) fn unsupported(what: &str, advice: &str) -> Error {
    Error::new(Kind::Unsupported, what).advice(advice).rule("disk.unsupported")
}
