//! What the guest sees of an image, by its header alone: cheap, and for an estimate only.
//!
//! Nothing else is checked; a header that lies gives a wrong estimate, and [`layer`](super::layer) refuses it
//! before anything is copied.

use super::bytes::{Image, be64, le64};
use super::descriptor::DESCRIPTOR_BYTES;
use super::{broken, vhd, vhdx, vmdk};
use crate::disk::format::Format;
use crate::model::error::Result;
use crate::model::plan::SourceFormat;

/// `found` is of the format that was declared.
pub(crate) fn virtual_size(image: &Image<'_>, found: Format, declared: SourceFormat) -> Result<u64> {
    match declared {
        SourceFormat::Raw => Ok(image.size),
        SourceFormat::Qcow2 => Ok(be64(&image.read(24, 8, "the header")?, 0)),
        SourceFormat::Vdi => Ok(le64(&image.read(0x170, 8, "the header")?, 0)),
        SourceFormat::Vhd => vhd::virtual_size(image, found),
        SourceFormat::Vhdx => vhdx::virtual_size(image),
        SourceFormat::Vmdk if found == Format::VmdkDescriptor && image.size > DESCRIPTOR_BYTES => {
            Err(broken("its descriptor is larger than any"))
        }
        SourceFormat::Vmdk => vmdk::virtual_size(image, found),
    }
}
