//! Which machines there are, and which of them is meant.
//!
//! All of them are asked for at once, with the few properties that a list shows, together with the folders they stand in. What is not here: all that
//! is known of one ([`super::machine`]).

use std::cmp::Ordering;

use serde::Serialize;

use super::client::Client;
use super::failure;
use super::property::{self, Found, Wanted as Properties};
use super::soap::{Failure, MoRef};
use super::tree::{self, Tree, ends_with, is_called};
use crate::model::error::{Error, Kind, Result};
use crate::model::vmware::name_decoded;

/// So many of those that are meant are told.
const MOST_TOLD: usize = 20;

/// A machine, by the name that the server has for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VmRef {
    /// `vm-42`
    pub moref: String,
}

impl VmRef {
    pub(super) fn object(&self) -> MoRef {
        MoRef::new("VirtualMachine", &self.moref)
    }
}

/// Which machine is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The one of this name.
    Name(String),
    /// The one at this place: `/DC0/vm/web/web01`, or the end of it.
    Path(String),
    /// The one with this UUID: of its BIOS, or that vCenter gave it.
    Uuid(String),
    /// The one that the server calls so.
    MoRef(String),
    /// The one that is any of these, a name before a UUID, a reference and a path.
    Any(String),
}

/// Where a machine has to be to be meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Its datacenter, by name or path.
    pub datacenter: Option<String>,
    /// A folder that it is in, by name or path, however deep.
    pub folder: Option<String>,
    /// The datastore of its files.
    pub datastore: Option<String>,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    On,
    /// It does not.
    Off,
    /// What it has in memory is kept.
    Suspended,
    /// The server does not say.
    #[default]
    Unknown,
}

impl Power {
    pub(super) fn of(text: Option<&str>) -> Power {
        match text {
            Some("poweredOn") => Power::On,
            Some("poweredOff") => Power::Off,
            Some("suspended") => Power::Suspended,
            _ => Power::Unknown,
        }
    }

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Power::On => "on",
            Power::Off => "off",
            Power::Suspended => "suspended",
            Power::Unknown => "unknown",
        }
    }
}

/// A machine, as a list shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VmSummary {
    /// What people call it.
    pub name: String,
    /// Where it stands: `/DC0/vm/web/web01`.
    pub path: String,
    /// What the server calls it.
    pub moref: String,
    /// Of its BIOS.
    pub uuid: Option<String>,
    /// That vCenter gave it.
    pub instance_uuid: Option<String>,
    /// Whether it runs.
    pub power: Power,
    /// Whether the server can do anything with it: `connected`, else why not.
    pub connection: Option<String>,
    /// What runs on it, as a person said there.
    pub guest: Option<String>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory, MiB.
    pub memory_mb: Option<u64>,
    /// How many disks it has.
    pub disks: Option<u32>,
    /// What it takes on its datastores.
    pub used_bytes: Option<u64>,
    /// Where its files lie.
    pub datastore: Option<String>,
    /// Whether it is only there to be copied.
    pub template: bool,
    /// Its datacenter, as the addresses of its files have it.
    pub datacenter: Option<String>,
}

impl VmSummary {
    /// By which it is asked for more.
    #[must_use]
    pub fn reference(&self) -> VmRef {
        VmRef { moref: self.moref.clone() }
    }
}

const MACHINES: Properties = Properties {
    kind: "VirtualMachine",
    paths: &[
        "name",
        "parent",
        "parentVApp",
        "runtime.powerState",
        "runtime.connectionState",
        "summary.config.uuid",
        "summary.config.instanceUuid",
        "summary.config.guestFullName",
        "summary.config.numCpu",
        "summary.config.memorySizeMB",
        "summary.config.numVirtualDisks",
        "summary.config.vmPathName",
        "summary.config.template",
        "summary.storage.committed",
    ],
};

/// What any machine has.
const THERE: Properties = Properties { kind: "VirtualMachine", paths: &["runtime.powerState"] };

/// A machine before its place is known.
struct Unplaced {
    summary: VmSummary,
    /// As vSphere writes it.
    raw_name: String,
    parent: Option<MoRef>,
}

