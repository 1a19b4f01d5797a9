//! One open connection to a server, for a caller that waits: time limits, and the hand that ends the waiting.
//!
//! The caller's thread drives the connection itself, so that a piece of an answer goes through no second thread. While the work stands still,
//! because the network is down for one, time stands still too: nothing is given up, and nobody asks anew. When it goes on, a connection that
//! says nothing has little time: after an outage its other end may try again only after minutes, or be gone. The head of an answer has one
//! limit, however its bytes come. What is not here: how long a body is waited for ([`super::flow`]), what is asked, sessions, and trying again.

use std::pin::pin;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{HeaderMap, Method};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use super::endpoint::Endpoint;
use super::failure;
use super::flow::{AFTER_A_REST, Flow};
use crate::disk::Control;
use crate::model::error::{Error, Result};
use crate::web::{Kept, NoAnswer, Said, Tls};

/// So often it is looked whether the work was ended meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What came of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
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
    after_a_rest: Duration,
    /// How the answer comes that was asked for last.
    flow: Flow,
}

impl Wire {
    /// Connects, within this time.
    pub(super) fn open(endpoint: &Endpoint, tls: &Tls, limit: Duration, control: &Control) -> Result<Wire> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::internal(format!("cannot prepare for waiting: {error}")))?;
        let opened = Kept::open(endpoint.address(), tls);
        let mut flow = Flow::new(limit, AFTER_A_REST);
        let kept = wait(&runtime, control, &mut flow, &endpoint.host, opened)?;
        Ok(Wire {
            kept,
            host: endpoint.host.clone(),
            control: control.clone(),
            runtime,
            after_a_rest: AFTER_A_REST,
            flow,
        })
    }

    /// The same for what cannot be asked anew from where it was: it has as much time after a rest as at any other moment.
    pub(super) fn patient(mut self) -> Wire {
        self.after_a_rest = Duration::MAX;
        self
    }

    /// Asks, and waits so long until an answer begins; what follows of it may be silent so long.
    pub(super) fn ask(
        &mut self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: String,
        limit: Duration,
    ) -> Result<Said> {
        let asked = self.kept.ask(method, target, headers, body);
        let mut head = Flow::new(limit, self.after_a_rest);
        let said = wait(&self.runtime, &self.control, &mut head, &self.host, asked)?;
        self.flow = Flow::new(limit, self.after_a_rest);
        Ok(said)
    }

    /// The next piece of an answer; none at its end.
    pub(super) fn next(&mut self, said: &mut Said) -> Result<Option<Bytes>> {
        let next = wait(&self.runtime, &self.control, &mut self.flow, &self.host, said.next())?;
        if let Some(bytes) = &next {
            let came = self.flow.came(bytes.len() as u64);
            came.map_err(|late| failure::late(&self.host, late, self.flow.limit()))?;
        }
        Ok(next)
    }

    /// What is asked for gets on by so many bytes, however few it takes to say so.
    pub(super) fn gets_on(&mut self, bytes: u64) {
        self.flow.earn(bytes);
    }

    /// Takes all of an answer into a buffer, and tells each part as it comes. What came already is waited for once: an answer of many pieces costs no timer for each.
    pub(super) fn fill(
        &mut self,
        said: &mut Said,
        buffer: &mut [u8],
        came: &mut dyn FnMut(usize),
    ) -> Result<Filled> {
        let (host, control, flow) = (&self.host, &self.control, &mut self.flow);
        let limit = flow.limit();
        let late = |late| failure::late(host, late, limit);
        flow.waits();
        self.runtime.block_on(async {
            let mut look = pin!(sleep(LOOK_EVERY));
            let mut done = 0;
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
                    flow.look(control).map_err(late)?;
                    look.set(sleep(LOOK_EVERY));
                };
                let Some(bytes) = next else { return Ok(Filled::Ended(done)) };
                let Some(room) = buffer.get_mut(done..done + bytes.len()) else { return Ok(Filled::TooMuch) };
                room.copy_from_slice(&bytes);
                done += bytes.len();
                came(bytes.len());
                flow.came(bytes.len() as u64).map_err(late)?;
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

/// Waits for something as long as it flows, and not once the work was ended.
fn wait<T>(
    runtime: &Runtime,
    control: &Control,
    flow: &mut Flow,
    host: &str,
    what: impl Future<Output = Result<T, NoAnswer>>,
) -> Result<T> {
    flow.waits();
    runtime.block_on(async {
        let mut what = pin!(what);
        loop {
            control.ended()?;
            if let Ok(done) = timeout(flow.at_most(LOOK_EVERY), &mut what).await {
                return done.map_err(|none| failure::unreached(host, none));
            }
            flow.look(control).map_err(|late| failure::late(host, late, flow.limit()))?;
        }
    })
}
