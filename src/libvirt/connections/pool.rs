//! The seats at each URI: who has one, who waits for one, and what has become of them. One lock around all of it, which nobody holds while
//! libvirt is asked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Limits, Statistics, worker};
use crate::libvirt::failure::no_thread;
use crate::libvirt::link::{Access, Link};
use crate::model::error::{Error, Kind, Result};
use crate::model::progress::{LibvirtState, LibvirtStatus};
use crate::sys::time::now_epoch;

/// Idle connections have this long to close before the process goes on without them.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// Tells an outcome to who waits for it.
pub(super) type Tell = Box<dyn FnOnce() + Send>;

/// What is done with a connection, or with the reason why there is none.
pub(super) type Work = Box<dyn FnOnce(Result<&Link>) -> Tell + Send>;

/// Work, and until when somebody waits for it.
pub(super) struct Order {
    /// The work.
    pub(super) work: Work,
    /// Nobody waits any longer.
    pub(super) deadline: Instant,
}

/// Where a worker sits.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) uri: String,
    pub(super) access: Access,
    pub(super) seat: u64,
}

/// One order at one seat.
#[derive(Debug)]
pub(super) struct Call {
    uri: String,
    seat: u64,
    number: u64,
}

/// What a seat is in.
enum State {
    /// Its worker waits for orders.
    Idle(Sender<Order>),
    /// It is at the order of this number.
    Busy(u64),
    /// Nobody waits any more for what it is at.
    Hanging,
    /// It gets no more orders.
    Leaving,
}

struct Seat {
    access: Access,
    state: State,
}

/// All that is known of one URI.
#[derive(Default)]
struct Target {
    seats: BTreeMap<u64, Seat>,
    /// Who came first is served first.
    queue: VecDeque<u64>,
    told: Statistics,
    /// Connections that broke and have not been replaced yet.
    broken: u64,
    health: Option<(LibvirtState, Option<String>, f64)>,
}

/// See the module.
pub(super) struct Pool {
    pub(super) limits: Limits,
    targets: Mutex<Targets>,
    changed: Condvar,
}

#[derive(Default)]
struct Targets {
    by_uri: HashMap<String, Target>,
    /// Of seats, calls and waiting callers.
    numbers: u64,
    is_over: bool,
}

