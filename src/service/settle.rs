//! The end of a batch: its reports are written and its drop is moved to `processed/` or `failed/`.
//!
//! Every step can be taken again: a daemon that died in between finds the file where it left it (by
//! its inode, not by its name) and goes on. Only when all is done does the queue call the batch
//! settled. What is not here: drops that were refused before there was a batch (intake's).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::intake::is_manifest;
use super::kept;
use super::places;
use super::queue::{BatchRow, DropRow, JobRow};
use super::view::batch_report::{History, vm_results};
use super::view::checkpoint::{batch_checkpoint, checkpoint_name};
use crate::model::config::Layout;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::{BatchState, JobState};
use crate::model::plan::Plan;
use crate::model::report::{BatchReport, ErrorReport, FailedVm};
use crate::pipeline::host_lock::{Claims, Holds, directory_of};
use crate::pipeline::publish::{self, DIRECTORY_MODE};
use crate::report::{BATCH_REPORT, batch_pages, batch_report};
use crate::sys::dir::Dir;
use crate::sys::failpoint;
use crate::sys::fs;
use crate::sys::time::{date_utc, rfc3339_utc};

/// Of the reports beside results, which are for whoever may read those.
const FILE_MODE: u32 = 0o644;

/// A report larger than this is not taken into the batch's.
const MAX_REPORT_BYTES: u64 = 16 << 20;

/// An ended batch.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The run.
    pub batch: BatchRow,
    /// Its jobs, all ended.
    pub rows: Vec<JobRow>,
    /// What they have been through.
    pub history: History,
    /// The plans of those that succeeded.
    pub succeeded: Vec<Plan>,
    /// Its drop, no longer on its way to `processing/`.
    pub dropped: DropRow,
    /// The state directory.
    pub layout: Layout,
    /// The batch's output directory.
    pub output_directory: PathBuf,
    /// The locks of this host.
    pub holds: Holds,
    /// Who had claimed them when the jobs had ended. What a retry has claimed since is its own.
    pub claims: Claims,
    /// Another host is to go on with what is not finished.
    pub is_released: bool,
    /// It was to go on with what another host had begun.
    pub takes_over: bool,
    /// Epoch seconds.
    pub now: f64,
}

impl Settlement {
    /// Writes the reports and moves the drop; answers where it lies now, if there is a file.
    pub fn carry_out(&self) -> Result<Option<PathBuf>> {
        let results = vm_results(&self.dropped.name, &self.rows, &self.history, self.vm_reports());
        let report = batch_report(&self.batch.batch_id, Some(&self.dropped.name), results, self.now);
        // An output directory that went away, or that another host has by now, does not keep the drop from being moved.
        if let Err(error) = self.close_results(&report) {
            tracing::warn!(batch = %self.batch.batch_id, %error, "the batch's report is only beside its drop");
        }
        let Some(found) = self.find_file() else { return Ok(None) };
        let (directory, suffix, bytes) = if self.is_good() {
            (self.layout.processed(), ".report.json", encode(&report)?)
        } else {
            (self.layout.failed(), ".error.json", encode(&self.error_report())?)
        };
        let directory = directory.join(date_utc(self.now));
        make_directory(&directory)?;
        self.remove_old_sidecar(&found);
        let place = self.move_with_sidecar(&found, &directory, suffix, &bytes)?;
        failpoint::hit("settle.after-move");
        Ok(Some(place))
    }

    /// The last that this host writes beside the results; then it gives up their locks, or says that another host may go on.
    fn close_results(&self, report: &BatchReport) -> Result<()> {
        let (batch_id, holds) = (&self.batch.batch_id, &self.holds);
        let directories = places::directories(&self.output_directory, &self.rows);
        let written = places::during(holds, batch_id, &directories, self.takes_over, || {
            self.forget_journals();
            self.write_checkpoints(&directories)?;
            self.write_beside_results(report)?;
            // Nothing is left to give away where all is done.
            if self.is_released && !self.is_good() {
                holds.leave(batch_id, true, self.claims)?;
            }
            Ok(())
        });
        written.and(holds.leave(batch_id, false, self.claims))
    }

