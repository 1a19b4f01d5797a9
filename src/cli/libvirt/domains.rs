//! `libvirt list`, `show`, `define`, `start` and whatever else is done with one machine as a whole.
//!
//! What is not here: its devices, its snapshots and the jobs of its disks, which have files of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::{Asked, duration};
use crate::cli::table::{Paint, Table, cell, printable};
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::domains::{self, Found, Listed, Overwrite, Source, Stand, State, Stopped, Undefine};
use crate::libvirt::link::{Access, Link};
use crate::model::config::DEFAULT_STATE_DIR;
use crate::model::error::{Error, Kind, Result};
use crate::model::units::human_size;

/// Where machines are kept that were replaced, below the state directory.
const REPLACED: &str = "replaced";
/// The definition of a machine has less.
const MOST_XML_BYTES: u64 = 16 << 20;

/// Tasks with machines.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// List the machines, running or not
    List,
    /// Show what is known of a machine
    Show {
        /// The machine
        name: String,
    },
    /// Define a machine from libvirt's XML
    Define {
        /// The file with its definition
        file: PathBuf,
        /// Replace a machine of that name, if hyper2kvm made it and it is off
        #[arg(long)]
        overwrite: bool,
        /// Keep what is replaced in here [default: /var/lib/hyper2kvm/replaced]
        #[arg(long, value_name = "DIR", requires = "overwrite")]
        keep_in: Option<PathBuf>,
    },
    /// Take a machine away; its disks stay
    Undefine(UndefineArgs),
    /// Start a machine
    Start {
        /// The machine
        name: String,
    },
    /// Ask a guest to shut down, and wait for it
    Stop {
        /// The machine
        name: String,
        /// How long to wait
        #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
        timeout: Duration,
        /// Switch it off if it is not off by then
        #[arg(long)]
        force: bool,
    },
    /// Switch a machine off at once, as if its power failed
    Destroy {
        /// The machine
        name: String,
    },
    /// Ask a guest to begin anew
    Reboot {
        /// The machine
        name: String,
    },
    /// Let a machine stand still
    Suspend {
        /// The machine
        name: String,
    },
    /// Let a machine go on that stands still
    Resume {
        /// The machine
        name: String,
    },
    /// Say whether a machine starts with the host
    Autostart {
        /// The machine
        name: String,
        /// Whether it does
        #[arg(value_enum)]
        on: Switch,
    },
    /// Call a machine something else that is off
    Rename {
        /// The machine
        name: String,
        /// Its new name
        new: String,
    },
    /// Show what a machine has used
    Stats {
        /// The machine
        name: String,
    },
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// Arguments of `libvirt undefine`.
#[derive(Debug, clap::Args)]
pub(super) struct UndefineArgs {
    /// The machine
    name: String,
    /// Remove the variables of its firmware, too
    #[arg(long)]
    nvram: bool,
    /// Remove what its TPM keeps, too
    #[arg(long)]
    tpm: bool,
    /// Remove its snapshots, too; the files of external ones stay
    #[arg(long)]
    snapshots: bool,
    /// Remove its memory, if that was saved
    #[arg(long)]
    managed_save: bool,
    /// All four of them
    #[arg(long, conflicts_with_all = ["nvram", "tpm", "snapshots", "managed_save"])]
    all: bool,
    /// Switch it off first, if it runs
    #[arg(long)]
    destroy: bool,
    /// Only if hyper2kvm made it
    #[arg(long)]
    only_ours: bool,
    /// Say what would go, and take nothing away
    #[arg(long)]
    dry_run: bool,
}

/// `list --json`
#[derive(Serialize)]
struct Document {
    domains: Vec<Listed>,
}

/// What other tasks answer with `--json`: the machine, and how it is now.
#[derive(Serialize)]
struct Now<'n> {
    name: &'n str,
    #[serde(flatten)]
    stand: Stand,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<Stopped>,
}

/// `undefine --json`
#[derive(Serialize)]
struct Undefined<'n> {
    name: &'n str,
    dry_run: bool,
    removed: Vec<String>,
}

pub(super) fn run(task: &Task, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        Task::List => list(asked, ui),
        Task::Show { name } => show(asked, ui, name),
        Task::Define { file, overwrite, keep_in } => define(asked, ui, file, *overwrite, keep_in.as_ref()),
        Task::Undefine(args) => undefine(asked, ui, args),
        Task::Start { name } => act(asked, ui, name, domains::start),
        Task::Stop { name, timeout, force } => stop(asked, ui, name, *timeout, *force),
        Task::Destroy { name } => act(asked, ui, name, |link, name| domains::destroy(link, name).map(drop)),
        Task::Reboot { name } => act(asked, ui, name, domains::reboot),
        Task::Suspend { name } => act(asked, ui, name, domains::suspend),
        Task::Resume { name } => act(asked, ui, name, domains::resume),
        Task::Autostart { name, on } => {
            let on = *on == Switch::On;
            act(asked, ui, name, move |link, name| domains::set_autostart(link, name, on))
        }
        Task::Rename { name, new } => rename(asked, ui, name, new),
        Task::Stats { name } => stats(asked, ui, name),
    }
}