impl Pool {
    pub(super) fn new(limits: Limits) -> Pool {
        Pool { limits, targets: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a seat for an order, and waits for one if it has to.
    pub(super) fn place(
        self: &Arc<Pool>,
        uri: &str,
        access: Access,
        within: Duration,
        mut order: Order,
    ) -> Result<Call> {
        let mut targets = self.lock();
        let me = targets.number();
        targets.target(uri).queue.push_back(me);
        loop {
            let number = targets.number();
            let target = targets.target(uri);
            let hanging = target.hanging();
            let rest = order.deadline.saturating_duration_since(Instant::now());
            if hanging >= self.limits.hanging.max(1) || rest.is_zero() {
                target.queue.retain(|waiting| *waiting != me);
                self.changed.notify_all();
                return Err(match rest.is_zero() {
                    true => target.no_seat(uri, within),
                    false => does_not_answer_any_more(uri, hanging),
                });
            }
            if target.queue.front() == Some(&me) {
                match target.sit(access, number, order, self.limits.connections.max(1)) {
                    Sat::Again(seat) => {
                        target.queue.pop_front();
                        self.changed.notify_all();
                        return Ok(Call { uri: uri.to_owned(), seat, number });
                    }
                    Sat::New(order) => {
                        target.queue.pop_front();
                        target.seats.insert(number, Seat { access, state: State::Busy(number) });
                        self.changed.notify_all();
                        drop(targets);
                        let place = Place { uri: uri.to_owned(), access, seat: number };
                        self.start(place, order)?;
                        return Ok(Call { uri: uri.to_owned(), seat: number, number });
                    }
                    Sat::Full(back) => order = back,
                }
            }
            targets = self.changed.wait_timeout(targets, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn start(self: &Arc<Pool>, place: Place, order: Order) -> Result<()> {
        let (pool, leaving) = (self.clone(), place.clone());
        let thread = thread::Builder::new().name("libvirt".to_owned());
        thread.spawn(move || worker::run(pool, place, order)).map(drop).map_err(|error| {
            self.left(&leaving);
            no_thread(&error)
        })
    }

    /// Who waited for this does so no longer.
    pub(super) fn given_up(&self, call: &Call, error: &Error) {
        let mut targets = self.lock();
        let target = targets.target(&call.uri);
        target.told.timed_out += 1;
        target.is_in(LibvirtState::Silent, Some(error.details().cause.clone()));
        if let Some(seat) = target.seats.get_mut(&call.seat)
            && matches!(seat.state, State::Busy(number) if number == call.number)
        {
            seat.state = State::Hanging;
        }
        self.changed.notify_all();
    }

    /// A worker is done with an order. Where its connection is still good, and somebody may still want it: how it hears of the next one.
    pub(super) fn done(&self, place: &Place, is_good: bool) -> Option<Receiver<Order>> {
        let mut targets = self.lock();
        let is_over = targets.is_over;
        let target = targets.target(&place.uri);
        self.changed.notify_all();
        let seat = target.seats.get_mut(&place.seat)?;
        if !is_good {
            target.seats.remove(&place.seat);
            return None;
        }
        if is_over || matches!(seat.state, State::Hanging) {
            // It leaves its seat when it has closed its connection.
            seat.state = State::Leaving;
            return None;
        }
        let (orders, next) = mpsc::channel();
        seat.state = State::Idle(orders);
        Some(next)
    }

    /// Nobody has wanted this worker for long: whether it may go. It may not if it was given an order just now.
    pub(super) fn may_leave(&self, place: &Place) -> bool {
        let mut targets = self.lock();
        let seat = targets.target(&place.uri).seats.get_mut(&place.seat);
        match seat {
            Some(seat) if matches!(seat.state, State::Busy(_)) => false,
            Some(seat) => {
                seat.state = State::Leaving;
                true
            }
            None => true,
        }
    }

    /// A worker is gone, and its connection with it.
    pub(super) fn left(&self, place: &Place) {
        self.lock().target(&place.uri).seats.remove(&place.seat);
        self.changed.notify_all();
    }

    /// A connection was opened, or was there and answered.
    pub(super) fn is_open(&self, place: &Place, is_new: bool) {
        let mut targets = self.lock();
        let target = targets.target(&place.uri);
        target.is_in(LibvirtState::Answers, None);
        if !is_new {
            target.told.reused += 1;
            return;
        }
        target.told.opened += 1;
        if target.broken > 0 {
            target.broken -= 1;
            target.told.reconnected += 1;
        }
    }

    /// A connection broke.
    pub(super) fn broke(&self, place: &Place) {
        let mut targets = self.lock();
        let target = targets.target(&place.uri);
        target.told.errors += 1;
        target.broken += 1;
        target.is_in(LibvirtState::Silent, Some("the connection broke".to_owned()));
    }

    /// One could not be opened.
    pub(super) fn is_closed(&self, place: &Place, error: &Error) {
        let mut targets = self.lock();
        let target = targets.target(&place.uri);
        target.told.errors += 1;
        target.is_in(LibvirtState::Silent, Some(error.details().cause.clone()));
    }

    pub(super) fn statistics(&self, uri: &str) -> Statistics {
        let targets = self.lock();
        let limit = self.limits.connections.max(1);
        targets.by_uri.get(uri).map_or(Statistics { limit, ..Statistics::default() }, |target| {
            let (open_now, hanging) = (target.seats.len(), target.hanging());
            Statistics { open_now, hanging, limit, ..target.told }
        })
    }

    pub(super) fn health(&self, uri: &str) -> LibvirtStatus {
        let targets = self.lock();
        let health = targets.by_uri.get(uri).and_then(|target| target.health.clone());
        let (state, detail, since) = match health {
            Some((state, detail, since)) => (state, detail, Some(since)),
            None => (LibvirtState::NotAsked, None, None),
        };
        LibvirtStatus { uri: uri.to_owned(), state, detail, since }
    }

    /// Nobody will ask any more: idle workers close their connections, for which they are given a moment.
    pub(super) fn close(&self) {
        let mut targets = self.lock();
        targets.is_over = true;
        for seat in targets.by_uri.values_mut().flat_map(|target| target.seats.values_mut()) {
            if matches!(seat.state, State::Idle(_)) {
                seat.state = State::Leaving;
            }
        }
        let until = Instant::now() + CLOSED_WITHIN;
        let leaves = |seat: &Seat| matches!(seat.state, State::Leaving);
        while targets.by_uri.values().any(|target| target.seats.values().any(leaves)) {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            targets = self.changed.wait_timeout(targets, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What came of looking for a seat.
enum Sat {
    /// The order is with the worker of this seat.
    Again(u64),
    /// There is room for a new one.
    New(Order),
    /// There is none now.
    Full(Order),
}

impl Targets {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn target(&mut self, uri: &str) -> &mut Target {
        self.by_uri.entry(uri.to_owned()).or_default()
    }
}

impl Target {
    fn hanging(&self) -> usize {
        self.seats.values().filter(|seat| matches!(seat.state, State::Hanging)).count()
    }

    fn sit(&mut self, access: Access, number: u64, order: Order, most: usize) -> Sat {
        for (id, seat) in &mut self.seats {
            if let (State::Idle(orders), true) = (&seat.state, seat.access == access) {
                let orders = orders.clone();
                seat.state = State::Busy(number);
                return match orders.send(order) {
                    Ok(()) => Sat::Again(*id),
                    // Its worker is ending and will say so.
                    Err(mpsc::SendError(back)) => Sat::Full(back),
                };
            }
        }
        if self.seats.len() < most {
            return Sat::New(order);
        }
        // One that nobody uses makes room.
        let idle = self.seats.values_mut().find(|seat| matches!(seat.state, State::Idle(_)));
        if let Some(seat) = idle {
            seat.state = State::Leaving;
        }
        Sat::Full(order)
    }

    fn is_in(&mut self, state: LibvirtState, detail: Option<String>) {
        let since = match &self.health {
            Some((before, _, since)) if *before == state => *since,
            _ => now_epoch(),
        };
        self.health = Some((state, detail, since));
    }

    fn no_seat(&mut self, uri: &str, within: Duration) -> Error {
        self.told.timed_out += 1;
        let (seats, seconds) = (self.seats.len(), within.as_secs_f64().ceil());
        Error::new(
            Kind::Libvirt,
            format!("no connection to {uri} was free for {seconds:.0} s: all {seats} are in use"),
        )
        .advice("see what keeps libvirtd (or virtqemud) busy, then try again")
        .transient()
    }
}

/// Too many calls hang already.
fn does_not_answer_any_more(uri: &str, hanging: usize) -> Error {
    Error::new(Kind::Libvirt, format!("{uri} does not answer: {hanging} calls to it hang"))
        .advice("restart libvirtd (or virtqemud): `systemctl restart libvirtd`")
        .transient()
}
