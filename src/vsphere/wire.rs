//! One open connection to a server, for a caller that waits: time limits, and the hand that ends the waiting.
//!
//! The caller's thread drives the connection itself, so that a piece of an answer goes through no second thread. What is not here: what is
//! asked, sessions, and trying again.

use std::pin::pin;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{HeaderMap, Method};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use super::endpoint::Endpoint;
use super::failure;
use crate::disk::Control;
use crate::model::error::{Error, Result};
use crate::web::{Kept, NoAnswer, Said, Tls};

/// So often it is looked whether the work was ended meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What came of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// All of it, which is so much.
    Ended(usize),
    /// More than there was room for.
    TooMuch,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Wire {
    kept: Kept,
    host: String,
    control: Control,
    runtime: Runtime,
}

impl Wire {
    /// Connects, within this time.
    pub(super) fn open(endpoint: &Endpoint, tls: &Tls, limit: Duration, control: &Control) -> Result<Wire> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::internal(format!("cannot prepare for waiting: {error}")))?;
        let opened = Kept::open(endpoint.address(), tls);
        let kept = wait(&runtime, control, limit, &endpoint.host, opened)?;
        Ok(Wire { kept, host: endpoint.host.clone(), control: control.clone(), runtime })
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
        let asked = self.kept.ask(method, target, headers, body);
        wait(&self.runtime, &self.control, limit, &self.host, asked)
    }

    /// The next piece of an answer; none at its end.
    pub(super) fn next(&mut self, said: &mut Said, limit: Duration) -> Result<Option<Bytes>> {
        wait(&self.runtime, &self.control, limit, &self.host, said.next())
    }

    /// Takes all of an answer into a buffer, and tells each part as it comes. What came already is waited for once: an answer of many pieces costs no timer for each.
    pub(super) fn fill(
        &mut self,
        said: &mut Said,
        buffer: &mut [u8],
        limit: Duration,
        came: &mut dyn FnMut(usize),
    ) -> Result<Filled> {
        let (host, control) = (&self.host, &self.control);
        self.runtime.block_on(async {
            let mut look = pin!(sleep(LOOK_EVERY));
            let (mut done, mut heard) = (0, Instant::now());
            control.ended()?;
            loop {
                let mut next = pin!(said.next());
                let next = loop {
                    tokio::select! {
                        biased;
                        next = &mut next => break next.map_err(|none| failure::unreached(host, none))?,
                        () = &mut look => {}
                    }
                    control.ended()?;
                    if heard.elapsed() >= limit {
                        return Err(failure::silent(host, limit));
                    }
                    look.set(sleep(LOOK_EVERY));
                };
                let Some(bytes) = next else { return Ok(Filled::Ended(done)) };
                let Some(room) = buffer.get_mut(done..done + bytes.len()) else { return Ok(Filled::TooMuch) };
                room.copy_from_slice(&bytes);
                done += bytes.len();
                heard = Instant::now();
                came(bytes.len());
            }
        })
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

/// Waits for something, but not longer than this, and not once the work was ended.
fn wait<T>(
    runtime: &Runtime,
    control: &Control,
    limit: Duration,
    host: &str,
    what: impl Future<Output = Result<T, NoAnswer>>,
) -> Result<T> {
    let begun = Instant::now();
    runtime.block_on(async {
        let mut what = pin!(what);
        loop {
            control.ended()?;
            let Some(left) = limit.checked_sub(begun.elapsed()) else {
                return Err(failure::silent(host, limit));
            };
            if let Ok(done) = timeout(left.min(LOOK_EVERY), &mut what).await {
                return done.map_err(|none| failure::unreached(host, none));
            }
        }
    })
}
