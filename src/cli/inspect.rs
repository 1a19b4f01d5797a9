//! `inspect DISK…`: which guest is inside the disks of one machine, and what the machine is where that is described.
//!
//! What is not here: how that is found out (see `guest::inspect` and `source`).

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::facts;
use super::given::Given;
use super::table::printable;
use super::{Exit, Failure, Ui, interrupt};
use crate::disk::SourceDisk;
use crate::guest::work::Key;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::guest::{GuestIdentity, GuestKernel, GuestNic};
use crate::model::units::human_size;
use crate::pipeline::DiskProcessor;
use crate::pipeline::keys::key_file;

/// How the guest room says that there is nothing inside, which is an answer here.
const NO_OS_FIELD: &str = "pipeline.fix.on_no_os";

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The disks of one machine, in the order in which it has them, or an appliance
    #[arg(value_name = "DISK", required = true)]
    disks: Vec<PathBuf>,
    /// A file with the passphrase of an encrypted volume (LUKS); may be given several times
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,
}

/// `{"machines": […], "guests": […], "disks": […]}`
#[derive(Debug, Serialize)]
struct Inspected {
    machines: Vec<Value>,
    guests: Vec<GuestIdentity>,
    disks: Vec<DiskView>,
}

#[derive(Debug, Serialize)]
struct DiskView {
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    format: &'static str,
    virtual_size: u64,
    allocated_bytes: u64,
    backing: Vec<PathBuf>,
    warnings: Vec<String>,
}

