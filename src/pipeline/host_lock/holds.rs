//! The locks that this process holds: taken for batches, kept alive by a thread each, given up.
//!
//! A directory on storage that is away blocks only its own thread. What is not here: which directories a batch has, and when its work is over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::fence::HostFence;
use super::file::beat;
use super::take::{Who, failed, leave, look, take};
use crate::disk::Fence as _;
use crate::model::error::{Error, Kind, Result};
use crate::model::protocol::HeldLock;
use crate::pipeline::publish::DIRECTORY_MODE;
use crate::sys::dir::Dir;

/// A thread that beats needs no more.
const STACK_BYTES: usize = 128 << 10;

/// The locks of this process. Clones are the same.
#[derive(Debug, Clone)]
pub struct Holds(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    who: Who,
    held: Mutex<BTreeMap<PathBuf, Held>>,
    changed: Condvar,
    /// Directories whose locks are being taken: two VMs of one batch that begin together take one lock, not each a new one.
    taking: Mutex<BTreeSet<PathBuf>>,
    taken: Condvar,
    claims: AtomicU64,
}

/// The claims up to a moment. Whoever gives a lock up says which he knows of: a batch that was begun anew meanwhile keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claims(u64);

impl Claims {
    /// Who takes a lock with it has no claim to keep it.
    const NONE: Claims = Claims(0);
}

/// The turn at taking the lock of a directory or at giving it up; over when it is dropped.
struct Turn<'s> {
    shared: &'s Shared,
    directory: &'s Path,
}

impl<'s> Turn<'s> {
    /// Waits until nobody else of this process is at it.
    fn at(shared: &'s Shared, directory: &'s Path) -> Turn<'s> {
        let taking = shared.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = |taking: &mut BTreeSet<PathBuf>| taking.contains(directory);
        let mut free = shared.taken.wait_while(taking, is_taken).unwrap_or_else(PoisonError::into_inner);
        free.insert(directory.to_owned());
        Turn { shared, directory }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.taking.lock().unwrap_or_else(PoisonError::into_inner).remove(self.directory);
        self.shared.taken.notify_all();
    }
}

#[derive(Debug)]
struct Held {
    token: String,
    /// Who has it, each with the last claim.
    batches: BTreeMap<String, Claims>,
    /// Another host has it by now.
    is_lost: bool,
}

impl Holds {
    /// None yet.
    #[must_use]
    pub fn new(who: Who) -> Holds {
        Holds(Arc::new(Shared {
            who,
            held: Mutex::default(),
            changed: Condvar::new(),
            taking: Mutex::default(),
            taken: Condvar::new(),
            claims: AtomicU64::new(Claims::NONE.0),
        }))
    }

    /// Who holds them.
    #[must_use]
    pub fn who(&self) -> &Who {
        &self.0.who
    }

    /// The claims so far.
    #[must_use]
    pub fn claims(&self) -> Claims {
        Claims(self.0.claims.load(Ordering::SeqCst))
    }

    /// Takes the locks of these directories for a job of a batch: who began to give them up before that leaves them.
    pub fn claim(&self, batch_id: &str, directories: &[PathBuf], takeover: bool) -> Result<()> {
        let claim = Claims(self.0.claims.fetch_add(1, Ordering::SeqCst) + 1);
        self.take_all(batch_id, directories, takeover, claim)
    }

    /// Takes the locks of these directories for a batch, as far as it has not got them; makes those that are not there. All or none.
    pub fn take(&self, batch_id: &str, directories: &[PathBuf], takeover: bool) -> Result<()> {
        self.take_all(batch_id, directories, takeover, Claims::NONE)
    }

    fn take_all(&self, batch_id: &str, directories: &[PathBuf], takeover: bool, claim: Claims) -> Result<()> {
        let mut taken = Vec::new();
        for directory in directories {
            let turn = Turn::at(&self.0, directory);
            if self.has(batch_id, directory, claim) {
                continue;
            }
            if let Err(error) = self.take_one(batch_id, directory, takeover, claim) {
                drop(turn);
                taken.iter().for_each(|directory: &&PathBuf| self.leave_quietly(batch_id, directory, claim));
                return Err(error);
            }
            taken.push(directory);
        }
        Ok(())
    }

