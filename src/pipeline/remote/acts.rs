//! What is done at a source, and undone: written down before it is done, and again after.
//!
//! ```text
//!   intend ─▶ journal, durable ─▶ told ─▶ done at the source ─▶ journal, durable ─▶ told
//!                 └── dies here: the next one looks at the source whether it was done, and goes on from there
//! ```
//!
//! Undoing is the same row: what is undone twice is undone. What is not here: when what is done (see the stages), and the transitions
//! ([`crate::model::acts`]).

use super::{Whom, find_again, power};
use crate::disk::Control;
use crate::model::acts::{Act, ActKind, Acts};
use crate::model::error::Result;
use crate::model::protocol::WorkerEvent;
use crate::model::remote::PlannedRemote;
use crate::pipeline::handover;
use crate::pipeline::worker::Job;
use crate::sys::failpoint;
use crate::sys::time::now_epoch;
use crate::vsphere::inventory::VmRef;
use crate::vsphere::{Client, Patience, cbt, snapshot};

/// Whoever undoes something when work has ended does not wait long for a server that is away: it is tried again by others.
const RETRIES: u32 = 1;

/// Where acts are written down.
pub(in crate::pipeline) trait Book {
    /// What is written.
    fn acts(&mut self) -> &mut Acts;
    /// Makes it durable, and tells it.
    fn keep(&mut self) -> Result<()>;
}

impl Book for Job<'_> {
    fn acts(&mut self) -> &mut Acts {
        &mut self.checkpoint.acts
    }

    fn keep(&mut self) -> Result<()> {
        self.save()?;
        self.meter.tell(WorkerEvent::Acts { acts: self.checkpoint.acts.clone() });
        Ok(())
    }
}

/// Writes down what is about to be done.
pub(in crate::pipeline) fn intend(book: &mut dyn Book, what: ActKind) -> Result<usize> {
    let number = book.acts().intend(what, now_epoch());
    book.keep()?;
    failpoint::hit("acts.intended");
    Ok(number)
}

/// It was done, and this is how it is known now.
pub(in crate::pipeline) fn done(book: &mut dyn Book, number: usize, what: ActKind) -> Result<()> {
    failpoint::hit("acts.did");
    book.acts().done(number, what, now_epoch())?;
    book.keep()?;
    failpoint::hit("acts.done");
    Ok(())
}

/// It was undone, or turns out never to have been done.
pub(in crate::pipeline) fn undone(book: &mut dyn Book, number: usize) -> Result<()> {
    failpoint::hit("acts.undid");
    book.acts().undone(number, now_epoch())?;
    book.keep()?;
    failpoint::hit("acts.undone");
    Ok(())
}

/// How it ended that a source was to be made as if nothing had been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) enum Undoing {
    /// Nothing is left of it there.
    Done,
    /// The source itself is not there any more.
    Gone,
}

impl Undoing {
    /// What a person should know of it, if anything.
    pub(in crate::pipeline) fn told(self, planned: &PlannedRemote) -> Option<String> {
        (self == Undoing::Gone).then(|| {
            format!(
                "{} is not there any more: what was done at it is not undone, and not tried again \
                 (should it come back, `hyper2kvm vsphere snapshot list --orphans` finds snapshots that were left)",
                planned.shown()
            )
        })
    }
}

/// Its source is not there any more: what was to be undone there is gone with it.
pub(in crate::pipeline) fn lose(book: &mut dyn Book, numbers: &[usize]) -> Result<()> {
    for number in numbers {
        book.acts().gone(*number, now_epoch())?;
    }
    book.keep()
}

/// What is to be undone, the newest first.
type Due = Vec<(usize, Act)>;

fn due<'a>(acts: impl Iterator<Item = (usize, &'a Act)>) -> Due {
    acts.map(|(number, act)| (number, act.clone())).collect()
}

