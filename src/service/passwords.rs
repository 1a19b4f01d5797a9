//! Passwords that manifests hold, kept apart from everything else: a file for each account of a batch, for the service's own user alone.
//!
//! The queue holds no secret, and jobs work from the queue. So a plan names a file, which is written before the job is recorded, and goes when nothing
//! of its batch is left to do, at its sources neither. Both happen on the queue's thread: no batch is taken for one that has ended while it is
//! just being accepted. What is not here: what is read from it (see `pipeline::remote`).

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::queue::Db;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Secret;
use crate::model::plan::Plan;
use crate::model::planner::{Submission, VmSubmission};
use crate::model::remote::PlannedLogin;
use crate::sys::fs::{atomic_write, parent_of, sync_dir};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What is to be kept for these VMs, and where: also of those that are done, since what was done at their sources may have to be undone. Two passwords for one account are a mistake in one of them.
pub(super) fn of<'v>(
    vms: impl Iterator<Item = (&'v VmSubmission, &'v Plan)>,
) -> Result<BTreeMap<&'v Path, &'v Secret>> {
    let mut all: BTreeMap<&Path, &Secret> = BTreeMap::new();
    for (vm, plan) in vms {
        let login = plan.remote.as_ref().map(|remote| &remote.login);
        let (Some(password), Some(PlannedLogin::KeptPassword { username, file })) = (&vm.password, login)
        else {
            continue;
        };
        if all.insert(file, password).is_some_and(|other| other != password) {
            return Err(Error::new(
                Kind::Manifest,
                format!("{}: another VM of the batch has another password for {username}", vm.vm_id),
            )
            .field("source.vsphere.password")
            .advice("correct it, or name a stored credential"));
        }
    }
    Ok(all)
}

/// Whoever mends a password drops what counts as the same content.
pub(super) fn told_of_refusal(error: Error, submission: &Submission) -> Error {
    let holds_one = submission.vms.iter().any(|vm| vm.password.is_some());
    match holds_one && error.kind() == Kind::Duplicate {
        true => error.advice(
            "another password makes no other batch: cancel that one and drop this again, or write the password into the file that `hyper2kvm show` names",
        ),
        false => error,
    }
}

/// Writes them, durable on return.
pub(super) fn keep(all: &BTreeMap<&Path, &Secret>) -> Result<()> {
    for (file, password) in all {
        let batch = parent_of(file);
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(batch)?;
            atomic_write(file, format!("{}\n", password.reveal()).as_bytes(), FILE_MODE)?;
            sync_dir(parent_of(batch))?;
            sync_dir(parent_of(parent_of(batch)))
        };
        write().map_err(|error| {
            Error::io(Kind::Output, "keep the password of a manifest in", file, &error)
                .advice("let the service's user write there, or name a stored credential; then drop it again")
        })?;
    }
    Ok(())
}

/// Removes those of batches of which nothing is left to do. `directory`: where all are.
pub(super) fn forget(db: &Db, directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_needed = match entry.file_name().to_str() {
            Some(batch_id) => db.is_at_work(batch_id)?,
            None => false,
        };
        if is_needed {
            continue;
        }
        let path: PathBuf = entry.path();
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), "a password that is not needed any more cannot be removed: {error}");
        }
    }
    Ok(())
}
