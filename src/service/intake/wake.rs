//! What wakes intake: the kernel's notes about the drop directory, and whoever asks it to look.
//!
//! The notes are hints. They may be lost, doubled or late, and where there are none (no inotify
//! left, a file system whose changes come from elsewhere) the directory is listed more often.

use std::ffi::OsString;
use std::path::Path;
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
        let watched = directory.to_owned();
        let note = move |event: notify::Result<Event>| {
            for wake in wakes_of(event, &watched) {
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

/// Runs on the watcher's own thread; most events (our own opens among them) are nothing to us.
fn wakes_of(event: notify::Result<Event>, directory: &Path) -> Vec<Wake> {
    let Ok(event) = event else { return vec![Wake::List { lost: true }] };
    if event.need_rescan() {
        return vec![Wake::List { lost: true }];
    }
    let hint = match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Hint::RenamedIn,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Hint::Closed,
        EventKind::Create(CreateKind::File | CreateKind::Any | CreateKind::Other) => Hint::Created,
        EventKind::Create(CreateKind::Folder) => Hint::Listed,
        // The directory itself went away: the listing will see.
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From))
            if event.paths.iter().any(|path| path == directory) =>
        {
            return vec![Wake::List { lost: true }];
        }
        _ => return Vec::new(),
    };
    let name_of = |path: &std::path::PathBuf| {
        if path == directory { None } else { path.file_name().map(|name| name.to_owned()) }
    };
    event.paths.iter().filter_map(name_of).map(|name| Wake::Name(name, hint)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind) -> notify::Result<Event> {
        Ok(Event::new(kind).add_path("/in/x.json".into()))
    }

    #[test]
    fn opening_and_writing_wake_nobody() {
        for kind in [
            EventKind::Access(AccessKind::Open(AccessMode::Any)),
            EventKind::Access(AccessKind::Close(AccessMode::Read)),
            EventKind::Modify(ModifyKind::Any),
        ] {
            assert!(wakes_of(event(kind), Path::new("/in")).is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn a_rename_and_a_close_are_told_apart() {
        let renamed = wakes_of(event(EventKind::Modify(ModifyKind::Name(RenameMode::To))), Path::new("/in"));
        assert!(matches!(&renamed[..], [Wake::Name(name, Hint::RenamedIn)] if name == "x.json"));
        let closed =
            wakes_of(event(EventKind::Access(AccessKind::Close(AccessMode::Write))), Path::new("/in"));
        assert!(matches!(&closed[..], [Wake::Name(_, Hint::Closed)]));
    }

    #[test]
    fn lost_notes_are_replaced_by_a_listing() {
        let mut overflow = Event::new(EventKind::Other);
        overflow = overflow.set_flag(notify::event::Flag::Rescan);
        assert!(matches!(wakes_of(Ok(overflow), Path::new("/in"))[..], [Wake::List { lost: true }]));
        let gone = Event::new(EventKind::Remove(notify::event::RemoveKind::Folder)).add_path("/in".into());
        assert!(matches!(wakes_of(Ok(gone), Path::new("/in"))[..], [Wake::List { lost: true }]));
    }
}
