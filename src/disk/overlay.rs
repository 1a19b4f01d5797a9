//! Overlays: what is changed of a source, while the source itself is only read.
//!
//! ```text
//!   written by the guest work:   overlay ──▶ source (read-only)       make_overlay
//!   of a source elsewhere:       overlay ──▶ copy (read-only)         make_overlay_on_copy
//!   as a disk of its own:        overlay ──▶ source                   SourceDisk::seen_through
//!   put into the finished copy:  overlay ──▶ result                   commit_overlay
//! ```
//!
//! The overlay's header names the source, with every driver; that is how whoever writes it opens it. A
//! plain `qemu-img commit` of it would write **into the source**, even into one that is read-only for its
//! owner when root does it. So an overlay is committed only through a tree of nodes in which the result
//! stands where the source stood: the source is not part of it, is not opened, and the sandbox of that
//! child does not know it. Nothing is re-based, so committing leaves the overlay as it was, and may be done again
//! after a crash. What is not here: who writes an overlay, and when it may be committed.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::disk::control::Control;
use crate::disk::copy::{create, flushing};
use crate::disk::engine::{Engine, short_limits};
use crate::disk::facts::{FileIdentity, LayerFile, SourceDisk};
use crate::disk::failure::Call;
use crate::disk::format::Format;
use crate::disk::native::PIECE_BYTES;
use crate::disk::node;
use crate::disk::watch;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, SourceFormat};
use crate::sys::fs::{parent_of, sync_dir};
use crate::sys::process::ChildLimits;

/// What a qcow2 header can hold as the name of its backing file.
const MOST_NAME_BYTES: usize = 1023;
/// In what an overlay grows, as QEMU has it by itself, …
const USUAL_CLUSTER: u64 = 64 << 10;
/// … and where it has to hold whole pieces of a copy.
const COPYS_PIECE: u64 = PIECE_BYTES;
/// A fresh overlay is some tables, however large the disk is.
const FRESH_BYTES: u64 = 256 << 20;
/// Tables that a result may grow by, besides the overlay's content.
const GROWTH_SLACK: u64 = 64 << 20;

impl Engine {
    /// Makes an empty overlay on a source, of the source's size or larger; nothing of the source is opened.
    ///
    /// The file must not be there yet.
    pub fn make_overlay(
        &self,
        source: &SourceDisk,
        path: &Path,
        virtual_size: u64,
        control: &Control,
    ) -> Result<()> {
        // What is not on this machine no QEMU opens, unless we serve it: only we see it through the overlay, whatever its header says.
        let is_seen = !source.is_remote() || source.node.is_some();
        let below = if is_seen { Some((source.qemu_node()?, &*source.path)) } else { None };
        self.make_fresh(below, USUAL_CLUSTER, path, virtual_size, control)
    }

    /// The same on a finished copy, in whose pieces it grows: whatever is changed of a piece, all of it is in the overlay then. So the result
    /// can be held against the overlay and what is known of the copy, and the source need not be read for that.
    pub fn make_overlay_on_copy(
        &self,
        (copy, format): (&Path, OutputFormat),
        path: &Path,
        virtual_size: u64,
        control: &Control,
    ) -> Result<()> {
        let node = node::result(format, copy)?;
        self.make_fresh(Some((&node, copy)), COPYS_PIECE, path, virtual_size, control)
    }

