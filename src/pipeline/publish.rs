//! Giving finished results their final names: all or none, durable, never over something that is there.
//!
//! On-disk order, each step durable before the next: partial files (data, mode, group) → the intent
//! in the journal → every rename → the texts, with `report.json` last, which marks the result complete. A worker that dies
//! in between finishes the intent when it starts again; where a name was taken meanwhile, the renames
//! that were made are taken back. The journal stays until the outcome is recorded elsewhere, so
//! that nothing is ever published twice. What is not here: the texts ([`super::texts`]), and whether a result is good enough.

use std::borrow::Cow;
use std::io;

use super::checkpoint::{Checkpoint, Digests, Intent, Rename, lock_name, vm_of_journal};
use super::directories::Directories;
use super::handover::{self, Handover};
use super::report::Written;
use super::texts;
use super::users::{User, user_of};
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::{OnExists, Plan};
use crate::model::protocol::Published;
use crate::sys::dir::Dir;
use crate::sys::failpoint;

pub use super::leavings::{abandon, acts, forget, partials, rewind};
pub use super::names::{
    Named, Names, copy_journal_name, extents_name, grown_name, overlay_name, partial_name, partial_names,
    partial_names_elsewhere,
};
pub(super) use super::names::{copy_names, is_partial_name};

/// Directories that are made for results: libvirt's QEMU has to get through.
pub const DIRECTORY_MODE: u32 = 0o751;
/// Results: libvirt's QEMU reads them by their group.
pub const FILE_MODE: u32 = 0o640;
/// Whether a name may be replaced: nothing is there, or a plain file that nobody has locked and no machine is defined with.
pub(super) fn replaceable(dir: &Dir, name: &str) -> Result<()> {
    let path = dir.path().join(name);
    let refused = |why: String| Error::new(Kind::Exists, format!("{} {why}", path.display())).output(&path);
    match dir.entry(name).map_err(failed("look for", dir, name))? {
        None => return Ok(()),
        Some(entry) if !entry.is_file => {
            return Err(refused("is not a plain file".to_owned())
                .advice("only plain files are replaced: remove it yourself or choose another directory"));
        }
        Some(_) => {}
    }
    if dir.is_in_use(name).map_err(failed("open", dir, name))? {
        return Err(refused("is in use".to_owned())
            .advice("a running machine holds it: shut it down, or choose another directory"));
    }
    let machine = "`virsh undefine` the machine if it is not wanted any more, or choose another directory";
    match user_of(&path) {
        User::Nobody => Ok(()),
        User::Names(name) => {
            Err(refused(format!("is in use: the machine {name} is defined with it")).advice(machine))
        }
        User::StandsOn { machine: name, disk } => {
            let disk = disk.display();
            Err(refused(format!("is in use: {disk}, a disk of the machine {name}, stands on it"))
                .advice(machine))
        }
        User::Unknown { why } => {
            Err(refused(format!("may be in use: whether a machine is defined with it cannot be told: {why}"))
                .advice("let libvirt answer and this user read what is named, remove the old result yourself, or choose another directory")
                .transient())
        }
    }
}

/// What is to be published, before names are chosen.
#[derive(Debug)]
pub(super) struct Publication<'a> {
    pub(super) plan: &'a Plan,
    pub(super) dirs: Directories<'a>,
    pub(super) group: Option<u32>,
}

