//! `vsphere list` and `tree`: which machines there are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{FilterArgs, power, size};
use crate::cli::table::{Cell, Table, cell, number, printable};
use crate::cli::{Exit, Failure, Ui};
use crate::vsphere::Client;
use crate::vsphere::inventory::{self, VmSummary};

/// Arguments of `vsphere list` and `tree`.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filters: FilterArgs,
}

/// `list --json`
#[derive(Serialize)]
struct Document {
    vms: Vec<VmSummary>,
}

pub(super) fn list(args: &ListArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let vms = inventory::list(client, &args.filters.filters())?;
    if ui.json {
        ui.print_json(&Document { vms })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        "NAME",
        "POWER",
        "CPU",
        "MEMORY",
        "DISKS",
        "USED",
        "GUEST",
        "DATASTORE",
        "REFERENCE",
        "PATH",
    ]);
    let count = |count: Option<u32>| -> Cell { count.map_or_else(|| cell("-"), number) };
    for vm in &vms {
        table.row([
            cell(&vm.name),
            cell(power(vm)),
            count(vm.cpus),
            cell(size(vm.memory_mb.and_then(|mib| mib.checked_mul(1 << 20)))),
            count(vm.disks),
            cell(size(vm.used_bytes)),
            cell(vm.guest.as_deref().unwrap_or("-")),
            cell(vm.datastore.as_deref().unwrap_or("-")),
            cell(&vm.moref),
            cell(&vm.path),
        ]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

/// A folder, with what is in it.
#[derive(Default, Serialize)]
struct Folder {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    folders: BTreeMap<String, Folder>,
    vms: Vec<VmSummary>,
}

pub(super) fn tree(args: &ListArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let mut root = Folder::default();
    for vm in inventory::list(client, &args.filters.filters())? {
        let mut names: Vec<String> =
            vm.path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        names.pop();
        let folder =
            names.into_iter().fold(&mut root, |folder, name| folder.folders.entry(name).or_default());
        folder.vms.push(vm);
    }
    if ui.json {
        ui.print_json(&root)?;
    } else {
        let mut text = String::new();
        drawn(&root, 0, &mut text);
        ui.print(&text)?;
    }
    Ok(Exit::Done)
}

fn drawn(folder: &Folder, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    for (name, below) in &folder.folders {
        text.push_str(&format!("{indent}{}/\n", printable(name)));
        drawn(below, depth + 1, text);
    }
    for vm in &folder.vms {
        text.push_str(&format!(
            "{indent}{} ({}, {})\n",
            printable(&vm.name),
            power(vm),
            printable(&vm.moref)
        ));
    }
}
