//! Intake: what is dropped into the drop directory becomes rows in the queue.
//!
//! One thread that sleeps until something wakes it: the kernel's notes (`wake`), a deadline, a
//! request. What it does then depends only on what lies in the directory, never on what the notes
//! said: a note only says where to look first. When a file is complete is decided in `pending`, what
//! it means in `admission`; acceptance is a durable row and then a move (`take`, `place`), so a crash
//! between the two leaves a file that is recognised and only moved.
//!
//! It never follows a link, never blocks on a fifo, never overwrites, and one bad file never keeps
//! the others waiting. It takes nothing while the service drains.

mod carry;
mod checksum;
mod directory;
mod file;
mod gather;
mod kind;
mod look;
mod lot;
mod names;
mod pending;
mod place;
mod siblings;
mod take;
mod wake;

pub(in crate::service) use directory::prepare_drop_directory;
pub(in crate::service) use kind::is_manifest;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};

use self::gather::Gathering;
use self::kind::DropKind;
use self::pending::{Hint, Pending};
use self::place::Places;
use self::take::CHUNK_DROPS;
use self::wake::{Wake, Watch};
use super::admission::Results;
use super::queue::{DropRow, FileIdentity, MovedDrop, QueueHandle};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};

/// How long intake leaves the queue alone after it failed, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a single file that could not be read or moved is left alone.
const FILE_RETRY: Duration = Duration::from_secs(30);

/// What intake needs from the rest of the service.
pub struct IntakeParts {
    /// The settings in force; a reload sends new ones.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Where accepted drops go.
    pub queue: QueueHandle,
    /// While true, drops are left where they are.
    pub draining: watch::Receiver<bool>,
    /// Changes whenever a retry wants disks brought back from `failed/`.
    pub brought_back: watch::Receiver<u64>,
    /// Told whenever jobs were accepted.
    pub accepted: Arc<Notify>,
    /// Looks at results of earlier runs.
    pub results: Results,
}

/// The running intake; ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Intake {
    wakes: mpsc::Sender<Wake>,
    stopping: Arc<AtomicBool>,
    last_error: watch::Receiver<Option<String>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Intake {
    /// Watches the drop directory and starts to take drops. When this returns, no drop is missed.
    ///
    /// To be called inside the runtime; fails where the directories cannot be used.
    pub fn start(parts: IntakeParts) -> Result<Intake> {
        let settings = Arc::clone(&parts.settings.borrow());
        let places = Places::prepare(&settings)?;
        let (wakes, inbox) = mpsc::channel();
        let (errors, last_error) = watch::channel(None);
        let (end, ended) = oneshot::channel();
        let list = || Wake::List { lost: false };
        forward_changes(parts.draining.clone(), wakes.clone(), list);
        forward_changes(parts.settings.clone(), wakes.clone(), list);
        forward_changes(parts.brought_back.clone(), wakes.clone(), || Wake::Move);
        let stopping = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            stopping: Arc::clone(&stopping),
            watch: Watch::start(&places.incoming, &wakes),
            watched: places.incoming_identity(),
            places,
            parts,
            wakes: wakes.clone(),
            pending: Pending::default(),
            gathering: Gathering::default(),
            batches: Gathering::default(),
            reported: BTreeMap::new(),
            told: HashSet::new(),
            errors,
            next_list: Instant::now(),
            failing: BTreeMap::new(),
            backoff: None,
            move_again: Some(Instant::now()),
        };
        thread::Builder::new()
            .name("intake".to_owned())
            .spawn(move || {
                worker.run(&inbox);
                let _ = end.send(());
            })
            .map_err(|error| Error::internal(format!("cannot start intake's thread: {error}")))?;
        Ok(Intake { wakes, stopping, last_error, ended: Some(ended) })
    }

    /// Looks at the whole directory now.
    pub fn look(&self) {
        let _ = self.wakes.send(Wake::List { lost: false });
    }

    /// What keeps intake from working, while something does.
    #[must_use]
    pub fn last_error(&self) -> watch::Receiver<Option<String>> {
        self.last_error.clone()
    }

    /// Ends after the transaction that is at hand.
    pub async fn stop(mut self) {
        self.end();
        if let Some(ended) = self.ended.take() {
            let _ = ended.await;
        }
    }

    fn end(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.wakes.send(Wake::Stop);
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.end();
    }
}

