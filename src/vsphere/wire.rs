//! One open connection to a server, for a caller that waits: time limits, and the hand that ends the waiting.
//!
//! The caller's thread drives the connection itself, so that a piece of an answer goes through no second thread. While the work stands still,
//! because the network is down for one, time stands still too: nothing is given up, and nobody asks anew. When it goes on, a connection that
//! says nothing has little time: after an outage its other end may try again only after minutes, or be gone. What is not here: what is asked,
//! sessions, and trying again.

use std::pin::pin;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{HeaderMap, Method};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::endpoint::Endpoint;
use super::failure;
use crate::disk::Control;
use crate::model::error::{Error, Result};
use crate::web::{Kept, NoAnswer, Said, Tls};

/// So often it is looked whether the work was ended meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// So long a connection may say nothing that the work has stood still over; what is asked over it is better asked anew.
const AFTER_A_REST: Duration = Duration::from_secs(5);

/// An open connection.
#[derive(Debug)]
pub(super) struct Wire {
    kept: Kept,
    host: String,
    control: Control,
    runtime: Runtime,
    after_a_rest: Duration,
}

impl Wire {
    /// Connects, within this time.
    pub(super) fn open(endpoint: &Endpoint, tls: &Tls, limit: Duration, control: &Control) -> Result<Wire> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::internal(format!("cannot prepare for waiting: {error}")))?;
        let opened = Kept::open(endpoint.address(), tls);
        let kept = wait(&runtime, control, (limit, AFTER_A_REST), &endpoint.host, opened)?;
        Ok(Wire {
            kept,
            host: endpoint.host.clone(),
            control: control.clone(),
            runtime,
            after_a_rest: AFTER_A_REST,
        })
    }

    /// The same for what cannot be asked anew from where it was: it has as much time after a rest as at any other moment.
    pub(super) fn patient(mut self) -> Wire {
        self.after_a_rest = Duration::MAX;
        self
    }

    /// Asks, and waits so long until an answer begins.
    pub(super) fn ask(
        &mut self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: String,
        limit: Duration,
    ) -> Result<Said> {
        let limits = (limit, self.after_a_rest);
        let asked = self.kept.ask(method, target, headers, body);
        wait(&self.runtime, &self.control, limits, &self.host, asked)
    }

    /// The next piece of an answer; none at its end.
    pub(super) fn next(&mut self, said: &mut Said, limit: Duration) -> Result<Option<Bytes>> {
        wait(&self.runtime, &self.control, (limit, self.after_a_rest), &self.host, said.next())
    }

    /// From now on it is somebody else who ends the waiting.
    pub(super) fn obey(&mut self, control: Control) {
        self.control = control;
    }

    /// Whether the other end has hung up. What came in since the last answer is looked at first.
    pub(super) fn is_closed(&self) -> bool {
        self.runtime.block_on(tokio::task::yield_now());
        self.kept.is_closed()
    }
}

/// Waits for something, but not longer than this, or than this after the work has stood still; and not once it was ended.
fn wait<T>(
    runtime: &Runtime,
    control: &Control,
    (limit, after_a_rest): (Duration, Duration),
    host: &str,
    what: impl Future<Output = Result<T, NoAnswer>>,
) -> Result<T> {
    let mut left = limit;
    runtime.block_on(async {
        let mut what = pin!(what);
        loop {
            control.ended()?;
            let begun = Instant::now();
            if let Ok(done) = timeout(left.min(LOOK_EVERY), &mut what).await {
                return done.map_err(|none| failure::unreached(host, none));
            }
            if control.is_paused() {
                left = left.min(after_a_rest);
                continue;
            }
            left = left.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(failure::silent(host, limit));
            }
        }
    })
}
