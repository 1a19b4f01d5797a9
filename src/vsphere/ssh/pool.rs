//! The connections to one host: a few, kept, each begun when it is needed.
//!
//! `ssh` lives as long as the thread that started it, and those that read come and go: so one thread starts them all, and ends with the last
//! of them. What is not here: what is asked over them.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::account::Account;
use super::command;
use super::shell::Shell;
use crate::disk::Control;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::sys::process::{ChildSpec, Conversation, Launcher, ProcessError};
use crate::vsphere::Patience;

/// Who waits looks this often whether its work was ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is to be started, and who waits for it.
type Order = (ChildSpec, Sender<Result<Conversation, ProcessError>>);

/// The connections to a host.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) account: Account,
    patience: Patience,
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// After the state: what it started ends before it does.
    starter: Sender<Order>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Shell>,
    taken: usize,
}

impl Pool {
    pub(super) fn new(account: Account, patience: Patience, most: usize) -> Arc<Pool> {
        let (starter, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            let launcher = Launcher::this_program();
            for (spec, waits) in orders {
                // Whoever has given up takes nothing, and what was started ends.
                let _ = waits.send(launcher.converse(&spec));
            }
        });
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Pool { account, patience, most: most.max(1), state, changed, starter })
    }

    /// Does something over one connection after the other until it is done. `work` says whether something came.
    pub(super) fn patiently<T>(
        &self,
        control: &Control,
        work: &mut dyn FnMut(&mut Shell, &mut bool) -> Result<T>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            let (mut came, mut was_kept) = (false, false);
            let worked = self.with(control, &mut was_kept, |shell| {
                let done = work(shell, &mut came);
                // What comes too slowly is no getting on.
                came &= !shell.is_slow();
                done
            });
            let error = match worked {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            control.checkpoint()?;
            if error.disposition() != Disposition::Transient {
                return Err(error);
            }
            // One that was kept may have ended long ago: that says nothing of the host.
            if was_kept && !came {
                continue;
            }
            // Whoever gets on is not counted: a network that breaks off again and again is one that works.
            failures = if came { 1 } else { failures + 1 };
            let Some(wait) = self.patience.wait(failures) else { return Err(error) };
            let wait = if came { Duration::ZERO } else { wait };
            tracing::warn!(%error, attempt = failures, "asked again in {:.1} s", wait.as_secs_f64());
            wait_for(wait, control)?;
        }
    }

    fn with<T>(
        &self,
        control: &Control,
        was_kept: &mut bool,
        work: impl FnOnce(&mut Shell) -> Result<T>,
    ) -> Result<T> {
        let kept = self.take(control)?;
        let _taken = Taken(self);
        *was_kept = kept.is_some();
        let mut shell = match kept {
            Some(shell) => shell,
            None => self.begin(control)?,
        };
        let done = work(&mut shell);
        if shell.is_at_rest() {
            self.lock().idle.push(shell);
        }
        done
    }

    /// A connection that is kept, or the leave to begin one.
    fn take(&self, control: &Control) -> Result<Option<Shell>> {
        loop {
            control.checkpoint()?;
            let mut state = self.lock();
            if state.taken < self.most {
                state.taken += 1;
                return Ok(state.idle.pop());
            }
            drop(self.changed.wait_timeout(state, LOOK_EVERY));
        }
    }

    fn begin(&self, control: &Control) -> Result<Shell> {
        let spec = command::child(&self.account, self.patience.timeout)?;
        let (waits, started) = mpsc::channel();
        let gone = || Error::internal("nobody starts ssh any more");
        self.starter.send((spec, waits)).map_err(|_| gone())?;
        let conversation = started.recv().map_err(|_| gone())?.map_err(|error| {
            Error::new(Kind::Unsupported, error.to_string())
                .advice("see that ssh is installed, and works for the service's user")
        })?;
        Shell::begin(conversation, &self.account, self.patience.timeout, control)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the connections that there may be.
struct Taken<'p>(&'p Pool);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
        self.0.changed.notify_one();
    }
}

/// Waits so long, unless the work is ended meanwhile.
fn wait_for(wait: Duration, control: &Control) -> Result<()> {
    let begun = Instant::now();
    loop {
        control.checkpoint()?;
        let left = wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}