    fn write_checkpoints(&self, directories: &[PathBuf]) -> Result<()> {
        let host = (self.holds.who().id(), self.holds.who().name());
        let bytes = encode(&batch_checkpoint(&self.batch.batch_id, &self.rows, host, self.now))?;
        directories.iter().try_for_each(|directory| {
            let path = directory.join(checkpoint_name(&self.batch.batch_id));
            fs::atomic_write(&path, &bytes, FILE_MODE)
                .map_err(|error| Error::io(Kind::Output, "write", &path, &error))
        })
    }

    /// A worker keeps its journal until the outcome is recorded. It is now; but a daemon that died
    /// right after could not tell its worker any more.
    fn forget_journals(&self) {
        for plan in &self.succeeded {
            let lock = self.holds.lock_of(directory_of(&self.output_directory, &plan.output.directory));
            if let Err(error) = publish::forget(plan, lock) {
                tracing::warn!(batch = %self.batch.batch_id, vm = %plan.vm_id, %error, "a journal stays beside a result");
            }
        }
    }

    fn is_good(&self) -> bool {
        BatchState::of(self.rows.iter().map(|row| row.state)) == BatchState::Completed
    }

    fn vm_reports(&self) -> BTreeMap<i64, serde_json::Value> {
        let read = |path: &Path| -> Option<serde_json::Value> {
            let bytes = std::fs::metadata(path).ok()?.len();
            (bytes <= MAX_REPORT_BYTES)
                .then(|| std::fs::read(path).ok())
                .flatten()
                .and_then(|bytes| parse(&bytes))
        };
        self.rows.iter().filter_map(|row| Some((row.job_id, read(row.report.as_deref()?)?))).collect()
    }

    /// The pages first: whoever sees the report finds them.
    fn write_beside_results(&self, report: &BatchReport) -> Result<()> {
        make_directory(&self.output_directory)?;
        let pages = batch_pages(report).map(|(name, text)| (name, text.into_bytes()));
        for (name, bytes) in pages.into_iter().chain([(BATCH_REPORT, encode(report)?)]) {
            let path = self.output_directory.join(name);
            fs::atomic_write(&path, &bytes, FILE_MODE)
                .map_err(|error| Error::io(Kind::Output, "write", &path, &error))?;
        }
        Ok(())
    }

    /// The file as it was accepted, wherever it lies by now; `None` if there never was one or somebody took it.
    fn find_file(&self) -> Option<PathBuf> {
        let identity = self.dropped.identity?;
        let is_it = |path: &Path| {
            let named =
                if self.dropped.is_directory() { path.join(&self.dropped.name) } else { path.to_owned() };
            std::fs::symlink_metadata(named)
                .is_ok_and(|m| m.ino() == identity.inode && m.size() == identity.size)
        };
        let in_processing =
            self.dropped.processing_name.as_ref().map(|name| self.layout.processing().join(name));
        if let Some(path) = in_processing.filter(|path| path.symlink_metadata().is_ok()) {
            return Some(path);
        }
        // A redacted copy is another file, known by what lies beside it.
        let has_our_report = |path: &Path| {
            [".report.json", ".error.json"].iter().any(|s| self.is_ours(&kept::beside(path, s)))
        };
        let settled = self.dropped.settled_path.clone();
        if let Some(path) = settled.filter(|path| is_it(path) || (path.exists() && has_our_report(path))) {
            return Some(path);
        }
        [self.layout.processed(), self.layout.failed()]
            .iter()
            .flat_map(|area| std::fs::read_dir(area).into_iter().flatten().flatten())
            .flat_map(|date| candidates(&date.path(), OsStr::new(&self.dropped.name)))
            .find(|path| is_it(path))
    }

    /// What was said of an earlier end (before a retry) no longer holds.
    fn remove_old_sidecar(&self, file: &Path) {
        if self.dropped.settled_path.as_deref() == Some(file) {
            for suffix in [".report.json", ".error.json"] {
                // Not there is what was wanted; anything else leaves an old report behind, which is no harm.
                let _ = std::fs::remove_file(kept::beside(file, suffix));
            }
        }
    }