/// A changed flag or setting is a reason to look.
fn forward_changes<T: Send + Sync + 'static>(
    mut changes: watch::Receiver<T>,
    wakes: mpsc::Sender<Wake>,
    wake: fn() -> Wake,
) {
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            if wakes.send(wake()).is_err() {
                return;
            }
        }
    });
}

/// What the thread owns.
struct Worker {
    parts: IntakeParts,
    places: Places,
    wakes: mpsc::Sender<Wake>,
    stopping: Arc<AtomicBool>,
    watch: Watch,
    /// The directory that is watched; another one under its name has to be watched anew.
    watched: Option<(u64, u64)>,
    pending: Pending,
    /// What disks belong together, and wait for each other.
    gathering: Gathering,
    /// What batches name, and wait for.
    batches: Gathering,
    /// Directories and disks that were reported and left.
    reported: BTreeMap<OsString, (u64, u64)>,
    /// Refused files that people were told of and that could not be moved yet.
    told: HashSet<FileIdentity>,
    errors: watch::Sender<Option<String>>,
    next_list: Instant,
    /// Files that could not be read or moved, and why.
    failing: BTreeMap<OsString, String>,
    /// The queue or the disk failed: when to try again, and how long that wait was.
    backoff: Option<(Instant, Duration)>,
    /// There may be accepted drops that have not been moved: when to look for them.
    move_again: Option<Instant>,
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Wake>) {
        loop {
            self.work();
            let wait = self.next_wake().saturating_duration_since(Instant::now());
            match inbox.recv_timeout(wait) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(wake) => {
                    self.note(wake);
                    // Whatever else has come is worked off together.
                    loop {
                        match inbox.try_recv() {
                            Ok(Wake::Stop) => return,
                            Ok(wake) => self.note(wake),
                            Err(_) => break,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn note(&mut self, wake: Wake) {
        match wake {
            Wake::Name(name, hint) => {
                self.note_for_disks(&name);
                if self.gathering.was_us(&name, hint) || self.batches.was_us(&name, hint) {
                    return;
                }
                if !names::is_ignored(&name) {
                    self.hasten_batches(Instant::now());
                    self.reported.remove(&name);
                    self.pending.note(&name, hint, Instant::now());
                }
            }
            Wake::List { lost } => {
                self.next_list = Instant::now();
                if lost {
                    self.pending.forget_writers();
                }
            }
            Wake::Move => self.move_again = Some(Instant::now()),
            Wake::Stop => {}
        }
    }

    /// What has come may be what a disk waits for: a part of it, or its checksum.
    fn note_for_disks(&mut self, name: &OsString) {
        if !self.parts.settings.borrow().intake.accept_disks {
            return;
        }
        let now = Instant::now();
        let is_disk = |name: &OsString| DropKind::of(name).brings_files() && !names::is_ignored(name);
        if let Some(disk) = checksum::subject(name).filter(is_disk) {
            self.reported.remove(&disk);
            self.pending.note(&disk, Hint::Listed, now);
            self.pending.hasten(&disk, now);
        }
        if is_disk(name) {
            for waiting in self.gathering.waiting() {
                self.pending.hasten(waiting.as_ref(), now);
            }
        }
    }

    fn next_wake(&self) -> Instant {
        if let Some((until, _)) = self.backoff {
            return until;
        }
        let due = if self.draining() { None } else { self.pending.next_due() };
        [due, self.move_again].into_iter().flatten().fold(self.next_list, Instant::min)
    }

    fn draining(&self) -> bool {
        *self.parts.draining.borrow()
    }

    fn work(&mut self) {
        let now = Instant::now();
        if self.backoff.is_some_and(|(until, _)| now < until) {
            return;
        }
        let trouble = match self.try_work(now) {
            Ok(()) => {
                if self.backoff.take().is_some() {
                    tracing::info!("intake goes on");
                }
                self.failing.values().next().cloned()
            }
            Err(error) => {
                let wait = self.backoff.map_or(BACKOFF.0, |(_, wait)| (wait * 2).min(BACKOFF.1));
                tracing::error!(%error, "drops stay where they are; tried again in {} s", wait.as_secs());
                self.backoff = Some((now + wait, wait));
                Some(error.to_string())
            }
        };
        self.errors.send_if_modified(|told| {
            let news = *told != trouble;
            *told = trouble;
            news
        });
    }

    /// An error here is the queue's or the directory's, and stops everything; a file's own trouble is
    /// kept with the file.
    fn try_work(&mut self, now: Instant) -> Result<()> {
        if self.move_again.is_some_and(|at| at <= now) {
            self.move_accepted(now)?;
        }
        if now >= self.next_list {
            self.list(now)?;
            self.next_list = now + self.watch.list_every();
        }
        if self.draining() {
            self.pending.clear();
            return Ok(());
        }
        self.take_due(now)
    }

    /// Moves what was accepted and not moved: by a daemon that died in between, or a move that failed.
    fn move_accepted(&mut self, now: Instant) -> Result<()> {
        let rows = self.parts.queue.with_blocking(|db| db.drops_to_move())?;
        self.move_again = None;
        for chunk in rows.chunks(CHUNK_DROPS) {
            let mut moved = Vec::with_capacity(chunk.len());
            for row in chunk {
                let name = OsString::from(&row.name);
                self.pending.forget(&name);
                match self.acknowledge(row, None) {
                    Ok(drop) => moved.push(drop),
                    Err(error) => self.move_failed(name, &error, now),
                }
            }
            self.mark_moved(moved)?;
            // A disk is worked on only after its move.
            self.parts.accepted.notify_one();
        }
        Ok(())
    }

    /// `bytes`: what was accepted, where it is at hand.
    fn acknowledge(&self, row: &DropRow, bytes: Option<Vec<u8>>) -> Result<MovedDrop> {
        let drop_id = row.drop_id;
        let name = match row.files.is_empty() {
            true => self.places.acknowledge(row, || match bytes {
                Some(bytes) => Ok(bytes),
                None => self.parts.queue.with_blocking(move |db| db.drop_bytes(drop_id)),
            })?,
            false => self.places.carry(row)?,
        };
        Ok(MovedDrop {
            drop_id,
            identity: self.places.identity_in_processing(row, &name),
            processing_name: name,
        })
    }

    fn move_failed(&mut self, name: OsString, error: &Error, now: Instant) {
        tracing::error!(%error, "accepted, but not moved; tried again in {} s", FILE_RETRY.as_secs());
        self.failing.insert(name, error.to_string());
        self.move_again = Some(now + FILE_RETRY);
    }

    fn mark_moved(&self, moved: Vec<MovedDrop>) -> Result<()> {
        if moved.is_empty() {
            return Ok(());
        }
        self.places.sync_moves()?;
        self.parts.queue.with_blocking(move |db| db.drops_moved(&moved))
    }

    /// Looks at every name; what was lost by the notes is found here.
    fn list(&mut self, now: Instant) -> Result<()> {
        let here = self.places.incoming_identity();
        if here.is_none() || here != self.watched {
            let settings = Arc::clone(&self.parts.settings.borrow());
            self.places = Places::prepare(&settings)?;
            self.watch = Watch::start(&self.places.incoming, &self.wakes);
            self.watched = self.places.incoming_identity();
            self.pending.forget_writers();
        }
        let incoming = &self.places.incoming;
        let told = |error: std::io::Error| Error::io(Kind::Output, "list", incoming, &error);
        let accepts_disks = self.parts.settings.borrow().intake.accept_disks;
        let mut reported = BTreeMap::new();
        for entry in std::fs::read_dir(incoming).map_err(told)? {
            let name = entry.map_err(told)?.file_name();
            if names::is_ignored(&name) {
                continue;
            }
            // A name that was reported is looked at again only when it means another file.
            if let Some((name, known)) = self.reported.remove_entry(&name) {
                let found = self.places.look(&name).map_err(told)?.identity();
                if found.is_some_and(|found| (found.dev, found.inode) == known) {
                    // What a disk lacked may have come.
                    if accepts_disks && DropKind::of(&name).brings_files() {
                        self.pending.note(&name, Hint::Listed, now);
                    }
                    reported.insert(name, known);
                    continue;
                }
                self.pending.note(&name, Hint::Listed, now);
                continue;
            }
            self.pending.note(&name, Hint::Listed, now);
        }
        self.reported = reported;
        Ok(())
    }
}
