//! The guest's files, with a record of everything that is changed.
//!
//! All changes go through here. That makes three things possible without a fix thinking of them: a report that says what was changed,
//! a dry run that prints a diff (the same changes, made to an overlay that is thrown away), and backups inside the guest. A file that
//! is there is written in place, so that it keeps its inode, mode, owner and labels; writing what is there already is no change.
//! What is not here: what to write.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::appliance::{Appliance, Room, Stat};
use super::lookup::{Lookup, is_at_or_below};
use crate::model::error::{Error, Kind, Result};

/// Configuration is small; what is larger is not configuration.
const READ_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Where the old content of files is kept inside the guest: not beside them, where a directory of drop-ins would read it.
pub const BACKUP_ROOT: &str = "/var/lib/hyper2kvm/backup";
/// What is appended begins at a multiple of this.
const ALIGNMENT_BYTES: u64 = 512;
/// One message to the appliance holds 4 MiB with all around it.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// What a diff never shows: hashes of passwords, which can be guessed at.
const HIDDEN: [&str; 2] = ["/etc/shadow", "/etc/gshadow"];
/// A file that is made without this is for root alone, and what is in it is not shown either.
const READ_BY_ALL: u32 = 0o004;

/// What was done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Its content was changed.
    Changed,
    /// It was made.
    Created,
    /// It was removed.
    Removed,
    /// A link was made or turned.
    Linked,
}

impl Action {
    /// As in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::Changed => "changed",
            Action::Created => "created",
            Action::Removed => "removed",
            Action::Linked => "linked",
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The fix that made it.
    pub fix: &'static str,
    /// What.
    pub path: String,
    /// How.
    pub action: Action,
    /// Why, for people.
    pub detail: String,
    /// The content before, where it is text of moderate size.
    pub before: Option<Vec<u8>>,
    /// The content after, likewise.
    pub after: Option<Vec<u8>>,
    /// Where the old content is kept in the guest.
    pub backup: Option<String>,
}

