//! Which directories a batch's results lie in, and what is done there once no job of it runs: under their locks.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::queue::{BatchRow, JobRow};
use super::view::checkpoint::{BatchCheckpoint, HOST, HOST_NAME, checkpoint_name};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::JobState;
use crate::model::plan::Plan;
use crate::pipeline::host_lock::{Holds, Who, directory_of};
use crate::sys::dir::Dir;

/// No checkpoint is larger: some ten thousand VMs.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// The batch's output directory: its own, or one below the settings'.
pub(super) fn batch_directory(output_dir: &Path, batch: &BatchRow) -> PathBuf {
    batch.output_directory.clone().unwrap_or_else(|| output_dir.join(&batch.batch_id))
}

/// Every directory under whose lock something of a batch is written: its own, and those of VMs that lie elsewhere.
pub(super) fn directories(batch_directory: &Path, rows: &[JobRow]) -> Vec<PathBuf> {
    let of_vms = rows.iter().filter(|row| row.state != JobState::Skipped && !row.refused);
    let of_vms = of_vms.map(|row| directory_of(batch_directory, &row.output_directory).to_owned());
    let all: BTreeSet<PathBuf> = std::iter::once(batch_directory.to_owned()).chain(of_vms).collect();
    all.into_iter().collect()
}

/// Takes the locks of these directories for a job of a batch. One in which another host had the last word on it is that host's, lock or no lock:
/// whoever comes back after it was taken for gone may find all done, and nobody there.
pub(super) fn claim(holds: &Holds, batch_id: &str, directories: &[PathBuf], takeover: bool) -> Result<()> {
    refuse_what_others_have(holds, batch_id, directories, takeover)?;
    holds.claim(batch_id, directories, takeover)
}

fn refuse_what_others_have(
    holds: &Holds,
    batch_id: &str,
    directories: &[PathBuf],
    takeover: bool,
) -> Result<()> {
    if !takeover {
        let held = holds.directories_of(batch_id);
        let mut new = directories.iter().filter(|directory| !held.contains(directory));
        new.try_for_each(|directory| refuse_what_is_elsewhere(holds.who(), batch_id, directory))?;
    }
    Ok(())
}

/// Does something there under their locks, which are given up again if the batch had not got them before and no job of it has begun.
pub(super) fn during<T>(
    holds: &Holds,
    batch_id: &str,
    directories: &[PathBuf],
    takeover: bool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (held, known) = (holds.directories_of(batch_id), holds.claims());
    refuse_what_others_have(holds, batch_id, directories, takeover)?;
    holds.take(batch_id, directories, takeover)?;
    let outcome = holds.not_ours(directories).map_or_else(work, Err);
    directories.iter().filter(|directory| !held.contains(directory)).for_each(|directory| {
        if let Err(error) = holds.leave_one(batch_id, directory, false, known) {
            tracing::warn!(directory = %directory.display(), %error, "its lock stays");
        }
    });
    outcome
}

/// Does something with what a VM left, under the lock of where that lies.
pub(super) fn where_it_lies(
    holds: &Holds,
    (batch_id, batch_directory): (&str, &Path),
    plan: &Plan,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let results = &plan.output.directory;
    // Nothing is there, and nothing to lock.
    if !results.exists() {
        return Ok(());
    }
    let directories = [directory_of(batch_directory, results).to_owned()];
    during(holds, batch_id, &directories, false, work)
}

/// The checkpoint of a batch in a directory. One that cannot be read costs work that was done, never a result.
pub(super) fn checkpoint(dir: &Dir, batch_id: &str) -> Option<BatchCheckpoint> {
    let name = checkpoint_name(batch_id);
    let read = dir.read(&name, CHECKPOINT_BYTES).and_then(|bytes| match bytes {
        Some(bytes) => serde_json::from_slice::<BatchCheckpoint>(&bytes).map(Some).map_err(io::Error::other),
        None => Ok(None),
    });
    match read {
        Ok(checkpoint) => checkpoint.filter(|checkpoint| checkpoint.batch_id == batch_id),
        Err(error) => {
            tracing::warn!(path = %dir.path().join(name).display(), %error, "the checkpoint is of no use");
            None
        }
    }
}

/// Why a batch is another host's, if its checkpoint says so.
pub(super) fn elsewhere(checkpoint: &BatchCheckpoint, who: &Who, directory: &Path) -> Option<Error> {
    let host = checkpoint.metadata.get(HOST)?.as_str()?;
    if host == who.id() {
        return None;
    }
    let name = checkpoint.metadata.get(HOST_NAME).and_then(|name| name.as_str()).unwrap_or("another host");
    let (batch_id, place) = (&checkpoint.batch_id, directory.display());
    Some(
        Error::new(Kind::Exists, format!("batch `{batch_id}` in {place} was last worked on by {name}"))
            .output(directory)
            .advice("`hyper2kvm submit --takeover` with its manifest goes on with what that host has left"),
    )
}

fn refuse_what_is_elsewhere(who: &Who, batch_id: &str, directory: &Path) -> Result<()> {
    // One that cannot be opened is told when it is locked.
    let Ok(dir) = Dir::open(directory) else { return Ok(()) };
    checkpoint(&dir, batch_id).and_then(|found| elsewhere(&found, who, directory)).map_or(Ok(()), Err)
}