/// The machines that pass the filters, by their places.
pub fn list(client: &Client, filters: &Filters) -> Result<Vec<VmSummary>> {
    let mut listed = placed(client, |_, summary, names| passes(filters, summary, names))?;
    listed.sort_by(by_path);
    Ok(listed)
}

/// The one machine that is meant.
pub fn find(client: &Client, wanted: &Wanted, filters: &Filters) -> Result<VmSummary> {
    let mut found = placed(client, |raw_name, summary, names| {
        is_meant(wanted, raw_name, summary, names) && passes(filters, summary, names)
    })?;
    found.sort_by(by_path);
    if let Wanted::Any(text) = wanted {
        let best = found.iter().map(|summary| rank(text, summary)).min();
        found.retain(|summary| Some(rank(text, summary)) == best);
    }
    one(client.host(), wanted, found)
}

/// Whether the server has this machine. One that it only does not tell anything of may be there.
pub fn is_there(client: &Client, vm: &VmRef) -> Result<bool> {
    let what = format!("cannot see whether {} of {} is there", vm.moref, client.host());
    let mut is_there = false;
    let asked = property::of_objects(client, &[vm.object()], &[THERE], |_| {
        is_there = true;
        Ok(())
    });
    match asked {
        Ok(()) if is_there => Ok(true),
        Ok(()) => Err(Error::new(Kind::Source, format!("{what}: nothing is told of it"))
            .advice("see whether the account may see it: `hyper2kvm vsphere list`")),
        Err(Failure::Fault(fault)) if fault.kind == "ManagedObjectNotFound" => Ok(false),
        Err(failure) => Err(failure::told(&what, failure)),
    }
}

/// The machine to which the server once gave this UUID, whatever it calls it now.
pub fn with_instance_uuid(client: &Client, uuid: &str) -> Result<Option<VmRef>> {
    let is_it = |summary: &VmSummary| summary.instance_uuid.as_ref().is_some_and(|its| same_uuid(its, uuid));
    let found = placed(client, |_, summary, _| is_it(summary))?;
    Ok(found.first().map(VmSummary::reference))
}

/// All that a word may mean, the likeliest first.
fn meanings(text: &str) -> [Wanted; 4] {
    let text = || text.to_owned();
    [Wanted::Name(text()), Wanted::Uuid(text()), Wanted::MoRef(text()), Wanted::Path(text())]
}

/// As what a machine is the one that a word means.
fn rank(text: &str, summary: &VmSummary) -> Option<usize> {
    let names: Vec<&str> = summary.path.split('/').skip(1).collect();
    let raw_name = names.last().copied().unwrap_or_default();
    meanings(text).iter().position(|wanted| is_meant(wanted, raw_name, summary, &names))
}

fn one(host: &str, wanted: &Wanted, mut found: Vec<VmSummary>) -> Result<VmSummary> {
    let what = match wanted {
        Wanted::Name(name) => format!("the name `{name}`"),
        Wanted::Path(path) => format!("the path `{path}`"),
        Wanted::Uuid(uuid) => format!("the UUID {uuid}"),
        Wanted::MoRef(moref) => format!("the reference {moref}"),
        Wanted::Any(text) => format!("the name, path, UUID or reference `{text}`"),
    };
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::new(
            Kind::Source,
            format!("{host} has no machine with {what}, as far as this account sees"),
        )
        .advice("see which there are: `hyper2kvm vsphere list`")),
        count => {
            let told =
                found.iter().take(MOST_TOLD).map(|summary| format!("{} ({})", summary.path, summary.moref));
            Err(Error::new(Kind::Source, format!("{count} machines of {host} have {what}"))
                .allowed(told)
                .advice("name one of them by its path or its reference, or narrow it down by datacenter, folder or datastore"))
        }
    }
}

fn by_path(a: &VmSummary, b: &VmSummary) -> Ordering {
    a.path.cmp(&b.path).then_with(|| a.moref.cmp(&b.moref))
}

