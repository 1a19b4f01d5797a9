//! Reading disks by ourselves: which ranges hold data, and what is in them.
//!
//! A reader has no position: it answers for any offset, so that several threads read one disk, each with a [`Room`] of its own. Maps come
//! first: a range that holds zeros is never read. What no reader here can read, QEMU reads for us (see [`super::nbd`])
//! or copies (see [`super::copy`]); whether it has to shows in [`open`]. What is not here: whether an image is harmless, which [`super::open_source`] has decided before.

mod blocks;
mod elsewhere;
mod flat;
mod joined;
mod qcow2;
mod room;
mod stack;
mod stream;
mod vmdk_sparse;
mod zeros;

use std::fmt::Debug;
use std::fs::File;
use std::path::Path;

pub(crate) use elsewhere::{Grains, Plain, Stored, in_a_row, stacked};
pub(crate) use room::Room;
pub(crate) use stream::{Sender, Sent, Streamed, follow};
pub(crate) use zeros::with_zeros_as_data;

use crate::disk::control::Control;
use crate::disk::facts::{LayerFile, SourceDisk};
use crate::disk::format::{Format, detect_in};
use crate::disk::inspect::{self, ExtentKind, Image};
use crate::disk::lock::{self, hold_for_reading};
use crate::disk::window::{Place, Window};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, SourceFormat};
use crate::sys::fs::open_nofollow;

const SECTOR: u64 = 512;

/// What a range holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Bytes that have to be read.
    Data,
    /// Nothing but zeros, said by the image itself.
    Zeros,
    /// Whatever the image below has there.
    Below,
}

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) holds: Holds,
}

impl Range {
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// One disk, as the guest sees it.
pub(crate) trait Reader: Debug + Send + Sync {
    /// Bytes that the guest sees.
    fn size(&self) -> u64;

    /// What lies at an offset below the size, and how far that goes at least; not beyond the size, and never nothing.
    fn range(&self, at: u64, room: &mut Room) -> Result<Range>;

    /// The same, held to its promise: a map that does not get on would hold its reader for ever.
    fn next_range(&self, at: u64, room: &mut Room) -> Result<Range> {
        let range = self.range(at, room)?;
        let is_sound = range.start == at && range.length > 0 && range.end() <= self.size();
        if is_sound { Ok(range) } else { Err(Error::internal(format!("a map does not go on at {at}"))) }
    }