/// Looks and prints.
pub(super) fn run(args: &InspectArgs, ui: &Ui) -> Result<Exit, Failure> {
    let keys = keys(&args.key_file)?;
    let processor = DiskProcessor::new()?;
    interrupt::ends(&processor.control());
    let (machine, disks) = disks(&args.disks, &processor)?;
    let begun = |what: &str| {
        if ui.verbose > 0 {
            ui.note(what);
        }
    };
    let guests = match processor.identify(&disks, keys, begun) {
        Ok(identity) => vec![identity],
        Err(error) if error.details().place.field.as_deref() == Some(NO_OS_FIELD) => {
            ui.note(&printable(&error.details().cause));
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    let machines = machine.iter().map(facts::document).collect();
    let found = Inspected { machines, guests, disks: disks.iter().map(view).collect() };
    if ui.json {
        ui.print_json(&found)?;
    } else {
        ui.print(&shown(&found, machine.as_ref()))?;
    }
    Ok(Exit::Done)
}

/// The disks of one machine: as they were named, or all of the appliance that was, with what that says.
fn disks(named: &[PathBuf], processor: &DiskProcessor) -> Result<(Option<Facts>, Vec<SourceDisk>)> {
    let [only] = named else {
        let disks = named.iter().map(|path| processor.inspect(path));
        return Ok((None, disks.collect::<Result<_>>()?));
    };
    match Given::of(only)? {
        Given::Machines(machines) => match machines.as_slice() {
            [machine] => {
                let disks = machine.disks.iter().map(|disk| processor.inspect_found(disk));
                Ok((Some(machine.clone()), disks.collect::<Result<_>>()?))
            }
            several => Err(Error::new(Kind::Manifest, format!("it has {} machines", several.len()))
                .source(only.display().to_string())
                .allowed(several.iter().map(Facts::plain_name))
                .advice("convert it: each machine is looked into then")),
        },
        Given::Disk(_) | Given::Manifest => Ok((None, vec![processor.inspect(only)?])),
    }
}

/// The keys in these files.
pub(super) fn keys(files: &[PathBuf]) -> Result<Vec<Key>> {
    let key = |path: &PathBuf| {
        let passphrase = key_file(path)?;
        Ok(Key { uuid: None, device: None, passphrase })
    };
    files.iter().map(key).collect()
}

fn view(disk: &SourceDisk) -> DiskView {
    DiskView {
        path: disk.path.clone(),
        member: disk.member().map(str::to_owned),
        format: disk.format.name(),
        virtual_size: disk.facts.virtual_size,
        allocated_bytes: disk.facts.allocated_bytes,
        backing: disk.facts.backing.clone(),
        warnings: disk.warnings.clone(),
    }
}

/// For people: a few lines for each.
fn shown(found: &Inspected, machine: Option<&Facts>) -> String {
    let mut text = String::new();
    let of_machine = machine.map(facts::lines).unwrap_or_default();
    for (name, value) in of_machine.into_iter().chain(found.guests.iter().flat_map(lines)) {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{name:<12} {}", printable(&value));
    }
    let described = machine.map(|machine| machine.disks.as_slice()).unwrap_or_default();
    for (number, disk) in found.disks.iter().enumerate() {
        let size = human_size(disk.virtual_size);
        let place = described.get(number).and_then(facts::hangs_on);
        let place = place.map(|place| format!(", {place}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "{:<12} {} ({}, {size}{place})",
            "disk",
            printable(&disk.member.as_ref().map_or_else(
                || disk.path.display().to_string(),
                |member| format!("{}:{member}", disk.path.display())
            )),
            disk.format
        );
    }
    text
}

fn lines(guest: &GuestIdentity) -> Vec<(&'static str, String)> {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut lines = vec![
        ("system", format!("{} ({})", or_unknown(&guest.os_pretty), or_unknown(&guest.architecture))),
        ("name", or_unknown(&guest.hostname)),
        ("starts by", format!("{}, {}", word(&guest.firmware), word(&guest.bootloader))),
        ("runs", format!("{}, packages by {}", word(&guest.init_system), or_unknown(&guest.package_manager))),
        ("root", or_unknown(&guest.root)),
    ];
    lines.extend(guest.mounts.iter().filter(|mount| mount.total_bytes.is_some()).map(|mount| {
        let room = match (mount.free_bytes, mount.total_bytes) {
            (Some(free), Some(total)) => format!(", {} of {} free", human_size(free), human_size(total)),
            _ => String::new(),
        };
        ("mount", format!("{} on {} ({}{room})", mount.path, mount.spec, mount.file_system))
    }));
    lines.extend(guest.kernels.iter().map(|kernel| ("kernel", kernel_line(kernel))));
    lines.extend(guest.nics.iter().map(|nic| ("network", nic_line(nic))));
    if !guest.agents.is_empty() {
        lines.push(("tools", guest.agents.join(", ")));
    }
    lines.extend(guest.notes.iter().map(|note| ("note", note.clone())));
    lines
}

fn kernel_line(kernel: &GuestKernel) -> String {
    let virtio = if kernel.virtio { "has virtio" } else { "has no virtio drivers" };
    let default = if kernel.default { ", starts by default" } else { "" };
    format!("{} ({virtio}{default})", kernel.version)
}

fn nic_line(nic: &GuestNic) -> String {
    let name = if nic.name.is_empty() { nic.mac.as_deref().unwrap_or("any card") } else { &nic.name };
    let mut addresses = nic.addresses.clone();
    if nic.dhcp {
        addresses.insert(0, "DHCP".to_owned());
    }
    format!("{name}: {} ({})", addresses.join(", "), nic.configured_by)
}

/// A value as JSON names it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_of_itself_does_not_drive_a_terminal() {
        let guest =
            GuestIdentity { os_pretty: Some("\u{1b}[2JLinux".to_owned()), ..GuestIdentity::default() };
        let machine = Facts { serial: Some("\u{1b}[2Jserial".to_owned()), ..Facts::default() };
        let found = Inspected { machines: Vec::new(), guests: vec![guest], disks: Vec::new() };
        let text = shown(&found, Some(&machine));
        assert!(text.contains("Linux") && text.contains("serial") && !text.contains('\u{1b}'), "{text:?}");
    }
}
