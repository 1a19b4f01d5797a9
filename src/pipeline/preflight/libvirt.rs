//! What libvirt will be asked for: whether it answers, and has the pools and networks, and whether names and addresses are free.
//!
//! What is not here: the text that it is told (see [`super::domain`]), and whether there is room in a pool: the import asks for that, and where results
//! are made in one, it is their directory as any other ([`super::target`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Scene, Validator};
use crate::libvirt::connections::{Connections, Limits};
use crate::libvirt::domains::{self, Shared, State};
use crate::libvirt::link::{Access, Link};
use crate::libvirt::networks::{Why, missing};
use crate::libvirt::{pools, volumes};
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::handover::{HandedVolume, PlannedLibvirt};
use crate::model::machine::NicLink;
use crate::model::plan::Plan;
use crate::model::validation::{Findings, Severity};
use crate::pipeline::directories::in_a_pool;
use crate::pipeline::handover::{shared, stays, taken};

/// Nothing is done, only asked.
const WITHIN: Duration = Duration::from_secs(30);

pub(super) struct Libvirt;

impl Validator for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn applies(&self, scene: &Scene<'_>) -> bool {
        scene.plan.libvirt.is_some()
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        let Some(planned) = &scene.plan.libvirt else { return };
        let (uri, plan) = (planned.uri.clone(), scene.plan.clone());
        // As it will be told: who may only look finds that out here.
        let connections = Connections::new(Limits::default());
        match connections.with(&uri, Access::Changes, WITHIN, move |link| objections(link, &plan)) {
            Ok(objections) => {
                for Objection { severity, rule, about, error } in objections {
                    findings.at(severity, rule, about.as_deref(), error);
                }
            }
            Err(error) => findings.add("libvirt.answers", None, error),
        }
    }
}

/// Something that libvirt lacks, or has too much.
struct Objection {
    severity: Severity,
    rule: &'static str,
    about: Option<String>,
    error: Error,
}

fn objection(rule: &'static str, about: Option<&str>, error: Error) -> Objection {
    Objection { severity: Severity::Error, rule, about: about.map(str::to_owned), error }
}

fn objections(link: &Link, plan: &Plan) -> Result<Vec<Objection>> {
    let Some(planned) = &plan.libvirt else { return Ok(Vec::new()) };
    let mut found = in_pools(link, plan, planned)?;
    found.extend(made_in_pools(link, plan)?);
    if planned.define {
        found.extend(name(link, planned)?);
        found.extend(addresses(link, plan, planned)?);
        found.extend(places(link, plan, planned)?);
    }
    Ok(found)
}

fn in_pools(link: &Link, plan: &Plan, planned: &PlannedLibvirt) -> Result<Vec<Objection>> {
    let mut found = Vec::new();
    for disk in &plan.disks {
        let Some(name) = planned.pools.get(&disk.id) else { continue };
        let pool = match pools::find(link, name)? {
            Some(pool) => pool,
            None if planned.pool_path.is_some() => continue,
            None => {
                let error = Error::new(Kind::Libvirt, format!("libvirt has no storage pool {name}"))
                    .advice("define it (`hyper2kvm libvirt pools` lists those that are there), or say where it lies: `libvirt_integration.pool_path`");
                found.push(objection("libvirt.pool", Some(name), error));
                continue;
            }
        };
        if !pool.active {
            // It is started when it is needed: what is in it is not known before.
            let error = Error::new(Kind::Libvirt, format!("the storage pool {name} is inactive"))
                .advice("it will be started; start it to have the names in it compared beforehand");
            found
                .push(Objection { severity: Severity::Info, ..objection("libvirt.pool", Some(name), error) });
            continue;
        }
        let volume = planned.volume(&disk.id, plan.format_of(disk).name());
        if !planned.overwrite_volumes && volumes::find(link, name, &volume)?.is_some() {
            let volume = HandedVolume { disk: disk.id.clone(), pool: name.clone(), volume, path: "".into() };
            found.push(objection("libvirt.volume", Some(&disk.id), taken(&volume)));
        }
    }
    Ok(found)
}