/// All machines that are kept, with their places.
fn placed(client: &Client, keep: impl Fn(&str, &VmSummary, &[&str]) -> bool) -> Result<Vec<VmSummary>> {
    let wanted: Vec<Properties> = [MACHINES].into_iter().chain(tree::WANTED).collect();
    let read = || {
        let (mut machines, mut tree) = (Vec::new(), Tree::default());
        property::of_all(client, &wanted, |found| {
            if !tree.take(found) {
                machines.push(unplaced(found));
            }
            Ok(())
        })?;
        Ok((machines, tree))
    };
    let (machines, tree) = client.in_one_session(read).map_err(|failure| {
        failure::told(&format!("cannot list the machines of {}", client.host()), failure)
    })?;
    let mut kept = Vec::new();
    for Unplaced { mut summary, raw_name, parent } in machines {
        let mut names = tree.above(parent.as_ref());
        names.push(&raw_name);
        summary.path = format!("/{}", names.join("/"));
        summary.datacenter = tree.datacenter(parent.as_ref());
        if keep(&raw_name, &summary, &names) {
            kept.push(summary);
        }
    }
    Ok(kept)
}

fn unplaced(found: &Found<'_, '_>) -> Unplaced {
    let text = |path: &str| found.text(path).filter(|text| !text.is_empty()).map(str::to_owned);
    let raw_name = found.text("name").unwrap_or_default().to_owned();
    let summary = VmSummary {
        name: name_decoded(&raw_name),
        moref: found.object.value.clone(),
        uuid: text("summary.config.uuid"),
        instance_uuid: text("summary.config.instanceUuid"),
        power: Power::of(found.text("runtime.powerState")),
        connection: text("runtime.connectionState"),
        guest: text("summary.config.guestFullName"),
        cpus: found.number("summary.config.numCpu"),
        memory_mb: found.number("summary.config.memorySizeMB"),
        disks: found.number("summary.config.numVirtualDisks"),
        used_bytes: found.number("summary.storage.committed"),
        datastore: found.text("summary.config.vmPathName").and_then(datastore_of).map(str::to_owned),
        template: found.text("summary.config.template").is_some_and(super::soap::says_yes),
        ..VmSummary::default()
    };
    Unplaced {
        summary,
        raw_name,
        parent: found.object_at("parent").or_else(|| found.object_at("parentVApp")),
    }
}

/// `[ds1] web/web.vmx` → `ds1`
pub(super) fn datastore_of(path: &str) -> Option<&str> {
    path.strip_prefix('[')?.split_once(']').map(|(name, _)| name)
}

fn is_meant(wanted: &Wanted, raw_name: &str, summary: &VmSummary, names: &[&str]) -> bool {
    match wanted {
        Wanted::Name(name) => is_called(raw_name, name),
        Wanted::Path(path) => ends_with(names, path),
        Wanted::MoRef(moref) => summary.moref == *moref,
        Wanted::Uuid(uuid) => {
            let is_it = |its: &Option<String>| its.as_ref().is_some_and(|its| same_uuid(its, uuid));
            is_it(&summary.uuid) || is_it(&summary.instance_uuid)
        }
        Wanted::Any(text) => meanings(text).iter().any(|wanted| is_meant(wanted, raw_name, summary, names)),
    }
}

fn same_uuid(one: &str, other: &str) -> bool {
    let digits = |text: &str| -> String {
        text.chars().filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect()
    };
    let (one, other) = (digits(one), digits(other));
    one.len() == 32 && one == other
}

