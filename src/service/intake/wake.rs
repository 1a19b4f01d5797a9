//! What wakes intake: the kernel's notes about the drop directory, and whoever asks it to look.
//!
//! The notes are hints. They may be lost, doubled or late, and where there are none (no inotify
//! left, a file system whose changes come from elsewhere) the directory is listed more often.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};

use super::pending::Hint;
use crate::service::queue::network_file_system;

/// How often the directory is listed where the kernel tells of changes.
pub(super) const LIST_EVERY: Duration = Duration::from_secs(60);

/// How often where it does not.
pub(super) const POLL_EVERY: Duration = Duration::from_secs(5);

/// `f_type` of local file systems whose changes this kernel may not tell: overlays and FUSE.
const SILENT_FILE_SYSTEMS: [u32; 2] = [0x794c_7630, 0x6573_5546];

/// What wakes the thread.
#[derive(Debug)]
pub(super) enum Wake {
    /// Something happened to a name.
    Name(OsString, Hint),
    /// The directory has to be listed; `lost`: because notes were lost.
    List {
        /// Whether notes were lost.
        lost: bool,
    },
    /// There are accepted drops to be moved.
    Move,
    /// It is over.
    Stop,
}

/// The kernel's notes about one directory; dropped, they end.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    silent: bool,
}

impl Watch {
    /// Starts. Without inotify it is not an error: the directory is listed more often.
    pub(super) fn start(directory: &Path, wakes: &Sender<Wake>) -> Watch {
        let silent = is_silent(directory);
        let sender = wakes.clone();
        let mut notes = Notes { directory: directory.to_owned(), made: BTreeSet::new() };
        let note = move |event: notify::Result<Event>| {
            for wake in notes.wakes_of(event) {
                // A failed send: intake has ended, and this watch is about to.
                if sender.send(wake).is_err() {
                    return;
                }
            }
        };
        let watcher = RecommendedWatcher::new(note, Config::default()).and_then(|mut watcher| {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => Watch { watcher: Some(watcher), silent },
            Err(error) => {
                tracing::warn!(
                    directory = %directory.display(), %error,
                    "the drop directory cannot be watched and is listed every {} s instead; raise fs.inotify.max_user_watches or max_user_instances",
                    POLL_EVERY.as_secs()
                );
                Watch { watcher: None, silent }
            }
        }
    }

    /// How often the directory is to be listed.
    pub(super) fn list_every(&self) -> Duration {
        if self.watcher.is_none() || self.silent { POLL_EVERY } else { LIST_EVERY }
    }
}

/// Whether files may come without this kernel telling: from another machine, or from below an overlay.
fn is_silent(directory: &Path) -> bool {
    network_file_system(directory).is_ok_and(|found| found.is_some())
        || rustix::fs::statfs(directory)
            .is_ok_and(|status| SILENT_FILE_SYSTEMS.contains(&(status.f_type as u32)))
}

/// What the kernel told, on the watcher's own thread.
struct Notes {
    directory: PathBuf,
    /// Names that were made and that nobody has opened since. A file that is made to be written is opened
    /// at once; a hard link never is (but by us, when it is complete).
    made: BTreeSet<OsString>,
}

impl Notes {
    /// Most events (our own opens among them) are nothing to us.
    fn wakes_of(&mut self, event: notify::Result<Event>) -> Vec<Wake> {
        let Ok(event) = event else { return vec![Wake::List { lost: true }] };
        if event.need_rescan() {
            self.made.clear();
            return vec![Wake::List { lost: true }];
        }
        let mut wakes = Vec::new();
        for path in &event.paths {
            if *path == self.directory {
                // The directory itself went away: the listing will see.
                if is_gone(event.kind) {
                    wakes.push(Wake::List { lost: true });
                }
            } else if let Some(name) = path.file_name()
                && let Some(hint) = self.hint(event.kind, name)
            {
                wakes.push(Wake::Name(name.to_owned(), hint));
            }
        }
        wakes
    }

