//! What a short look at an image tells, without a child and without opening it as a source: its names, its size, what it stands on.
//!
//! What is not here: whether it is harmless and whole (see [`super::open`]).

use std::path::{Path, PathBuf};

use crate::disk::control::Control;
use crate::disk::format::{Format, detect_in};
use crate::disk::inspect::{self, Needs, files_alike};
use crate::disk::open::{agree, real_path, window};
use crate::disk::window::Place;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;

/// What an image is, and which other files it names; also of one that is not whole yet.
pub fn names_in(path: &Path) -> Result<(Format, Needs)> {
    let unreadable = |error: std::io::Error| Error::io(Kind::Source, "read", path, &error);
    let seen = || window(&path.into());
    let window = seen()?;
    let found = detect_in(&window).map_err(unreadable)?.format;
    let control = Control::new();
    let declared = found.source_format().unwrap_or(SourceFormat::Raw);
    // One that is not whole yet has to do without its log.
    let window = inspect::with_log(window, found, declared, &control).or_else(|_| seen())?;
    let image = inspect::Image::new(&window, &control);
    // What is cut off or damaged may name nothing yet; it is refused by those who want it whole.
    Ok((found, inspect::needs(&image, found).unwrap_or_default()))
}

/// What the guest sees of a disk, by its header alone: an estimate that costs a few short reads, and no child.
pub fn estimate_virtual_size(place: impl Into<Place>, declared: SourceFormat) -> Result<u64> {
    let place = place.into();
    let real = real_path(&place.path)?;
    let unreadable = |error: &std::io::Error| Error::io(Kind::Source, "read", &real, error);
    let window = window(&place.at(&real))?;
    let found = detect_in(&window).map_err(|error| unreadable(&error))?.format;
    agree(declared, found)?;
    let control = Control::new();
    let window = inspect::with_log(window, found, declared, &control)?;
    inspect::virtual_size(&inspect::Image::new(&window, &control), found, declared)
}

/// The file that an image stands on, if it is one of those that hold only what differs; no answer where it cannot be read.
#[must_use]
pub fn stands_on(path: &Path) -> Option<PathBuf> {
    let window = window(&path.into()).ok()?;
    let found = detect_in(&window).ok()?.format;
    let (declared, control) = (found.source_format()?, Control::new());
    let window = inspect::with_log(window, found, declared, &control).ok()?;
    let layer = inspect::layer(&window, found, declared, &control).ok()?;
    let parent = layer.parent?;
    let below = inspect::beside(path, &parent.name);
    match files_alike(&below).as_slice() {
        [only] if parent.is_moved => only.canonicalize().ok(),
        _ => below.canonicalize().ok(),
    }
}