/// Pools that results are made in have to lie where they did when that was planned, and to let us write there.
fn made_in_pools(link: &Link, plan: &Plan) -> Result<Vec<Objection>> {
    let mut found = BTreeMap::new();
    for disk in &plan.disks {
        let (Some(name), Some(directory)) = (plan.made_in(disk), disk.elsewhere()) else { continue };
        let refused = match pools::of_results(link, name) {
            Ok(now) if !pools::is_same(&now, directory) => Some(
                Error::new(
                    Kind::Libvirt,
                    format!(
                        "the storage pool {name} lies in {}, and lay in {}",
                        now.display(),
                        directory.display()
                    ),
                )
                .advice("submit the manifest again: it is planned with where the pool lies"),
            ),
            Ok(_) => in_a_pool(name, directory).err(),
            Err(error) if error.disposition() == Disposition::Transient => return Err(error),
            Err(error) => Some(error),
        };
        found.extend(refused.map(|error| (name, objection("libvirt.pool", Some(name), error))));
    }
    Ok(found.into_values().collect())
}

/// The name has to be free, or that of a machine that may give way.
fn name(link: &Link, planned: &PlannedLibvirt) -> Result<Option<Objection>> {
    const FIELD: &str = "libvirt_integration.vm_name";
    let Some(there) = domains::find(link, &planned.name)? else { return Ok(None) };
    let (why, advice) = match (&there.provenance, planned.overwrite_domain) {
        (None, _) => {
            ("was not made by hyper2kvm", "give the new one another name: `libvirt_integration.vm_name`")
        }
        (Some(_), false) => return Ok(Some(objection("libvirt.name", Some(FIELD), stays(&planned.name)))),
        (Some(_), true) if there.stand.state != State::Off => {
            ("is not off", "shut it down first, or give the new one another `vm_name`")
        }
        (Some(_), true) => return Ok(None),
    };
    let cause = format!("there is a machine {} already, and it {why}", planned.name);
    let error = Error::new(Kind::Exists, cause).advice(advice);
    Ok(Some(objection("libvirt.name", Some(FIELD), error)))
}

fn addresses(link: &Link, plan: &Plan, planned: &PlannedLibvirt) -> Result<Vec<Objection>> {
    let Some(machine) = &plan.machine else { return Ok(Vec::new()) };
    let macs: Vec<String> = machine.nics.iter().filter_map(|nic| nic.mac.clone()).collect();
    let collisions = domains::collisions(link, machine.uuid.as_deref(), &macs, Some(&planned.name))?;
    let found = collisions.into_iter().map(|collision| {
        let is_uuid = collision.shared == Shared::Uuid;
        let error = shared(&collision.domain, is_uuid, &collision.value);
        let may_be = planned.allow_live_clone && !is_uuid;
        let severity = if may_be { Severity::Warning } else { Severity::Error };
        Objection { severity, ..objection("libvirt.collision", None, error) }
    });
    Ok(found.collect())
}

/// What the cards are to be plugged into: a machine that is only defined may wait for it.
fn places(link: &Link, plan: &Plan, planned: &PlannedLibvirt) -> Result<Vec<Objection>> {
    let links: Vec<NicLink> =
        plan.machine.iter().flat_map(|machine| &machine.nics).map(|nic| nic.link.clone()).collect();
    let found = missing(link, &links)?.into_iter().map(|missing| {
        let (cause, advice) = missing.told();
        let error = Error::new(Kind::Libvirt, cause).advice(advice);
        let may_wait = !planned.start && missing.why != Why::NoNetwork;
        let severity = if may_wait { Severity::Warning } else { Severity::Error };
        Objection { severity, ..objection("libvirt.network", None, error) }
    });
    Ok(found.collect())
}
