//! `vsphere snapshot …`: the snapshots of one machine.

use serde::Serialize;

use super::orphans::{self, OrphanArgs};
use super::{FilterArgs, WhichArgs, progress};
use crate::cli::table::{Table, cell, printable};
use crate::cli::{Exit, Failure, StateArgs, Ui};
use crate::vsphere::Client;
use crate::vsphere::machine::{self, Snapshot};
use crate::vsphere::snapshot::{self, Quiesce};

/// Tasks with snapshots.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// List the snapshots of a machine, or those that hyper2kvm left on any
    List {
        #[command(flatten)]
        which: MaybeWhichArgs,
        #[command(flatten)]
        orphans: OrphanArgs,
    },
    /// Make a snapshot, without memory
    Create {
        #[command(flatten)]
        which: WhichArgs,
        /// What it is called
        #[arg(value_name = "SNAPSHOT")]
        name: String,
        /// What people read of it
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Whether the guest stands still meanwhile
        #[arg(long, value_enum, default_value = "try")]
        quiesce: Still,
    },
    /// Remove a snapshot; what it holds stays in the machine
    Remove {
        #[command(flatten)]
        which: MaybeWhichArgs,
        /// The snapshot: its name, or the server's own name for it (`snapshot-7`)
        #[arg(value_name = "SNAPSHOT", required_unless_present = "orphans", conflicts_with = "orphans")]
        snapshot: Option<String>,
        #[command(flatten)]
        orphans: OrphanArgs,
        /// With those that came after it
        #[arg(long)]
        children: bool,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which machine is meant, where one is.
#[derive(Debug, clap::Args)]
pub(super) struct MaybeWhichArgs {
    /// The machine: its name, its path (`/DC0/vm/web01`), its UUID or the server's own name for it (`vm-42`)
    #[arg(value_name = "VM", required_unless_present = "orphans", conflicts_with = "orphans")]
    vm: Option<String>,
    #[command(flatten)]
    filters: FilterArgs,
}

impl MaybeWhichArgs {
    fn which(&self) -> WhichArgs {
        WhichArgs { vm: self.vm.clone().unwrap_or_default(), filters: self.filters.clone() }
    }
}

/// Whether a guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Still {
    /// If it can
    Try,
    /// It has to
    Yes,
    /// It need not
    No,
}

/// `snapshot list --json`
#[derive(Serialize)]
struct Document {
    snapshots: Vec<Snapshot>,
}

/// `snapshot create --json`
#[derive(Serialize)]
struct Created<'n> {
    ok: bool,
    vm: &'n str,
    snapshot_name: &'n str,
    snapshot_moref: String,
    quiesced: bool,
}

/// `snapshot remove --json`
#[derive(Serialize)]
struct Removed<'n> {
    vm: &'n str,
    dry_run: bool,
    removed: Vec<&'n str>,
}

pub(super) fn run(task: &Task, state: &StateArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        Task::List { orphans, .. } if orphans.orphans => orphans::list(orphans, state, client, ui),
        Task::List { which, .. } => list(&which.which(), client, ui),
        Task::Create { which, name, description, quiesce } => {
            let quiesce = match quiesce {
                Still::Try => Quiesce::Try,
                Still::Yes => Quiesce::Yes,
                Still::No => Quiesce::No,
            };
            create(which, (name, description), quiesce, client, ui)
        }
        Task::Remove { orphans, dry_run, .. } if orphans.orphans => {
            orphans::remove((orphans, *dry_run), state, client, ui)
        }
        Task::Remove { which, snapshot, children, dry_run, .. } => {
            let snapshot = snapshot.as_deref().unwrap_or_default();
            remove(&which.which(), snapshot, (*children, *dry_run), client, ui)
        }
    }
}

fn list(which: &WhichArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let machine = machine::machine(client, &which.find(client)?.reference())?;
    if ui.json {
        ui.print_json(&Document { snapshots: machine.snapshots })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["SNAPSHOT", "REFERENCE", "MADE", "QUIESCED", "DESCRIPTION"]);
    for (depth, snapshot) in snapshot::flat(&machine.snapshots) {
        let current =
            if machine.current_snapshot.as_ref() == Some(&snapshot.moref) { " (current)" } else { "" };
        table.row([
            cell(format!("{}{}{current}", "  ".repeat(depth), snapshot.name)),
            cell(&snapshot.moref),
            cell(&snapshot.created),
            cell(if snapshot.quiesced { "yes" } else { "no" }),
            cell(&snapshot.description),
        ]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

fn create(
    which: &WhichArgs,
    (name, description): (&str, &str),
    quiesce: Quiesce,
    client: &Client,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let vm = which.find(client)?;
    let mut told = progress(ui, "snapshot");
    let made = snapshot::create(client, &vm.reference(), (name, description), quiesce, &mut told)?;
    if ui.json {
        ui.print_json(&Created {
            ok: true,
            vm: &vm.name,
            snapshot_name: name,
            snapshot_moref: made.moref,
            quiesced: made.quiesced,
        })?;
    } else {
        let how = if made.quiesced { "the guest stood still" } else { "as if its power had failed" };
        ui.print(&format!(
            "{}: snapshot {} made ({}), {how}\n",
            printable(&vm.name),
            printable(name),
            made.moref
        ))?;
    }
    Ok(Exit::Done)
}

fn remove(
    which: &WhichArgs,
    wanted: &str,
    (children, dry_run): (bool, bool),
    client: &Client,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let machine = machine::machine(client, &which.find(client)?.reference())?;
    let meant = snapshot::find(&machine, wanted)?;
    let all = snapshot::flat(std::slice::from_ref(meant));
    let removed: Vec<&str> =
        all.iter().filter(|(depth, _)| children || *depth == 0).map(|(_, one)| one.moref.as_str()).collect();
    if !dry_run {
        snapshot::remove(client, &meant.moref, children, &mut progress(ui, "snapshot"))?;
    }
    if ui.json {
        ui.print_json(&Removed { vm: &machine.name, dry_run, removed })?;
    } else {
        let verb = if dry_run { "would be removed" } else { "removed" };
        ui.print(&format!(
            "{}: snapshot {} ({}) {verb}\n",
            printable(&machine.name),
            printable(&meant.name),
            removed.join(", ")
        ))?;
    }
    Ok(Exit::Done)
}
