//! VMDK: what its descriptor says, be it a file of its own or inside a sparse image.

use super::bytes::{Image, le32};
use super::descriptor::{DESCRIPTOR_BYTES, Descriptor, Extent};
use super::vmdk_sparse::{self, SparseHeader};
use super::{ExtentFile, ExtentKind, Layer, Parent, broken, cut_off, unsupported};
use crate::disk::format::Format;
use crate::model::error::{Error, Result};

const SECTOR: u64 = 512;
/// Kinds of disks whose descriptor is a file of its own and which QEMU reads.
const DESCRIBED: [&str; 6] =
    ["monolithicFlat", "vmfs", "vmfsSparse", "seSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
/// Kinds of disks that carry their descriptor.
const EMBEDDED: [&str; 2] = ["monolithicSparse", "streamOptimized"];

pub(crate) fn layer(image: &Image<'_>, found: Format) -> Result<Layer> {
    match found {
        Format::VmdkDescriptor => described(image),
        Format::VmdkSparse | Format::VmdkStreamOptimized => embedded(image),
        Format::VmdkCowd | Format::VmdkSeSparse => {
            Err(Error::new(crate::model::error::Kind::Source, "this is one extent of a disk, not the disk")
                .rule("disk.format")
                .advice("name the descriptor: the small .vmdk text file beside it"))
        }
        _ => Err(broken("it is no VMDK")),
    }
}

/// What the guest sees, by the descriptor or the header.
pub(super) fn virtual_size(image: &Image<'_>, found: Format) -> Result<u64> {
    let sectors = match found {
        Format::VmdkDescriptor => {
            let descriptor = parse(&image.read(0, image.size, "the descriptor")?)?;
            descriptor.extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.sectors))
        }
        Format::VmdkSparse | Format::VmdkStreamOptimized => SparseHeader::read(image)?.capacity,
        _ => return Err(broken("it is no VMDK")),
    };
    Ok(sectors.saturating_mul(SECTOR))
}