    fn make_fresh(
        &self,
        below: Option<(&Value, &Path)>,
        cluster: u64,
        path: &Path,
        virtual_size: u64,
        control: &Control,
    ) -> Result<()> {
        let layout = format!("compat=1.1,lazy_refcounts=off,cluster_size={cluster}");
        let mut args = ["create", "-q", "-u", "-f", "qcow2", "-o", &layout].map(str::to_owned).to_vec();
        if let Some((node, named)) = below {
            let backing = node::name(node);
            if backing.len() > MOST_NAME_BYTES {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("{} and what it stands on cannot be named in an overlay", named.display()),
                )
                .source(named.display().to_string())
                .advice("consolidate its snapshots, or move its files to a directory with a shorter path"));
            }
            let driver = node["driver"].as_str().unwrap_or("raw").to_owned();
            args.extend(["-b".to_owned(), backing, "-F".to_owned(), driver]);
        }
        args.extend([name_of(path)?, virtual_size.to_string()]);
        create(path)?;
        let limits = ChildLimits { file_size_bytes: Some(FRESH_BYTES), ..short_limits() };
        let spec = self.spec(args, Vec::new(), vec![path.to_owned()], limits);
        let call = Call {
            tool: "qemu-img create",
            kind: Kind::Output,
            source: None,
            target: Some((path, FRESH_BYTES)),
        };
        self.run(&spec, &call, control).map(drop)
    }

    /// Writes what an overlay holds into a finished copy of its source; durable when it returns.
    ///
    /// The overlay stays as it is. Done again after it was cut, it gives the same result.
    pub fn commit_overlay(
        &self,
        overlay: &Path,
        result: &Path,
        format: OutputFormat,
        control: &Control,
        on_progress: &mut dyn FnMut(f64),
    ) -> Result<()> {
        let fail =
            |what: &str, error: &std::io::Error| Error::io(Kind::Output, what, result, error).output(result);
        if !matches!(format, OutputFormat::Qcow2 | OutputFormat::Raw) {
            return Err(Error::internal(format!("nothing can be committed into {}", format.name())));
        }
        let file = open_for_writing(result).map_err(|error| fail("open", &error))?;
        let (grown, size) = {
            let overlay = std::fs::metadata(overlay)
                .map_err(|error| Error::io(Kind::Output, "look at", overlay, &error))?;
            let result = file.metadata().map_err(|error| fail("look at", &error))?;
            if (overlay.dev(), overlay.ino()) == (result.dev(), result.ino()) {
                return Err(Error::internal("an overlay was to be committed into itself"));
            }
            (overlay.len(), result.len())
        };
        let node = over(overlay, &node::result(format, result)?)?;
        let args = ["commit", "-p", "-d", &node::name(&node)].map(str::to_owned).to_vec();
        let guest_sees = self.virtual_size(&standing(overlay)?, &[overlay.to_owned()], control)?;
        let longest = size.max(guest_sees).saturating_add(grown).saturating_add(GROWTH_SLACK);
        let limits = ChildLimits { file_size_bytes: Some(longest), ..self.long_limits() };
        let spec = self.spec(args, Vec::new(), vec![overlay.to_owned(), result.to_owned()], limits);
        let call = Call {
            tool: "qemu-img commit",
            kind: Kind::Conversion,
            source: None,
            target: Some((result, grown)),
        };
        let output = flushing(&file, || watch::run(self, &spec, &call, control, on_progress))?;
        if !output.status.success() {
            return Err(call.failed(&output));
        }
        file.sync_all().map_err(|error| fail("make durable", &error))?;
        sync_dir(parent_of(result)).map_err(|error| fail("make durable", &error))
    }

    /// The size of the disk that an overlay shows.
    pub fn overlay_size(&self, overlay: &Path, control: &Control) -> Result<u64> {
        self.virtual_size(&standing(overlay)?, &[overlay.to_owned()], control)
    }
}

impl SourceDisk {
    /// This disk as an overlay on it shows it: to be copied or compared like any source, and only read.
    pub fn seen_through(&self, overlay: &Path, virtual_size: u64) -> Result<SourceDisk> {
        let mut seen = self.clone();
        seen.node = self.node.as_ref().map(|below| over(overlay, below)).transpose()?;
        seen.files.insert(0, FileIdentity::read(overlay)?);
        seen.own_files += 1;
        seen.layers.insert(
            0,
            LayerFile {
                place: overlay.into(),
                declared: SourceFormat::Qcow2,
                found: Format::Qcow2,
                extents: Vec::new(),
            },
        );
        seen.format = SourceFormat::Qcow2;
        seen.facts.virtual_size = virtual_size;
        Ok(seen)
    }
}

/// An overlay with what it stands on, whatever its header says.
pub(crate) fn over(overlay: &Path, backing: &Value) -> Result<Value> {
    let mut node = standing(overlay)?;
    node["backing"] = backing.clone();
    Ok(node)
}

/// An overlay alone, on nothing.
fn standing(overlay: &Path) -> Result<Value> {
    Ok(json!({ "driver": "qcow2", "file": node::file(overlay)?, "backing": null }))
}

fn open_for_writing(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(std::io::Error::other)?;
    File::options().read(true).write(true).custom_flags(nofollow).open(path)
}

fn name_of(path: &Path) -> Result<String> {
    match path.to_str() {
        // A relative name could be taken for an option or a protocol.
        Some(name) if path.is_absolute() => Ok(name.to_owned()),
        _ => Err(Error::new(Kind::Output, format!("{} is not an absolute path in UTF-8", path.display()))
            .advice("choose another output directory")
            .output(path)),
    }
}
