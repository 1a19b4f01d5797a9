//! Each step, as libvirt is told it, and how it is taken back.
//!
//! A step that was begun before may have been taken by then: each looks what libvirt knows, and does what is left. What is not here: the order of
//! the steps, and what is written down of them.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::domain::machine;
use super::import;
use super::made;
use super::record::{DefinedDomain, Handover, Stand, Step};
use super::{guard, handover, record};
use crate::libvirt::connections::{Connections, Limits};
use crate::libvirt::domains::{self, Found, Overwrite, Replaced, Settled, Shared, State, Stopped, Undefine};
use crate::libvirt::link::{Access, Link};
use crate::libvirt::snapshots::{self, Disks, NewSnapshot};
use crate::libvirt::xml::domain_xml;
use crate::libvirt::{pools, volumes};
use crate::model::error::{Error, Kind, Result};
use crate::model::handover::PlannedLibvirt;
use crate::model::job::Stage;
use crate::model::machine::MachineNic;
use crate::model::retry::RetryPolicy;
use crate::pipeline::still_off;
use crate::pipeline::worker::Job;
use crate::sys::failpoint;

/// What has not answered by then hangs. A machine that starts with much memory, or a snapshot of many disks, takes its time.
const WITHIN: Duration = Duration::from_secs(120);
/// A libvirtd that is restarted is back within seconds: after so many times the job waits for it.
const CONNECTS: u32 = 3;
/// Where the definition of a machine is kept that another took the place of, in the VM's directory.
const REPLACED: &str = "replaced";

/// Whoever tells one libvirt of one VM.
#[derive(Clone)]
pub(super) struct Teller {
    connections: Connections,
    planned: PlannedLibvirt,
}

impl Teller {
    pub(super) fn of(job: &Job<'_>) -> Result<Teller> {
        let planned = handover(&job.checkpoint).map(|handover| handover.planned.clone());
        let planned = planned.ok_or_else(|| Error::internal("nothing is to be handed to libvirt"))?;
        Ok(Teller::new(planned))
    }

    fn new(planned: PlannedLibvirt) -> Teller {
        let retry = RetryPolicy { attempts: CONNECTS, ..RetryPolicy::network() };
        Teller { connections: Connections::new(Limits { retry, ..Limits::default() }), planned }
    }

    /// Takes a step.
    pub(super) fn tell(&mut self, job: &mut Job<'_>, step: Step) -> Result<()> {
        match step {
            Step::Show => made::show(self, job),
            Step::Import => import::all(self, job),
            Step::Define => self.define(job),
            Step::Snapshot => self.snapshot(job),
            Step::Autostart => self.start_with_host(job),
            Step::Start => self.start(job),
            Step::Move => import::remove_results(job),
        }
    }

    pub(super) fn planned(&self) -> &PlannedLibvirt {
        &self.planned
    }

