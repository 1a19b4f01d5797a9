//! How a copy begins: with an empty file, or with what an earlier one has left.
//!
//! An earlier run is gone on from only where nothing speaks against it: its journal is about this very source and target, its file is the one
//! that it names, and what was written last is there as it was written. Else both are removed, and the copy begins anew.

use std::fs::File;
use std::io;
use std::path::Path;

use super::journal::{Journal, Record, Subject, is_there};
use crate::disk::copy::{Target, create};
use crate::disk::facts::SourceDisk;
use crate::disk::write::{self, Writer};
use crate::model::error::{Error, Kind, Result};
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
            Ok(None) => restarted = Some("its source was changed since the earlier attempt".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => restarted = Some(format!("its partial result cannot be gone on from: {error}")),
        }
    }
    if let Some(why) = &restarted {
        tracing::warn!(path = %path.display(), why, "an earlier copy is of no use");
    }
    let file = make_anew(target)?;
    let journal = target.journal.as_ref().map(|at| {
        let subject = subject(source, target, &file, looks_again).map_err(failed("look at", path))?;
        let journal = Journal::begin(at, &subject, boot_id().as_deref()).map_err(failed("make", at))?;
        sync_dir(parent_of(path)).map_err(failed("make durable", path))?;
        Ok(journal)
    });
    let journal = journal.transpose()?;
    let writer = write::open(&file, target, source.facts.virtual_size).map_err(failed("write", path))?;
    Ok(Begun { file, writer, journal, done: Done::default(), restarted })
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
    Ok(Some(Begun { file, writer, journal: Some(journal), done, restarted: None }))
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
