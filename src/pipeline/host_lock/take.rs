//! Who may have the lock of a directory, and how it is taken, shared and given up.
//!
//! | whose lock is there | without being asked to take over | asked to |
//! |---|---|---|
//! | none, or one of a conversion by hand on this machine whose process is gone | taken | taken |
//! | this host's, of this or an earlier process | taken, or shared with those that are alive | the same |
//! | this host's, the batch released | refused | taken |
//! | another host's, released | refused | taken |
//! | another host's, not released | refused | taken if it gives no sign of life, else refused |
//!
//! Whether there are signs of life is told by the clock of the file system, which is one for all hosts: how long ago the lock was
//! written, against a file that is written now. Then it is watched for a while. No clock of the other host is asked, and none of
//! ours. What is not here: the bytes ([`super::file`]), and who writes under the lock ([`super::fence`]).

use std::io;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::file::{Holder, LOCK_NAME, Lock, Program, beside, clear_beside};
use crate::model::error::{Error, Kind, Result};
use crate::model::units::human_duration;
use crate::sys::dir::Dir;
use crate::sys::host;
use crate::sys::time::rfc3339_utc;

/// A sign of life comes so often, and more often where a lock counts as left behind soon.
const BEAT_S: f64 = 10.0;
/// So many of them are missed before a lock counts as left behind.
const MISSED: f64 = 10.0;
/// A lock that looks left behind is watched for so many beats, and no longer than this.
const WATCHED_BEATS: f64 = 1.5;
const WATCHED_MOST_S: f64 = 20.0;
/// Two who take over at once: the later one has written after this.
const SETTLED: Duration = Duration::from_millis(200);
/// How often a lock that was just made by somebody else is looked at again.
const TRIES: u32 = 3;

/// Who takes locks.
#[derive(Debug, Clone, PartialEq)]
pub struct Who {
    pub(super) host: String,
    host_name: String,
    machine: String,
    boot_id: Option<String>,
    program: Program,
    pid: u32,
    began: u64,
    stale_after_s: f64,
}

impl Who {
    /// A service, told from others by what its queue is called.
    #[must_use]
    pub fn daemon(queue: &str, stale_after_s: f64) -> Who {
        Who::of(Program::Daemon, queue, stale_after_s)
    }

    /// A conversion by hand.
    #[must_use]
    pub fn convert(stale_after_s: f64) -> Who {
        Who::of(Program::Convert, "convert", stale_after_s)
    }

    fn of(program: Program, part: &str, stale_after_s: f64) -> Who {
        let machine = format!("{} {}", host::machine_id(), host::process_space());
        let pid = std::process::id();
        // A service in a container stays the same one in the next container.
        let of = if program == Program::Daemon { host::machine_id() } else { machine.clone() };
        Who {
            host: digest(&format!("{of} {part}")),
            host_name: host::host_name(),
            machine: digest(&machine),
            boot_id: crate::sys::boot::boot_id(),
            program,
            pid,
            began: host::process_began(pid).unwrap_or_default(),
            stale_after_s,
        }
    }

    /// What tells this host from every other.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.host
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.host_name
    }

    /// How often it gives a sign of life.
    #[must_use]
    pub fn beat_every(&self) -> Duration {
        Duration::from_secs_f64((self.stale_after_s / MISSED).clamp(0.05, BEAT_S))
    }

    fn holder(&self, batch_id: &str) -> Holder {
        Holder { batch_id: batch_id.to_owned(), pid: self.pid, began: self.began, released: false }
    }

    fn lock(&self) -> Result<Lock> {
        let parts = (self.host.as_str(), self.host_name.as_str(), self.machine.as_str());
        Ok(Lock::new(parts, self.program, self.beat_every().as_secs_f64(), token()?))
    }

    /// Whether a process that holds a lock of this machine is there.
    fn is_alive(&self, lock: &Lock, holder: &Holder) -> bool {
        let same_run = lock.boot_id.is_some() && lock.boot_id == self.boot_id;
        same_run && host::process_began(holder.pid) == Some(holder.began)
    }

    /// Whether what is there stands for nothing any more.
    fn is_left_over(&self, lock: &Lock) -> bool {
        let is_over = |holder: &Holder| {
            lock.program == Program::Convert && lock.machine == self.machine && !self.is_alive(lock, holder)
        };
        lock.holders.iter().all(is_over)
    }
}

