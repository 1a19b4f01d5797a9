//! `boot-test`: starts a disk in a throw-away machine and says whether the guest came up.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::table::printable;
use super::{Exit, Failure, StateArgs, Ui, interrupt};
use crate::disk::{Control, Engine, detect};
use crate::model::boot::{BootOptions, BootVerdict, Verdict};
use crate::model::error::{Error, Kind, Result};
use crate::model::machine::{DEFAULT_NETWORK, DiskBus, Firmware, Machine, MachineDisk, MachineNic, NicLink};
use crate::model::manifest::{Accelerator, BootMethod};
use crate::model::units::{parse_duration_s, parse_size};
use crate::pipeline::boot_test::{self, BootTestOrder, Moment};
use crate::pipeline::keys::key_file;
use crate::sys::process::Launcher;

/// Where nobody looks at a bar, a line is said this often, seconds.
const LINE_EVERY_S: f64 = 15.0;
/// A bar shows so much of what the guest says.
const SAYING_CHARACTERS: usize = 60;
const MEBIBYTE: u64 = 1 << 20;

/// Arguments of `boot-test`.
#[derive(Debug, clap::Args)]
pub(super) struct BootTestArgs {
    /// Disks of one machine, the one to boot from first; they are only read
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<PathBuf>,
    /// What starts the guest: auto (what the disk is set up for), bios or uefi
    #[arg(long, value_name = "WHICH", default_value = "auto", value_parser = ["auto", "bios", "uefi"])]
    firmware: String,
    /// Let only signed boot loaders run (UEFI)
    #[arg(long)]
    secure_boot: bool,
    /// Give the machine an empty TPM
    #[arg(long)]
    tpm: bool,
    /// How long the guest may take; emulated guests get four times as long
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    timeout: f64,
    /// What runs the guest: auto (KVM where it works), kvm or tcg (emulation)
    #[arg(long, value_name = "WHICH", default_value = "auto", value_parser = ["auto", "kvm", "tcg"])]
    accel: String,
    /// Who runs the machine: qemu (started here) or libvirt
    #[arg(long, value_name = "WHICH", default_value = "qemu", value_parser = ["qemu", "libvirt"])]
    method: String,
    /// Which libvirt, with `--method libvirt` [default: `libvirt.uri`]
    #[arg(long, value_name = "URI")]
    libvirt_uri: Option<String>,
    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = memory_mib)]
    memory: u64,
    /// Processors of the machine [default: 2, under emulation 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: Option<u32>,
    /// The bus of the disks: virtio, scsi (virtio-scsi) or sata
    #[arg(long, value_name = "BUS", default_value = "virtio", value_parser = ["virtio", "scsi", "sata"])]
    bus: String,
    /// A regular expression: text on the serial console that means "booted" [default: a login prompt]
    #[arg(long, value_name = "REGEX")]
    expect: Option<String>,
    /// A file with what is typed where the guest asks for a passphrase; may be said several times
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,
    /// Keep the last picture of the screen here (PNG)
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,
    /// Keep what the guest says on its serial console here
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

/// Tries it; exit 0 if the guest came up, 1 if it did not or nobody can tell.
pub(super) fn run(args: &BootTestArgs, ui: &Ui) -> std::result::Result<Exit, Failure> {
    let libvirt_uri = match &args.libvirt_uri {
        Some(uri) => uri.clone(),
        None => args.state.settings_or_defaults()?.libvirt.uri,
    };
    let order = order(args, libvirt_uri)?;
    let engine = Engine::find(Launcher::this_program())?;
    let control = Control::new();
    interrupt::ends(&control);
    let mut view = View::new(ui);
    let tried = boot_test::run(&order, &engine, &control, &mut |moment| view.show(moment));
    view.finish();
    tell(&tried?, ui)
}

