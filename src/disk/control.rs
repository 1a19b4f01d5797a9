//! The caller's hand on running work: pause, go on, stop, cancel.
//!
//! One [`Control`] per job, shared between the thread that works and the thread that hears commands.
//! Children register themselves, so that a command reaches them at once, also where two run at the same
//! time; work without a child asks [`Control::checkpoint`] between blocks. Work that goes on beside other
//! work can end all of it with [`Control::give_up`].

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::model::error::{Error, Kind, Result};
use crate::sys::process::Group;

/// Why work was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// End now, go on later: keep what a next start can use.
    Stop,
    /// End for good.
    Cancel {
        /// Leave what a later attempt can go on from.
        keep_partial: bool,
    },
}

/// Shared flags and the children that run now. Clones are the same hand.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    interruption: Option<Interruption>,
    failure: Option<Error>,
    children: Vec<(u64, Group)>,
    next_child: u64,
}

impl Control {
    /// A hand that has done nothing yet.
    #[must_use]
    pub fn new() -> Control {
        Control::default()
    }

    /// Lets work and its children stand still.
    pub fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        state.children.iter().for_each(|(_, child)| child.pause());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        state.children.iter().for_each(|(_, child)| child.resume());
        self.0.changed.notify_all();
    }

    /// Ends it so that it can go on later. A cancel that came before stays a cancel.
    pub fn stop(&self) {
        self.interrupt(Interruption::Stop);
    }

    /// Ends it for good.
    pub fn cancel(&self, keep_partial: bool) {
        self.interrupt(Interruption::Cancel { keep_partial });
    }

    /// Ends everything because a part of it failed for good: what else runs ends at once, with this error.
    pub fn give_up(&self, error: Error) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        state.end_children();
        self.0.changed.notify_all();
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Whether and how it was ended.
    #[must_use]
    pub fn interruption(&self) -> Option<Interruption> {
        self.lock().interruption
    }

    /// Waits while paused; an error (kind `cancelled`) once stopped or cancelled, or what made it give up.
    pub fn checkpoint(&self) -> Result<()> {
        let mut state = self.lock();
        while state.paused && state.ended().is_ok() {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.ended()
    }

    /// The error of work that was ended by somebody else, if it was.
    pub(crate) fn ended(&self) -> Result<()> {
        self.lock().ended()
    }

    /// Makes a child obey until the guard is dropped; commands that came before reach it now.
    pub(crate) fn attach(&self, child: &Group) -> Attached {
        let mut state = self.lock();
        if state.ended().is_err() {
            child.kill();
        } else if state.paused {
            child.pause();
        }
        let number = state.next_child;
        state.next_child += 1;
        state.children.push((number, child.clone()));
        Attached(self.clone(), number)
    }

    fn interrupt(&self, interruption: Interruption) {
        let mut state = self.lock();
        match state.interruption {
            Some(Interruption::Cancel { .. }) => {}
            Some(Interruption::Stop) | None => state.interruption = Some(interruption),
        }
        state.end_children();
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ended(&self) -> Result<()> {
        match (self.interruption, &self.failure) {
            (Some(interruption), _) => Err(interrupted(interruption)),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Ok(()),
        }
    }

    fn end_children(&self) {
        self.children.iter().for_each(|(_, child)| child.kill());
    }
}

/// While this lives the child obeys its control.
#[derive(Debug)]
pub(crate) struct Attached(Control, u64);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.lock().children.retain(|(number, _)| *number != self.1);
    }
}

fn interrupted(interruption: Interruption) -> Error {
    match interruption {
        Interruption::Stop => Error::new(Kind::Cancelled, "stopped; it can go on later"),
        Interruption::Cancel { .. } => Error::new(Kind::Cancelled, "cancelled by the operator"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn paused_work_waits_until_it_may_go_on() {
        let control = Control::new();
        control.pause();
        let worker = std::thread::spawn({
            let control = control.clone();
            move || control.checkpoint()
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!worker.is_finished());
        control.resume();
        assert!(worker.join().unwrap().is_ok());
    }

    #[test]
    fn an_end_wakes_paused_work_and_a_cancel_is_not_softened_to_a_stop() {
        let control = Control::new();
        control.pause();
        control.cancel(true);
        control.stop();
        assert_eq!(control.checkpoint().unwrap_err().kind(), Kind::Cancelled);
        assert_eq!(control.interruption(), Some(Interruption::Cancel { keep_partial: true }));
    }

    #[test]
    fn work_that_gave_up_tells_its_first_reason_and_an_end_from_outside_outranks_it() {
        let control = Control::new();
        control.pause();
        control.give_up(Error::new(Kind::Guest, "no operating system"));
        control.give_up(Error::new(Kind::Guest, "and more"));
        assert_eq!(control.checkpoint().unwrap_err().details().cause, "no operating system");
        assert_eq!(control.interruption(), None);
        control.stop();
        assert_eq!(control.checkpoint().unwrap_err().kind(), Kind::Cancelled);
    }
}
