//! What another host has left where a submission is to put its results: its lock, and its checkpoint of the batch.
//!
//! Asked outside the queue's thread, each directory on a thread of its own that nobody waits for longer than is reasonable. A checkpoint is
//! a file that others may have written: a VM counts as done only with this very content, and with files that lie where it would put them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::results::Known;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::JobState;
use crate::model::plan::Plan;
use crate::pipeline::host_lock::{self, Who};
use crate::service::places::{checkpoint, elsewhere};
use crate::service::view::checkpoint::{BatchCheckpoint, batch_of_checkpoint};
use crate::sys::dir::Dir;

/// How long a directory is waited for: longer than a lock that looks left behind is watched.
const PATIENCE: Duration = Duration::from_secs(40);

/// Whether results may be put there, and what of the batch was made there by another host.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    refusal: Option<Error>,
    checkpoint: Option<BatchCheckpoint>,
}

impl Place {
    /// Why nothing may be put there, if that is so.
    #[must_use]
    pub fn refusal(&self) -> Option<&Error> {
        self.refusal.as_ref()
    }

    /// What another host has left, as it was seen before anything of ours came to lie there.
    pub(super) fn left(checkpoint: BatchCheckpoint) -> Place {
        Place { refusal: None, checkpoint: Some(checkpoint) }
    }

    /// What another host has made of the batch, if it is to be taken over.
    pub(super) fn checkpoint(&self) -> Option<&BatchCheckpoint> {
        self.checkpoint.as_ref()
    }

    /// The files that a VM of this content came to, in the directories where it would put them.
    #[must_use]
    pub fn made(&self, content_sha256: &str, plan: &Plan) -> Option<&BTreeMap<PathBuf, Option<String>>> {
        let vm = self.checkpoint.as_ref()?.vms.get(&plan.vm_id)?;
        let mut directories = plan.directories_elsewhere();
        directories.push(&plan.output.directory);
        let is_done = matches!(vm.state, JobState::Succeeded | JobState::Skipped)
            && vm.manifest_sha256 == content_sha256
            && !vm.outputs.is_empty();
        let is_its = |path: &PathBuf| path.parent().is_some_and(|parent| directories.contains(&parent));
        (is_done && vm.outputs.keys().all(is_its)).then_some(&vm.outputs)
    }
}

/// Takes the checkpoints out of what is asked, and finds out what there is where they lie.
pub(in crate::service) fn find_out(
    asked: &mut BTreeSet<PathBuf>,
    (who, takeover): (&Who, bool),
    known: &mut Known,
) -> Result<()> {
    let mut answers = Vec::new();
    for path in asked.clone() {
        let name = path.file_name().and_then(OsStr::to_str).and_then(batch_of_checkpoint);
        let (Some(batch_id), Some(directory)) = (name.map(str::to_owned), path.parent()) else { continue };
        asked.remove(&path);
        let (tell, told) = mpsc::channel();
        let (at, who, directory) = (directory.to_owned(), who.clone(), directory.to_owned());
        thread::Builder::new()
            .name("places".to_owned())
            .spawn(move || {
                // Whoever asked may have lost patience.
                let _ = tell.send(look(&at, &who, &batch_id, takeover));
            })
            .map_err(|error| Error::internal(format!("cannot start a thread: {error}")).transient())?;
        answers.push((directory, told));
    }
    for (directory, told) in answers {
        let place = told.recv_timeout(PATIENCE).map_err(|_| {
            Error::new(Kind::Output, format!("{} does not answer", directory.display()))
                .output(&directory)
                .advice("mend the file system it lies on, then submit again")
                .transient()
        })??;
        known.learn_place(directory, place);
    }
    Ok(())
}

fn look(directory: &Path, who: &Who, batch_id: &str, takeover: bool) -> Result<Place> {
    let dir = match Dir::open(directory) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Place { refusal: None, checkpoint: None });
        }
        Err(error) => return Err(Error::io(Kind::Output, "open", directory, &error).output(directory)),
    };
    let found = checkpoint(&dir, batch_id);
    let refusal = host_lock::look(&dir, who, batch_id, takeover).err();
    let refusal = refusal.or_else(|| elsewhere(found.as_ref().filter(|_| !takeover)?, who, directory));
    Ok(Place { refusal, checkpoint: found.filter(|_| takeover) })
}