fn order(args: &BootTestArgs, libvirt_uri: String) -> Result<BootTestOrder> {
    let mut machine = Machine::new("boot-test");
    let bus = match args.bus.as_str() {
        "scsi" => DiskBus::VirtioScsi,
        "sata" => DiskBus::Sata,
        _ => DiskBus::VirtioBlk,
    };
    machine.disks = args
        .disks
        .iter()
        .zip(1..)
        .map(|(path, order)| disk(path, order, bus))
        .collect::<Result<Vec<MachineDisk>>>()?;
    machine.nics = vec![MachineNic::new(NicLink::Network(DEFAULT_NETWORK.to_owned()))];
    machine.secure_boot = args.secure_boot;
    machine.tpm = args.tpm;
    let options = BootOptions {
        method: if args.method == "libvirt" { BootMethod::Libvirt } else { BootMethod::Qemu },
        libvirt_uri: Some(libvirt_uri),
        timeout_s: args.timeout,
        accel: match args.accel.as_str() {
            "kvm" => Accelerator::Kvm,
            "tcg" => Accelerator::Tcg,
            _ => Accelerator::Auto,
        },
        memory_mib: Some(args.memory),
        vcpus: args.vcpus,
        firmware: match args.firmware.as_str() {
            "bios" => Some(Firmware::Bios),
            "uefi" => Some(Firmware::Uefi),
            _ => None,
        },
        display: true,
        expect: args.expect.clone(),
    };
    options.expectation().map_err(|error| error.field("--expect"))?;
    Ok(BootTestOrder {
        options,
        passphrases: args.key_file.iter().map(|path| key_file(path)).collect::<Result<Vec<String>>>()?,
        backing_chain: true,
        console: args.console.clone(),
        screenshot: args.screenshot.clone(),
        ..BootTestOrder::new(machine, std::env::temp_dir())
    })
}

fn disk(path: &Path, order: u32, bus: DiskBus) -> Result<MachineDisk> {
    let found = detect(path)?;
    let format = found.format.source_format().ok_or_else(|| {
        Error::new(Kind::Source, format!("{} is no disk image but {}", path.display(), found.format.name()))
            .advice("name a disk: qcow2, raw, VMDK, VHD, VHDX or VDI")
            .source(path.display().to_string())
    })?;
    let path = std::path::absolute(path).map_err(|error| Error::io(Kind::Source, "resolve", path, &error))?;
    Ok(MachineDisk {
        bus,
        boot_order: Some(order),
        ..MachineDisk::new(format!("disk-{order}"), path, format)
    })
}

fn duration(text: &str) -> std::result::Result<f64, String> {
    match parse_duration_s(text) {
        Ok(seconds) if seconds > 0.0 => Ok(seconds),
        Ok(_) => Err("it has to be more than nothing".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn memory_mib(text: &str) -> std::result::Result<u64, String> {
    match parse_size(text).map(|bytes| bytes / MEBIBYTE) {
        Ok(mib) if mib >= 64 => Ok(mib),
        Ok(_) => Err("a guest needs at least 64MiB".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn tell(found: &BootVerdict, ui: &Ui) -> std::result::Result<Exit, Failure> {
    if ui.json {
        ui.print_json(found)?;
    } else {
        ui.print(&format!("{}\n", sentence(found)))?;
        if !found.booted
            && let Some(tail) = &found.console_tail
        {
            ui.note(&format!("the end of its console:\n{tail}"));
        }
        if let Some(picture) = &found.screenshot {
            ui.note(&format!("its screen: {}", picture.display()));
        }
    }
    Ok(if found.booted { Exit::Done } else { Exit::Failed })
}

/// `booted after 23 s (bios, tcg): login prompt: debian login:`
fn sentence(found: &BootVerdict) -> String {
    let BootVerdict { verdict, evidence, firmware, accel, .. } = found;
    let after = format!("{:.0} s", found.seconds);
    let machine = format!("{firmware}, {accel}");
    match (verdict, &found.error) {
        (Verdict::Failed, Some(error)) => format!("failed after {after} ({machine}): {error}: {evidence}"),
        (verdict, _) => format!("{} after {after} ({machine}): {evidence}", verdict.name()),
    }
}

/// What is seen while the guest starts.
struct View {
    ui: Ui,
    bar: Option<ProgressBar>,
    told: f64,
}

impl View {
    fn new(ui: &Ui) -> View {
        let person = std::io::stderr().is_terminal() && !ui.json && !ui.quiet;
        let bar = person.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        View { ui: ui.clone(), bar, told: 0.0 }
    }

    fn show(&mut self, moment: &Moment) {
        let saying: String = printable(&moment.saying).chars().take(SAYING_CHARACTERS).collect();
        let line = format!("starting, {:.0} of {:.0} s: {saying}", moment.seconds, moment.limit_s);
        if let Some(bar) = &self.bar {
            bar.set_message(line);
        } else if moment.seconds >= self.told + LINE_EVERY_S {
            self.told = moment.seconds;
            self.ui.note(&line);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
