//! `inspect DISK…`: which guest is inside the disks of one machine, and what the machine is where that is described.
//!
//! What is not here: how that is found out (see `guest::inspect` and `source`).

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::facts;
use super::given::{Given, chosen};
use super::table::printable;
use super::{Exit, Failure, StateArgs, Ui, interrupt};
use crate::disk::SourceDisk;
use crate::guest::work::Key;
use crate::model::api::ErrorView;
use crate::model::config::Settings;
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
    /// Only the machine of this name, of an appliance that has several
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Take disks with all that they stand on (snapshots, checkpoints), which has to lie beside them
    #[arg(long)]
    backing_chain: bool,
    /// A file with the passphrase of an encrypted volume (LUKS); may be given several times
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

/// `{"machines": […], "guests": […], "disks": […]}`, and `errors` of those machines of several that could not be looked into.
#[derive(Debug, Default, Serialize)]
struct Inspected {
    machines: Vec<Value>,
    guests: Vec<GuestView>,
    disks: Vec<DiskView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Unseen>,
}

/// A guest, and the machine that it is in where that is described.
#[derive(Debug, Serialize)]
struct GuestView {
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    #[serde(flatten)]
    identity: GuestIdentity,
}

#[derive(Debug, Serialize)]
struct DiskView {
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    format: &'static str,
    virtual_size: u64,
    allocated_bytes: u64,
    backing: Vec<PathBuf>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Unseen {
    machine: String,
    #[serde(flatten)]
    error: ErrorView,
}

/// One machine: as it is described, if it is, and what was found in it.
#[derive(Debug, Default)]
struct Seen {
    facts: Option<Facts>,
    guest: Option<GuestIdentity>,
    disks: Vec<SourceDisk>,
    error: Option<Error>,
}

/// Looks and prints.
pub(super) fn run(args: &InspectArgs, ui: &Ui) -> Result<Exit, Failure> {
    let keys = keys(&args.key_file)?;
    let mut seen = match machines(args, &args.state.settings_or_defaults()?)? {
        None => vec![Seen::default()],
        Some(machines) => {
            machines.into_iter().map(|facts| Seen { facts: Some(facts), ..Seen::default() }).collect()
        }
    };
    let is_one = seen.len() == 1;
    for machine in &mut seen {
        // One for each: what fails in one machine ends what works for that.
        let processor = DiskProcessor::new()?;
        let control = processor.control();
        interrupt::ends(&control);
        match machine.look(args, &processor, &keys, ui) {
            Err(error) if is_one || control.interruption().is_some() => return Err(error.into()),
            looked => machine.error = looked.err(),
        }
    }
    if ui.json {
        ui.print_json(&found(&seen))?;
    } else {
        ui.print(&seen.iter().map(Seen::shown).collect::<Vec<_>>().join("\n"))?;
    }
    // It was told with its machine.
    match seen.iter().find_map(|machine| machine.error.as_ref()) {
        Some(error) => Err(Failure::silent(Exit::of(error.kind()))),
        None => Ok(Exit::Done),
    }
}

/// The machines that an input describes, if it is one that does.
fn machines(args: &InspectArgs, settings: &Settings) -> Result<Option<Vec<Facts>>> {
    if let [only] = args.disks.as_slice()
        && let Given::Machines(machines) = Given::of(only, settings)?
    {
        return chosen(machines, args.vm.as_deref(), only).map(Some);
    }
    match args.vm {
        Some(_) => {
            Err(Error::new(Kind::Manifest, "`--vm` chooses a machine of an appliance, and disks are none")
                .advice("leave it out: the disks that are named are one machine"))
        }
        None => Ok(None),
    }
}

impl Seen {
    /// Opens the machine's disks, or those that were named, and the guest in them.
    fn look(&mut self, args: &InspectArgs, processor: &DiskProcessor, keys: &[Key], ui: &Ui) -> Result<()> {
        let begun = |what: &str| {
            if ui.verbose > 0 {
                ui.note(what);
            }
        };
        self.disks = match &self.facts {
            Some(facts) => {
                facts.disks.iter().map(|disk| processor.inspect_found(disk)).collect::<Result<_>>()?
            }
            None => {
                let look = |path: &PathBuf| match args.backing_chain {
                    true => processor.inspect_chain(path),
                    false => processor.inspect(path),
                };
                args.disks.iter().map(look).collect::<Result<_>>()?
            }
        };
        match processor.identify(&self.disks, keys.to_vec(), begun) {
            Ok(identity) => self.guest = Some(identity),
            Err(error) if error.details().place.field.as_deref() == Some(NO_OS_FIELD) => {
                let name = self.name().map(|name| format!("{name}: ")).unwrap_or_default();
                ui.note(&printable(&format!("{name}{}", error.details().cause)));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn name(&self) -> Option<String> {
        self.facts.as_ref().map(Facts::plain_name)
    }
}

/// For programs.
fn found(seen: &[Seen]) -> Inspected {
    let mut found = Inspected::default();
    for one in seen {
        let machine = one.name();
        found.machines.extend(one.facts.as_ref().map(facts::document));
        found
            .guests
            .extend(one.guest.clone().map(|identity| GuestView { machine: machine.clone(), identity }));
        found.disks.extend(one.disks.iter().map(|disk| view(disk, machine.clone())));
        let error = one.error.as_ref().map(ErrorView::from);
        found.errors.extend(error.map(|error| Unseen { machine: machine.unwrap_or_default(), error }));
    }
    found
}

/// The keys in these files.
pub(super) fn keys(files: &[PathBuf]) -> Result<Vec<Key>> {
    let key = |path: &PathBuf| {
        let passphrase = key_file(path)?;
        Ok(Key { uuid: None, device: None, passphrase })
    };
    files.iter().map(key).collect()
}

fn view(disk: &SourceDisk, machine: Option<String>) -> DiskView {
    DiskView {
        machine,
        path: disk.path.clone(),
        member: disk.member().map(str::to_owned),
        format: disk.format.name(),
        virtual_size: disk.facts.virtual_size,
        allocated_bytes: disk.facts.allocated_bytes,
        backing: disk.facts.backing.clone(),
        warnings: disk.warnings.clone(),
    }
}

impl Seen {
    /// For people: a few lines.
    fn shown(&self) -> String {
        let mut lines = self.facts.as_ref().map(facts::lines).unwrap_or_default();
        lines.extend(self.guest.iter().flat_map(guest_lines));
        let described = self.facts.as_ref().map(|facts| facts.disks.as_slice()).unwrap_or_default();
        for (number, disk) in self.disks.iter().enumerate() {
            let size = human_size(disk.facts.virtual_size);
            let place = described.get(number).and_then(facts::hangs_on);
            let place = place.map(|place| format!(", {place}")).unwrap_or_default();
            let path = disk.path.display();
            let name = disk.member().map_or_else(|| path.to_string(), |member| format!("{path}:{member}"));
            lines.push(("disk", format!("{name} ({}, {size}{place})", disk.format.name())));
        }
        lines.extend(self.error.as_ref().map(|error| ("not seen", error.to_string())));
        let mut text = String::new();
        for (name, value) in lines {
            // Writing into a string does not fail.
            let _ = writeln!(text, "{name:<12} {}", printable(&value));
        }
        text
    }
}

fn guest_lines(guest: &GuestIdentity) -> Vec<(&'static str, String)> {
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
        let text = Seen { facts: Some(machine), guest: Some(guest), ..Seen::default() }.shown();
        assert!(text.contains("Linux") && text.contains("serial") && !text.contains('\u{1b}'), "{text:?}");
    }
}
