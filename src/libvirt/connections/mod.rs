//! Connections that are kept: whoever has work for a libvirt hands it over, and waits no longer than it wants to.
//!
//! ```text
//!  with(uri, access, within, work) ──▶ pool: a seat at that URI ──▶ worker: one thread, one connection
//!        │                                 at most so many              looks whether it is still good,
//!        └── answer, or "did not answer"                                opens another one, does the work
//! ```
//!
//! Each connection has a thread of its own, because a call may block for as long as libvirt likes. A libvirtd that hangs so costs its
//! callers their time and nobody else anything: the thread is left behind, takes up a seat until the call comes back, and with too many of
//! them the next caller is told at once. What is not here: what is done with a connection, and which URIs may be asked.

mod pool;
mod worker;

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::failure::silent;
use super::link::{Access, Link};
use crate::model::error::{Error, Result};
use crate::model::progress::LibvirtStatus;
use crate::model::retry::RetryPolicy;
use pool::{Order, Pool};

/// Who asks for longer than this waits for this long.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// How many connections there are, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// To one URI at a time, those included that hang.
    pub connections: usize,
    /// With so many that hang at one URI, the next caller is told at once.
    pub hanging: usize,
    /// One that is older is not used again.
    pub lifetime: Duration,
    /// One that nobody has used for this long is closed.
    pub idle: Duration,
    /// How often and when it is tried again to open one, within the time of who waits for it.
    pub retry: RetryPolicy,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 5,
            hanging: 3,
            lifetime: Duration::from_secs(3600),
            idle: Duration::from_secs(60),
            retry: RetryPolicy::network(),
        }
    }
}

impl Limits {
    /// For people, who want to know at once that nobody answers.
    #[must_use]
    pub fn without_retries() -> Limits {
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::network() };
        Limits { retry, ..Limits::default() }
    }
}

/// What has become of the connections to one URI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections that were opened.
    pub opened: u64,
    /// Calls for which one was there.
    pub reused: u64,
    /// Those opened that took the place of one that broke.
    pub reconnected: u64,
    /// Connections that broke, and those that could not be opened.
    pub errors: u64,
    /// Calls that were given up.
    pub timed_out: u64,
    /// Connections that are there, with those that hang.
    pub open_now: usize,
    /// Those of them that hang.
    pub hanging: usize,
    /// At most so many.
    pub limit: usize,
}