fn list(asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let domains = asked.ask(Access::Reads, domains::list)?;
    if ui.json {
        ui.print_json(&Document { domains })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["NAME", "STATE"]);
    for domain in &domains {
        table.row([cell(&domain.name), cell(domain.state.name()).paint(paint(domain.state))]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

fn paint(state: State) -> Paint {
    match state {
        State::Running => Paint::Good,
        State::Crashed => Paint::Bad,
        State::Paused | State::ShuttingDown => Paint::Attention,
        State::Off | State::Suspended | State::Unknown => Paint::Plain,
    }
}

fn show(asked: &Asked, ui: &Ui, name: &str) -> Result<Exit, Failure> {
    let wanted = name.to_owned();
    let found = asked.ask(Access::Reads, move |link| domains::find(link, &wanted))?;
    let found = found.ok_or_else(|| no_such(name))?;
    if ui.json {
        ui.print_json(&found)?;
    } else {
        ui.print(&shown(&found, ui.color))?;
    }
    Ok(Exit::Done)
}

fn shown(found: &Found, color: bool) -> String {
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, text: String| table.row([cell(name), cell(text)]);
    row("name", found.name.clone());
    row("uuid", found.uuid.clone());
    row("state", format!("{} ({})", found.stand.state.name(), found.stand.reason));
    row("autostart", yes_or_no(found.autostart));
    if let Some(made) = &found.provenance {
        row(
            "made by",
            format!(
                "hyper2kvm {}, VM {} of batch {}, at {}",
                made.version, made.vm_id, made.batch_id, made.made_at
            ),
        );
    }
    for disk in &found.disks {
        let format = disk.format.as_deref().unwrap_or("-");
        row(
            &format!("{} {}", disk.device, disk.target),
            format!("{} ({format})", place(disk.source.as_ref())),
        );
    }
    for mac in &found.macs {
        row("network card", mac.clone());
    }
    if let Some(nvram) = &found.nvram {
        row("nvram", nvram.display().to_string());
    }
    row("saved memory", yes_or_no(found.has_managed_save));
    for snapshot in &found.snapshots {
        row("snapshot", snapshot.clone());
    }
    // Without a head.
    table.render(color).split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

fn place(source: Option<&Source>) -> String {
    match source {
        Some(Source::Path(path)) => path.display().to_string(),
        Some(Source::Volume { pool, volume }) => format!("volume {volume} of pool {pool}"),
        Some(Source::Network(protocol)) => format!("at a server, by {protocol}"),
        None => "empty".to_owned(),
    }
}

fn define(
    asked: &Asked,
    ui: &Ui,
    file: &Path,
    overwrite: bool,
    keep_in: Option<&PathBuf>,
) -> Result<Exit, Failure> {
    let xml = text_of(file)?;
    let keep_in = keep_in.cloned().unwrap_or_else(|| Path::new(DEFAULT_STATE_DIR).join(REPLACED));
    let overwrite = if overwrite { Overwrite::OursThatIsOff { keep_in } } else { Overwrite::Refuse };
    let defined = asked.ask(Access::Changes, move |link| domains::define(link, &xml, &overwrite));
    let defined = defined.map_err(|error| match error.kind() {
        Kind::Manifest => error.file(file),
        _ => error,
    })?;
    if ui.json {
        ui.print_json(&defined)?;
    } else {
        ui.print(&format!("{}: defined, {}\n", printable(&defined.name), defined.uuid))?;
        if let Some(place) = &defined.replaced {
            ui.note(&format!("what it was lies in {}", place.display()));
        }
    }
    Ok(Exit::Done)
}

fn text_of(file: &Path) -> Result<String> {
    use std::io::Read as _;
    let failed = |error: &std::io::Error| Error::io(Kind::Manifest, "read", file, error);
    let opened = std::fs::File::open(file).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    opened.take(MOST_XML_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    String::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::Manifest, "it is not UTF-8").file(file).advice("write it as UTF-8"))
}

fn undefine(asked: &Asked, ui: &Ui, args: &UndefineArgs) -> Result<Exit, Failure> {
    let what = Undefine {
        nvram: args.nvram || args.all,
        tpm: args.tpm || args.all,
        snapshots: args.snapshots || args.all,
        managed_save: args.managed_save || args.all,
        destroy: args.destroy,
        only_ours: args.only_ours,
    };
    let (name, dry_run) = (args.name.clone(), args.dry_run);
    let access = if dry_run { Access::Reads } else { Access::Changes };
    let removed = asked.ask(access, move |link| {
        let Some(found) = domains::find(link, &name)? else { return Ok(None) };
        if !dry_run {
            domains::undefine(link, &name, &what)?;
        }
        Ok(Some(going(&found, &what)))
    })?;
    let removed = removed.ok_or_else(|| no_such(&args.name))?;
    if ui.json {
        ui.print_json(&Undefined { name: &args.name, dry_run, removed })?;
    } else {
        let verb = if dry_run { "would remove" } else { "removed" };
        ui.print(&format!("{}: {verb} {}\n", printable(&args.name), printable(&removed.join(", "))))?;
    }
    Ok(Exit::Done)
}

/// What goes with a machine, in words.
fn going(found: &Found, what: &Undefine) -> Vec<String> {
    let mut going = vec!["its definition".to_owned()];
    going.extend(found.nvram.as_ref().filter(|_| what.nvram).map(|path| format!("{}", path.display())));
    if what.snapshots {
        going.extend(found.snapshots.iter().map(|snapshot| format!("snapshot {snapshot}")));
    }
    if what.managed_save && found.has_managed_save {
        going.push("its saved memory".to_owned());
    }
    going
}

/// Does this with a machine and says how it is then.
fn act(
    asked: &Asked,
    ui: &Ui,
    name: &str,
    work: impl FnOnce(&Link, &str) -> Result<()> + Send + 'static,
) -> Result<Exit, Failure> {
    let wanted = name.to_owned();
    let stand = asked.ask(Access::Changes, move |link| {
        work(link, &wanted)?;
        domains::state(link, &wanted)
    })?;
    told(ui, name, stand, None)
}

fn stop(asked: &Asked, ui: &Ui, name: &str, timeout: Duration, force: bool) -> Result<Exit, Failure> {
    let wanted = name.to_owned();
    let (stopped, stand) = asked.ask_longer(timeout, Access::Changes, move |link| {
        let stopped = domains::shutdown(link, &wanted, timeout, force)?;
        // One that is not persistent is gone with that.
        let gone = Stand { state: State::Off, reason: "unknown" };
        let is_there = domains::find(link, &wanted)?.is_some();
        Ok((stopped, if is_there { domains::state(link, &wanted)? } else { gone }))
    })?;
    told(ui, name, stand, Some(stopped))
}

fn rename(asked: &Asked, ui: &Ui, name: &str, new: &str) -> Result<Exit, Failure> {
    let (old, wanted) = (name.to_owned(), new.to_owned());
    let stand = asked.ask(Access::Changes, move |link| {
        domains::rename(link, &old, &wanted)?;
        domains::state(link, &wanted)
    })?;
    told(ui, new, stand, None)
}

fn told(ui: &Ui, name: &str, stand: Stand, stopped: Option<Stopped>) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(&Now { name, stand, stopped })?;
    } else {
        ui.print(&format!("{}: {} ({})\n", printable(name), stand.state.name(), stand.reason))?;
    }
    Ok(Exit::Done)
}

fn stats(asked: &Asked, ui: &Ui, name: &str) -> Result<Exit, Failure> {
    let wanted = name.to_owned();
    let counted = asked.ask(Access::Reads, move |link| domains::statistics(link, &wanted))?;
    if ui.json {
        ui.print_json(&counted)?;
        return Ok(Exit::Done);
    }
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human_size);
    let kib = |kib: Option<u64>| size(kib.map(|kib| kib << 10));
    let mut table = Table::new(&["WHAT", "IN", "OUT", "HAS"]);
    let seconds =
        counted.cpu_time_ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.1} s", ns as f64 / 1e9));
    table.row([
        cell("processors"),
        cell(seconds),
        cell(""),
        cell(counted.vcpus.map_or_else(String::new, |count| count.to_string())),
    ]);
    table.row([
        cell("memory"),
        cell(kib(counted.memory.rss_kib)),
        cell(""),
        cell(kib(counted.memory.current_kib)),
    ]);
    for disk in &counted.disks {
        let what = format!("disk {}", disk.target);
        table.row([
            cell(what),
            cell(size(disk.read_bytes)),
            cell(size(disk.written_bytes)),
            cell(size(disk.capacity_bytes)),
        ]);
    }
    for nic in &counted.nics {
        let what = format!("network card {}", nic.interface);
        table.row([cell(what), cell(size(nic.received_bytes)), cell(size(nic.sent_bytes)), cell("")]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

fn no_such(name: &str) -> Error {
    Error::new(Kind::Libvirt, format!("there is no machine {name}"))
        .advice("see which there are: `hyper2kvm libvirt list`")
}
