//! One thread with one connection: does one order after the other, and ends when nobody has one for it.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use super::pool::{Order, Place, Pool};
use crate::libvirt::link::Link;
use crate::model::error::{Disposition, Result};
use crate::sys::random;

/// Why none could be opened has to reach whoever waits while he still does.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

/// A connection, and since when.
struct Kept {
    link: Link,
    opened: Instant,
}

/// Gives the seat back, however its worker ends; the connection is closed by then.
struct Leave(Arc<Pool>, Place);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.left(&self.1);
    }
}

/// Works until nobody wants anything.
pub(super) fn run(pool: Arc<Pool>, place: Place, first: Order) {
    // Dropped last.
    let leave = Leave(pool, place);
    let (pool, place) = (&leave.0, &leave.1);
    let mut kept: Option<Kept> = None;
    let mut order = first;
    loop {
        let link = ready(pool, place, &mut kept, order.deadline);
        let had_one = link.is_ok();
        let tell = (order.work)(link);
        // What broke meanwhile is known without asking.
        if had_one && kept.as_ref().is_some_and(|kept| !kept.link.is_open()) {
            pool.broke(place);
            kept = None;
        }
        // Whoever is told may come again at once, and is to find the seat.
        let next = pool.done(place, kept.is_some());
        tell();
        let Some(next) = next else { return };
        order = match next.recv_timeout(pool.limits.idle) {
            Ok(order) => order,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if pool.may_leave(place) => return,
            Err(RecvTimeoutError::Timeout) => match next.recv() {
                Ok(order) => order,
                Err(_) => return,
            },
        };
    }
}

/// The connection, if it is young and answers, or another one.
fn ready<'k>(pool: &Pool, place: &Place, kept: &'k mut Option<Kept>, deadline: Instant) -> Result<&'k Link> {
    if kept.as_ref().is_some_and(|kept| kept.opened.elapsed() >= pool.limits.lifetime) {
        *kept = None;
    }
    // A libvirtd that ended while nobody asked is only seen by asking.
    if kept.as_ref().is_some_and(|kept| !kept.link.answers()) {
        pool.broke(place);
        *kept = None;
    }
    let is_new = kept.is_none();
    let link = match kept.take() {
        Some(kept) => kept,
        None => Kept { link: open(pool, place, deadline)?, opened: Instant::now() },
    };
    pool.is_open(place, is_new);
    Ok(&kept.insert(link).link)
}

/// Opens one, as often as the policy says and while somebody waits.
fn open(pool: &Pool, place: &Place, deadline: Instant) -> Result<Link> {
    let mut failures = 0;
    loop {
        let error = match Link::open(&place.uri, place.access) {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        pool.is_closed(place, &error);
        failures += 1;
        let wait = pool.limits.retry.wait_s(failures, random::spread()).map(Duration::from_secs_f64);
        let may_pass = error.disposition() == Disposition::Transient;
        let Some(wait) = wait.filter(|wait| may_pass && Instant::now() + *wait + TOLD_WITHIN < deadline)
        else {
            return Err(error);
        };
        tracing::info!(%error, attempt = failures, "tried again in {:.1} s", wait.as_secs_f64());
        thread::sleep(wait);
    }
}