impl Publication<'_> {
    /// Makes the partial files ready: mode, group, durable.
    pub(super) fn settle_files(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mode = self.plan.output.mode.unwrap_or(FILE_MODE);
        for disk in &self.plan.disks {
            let Some(finished) = checkpoint.disks.get(&disk.id) else { continue };
            let (dir, name) = (self.dirs.of(disk)?, &finished.partial);
            dir.set_access(name, mode, self.group)
                .and_then(|()| dir.sync_file(name))
                .map_err(failed("finish", dir, name))?;
        }
        Ok(())
    }

    /// Records what will be renamed to what.
    pub(super) fn declare(
        &self,
        checkpoint: &mut Checkpoint,
        names: Names,
        domain: Option<String>,
        written: Written,
        outcome: Published,
        handover: Option<Handover>,
    ) -> Result<()> {
        let mut renames = Vec::new();
        for (disk, Named { directory, name: to }) in self.plan.disks.iter().zip(names.disks) {
            let finished = checkpoint
                .disks
                .get(&disk.id)
                .ok_or_else(|| Error::internal(format!("disk {} is not finished", disk.id)))?;
            renames.push(Rename { directory, from: finished.partial.clone(), to, file: finished.file });
        }
        checkpoint.intent = Some(Intent {
            renames,
            domain: names.domain.zip(domain),
            report: names.report.map(|name| (name, written.report)),
            pages: names.pages.into_iter().zip(written.pages).collect(),
            replace: self.plan.output.on_exists == OnExists::Replace,
            outcome,
            digests: match self.plan.runs(Stage::Validate) {
                true => Digests::Wanted,
                false => Digests::Unwanted,
            },
            handover,
        });
        failpoint::hit("publish.before-intent");
        checkpoint.write(self.dirs.main(), &self.plan.vm_id)?;
        failpoint::hit("publish.after-intent");
        Ok(())
    }
}

/// Gives the files of a recorded intent their names, as far as that has not happened yet.
pub(super) fn give_names(dirs: Directories<'_>, intent: &Intent) -> Result<()> {
    if intent.is_libvirts() {
        return Ok(());
    }
    let dir = dirs.main();
    if intent.replace {
        for rename in &intent.renames {
            if !rename.is_made(dirs)? {
                replaceable(rename.place(dirs)?, &rename.to)?;
            }
        }
        // The old report says that what is there is complete: from the first rename on that is no longer true.
        if let Some((name, _)) = &intent.report
            && !texts::is_reported(dir, intent)?
        {
            dir.remove(name).and_then(|_| dir.sync()).map_err(failed("replace", dir, name))?;
        }
    }
    for (number, rename) in intent.renames.iter().enumerate() {
        if number > 0 {
            failpoint::hit("publish.between-renames");
        }
        let dir = rename.place(dirs)?;
        if let Err(error) = rename_one(dir, rename, intent.replace) {
            return Err(give_up(dirs, intent, rename, &error));
        }
    }
    for dir in intent.directories(dirs) {
        dir.sync().map_err(failed("make durable", dir, "."))?;
    }
    failpoint::hit("publish.after-renames");
    Ok(())
}

fn rename_one(dir: &Dir, rename: &Rename, replace: bool) -> io::Result<()> {
    if rename.file.is_at(dir, &rename.to)? {
        return Ok(());
    }
    if !rename.file.is_at(dir, &rename.from)? {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the finished file is not there any more"));
    }
    match replace {
        true => dir.rename_over(&rename.from, &rename.to),
        false => dir.rename_noreplace(&rename.from, &rename.to),
    }
}

/// A rename cannot be made: nothing of this VM stays under a final name.
fn give_up(dirs: Directories<'_>, intent: &Intent, rename: &Rename, error: &io::Error) -> Error {
    take_back(dirs, intent);
    match (rename.place(dirs), error.kind()) {
        (Err(error), _) => error,
        (Ok(dir), io::ErrorKind::AlreadyExists) => exists(dir, &rename.to),
        (Ok(dir), _) => Error::io(Kind::Output, "publish", &dir.path().join(&rename.to), error),
    }
}

/// Gives published files their partial names back, last first.
pub(super) fn take_back(dirs: Directories<'_>, intent: &Intent) {
    // What was replaced cannot be brought back; the new file is then better than none. What libvirt knows has to stay where it is.
    if intent.replace || intent.is_libvirts() {
        return;
    }
    texts::take_back(dirs.main(), intent);
    for rename in intent.renames.iter().rev() {
        let Some(dir) = dirs.at(rename.directory.as_deref()) else { continue };
        if matches!(rename.file.is_at(dir, &rename.to), Ok(true))
            && let Err(error) = dir.rename_noreplace(&rename.to, &rename.from)
        {
            tracing::warn!(file = rename.to, %error, "cannot take a published file back");
        }
    }
    for dir in intent.directories(dirs) {
        let _ = dir.sync();
    }
}

