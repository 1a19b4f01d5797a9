//! What a disk on a host is made of, by its descriptors: extents that are its bytes as they are, those of snapshots, and what these stand on.
//!
//! ```text
//!   web-000002.vmdk ─ parentFileNameHint ─▶ web-000001.vmdk ─▶ web.vmdk
//!     └ web-000002-sesparse.vmdk              └ …-delta.vmdk     └ web-flat.vmdk
//! ```
//!
//! All of it lies in one directory: a descriptor that names something else is not followed. What is not here: what the tables of a snapshot mean.

use std::sync::Arc;

use super::files::{File, Files, on_host, place as placed};
use super::opened::Opened;
use crate::disk::{
    Control, DESCRIPTOR_BYTES, Descriptor, Grains, Holds, Plain, Reader, Stored, in_a_row, stacked,
};
use crate::model::error::{Error, Kind, Result};
use crate::vsphere::folder::DatastorePath;

const SECTOR: u64 = 512;
/// vSphere makes no longer chains than 32.
const MOST_LAYERS: usize = 64;

/// A disk with all that it stands on, the uppermost first; one layer at least.
#[derive(Debug)]
pub(super) struct Chain {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    descriptor: File,
    parts: Vec<Part>,
    /// The id of its content, which is another one once a VM has written to it.
    content: String,
}

/// The descriptor that a layer stands on, and the id that the content of that has to have.
type Below = (DatastorePath, Option<String>);

/// An extent.
#[derive(Debug)]
struct Part {
    file: File,
    /// Where it begins in its file, if it is as it is.
    offset: u64,
    bytes: u64,
    /// Where its grains lie, if it is a snapshot's.
    grains: Option<Arc<Grains>>,
}

impl Chain {
    pub(super) fn read(files: &Files, disk: &DatastorePath, control: &Control) -> Result<Chain> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut next = Some((disk.clone(), None::<String>));
        while let Some((place, expected)) = next {
            let broken = |why: String| {
                Error::new(
                    Kind::Source,
                    format!("the chain of snapshots of {} is broken: {why}", files.name(disk)),
                )
                .rule("disk.chain")
                .source(files.name(disk))
                .advice("see whether the VM starts from it; consolidate its snapshots, then try again")
            };
            if layers.len() == MOST_LAYERS || layers.iter().any(|layer| layer.descriptor.place == place) {
                return Err(broken("it has no end".to_owned()));
            }
            let (layer, below) = Layer::read(files, &place, control)?;
            if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(&layer.content)) {
                return Err(broken(format!(
                    "{place} was written to after the snapshot that stands on it was made"
                )));
            }
            layers.push(layer);
            next = below;
        }
        Ok(Chain { layers })
    }

    /// Where it lies.
    pub(super) fn place(&self) -> &DatastorePath {
        // There is one layer at least.
        &self.layers[0].descriptor.place
    }

    /// Bytes that the guest sees.
    pub(super) fn size(&self) -> u64 {
        self.layers[0].bytes()
    }

    /// What is the same as long as nothing was written to any of its files.
    pub(super) fn identity(&self) -> String {
        let mut identity = String::new();
        for layer in &self.layers {
            for file in layer.files() {
                let File { size, inode, written, changed, .. } = file;
                identity.push_str(&format!("{} {size} {inode} {written} {changed}; ", on_host(&file.place)));
            }
            identity.push_str(&format!("{}; ", layer.content));
        }
        identity
    }

    pub(super) fn reader(&self, files: &Files, control: &Control) -> Box<dyn Reader> {
        let mut below: Option<Box<dyn Reader>> = None;
        for layer in self.layers.iter().rev() {
            let absent = if below.is_some() { Holds::Below } else { Holds::Zeros };
            let parts = layer.parts.iter().map(|part| part.reader(files, absent, control)).collect();
            let upper = in_a_row(parts);
            below = Some(match below {
                None => upper,
                Some(lower) => stacked(upper, lower),
            });
        }
        below.unwrap_or_else(|| in_a_row(Vec::new()))
    }

    pub(super) fn check_unchanged(&self, files: &Files, control: &Control) -> Result<()> {
        for was in self.layers.iter().flat_map(Layer::files) {
            if files.look(&was.place, control)? != *was {
                return Err(files.changed(&was.place));
            }
        }
        Ok(())
    }
}

