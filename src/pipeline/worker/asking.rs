//! A worker whose plan does not say which disks there are: it asks, tells, and ends. The work is another worker's, with another plan.
//!
//! It makes no directory and writes nothing: in its sandbox it reads what is needed to find a server and to trust it. What is not here: what becomes of
//! what it tells.

use std::path::PathBuf;

use crate::disk::{Control, Interruption};
use crate::libvirt;
use crate::model::error::{Error, Result};
use crate::model::job::Stage;
use crate::model::protocol::{WorkOrder, WorkerEvent, WorkerOutcome};
use crate::model::remote::{PlannedRemote, WantedVm};
use crate::pipeline::remote::{self, Access, snapshots};
use crate::sys::sandbox::Rules;

/// What is needed to ask; read before the sandbox closes.
pub(super) fn prepare(order: &WorkOrder) -> Result<Access> {
    let remote = order.plan.remote.as_ref();
    Access::read(remote.ok_or_else(|| Error::internal("there is nobody to be asked"))?)
        .map_err(|error| error.stage(Stage::Load))
}

/// What it may open.
pub(super) fn rules(order: &WorkOrder, access: &Access) -> Rules {
    // What every child starts as is this very program.
    let execute = if access.runs_ssh() { vec![PathBuf::from("/proc/self/exe")] } else { Vec::new() };
    let mut read = access.readable();
    if order.settle.is_some() && order.plan.libvirt.is_some() {
        read.extend(libvirt::needed());
    }
    Rules { read, execute, required: order.limits.sandbox_required, network: true, ..Rules::default() }
}

/// Asks.
pub(super) fn ask(
    order: &WorkOrder,
    access: &Access,
    control: &Control,
    emit: &mut dyn FnMut(WorkerEvent),
) -> WorkerOutcome {
    emit(WorkerEvent::Started { pid: std::process::id(), resumed: false });
    emit(WorkerEvent::StageStarted { stage: Stage::Load });
    let Some(planned) = &order.plan.remote else {
        return super::failed(Error::internal("there is nobody to be asked"));
    };
    emit(WorkerEvent::StageDetail { stage: Stage::Load, detail: format!("looks for {}", planned.shown()) });
    match answer(access, planned, order, control) {
        Ok(event) => {
            emit(event);
            WorkerOutcome::Stopped
        }
        Err(error) => match control.interruption() {
            Some(Interruption::Stop) => WorkerOutcome::Stopped,
            Some(Interruption::Cancel { .. }) => WorkerOutcome::Cancelled,
            None => {
                tracing::error!(kind = %error.kind(), %error, "failed");
                super::failed(error.stage(Stage::Load))
            }
        },
    }
}

/// What is told of the VM that is wanted, or of those that are.
fn answer(
    access: &Access,
    planned: &PlannedRemote,
    order: &WorkOrder,
    control: &Control,
) -> Result<WorkerEvent> {
    let limits = &order.limits.remote;
    if let WantedVm::Selected(_) = planned.vm {
        let vms = remote::select(access, planned, limits, control)?;
        tracing::info!(count = vms.len(), "found");
        return Ok(WorkerEvent::Selected { vms });
    }
    let mut source = remote::ask(access, planned, limits, control)?;
    source.leave_out(&[snapshots::name(&order.batch_id, &order.plan.vm_id)]);
    tracing::info!(vm = source.machine.path, moref = source.machine.moref, "found");
    Ok(WorkerEvent::Described(Box::new(source.description())))
}