    /// Whether another host works where these results go under a lock that is not among those that are taken for them: because it put the
    /// results of one VM there by its name, or because that directory is one of a batch of its.
    pub fn look_around(
        &self,
        batch_id: &str,
        results: &Path,
        taken: &[PathBuf],
        takeover: bool,
    ) -> Result<()> {
        let around = results.parent().into_iter().chain([results]);
        for directory in around.filter(|directory| !taken.iter().any(|taken| taken == directory)) {
            // What is not there has no lock, and what cannot be opened is told by whoever writes there.
            if let Ok(dir) = Dir::open(directory) {
                look(&dir, &self.0.who, batch_id, takeover)?;
            }
        }
        Ok(())
    }

    fn take_one(&self, batch_id: &str, directory: &Path, takeover: bool, claim: Claims) -> Result<()> {
        let dir = Dir::create_all(directory, DIRECTORY_MODE).map_err(|error| {
            Error::io(Kind::Output, "use the result directory", directory, &error)
                .output(directory)
                .advice("it has to be a directory (not a symbolic link) that may be written to")
        })?;
        let who = &self.0.who;
        let token = dir
            .exclusively(|| take(&dir, who, batch_id, takeover))
            .map_err(|error| failed(&dir, "lock the directory of", &error))??;
        let mut held = self.lock();
        let batches = match held.remove(directory) {
            Some(before) if before.token == token => before.batches,
            _ => BTreeMap::new(),
        };
        let is_new = batches.is_empty();
        let batches = batches.into_iter().chain([(batch_id.to_owned(), claim)]).collect();
        held.insert(directory.to_owned(), Held { token: token.clone(), batches, is_lost: false });
        drop(held);
        if is_new {
            let (shared, directory) = (Arc::clone(&self.0), directory.to_owned());
            let thread = thread::Builder::new().name("heartbeat".to_owned()).stack_size(STACK_BYTES);
            thread
                .spawn(move || shared.keep_alive(&directory, &token))
                .map_err(|error| Error::internal(format!("cannot start a thread: {error}")).transient())?;
        }
        Ok(())
    }

    /// The lock under which a batch writes results there; none where it has none.
    #[must_use]
    pub fn lock_above(&self, batch_id: &str, results: &Path) -> Option<HeldLock> {
        let held = self.directories_of(batch_id);
        self.lock_of(held.iter().rfind(|directory| results.starts_with(directory))?)
    }

    /// The lock of a directory as whoever writes there holds it against the file; none where it was not taken.
    #[must_use]
    pub fn lock_of(&self, directory: &Path) -> Option<HeldLock> {
        let held = self.lock();
        let token = held.get(directory)?.token.clone();
        Some(HeldLock { directory: directory.to_owned(), token, host: self.0.who.host.clone() })
    }

    /// The directories that are held for a batch, and not known to be another host's by now.
    #[must_use]
    pub fn directories_of(&self, batch_id: &str) -> Vec<PathBuf> {
        self.directories(|held| !held.is_lost && held.batches.contains_key(batch_id))
    }

    fn directories(&self, is_meant: impl Fn(&Held) -> bool) -> Vec<PathBuf> {
        self.lock().iter().filter(|(_, held)| is_meant(held)).map(|(at, _)| at.clone()).collect()
    }

    /// Gives up all locks of a batch, but for those that were claimed since; with `released` they say that another host may go on with it.
    pub fn leave(&self, batch_id: &str, released: bool, known: Claims) -> Result<()> {
        let all = self.directories(|held| held.batches.contains_key(batch_id));
        all.iter().try_for_each(|directory| self.leave_one(batch_id, directory, released, known))
    }

