//! What files a disk is made of, by its descriptor: those that are the disk's bytes as they are.
//!
//! Anything that stands on something else, or has tables of its own, is refused: what lies on a datastore in such a form belongs to a snapshot, and
//! is whole only after that was removed. What is not here: reading.

use super::fetch::{File, Files};
use super::location::DatastorePath;
use crate::disk::{Control, DESCRIPTOR_BYTES, Descriptor};
use crate::model::error::{Error, Kind, Result};

pub(super) const SECTOR: u64 = 512;
/// What consolidates a VM's disks.
pub(super) const CONSOLIDATE: &str =
    "remove the VM's snapshots, or have its disks consolidated (VM › Snapshots › Consolidate)";

/// A part of a disk, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) file: File,
    /// Where it begins in its file.
    pub(super) offset: u64,
    /// Where it begins on the disk.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

/// A disk's descriptor as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) extents: Vec<Extent>,
    /// The id of its content, which is another one once a VM has written to it.
    pub(super) content: String,
}

impl Described {
    /// Bytes that the guest sees.
    pub(super) fn size(&self) -> u64 {
        self.extents.last().map_or(0, Extent::end)
    }
}

/// Reads a disk's descriptor and looks at its files.
pub(super) fn read(files: &Files, disk: &DatastorePath, control: &Control) -> Result<Described> {
    let bytes = files.whole(disk, DESCRIPTOR_BYTES, control)?;
    let name = files.name(disk);
    let parts = parts(&bytes, disk).map_err(|error| error.source(name.clone()))?;
    let mut extents = Vec::with_capacity(parts.0.len());
    let mut start = 0u64;
    for (place, offset, bytes) in parts.0 {
        let file = files.look(&place, control)?;
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= file.size);
        let end = start.checked_add(bytes).filter(|_| fits);
        let Some(end) = end else {
            return Err(Error::new(
                Kind::Source,
                format!("{place} has {} bytes, and its disk needs {bytes} of it from {offset} on", file.size),
            )
            .rule("disk.cut_off")
            .source(name)
            .advice("see what the datastore says of it; if the VM starts from it, report this"));
        };
        extents.push(Extent { file, offset, start, bytes });
        start = end;
    }
    Ok(Described { extents, content: parts.1 })
}

/// The files that a descriptor names beside itself, whatever they are; none if it is no descriptor.
pub(super) fn named(bytes: &[u8], disk: &DatastorePath) -> Vec<DatastorePath> {
    let extents = Descriptor::parse(bytes).map(|descriptor| descriptor.extents).unwrap_or_default();
    extents.iter().filter_map(|extent| disk.beside(extent.file.as_deref()?).ok()).collect()
}

/// The files, each with where in it how many bytes lie, and the id of the content.
type Parts = (Vec<(DatastorePath, u64, u64)>, String);

fn parts(bytes: &[u8], disk: &DatastorePath) -> Result<Parts> {
    let odd = |why: &str| {
        Error::new(Kind::Source, format!("{disk} does not describe a disk: {why}"))
            .rule("disk.format")
            .advice("name the disk by its descriptor: the file without `-flat`")
    };
    let descriptor = Descriptor::parse(bytes).map_err(|why| odd(&why))?;
    if descriptor.has_parent() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{disk} holds only what changed since a snapshot"),
        )
        .rule("disk.snapshots")
        .advice(CONSOLIDATE));
    }
    let mut parts = Vec::with_capacity(descriptor.extents.len());
    for extent in &descriptor.extents {
        let advice = match extent.kind.as_str() {
            "VMFS" | "VMFSTHIN" | "FLAT" => None,
            "VMFSSPARSE" | "SESPARSE" => Some(CONSOLIDATE),
            "VMFSRDM" | "VMFSRAW" => Some(
                "a raw device is not read over the API: copy it with the means of its storage, and name the copy under `disks`",
            ),
            _ => Some("clone the disk to a plain one first (`vmkfstools -i`), and name the clone"),
        };
        if let Some(advice) = advice {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{disk} has a part of the kind `{}`, which cannot be read this way", extent.kind),
            )
            .rule("disk.format")
            .advice(advice));
        }
        let name = extent.file.as_deref().ok_or_else(|| odd("a part of it has no file"))?;
        let bytes =
            |sectors: u64| sectors.checked_mul(SECTOR).ok_or_else(|| odd("a part of it is too large"));
        let length = bytes(extent.sectors)?;
        if length == 0 {
            return Err(odd("a part of it is empty"));
        }
        parts.push((disk.beside(name)?, bytes(extent.offset)?, length));
    }
    if parts.is_empty() {
        return Err(odd("it has no part that holds data"));
    }
    Ok((parts, descriptor.cid.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Parts> {
        parts(text.as_bytes(), &DatastorePath::parse("[ds1] web/web.vmdk").unwrap())
    }

    fn described(extents: &str) -> String {
        format!("# Disk DescriptorFile\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\n{extents}\n")
    }

    #[test]
    fn flat_parts_are_named_beside_their_descriptor() {
        let text = described("RW 2048 VMFS \"web-flat.vmdk\"\nRW 1 FLAT \"web-f002.vmdk\" 128");
        let (parts, content) = read(&text).unwrap();
        let shown: Vec<_> =
            parts.iter().map(|(place, offset, bytes)| (place.to_string(), *offset, *bytes)).collect();
        assert_eq!(
            shown,
            [
                ("[ds1] web/web-flat.vmdk".to_owned(), 0, 1 << 20),
                ("[ds1] web/web-f002.vmdk".to_owned(), 65536, 512)
            ]
        );
        assert_eq!(content, "fffffffe");
    }

    #[test]
    fn what_belongs_to_a_snapshot_or_a_device_is_told_with_what_to_do() {
        let child = described("RW 2048 VMFSSPARSE \"web-000001-delta.vmdk\"")
            .replace("parentCID=ffffffff", "parentCID=12345678");
        for (text, word) in [
            (child.as_str(), "consolidated"),
            (&described("RW 2048 SESPARSE \"web-sesparse.vmdk\""), "consolidated"),
            (&described("RW 2048 VMFSRDM \"web-rdm.vmdk\""), "raw device"),
            (&described("RW 2048 SPARSE \"web-s001.vmdk\""), "vmkfstools"),
            (&described("RW 2048 ZERO"), "vmkfstools"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{text}");
            assert!(error.details().advice.as_ref().unwrap().contains(word), "{error}");
        }
    }

    #[test]
    fn hostile_descriptors_are_refused() {
        for text in [
            "",
            "\u{0}\u{1}\u{2}",
            &described(""),
            &described("RW 2048 VMFS"),
            &described("RW 0 VMFS \"web-flat.vmdk\""),
            &described("RW 18446744073709551615 VMFS \"web-flat.vmdk\""),
            &described("RW 2048 VMFS \"/vmfs/devices/disks/x\""),
            &described("RW 2048 VMFS \"../../etc/x\""),
        ] {
            assert_eq!(read(text).unwrap_err().kind(), Kind::Source, "{text}");
        }
    }
}
