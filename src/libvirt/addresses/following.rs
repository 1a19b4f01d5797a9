//! A finder that hears of what happens to machines: what it remembers of one to which something happened is dropped at once.
//!
//! Another run of a machine is noticed anyway, when somebody asks; here the rest: cards that were changed, a machine that stood still for a while,
//! one that is gone. While nobody tells, all is taken for changed once somebody does again. What is not here: the stream of events itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Finder;
use crate::libvirt::events::{Ender, Events, Next};
use crate::libvirt::failure::no_thread;
use crate::model::error::Result;

/// A stream that nothing comes out of is looked at so often: whether it is still wanted.
const QUIET: Duration = Duration::from_secs(3600);
/// libvirt is asked again after so long when a stream has ended, …
const FIRST_AGAIN: Duration = Duration::from_millis(500);
/// … and each time after twice as long, up to this.
const LAST_AGAIN: Duration = Duration::from_secs(30);

/// Ends the listening when it is dropped.
#[derive(Debug)]
pub struct Following(Arc<Wanted>);

/// Whether somebody still wants to hear.
#[derive(Debug, Default)]
struct Wanted {
    is_over: AtomicBool,
    ender: Mutex<Option<Ender>>,
}

impl Finder {
    /// Has a thread listen to this libvirt, `within` being what that may take to answer, until what is returned is dropped.
    pub fn follow(&self, uri: &str, within: Duration) -> Result<Following> {
        let events = Events::open(uri, within)?;
        let following = Following(Arc::default());
        following.0.listens_to(&events);
        // What was remembered before may have changed by now.
        self.forget_all();
        let (wanted, shared, uri) = (Arc::clone(&following.0), Arc::clone(&self.shared), uri.to_owned());
        let listen = move || listen(events, &Finder { shared }, &wanted, (&uri, within));
        thread::Builder::new().name("libvirt".to_owned()).spawn(listen).map_err(|error| no_thread(&error))?;
        Ok(following)
    }
}

impl Wanted {
    fn listens_to(&self, events: &Events) {
        *self.ender.lock().unwrap_or_else(PoisonError::into_inner) = Some(events.ender());
        if self.is_over() {
            events.ender().end();
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        let ender = self.0.ender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ender) = ender {
            ender.end();
        }
    }
}

fn listen(mut events: Events, finder: &Finder, wanted: &Wanted, libvirt: (&str, Duration)) {
    loop {
        match events.next_within(QUIET) {
            Next::Event(event) => finder.forget(&event.uuid),
            Next::Nothing if !wanted.is_over() => {}
            Next::Nothing | Next::Ended(None) => return,
            Next::Ended(Some(error)) => {
                tracing::debug!(%error, "what happens to machines is not heard for now");
                finder.forget_all();
                match reopened(wanted, libvirt) {
                    Some(again) => events = again,
                    None => return,
                }
                finder.forget_all();
            }
        }
    }
}

/// Another stream, when libvirt is back; none if nobody wants it any more.
fn reopened(wanted: &Wanted, (uri, within): (&str, Duration)) -> Option<Events> {
    let mut pause = FIRST_AGAIN;
    while !wanted.is_over() {
        thread::sleep(pause);
        if let Ok(events) = Events::open(uri, within) {
            wanted.listens_to(&events);
            return Some(events);
        }
        pause = (pause * 2).min(LAST_AGAIN);
    }
    None
}