/// Undoes what must not stay. What cannot be undone keeps nothing older from being tried; why it cannot is told.
fn undo(client: &Client, vm: &VmRef, remote: &PlannedRemote, book: &mut dyn Book, due: Due) -> Result<()> {
    let mut failed = None;
    for (number, act) in due {
        let what = &act.what;
        failpoint::hit("acts.undoing");
        match undo_one(client, vm, &act, remote).and_then(|()| undone(book, number)) {
            Ok(()) => tracing::info!(vm = vm.moref, act = what.shown(), "undone at the source"),
            Err(error) => {
                tracing::warn!(vm = vm.moref, act = what.shown(), %error, "cannot be undone at the source");
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Makes the source as if it had not been done; that it was not, or is undone already, is no matter.
fn undo_one(client: &Client, vm: &VmRef, act: &Act, remote: &PlannedRemote) -> Result<()> {
    match &act.what {
        ActKind::Snapshot { name, .. } => snapshot::remove_all_called(client, vm, name, &mut |_| {}),
        ActKind::ChangeTracking => cbt::disable(client, vm, &mut |_| {}),
        ActKind::ShutDown { .. } => power::start_again(client, vm, act, remote),
        given_way => power::take_back(client, vm, given_way),
    }
}

/// The same for whoever is not logged in, of all that must not stay when the work is over. The hand that ended the work does not end this.
pub(in crate::pipeline) fn undo_by(
    whom: Whom<'_>,
    control: &Control,
    book: &mut dyn Book,
    succeeded: bool,
) -> Result<Undoing> {
    let due = due(book.acts().to_undo(succeeded));
    undo_those(whom, control, book, due)
}

fn undo_those(
    (access, remote, limits): Whom<'_>,
    control: &Control,
    book: &mut dyn Book,
    due: Due,
) -> Result<Undoing> {
    if due.is_empty() {
        return Ok(Undoing::Done);
    }
    let patience = Patience::of(&limits.connection);
    let patience = Patience { max_retries: patience.max_retries.min(RETRIES), ..patience };
    let client = Client::connect(&access.endpoint, &access.login, &patience, control)?;
    let Some(vm) = find_again(&client, remote)? else {
        let numbers: Vec<usize> = due.iter().map(|(number, _)| *number).collect();
        return lose(book, &numbers).map(|()| Undoing::Gone);
    };
    undo(&client, &vm, remote, book, due).map(|()| Undoing::Done)
}

/// How long a source is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    ForGood,
    Meanwhile,
}

impl Job<'_> {
    /// The work is over, or begins anew: what must not stay at the source is undone. What cannot be stays written down, for whoever tries it
    /// again.
    pub(in crate::pipeline) fn leave_source(&mut self, succeeded: bool) {
        self.leave(Leaving::ForGood, succeeded);
    }

    /// The work will go on, and nobody knows when: the same, but for what it goes on from.
    pub(in crate::pipeline) fn leave_source_meanwhile(&mut self) {
        self.leave(Leaving::Meanwhile, false);
    }

    fn leave(&mut self, leaving: Leaving, succeeded: bool) {
        let (place, plan, order) = (self.place, self.plan, self.order);
        let (Some(access), Some(remote)) = (&place.access, plan.remote.as_deref()) else { return };
        let from = (access, remote, &order.limits.remote);
        // It would see that the snapshot is gone.
        self.watch = None;
        // Where the machine that was made of it may run, there would be two.
        let is_off = self.checkpoint.acts.is_shut_down();
        let stays = succeeded || (is_off && handover::target_has_run(self));
        let still_due = |acts: &Acts| match leaving {
            Leaving::ForGood => due(acts.to_undo(stays)),
            Leaving::Meanwhile => due(acts.to_undo_meanwhile(stays)),
        };
        let wanted = still_due(&self.checkpoint.acts);
        let undone = undo_those(from, &Control::new(), self, wanted);
        if let Some(lost) = undone.as_ref().ok().and_then(|undoing| undoing.told(remote)) {
            self.meter.warn(self.reached, lost);
        }
        if let Err(error) = undone {
            let left: Vec<String> =
                still_due(&self.checkpoint.acts).iter().map(|(_, act)| act.what.shown()).collect();
            // What was undone is known also where it could not be written down, there being no room.
            self.meter.tell(WorkerEvent::Acts { acts: self.checkpoint.acts.clone() });
            if !left.is_empty() {
                let message = format!("not undone at the source: {} ({error})", left.join(", "));
                self.meter.warn(self.reached, message);
            }
        }
    }
}
