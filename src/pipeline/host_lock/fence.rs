//! What keeps a worker from writing where another host works by now.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::file::{LOCK_NAME, Lock};
use crate::disk::Fence;
use crate::model::error::{Error, Kind, Result};
use crate::model::protocol::HeldLock;
use crate::sys::dir::{Dir, Guard};
use crate::sys::time::rfc3339_utc;

/// So long a look counts for pieces of a copy: the file is not read for each of them.
const FRESH: Duration = Duration::from_millis(50);

/// Whether a lock is still the one that was taken. Once it was seen not to be, it never is again.
#[derive(Debug)]
pub struct HostFence {
    lock: HeldLock,
    lost: OnceLock<Error>,
    seen: Mutex<Option<Instant>>,
}

impl HostFence {
    /// Of this lock.
    #[must_use]
    pub fn of(lock: HeldLock) -> Arc<HostFence> {
        Arc::new(HostFence { lock, lost: OnceLock::new(), seen: Mutex::default() })
    }

    /// The host that holds it.
    pub(crate) fn host(&self) -> &str {
        &self.lock.host
    }

    /// What it was lost by, if it was.
    pub(crate) fn lost(&self) -> Option<&Error> {
        self.lost.get()
    }

    /// The same for whoever changes names.
    pub(crate) fn guard(self: &Arc<HostFence>) -> Guard {
        let fence = Arc::clone(self);
        Guard::new(move || fence.check().map_err(io::Error::other))
    }
}

impl Fence for HostFence {
    fn check(&self) -> Result<()> {
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone());
        }
        let looked_at = Instant::now();
        match look(&self.lock)? {
            None => {
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked_at);
                Ok(())
            }
            Some(lost) => Err(self.lost.get_or_init(|| lost).clone()),
        }
    }

    fn glance(&self) -> Result<()> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen {
            Some(at) if self.lost.get().is_none() && at.elapsed() < FRESH => Ok(()),
            _ => self.check(),
        }
    }
}

/// Whether a lock is still held: once, for whoever does not keep on writing.
pub fn is_held(lock: &HeldLock) -> Result<bool> {
    Ok(look(lock)?.is_none())
}

/// What a lock was lost by; an error where that cannot be told.
fn look(held: &HeldLock) -> Result<Option<Error>> {
    let place = held.directory.display();
    let lost = |by: String| {
        Error::new(Kind::Exists, format!("{place} {by}: nothing more is written there"))
            .output(&held.directory)
            .advice("see whether that host has finished the work; `hyper2kvm submit --takeover` takes it back when it is released")
    };
    let dir = match Dir::open(&held.directory) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some(lost("was removed".to_owned())));
        }
        Err(error) => return Err(Error::io(Kind::Output, "open", &held.directory, &error).transient()),
    };
    Ok(match Lock::read(&dir)? {
        Some(lock) if lock.token == held.token => None,
        Some(lock) if lock.host == held.host => {
            Some(lost("is worked in by a later process of this service".to_owned()))
        }
        Some(lock) => {
            let (name, since) = (&lock.host_name, rfc3339_utc(lock.taken_at));
            Some(lost(format!("was taken over by {name} at {since}")))
        }
        None => Some(lost(format!("is not ours any more ({LOCK_NAME} is gone)"))),
    })
}