    /// The sidecar first, so that whoever sees the file finds it; both under the first name that is free.
    fn move_with_sidecar(
        &self,
        from: &Path,
        directory: &Path,
        suffix: &str,
        bytes: &[u8],
    ) -> Result<PathBuf> {
        let told = |error: std::io::Error| Error::io(Kind::Output, "put away the drop", from, &error);
        // A disk is the guest's, and stays as it is. Of a batch each manifest is looked into where it lies.
        for file in self.dropped.files.iter().filter(|file| is_manifest(OsStr::new(&file.name))) {
            match kept::redact(&from.join(&file.name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(told(error)),
                _ => {}
            }
        }
        let redacted = match self.dropped.files.is_empty() {
            true => kept::redacted(from).map_err(told)?,
            false => None,
        };
        for number in 1u32.. {
            let target = directory.join(fs::numbered(OsStr::new(&self.dropped.name), number));
            let sidecar = kept::beside(&target, suffix);
            if target == from {
                kept::write_report(&sidecar, bytes)?;
                return Ok(target);
            }
            let there = target.symlink_metadata().is_ok();
            // A daemon that died before it could remove what its copy stands for.
            let is_our_copy = there
                && redacted.is_some()
                && std::fs::read(&target).ok() == redacted
                && self.is_ours(&sidecar);
            if !is_our_copy && (there || !self.is_free_or_ours(&sidecar)) {
                continue;
            }
            kept::write_report(&sidecar, bytes)?;
            failpoint::hit("settle.before-move");
            let put = if is_our_copy {
                std::fs::remove_file(from)
            } else {
                kept::put(from, redacted.as_deref(), &target)
            };
            match put {
                Ok(()) => return Ok(target),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let _ = std::fs::remove_file(&sidecar);
                }
                Err(error) => return Err(told(error)),
            }
        }
        Err(Error::internal("there are no names left for a drop"))
    }

    /// A sidecar without its file may be one that an earlier daemon wrote for this very batch.
    fn is_free_or_ours(&self, sidecar: &Path) -> bool {
        sidecar.symlink_metadata().is_err() || self.is_ours(sidecar)
    }

    fn is_ours(&self, sidecar: &Path) -> bool {
        let Some(value) = std::fs::read(sidecar).ok().and_then(|bytes| parse(&bytes)) else {
            return false;
        };
        [&value["batch_id"], &value["batch"]["batch_id"]].into_iter().any(|id| *id == self.batch.batch_id)
    }

    /// What `<name>.error.json` says: of one failed VM all that is known, of several also which.
    fn error_report(&self) -> ErrorReport {
        let bad: Vec<&JobRow> = self
            .rows
            .iter()
            .filter(|row| matches!(row.state, JobState::Failed | JobState::Cancelled))
            .collect();
        let error_of = |row: &JobRow| {
            row.error.clone().unwrap_or_else(|| Error::new(Kind::Cancelled, "cancelled by the operator"))
        };
        // A VM that failed by itself says more than one that failed or was cancelled because of it.
        let by_itself =
            |row: &&&JobRow| row.state == JobState::Failed && error_of(row).kind() != Kind::Cancelled;
        let worst = bad.iter().find(by_itself).or(bad.first());
        let timestamp = rfc3339_utc(self.now);
        let error = worst.map_or_else(|| Error::internal("it failed"), |row| error_of(row));
        let mut report = ErrorReport::refused(&self.dropped.name, timestamp, &error);
        report.phase = "job".to_owned();
        report.batch_id = Some(self.batch.batch_id.clone());
        if let Some(row) = worst {
            report.vm_id = Some(row.vm_id.clone());
            report.job_id = Some(row.job_id);
            report.attempts = Some(row.attempt);
            let log = self.layout.job_log(&row.batch_id, &row.vm_id, row.attempt);
            report.log = Some(log).filter(|log| row.attempt > 0 && log.exists());
        }
        if self.rows.len() > 1 {
            let entry = |row: &&JobRow| FailedVm {
                vm_id: row.vm_id.clone(),
                job_id: row.job_id,
                kind: error_of(row).kind(),
                error: error_of(row).to_string(),
            };
            report.failed_vms = Some(bad.iter().map(entry).collect());
        }
        report
    }
}

/// `x.json`, `x-2.json`, … as long as there are such files.
fn candidates(directory: &Path, name: &OsStr) -> Vec<PathBuf> {
    (1..)
        .map(|number| directory.join(fs::numbered(name, number)))
        .take_while(|path| path.symlink_metadata().is_ok())
        .collect()
}

fn make_directory(path: &Path) -> Result<()> {
    let made = Dir::create_all(path, DIRECTORY_MODE).map(drop);
    made.map_err(|error| Error::io(Kind::Output, "make", path, &error))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::internal(format!("a report cannot be written: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Option<serde_json::Value> {
    serde_json::from_slice(bytes).ok()
}
