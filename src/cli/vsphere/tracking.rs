//! `vsphere cbt …`: change tracking of a machine's disks.

use serde::Serialize;

use super::{WhichArgs, progress, size};
use crate::cli::table::{Table, cell, number, printable};
use crate::cli::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind};
use crate::vsphere::Client;
use crate::vsphere::cbt::{self, ALL_IN_USE, Area};
use crate::vsphere::devices::VmDisk;
use crate::vsphere::inventory::VmRef;
use crate::vsphere::machine::{self, Machine};
use crate::vsphere::snapshot;

/// Tasks with change tracking.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// Switch it on; it begins with the next snapshot, or when the machine is started
    Enable(WhichArgs),
    /// Say whether it is on, and how far each disk has come
    Status(WhichArgs),
    /// List the areas of a disk that have changed, or are in use
    Changed {
        #[command(flatten)]
        which: WhichArgs,
        /// The disk, by its key (see `disks`)
        #[arg(long, value_name = "KEY")]
        disk: i32,
        /// Since this change id; `*`: all that is in use
        #[arg(long, value_name = "ID", default_value = ALL_IN_USE)]
        since: String,
        /// As of this snapshot: its name, or the server's own name for it
        #[arg(long, value_name = "SNAPSHOT")]
        snapshot: Option<String>,
    },
}

/// `cbt enable --json`
#[derive(Serialize)]
struct Enabled<'n> {
    ok: bool,
    vm: &'n str,
    cbt_enabled: bool,
    was_enabled: bool,
}

/// `cbt status --json`
#[derive(Serialize)]
struct Status<'n> {
    vm: &'n str,
    cbt_enabled: bool,
    cbt_supported: Option<bool>,
    disks: Vec<DiskStatus<'n>>,
}

#[derive(Serialize)]
struct DiskStatus<'n> {
    key: i32,
    label: &'n str,
    change_id: Option<&'n str>,
}

impl<'n> DiskStatus<'n> {
    fn of(disk: &'n VmDisk) -> DiskStatus<'n> {
        DiskStatus { key: disk.key, label: &disk.label, change_id: disk.change_id.as_deref() }
    }
}

/// `cbt changed --json`
#[derive(Serialize)]
struct Changed<'n> {
    vm: &'n str,
    snapshot: Option<&'n str>,
    device_key: i32,
    change_id: &'n str,
    length: u64,
    areas: Vec<Area>,
}

pub(super) fn run(task: &Task, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        Task::Enable(which) => enable(which, client, ui),
        Task::Status(which) => status(which, client, ui),
        Task::Changed { which, disk, since, snapshot } => {
            let machine = machine::machine(client, &which.find(client)?.reference())?;
            changed(&machine, *disk, since, snapshot.as_deref(), client, ui)
        }
    }
}

fn enable(which: &WhichArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let vm = which.find(client)?;
    let was_enabled = cbt::enable(client, &vm.reference(), &mut progress(ui, "change tracking"))?;
    if ui.json {
        ui.print_json(&Enabled { ok: true, vm: &vm.name, cbt_enabled: true, was_enabled })?;
    } else {
        let how = if was_enabled { "was on already" } else { "is on" };
        ui.print(&format!("{}: change tracking {how}\n", printable(&vm.name)))?;
    }
    Ok(Exit::Done)
}

fn status(which: &WhichArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let machine = machine::machine(client, &which.find(client)?.reference())?;
    if ui.json {
        ui.print_json(&Status {
            vm: &machine.name,
            cbt_enabled: machine.change_tracking,
            cbt_supported: machine.change_tracking_supported,
            disks: machine.disks.iter().map(DiskStatus::of).collect(),
        })?;
        return Ok(Exit::Done);
    }
    let word = match (machine.change_tracking, machine.change_tracking_supported) {
        (true, _) => "on",
        (false, Some(true) | None) => "off",
        (false, Some(false)) => "off, and the server says that it cannot be on",
    };
    let mut table = Table::new(&["KEY", "DISK", "CHANGE ID"]);
    for disk in &machine.disks {
        table.row([number(disk.key), cell(&disk.label), cell(disk.change_id.as_deref().unwrap_or("-"))]);
    }
    ui.print(&format!(
        "{}: change tracking is {word}\n{}",
        printable(&machine.name),
        table.render(ui.color)
    ))?;
    Ok(Exit::Done)
}

fn changed(
    machine: &Machine,
    key: i32,
    since: &str,
    snapshot: Option<&str>,
    client: &Client,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let disk = machine.disks.iter().find(|disk| disk.key == key).ok_or_else(|| {
        Error::new(Kind::Source, format!("{} has no disk with the key {key}", machine.name))
            .allowed(machine.disks.iter().map(|disk| disk.key.to_string()))
            .advice("see which it has: `hyper2kvm vsphere disks`")
    })?;
    let snapshot = snapshot.map(|wanted| snapshot::find(machine, wanted)).transpose()?;
    let snapshot = snapshot.map(|snapshot| snapshot.moref.as_str());
    let vm = VmRef { moref: machine.moref.clone() };
    let areas = cbt::changed(client, &vm, snapshot, (key, disk.capacity_bytes), since)?;
    let length = areas.iter().map(|area| area.length).sum();
    if ui.json {
        let (vm, change_id) = (machine.name.as_str(), since);
        ui.print_json(&Changed { vm, snapshot, device_key: key, change_id, length, areas })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["START", "LENGTH"]);
    for area in &areas {
        table.row([number(area.start), number(area.length)]);
    }
    let all =
        format!("{} areas, {} of {}\n", areas.len(), size(Some(length)), size(Some(disk.capacity_bytes)));
    ui.print(&format!("{}{all}", table.render(ui.color)))?;
    Ok(Exit::Done)
}
