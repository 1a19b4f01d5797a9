//! What happens to the machines of a libvirt, as it happens.
//!
//! A stream has a connection of its own, which is asked for signs of life: it ends, with the reason, when libvirt ends or hangs. Nothing is
//! left out: one whose reader is too far behind ends as well. What is not here: what follows from an event.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use virt::sys;

use super::failure::{no_thread, silent, told};
use super::foreign::events::{Hears, Listening};
use super::link::{Access, Link};
use crate::model::error::{Error, Kind, Result};
use crate::sys::time::now_epoch;

/// So many events wait for a reader.
const KEPT: usize = 4096;
/// A connection has this long to close before the program goes on without it.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// What happened to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// It is defined now, or defined otherwise.
    Defined,
    /// It is not any more.
    Undefined,
    /// It runs.
    Started,
    /// It stands still.
    Suspended,
    /// It goes on.
    Resumed,
    /// It is off.
    Stopped,
    /// It is going down.
    Shutdown,
    /// Its guest sleeps.
    PmSuspended,
    /// It crashed.
    Crashed,
    /// Something that this program does not know.
    Unknown,
}

/// libvirt's events by their numbers, each with its details by theirs.
const TABLE: [(Happened, &str, &[&str]); 9] = [
    (Happened::Defined, "defined", &["added", "updated", "renamed", "from_snapshot"]),
    (Happened::Undefined, "undefined", &["removed", "renamed"]),
    (Happened::Started, "started", &["booted", "migrated", "restored", "from_snapshot", "wakeup"]),
    (
        Happened::Suspended,
        "suspended",
        &[
            "paused",
            "migrated",
            "io_error",
            "watchdog",
            "restored",
            "from_snapshot",
            "api_error",
            "postcopy",
            "postcopy_failed",
        ],
    ),
    (Happened::Resumed, "resumed", &["unpaused", "migrated", "from_snapshot", "postcopy", "postcopy_failed"]),
    (
        Happened::Stopped,
        "stopped",
        &["shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from_snapshot"],
    ),
    (Happened::Shutdown, "shutdown", &["finished", "guest", "host"]),
    (Happened::PmSuspended, "pm_suspended", &["memory", "disk"]),
    (Happened::Crashed, "crashed", &["panicked", "crashloaded"]),
];

impl Happened {
    /// The name that is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        TABLE.iter().find(|(happened, ..)| *happened == self).map_or("unknown", |(_, name, _)| name)
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// When it was heard of.
    pub at: f64,
    /// The machine's name.
    pub domain: String,
    /// Its UUID.
    pub uuid: String,
    /// What happened to it.
    pub event: Happened,
    /// How, or why.
    pub detail: &'static str,
}

/// What a stream has next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// This.
    Event(Event),
    /// Nothing more comes, for this reason; none where it was ended on this side.
    Ended(Option<Error>),
    /// Nothing came in time.
    Nothing,
}

/// What has been heard and not been read.
#[derive(Debug)]
struct Heard {
    uri: String,
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    ended: Option<Option<Error>>,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: Option<Error>) {
        self.lock().ended.get_or_insert(reason);
        self.changed.notify_all();
    }
}

impl Hears for Heard {
    fn lifecycle(&self, domain: String, uuid: String, event: c_int, detail: c_int) {
        let of = |number: c_int| usize::try_from(number).unwrap_or(usize::MAX);
        let (happened, detail) = match TABLE.get(of(event)) {
            Some((happened, _, details)) => {
                (*happened, details.get(of(detail)).copied().unwrap_or("unknown"))
            }
            None => (Happened::Unknown, "unknown"),
        };
        let event = Event { at: now_epoch(), domain, uuid, event: happened, detail };
        let mut waiting = self.lock();
        if waiting.ended.is_some() {
            return;
        }
        if waiting.events.len() >= KEPT {
            let cause = format!("events of {} came faster than they were read", self.uri);
            waiting.ended = Some(Some(
                Error::new(Kind::Libvirt, cause)
                    .advice("look at all machines again, then follow anew")
                    .transient(),
            ));
        } else {
            waiting.events.push_back(event);
        }
        self.changed.notify_all();
    }

    fn closed(&self, reason: c_int) {
        let why = match u32::try_from(reason) {
            Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => "libvirt ended it",
            Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => "libvirt gave no sign of life",
            Ok(sys::VIR_CONNECT_CLOSE_REASON_CLIENT) => return self.end(None),
            _ => "it broke",
        };
        let error = Error::new(Kind::Libvirt, format!("the connection to {} is gone: {why}", self.uri))
            .advice("see that libvirtd (or virtqemud) runs and answers: `hyper2kvm doctor`")
            .transient();
        self.end(Some(error));
    }
}

/// A stream of events, in the order in which they happened.
#[derive(Debug)]
pub struct Events {
    heard: Arc<Heard>,
    listening: Option<Listening>,
}

/// Ends a stream from elsewhere.
#[derive(Debug, Clone)]
pub struct Ender(Arc<Heard>);