/// Whether a lock may be had, without taking it.
pub fn look(dir: &Dir, who: &Who, batch_id: &str, takeover: bool) -> Result<()> {
    match Lock::read(dir)? {
        None => Ok(()),
        Some(lock) => judge(dir, &lock, who, batch_id, takeover),
    }
}

/// Takes the lock for a batch; gives the token by which it is known from now on.
pub(super) fn take(dir: &Dir, who: &Who, batch_id: &str, takeover: bool) -> Result<String> {
    for _ in 0..TRIES {
        let found = Lock::read(dir)?;
        if let Some(lock) = &found {
            judge(dir, lock, who, batch_id, takeover)?;
        }
        let mut mine = who.lock()?;
        let done = match &found {
            None => mine.holding(who, batch_id).create(dir),
            Some(lock) if lock.host == who.host => {
                let others: Vec<Holder> =
                    lock.holders.iter().filter(|h| h.batch_id != batch_id).cloned().collect();
                let (alive, dead): (Vec<_>, Vec<_>) =
                    others.into_iter().partition(|holder| who.is_alive(lock, holder));
                if alive.iter().any(|holder| !holder.released) {
                    // Others of this host are at work under it.
                    mine.token.clone_from(&lock.token);
                    mine.taken_at = lock.taken_at;
                }
                mine.holders = alive;
                mine.holders.extend(dead.into_iter().filter(|holder| holder.released));
                match mine.holding(who, batch_id).rewrite(dir, &lock.token) {
                    Ok(false) => Err(io::ErrorKind::AlreadyExists.into()),
                    done => done.map(drop),
                }
            }
            Some(lock) => {
                tracing::warn!(
                    directory = %dir.path().display(), from = lock.host_name, "work is taken over from another host"
                );
                mine.holding(who, batch_id)
                    .replace(dir)
                    .inspect(|()| thread::sleep(SETTLED))
                    .and_then(|()| clear_beside(dir))
            }
        };
        match done {
            Ok(()) => {}
            // Somebody was quicker: what is there now is looked at.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(failed(dir, "take", &error)),
        }
        match Lock::read(dir)? {
            Some(lock) if lock.token == mine.token => return Ok(mine.token),
            _ => {}
        }
    }
    Err(Error::new(
        Kind::Output,
        format!("{} changes hands while it is taken", dir.path().join(LOCK_NAME).display()),
    )
    .output(dir.path())
    .advice("see which other host works there")
    .transient())
}

/// Gives up a batch: it is held for it no longer, or says that another host may go on with it. With nobody left it is removed.
pub(super) fn leave(dir: &Dir, who: &Who, batch_id: &str, token: &str, released: bool) -> Result<()> {
    let Some(mut lock) = Lock::read(dir)?.filter(|lock| lock.token == token) else { return Ok(()) };
    let is_mine = |holder: &Holder| holder.batch_id == batch_id && holder.pid == who.pid;
    match released {
        true => {
            for holder in lock.holders.iter_mut().filter(|holder| is_mine(holder)) {
                holder.released = true;
            }
        }
        false => lock.holders.retain(|holder| !is_mine(holder)),
    }
    let done = match lock.holders.is_empty() {
        true => dir.remove(&beside(&who.host)).and_then(|_| dir.remove(LOCK_NAME)).and_then(|_| dir.sync()),
        false => lock.rewrite(dir, token).map(drop),
    };
    done.map_err(|error| failed(dir, "give up", &error))
}

impl Lock {
    fn holding(&mut self, who: &Who, batch_id: &str) -> &Lock {
        self.holders.push(who.holder(batch_id));
        self
    }
}

fn judge(dir: &Dir, lock: &Lock, who: &Who, batch_id: &str, takeover: bool) -> Result<()> {
    if lock.host == who.host {
        let released = lock.holders.iter().any(|holder| holder.batch_id == batch_id && holder.released);
        return if released && !takeover { Err(given_away(dir, lock, batch_id)) } else { Ok(()) };
    }
    if who.is_left_over(lock) {
        return Ok(());
    }
    match (lock.is_released(), takeover) {
        (true, true) => Ok(()),
        (true, false) => Err(given_away(dir, lock, batch_id)),
        (false, false) => Err(held(dir, lock, who)),
        (false, true) => left_behind(dir, lock, who),
    }
}