/// What was published turns out to be of no use: first it is not said to be complete any more, then it has no final name.
pub(super) fn withdraw(dirs: Directories<'_>, intent: &Intent) -> Result<()> {
    let dir = dirs.main();
    if let Some((name, _)) = &intent.report
        && texts::is_reported(dir, intent)?
    {
        dir.remove(name).and_then(|_| dir.sync()).map_err(failed("remove", dir, name))?;
    }
    take_back(dirs, intent);
    Ok(())
}

/// After a failure: takes back what another attempt would not finish, and tells whether nothing of the
/// intent has a final name any more.
pub(super) fn is_undone(dirs: Directories<'_>, intent: &Intent, error: &Error) -> bool {
    if intent.is_libvirts() {
        return false;
    }
    if error.disposition() == Disposition::Permanent {
        take_back(dirs, intent);
    }
    intent.renames.iter().all(|rename| matches!(rename.is_made(dirs), Ok(false)))
}

/// How far an intent that was found has been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it: every file has its final name, and the report is there.
    Complete,
    /// It can be finished: every file is there, under the one name or the other.
    Unfinished,
    /// It cannot: files are missing or were changed.
    Lost,
}

/// Looks how far an intent has been carried out.
pub(super) fn progress(dirs: Directories<'_>, intent: &Intent) -> Result<Progress> {
    let (dir, mut complete) = (dirs.main(), true);
    if intent.is_libvirts() {
        // Their names were given before it was told; since then the files are its own.
        return Ok(if texts::are_there(dir, intent)? { Progress::Complete } else { Progress::Unfinished });
    }
    for rename in &intent.renames {
        if rename.is_made(dirs)? {
            continue;
        }
        complete = false;
        let Some(dir) = dirs.at(rename.directory.as_deref()) else { return Ok(Progress::Lost) };
        if !rename.file.is_at(dir, &rename.from).map_err(failed("look for", dir, &rename.from))? {
            return Ok(Progress::Lost);
        }
    }
    complete &= texts::are_there(dir, intent)?;
    Ok(if complete { Progress::Complete } else { Progress::Unfinished })
}

/// Removes what an unfinished VM left: what libvirt knows of it, partial files, and files that were published without their report.
pub(super) fn discard(dirs: Directories<'_>, checkpoint: &Checkpoint) -> Result<()> {
    let checkpoint = &handover::taken_back(checkpoint)?;
    if let Some(intent) = &checkpoint.intent
        && progress(dirs, intent)? == Progress::Unfinished
    {
        take_back(dirs, intent);
    }
    for (directory, name) in checkpoint.all_partials().filter(|(_, name)| is_partial_name(name)) {
        let Some(dir) = dirs.at(directory) else { continue };
        dir.remove(name).map_err(failed("remove", dir, name))?;
    }
    match checkpoint {
        Cow::Owned(undone) => handover::hide(undone),
        Cow::Borrowed(_) => Ok(()),
    }
}

/// Another VM whose worker runs right now and writes one of these names.
pub(super) fn rival(dir: &Dir, vm_id: &str, partials: &[String]) -> Result<Option<String>> {
    for name in dir.names().map_err(failed("list", dir, "."))? {
        let Some(other) = name.to_str().and_then(vm_of_journal).filter(|other| *other != vm_id) else {
            continue;
        };
        let running = dir.is_locked(&lock_name(other)).unwrap_or(false);
        if running
            && let Ok(Some(theirs)) = Checkpoint::read(dir, other)
            && theirs.partials.iter().any(|partial| partials.contains(partial))
        {
            return Ok(Some(other.to_owned()));
        }
    }
    Ok(None)
}

pub(super) fn exists(dir: &Dir, name: &str) -> Error {
    let path = dir.path().join(name);
    Error::new(Kind::Exists, format!("{} is already there", path.display()))
        .output(path)
        .advice("choose another directory, remove it, or say `output.on_exists: suffix` or `replace`")
}

pub(super) fn failed<'a>(what: &'a str, dir: &'a Dir, name: &'a str) -> impl Fn(io::Error) -> Error + 'a {
    move |error| Error::io(Kind::Output, what, &dir.path().join(name), &error)
}
