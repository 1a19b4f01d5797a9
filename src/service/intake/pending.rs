//! When a drop is complete: what is known of each name, and until when it has to hold still.
//!
//! Pure: events and times come in, names to look at go out. Hints (a rename, a close) make a name
//! due at once; without one, size and time of the file have to stay the same for a while. What is
//! lost here (an overflow, a restart) costs that while, never a drop.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use crate::service::queue::FileIdentity;

/// A file that somebody is known to be writing is given this long without a change before it is
/// taken for complete all the same: an upload may stall, and a close may have been missed.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(600);

/// What was seen happening to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// It was renamed into the directory: it is complete.
    RenamedIn,
    /// A writer closed it: it is complete if it parses whole.
    Closed,
    /// Something of this name was made: a file that will be written, or a link, or no file at all.
    Created,
    /// Who made it opened it: it will be closed later.
    BeingWritten,
    /// A listing found it.
    Listed,
}

/// How much a file that is due can be relied on to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// It was renamed into place, so it is complete: what is wrong with it is wrong for good.
    RenamedIn,
    /// It has held still for so long that it is taken for complete.
    HeldStill,
    /// It is complete if it parses whole.
    IfItParses,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    due: Instant,
    certainty: Option<Certainty>,
    /// Since when the file has been exactly this one.
    still: Option<(FileIdentity, Instant)>,
    /// Whether it may have been read: the kernel's notes do not tell our own opening from a writer's.
    read: bool,
}

/// The names that have not been decided about.
#[derive(Debug, Default)]
pub(super) struct Pending {
    names: BTreeMap<OsString, Seen>,
    being_written: BTreeSet<OsString>,
}

impl Pending {
    /// Takes note of what happened to a name.
    pub(super) fn note(&mut self, name: &OsStr, hint: Hint, now: Instant) {
        let certainty = match hint {
            Hint::RenamedIn => Some(Certainty::RenamedIn),
            Hint::Closed => Some(Certainty::IfItParses),
            Hint::Created | Hint::BeingWritten | Hint::Listed => None,
        };
        match hint {
            // Whoever wrote the file that had this name before does not matter to the one that was made.
            Hint::RenamedIn | Hint::Closed | Hint::Created => {
                self.being_written.remove(name);
            }
            Hint::BeingWritten if self.names.get(name).is_none_or(|seen| !seen.read) => {
                self.being_written.insert(name.to_owned());
            }
            Hint::BeingWritten | Hint::Listed => {}
        }
        match self.names.get_mut(name) {
            // These add nothing to what is known already.
            Some(_) if matches!(hint, Hint::Listed | Hint::BeingWritten) => {}
            Some(seen) => *seen = Seen { due: now, certainty, still: None, read: false },
            None => {
                self.names.insert(name.to_owned(), Seen { due: now, certainty, still: None, read: false });
            }
        }
    }

    /// Events were lost: who is still being written is not known any more.
    pub(super) fn forget_writers(&mut self) {
        self.being_written.clear();
    }

    /// Nothing more is to be done about a name.
    pub(super) fn forget(&mut self, name: &OsStr) {
        self.names.remove(name);
        self.being_written.remove(name);
    }

    /// Nothing is to be done about any name: drops are left where they are.
    pub(super) fn clear(&mut self) {
        self.names.clear();
        self.being_written.clear();
    }

    /// The names to look at now.
    pub(super) fn due(&self, now: Instant) -> Vec<OsString> {
        self.names.iter().filter(|(_, seen)| seen.due <= now).map(|(name, _)| name.clone()).collect()
    }

