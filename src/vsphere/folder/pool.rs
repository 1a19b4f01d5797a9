//! The connections over which the files of one server are read: a few, kept open, shared by all disks that one client reads in this process.
//!
//! A server that says it has too much to do, or that cannot be reached, is left alone by all of them for a while. What is not here: what is
//! asked over them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::disk::Control;
use crate::model::error::Result;
use crate::vsphere::{Client, Connection};

/// Who waits looks this often whether its work was ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Those that there are, by client.
static POOLS: Mutex<Vec<Weak<Pool>>> = Mutex::new(Vec::new());

/// The connections of a client.
#[derive(Debug)]
pub(super) struct Pool {
    client: Client,
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    taken: usize,
    /// Nobody asks before that.
    rests_until: Option<Instant>,
}

impl Pool {
    /// The connections of this client, so many at most: who comes first says how many.
    pub(super) fn of(client: &Client, most: usize) -> Arc<Pool> {
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        if let Some(pool) = pools.iter().filter_map(Weak::upgrade).find(|pool| pool.client.is(client)) {
            return pool;
        }
        let pool = Arc::new(Pool {
            client: client.clone(),
            most: most.max(1),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        pools.push(Arc::downgrade(&pool));
        pool
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Does something over a connection, as soon as one is free and the server is not left alone.
    pub(super) fn with<T>(
        &self,
        control: &Control,
        work: impl FnOnce(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        let mut connection = self.take(control)?;
        let done = work(&mut connection);
        let mut state = self.lock();
        state.taken -= 1;
        state.idle.push(connection);
        self.changed.notify_one();
        done
    }

    fn take(&self, control: &Control) -> Result<Connection> {
        loop {
            control.checkpoint()?;
            let mut state = self.lock();
            let rest = state.rests_until.and_then(|until| until.checked_duration_since(Instant::now()));
            let rest = rest.filter(|rest| !rest.is_zero());
            if rest.is_none() && state.taken < self.most {
                let connection = state.idle.pop().map_or_else(|| self.client.open_connection(), Ok)?;
                state.taken += 1;
                return Ok(connection);
            }
            let wait = rest.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
            drop(self.changed.wait_timeout(state, wait));
        }
    }

    /// Leaves the server alone for so long.
    pub(super) fn rest(&self, wait: Duration) {
        let until = Instant::now().checked_add(wait);
        let mut state = self.lock();
        state.rests_until = state.rests_until.max(until);
    }

    /// Waits so long, unless the work is ended meanwhile. Others may ask.
    pub(super) fn wait(&self, wait: Duration, control: &Control) -> Result<()> {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