impl Layer {
    /// With what it stands on.
    fn read(files: &Files, place: &DatastorePath, control: &Control) -> Result<(Layer, Option<Below>)> {
        let name = files.name(place);
        let looked_at = files.look(place, control)?;
        if looked_at.size > DESCRIPTOR_BYTES {
            return Err(odd(place, "it is too large for a descriptor").source(name));
        }
        let bytes = files.whole(&looked_at, control)?;
        let descriptor = Descriptor::parse(&bytes).map_err(|why| odd(place, &why).source(name.clone()))?;
        let named = parts(&descriptor, place).map_err(|error| error.source(name.clone()))?;
        let mut parts = Vec::with_capacity(named.len());
        for Named { place, offset, bytes, is_delta } in named {
            let file = files.look(&place, control)?;
            let cut_off = || {
                Error::new(
                    Kind::Source,
                    format!(
                        "{} has {} bytes, which is less than its disk needs",
                        files.name(&place),
                        file.size
                    ),
                )
                .rule("disk.cut_off")
                .source(name.clone())
                .advice("see whether the VM starts from it; if it does, report this")
            };
            let grains = match is_delta {
                true => {
                    let opened = Opened::new(files, &file, control);
                    Some(Arc::new(Grains::open(&opened)?))
                }
                false => None,
            };
            let has = match &grains {
                Some(grains) => grains.bytes() >= bytes,
                None => offset.checked_add(bytes).is_some_and(|end| end <= file.size),
            };
            if !has {
                return Err(cut_off());
            }
            parts.push(Part { file, offset, bytes, grains });
        }
        let below = match descriptor.has_parent() {
            true => {
                let hint = descriptor.parent.as_deref().unwrap_or_default();
                Some((parent(place, hint)?, descriptor.parent_cid.clone()))
            }
            false => None,
        };
        let content = descriptor.cid.unwrap_or_default();
        Ok((Layer { descriptor: looked_at, parts, content }, below))
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.bytes))
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        std::iter::once(&self.descriptor).chain(self.parts.iter().map(|part| &part.file))
    }
}

impl Part {
    fn reader(&self, files: &Files, absent: Holds, control: &Control) -> Box<dyn Reader> {
        let file: Arc<dyn Stored> = Arc::new(Opened::new(files, &self.file, control));
        match &self.grains {
            Some(grains) => grains.reader(file, self.bytes, absent),
            None => Box::new(Plain { file, offset: self.offset, bytes: self.bytes }),
        }
    }
}

/// An extent as a descriptor names it.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    place: DatastorePath,
    offset: u64,
    bytes: u64,
    is_delta: bool,
}

fn odd(disk: &DatastorePath, why: &str) -> Error {
    Error::new(Kind::Source, format!("{disk} does not describe a disk: {why}"))
        .rule("disk.format")
        .advice("name the disk by its descriptor: the file without `-flat`, `-delta` or `-sesparse`")
}

fn parts(descriptor: &Descriptor, disk: &DatastorePath) -> Result<Vec<Named>> {
    let mut parts = Vec::with_capacity(descriptor.extents.len());
    for extent in &descriptor.extents {
        let refused = |rule: &str, advice: &str| {
            let what = format!(
                "{disk} has a part of the kind `{} {}`, which is not read",
                extent.access, extent.kind
            );
            Error::new(Kind::Unsupported, what).rule(rule).advice(advice)
        };
        let is_delta = match extent.kind.as_str() {
            "VMFS" | "VMFSTHIN" | "FLAT" if extent.access == "RW" => false,
            "VMFSSPARSE" | "SESPARSE" if extent.access == "RW" => true,
            "VMFSRDM" | "VMFSRAW" => {
                return Err(refused(
                    "disk.device",
                    "it is a LUN that is mapped: copy it with the means of its storage, and name the copy under `disks`",
                ));
            }
            _ => {
                return Err(refused(
                    "disk.format",
                    "clone the disk to a plain one first (`vmkfstools -i`), and name the clone",
                ));
            }
        };
        let name = extent.file.as_deref().ok_or_else(|| odd(disk, "a part of it has no file"))?;
        let in_bytes =
            |sectors: u64| sectors.checked_mul(SECTOR).ok_or_else(|| odd(disk, "a part of it is too large"));
        let (bytes, offset) = (in_bytes(extent.sectors)?, in_bytes(extent.offset)?);
        if bytes == 0 {
            return Err(odd(disk, "a part of it is empty"));
        }
        parts.push(Named { place: disk.beside(name)?, offset, bytes, is_delta });
    }
    match parts.is_empty() {
        true => Err(odd(disk, "it has no part that holds data")),
        false => Ok(parts),
    }
}