impl Ender {
    /// Ends it; what has been heard is still read.
    pub fn end(&self) {
        self.0.end(None);
    }
}

impl Events {
    /// Opens one, and waits no longer than `within` for it. `uri` comes from whoever may name programs.
    pub fn open(uri: &str, within: Duration) -> Result<Events> {
        let (opened, is_open) = mpsc::sync_channel(1);
        let heard = Arc::new(Heard { uri: uri.to_owned(), state: Mutex::default(), changed: Condvar::new() });
        let asked = uri.to_owned();
        let open = move || drop(opened.send(Events::begin(&asked, heard)));
        thread::Builder::new().name("libvirt".to_owned()).spawn(open).map_err(|error| no_thread(&error))?;
        is_open.recv_timeout(within).unwrap_or_else(|_| Err(silent(uri, within)))
    }

    fn begin(uri: &str, heard: Arc<Heard>) -> Result<Events> {
        let link = Link::open_watched(uri, Access::Reads)?;
        let listening = Listening::begin(link, &heard)
            .map_err(|error| told(&format!("cannot follow the events of {uri}"), &error))?;
        Ok(Events { heard, listening: Some(listening) })
    }

    /// What comes next, if it comes in time.
    #[must_use]
    pub fn next_within(&self, within: Duration) -> Next {
        let deadline = Instant::now().checked_add(within);
        let mut waiting = self.heard.lock();
        loop {
            if let Some(event) = waiting.events.pop_front() {
                return Next::Event(event);
            }
            if let Some(reason) = &waiting.ended {
                return Next::Ended(reason.clone());
            }
            let rest = deadline.map_or(within, |deadline| deadline.saturating_duration_since(Instant::now()));
            if rest.is_zero() {
                return Next::Nothing;
            }
            let waited = self.heard.changed.wait_timeout(waiting, rest);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// For who wants it to end although nothing happens.
    #[must_use]
    pub fn ender(&self) -> Ender {
        Ender(self.heard.clone())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        // Taking back what was registered asks libvirt, which may hang.
        let (done, is_done) = mpsc::channel::<()>();
        let close = move || {
            drop(listening);
            drop(done);
        };
        if thread::Builder::new().name("libvirt".to_owned()).spawn(close).is_ok() {
            let _ = is_done.recv_timeout(CLOSED_WITHIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use virt::domain::Domain;

    use super::*;

    const URI: &str = "test:///default";
    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn what_happens_to_a_machine_is_told_in_order_until_the_stream_is_ended() {
        let events = Events::open(URI, SOON).unwrap();
        let link = Link::open(URI, Access::Changes).unwrap();
        let xml =
            "<domain type='test'><name>told of</name><memory>1024</memory><os><type>hvm</type></os></domain>";
        let domain = Domain::define_xml(link.raw(), xml).unwrap();
        domain.create().unwrap();
        domain.destroy().unwrap();
        domain.undefine().unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&("undefined", "removed")) {
            match events.next_within(SOON) {
                // The driver's machines are those of all tests in this process.
                Next::Event(event) if event.domain == "told of" => {
                    assert_eq!(event.uuid.len(), 36);
                    seen.push((event.event.name(), event.detail));
                }
                Next::Event(_) => {}
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        let expected =
            [("defined", "added"), ("started", "booted"), ("stopped", "destroyed"), ("undefined", "removed")];
        assert_eq!(seen, expected);
        events.ender().end();
        while let Next::Event(_) = events.next_within(SOON) {}
        assert_eq!(events.next_within(SOON), Next::Ended(None));
    }

    #[test]
    fn a_reader_that_is_too_far_behind_is_told_so_after_what_is_kept() {
        let heard = Heard { uri: URI.to_owned(), state: Mutex::default(), changed: Condvar::new() };
        for number in 0..=KEPT {
            heard.lifecycle(number.to_string(), String::new(), 2, 0);
        }
        heard.closed(1);
        let events = Events { heard: Arc::new(heard), listening: None };
        for number in 0..KEPT {
            let Next::Event(event) = events.next_within(SOON) else { panic!("{number}") };
            assert_eq!(event.domain, number.to_string());
        }
        let Next::Ended(Some(error)) = events.next_within(SOON) else { panic!() };
        assert!(error.details().cause.contains("faster"), "{error}");
    }

    #[test]
    fn numbers_that_nobody_knows_are_told_as_unknown() {
        let heard = Heard { uri: URI.to_owned(), state: Mutex::default(), changed: Condvar::new() };
        for (event, detail) in [(99, 0), (-1, 0), (0, 99), (0, -1)] {
            heard.lifecycle("web".to_owned(), String::new(), event, detail);
        }
        let events = heard.lock().events.drain(..).collect::<Vec<_>>();
        assert!(events.iter().all(|event| event.detail == "unknown"), "{events:?}");
        assert_eq!(events[0].event, Happened::Unknown);
    }
}