    /// When the next name is to be looked at.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.names.values().map(|seen| seen.due).min()
    }

    /// Whether a plain file that is due may be read now, and how far it can be relied on. If not, it
    /// is due again later.
    pub(super) fn may_read(
        &mut self,
        name: &OsStr,
        file: FileIdentity,
        settle: Duration,
        now: Instant,
    ) -> Option<Certainty> {
        let seen = self.names.get_mut(name)?;
        if seen.certainty.is_some() {
            seen.read = true;
            return seen.certainty;
        }
        let since = match seen.still {
            Some((same, since)) if same == file => since,
            _ => {
                seen.still = Some((file, now));
                now
            }
        };
        let patience = if self.being_written.contains(name) { WRITER_PATIENCE.max(settle) } else { settle };
        if now.duration_since(since) >= patience {
            seen.read = true;
            return Some(Certainty::HeldStill);
        }
        // While somebody writes it, it is looked at no more often than anything else that has to settle.
        seen.due = (since + patience)
            .min(now + settle.max(Duration::from_secs(60)))
            .max(now + Duration::from_millis(1));
        None
    }

    /// The file was not complete (it did not parse, or changed while being read): it has to hold still.
    pub(super) fn settle(
        &mut self,
        name: &OsStr,
        file: Option<FileIdentity>,
        settle: Duration,
        now: Instant,
    ) {
        if let Some(seen) = self.names.get_mut(name) {
            let still = file.map(|file| (file, now));
            *seen = Seen { due: now + settle, certainty: None, still, ..*seen };
        }
    }

    /// Something has come for which it waited, if it does.
    pub(super) fn hasten(&mut self, name: &OsStr, now: Instant) {
        if let Some(seen) = self.names.get_mut(name) {
            seen.due = seen.due.min(now);
        }
    }

    /// It could not be taken now (the queue failed, the disk is full), whatever is known of it.
    pub(super) fn postpone(&mut self, name: &OsStr, until: Instant) {
        if let Some(seen) = self.names.get_mut(name) {
            seen.due = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);

    fn name() -> &'static OsStr {
        OsStr::new("x.json")
    }

    fn file(size: u64) -> FileIdentity {
        FileIdentity { dev: 1, inode: 2, size, mtime_ns: 3 }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_rename_in_is_complete_at_once() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::RenamedIn, start);
        assert_eq!(pending.due(start), [name()]);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), Some(Certainty::RenamedIn));
    }

    #[test]
    fn a_closed_file_that_does_not_parse_has_to_hold_still() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Closed, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), Some(Certainty::IfItParses));
        pending.settle(name(), Some(file(1)), SETTLE, start);
        assert!(pending.due(after(start, 1)).is_empty());
        assert_eq!(pending.next_due(), Some(after(start, 2)));
        assert_eq!(pending.may_read(name(), file(1), SETTLE, after(start, 2)), Some(Certainty::HeldStill));
    }

    #[test]
    fn a_listed_file_is_taken_when_size_and_time_have_held_still() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Listed, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        assert_eq!(pending.may_read(name(), file(2), SETTLE, after(start, 2)), None, "it grew");
        assert_eq!(pending.may_read(name(), file(2), SETTLE, after(start, 3)), None);
        assert_eq!(pending.may_read(name(), file(2), SETTLE, after(start, 4)), Some(Certainty::HeldStill));
    }

    #[test]
    fn further_listings_do_not_start_the_wait_again() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Listed, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        pending.note(name(), Hint::Listed, after(start, 1));
        assert!(pending.due(after(start, 1)).is_empty());
        assert!(pending.may_read(name(), file(1), SETTLE, after(start, 2)).is_some());
    }

    #[test]
    fn a_file_that_somebody_writes_is_not_taken_because_the_upload_stalls() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Created, start);
        pending.note(name(), Hint::BeingWritten, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, after(start, 100)), None);
        assert!(pending.next_due().unwrap() > after(start, 100));
        pending.note(name(), Hint::Closed, after(start, 200));
        assert!(pending.may_read(name(), file(1), SETTLE, after(start, 200)).is_some());
    }

    #[test]
    fn a_writer_that_was_missed_does_not_keep_a_file_for_ever() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Created, start);
        pending.note(name(), Hint::BeingWritten, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        let patient = start + WRITER_PATIENCE;
        assert_eq!(pending.may_read(name(), file(1), SETTLE, patient), Some(Certainty::HeldStill));
    }

    #[test]
    fn what_was_made_and_not_opened_is_a_link_and_has_only_to_settle() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Created, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        assert!(pending.may_read(name(), file(1), SETTLE, after(start, 2)).is_some());
    }

    #[test]
    fn a_name_that_is_made_again_has_no_writer_until_that_file_is_opened() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        // That it was opened by us is told late, when the first file of this name has gone its way.
        pending.note(name(), Hint::BeingWritten, start);
        pending.note(name(), Hint::Created, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, after(start, 2)), Some(Certainty::HeldStill));
    }

    #[test]
    fn a_file_that_was_read_and_put_off_is_not_taken_for_one_that_somebody_writes() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Created, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        assert!(pending.may_read(name(), file(1), SETTLE, after(start, 2)).is_some());
        pending.note(name(), Hint::BeingWritten, after(start, 2));
        pending.postpone(name(), after(start, 32));
        assert!(pending.may_read(name(), file(1), SETTLE, after(start, 32)).is_some());
    }

    #[test]
    fn lost_events_leave_only_the_settling_time() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.note(name(), Hint::Created, start);
        pending.note(name(), Hint::BeingWritten, start);
        assert_eq!(pending.may_read(name(), file(1), SETTLE, start), None);
        pending.forget_writers();
        assert!(pending.may_read(name(), file(1), SETTLE, after(start, 2)).is_some());
    }
}
