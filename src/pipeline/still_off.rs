//! A VM elsewhere is looked at once more before what was made of it may run: two machines with one identity and the same addresses are worse
//! than none.
//!
//! ```text
//!   copied ─▶ … ─▶ defined ─▶ is it off? ─▶ started, now or with the host
//!                                 ├ no: libvirt's part is taken back and the job fails; what was copied stays for `retry`, which looks what has changed
//!                                 └ nobody can say: the job waits, or is tried again, as for any server that is away
//! ```
//!
//! Nothing is done to one that runs: somebody wants it to. What is not here: a source that is files of this host (`handover::guard`), and what becomes of
//! changes at a source that runs ([`super::giving_way`]).

use super::remote;
use super::worker::Job;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::sys::time::rfc3339_utc;
use crate::vsphere::inventory::Power;
use crate::vsphere::machine::Machine;

/// What an error breaks that says so.
const RULE: &str = "source.running";
/// What a disk's error breaks whose machine runs, where nothing else tells that.
const HELD_RULE: &str = "disk.open_elsewhere";
/// How a server says that it can tell how a machine is.
const CONNECTED: &str = "connected";

/// Refuses to have the result run unless its source is off.
pub(super) fn check(job: &Job<'_>) -> Result<()> {
    let (Some(planned), Some(access)) = (job.plan.remote.as_deref(), &job.place.access) else {
        return Ok(());
    };
    let stand = remote::stand((access, planned, &job.order.limits.remote), job.control);
    match stand {
        Ok(Some(machine)) => is_off(job, &machine),
        Ok(None) => Err(refused(
            job,
            &planned.shown(),
            "is not there any more, so that nobody can say whether it is off",
        )),
        Err(error) if error.details().rule.as_deref() == Some(HELD_RULE) => {
            Err(refused(job, &planned.shown(), &format!("seems to run ({})", error.details().cause)))
        }
        // As where work begins: that nobody was reached costs no attempt.
        Err(error) => Err(error.stage(Stage::Load)),
    }
}

fn is_off(job: &Job<'_>, machine: &Machine) -> Result<()> {
    let is_told = machine.connection.is_empty() || machine.connection == CONNECTED;
    match machine.power {
        _ if !is_told => Err(unknown(machine)),
        Power::Off => Ok(()),
        Power::On => Err(refused(job, &machine.path, "runs again")),
        Power::Suspended => Err(refused(job, &machine.path, "was started again, and is suspended")),
        Power::Unknown => Err(unknown(machine)),
    }
}

/// Its host may be down, or cut off and at work.
fn unknown(machine: &Machine) -> Error {
    let cause = format!("nobody can say whether {} is off: its server does not reach its host", machine.path);
    Error::new(Kind::Network, cause)
        .stage(Stage::Load)
        .advice("see that the host on which it lies is connected to its vCenter: what was made of it is started when it is known to be off")
}

fn refused(job: &Job<'_>, source: &str, how: &str) -> Error {
    let as_of = as_of(job).map(rfc3339_utc);
    let as_of = as_of.map_or_else(String::new, |at| {
        format!("; what was copied is as of {at}, without what was written since")
    });
    let cause = format!(
        "the machine is not started, because its source {source} {how}: there might be two with the same identity{as_of}"
    );
    Error::new(Kind::Source, cause).rule(RULE).source(source).advice(
        "shut the source down, then `hyper2kvm retry`: what has changed is copied again; or have the result not started (`auto_start: false`, `autostart: false`), \
         or say `allow_live_clone: true` if both may run at once",
    )
}

/// As of when what was copied is: since then the source was off, or nothing of it was read.
fn as_of(job: &Job<'_>) -> Option<f64> {
    let checkpoint = &job.checkpoint;
    let last_pass = || Some(checkpoint.passes.as_ref()?.made.last()?.started_at);
    let loaded = || Some(checkpoint.stage_times.get(&Stage::Load)?.1);
    let went_off = checkpoint.acts.shut_down().and_then(|(_, act)| act.done_at);
    went_off.or_else(last_pass).or_else(loaded)
}
