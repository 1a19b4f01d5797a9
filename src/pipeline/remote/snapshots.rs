//! The snapshot that a machine is read as of while it runs: found again, or made, and watched over while it stands.
//!
//! What is written to the machine meanwhile takes room on its datastores, so none is made where little is free, and the copy is given up before nothing
//! is. Nor is one made that the account could not remove. What is not here: that a snapshot is written down and undone ([`super::acts`]), and reading ([`crate::vsphere::folder`]).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Source, acts, ways};
use crate::disk::Control;
use crate::model::acts::{ActKind, ActState, snapshot_name};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::SnapshotQuiesce;
use crate::model::remote::{PlannedSnapshot, SNAPSHOT_RULE};
use crate::model::units::{human_duration, human_size};
use crate::pipeline::worker::Job;
use crate::sys::host::host_name;
use crate::sys::time::{now_epoch, rfc3339_utc};
use crate::vsphere::inventory::VmRef;
use crate::vsphere::machine::{Machine, Snapshot, machine};
use crate::vsphere::room::{self, Room};
use crate::vsphere::snapshot::{self, Quiesce};
use crate::vsphere::{Client, forbidden, task};

/// How soon it is first looked how much is free; each time twice as long after.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// From then on this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

const NONE_IS_MADE: &str = "no snapshot is made";

/// A snapshot of ours that stands.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::pipeline) struct Standing {
    /// What the server calls it.
    pub(in crate::pipeline) moref: String,
    /// What it is called.
    pub(in crate::pipeline) name: String,
    /// Since when it was to be, epoch seconds.
    pub(in crate::pipeline) since: f64,
    /// As of when the machine is read, as the server says.
    pub(in crate::pipeline) as_of: String,
    /// Whether the guest stood still.
    pub(in crate::pipeline) quiesced: bool,
}

/// What the snapshot of a machine is called that is made for this work.
pub(in crate::pipeline) fn name(batch_id: &str, vm_id: &str) -> String {
    snapshot_name(&host_name(), batch_id, vm_id)
}

/// The snapshots of ours that may be at the source.
pub(in crate::pipeline) fn ours(job: &Job<'_>) -> Vec<String> {
    outstanding(job).into_iter().map(|(_, name, ..)| name).collect()
}

/// The snapshot to read a machine as of: the one that an earlier attempt left, if it may still stand, or a new one.
pub(in crate::pipeline) fn stand(
    job: &mut Job<'_>,
    source: &mut Source,
    planned: &PlannedSnapshot,
) -> Result<Standing> {
    let (client, vm) = (source.client()?.clone(), source.reference());
    let standing = match left(job, &client, &vm, planned)? {
        Some(standing) => standing,
        None => {
            let lacking = ways::lacks_for_snapshots(&client, &source.machine)?;
            if !lacking.is_empty() {
                return Err(forbidden(NONE_IS_MADE, &lacking.join(", ")));
            }
            enough(&room::of(&client, &source.machine)?, planned.min_free, NONE_IS_MADE)?;
            let name = name(&job.order.batch_id, &job.plan.vm_id);
            make(job, &client, &vm, &name, planned)?
        }
    };
    source.is_read_as_of(machine(&client, &vm)?, &standing);
    Ok(standing)
}

/// The machine does not run any more, so that it is read as it is: what earlier attempts left goes.
pub(in crate::pipeline) fn clear(job: &mut Job<'_>, source: &mut Source) -> Result<()> {
    let left = outstanding(job);
    if left.is_empty() {
        return Ok(());
    }
    let (client, vm) = (source.client()?.clone(), source.reference());
    for (number, name, ..) in left {
        snapshot::remove_all_called(&client, &vm, &name, &mut |_| {})?;
        acts::undone(job, number)?;
    }
    source.is_read_as_it_is(machine(&client, &vm)?);
    Ok(())
}

/// Snapshots that are written down and not undone: number, name, state, since when.
fn outstanding(job: &Job<'_>) -> Vec<(usize, String, ActState, f64)> {
    let all = job.checkpoint.acts.outstanding();
    all.filter_map(|(number, act)| match &act.what {
        ActKind::Snapshot { name, .. } => Some((number, name.clone(), act.state, act.intended_at)),
        _ => None,
    })
    .collect()
}

/// What earlier attempts left: what may be gone on with stays, all else goes.
fn left(
    job: &mut Job<'_>,
    client: &Client,
    vm: &VmRef,
    planned: &PlannedSnapshot,
) -> Result<Option<Standing>> {
    let outstanding = outstanding(job);
    if outstanding.is_empty() {
        return Ok(None);
    }
    // Who made it may have died while the server was still at it.
    task::none_goes_on(client, vm)?;
    let there = machine(client, vm)?;
    let mut standing = None;
    for (number, name, state, since) in outstanding {
        let Some(found) = called(&there, &name).filter(|_| standing.is_none()) else {
            acts::undone(job, number)?;
            continue;
        };
        if state == ActState::Intended {
            acts::done(job, number, known(&name, &found.moref, found.quiesced))?;
        }
        if now_epoch() - since > planned.max_age_s {
            tracing::warn!(snapshot = name, "it is too old to be gone on with, and is removed");
            snapshot::remove_all_called(client, vm, &name, &mut |_| {})?;
            acts::undone(job, number)?;
            continue;
        }
        standing = Some(Standing {
            moref: found.moref.clone(),
            name,
            since,
            as_of: found.created.clone(),
            quiesced: found.quiesced,
        });
    }
    Ok(standing)
}

