//! The SHA-256 of what was published: made when the result is there already, and put into its report then.
//!
//! ```text
//!   published, report without digests ─▶ each file is read ─▶ journal: the digests, and the report with them ─▶ its pages, then it replaced
//! ```
//!
//! A digest tells whoever gets the file that it is this one; it proves nothing of what is in it, which was proved before. So nobody has to wait
//! for it. From the first of these steps on the result may be taken away by whom it was made for: a file that is not there any more has no
//! digest, and that is no failure. What is not here: the digests of sources.

use crate::disk::{Interruption, verify};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::PlannedDisk;
use crate::model::protocol::Published;
use crate::pipeline::checkpoint::{Digests, Intent};
use crate::pipeline::meter::Pass;
use crate::pipeline::report::Written;
use crate::pipeline::texts;
use crate::pipeline::worker::Job;
use crate::sys::failpoint;

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
    let made = verify::sha256_file(&path, job.control, &mut |done| {
        meter.passed(number, Pass::Hash, done as f64 / size);
    });
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