/// Passes where a lock gives no sign of life.
fn left_behind(dir: &Dir, lock: &Lock, who: &Who) -> Result<()> {
    let silent = silent_for(dir, who).map_err(|error| failed(dir, "look at", &error))?;
    if silent < -who.stale_after_s {
        let path = dir.path().join(LOCK_NAME);
        return Err(Error::new(Kind::Output, format!("{} was written in the future", path.display()))
            .output(path)
            .advice("check the clock of the storage; if no other host works there, remove the lock"));
    }
    if silent < who.stale_after_s {
        let cause = format!(
            "{}; its last sign of life came {} ago",
            told(dir, lock),
            human_duration(silent.max(0.0))
        );
        return Err(Error::new(Kind::Exists, cause).output(dir.path()).advice(format!(
            "`hyper2kvm release {}` there gives it away; without that it can be taken over after {} without a sign of life",
            batches(lock),
            human_duration(who.stale_after_s)
        )));
    }
    // The clock of the storage may have been set: a host that lives is seen to.
    let watched = (lock.heartbeat_every_s * WATCHED_BEATS).clamp(0.0, WATCHED_MOST_S);
    thread::sleep(Duration::from_secs_f64(watched));
    match Lock::read(dir)? {
        Some(now) if now.token == lock.token && now.heartbeat_at == lock.heartbeat_at => Ok(()),
        Some(now) => Err(held(dir, &now, who)),
        None => Ok(()),
    }
}

/// How long ago the lock was written, both by the clock of the file system.
fn silent_for(dir: &Dir, who: &Who) -> io::Result<f64> {
    let Some(lock) = dir.entry(LOCK_NAME)? else { return Ok(f64::MAX) };
    let name = beside(&format!("{}.now", who.host));
    dir.write_fresh(&name, b"", 0o600)?;
    let now = dir.entry(&name);
    dir.remove(&name)?;
    let now = now?.ok_or(io::ErrorKind::NotFound)?;
    Ok((now.mtime_ns - lock.mtime_ns) as f64 / 1e9)
}

/// What keeps others away.
pub(super) fn held(dir: &Dir, lock: &Lock, who: &Who) -> Error {
    let advice = match lock.program {
        Program::Daemon => format!(
            "`hyper2kvm release {}` there, or wait until it has given no sign of life for {}; then `hyper2kvm submit --takeover` here",
            batches(lock),
            human_duration(who.stale_after_s)
        ),
        Program::Convert => format!(
            "wait until it has ended; if that machine is gone for good, remove {}",
            dir.path().join(LOCK_NAME).display()
        ),
    };
    Error::new(Kind::Exists, told(dir, lock)).output(dir.path()).advice(advice)
}

fn given_away(dir: &Dir, lock: &Lock, batch_id: &str) -> Error {
    let (place, name) = (dir.path().display(), &lock.host_name);
    Error::new(Kind::Exists, format!("{place} holds unfinished work that was released by {name}"))
        .output(dir.path())
        .advice(format!(
            "`hyper2kvm submit --takeover` with the manifest of `{batch_id}` goes on with it here"
        ))
}

fn told(dir: &Dir, lock: &Lock) -> String {
    let program = match lock.program {
        Program::Daemon => "service",
        Program::Convert => "conversion",
    };
    format!(
        "{} belongs to the {program} on {} (batch {}) since {}",
        dir.path().display(),
        lock.host_name,
        batches(lock),
        rfc3339_utc(lock.taken_at)
    )
}

fn batches(lock: &Lock) -> String {
    let open = lock.holders.iter().filter(|holder| !holder.released);
    let names: Vec<&str> = open.map(|holder| holder.batch_id.as_str()).collect();
    names.join(" ")
}

