//! What a file is, told by its content: magic numbers and the structure behind them, never by its name.

use std::io;

use crate::disk::gunzip;
use crate::disk::window::{Place, Window};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;
use crate::sys::fs::open_nofollow;

/// What an image is told by lies in its first so many bytes, if it is not told by its end.
const HEAD_BYTES: usize = 1024;

/// What a file can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Nothing in it.
    Empty,
    /// None of the others: bytes of a disk as they are.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// QEMU copy-on-write of another version.
    QcowOther,
    /// QEMU enhanced disk.
    Qed,
    /// VMDK with tables of its own: monolithicSparse or one sparse extent.
    VmdkSparse,
    /// VMDK made for streaming.
    VmdkStreamOptimized,
    /// VMDK of old ESX redo logs.
    VmdkCowd,
    /// VMDK of new ESXi snapshots.
    VmdkSeSparse,
    /// A text that names the files which hold the data.
    VmdkDescriptor,
    /// VHD: a footer around the plain bytes.
    VhdFixed,
    /// VHD that grows.
    VhdDynamic,
    /// VHD that holds only what differs from its parent.
    VhdDifferencing,
    /// Hyper-V.
    Vhdx,
    /// VirtualBox.
    Vdi,
    /// An encrypted volume.
    Luks,
    /// A CD or DVD.
    Iso,
    /// Compressed with gzip.
    Gzip,
    /// Compressed with xz.
    Xz,
    /// Compressed with zstd.
    Zstd,
    /// A zip archive.
    Zip,
    /// A tar archive (an OVA is one).
    Tar,
    /// A web page: mostly the error page of a failed download.
    Html,
    /// XML: an OVF or a domain.
    Xml,
}

impl Format {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Empty => "an empty file",
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::QcowOther => "qcow of an unknown version",
            Format::Qed => "QED",
            Format::VmdkSparse => "VMDK (sparse)",
            Format::VmdkStreamOptimized => "VMDK (streamOptimized)",
            Format::VmdkCowd => "VMDK (COWD)",
            Format::VmdkSeSparse => "VMDK (seSparse)",
            Format::VmdkDescriptor => "VMDK (descriptor)",
            Format::VhdFixed => "VHD (fixed)",
            Format::VhdDynamic => "VHD (dynamic)",
            Format::VhdDifferencing => "VHD (differencing)",
            Format::Vhdx => "VHDX",
            Format::Vdi => "VDI",
            Format::Luks => "a LUKS volume",
            Format::Iso => "an ISO 9660 image",
            Format::Gzip => "a gzip file",
            Format::Xz => "an xz file",
            Format::Zstd => "a zstd file",
            Format::Zip => "a zip archive",
            Format::Tar => "a tar archive (OVA)",
            Format::Html => "a web page",
            Format::Xml => "an XML document",
        }
    }

    /// The format by which a manifest would declare it; none if it cannot be a source.
    #[must_use]
    pub fn source_format(self) -> Option<SourceFormat> {
        match self {
            Format::Raw => Some(SourceFormat::Raw),
            Format::Qcow2 => Some(SourceFormat::Qcow2),
            Format::VmdkSparse
            | Format::VmdkStreamOptimized
            | Format::VmdkCowd
            | Format::VmdkSeSparse
            | Format::VmdkDescriptor => Some(SourceFormat::Vmdk),
            Format::VhdFixed | Format::VhdDynamic | Format::VhdDifferencing => Some(SourceFormat::Vhd),
            Format::Vhdx => Some(SourceFormat::Vhdx),
            Format::Vdi => Some(SourceFormat::Vdi),
            _ => None,
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// What it is.
    pub format: Format,
    /// By what it was told, for people.
    pub detail: String,
}

impl Detected {
    fn of(format: Format) -> Detected {
        Detected { format, detail: format.name().to_owned() }
    }
}

/// Tells what is there. Plain files, or parts of them, only: links, fifos and devices are not opened. Of what is packed only the beginning
/// is looked at, as it costs a pass to know its end.
pub fn detect(place: impl Into<Place>) -> Result<Detected> {
    let place = place.into();
    let read = |error: io::Error| Error::io(Kind::Source, "read", &place.path, &error).source(place.shown());
    let window = place.stored_window(&mut |path| open_nofollow(path)).map_err(read)?;
    if place.packing().is_none() {
        return detect_in(&window).map_err(read);
    }
    let head = gunzip::head(&window, HEAD_BYTES).map_err(read)?;
    let format = told_by_head(&head, head.len() as u64).or_else(|| told_by_text(&head));
    Ok(Detected::of(format.unwrap_or(Format::Raw)))
}

/// The same for an open file.
pub(crate) fn detect_in(window: &Window) -> io::Result<Detected> {
    let head = window.read_up_to(0, HEAD_BYTES)?;
    let format = told_by_head(&head, window.len())
        .or(told_by_footer(window, &head)?)
        .or(told_by_volume(window, &head)?)
        .or_else(|| told_by_text(&head))
        .unwrap_or(Format::Raw);
    Ok(Detected::of(format))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    be32(bytes, at).map(u32::swap_bytes)
}

fn told_by_head(head: &[u8], size: u64) -> Option<Format> {
    if size == 0 {
        return Some(Format::Empty);
    }
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"QFI\xfb") {
        return Some(match be32(head, 4) {
            Some(2 | 3) => Format::Qcow2,
            _ => Format::QcowOther,
        });
    }
    if starts(b"QED\0") {
        return Some(Format::Qed);
    }
    if starts(b"KDMV") {
        // Bit 16: grains are compressed. Bit 17: they carry markers.
        let compressed = le32(head, 8).is_some_and(|flags| flags & 0x3_0000 == 0x3_0000);
        return Some(if compressed { Format::VmdkStreamOptimized } else { Format::VmdkSparse });
    }
    if starts(b"COWD") {
        return Some(Format::VmdkCowd);
    }
    if head.get(..8) == Some(&0x0000_0000_cafe_babe_u64.to_le_bytes()) {
        return Some(Format::VmdkSeSparse);
    }
    if starts(b"vhdxfile") {
        return Some(Format::Vhdx);
    }
    if le32(head, 0x40) == Some(0xbeda_107f) {
        return Some(Format::Vdi);
    }
    if starts(b"LUKS\xba\xbe") {
        return Some(Format::Luks);
    }
    if starts(b"\x1f\x8b\x08") {
        return Some(Format::Gzip);
    }
    if starts(b"\xfd7zXZ\0") {
        return Some(Format::Xz);
    }
    if starts(b"\x28\xb5\x2f\xfd") {
        return Some(Format::Zstd);
    }
    if starts(b"PK\x03\x04") {
        return Some(Format::Zip);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(Format::Tar);
    }
    None
}

