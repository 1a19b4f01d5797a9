//! How a copy begins: with an empty file, or with what an earlier one has left.
//!
//! An earlier run is gone on from only where nothing speaks against it: its journal is about this very source and target, its file is the one
//! that it names, and what was written last is there as it was written. Else both are removed, and the copy begins anew.

use std::fs::File;
use std::io;
use std::path::Path;

use super::journal::{Journal, Record, Subject, is_there};
use super::objection::objection;
use crate::disk::copy::{Target, create};
use crate::disk::facts::SourceDisk;
use crate::disk::read;
use crate::disk::write::{self, Writer};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, Preallocation};
use crate::sys::boot::boot_id;
use crate::sys::fs::{open_to_go_on, parent_of, sync_dir};

/// So much of what was written last is looked at again.
const LOOKED_AT_BYTES: u64 = 64 << 20;

/// How far an earlier run got.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// All data before is in the target.
    pub(super) until: u64,
    /// How much that is.
    pub(super) bytes: u64,
}

/// A copy that may go on.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) file: File,
    pub(super) writer: Box<dyn Writer>,
    pub(super) journal: Option<Journal>,
    pub(super) done: Done,
    /// Whether there is nothing to copy, because the file system lets the target have what the source has.
    pub(crate) is_shared: bool,
    /// Why what an earlier run has left was of no use.
    pub(super) restarted: Option<String>,
}

/// Opens what there is, or makes what there has to be.
pub(crate) fn begin(source: &SourceDisk, target: &Target, looks_again: bool) -> Result<Begun> {
    let path = &target.path;
    let failed = |what: &'static str, at: &Path| {
        let at = at.to_owned();
        move |error: io::Error| Error::io(Kind::Output, what, &at, &error).output(path)
    };
    let mut restarted = None;
    if let Some(journal) = &target.journal {
        match go_on(source, target, journal, looks_again) {
            Ok(Some(begun)) => {
                tracing::info!(path = %path.display(), kept_bytes = begun.done.bytes, "an earlier copy goes on");
                return Ok(begun);
            }
            Ok(None) => restarted = Some(objection_of(source, target, looks_again, journal)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => restarted = Some(format!("its partial result cannot be gone on from: {error}")),
        }
    }
    if let Some(why) = &restarted {
        tracing::warn!(path = %path.display(), why, "an earlier copy is of no use");
    }
    let file = make_anew(target)?;
    let is_shared = share(source, target, &file)?;
    let journal = target.journal.as_ref().map(|at| {
        let subject = subject(source, target, &file, looks_again).map_err(failed("look at", path))?;
        let mut journal = Journal::begin(at, &subject, boot_id().as_deref()).map_err(failed("make", at))?;
        sync_dir(parent_of(path)).map_err(failed("make durable", path))?;
        if is_shared {
            file.sync_all().and_then(|()| journal.shared()).map_err(failed("make durable", at))?;
        }
        Ok(journal)
    });
    let journal = journal.transpose()?;
    let size = source.facts.virtual_size;
    let writer = write::open(&file, target, size).map_err(failed("write", path))?;
    let done = if is_shared { Done { until: size, bytes: 0 } } else { Done::default() };
    Ok(Begun { file, writer, journal, done, is_shared, restarted })
}

/// Lets a raw result have the blocks of a raw source, where both lie on a file system that can share them. Whoever changes the one later gets
/// blocks of its own for that.
fn share(source: &SourceDisk, target: &Target, file: &File) -> Result<bool> {
    if target.format != OutputFormat::Raw || target.preallocation != Preallocation::Off {
        return Ok(false);
    }
    let Some(from) = read::whole_file(source)? else { return Ok(false) };
    // Another file system, or one that cannot: then it is copied.
    Ok(rustix::fs::ioctl_ficlone(file, &from).is_ok())
}

/// An empty file to copy into. What an earlier run has left goes, if there is a journal of it; else a file that is there is refused.
pub(crate) fn make_anew(target: &Target) -> Result<File> {
    if let Some(journal) = &target.journal {
        for left in [journal, &target.path] {
            match std::fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(Kind::Output, "remove", left, &error).output(&target.path));
                }
                _ => {}
            }
        }
    }
    create(&target.path)
}

fn subject(source: &SourceDisk, target: &Target, file: &File, is_looked_at: bool) -> io::Result<Subject> {
    let size = source.facts.virtual_size;
    let subject = Subject::new(source.lasting_identity(), size, target.format, file, is_looked_at)?;
    Ok(subject.made_as(target))
}

/// What speaks against the journal that is there.
fn objection_of(source: &SourceDisk, target: &Target, looks_again: bool, journal: &Path) -> String {
    let found = open_to_go_on(&target.path)
        .and_then(|file| subject(source, target, &file, looks_again))
        .and_then(|subject| objection(journal, &subject));
    found.map_or_else(|error| format!("its partial result cannot be gone on from: {error}"), str::to_owned)
}

fn go_on(
    source: &SourceDisk,
    target: &Target,
    journal: &Path,
    looks_again: bool,
) -> io::Result<Option<Begun>> {
    let file = open_to_go_on(&target.path)?;
    let subject = subject(source, target, &file, looks_again)?;
    let size = source.facts.virtual_size;
    let writer = write::open(&file, target, size)?;
    let (mut done, mut last) = (Done::default(), Last::default());
    let journal = Journal::go_on(journal, &subject, boot_id().as_deref(), &mut |record| {
        let end = record.at.saturating_add(u64::from(record.length));
        if record.at < done.until || end > size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the journal tells of another disk"));
        }
        writer.place(&record.placed)?;
        done = Done { until: end, bytes: done.bytes + u64::from(record.length) };
        last.add(record);
        Ok(())
    })?;
    let Some(journal) = journal else { return Ok(None) };
    for record in &last.records {
        if !is_there(record, writer.as_ref())? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what was written last is not there any more",
            ));
        }
    }
    writer.go_on()?;
    let is_shared = journal.is_shared();
    if is_shared {
        done.until = size;
    }
    Ok(Some(Begun { file, writer, journal: Some(journal), done, is_shared, restarted: None }))
}

/// The records that came last.
#[derive(Default)]
struct Last {
    records: std::collections::VecDeque<Record>,
    bytes: u64,
}

impl Last {
    fn add(&mut self, record: Record) {
        self.bytes += u64::from(record.length);
        self.records.push_back(record);
        while self.bytes > LOOKED_AT_BYTES {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= u64::from(oldest.length);
        }
    }
}
