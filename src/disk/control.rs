//! The caller's hand on running work: pause, go on, stop, cancel, and how fast it may read its source.
//!
//! One [`Control`] per job, shared between the thread that works and the thread that hears commands.
//! Children register themselves, so that a command reaches them at once, also where two run at the same
//! time; work without a child asks [`Control::checkpoint`] between blocks. Work that goes on beside other
//! work can end all of it with [`Control::give_up`]. What is not here: how a rate is counted (see [`super::pace`]).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::disk::fence::Fence;
use crate::disk::pace::{Pace, Place};
use crate::model::bandwidth::Rate;
use crate::model::error::{Error, Kind, Result};
use crate::sys::process::Group;

/// Who waits for its place looks this often whether its work is over by itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    fence: OnceLock<Arc<dyn Fence>>,
}

#[derive(Debug)]
struct State {
    paused: bool,
    pace: Pace,
    /// How many wait until the rate lets them read.
    held_back: usize,
    interruption: Option<Interruption>,
    failure: Option<Error>,
    children: Vec<(u64, Group)>,
    next_child: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            paused: false,
            pace: Pace::new(Instant::now()),
            held_back: 0,
            interruption: None,
            failure: None,
            children: Vec::new(),
            next_child: 0,
        }
    }
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
        state.pace.stand_still(Instant::now(), true);
        state.children.iter().for_each(|(_, child)| child.pause());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        state.pace.stand_still(Instant::now(), false);
        state.children.iter().for_each(|(_, child)| child.resume());
        self.0.changed.notify_all();
    }

    /// How fast sources may be read from now on, by copies that run too. What was written is read again without a limit.
    pub fn limit_reading(&self, rate: Rate) {
        self.lock().pace.set_rate(Instant::now(), rate);
        self.0.changed.notify_all();
    }

    /// How fast they may be read.
    #[must_use]
    pub fn reading_limit(&self) -> Rate {
        self.lock().pace.rate()
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

    /// Targets are written only as long as this allows it. Said once, before the work begins.
    pub fn fence(&self, fence: Arc<dyn Fence>) {
        let _ = self.0.fence.set(fence);
    }

    /// Whether a target, and what is known of it, may be written now.
    pub(crate) fn may_write(&self) -> Result<()> {
        self.0.fence.get().map_or(Ok(()), |fence| fence.check())
    }

    /// The same, asked so often that it has to be cheap.
    pub(crate) fn may_write_on(&self) -> Result<()> {
        self.0.fence.get().map_or(Ok(()), |fence| fence.glance())
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

    /// Waits until so many bytes may be read, or the work `is_over` by itself; else like [`Control::checkpoint`].
    pub(crate) fn await_turn(&self, bytes: u64, is_over: &dyn Fn() -> bool) -> Result<()> {
        let mut state = self.lock();
        let place = state.pace.ask(Instant::now(), bytes);
        self.await_place(state, place, is_over)
    }

    /// The same for somebody who has read so many bytes more already: the place that they have to wait for, if they have to.
    pub(crate) fn has_read_ahead(&self, bytes: u64) -> Option<Place> {
        let mut state = self.lock();
        let now = Instant::now();
        let place = state.pace.ask(now, bytes);
        state.pace.until(now, place).map(|_| place)
    }

    /// Waits until a place is reached.
    pub(crate) fn await_reached(&self, place: Place, is_over: &dyn Fn() -> bool) -> Result<()> {
        self.await_place(self.lock(), place, is_over)
    }

    fn await_place(
        &self,
        mut state: MutexGuard<'_, State>,
        place: Place,
        is_over: &dyn Fn() -> bool,
    ) -> Result<()> {
        state.held_back += 1;
        while state.ended().is_ok() && !is_over() {
            let wait = match state.pace.until(Instant::now(), place) {
                None if !state.paused => break,
                left => left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY),
            };
            (state, _) = self.0.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
        }
        state.held_back -= 1;
        state.ended()
    }

    /// Until the guard is dropped it makes no progress that could be seen, and is none the worse for it.
    pub(crate) fn stand_still(&self) -> StandsStill {
        self.lock().held_back += 1;
        StandsStill(self.clone())
    }

    /// Whether it makes no progress because it may not: paused, or waiting for its turn to read.
    pub(crate) fn stands_still(&self) -> bool {
        let state = self.lock();
        state.paused || state.held_back > 0
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

/// While this lives nobody takes the work for hanging.
#[derive(Debug)]
pub(crate) struct StandsStill(Control);

impl Drop for StandsStill {
    fn drop(&mut self) {
        self.0.lock().held_back -= 1;
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
    use std::num::NonZeroU64;

    use super::*;

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
    fn who_waits_for_its_turn_obeys_at_once() {
        let slow = || {
            let control = Control::new();
            control.limit_reading(NonZeroU64::new(1));
            let waiting = std::thread::spawn({
                let control = control.clone();
                move || control.await_turn(1 << 30, &|| false)
            });
            while !control.stands_still() {
                std::thread::yield_now();
            }
            (control, waiting)
        };
        let (control, waiting) = slow();
        control.limit_reading(None);
        assert!(waiting.join().unwrap().is_ok());
        assert!(!control.stands_still());

        let (control, waiting) = slow();
        control.cancel(false);
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), Kind::Cancelled);

        let (control, waiting) = slow();
        control.pause();
        control.limit_reading(None);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished(), "it is its turn, but it is paused");
        control.resume();
        assert!(waiting.join().unwrap().is_ok());
    }

    #[test]
    fn who_waits_for_its_turn_sees_that_its_work_is_over() {
        let control = Control::new();
        control.limit_reading(NonZeroU64::new(1));
        let begun = Instant::now();
        assert!(control.await_turn(1 << 30, &|| begun.elapsed() > Duration::from_millis(50)).is_ok());
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