    /// Does this with a connection.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask_within(WITHIN, work)
    }

    pub(super) fn ask_within<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.connections.with(&self.planned.uri, Access::Changes, within, work)
    }

    /// What gives way is kept and written down before libvirt is told anything: whoever takes this back puts that back, too.
    fn define(&self, job: &mut Job<'_>) -> Result<()> {
        let known = handover(&job.checkpoint).and_then(|handover| handover.domain.clone());
        let before = known.as_ref().map(|defined| Settled {
            xml: defined.xml.clone(),
            in_place: None,
            replaced: defined.replaced.clone(),
        });
        let is_first = before.is_none();
        let mut defined = match known {
            Some(defined) => defined,
            None => self.described(job)?,
        };
        let keep_in = job.place.results.path().join(REPLACED);
        let overwrite = match self.planned.overwrite_domain {
            true => Overwrite::OursThatIsOff { keep_in },
            false => Overwrite::Refuse,
        };
        let xml = defined.xml;
        let settled = self.ask(move |link| domains::settle(link, &xml, &overwrite, before.as_ref()))?;
        if is_first && settled.in_place.is_some() && settled.replaced.is_none() {
            return Err(guard::stays(&defined.name));
        }
        defined.uuid = settled.in_place.unwrap_or(defined.uuid);
        (defined.xml, defined.replaced) = (settled.xml, settled.replaced);
        record(job, |handover| handover.domain = Some(defined.clone()))?;
        failpoint::hit("handover.settled");
        let made =
            self.ask(move |link| domains::define_settled(link, &defined.xml, defined.replaced.as_deref()))?;
        record(job, |handover| {
            if let Some(domain) = &mut handover.domain {
                (domain.name, domain.uuid) = (made.name, made.uuid);
            }
        })
    }

    /// The machine as it is to be defined, which shares nothing with others.
    fn described(&self, job: &mut Job<'_>) -> Result<DefinedDomain> {
        let machine = machine(job)?;
        let defined = DefinedDomain {
            name: machine.name.clone(),
            uuid: machine.uuid.clone().unwrap_or_default(),
            xml: domain_xml(&machine),
            replaced: None,
        };
        self.refuse_collisions(job, &defined, &machine.nics)?;
        Ok(defined)
    }

    /// Two machines with one UUID or one address are one too many, unless somebody wants that.
    fn refuse_collisions(
        &self,
        job: &mut Job<'_>,
        defined: &DefinedDomain,
        nics: &[MachineNic],
    ) -> Result<()> {
        let macs: Vec<String> = nics.iter().filter_map(|nic| nic.mac.clone()).collect();
        let (uuid, name) = (defined.uuid.clone(), defined.name.clone());
        let found = self.ask(move |link| domains::collisions(link, Some(&uuid), &macs, Some(&name)))?;
        for collision in found {
            let error = guard::shared(&collision.domain, collision.shared == Shared::Uuid, &collision.value);
            if collision.shared == Shared::Uuid || !self.planned.allow_live_clone {
                return Err(error);
            }
            job.warn(Stage::Libvirt, error.details().cause.clone());
        }
        Ok(())
    }

    fn snapshot(&self, job: &mut Job<'_>) -> Result<()> {
        let Some(snapshot) = self.planned.snapshot.clone() else { return Ok(()) };
        let name = self.planned.name.clone();
        let new = NewSnapshot {
            name: snapshot,
            description: Some("made by hyper2kvm before the first start".to_owned()),
            disks: Disks::Auto,
        };
        let made = self.ask(move |link| snapshots::create(link, &name, &new))?;
        let overlays = made.snapshot.disks.into_iter().filter_map(|disk| disk.overlay);
        record(job, |handover| handover.overlays = overlays.collect())
    }

    fn start_with_host(&self, job: &Job<'_>) -> Result<()> {
        if !self.planned.allow_live_clone {
            still_off::check(job)?;
        }
        let name = self.planned.name.clone();
        self.ask(move |link| domains::set_autostart(link, &name, true))
    }

    fn start(&self, job: &Job<'_>) -> Result<()> {
        // One that an earlier attempt has started is not stopped any more, whoever runs beside it by now.
        let runs = || handover(&job.checkpoint).map_or(Ok(false), was_started);
        if !self.planned.allow_live_clone && !runs()? {
            still_off::check(job)?;
            // A source that this very work has opened is held against others until it ends.
            if job.sources.is_empty() {
                guard::source_is_off(job.plan)?;
            }
        }
        let name = self.planned.name.clone();
        self.ask(move |link| domains::start(link, &name))
    }
}

/// Whether its machine was started though nobody has written that down.
pub(super) fn was_started(handover: &Handover) -> Result<bool> {
    let (Stand::Begun(Step::Start), Some(defined)) = (handover.stand, &handover.domain) else {
        return Ok(false);
    };
    let (name, uuid) = (defined.name.clone(), defined.uuid.clone());
    let found = Teller::new(handover.planned.clone()).ask(move |link| domains::find(link, &name))?;
    Ok(found.is_some_and(|found| found.uuid == uuid && found.stand.state != State::Off))
}

/// How long a machine may take to shut down that gives its place back.
const GOES_DOWN_WITHIN: Duration = Duration::from_secs(60);

/// Whether there is a machine that was made of this VM.
pub(in crate::pipeline) fn is_there(planned: &PlannedLibvirt, of: (&str, &str)) -> Result<bool> {
    Ok(made_of(planned, of)?.is_some())
}

/// Has it stop, and not start with its host any more. It stays defined. What was done, in words; none: there is no such machine.
pub(in crate::pipeline) fn stop(planned: &PlannedLibvirt, of: (&str, &str)) -> Result<Option<String>> {
    let Some(found) = made_of(planned, of)? else { return Ok(None) };
    let name = found.name.clone();
    let stopped = Teller::new(planned.clone()).ask_within(WITHIN + GOES_DOWN_WITHIN, move |link| {
        if found.autostart {
            domains::set_autostart(link, &found.name, false)?;
        }
        domains::shutdown(link, &found.name, GOES_DOWN_WITHIN, true)
    })?;
    let how = match stopped {
        Stopped::WasOff => "was off",
        Stopped::ByItself => "was shut down",
        Stopped::Destroyed => "was switched off",
    };
    Ok(Some(format!("the machine {name} {how}; it stays defined, and does not start with its host")))
}