    /// Fills the buffer with what lies at an offset; all of it is within the size.
    fn read(&self, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<()>;

    /// A range of data will be read soon. Only a hint: who cannot make use of it does nothing.
    fn will_need(&self, _: u64, _: u64, _: &mut Room) {}

    /// Where in its file lies what it has at an offset, packed or not: for images that are results. `None` where it has nothing.
    fn place(&self, _: u64, _: &mut Room) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Who reads for us, where we do not by ourselves: `qemu-storage-daemon 10.0.2`.
    fn helper(&self) -> Option<&str> {
        None
    }
}

/// A reader of our own of this source; `None` where only QEMU reads it (see [`Engine::reader`](super::Engine::reader)).
pub(crate) fn open(source: &SourceDisk, control: &Control) -> Result<Option<Box<dyn Reader>>> {
    let remote = source.remote.as_ref().map(|remote| remote.reader(control));
    let mut below: Option<Box<dyn Reader>> = remote.transpose()?;
    for layer in source.layers.iter().rev() {
        let absent = if below.is_some() { Holds::Below } else { Holds::Zeros };
        let Some(image) = image(layer, absent, control)? else { return Ok(None) };
        below = Some(match below {
            None => image,
            Some(lower) => Box::new(stack::Stack::new(image, lower)),
        });
    }
    match below {
        Some(reader) if reader.size() != source.facts.virtual_size => Err(unreadable(
            &source.path,
            &format!(
                "it has {} bytes by its own tables and {} by QEMU",
                reader.size(),
                source.facts.virtual_size
            ),
        )),
        opened => Ok(opened),
    }
}

/// The open file of a source that is a disk byte by byte, all of it, and nothing else.
pub(crate) fn whole_file(source: &SourceDisk) -> Result<Option<File>> {
    let [layer] = source.layers.as_slice() else { return Ok(None) };
    if layer.declared != SourceFormat::Raw || layer.place.member.is_some() {
        return Ok(None);
    }
    let window = window(&layer.place)?;
    if window.len() != source.facts.virtual_size {
        return Ok(None);
    }
    let file = window.files().next().map(File::try_clone).transpose();
    file.map_err(|error| Error::io(Kind::Source, "open", &source.path, &error))
}

/// The overlays of our own through which a source is seen, each alone: what they do not hold lies below them.
pub(crate) fn own_layers(source: &SourceDisk, control: &Control) -> Result<Option<Vec<Box<dyn Reader>>>> {
    source.layers.iter().take(source.own_files).map(|layer| image(layer, Holds::Below, control)).collect()
}

/// A reader of a result.
pub(crate) fn open_result(
    path: &Path,
    format: OutputFormat,
    control: &Control,
) -> Result<Option<Box<dyn Reader>>> {
    let place = Place::from(path);
    let found = match format {
        OutputFormat::Raw => Format::Raw,
        OutputFormat::Qcow2 => Format::Qcow2,
        OutputFormat::Vhd => Format::VhdDynamic,
        OutputFormat::Vdi => Format::Vdi,
        // Which of its kinds shows in its header.
        OutputFormat::Vmdk => Format::VmdkSparse,
    };
    let layer = LayerFile { place, declared: format.into(), found, extents: Vec::new() };
    image(&layer, Holds::Zeros, control)
}

fn image(layer: &LayerFile, absent: Holds, control: &Control) -> Result<Option<Box<dyn Reader>>> {
    let place = &layer.place;
    let path = &place.path;
    if layer.declared == SourceFormat::Raw {
        let window = window(place)?;
        let size = window.len();
        // As QEMU counts: whole sectors, and what lacks of the last one is zeros.
        return Ok(Some(Box::new(flat::Flat::new(window, path, 0, size.next_multiple_of(SECTOR)))));
    }
    Ok(match layer.found {
        Format::VmdkSparse | Format::VmdkStreamOptimized => {
            Some(Box::new(vmdk_sparse::Sparse::open(place, absent, control)?))
        }
        Format::VmdkDescriptor => described(layer, absent, control)?,
        Format::Qcow2 => match qcow2::Qcow2::open(place, absent, control)? {
            Some(image) => Some(Box::new(image)),
            None => None,
        },
        Format::VhdFixed => {
            let window = window(place)?;
            let bytes = inspect::virtual_size(&Image::new(&window, control), layer.found, layer.declared)?;
            Some(Box::new(flat::Flat::new(window, path, 0, bytes)))
        }
        found => {
            let window = inspect::with_log(window(place)?, found, layer.declared, control)?;
            let map = inspect::block_map(&Image::new(&window, control), found)?;
            match map {
                Some(map) => Some(Box::new(blocks::Blocks::new(window, path, map, absent))),
                None => None,
            }
        }
    })
}

/// A VMDK whose data lies in files of their own.
fn described(layer: &LayerFile, absent: Holds, control: &Control) -> Result<Option<Box<dyn Reader>>> {
    let mut parts: Vec<Box<dyn Reader>> = Vec::with_capacity(layer.extents.len());
    for (path, extent) in &layer.extents {
        let place = Place::from(path);
        let window = window(&place)?;
        if extent.kind == ExtentKind::Flat {
            parts.push(Box::new(flat::Flat::new(window, path, extent.offset, extent.bytes)));
            continue;
        }
        let found = detect_in(&window).map_err(|error| Error::io(Kind::Source, "read", path, &error))?;
        let (Format::VmdkSparse | Format::VmdkStreamOptimized) = found.format else { return Ok(None) };
        let mut sparse = vmdk_sparse::Sparse::open(&place, absent, control)?;
        sparse.cut_to(extent.bytes);
        parts.push(Box::new(sparse));
    }
    Ok(Some(Box::new(joined::Joined::new(parts))))
}

fn window(place: &Place) -> Result<Window> {
    let failed =
        |error: std::io::Error| Error::io(Kind::Source, "open", &place.path, &error).source(place.shown());
    let window = place.window(&mut |path| open_nofollow(path)).map_err(failed)?;
    for file in window.files() {
        if !hold_for_reading(file).map_err(failed)? {
            return Err(lock::open_elsewhere());
        }
    }
    Ok(window)
}

/// What is told of an image whose structure turns out to be no structure.
fn unreadable(path: &Path, why: &str) -> Error {
    Error::new(Kind::Source, format!("{} cannot be read: {why}", path.display()))
        .source(path.display().to_string())
        .advice("copy or export the disk again; if its own software reads it, report this")
        .permanent()
}

pub(super) fn read_failed(path: &Path, at: u64, error: &std::io::Error) -> Error {
    let shown = path.display().to_string();
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return Error::new(
            Kind::Source,
            format!("{shown} ends {at} bytes into it, where it has to have data"),
        )
        .source(shown)
        .advice("it was cut off, or is being written: copy or export the disk again");
    }
    let what = format!("read {at} bytes into");
    Error::io(Kind::Source, &what, path, error)
        .source(shown)
        .advice("check the storage that the source lies on")
}
