//! The SHA-256 of what was published: made when the result is there already, and put into its report then.
//!
//! ```text
//!   published, report without digests ─▶ each file is read ─▶ journal: the digests, and the report with them ─▶ its pages, then it replaced
//! ```
//!
//! Where nothing will change a file any more, its digest is begun as soon as it is finished, and made while the others are copied and all is proved.
//!
//! A digest tells whoever gets the file that it is this one; it proves nothing of what is in it, which was proved before. So nobody has to wait
//! for it. From the first of these steps on the result may be taken away by whom it was made for: a file that is not there any more has no
//! digest, and that is no failure. What is not here: the digests of sources.

use std::collections::BTreeMap;
use std::path::Path;

use crate::disk::{Beside, Control, Interruption, verify};
use crate::model::checksum::Algorithm;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::PlannedDisk;
use crate::model::protocol::Published;
use crate::pipeline::checkpoint::{Digests, FileMark, Intent};
use crate::pipeline::meter::Pass;
use crate::pipeline::report::Written;
use crate::pipeline::texts;
use crate::pipeline::worker::Job;
use crate::sys::failpoint;

/// Digests that are made of finished files while other work goes on: each of the file as it was when it was finished.
#[derive(Debug, Default)]
pub(super) struct Early(BTreeMap<String, (FileMark, Beside)>);

impl Early {
    /// Begins with a disk's file, of which nothing more is written unless it is repaired.
    pub(super) fn begin(&mut self, disk: &str, path: &Path, file: FileMark, control: &Control) {
        let beside = Beside::begin(vec![(path.into(), Algorithm::Sha256)], file.size, control);
        beside.follow(1.0);
        self.0.insert(disk.to_owned(), (file, beside));
    }

    /// What was begun of a disk, if it is still the same file.
    fn take(&mut self, disk: &str, file: FileMark) -> Option<Beside> {
        let (begun, beside) = self.0.remove(disk)?;
        (begun == file).then_some(beside)
    }
}

/// Makes those that are wanted and not made, and gives what was published with them.
pub(super) fn finish(job: &mut Job<'_>, intent: Intent) -> Result<Published> {
    let intent = match intent.digests {
        Digests::Unwanted => return Ok(intent.outcome),
        Digests::Wanted => {
            let declared = Intent { digests: Digests::Due, ..intent };
            record(job, &declared)?;
            failpoint::hit("publish.before-digests");
            made(job, declared)?
        }
        Digests::Due => made(job, intent)?,
        Digests::Made { .. } => intent,
    };
    texts::replace(&job.place.results, &intent)?;
    Ok(intent.outcome)
}

/// Makes those that are wanted before libvirt is told of the files, which change from then on: they are in the report from its beginning.
pub(super) fn before_handover(job: &mut Job<'_>, mut intent: Intent) -> Result<Intent> {
    if intent.digests == Digests::Wanted {
        fill_in(job, &mut intent)?;
        intent.digests = Digests::Unwanted;
        record(job, &intent)?;
    }
    Ok(intent)
}

/// Every digest that can be had, into the outcome.
fn fill_in(job: &mut Job<'_>, intent: &mut Intent) -> Result<()> {
    for (number, disk) in job.plan.disks.iter().enumerate() {
        let Some(digest) = digest(job, intent, number, disk)? else { continue };
        let path = intent.renames[number].path(job.place.dirs());
        if let Some(report) = &mut intent.outcome.content
            && let Some(artifact) = report.artifacts.iter_mut().find(|artifact| artifact.path == path)
        {
            artifact.sha256 = Some(digest.clone());
        }
        intent.outcome.outputs.insert(path, Some(digest));
    }
    Ok(())
}

/// The same intent with every digest that can be had, written down.
fn made(job: &mut Job<'_>, mut intent: Intent) -> Result<Intent> {
    fill_in(job, &mut intent)?;
    let is_written = intent.report.is_some();
    let written = intent.outcome.content.as_deref().filter(|_| is_written).map(Written::of).transpose()?;
    intent.digests = match written {
        Some(Written { report, pages }) => {
            let names = intent.pages.iter().map(|(name, _)| name.clone());
            Digests::Made { report: Some(report), pages: names.zip(pages).collect() }
        }
        None => Digests::Made { report: None, pages: Vec::new() },
    };
    record(job, &intent)?;
    failpoint::hit("publish.after-digests");
    Ok(intent)
}

/// The digest of one published file; `None` where it is not there any more, and where nobody waits for it.
fn digest(job: &mut Job<'_>, intent: &Intent, number: usize, disk: &PlannedDisk) -> Result<Option<String>> {
    let Some(rename) = intent.renames.get(number) else { return Ok(None) };
    if !matches!(rename.is_made(job.place.dirs()), Ok(true)) {
        tracing::warn!(file = rename.to, "it has no digest: it is not there any more, or was changed");
        return Ok(None);
    }
    let last = Stage::ALL.into_iter().rev().find(|stage| job.plan.runs(*stage));
    job.meter.detail(last.unwrap_or(Stage::Validate), format!("digest of {}", disk.id));
    let (size, meter) = (rename.file.size.max(1) as f64, &mut job.meter);
    let path = rename.path(job.place.dirs());
    let early = job.early.take(&disk.id, rename.file).and_then(|beside| {
        let limit = job.order.limits.stall_timeout_s;
        let found = beside.finish(limit, job.control, &mut |done| meter.passed(number, Pass::Hash, done));
        found.inspect_err(|error| tracing::info!(%error, "a digest is made anew")).ok()?.pop()
    });
    let made = match early {
        Some(digest) => Ok(digest),
        None => verify::sha256_file(&path, job.control, &mut |done| {
            meter.passed(number, Pass::Hash, done as f64 / size);
        }),
    };
    match (made, job.control.interruption()) {
        (Ok(digest), _) => Ok(Some(digest)),
        // The result is complete and published: there is nothing to cancel but the waiting.
        (Err(_), Some(Interruption::Cancel { .. })) => Ok(None),
        (Err(error), Some(Interruption::Stop)) => Err(error),
        (Err(error), None) => {
            Err(Error::new(Kind::Output, format!("what was published: {}", error.details().cause))
                .output(path)
                .advice("check the storage that the result lies on, then try again"))
        }
    }
}

/// Writes down how far it is.
fn record(job: &mut Job<'_>, intent: &Intent) -> Result<()> {
    job.checkpoint.intent = Some(intent.clone());
    job.save()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn mark(path: &Path) -> FileMark {
        let found = path.metadata().unwrap();
        let mtime_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        FileMark { inode: found.ino(), size: found.len(), mtime_ns }
    }

    #[test]
    fn a_digest_that_was_begun_is_of_the_file_as_it_was_and_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, "abc").unwrap();
        let (control, mut early) = (Control::new(), Early::default());
        early.begin("disk-0", &path, mark(&path), &control);
        assert!(early.take("disk-1", mark(&path)).is_none());
        let digest = early.take("disk-0", mark(&path)).unwrap().finish(60.0, &control, &mut |_| ()).unwrap();
        assert_eq!(digest, ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]);
        early.begin("disk-0", &path, mark(&path), &control);
        std::fs::write(&path, "abcd").unwrap();
        assert!(early.take("disk-0", mark(&path)).is_none());
    }
}
