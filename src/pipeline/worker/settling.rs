//! A worker whose only purpose is to undo what an ended job has left at its source.
//!
//! Like one that asks, it makes no directory and writes nothing: what it has undone it tells, and whoever started it keeps that. It may die anywhere
//! and be started again. What is not here: when it is started, and what is undone how ([`crate::pipeline::remote::acts`]).

use crate::disk::{Control, Interruption};
use crate::model::acts::Acts;
use crate::model::error::{Error, Result};
use crate::model::protocol::{Settle, WorkOrder, WorkerEvent, WorkerOutcome};
use crate::pipeline::remote::Access;
use crate::pipeline::remote::acts::{self, Book};

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
    let from = (access, remote, &order.limits.remote);
    match (acts::undo_by(from, control, &mut book, settle == Settle::Succeeded), control.interruption()) {
        (Ok(()), _) | (Err(_), Some(Interruption::Stop)) => WorkerOutcome::Stopped,
        (Err(_), Some(Interruption::Cancel { .. })) => WorkerOutcome::Cancelled,
        (Err(error), None) => super::failed(error),
    }
}
