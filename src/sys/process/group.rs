//! A running child and everything it started, as other threads may act on it.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

#[derive(Debug)]
struct Member {
    /// None once it is reaped: its number may then belong to somebody else.
    pid: Option<Pid>,
    child: Child,
    paused: bool,
    held: bool,
}

/// A running child and everything it started: its process group, which other threads may act on.
#[derive(Debug, Clone)]
pub struct Group(Arc<Mutex<Member>>);

impl Group {
    /// The group that this child leads.
    pub(super) fn of(child: Child) -> Group {
        let pid = Some(Pid::from_child(&child));
        Group(Arc::new(Mutex::new(Member { pid, child, paused: false, held: false })))
    }

    /// Lets it stand still.
    pub fn pause(&self) {
        self.change(|member| member.paused = true);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.change(|member| member.paused = false);
    }

    /// Lets it stand still for another reason: it goes on when neither holds.
    pub fn hold(&self) {
        self.change(|member| member.held = true);
    }

    /// That reason is gone.
    pub fn let_go(&self) {
        self.change(|member| member.held = false);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.lock().signal(Signal::KILL);
    }

    /// Its process id, while it is there.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Whether it stands still because it was told to through this handle.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        let member = self.lock();
        member.paused || member.held
    }

    fn change(&self, change: impl FnOnce(&mut Member)) {
        let mut member = self.lock();
        change(&mut member);
        let stands_still = member.paused || member.held;
        member.signal(if stands_still { Signal::STOP } else { Signal::CONT });
    }

    fn lock(&self) -> MutexGuard<'_, Member> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exit status once it has ended. Whatever the leader left in its group is killed with it.
    pub(super) fn reap(&self) -> io::Result<Option<ExitStatus>> {
        let mut member = self.lock();
        if member.pid.is_none() {
            return member.child.try_wait();
        }
        // As long as the leader is not reaped its id, and so the group's, cannot be given away.
        let gone = rustix::process::waitid(
            WaitId::Pid(Pid::from_child(&member.child)),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
        )?;
        if gone.is_none() {
            return Ok(None);
        }
        member.signal(Signal::KILL);
        member.pid = None;
        member.child.try_wait()
    }
}

impl Member {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // It may have ended already: then there is nothing left to be told.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}