/// What the descriptor says, be it a file of its own or inside; `None`: this is one extent of a disk.
pub(super) fn descriptor(image: &Image<'_>, found: Format) -> Result<Option<Descriptor>> {
    let text = match found {
        Format::VmdkDescriptor if image.size > DESCRIPTOR_BYTES => {
            return Err(broken("its descriptor is larger than any"));
        }
        Format::VmdkDescriptor => image.read(0, image.size, "the descriptor")?,
        Format::VmdkSparse | Format::VmdkStreamOptimized => {
            // Extents that QEMU writes have room for one, with nothing in it.
            let text = SparseHeader::read(image)?.descriptor(image)?;
            match text.filter(|text| text.first().is_some_and(|byte| *byte != 0)) {
                Some(text) => text,
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    parse(&text).map(Some)
}

/// Checks one sparse extent that a descriptor names.
pub(crate) fn sparse_extent(image: &Image<'_>, found: Format, wanted: u64) -> Result<()> {
    match found {
        Format::VmdkSparse | Format::VmdkStreamOptimized => {
            let header = SparseHeader::read(image)?;
            if header.capacity.saturating_mul(SECTOR) < wanted {
                return Err(broken("an extent is smaller than its descriptor says"));
            }
            vmdk_sparse::check_tables(image, &header)
        }
        Format::VmdkCowd => {
            let header = image.read(0, SECTOR, "an extent's header")?;
            let (directory, entries) = (u64::from(le32(&header, 20)), u64::from(le32(&header, 24)));
            image.require(directory * SECTOR, entries * 4, "an extent's directory")
        }
        Format::VmdkSeSparse => image.require(0, SECTOR, "an extent's header"),
        other => Err(broken(&format!("an extent that should be sparse is {}", other.name()))),
    }
}

fn described(image: &Image<'_>) -> Result<Layer> {
    if image.size > DESCRIPTOR_BYTES {
        return Err(broken(&format!("its descriptor is larger than {DESCRIPTOR_BYTES} bytes")));
    }
    let text = image.read(0, image.size, "the descriptor")?;
    let descriptor = parse(&text)?;
    refuse_kind(&descriptor.create_type, &DESCRIBED)?;
    let extents = descriptor.extents.iter().map(usable).collect::<Result<Vec<_>>>()?;
    if extents.is_empty() {
        return Err(broken("its descriptor names no extents"));
    }
    Ok(Layer {
        subformat: Some(descriptor.create_type.clone()),
        extents,
        parent: parent(&descriptor),
        id: descriptor.cid,
        ..Layer::default()
    })
}

fn embedded(image: &Image<'_>) -> Result<Layer> {
    let header = SparseHeader::read(image)?;
    if header.capacity == 0 {
        // QEMU would take the extents of the descriptor inside instead.
        return Err(broken("its header says that it holds nothing"));
    }
    let descriptor = match header.descriptor(image)? {
        Some(text) => parse(&text)?,
        None => {
            return Err(Error::new(
                crate::model::error::Kind::Source,
                "this is one extent of a disk, not the disk",
            )
            .rule("disk.format")
            .advice("name the descriptor: the small .vmdk text file beside it"));
        }
    };
    refuse_kind(&descriptor.create_type, &EMBEDDED)?;
    vmdk_sparse::check_tables(image, &header)?;
    Ok(Layer {
        subformat: Some(descriptor.create_type.clone()),
        compressed: header.compressed,
        parent: parent(&descriptor),
        id: descriptor.cid,
        ..Layer::default()
    })
}

fn parse(text: &[u8]) -> Result<Descriptor> {
    Descriptor::parse(text).map_err(|what| broken(&format!("its descriptor: {what}")))
}

fn refuse_kind(kind: &str, known: &[&str]) -> Result<()> {
    // QEMU compares case-sensitively, VMware does not; all tools write these spellings.
    if known.contains(&kind) {
        return Ok(());
    }
    let shown: String = kind.chars().take(40).collect();
    let device =
        ["fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRawDeviceMap", "vmfsPassthroughRawDeviceMap"];
    if device.contains(&kind) {
        return Err(unsupported(
            &format!("the disk ({shown}) stands for a device: its data is not in files"),
            "copy the device itself into an image, or clone the disk to VMFS (`vmkfstools -i`) first",
        )
        .rule("disk.device"));
    }
    Err(unsupported(
        &format!("VMDKs of the kind `{shown}` cannot be read"),
        "convert it with `vmware-vdiskmanager` or `vmkfstools -i` first",
    ))
}

/// QEMU would silently skip extents that it does not know, and everything behind them would move.
fn usable(extent: &Extent) -> Result<ExtentFile> {
    let refused = |what: &str| {
        unsupported(
            &format!("an extent of the disk is {what}"),
            "convert it with `vmware-vdiskmanager` or `vmkfstools -i` first",
        )
    };
    if extent.access != "RW" {
        return Err(refused(&extent.access));
    }
    let kind = match extent.kind.as_str() {
        "FLAT" | "VMFS" => ExtentKind::Flat,
        "SPARSE" | "VMFSSPARSE" | "SESPARSE" => ExtentKind::Sparse,
        other => return Err(refused(&other.chars().take(20).collect::<String>())),
    };
    let bytes = extent.sectors.checked_mul(SECTOR).filter(|bytes| *bytes > 0);
    let offset = extent.offset.checked_mul(SECTOR);
    let (Some(bytes), Some(offset)) = (bytes, offset) else {
        return Err(broken("an extent's size or offset makes no sense"));
    };
    match &extent.file {
        Some(name) if !name.is_empty() && !name.contains('\0') => {
            Ok(ExtentFile { name: name.clone(), kind, bytes, offset })
        }
        _ => Err(broken("an extent names no file")),
    }
}

fn parent(descriptor: &Descriptor) -> Option<Parent> {
    descriptor.has_parent().then(|| Parent {
        name: descriptor.parent.clone().unwrap_or_default(),
        format: Some(crate::model::plan::SourceFormat::Vmdk),
        ids: descriptor.parent_cid.iter().cloned().collect(),
        is_moved: false,
    })
}

/// A streamed image that lacks its end.
pub(super) fn no_end(what: &str) -> Error {
    cut_off(&format!("{what} at its end is missing"))
}
