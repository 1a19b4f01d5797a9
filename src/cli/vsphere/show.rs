//! `vsphere show` and `disks`: all that is known of one machine, and its disks.

use serde::Serialize;

use super::{WhichArgs, size};
use crate::cli::table::{Paint, Table, cell, number};
use crate::cli::{Exit, Failure, Ui};
use crate::model::error::Result;
use crate::vsphere::Client;
use crate::vsphere::devices::{Layer, VmDisk};
use crate::vsphere::machine::{self, Machine};
use crate::vsphere::snapshot::flat;

/// `disks --json`
#[derive(Serialize)]
struct Document {
    disks: Vec<VmDisk>,
}

fn machine_of(args: &WhichArgs, client: &Client) -> Result<Machine> {
    machine::machine(client, &args.find(client)?.reference())
}

pub(super) fn show(args: &WhichArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let machine = machine_of(args, client)?;
    if ui.json {
        ui.print_json(&machine)?;
    } else {
        ui.print(&shown(&machine, ui.color))?;
    }
    Ok(Exit::Done)
}

fn shown(machine: &Machine, color: bool) -> String {
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, text: &str| {
        if !text.is_empty() {
            table.row([cell(name), cell(text)]);
        }
    };
    let yes_or_no = |is_so: bool| if is_so { "yes" } else { "no" };
    row("name", &machine.name);
    row("path", &machine.path);
    row("reference", &machine.moref);
    row("uuid", machine.uuid.as_deref().unwrap_or_default());
    row("power", machine.power.name());
    if machine.connection != "connected" {
        row("connection", &machine.connection);
    }
    if machine.template {
        row("template", "yes");
    }
    row("guest", machine.guest.as_deref().or(machine.guest_id.as_deref()).unwrap_or_default());
    row("cpus", &machine.cpus.to_string());
    row("memory", &size(machine.memory_mb.checked_mul(1 << 20)));
    row("firmware", machine.firmware.map(|firmware| firmware.name()).unwrap_or_default());
    row("secure boot", yes_or_no(machine.secure_boot));
    row("tpm", yes_or_no(machine.tpm));
    row("hardware", &machine.hardware);
    row("vmx", &machine.vmx);
    for disk in &machine.disks {
        row(&disk.label, &format!("{}, {}, {}", disk.path, size(Some(disk.capacity_bytes)), words(disk)));
    }
    for nic in &machine.nics {
        let mac = nic.mac.as_deref().unwrap_or("-");
        let network = nic.network.as_deref().unwrap_or("no network");
        row(&nic.label, &format!("{mac}, {network}, {}", nic.model));
    }
    for (depth, snapshot) in flat(&machine.snapshots) {
        let current =
            if machine.current_snapshot.as_ref() == Some(&snapshot.moref) { ", current" } else { "" };
        row(
            "snapshot",
            &format!(
                "{}{} ({}, {}{current})",
                "  ".repeat(depth),
                snapshot.name,
                snapshot.moref,
                snapshot.created
            ),
        );
    }
    row("consolidation needed", yes_or_no(machine.consolidation_needed));
    row("change tracking", yes_or_no(machine.change_tracking));
    row("tools", machine.tools.status.as_deref().unwrap_or_default());
    row("host name", machine.tools.hostname.as_deref().unwrap_or_default());
    for address in &machine.tools.addresses {
        row("address", address);
    }
    for (name, value) in &machine.attributes {
        row(name, value);
    }
    row("notes", machine.annotation.as_deref().unwrap_or_default());
    // Without a head.
    table.render(color).split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
}

/// What is special about a disk.
fn words(disk: &VmDisk) -> String {
    let mut words = vec![disk.backing.name()];
    let is_so = [
        (disk.thin == Some(true), "thin"),
        (disk.independent, "independent"),
        (disk.multi_writer, "multi-writer"),
        (disk.encrypted, "encrypted"),
    ];
    words.extend(is_so.into_iter().filter_map(|(is_so, word)| is_so.then_some(word)));
    words.join(", ")
}

pub(super) fn disks(args: &WhichArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let machine = machine_of(args, client)?;
    if ui.json {
        ui.print_json(&Document { disks: machine.disks })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["KEY", "DISK", "AT", "SIZE", "KIND", "PATH"]);
    for disk in &machine.disks {
        let at = format!("{} {}:{}", disk.controller_type.trim_start_matches("Virtual"), disk.bus, disk.unit);
        let paint = match disk.independent || disk.multi_writer {
            true => Paint::Attention,
            false => Paint::Plain,
        };
        table.row([
            number(disk.key),
            cell(&disk.label),
            cell(at),
            cell(size(Some(disk.capacity_bytes))),
            cell(words(disk)).paint(paint),
            cell(&disk.path),
        ]);
        let below = std::iter::successors(disk.parent.as_deref(), |layer: &&Layer| layer.parent.as_deref());
        for layer in below {
            table.row([
                cell(""),
                cell("  below it"),
                cell(""),
                cell(""),
                cell(layer.backing.name()),
                cell(&layer.path),
            ]);
        }
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}