pub(super) fn failed(dir: &Dir, what: &str, error: &io::Error) -> Error {
    Error::io(Kind::Output, what, &dir.path().join(LOCK_NAME), error)
        .output(dir.path())
        .advice("let the service's user write to the output directory, and check its storage")
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Nobody else draws the same.
fn token() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::internal(format!("no random number: {error}")))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::file::beat;
    use super::*;

    fn scratch() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    fn refused(dir: &Dir, who: &Who, takeover: bool) -> Error {
        let before = std::fs::read(dir.path().join(LOCK_NAME)).unwrap();
        let error = take(dir, who, "web", takeover).unwrap_err();
        assert_eq!(std::fs::read(dir.path().join(LOCK_NAME)).unwrap(), before, "a refusal changes nothing");
        assert_eq!(error.kind(), Kind::Exists, "{error}");
        error
    }

    #[test]
    fn another_host_has_it_when_it_was_released_and_asked_for_and_not_before() {
        let (_temp, dir) = scratch();
        let (first, second) = (Who::daemon("one", 300.0), Who::daemon("two", 300.0));
        let token = take(&dir, &first, "web", false).unwrap();
        assert!(refused(&dir, &second, false).to_string().contains("release web"));
        assert!(refused(&dir, &second, true).to_string().contains("sign of life"));
        leave(&dir, &first, "web", &token, true).unwrap();
        assert!(refused(&dir, &second, false).to_string().contains("--takeover"));
        assert!(refused(&dir, &first, false).to_string().contains("--takeover"));
        let taken = take(&dir, &second, "web", true).unwrap();
        assert_ne!(taken, token);
        assert!(!beat(&dir, &token).unwrap(), "the first one has it no longer");
        leave(&dir, &first, "web", &token, false).unwrap();
        assert!(beat(&dir, &taken).unwrap(), "and cannot give it up");
        leave(&dir, &second, "web", &taken, false).unwrap();
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn a_host_without_a_sign_of_life_loses_it_to_who_asks_and_to_nobody_else() {
        let (temp, dir) = scratch();
        let (first, second) = (Who::daemon("one", 20.0), Who::daemon("two", 60.0));
        let token = take(&dir, &first, "web", false).unwrap();
        let age = || {
            let lock = std::fs::File::options().write(true).open(temp.path().join(LOCK_NAME)).unwrap();
            lock.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).unwrap();
        };
        refused(&dir, &second, true);
        age();
        refused(&dir, &second, false);
        let is_over = AtomicBool::new(false);
        let kept = thread::scope(|scope| {
            scope.spawn(|| {
                // The clock of the storage says otherwise, but it lives.
                while !is_over.load(Ordering::Relaxed) {
                    beat(&dir, &token).unwrap();
                    age();
                    thread::sleep(Duration::from_millis(50));
                }
            });
            let kept = take(&dir, &second, "web", true);
            is_over.store(true, Ordering::Relaxed);
            kept
        });
        assert_eq!(kept.unwrap_err().kind(), Kind::Exists);
        take(&dir, &second, "web", true).unwrap();
        refused(&dir, &first, false);
    }

    #[test]
    fn the_same_host_shares_it_and_takes_it_back_from_a_process_that_is_gone() {
        let (_temp, dir) = scratch();
        let who = Who::convert(300.0);
        let token = take(&dir, &who, "web", false).unwrap();
        assert_eq!(take(&dir, &who, "db", false).unwrap(), token, "two of one host");
        leave(&dir, &who, "web", &token, false).unwrap();
        assert!(beat(&dir, &token).unwrap());
        let gone = Who { pid: u32::MAX, ..who.clone() };
        leave(&dir, &who, "db", &token, false).unwrap();
        let old = take(&dir, &gone, "web", false).unwrap();
        let new = take(&dir, &who, "web", false).unwrap();
        assert_ne!(old, new, "whoever is left of the one before writes nothing any more");
        leave(&dir, &who, "web", &new, false).unwrap();
        take(&dir, &gone, "web", false).unwrap();
        take(&dir, &Who::daemon("one", 300.0), "web", false)
            .expect("nobody goes on with what was done by hand");
    }

    #[test]
    fn what_one_batch_has_released_another_still_holds() {
        let (_temp, dir) = scratch();
        let (first, second) = (Who::daemon("one", 300.0), Who::daemon("two", 300.0));
        let token = take(&dir, &first, "web", false).unwrap();
        take(&dir, &first, "db", false).unwrap();
        leave(&dir, &first, "web", &token, true).unwrap();
        refused(&dir, &second, true);
        leave(&dir, &first, "db", &token, false).unwrap();
        take(&dir, &second, "web", true).unwrap();
    }
}