fn vhd_kind(footer: &[u8]) -> Option<Format> {
    if !footer.starts_with(b"conectix") {
        return None;
    }
    match be32(footer, 60)? {
        2 => Some(Format::VhdFixed),
        3 => Some(Format::VhdDynamic),
        4 => Some(Format::VhdDifferencing),
        _ => None,
    }
}

/// A VHD has its footer at the end; one that grows has a copy at the start, which is all that a cut-off one still has.
fn told_by_footer(window: &Window, head: &[u8]) -> io::Result<Option<Format>> {
    let size = window.len();
    if let Some(kind) = vhd_kind(head) {
        return Ok(Some(kind));
    }
    if size < 512 {
        return Ok(None);
    }
    // Some tools write a footer of 511 bytes.
    let tail = window.read_up_to(size - 512, 512)?;
    Ok(vhd_kind(&tail).or_else(|| vhd_kind(&tail[1..])))
}

fn told_by_volume(window: &Window, head: &[u8]) -> io::Result<Option<Format>> {
    const ISO_DESCRIPTOR: u64 = 0x8000;
    // A hybrid image (bootable from a stick) is also a disk: the partition table decides.
    let has_boot_record = le16(head, 510) == Some(0xaa55);
    if window.len() <= ISO_DESCRIPTOR + 6 || has_boot_record {
        return Ok(None);
    }
    let descriptor = window.read_up_to(ISO_DESCRIPTOR, 6)?;
    Ok((descriptor.get(1..6) == Some(b"CD001")).then_some(Format::Iso))
}

fn told_by_text(head: &[u8]) -> Option<Format> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = String::from_utf8_lossy(text.split(|&byte| byte == 0).next().unwrap_or_default());
    let start = text.trim_start();
    let lower = start.get(..start.len().min(64)).unwrap_or(start).to_ascii_lowercase();
    if lower.starts_with("# disk descriptorfile") {
        Some(Format::VmdkDescriptor)
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        Some(Format::Html)
    } else if lower.starts_with("<?xml") || lower.starts_with("<envelope") || lower.starts_with("<domain") {
        Some(Format::Xml)
    } else {
        None
    }
}