/// The machine that says itself that it was made of this VM: the one of that name, or one that somebody has called otherwise since.
fn made_of(planned: &PlannedLibvirt, (batch_id, vm_id): (&str, &str)) -> Result<Option<Found>> {
    let (name, batch_id, vm_id) = (planned.name.clone(), batch_id.to_owned(), vm_id.to_owned());
    Teller::new(planned.clone()).ask(move |link| {
        let is_it = |found: &Found| {
            found.provenance.as_ref().is_some_and(|made| made.batch_id == batch_id && made.vm_id == vm_id)
        };
        if let Some(found) = domains::find(link, &name)?.filter(is_it) {
            return Ok(Some(found));
        }
        for listed in domains::list(link)? {
            if let Some(found) = domains::find(link, &listed.name)?.filter(is_it) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    })
}

/// Takes back what was done, the last first. What is not there any more was taken back before.
pub(super) fn undo(handover: &Handover) -> Result<()> {
    let teller = Teller::new(handover.planned.clone());
    for step in handover.to_undo() {
        match step {
            // One that runs is not taken back; and what was moved is gone.
            Step::Start | Step::Move => {}
            // They go with the machine.
            Step::Autostart | Step::Snapshot => {}
            // They lose their names after all of this: see [`hide`].
            Step::Show => {}
            Step::Define => undefine(&teller, handover)?,
            Step::Import => {
                for volume in handover.volumes.clone() {
                    import::take_back(&teller, volume)?;
                }
            }
        }
    }
    Ok(())
}

/// What was made in pools has no final name any more: libvirt notices that.
pub(super) fn hide(handover: &Handover) -> Result<()> {
    made::hide(&Teller::new(handover.planned.clone()))
}

/// Undefines the machine if it is the one that was defined, with its snapshots; the one that gave way to it comes back. One that was defined anew in
/// place becomes what it was.
fn undefine(teller: &Teller, handover: &Handover) -> Result<()> {
    let Some(defined) = handover.domain.clone() else { return Ok(()) };
    let PlannedLibvirt { pools, made_in, .. } = &handover.planned;
    let pools: Vec<String> = pools.values().chain(made_in.values()).cloned().collect();
    let mut overlays = handover.overlays.clone();
    teller.ask(move |link| {
        let replaced = defined.replaced.as_deref().map(Replaced::read).transpose()?;
        let in_place = replaced.filter(|replaced| replaced.uuid == defined.uuid);
        if domains::find(link, &defined.name)?.is_some_and(|found| found.uuid == defined.uuid) {
            let had = in_place.as_ref().map(|replaced| replaced.snapshots.as_slice()).unwrap_or_default();
            let mut made = snapshots::list(link, &defined.name)?;
            made.retain(|snapshot| !had.contains(&snapshot.name));
            let what = Undefine { destroy: false, ..Undefine::ALL_OF_OURS };
            match in_place {
                Some(_) => made
                    .iter()
                    .try_for_each(|snapshot| snapshots::forget(link, &defined.name, &snapshot.name))?,
                None => domains::undefine(link, &defined.name, &what).map(drop)?,
            }
            let listed = made.into_iter().flat_map(|snapshot| snapshot.disks);
            overlays.extend(listed.filter_map(|disk| disk.overlay));
        }
        if let Some(place) = &defined.replaced
            && !domains::put_back(link, place, in_place.is_some())?
        {
            let place = place.display();
            tracing::warn!(machine = defined.name, %place, "what gave way stays where it is kept: another machine has its name");
        }
        overlays.sort_unstable();
        overlays.dedup();
        overlays.iter().try_for_each(|file| remove(link, &pools, file))
    })
}

/// Removes what a snapshot has put over a disk: the machine never ran, so nothing is in it. In a pool libvirt removes it.
fn remove(link: &Link, pools: &[String], file: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    for pool in pools {
        if pools::find(link, pool)?.is_some_and(|found| found.path.as_deref() == file.parent()) {
            pools::refresh(link, pool)?;
            return match volumes::find(link, pool, &name)? {
                Some(_) => volumes::remove(link, pool, &name),
                None => Ok(()),
            };
        }
    }
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(Kind::Output, "remove", file, &error))
        }
        _ => Ok(()),
    }
}