/// All connections of a process; a clone is the same.
#[derive(Clone)]
pub struct Connections(Arc<Closing>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

/// Closes what is idle when nobody can ask any more.
struct Closing(Arc<Pool>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Connections {
        Connections(Arc::new(Closing(Arc::new(Pool::new(limits)))))
    }

    /// Does this with a connection and waits for it, but no longer than `within`. Work that was given up goes on until libvirt comes back to
    /// it; its answer is lost then. `uri` comes from whoever may name programs.
    pub fn with<T: Send + 'static>(
        &self,
        uri: &str,
        access: Access,
        within: Duration,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let within = within.min(LONGEST);
        let deadline = Instant::now() + within;
        let (answer, answered) = mpsc::sync_channel(1);
        let work = move |link: Result<&Link>| -> pool::Tell {
            let outcome = link.and_then(work);
            // Who has given up hears nothing.
            Box::new(move || drop(answer.send(outcome)))
        };
        let order = Order { work: Box::new(work), deadline };
        let call = self.0.0.place(uri, access, within, order)?;
        match answered.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let error = silent(uri, within);
                self.0.0.given_up(&call, &error);
                Err(error)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(Error::internal("what was done with libvirt broke off"))
            }
        }
    }

    /// The same for tasks, none of which waits for another.
    pub async fn with_async<T: Send + 'static>(
        &self,
        uri: &str,
        access: Access,
        within: Duration,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (connections, uri) = (self.clone(), uri.to_owned());
        let waiting = tokio::task::spawn_blocking(move || connections.with(&uri, access, within, work));
        waiting.await.unwrap_or_else(|_| Err(Error::internal("what was done with libvirt broke off")))
    }

    /// What has become of the connections to this URI.
    #[must_use]
    pub fn statistics(&self, uri: &str) -> Statistics {
        self.0.0.statistics(uri)
    }

    /// Whether it answered when it was last asked. Nobody is asked for it.
    #[must_use]
    pub fn health(&self, uri: &str) -> LibvirtStatus {
        self.0.0.health(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::{Disposition, Kind};
    use crate::model::progress::LibvirtState;

    const URI: &str = "test:///default";
    const SOON: Duration = Duration::from_secs(30);

    fn name(link: &Link) -> Result<String> {
        Ok(link.raw().get_type().unwrap())
    }

    #[test]
    fn a_connection_is_used_again_and_closed_when_nobody_needs_it() {
        let limits = Limits { idle: Duration::from_secs(2), ..Limits::default() };
        let connections = Connections::new(limits);
        assert_eq!(connections.health(URI).state, LibvirtState::NotAsked);
        for _ in 0..3 {
            assert_eq!(connections.with(URI, Access::Reads, SOON, name).unwrap(), "TEST");
        }
        let told = connections.statistics(URI);
        assert_eq!((told.opened, told.reused, told.open_now, told.limit), (1, 2, 1, 5));
        assert_eq!(connections.health(URI).state, LibvirtState::Answers);
        let closed = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            connections.statistics(URI).open_now == 0
        });
        assert!(closed, "{:?}", connections.statistics(URI));
    }

    #[test]
    fn one_that_is_old_is_replaced() {
        let connections =
            Connections::new(Limits { lifetime: Duration::from_millis(1), ..Limits::default() });
        for _ in 0..2 {
            connections.with(URI, Access::Reads, SOON, name).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let told = connections.statistics(URI);
        assert_eq!((told.opened, told.reused, told.reconnected, told.open_now), (2, 0, 0, 1));
    }

    #[test]
    fn looking_and_changing_have_connections_of_their_own_and_share_the_seats() {
        let connections = Connections::new(Limits { connections: 1, ..Limits::default() });
        for access in [Access::Reads, Access::Changes, Access::Reads] {
            connections.with(URI, access, SOON, name).unwrap();
        }
        let told = connections.statistics(URI);
        assert_eq!((told.opened, told.reused, told.open_now), (3, 0, 1));
    }

    #[test]
    fn work_that_hangs_costs_its_caller_the_time_and_too_many_cost_the_next_one_none() {
        let connections = Connections::new(Limits { hanging: 2, ..Limits::default() });
        let (go_on, waits) = mpsc::channel::<()>();
        let waits = Arc::new(std::sync::Mutex::new(waits));
        let short = Duration::from_millis(50);
        for _ in 0..2 {
            let waits = waits.clone();
            let hang = move |_: &Link| Ok(waits.lock().unwrap().recv().is_ok());
            let error = connections.with(URI, Access::Reads, short, hang).unwrap_err();
            assert_eq!(error.kind(), Kind::Libvirt);
            assert_eq!(error.disposition(), Disposition::Transient);
        }
        assert_eq!(connections.statistics(URI).hanging, 2);
        let asked = Instant::now();
        let error = connections.with(URI, Access::Reads, SOON, name).unwrap_err();
        assert!(error.details().cause.contains("does not answer"), "{error}");
        assert!(asked.elapsed() < SOON / 2);
        drop(go_on);
        let came_back = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            connections.with(URI, Access::Reads, SOON, name).is_ok()
        });
        assert!(came_back, "{:?}", connections.statistics(URI));
        assert_eq!(connections.statistics(URI).timed_out, 2);
    }

    #[test]
    fn who_finds_no_seat_waits_for_his_turn_and_no_longer_than_he_wants() {
        let connections = Connections::new(Limits { connections: 1, hanging: 1, ..Limits::default() });
        let (go_on, waits) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        std::thread::scope(|scope| {
            let busy = connections.clone();
            scope.spawn(move || {
                let work = move |_: &Link| {
                    began.send(()).unwrap();
                    Ok(waits.recv().is_ok())
                };
                busy.with(URI, Access::Reads, SOON, work).unwrap();
            });
            begun.recv().unwrap();
            let error = connections.with(URI, Access::Reads, Duration::from_millis(50), name).unwrap_err();
            assert!(error.details().cause.contains("no connection"), "{error}");
            go_on.send(()).unwrap();
        });
        connections.with(URI, Access::Reads, SOON, name).unwrap();
        assert_eq!(connections.statistics(URI).opened, 1);
    }

    #[test]
    fn one_that_cannot_be_opened_is_told_and_a_panic_ends_nobody_else() {
        let connections = Connections::new(Limits::without_retries());
        let nowhere = "qemu+unix:///system?socket=/nowhere/sock";
        let error = connections.with(nowhere, Access::Reads, SOON, name).unwrap_err();
        assert_eq!(error.disposition(), Disposition::Transient, "{error}");
        let told = connections.statistics(nowhere);
        assert_eq!((told.opened, told.errors, told.open_now), (0, 1, 0));
        assert_eq!(connections.health(nowhere).state, LibvirtState::Silent);
        let panics = |_: &Link| -> Result<()> { panic!("as a defect would") };
        let error = connections.with(URI, Access::Reads, SOON, panics).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        connections.with(URI, Access::Reads, SOON, name).unwrap();
    }

    #[tokio::test]
    async fn tasks_wait_without_a_thread_of_the_runtime() {
        let connections = Connections::new(Limits::default());
        let asked = (0..8).map(|_| connections.with_async(URI, Access::Reads, SOON, name));
        for asked in asked.collect::<Vec<_>>() {
            assert_eq!(asked.await.unwrap(), "TEST");
        }
    }
}
