//! How many read through VMware's library at a time, over all disks of a machine: each of them does so over a connection of its own to the machine's
//! host, which bears few.
//!
//! What is not here: what they read.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::LOOK_EVERY;
use crate::disk::Control;
use crate::model::error::Result;

/// See the module.
#[derive(Debug)]
pub(crate) struct Turns {
    most: usize,
    taken: Mutex<usize>,
    changed: Condvar,
}

/// Somebody reads as long as this lives.
#[derive(Debug)]
pub(super) struct Turn<'t>(&'t Turns);

impl Turns {
    /// So many at a time, and one at least.
    pub(crate) fn of(most: usize) -> Arc<Turns> {
        Arc::new(Turns { most: most.max(1), taken: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits until there are fewer, unless the work is ended meanwhile.
    pub(super) fn take(&self, control: &Control) -> Result<Turn<'_>> {
        let mut taken = self.lock();
        while *taken >= self.most {
            control.ended()?;
            (taken, _) = self.changed.wait_timeout(taken, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Ok(Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Kind;

    #[test]
    fn who_comes_when_all_turns_are_taken_waits_for_one_or_for_the_end_of_the_work() {
        let (turns, control) = (Turns::of(0), Control::new());
        let turn = turns.take(&control).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| turns.take(&control).map(drop));
            std::thread::sleep(LOOK_EVERY / 5);
            assert!(!waits.is_finished());
            drop(turn);
            waits.join().unwrap().unwrap();
        });
        let _turn = turns.take(&control).unwrap();
        control.cancel(false);
        assert_eq!(turns.take(&control).unwrap_err().kind(), Kind::Cancelled);
    }
}
