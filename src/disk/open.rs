//! Opening a source: what must not be opened is refused here, before QEMU sees it.

use std::path::{Path, PathBuf};

use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::facts::{FileIdentity, ImageFacts, SourceDisk};
use crate::disk::format::{Format, detect_in};
use crate::disk::node;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;
use crate::sys::fs::{allocated_bytes, open_nofollow};

/// What a source may be made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenPolicy<'a> {
    /// Whether a chain of snapshots is allowed.
    pub backing_chain: bool,
    /// Directories other than the image's own in which its members may lie.
    pub allowed_paths: &'a [PathBuf],
    /// Every file has to lie below one of these; empty: bound only by permissions.
    pub read_roots: &'a [PathBuf],
}

/// Inspects a source and refuses what is hostile, broken, locked or not supported.
pub fn open_source(
    path: &Path,
    declared: SourceFormat,
    policy: &OpenPolicy<'_>,
    engine: &Engine,
    control: &Control,
) -> Result<SourceDisk> {
    let path = resolve(path, policy)?;
    let named = |error: Error| error.source(path.display().to_string());
    let read = |error: std::io::Error| named(Error::io(Kind::Source, "read", &path, &error));
    let file = open_nofollow(&path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let detected = detect_in(&file, metadata.len()).map_err(read)?;
    agree(declared, detected.format).map_err(named)?;
    let files = vec![FileIdentity::of(&path, &metadata)];
    let node = node::standalone(declared, &path)?;
    let told = engine.info(&node, std::slice::from_ref(&path), control).map_err(named)?;
    Ok(SourceDisk {
        facts: ImageFacts {
            format: detected.format,
            subformat: told.subformat,
            virtual_size: told.virtual_size,
            file_size: metadata.len(),
            allocated_bytes: allocated_bytes(&metadata),
            compressed: told.compressed,
            extents: Vec::new(),
            backing: Vec::new(),
        },
        path,
        format: declared,
        warnings: Vec::new(),
        files,
        node,
    })
}

/// The real path of a file, which has to lie below the roots.
fn resolve(path: &Path, policy: &OpenPolicy<'_>) -> Result<PathBuf> {
    let real = path
        .canonicalize()
        .map_err(|error| Error::io(Kind::Source, "open", path, &error).source(path.display().to_string()))?;
    let below = |root: &PathBuf| root.canonicalize().is_ok_and(|root| real.starts_with(root));
    if policy.read_roots.is_empty() || policy.read_roots.iter().any(below) {
        return Ok(real);
    }
    Err(Error::new(Kind::Source, format!("{} lies outside the directories that may be read", real.display()))
        .advice("move it below one of them, or add its directory to `paths.read`")
        .allowed(policy.read_roots.iter().map(|root| root.display().to_string()))
        .source(path.display().to_string()))
}

/// A declared `raw` is read as raw whatever it holds; anything else has to be what it is said to be.
fn agree(declared: SourceFormat, found: Format) -> Result<()> {
    if found == Format::Empty {
        return Err(Error::new(Kind::Source, "the file is empty").advice("copy the disk again"));
    }
    if declared == SourceFormat::Raw || found.source_format() == Some(declared) {
        return Ok(());
    }
    let error = Error::new(
        Kind::Source,
        format!("declared as {}, but its content is {}", declared.name(), found.name()),
    );
    Err(match found.source_format() {
        Some(real) => error.advice(format!("declare it as `source_format: {}`", real.name())),
        None => error.advice("name the disk image itself"),
    })
}
