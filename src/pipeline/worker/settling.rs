//! A worker whose only purpose is to undo what an ended job has left at its source, or to finish what it could not.
//!
//! Like one that asks, it makes no directory and writes nothing: what it has undone it tells, and whoever started it keeps that. It may die anywhere
//! and be started again. What is not here: when it is started, and what is undone how ([`crate::pipeline::remote::acts`]).

use crate::disk::{Control, Interruption};
use crate::model::acts::Acts;
use crate::model::error::{Error, Kind, Result};
use crate::model::protocol::{Settle, WorkOrder, WorkerEvent, WorkerOutcome};
use crate::pipeline::remote::acts::{self, Book, Undoing};
use crate::pipeline::remote::{self, Access, Whom};
use crate::pipeline::{giving_way, handover};

/// What it tells is all that is kept.
struct Told<'e> {
    acts: Acts,
    emit: &'e mut dyn FnMut(WorkerEvent),
}

impl Book for Told<'_> {
    fn acts(&mut self) -> &mut Acts {
        &mut self.acts
    }

    fn keep(&mut self) -> Result<()> {
        (self.emit)(WorkerEvent::Acts { acts: self.acts.clone() });
        Ok(())
    }
}

impl Told<'_> {
    /// Tells what a person should know.
    fn warn(&mut self, message: Option<String>) {
        if let Some(message) = message {
            (self.emit)(WorkerEvent::Warning { stage: None, message });
        }
    }
}

/// Sees to it that a source which is started again is the only one of its kind.
fn make_room(order: &WorkOrder, settle: Settle, whom: Whom<'_>, control: &Control) -> Result<()> {
    let Some(planned) = &order.plan.libvirt else { return Ok(()) };
    let of = (order.batch_id.as_str(), order.plan.vm_id.as_str());
    match settle {
        Settle::Succeeded => Ok(()),
        // There would be neither.
        Settle::RolledBack if remote::is_gone(whom, control)? => Ok(()),
        Settle::RolledBack => {
            if let Some(done) = handover::stop(planned, of)? {
                tracing::info!("{done}");
            }
            Ok(())
        }
        Settle::GivenBack if order.acts.is_shut_down() && handover::is_there(planned, of)? => {
            let name = &planned.name;
            Err(Error::new(Kind::Libvirt, format!("libvirt has the machine {name} that was made of it: it is not started beside that"))
                .advice("`hyper2kvm retry` finishes the job; `hyper2kvm rollback` stops the machine and starts the source"))
        }
        Settle::GivenBack => Ok(()),
    }
}

/// Changes what was to be changed and could not be when the job ended.
fn give_way(order: &WorkOrder, whom: Whom<'_>, control: &Control, book: &mut Told<'_>) -> Result<()> {
    let note = |at: f64| giving_way::note(&order.plan, &order.batch_id, order.job_id, at);
    let mut warnings = Vec::new();
    let why = giving_way::finish(whom, control, book, &note, &mut warnings)?;
    book.warn(why);
    match warnings.is_empty() {
        true => Ok(()),
        false => Err(Error::new(Kind::Source, warnings.join("; ")).advice("it is tried again").transient()),
    }
}

/// Undoes; that it has stopped means that all is undone.
pub(super) fn settle(
    order: &WorkOrder,
    settle: Settle,
    access: &Access,
    control: &Control,
    emit: &mut dyn FnMut(WorkerEvent),
) -> WorkerOutcome {
    emit(WorkerEvent::Started { pid: std::process::id(), resumed: false });
    let Some(remote) = order.plan.remote.as_deref() else {
        return super::failed(Error::internal("there is nobody at whom anything could be undone"));
    };
    let mut book = Told { acts: order.acts.clone(), emit };
    let whom = (access, remote, &order.limits.remote);
    let settled = make_room(order, settle, whom, control)
        .and_then(|()| acts::undo_by(whom, control, &mut book, settle == Settle::Succeeded))
        .and_then(|undoing| {
            book.warn(undoing.told(remote));
            match (settle, undoing) {
                (Settle::Succeeded, Undoing::Done) => give_way(order, whom, control, &mut book),
                _ => Ok(()),
            }
        });
    match (settled, control.interruption()) {
        (Ok(()), _) | (Err(_), Some(Interruption::Stop)) => WorkerOutcome::Stopped,
        (Err(_), Some(Interruption::Cancel { .. })) => WorkerOutcome::Cancelled,
        (Err(error), None) => super::failed(error),
    }
}
