//! Results that can be made: formats, packing and layout have to fit each other, and lie where they may.
//!
//! The same for what holds for the VM and for what a mapping says of one disk. What is not here: where disks are mapped to.

use std::path::{Path, PathBuf};

use super::build;
use super::check::check_root;
use super::mapping::disks;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::{Compress, Disk, Manifest};
use crate::model::parse::Tree;
use crate::model::plan::{Compression, OutputFormat, Preallocation};

/// Where a manifest says the format of all its results.
const OWN_FORMAT: &str = "output.format";

/// What a result is to look like, and which fields say so.
pub(super) struct Wanted {
    pub(super) format: OutputFormat,
    pub(super) format_field: String,
    pub(super) preallocation: Preallocation,
    pub(super) preallocation_field: String,
}

impl Wanted {
    /// Of disks of which nothing else is said.
    pub(super) fn of(manifest: &Manifest) -> Wanted {
        let mapping = manifest.storage_mapping.as_ref();
        let field = |is_mapped: bool, mapped: &str, own: &str| {
            if is_mapped { mapped.to_owned() } else { own.to_owned() }
        };
        Wanted {
            format: disks::format(manifest),
            format_field: field(
                mapping.is_some_and(|mapping| mapping.format_override.is_some()),
                "storage_mapping.format_override",
                OWN_FORMAT,
            ),
            preallocation: disks::preallocation(manifest),
            preallocation_field: field(
                mapping.is_some_and(|mapping| mapping.preallocate.is_some()),
                "storage_mapping.preallocate",
                "output.preallocation",
            ),
        }
    }
}

/// Formats, packing and layout have to fit each other.
pub(super) fn check(tree: &Tree, manifest: &Manifest) -> Result<()> {
    check_one(tree, manifest, &Wanted::of(manifest))
}

/// The same for one sort of result.
pub(super) fn check_one(tree: &Tree, manifest: &Manifest, wanted: &Wanted) -> Result<()> {
    let output = manifest.output.as_ref();
    let (format, compress) = (wanted.format, output.and_then(|output| output.compress));
    let bad = |field: &str, cause: String| -> Error { tree.error(Kind::Manifest, field, cause) };
    let compression = build::compression(compress, format);
    if !build::is_on(tree, Stage::Convert) {
        if format != OutputFormat::Qcow2 {
            return Err(bad(
                &wanted.format_field,
                format!("the stage `convert` is off, so the result is qcow2 and not {}", format.name()),
            )
            .advice("set `pipeline.convert.enabled: true`, or remove the format"));
        }
        if compression != Some(Compression::None) {
            return Err(bad(
                "output.compress",
                "the stage `convert` is off, so nothing is compressed".to_owned(),
            )
            .advice("set `pipeline.convert.enabled: true`, or remove this"));
        }
    }
    let Some(compression) = compression else {
        if wanted.format_field != OWN_FORMAT {
            let cause = format!("{} cannot be compressed as `output.compress` says", format.name());
            return Err(
                bad(&wanted.format_field, cause).advice("choose another format, or remove `output.compress`")
            );
        }
        let cause = match compress {
            Some(Compress::With(Compression::Zstd)) => "zstd exists only in qcow2".to_owned(),
            _ => format!("{} cannot be compressed", format.name()),
        };
        return Err(bad("output.compress", cause)
            .allowed(match format {
                OutputFormat::Qcow2 => vec!["false", "true", "zstd", "zlib"],
                OutputFormat::Vmdk => vec!["false", "true", "zlib"],
                OutputFormat::Raw | OutputFormat::Vhd | OutputFormat::Vdi => vec!["false"],
            })
            .advice("choose another format, or remove this"));
    };
    if let Some(level) = output.and_then(|output| output.compress_level)
        && compression == Compression::Zlib
        && level.get() > 9
    {
        return Err(
            bad("output.compress_level", format!("zlib has no level {}", level.get())).allowed(["1 to 9"])
        );
    }
    check_layout(tree, wanted, compression)
}

fn check_layout(tree: &Tree, wanted: &Wanted, compression: Compression) -> Result<()> {
    let bad = |cause: String| tree.error(Kind::Manifest, &wanted.preallocation_field, cause);
    let allowed: &[Preallocation] = match wanted.format {
        OutputFormat::Qcow2 => {
            &[Preallocation::Off, Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full]
        }
        OutputFormat::Raw => &[Preallocation::Off, Preallocation::Falloc, Preallocation::Full],
        OutputFormat::Vmdk | OutputFormat::Vhd | OutputFormat::Vdi => &[Preallocation::Off],
    };
    if !allowed.contains(&wanted.preallocation) {
        let error = bad(format!("{} cannot be laid out beforehand like this", wanted.format.name()));
        // A mapping knows only thick and thin.
        let error = match wanted.preallocation_field.starts_with("storage_mapping") {
            true => error.allowed(["false"]),
            false => error.allowed(allowed.iter().map(|choice| build::preallocation_name(*choice))),
        };
        return Err(error.advice("choose another, or another format"));
    }
    if compression != Compression::None && wanted.preallocation != Preallocation::Off {
        return Err(bad("a compressed result cannot be laid out beforehand".to_owned())
            .advice("remove this or `output.compress`"));
    }
    Ok(())
}

/// Refuses a directory of the VM that its results may not lie in, or where they would take the place of a source.
pub(super) fn check_directory(
    tree: &Tree,
    manifest: &Manifest,
    disks: &[Disk],
    roots: &[PathBuf],
) -> Result<()> {
    let output = manifest.output.as_ref();
    let Some(directory) = output.and_then(|output| output.directory.as_ref()) else { return Ok(()) };
    let directory = Path::new(directory.as_str());
    check_root(tree, Kind::Output, "output.directory", directory, roots, "paths.write")?;
    let suffix = disks::format(manifest).name();
    for (index, disk) in disks.iter().enumerate() {
        let result = directory.join(format!("{}.{suffix}", disk.id));
        if let Some(source) = disks.iter().position(|disk| Path::new(disk.local_path.as_str()) == result) {
            return Err(tree
                .error(
                    Kind::Manifest,
                    "output.directory",
                    format!(
                        "the result of disks[{index}] would take the place of the source of disks[{source}]"
                    ),
                )
                .advice("choose another directory or another id"));
        }
    }
    Ok(())
}