/// The descriptor that another one stands on: in its own directory, under whichever of its datastore's names.
fn parent(disk: &DatastorePath, hint: &str) -> Result<DatastorePath> {
    let directory =
        |place: &DatastorePath| place.path.rsplit_once('/').map(|(directory, _)| directory.to_owned());
    match placed(hint) {
        Ok(named) if directory(&named) == directory(disk) => {
            disk.beside(named.path.rsplit('/').next().unwrap_or_default())
        }
        _ if hint.contains('/') => {
            let shown: String = hint.chars().filter(|c| !c.is_control()).take(200).collect();
            Err(Error::new(Kind::Source, format!("{disk} stands on a disk of another directory: `{shown}`"))
                .rule("disk.outside")
                .advice("it is a linked clone: clone it in full first (`vmkfstools -i`, or in vSphere), and name the clone"))
        }
        _ => disk.beside(hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> DatastorePath {
        placed("/vmfs/volumes/ds1/web/web-000001.vmdk").unwrap()
    }

    fn read(extents: &str) -> Result<Vec<Named>> {
        let text = format!("CID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\n{extents}\n");
        parts(&Descriptor::parse(text.as_bytes()).unwrap(), &disk())
    }

    #[test]
    fn a_disk_stands_on_what_lies_beside_it_and_on_nothing_else() {
        for hint in ["web.vmdk", "/vmfs/volumes/5f3a-9b/web/web.vmdk", "/vmfs/volumes/ds1/web/web.vmdk"] {
            assert_eq!(parent(&disk(), hint).unwrap().to_string(), "[ds1] web/web.vmdk", "{hint}");
        }
        for hint in ["../other/web.vmdk", "/vmfs/volumes/ds1/other/web.vmdk", "/etc/passwd", "..", "", "a\\b"]
        {
            let error = parent(&disk(), hint).unwrap_err();
            assert_eq!(error.kind(), Kind::Source, "{hint}");
        }
    }

    #[test]
    fn extents_are_plain_or_of_a_snapshot_or_refused() {
        let named =
            read("RW 2048 VMFS \"web-flat.vmdk\"\nRW 4 SESPARSE \"web-000001-sesparse.vmdk\"").unwrap();
        let shown: Vec<_> =
            named.iter().map(|part| (part.place.to_string(), part.bytes, part.is_delta)).collect();
        assert_eq!(
            shown,
            [
                ("[ds1] web/web-flat.vmdk".to_owned(), 1 << 20, false),
                ("[ds1] web/web-000001-sesparse.vmdk".to_owned(), 2048, true)
            ]
        );
        for (text, kind) in [
            ("RW 2048 VMFSRDM \"web-rdm.vmdk\"", Kind::Unsupported),
            ("RW 2048 ZERO", Kind::Unsupported),
            ("NOACCESS 2048 VMFS \"a\"", Kind::Unsupported),
            ("RW 0 VMFS \"a\"", Kind::Source),
            ("RW 2048 VMFS", Kind::Source),
            ("RW 2048 VMFS \"../a\"", Kind::Source),
            ("RW 2048 VMFS \"/vmfs/devices/disks/x\"", Kind::Source),
            ("RW 18446744073709551615 VMFS \"a\"", Kind::Source),
            ("", Kind::Source),
        ] {
            assert_eq!(read(text).unwrap_err().kind(), kind, "{text}");
        }
    }
}