/// The mounted tree of a guest.
#[derive(Debug)]
pub struct Tree {
    appliance: Appliance,
    fix: &'static str,
    backups: bool,
    edits: Vec<Edit>,
    backed_up: BTreeMap<String, String>,
    /// What was asked before and cannot have changed since: only this tree changes the guest, so it knows when an answer is old.
    lookup: Lookup,
    /// By physical path: what is in the plain file there.
    contents: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl Tree {
    /// Of a guest whose file systems are mounted.
    #[must_use]
    pub fn new(appliance: Appliance, backups: bool) -> Tree {
        Tree {
            appliance,
            fix: "",
            backups,
            edits: Vec::new(),
            backed_up: BTreeMap::new(),
            lookup: Lookup::default(),
            contents: RefCell::default(),
        }
    }

    /// The appliance, for what is not a file.
    #[must_use]
    pub fn appliance(&self) -> &Appliance {
        &self.appliance
    }

    /// Gives the appliance back.
    #[must_use]
    pub fn into_appliance(self) -> (Appliance, Vec<Edit>) {
        (self.appliance, self.edits)
    }

    /// Says which fix makes the changes that follow.
    pub fn begin(&mut self, fix: &'static str) {
        self.fix = fix;
    }

    /// From here on everything is asked of the guest again: a proof is not taken from memory.
    pub fn forget(&self) {
        self.lookup.forget();
        self.contents.take();
    }

    /// All changes so far.
    #[must_use]
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// What is at a path itself, a link not followed.
    pub fn stat(&self, path: &str) -> Result<Option<Stat>> {
        Ok(self.entry(path)?.map(|(_, stat)| stat))
    }

    /// Whether anything is there, links followed.
    pub fn exists(&self, path: &str) -> Result<bool> {
        self.real(path).map(|real| real.is_some())
    }

    /// The path with all links followed; `None` where nothing is there or a link leads nowhere.
    pub fn real(&self, path: &str) -> Result<Option<String>> {
        Ok(self.real_entry(path)?.map(|(real, _)| real))
    }

    /// Whether a directory is there, links followed.
    pub fn is_directory(&self, path: &str) -> Result<bool> {
        Ok(self.real_entry(path)?.is_some_and(|(_, stat)| stat.is_directory()))
    }

    /// Where a link points; `None` where there is no link.
    pub fn link_target(&self, path: &str) -> Result<Option<String>> {
        match self.entry(path)? {
            Some((physical, stat)) if stat.is_link() => self
                .lookup
                .target(&self.appliance, &physical)
                .map(Some)
                .map_err(failed("read the link", path)),
            _ => Ok(None),
        }
    }

    /// Names in a directory, sorted; none where there is no such directory.
    pub fn list(&self, directory: &str) -> Result<Vec<String>> {
        match self.real_entry(directory)? {
            Some((real, stat)) if stat.is_directory() => {
                self.lookup.list(&self.appliance, &real).map_err(failed("list", directory))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// A plain file's content; `None` where there is none (a link to one is followed).
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some((real, stat)) = self.real_entry(path)? else { return Ok(None) };
        if let Some(known) = self.contents.borrow().get(&real) {
            return Ok(Some(known.clone()));
        }
        let content = self.read_entry(path, &real, stat, READ_LIMIT_BYTES)?;
        if let Some(content) = &content {
            self.contents.borrow_mut().insert(real, content.clone());
        }
        Ok(content)
    }

    /// The same, for what is no configuration: up to this many bytes. It is not kept.
    pub fn read_large(&self, path: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>> {
        let Some((real, stat)) = self.real_entry(path)? else { return Ok(None) };
        self.read_entry(path, &real, stat, limit_bytes)
    }

    /// A plain file's text; what is not UTF-8 in it is kept by [`Tree::read`] only, so it is refused here.
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| {
            Error::new(Kind::Guest, format!("{} of the guest is not UTF-8 text", shown(path)))
                .advice("mend that file in the source machine, or switch the repair of it off")
        })
    }

    /// Changes a file's content, or makes it (mode 0644 of root, its directories too). Does nothing if it says that already.
    pub fn write(&mut self, path: &str, content: &[u8], detail: &str) -> Result<()> {
        self.write_with_mode(path, content, 0o644, detail)
    }

    /// The same; the mode counts only where the file is made.
    pub fn write_with_mode(&mut self, path: &str, content: &[u8], mode: u32, detail: &str) -> Result<()> {
        let before = self.read(path)?;
        if before.as_deref() == Some(content) {
            return Ok(());
        }
        let backup = before.as_deref().map(|before| self.keep(path, Some(before))).transpose()?.flatten();
        if before.is_none() {
            self.make_parent(path)?;
        }
        self.appliance.write(path, content).map_err(|why| self.cannot_write(path, &why))?;
        if before.is_none() {
            self.appliance.set_mode(path, mode).map_err(failed("set the mode of", path))?;
        }
        let action = if before.is_some() { Action::Changed } else { Action::Created };
        let is_shown = before.is_some() || mode & READ_BY_ALL != 0;
        self.record(path, action, detail, before, is_shown.then(|| content.to_vec()), backup);
        Ok(())
    }

    /// Makes a directory of root, if nothing is there; those above it too.
    pub fn make_directory(&mut self, path: &str, mode: u32, detail: &str) -> Result<()> {
        if self.is_directory(path)? {
            return Ok(());
        }
        self.appliance.make_directories(path).map_err(|why| self.cannot_write(path, &why))?;
        self.appliance.set_mode(path, mode).map_err(failed("set the mode of", path))?;
        self.record(path, Action::Created, detail, None, None, None);
        Ok(())
    }

    /// Sees to owner, group and permissions of what is there; a link itself is nothing that has any.
    pub fn set_access(&mut self, path: &str, (uid, gid): (u32, u32), mode: u32, detail: &str) -> Result<()> {
        let Some((physical, stat)) = self.entry(path)? else { return Ok(()) };
        if stat.is_link() || (stat.uid, stat.gid, stat.permissions()) == (uid, gid, mode) {
            return Ok(());
        }
        self.appliance.set_owner(path, uid, gid).map_err(failed("set the owner of", path))?;
        self.appliance.set_mode(path, mode).map_err(failed("set the mode of", path))?;
        self.outdate(&physical);
        // What was made a moment ago has been told.
        if !self.edits.iter().any(|edit| edit.path == path) {
            self.record(path, Action::Changed, detail, None, None, None);
        }
        Ok(())
    }

    /// Appends to a file, at a multiple of 512 bytes; what is between is filled with zeros. The old content stays in front, so there is
    /// nothing to back up.
    pub fn append_aligned(&mut self, path: &str, content: &[u8], detail: &str) -> Result<()> {
        let (real, size) = match self.real_entry(path)? {
            Some((real, stat)) => (real, stat.size),
            None => (path.to_owned(), 0),
        };
        let gap = usize::try_from(size.next_multiple_of(ALIGNMENT_BYTES) - size).unwrap_or(0);
        let mut filled = vec![0; gap];
        filled.extend_from_slice(content);
        for piece in filled.chunks(MESSAGE_BYTES) {
            self.appliance.append(&real, piece).map_err(|why| self.cannot_write(path, &why))?;
        }
        self.record(path, Action::Changed, detail, None, None, None);
        Ok(())
    }

    /// Changes the content of a large file that is there. Nothing is backed up: the file may be as large as all that is free.
    pub fn replace_large(&mut self, path: &str, content: &[u8], detail: &str) -> Result<()> {
        let real = self.real(path)?.unwrap_or_else(|| path.to_owned());
        self.write_pieces(&real, content).map_err(|why| self.cannot_write(path, &why))?;
        self.record(path, Action::Changed, detail, None, None, None);
        Ok(())
    }

    /// How full the file system of a path is.
    pub fn room(&self, path: &str) -> Result<Room> {
        self.appliance.room(path).map_err(failed("look at the file system of", path))
    }

    /// Removes a file or a link, if it is there.
    pub fn remove(&mut self, path: &str, detail: &str) -> Result<()> {
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        let before = if stat.is_link() { None } else { self.read(path)? };
        let backup = before.as_deref().map(|before| self.keep(path, Some(before))).transpose()?.flatten();
        self.appliance.remove(path).map_err(|why| self.cannot_write(path, &why))?;
        self.record(path, Action::Removed, detail, before, None, backup);
        Ok(())
    }

    /// Removes a directory with all in it, if it is there; nothing of it is backed up.
    pub fn remove_tree(&mut self, path: &str, detail: &str) -> Result<()> {
        if self.stat(path)?.is_none() {
            return Ok(());
        }
        self.appliance.remove_tree(path).map_err(|why| self.cannot_write(path, &why))?;
        self.record(path, Action::Removed, detail, None, None, None);
        Ok(())
    }

    /// Makes a symbolic link, or turns one that is there.
    pub fn link(&mut self, target: &str, path: &str, detail: &str) -> Result<()> {
        if self.link_target(path)?.as_deref() == Some(target) {
            return Ok(());
        }
        self.make_parent(path)?;
        self.appliance.make_link(target, path).map_err(|why| self.cannot_write(path, &why))?;
        self.record(path, Action::Linked, detail, None, Some(format!("{target}\n").into_bytes()), None);
        Ok(())
    }

    /// Says that something else changed a path: a tool of the appliance or the guest.
    pub fn changed_by_tool(&mut self, path: &str, action: Action, detail: &str, backup: Option<String>) {
        self.record(path, action, detail, None, None, backup);
    }

    /// Keeps a file's present content inside the guest, once, if backups are wanted; the first one stays.
    pub fn back_up(&mut self, path: &str) -> Result<Option<String>> {
        self.keep(path, None)
    }

    /// The same, of a file whose content may be known.
    fn keep(&mut self, path: &str, content: Option<&[u8]>) -> Result<Option<String>> {
        if !self.backups {
            return Ok(None);
        }
        if let Some(kept) = self.backed_up.get(path) {
            return Ok(Some(kept.clone()));
        }
        let kept = format!("{BACKUP_ROOT}{path}");
        if !self.exists(&kept)? {
            self.make_parent(&kept)?;
            // What is known is written down again: starting a program that copies takes ten times as long.
            let written = content.is_some_and(|content| self.write_again(path, &kept, content).is_ok());
            if !written {
                self.appliance.copy(path, &kept).map_err(|why| self.cannot_write(&kept, &why))?;
            }
            // Read by root alone: what is kept may have been secret.
            self.appliance.set_mode(BACKUP_ROOT, 0o700).map_err(failed("set the mode of", BACKUP_ROOT))?;
            self.outdate(BACKUP_ROOT);
        }
        self.backed_up.insert(path.to_owned(), kept.clone());
        Ok(Some(kept))
    }

    fn write_again(&self, path: &str, kept: &str, content: &[u8]) -> Result<(), String> {
        let (real, stat) = self.lookup.real(&self.appliance, path)?.ok_or("it is gone")?;
        self.write_pieces(kept, content)?;
        self.appliance.copy_access(&real, kept, stat.modified)
    }

    fn write_pieces(&self, real: &str, content: &[u8]) -> Result<(), String> {
        let mut pieces = content.chunks(MESSAGE_BYTES);
        self.appliance.write(real, pieces.next().unwrap_or_default())?;
        pieces.try_for_each(|piece| self.appliance.append(real, piece))
    }

    fn real_entry(&self, path: &str) -> Result<Option<(String, Stat)>> {
        self.lookup.real(&self.appliance, path).map_err(failed("look at", path))
    }

    fn entry(&self, path: &str) -> Result<Option<(String, Stat)>> {
        self.lookup.entry(&self.appliance, path).map_err(failed("look at", path))
    }

    fn read_entry(&self, path: &str, real: &str, stat: Stat, limit_bytes: u64) -> Result<Option<Vec<u8>>> {
        if !stat.is_file() {
            return Ok(None);
        }
        if stat.size > limit_bytes {
            return Err(Error::new(
                Kind::Guest,
                format!("{} of the guest is {} bytes large", shown(path), stat.size),
            )
            .advice("a file of that name should be smaller: look at it in the source machine"));
        }
        self.appliance.read(real, stat.size).map(Some).map_err(failed("read", path))
    }

    /// Forgets what a change at a path made untrue: of the entry there, and of what it led to if it was a link.
    fn outdate_changed(&self, path: &str) {
        // Walked through what is remembered from before the change. Where that cannot be done, nothing is trusted any more.
        let (Ok(real), Ok(entry)) = (self.real(path), self.entry(path)) else { return self.forget() };
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        let Ok(parent) = self.real(&format!("{parent}/")) else { return self.forget() };
        let made = parent.map(|parent| format!("{}/{name}", parent.trim_end_matches('/')));
        let led_to = [real, entry.map(|(physical, _)| physical), made];
        for physical in led_to.into_iter().flatten().chain([path.to_owned()]) {
            self.outdate(&physical);
        }
    }

    fn outdate(&self, physical: &str) {
        self.lookup.changed(physical);
        self.contents.borrow_mut().retain(|path, _| !is_at_or_below(path, physical));
    }

    fn make_parent(&self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => {
                self.appliance.make_directories(parent).map_err(|why| self.cannot_write(parent, &why))
            }
            _ => Ok(()),
        }
    }

    fn record(
        &mut self,
        path: &str,
        action: Action,
        detail: &str,
        before: Option<Vec<u8>>,
        after: Option<Vec<u8>>,
        backup: Option<String>,
    ) {
        tracing::info!(fix = self.fix, path = shown(path), action = action.name(), detail, "guest changed");
        self.outdate_changed(path);
        let is_hidden = HIDDEN.contains(&path);
        let (before, after) = if is_hidden { (None, None) } else { (before, after) };
        self.edits.push(Edit {
            fix: self.fix,
            path: path.to_owned(),
            action,
            detail: detail.to_owned(),
            before,
            after,
            backup,
        });
    }

    fn cannot_write(&self, path: &str, why: &str) -> Error {
        let advice = if why.contains("No space left") {
            "the guest's file system is full: free some room in the source machine, or grow the disk with `resize`"
        } else if why.contains("Operation not permitted") {
            "the file may be immutable: `chattr -i` it in the source machine"
        } else if why.contains("Read-only file system") {
            "the file system could not be mounted for writing: check it in the source machine"
        } else {
            "look at the file system in the source machine"
        };
        Error::new(Kind::Guest, format!("{} of the guest cannot be written: {}", shown(path), shown(why)))
            .advice(advice)
            .permanent()
    }
}

/// A guest's words as they may stand in a log: nothing in them moves a cursor or begins a new line.
#[must_use]
pub fn shown(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn failed<'a>(what: &'a str, path: &'a str) -> impl FnOnce(String) -> Error + 'a {
    move |why| {
        Error::new(Kind::Guest, format!("cannot {what} {} in the guest: {}", shown(path), shown(&why)))
            .advice("check the guest's file systems in the source machine, then try again")
    }
}