    fn hint(&mut self, kind: EventKind, name: &OsStr) -> Option<Hint> {
        match kind {
            EventKind::Create(CreateKind::Folder) => Some(Hint::Listed),
            EventKind::Create(_) => {
                // Who opens a hard link is not who made it: it may be us, looking at what lies beside another file.
                let path = self.directory.join(name);
                if !std::fs::symlink_metadata(path).is_ok_and(|found| found.nlink() > 1) {
                    self.made.insert(name.to_owned());
                }
                Some(Hint::Created)
            }
            EventKind::Access(AccessKind::Open(_)) => self.made.remove(name).then_some(Hint::BeingWritten),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.made.remove(name);
                Some(Hint::Closed)
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.made.remove(name);
                Some(Hint::RenamedIn)
            }
            _ => {
                if is_gone(kind) {
                    self.made.remove(name);
                }
                None
            }
        }
    }
}

fn is_gone(kind: EventKind) -> bool {
    matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)))
}

#[cfg(test)]
mod tests {
    use notify::event::{Flag, RemoveKind};

    use super::*;

    fn notes() -> Notes {
        Notes { directory: "/in".into(), made: BTreeSet::new() }
    }

    /// The hints that these events of one name give, in their order.
    fn hints(kinds: &[EventKind]) -> Vec<Hint> {
        let mut notes = notes();
        let events = kinds.iter().map(|kind| Ok(Event::new(*kind).add_path("/in/x.json".into())));
        events
            .flat_map(|event| notes.wakes_of(event))
            .map(|wake| match wake {
                Wake::Name(name, hint) if name == "x.json" => hint,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    const MADE: EventKind = EventKind::Create(CreateKind::File);
    const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    #[test]
    fn opening_to_read_and_writing_wake_nobody() {
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        assert!(hints(&[OPENED, read, EventKind::Modify(ModifyKind::Any)]).is_empty());
    }

    #[test]
    fn a_rename_and_a_close_are_told_apart() {
        assert_eq!(hints(&[EventKind::Modify(ModifyKind::Name(RenameMode::To))]), [Hint::RenamedIn]);
        assert_eq!(hints(&[MADE, OPENED, CLOSED]), [Hint::Created, Hint::BeingWritten, Hint::Closed]);
    }

    #[test]
    fn a_link_is_made_and_not_opened() {
        assert_eq!(hints(&[MADE]), [Hint::Created]);
        let gone = EventKind::Remove(RemoveKind::File);
        assert_eq!(hints(&[MADE, gone, OPENED]), [Hint::Created]);
    }

    #[test]
    fn a_hard_link_that_is_opened_is_not_being_written() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["master", "linked", "alone"].map(|name| directory.path().join(name));
        std::fs::write(&paths[0], "").unwrap();
        std::fs::hard_link(&paths[0], &paths[1]).unwrap();
        std::fs::write(&paths[2], "").unwrap();
        let mut notes = Notes { directory: directory.path().to_owned(), made: BTreeSet::new() };
        for (path, waits) in [(&paths[1], false), (&paths[2], true)] {
            assert_eq!(notes.wakes_of(Ok(Event::new(MADE).add_path(path.clone()))).len(), 1);
            let opened = notes.wakes_of(Ok(Event::new(OPENED).add_path(path.clone())));
            let is_written = matches!(opened[..], [Wake::Name(_, Hint::BeingWritten)]);
            assert_eq!((is_written, opened.len()), (waits, usize::from(waits)), "{opened:?}");
        }
    }

    #[test]
    fn lost_notes_are_replaced_by_a_listing() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(matches!(notes().wakes_of(Ok(overflow))[..], [Wake::List { lost: true }]));
        let gone = Event::new(EventKind::Remove(RemoveKind::Folder)).add_path("/in".into());
        assert!(matches!(notes().wakes_of(Ok(gone))[..], [Wake::List { lost: true }]));
    }
}