    /// The same in one directory.
    pub fn leave_one(&self, batch_id: &str, directory: &Path, released: bool, known: Claims) -> Result<()> {
        let _turn = Turn::at(&self.0, directory);
        let claim = self.lock().get(directory).and_then(|held| held.batches.get(batch_id).copied());
        if claim.is_none_or(|claim| claim > known) {
            return Ok(());
        }
        let Some(HeldLock { token, .. }) = self.lock_of(directory) else { return Ok(()) };
        match Dir::open(directory) {
            Ok(dir) => dir
                .exclusively(|| leave(&dir, &self.0.who, batch_id, &token, released))
                .map_err(|error| failed(&dir, "lock the directory of", &error))??,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(Kind::Output, "open", directory, &error)),
        }
        let mut held = self.lock();
        if let Some(one) = held.get_mut(directory) {
            one.batches.remove(batch_id);
            if one.batches.is_empty() {
                held.remove(directory);
                self.0.changed.notify_all();
            }
        }
        Ok(())
    }

    fn leave_quietly(&self, batch_id: &str, directory: &Path, known: Claims) {
        if let Err(error) = self.leave_one(batch_id, directory, false, known) {
            tracing::warn!(directory = %directory.display(), %error, "its lock stays");
        }
    }

    /// Why nothing may be written in one of these directories, if that is so.
    #[must_use]
    pub fn not_ours(&self, directories: &[PathBuf]) -> Option<Error> {
        let locks = directories.iter().filter_map(|directory| self.lock_of(directory));
        locks.map(HostFence::of).find_map(|fence| fence.check().err())
    }

    /// Whether a batch has it already. With a claim it is kept for whoever has that.
    fn has(&self, batch_id: &str, directory: &Path, claim: Claims) -> bool {
        let mut held = self.lock();
        let held = held.get_mut(directory).filter(|held| !held.is_lost);
        let Some(last) = held.and_then(|held| held.batches.get_mut(batch_id)) else { return false };
        *last = claim.max(*last);
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Gives signs of life until the lock is given up or lost.
    fn keep_alive(&self, directory: &Path, token: &str) {
        let every = self.who.beat_every();
        loop {
            let due = Instant::now() + every;
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if held.get(directory).is_none_or(|held| held.is_lost || held.token != token) {
                    return;
                }
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                (held, _) = self.changed.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner);
            }
            drop(held);
            match Dir::open(directory).and_then(|dir| beat(&dir, token)) {
                Ok(true) => {}
                Ok(false) => self.lose(directory, token),
                // As long as it cannot be written, others may take it for left behind, and whoever writes under it looks again anyway.
                Err(error) => {
                    tracing::debug!(directory = %directory.display(), %error, "no sign of life was left");
                }
            }
        }
    }

    fn lose(&self, directory: &Path, token: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.get_mut(directory).filter(|held| held.token == token) {
            tracing::warn!(directory = %directory.display(), "another host works there now: nothing more is written");
            held.is_lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_of_one_batch_that_begin_together_work_under_one_lock() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("out");
        let holds = Holds::new(Who::convert(60.0));
        let take = || {
            holds.take("fleet", std::slice::from_ref(&directory), false).unwrap();
            holds.lock_of(&directory).unwrap().token
        };
        let tokens: BTreeSet<String> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(tokens.len(), 1, "whoever has another one may write nothing any more");
        assert!(holds.not_ours(std::slice::from_ref(&directory)).is_none());
        holds.leave("fleet", false, holds.claims()).unwrap();
        assert!(holds.lock_of(&directory).is_none());
    }

    #[test]
    fn who_ends_with_a_batch_leaves_the_lock_to_those_who_have_begun_anew() {
        let temp = tempfile::tempdir().unwrap();
        let directories = [temp.path().join("out")];
        let holds = Holds::new(Who::convert(60.0));
        holds.claim("fleet", &directories, false).unwrap();
        let ended = holds.claims();
        // What is done there in between is no reason to keep it.
        holds.take("fleet", &directories, false).unwrap();
        holds.claim("fleet", &directories, false).unwrap();
        holds.leave("fleet", false, ended).unwrap();
        assert!(holds.not_ours(&directories).is_none() && holds.lock_of(&directories[0]).is_some());
        holds.take("fleet", &directories, false).unwrap();
        holds.leave("fleet", false, holds.claims()).unwrap();
        assert!(holds.lock_of(&directories[0]).is_none());
        assert_eq!(std::fs::read_dir(&directories[0]).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_that_is_being_given_up_is_taken_by_whoever_comes_then() {
        let temp = tempfile::tempdir().unwrap();
        let directories = [temp.path().join("out")];
        let holds = Holds::new(Who::convert(60.0));
        for _ in 0..50 {
            holds.claim("fleet", &directories, false).unwrap();
            let known = holds.claims();
            thread::scope(|scope| {
                scope.spawn(|| holds.leave("fleet", false, known).unwrap());
                holds.claim("fleet", &directories, false).unwrap();
            });
            let is_held = holds.lock_of(&directories[0]).is_some();
            assert!(is_held && holds.not_ours(&directories).is_none(), "it was taken from under a job");
            holds.leave("fleet", false, holds.claims()).unwrap();
        }
    }
}