fn make(
    job: &mut Job<'_>,
    client: &Client,
    vm: &VmRef,
    name: &str,
    planned: &PlannedSnapshot,
) -> Result<Standing> {
    let quiesce = match planned.quiesce {
        SnapshotQuiesce::Try => Quiesce::Try,
        SnapshotQuiesce::Yes => Quiesce::Yes,
        SnapshotQuiesce::No => Quiesce::No,
    };
    let since = now_epoch();
    let description = format!(
        "Made by hyper2kvm on {} at {} for job {} (batch {}, VM {}). It is removed when the copy ends.",
        host_name(),
        rfc3339_utc(since),
        job.order.job_id,
        job.order.batch_id,
        job.plan.vm_id,
    );
    let what = ActKind::Snapshot { name: name.to_owned(), moref: None, quiesced: None };
    let number = acts::intend(job, what)?;
    let made = snapshot::create(client, vm, (name, &description), quiesce, &mut |_| {})?;
    acts::done(job, number, known(name, &made.moref, made.quiesced))?;
    tracing::info!(snapshot = name, quiesced = made.quiesced, "made");
    let there = machine(client, vm)?;
    let as_of = called(&there, name).map(|found| found.created.clone());
    Ok(Standing {
        moref: made.moref,
        name: name.to_owned(),
        since,
        as_of: as_of.filter(|told| !told.is_empty()).unwrap_or_else(|| rfc3339_utc(since)),
        quiesced: made.quiesced,
    })
}

fn known(name: &str, moref: &str, quiesced: bool) -> ActKind {
    let (name, moref) = (name.to_owned(), Some(moref.to_owned()));
    ActKind::Snapshot { name, moref, quiesced: Some(quiesced) }
}

fn called<'m>(machine: &'m Machine, name: &str) -> Option<&'m Snapshot> {
    snapshot::flat(&machine.snapshots).into_iter().map(|(_, one)| one).find(|one| one.name == name)
}

/// Refuses what takes room where less than this part of a datastore is free.
fn enough(rooms: &[Room], percent: u8, what: &str) -> Result<()> {
    let Some(room) = rooms.iter().find(|room| !room.has_free(percent)) else { return Ok(()) };
    let (free, all) = (human_size(room.free), human_size(room.capacity));
    let cause =
        format!("{what}: {free} of {all} are free on the datastore {}, less than {percent} %", room.name);
    Err(Error::new(Kind::Source, cause)
        .rule(SNAPSHOT_RULE)
        .advice("free some room there (what the machine writes meanwhile goes there), or lower `source.vsphere.snapshot`, then `hyper2kvm retry`"))
}

/// Whoever looks after a snapshot while its machine is copied. Dropped, it looks no more.
#[derive(Debug)]
pub(in crate::pipeline) struct Watch {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Gives the work up when too little is free at the source, or the snapshot is too old.
    pub(in crate::pipeline) fn over(
        source: &Source,
        standing: &Standing,
        planned: &PlannedSnapshot,
        control: &Control,
    ) -> Result<Watch> {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let (client, machine) = (source.client()?.clone(), source.machine.clone());
        let (planned, since) = (*planned, standing.since);
        let (control, told) = (control.clone(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut pause = FIRST_LOOK;
            while !is_over(&told, pause) {
                pause = LOOK_EVERY.min(pause * 2);
                if let Err(error) = may_stand(&client, &machine, &planned, since) {
                    return control.give_up(error);
                }
            }
        });
        Ok(Watch { over, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits; whether there is nothing to look after any more.
fn is_over((over, changed): &(Mutex<bool>, Condvar), pause: Duration) -> bool {
    let over = over.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = changed.wait_timeout_while(over, pause, |over| !*over);
    *waited.unwrap_or_else(PoisonError::into_inner).0
}

fn may_stand(client: &Client, machine: &Machine, planned: &PlannedSnapshot, since: f64) -> Result<()> {
    if now_epoch() - since > planned.max_age_s {
        let age = human_duration(planned.max_age_s);
        return Err(Error::new(Kind::Source, format!("the snapshot stands for longer than {age}"))
            .rule(SNAPSHOT_RULE)
            .advice("the copy begins anew with another one; allow it more time (`source.vsphere.snapshot.max_age_s`)")
            .transient());
    }
    match room::of(client, machine) {
        Ok(rooms) => enough(&rooms, planned.abort_free, "the copy is given up"),
        Err(error) => {
            // Whether the server is there is told by who reads from it.
            tracing::debug!(%error, "how much is free at the source is not known");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datastore_with_too_little_room_is_named() {
        let room = |name: &str, free| Room { name: name.to_owned(), free, capacity: 100 << 30 };
        assert!(enough(&[room("ds1", 20 << 30)], 20, "no").is_ok());
        let error = enough(&[room("ds1", 20 << 30), room("ds2", 19 << 30)], 20, "no").unwrap_err();
        assert_eq!(error.details().rule.as_deref(), Some(SNAPSHOT_RULE));
        assert!(error.to_string().contains("ds2"), "{error}");
    }
}
