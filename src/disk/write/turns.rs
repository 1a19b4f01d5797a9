//! Places in the order of the disk, whichever thread is quicker: what makes a result the same whoever was first.

use std::fmt::Debug;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A layout that ranges get their places in, one after the other.
#[derive(Debug)]
pub(super) struct Turns<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    layout: T,
    /// The range whose turn it is.
    turn: u64,
    is_given_up: bool,
}

impl<T> Turns<T> {
    pub(super) fn new(layout: T) -> Turns<T> {
        let state = Mutex::new(State { layout, turn: 0, is_given_up: false });
        Turns { state, changed: Condvar::new() }
    }

    /// Does something with the layout when it is the turn of this range.
    pub(super) fn take<R>(&self, number: u64, work: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        let is_waiting = |state: &mut State<T>| state.turn != number && !state.is_given_up;
        let state = self.changed.wait_while(self.lock(), is_waiting);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_given_up {
            return Err(io::Error::other("the copy was given up"));
        }
        let done = work(&mut state.layout)?;
        state.turn += 1;
        self.changed.notify_all();
        Ok(done)
    }

    /// Does something with it out of turn.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock().layout)
    }

    /// Nobody waits any more.
    pub(super) fn give_up(&self) {
        self.lock().is_given_up = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn turns_come_in_their_order_and_nobody_waits_for_one_that_will_not_come() {
        let turns = Turns::new(Vec::new());
        thread::scope(|scope| {
            for number in [3, 1, 0, 2] {
                let turns = &turns;
                scope.spawn(move || {
                    let push = |layout: &mut Vec<u64>| {
                        layout.push(number);
                        Ok(())
                    };
                    turns.take(number, push).unwrap();
                });
            }
        });
        assert_eq!(turns.with(|layout| layout.clone()), [0, 1, 2, 3]);
        thread::scope(|scope| {
            let waits = scope.spawn(|| turns.take(9, |_| Ok(())));
            turns.give_up();
            waits.join().unwrap().unwrap_err();
        });
    }
}