fn passes(filters: &Filters, summary: &VmSummary, names: &[&str]) -> bool {
    let above = &names[..names.len().saturating_sub(1)];
    let in_datacenter = |wanted: &String| {
        let path: Vec<&str> =
            summary.datacenter.as_deref().map(|path| path.split('/').collect()).unwrap_or_default();
        ends_with(&path, wanted)
    };
    let in_folder = |wanted: &String| (1..=above.len()).any(|depth| ends_with(&above[..depth], wanted));
    let on_datastore =
        |wanted: &String| summary.datastore.as_deref().is_some_and(|name| is_called(name, wanted));
    filters.datacenter.as_ref().is_none_or(in_datacenter)
        && filters.folder.as_ref().is_none_or(in_folder)
        && filters.datastore.as_ref().is_none_or(on_datastore)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(path: &str, moref: &str) -> VmSummary {
        VmSummary {
            path: path.to_owned(),
            moref: moref.to_owned(),
            uuid: Some("564d0b8a-1122-3344-5566-778899aabbcc".to_owned()),
            datastore: Some("ds 1".to_owned()),
            datacenter: Some("lab/DC0".to_owned()),
            ..VmSummary::default()
        }
    }

    #[test]
    fn a_machine_is_meant_by_name_path_uuid_or_reference() {
        let names = ["lab", "DC0", "vm", "a%2fb", "web"];
        let vm = summary("/lab/DC0/vm/a%2fb/web", "vm-1");
        let meant = |wanted: Wanted| is_meant(&wanted, "web", &vm, &names);
        assert!(meant(Wanted::Name("web".to_owned())) && !meant(Wanted::Name("we".to_owned())));
        assert!(
            meant(Wanted::Path("/lab/DC0/vm/a%2fb/web".to_owned()))
                && meant(Wanted::Path("vm/a%2fb/web".to_owned()))
        );
        assert!(
            meant(Wanted::Uuid("564D0B8A112233445566778899AABBCC".to_owned()))
                && !meant(Wanted::Uuid("564d".to_owned()))
        );
        assert!(meant(Wanted::MoRef("vm-1".to_owned())) && !meant(Wanted::MoRef("vm-12".to_owned())));
    }

    #[test]
    fn a_word_means_a_name_before_anything_else() {
        let vm = |path: &str, moref: &str| VmSummary { uuid: None, ..summary(path, moref) };
        for (word, is_now) in [("vm-2", 0), ("vm-1", 2), ("a/vm-2", 3), ("/DC0/vm/a/vm-2", 3)] {
            assert_eq!(rank(word, &vm("/DC0/vm/a/vm-2", "vm-1")), Some(is_now), "{word}");
        }
        assert_eq!(rank("vm-3", &vm("/DC0/vm/a/vm-2", "vm-1")), None);
        let uuid = "564d0b8a-1122-3344-5566-778899aabbcc";
        assert_eq!(rank(uuid, &summary("/DC0/vm/web", "vm-1")), Some(1));
    }

    #[test]
    fn filters_leave_out_what_is_elsewhere() {
        let names = ["lab", "DC0", "vm", "a%2fb", "c", "web"];
        let vm = summary("", "vm-1");
        let all = Filters::default;
        for filters in [
            all(),
            Filters { datacenter: Some("DC0".to_owned()), ..all() },
            Filters {
                datacenter: Some("/lab/DC0".to_owned()),
                folder: Some("a%2fb".to_owned()),
                datastore: Some("ds 1".to_owned()),
            },
            Filters { folder: Some("c".to_owned()), ..all() },
            Filters { folder: Some("/lab/DC0/vm".to_owned()), ..all() },
        ] {
            assert!(passes(&filters, &vm, &names), "{filters:?}");
        }
        for filters in [
            Filters { datacenter: Some("lab".to_owned()), ..all() },
            Filters { folder: Some("web".to_owned()), ..all() },
            Filters { datastore: Some("ds".to_owned()), ..all() },
        ] {
            assert!(!passes(&filters, &vm, &names), "{filters:?}");
        }
    }

    #[test]
    fn nobody_and_several_are_errors_and_several_are_told() {
        let wanted = Wanted::Name("web".to_owned());
        assert!(
            one("vc", &wanted, Vec::new())
                .unwrap_err()
                .to_string()
                .contains("no machine with the name `web`")
        );
        let two = vec![summary("/DC0/vm/a/web", "vm-1"), summary("/DC0/vm/b/web", "vm-2")];
        let error = one("vc", &wanted, two.clone()).unwrap_err();
        assert_eq!(error.details().place.allowed, ["/DC0/vm/a/web (vm-1)", "/DC0/vm/b/web (vm-2)"]);
        assert_eq!(one("vc", &wanted, two[..1].to_vec()).unwrap().moref, "vm-1");
    }
}
