//! `libvirt snapshot …`: the snapshots of one machine.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Asked;
use crate::cli::table::{Table, cell, moment, printable};
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::link::Access;
use crate::libvirt::snapshots::{self, Created, Deleted, Disks, NewSnapshot, Place, Reverted, Snapshot};
use crate::model::error::Result;

/// What a running machine has in memory, or wrote since, takes its time.
const AT_WORK: Duration = Duration::from_secs(25 * 60 * 60);

/// Arguments of `libvirt snapshot`.
#[derive(Debug, clap::Args)]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    task: Task,
}

/// Tasks with snapshots.
#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Make a snapshot
    Create {
        /// The machine
        name: String,
        /// What it is called
        snapshot: String,
        /// What people read of it
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Where it keeps the disks
        #[arg(long, value_enum, default_value = "auto")]
        disks: Where,
        /// Make the files of an external one in here [default: beside each disk]
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// List the snapshots of a machine
    List {
        /// The machine
        name: String,
    },
    /// Go back to a snapshot
    Revert {
        /// The machine
        name: String,
        /// The snapshot
        snapshot: String,
        /// Even if the machine runs: what it holds is lost
        #[arg(long)]
        force: bool,
    },
    /// Take a snapshot away; what was written since stays
    Delete {
        /// The machine
        name: String,
        /// The snapshot
        snapshot: String,
        /// Only forget it, with all files where they are, if it cannot be put together
        #[arg(long)]
        force: bool,
    },
}

/// Where a snapshot keeps the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Where {
    /// In the disks where that can work, else beside them
    Auto,
    /// In the disks themselves
    Internal,
    /// What is written from now on goes into new files
    External,
}

/// `snapshot list --json`
#[derive(Serialize)]
struct Document {
    snapshots: Vec<Snapshot>,
}

pub(super) fn run(args: &SnapshotArgs, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    match &args.task {
        Task::Create { name, snapshot, description, disks, directory } => {
            let disks = match (disks, directory) {
                (Where::Internal, _) => Disks::Internal,
                (Where::Auto, None) => Disks::Auto,
                (Where::External | Where::Auto, directory) => {
                    Disks::External { directory: directory.clone() }
                }
            };
            let new = NewSnapshot { name: snapshot.clone(), description: description.clone(), disks };
            create(asked, ui, name, new)
        }
        Task::List { name } => list(asked, ui, name),
        Task::Revert { name, snapshot, force } => revert(asked, ui, name, snapshot, *force),
        Task::Delete { name, snapshot, force } => delete(asked, ui, name, snapshot, *force),
    }
}

fn create(asked: &Asked, ui: &Ui, name: &str, new: NewSnapshot) -> Result<Exit, Failure> {
    let wanted = name.to_owned();
    let created: Created =
        asked.ask_longer(AT_WORK, Access::Changes, move |link| snapshots::create(link, &wanted, &new))?;
    if ui.json {
        ui.print_json(&created)?;
    } else {
        let made = if created.existed { "was there already" } else { "made" };
        let snapshot = printable(&created.snapshot.name);
        ui.print(&format!("{}: snapshot {snapshot} {made}: {}\n", printable(name), printable(&created.why)))?;
    }
    Ok(Exit::Done)
}

fn list(asked: &Asked, ui: &Ui, name: &str) -> Result<Exit, Failure> {
    let wanted = name.to_owned();
    let snapshots = asked.ask(Access::Reads, move |link| snapshots::list(link, &wanted))?;
    if ui.json {
        ui.print_json(&Document { snapshots })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["SNAPSHOT", "MADE", "STATE", "PLACE", "BEFORE IT", "CURRENT"]);
    for snapshot in &snapshots {
        table.row([
            cell(&snapshot.name),
            cell(moment(snapshot.created_at as f64)),
            cell(&snapshot.state),
            cell(snapshot.place.name()),
            cell(snapshot.parent.as_deref().unwrap_or("-")),
            cell(if snapshot.current { "yes" } else { "" }),
        ]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

fn revert(asked: &Asked, ui: &Ui, name: &str, snapshot: &str, force: bool) -> Result<Exit, Failure> {
    let (wanted, to) = (name.to_owned(), snapshot.to_owned());
    let reverted: Reverted = asked
        .ask_longer(AT_WORK, Access::Changes, move |link| snapshots::revert(link, &wanted, &to, force))?;
    if ui.json {
        ui.print_json(&reverted)?;
        return Ok(Exit::Done);
    }
    let place = if reverted.place == Place::External { ", on new files" } else { "" };
    ui.print(&format!("{}: back at {}{place}\n", printable(name), printable(snapshot)))?;
    for disk in reverted.disks {
        if let Some(left) = disk.left {
            ui.note(&format!("{}: what was written since lies in {}", disk.target, left.display()));
        }
    }
    Ok(Exit::Done)
}

fn delete(asked: &Asked, ui: &Ui, name: &str, snapshot: &str, force: bool) -> Result<Exit, Failure> {
    let (wanted, which) = (name.to_owned(), snapshot.to_owned());
    let deleted: Deleted = asked
        .ask_longer(AT_WORK, Access::Changes, move |link| snapshots::delete(link, &wanted, &which, force))?;
    if ui.json {
        ui.print_json(&deleted)?;
        return Ok(Exit::Done);
    }
    let files = |files: &[PathBuf]| {
        printable(&files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "))
    };
    let words = match &deleted {
        Deleted::Absent => "was not there".to_owned(),
        Deleted::Internal => "deleted".to_owned(),
        Deleted::Merged { files: all } => format!("deleted; the machine goes on with {}", files(all)),
        Deleted::Forgotten { files: all } => format!("forgotten; its files stay: {}", files(all)),
    };
    ui.print(&format!("{}: snapshot {} {words}\n", printable(name), printable(snapshot)))?;
    Ok(Exit::Done)
}
