//! `vsphere …`, and `esxi …`: the machines of a vCenter or an ESXi host, looked at and prepared.
//!
//! One file per group of tasks; both commands are the same, for a host alone speaks the same protocol. What is not here: what any of them does
//! ([`crate::vsphere`]).

mod access;
mod check;
mod datastores;
mod export;
mod list;
mod orphans;
mod show;
mod snapshots;
mod tracking;

use super::{Exit, Failure, StateArgs, Ui};
use crate::model::error::Result;
use crate::vsphere::inventory::{Filters, VmSummary, Wanted, find};
use crate::vsphere::{Client, inventory};
use access::AccessArgs;

/// Arguments of `vsphere` and `esxi`.
#[derive(Debug, clap::Args)]
pub(super) struct VsphereArgs {
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(subcommand)]
    task: Task,
}

/// All groups, as one row of tasks.
#[derive(Debug, clap::Subcommand)]
enum Task {
    /// List the machines
    List(list::ListArgs),
    /// Show the machines in their folders
    Tree(list::ListArgs),
    /// Show all that is known of a machine
    Show(WhichArgs),
    /// List the disks of a machine, with what lies below them
    Disks(WhichArgs),
    /// Make, list or remove snapshots of a machine
    #[command(subcommand)]
    Snapshot(snapshots::Task),
    /// Have changes of a machine's disks tracked, and ask for them
    #[command(subcommand)]
    Cbt(tracking::Task),
    /// List what lies in a directory of a datastore
    DatastoreLs(datastores::LsArgs),
    /// Save files and directories of a datastore here
    Download(datastores::DownloadArgs),
    /// Export a machine that is off, with an envelope that describes it, to a directory or an archive
    Export(export::ExportArgs),
    /// Say which privileges the account lacks
    Check(check::CheckArgs),
}

/// Which machine is meant.
#[derive(Debug, clap::Args)]
struct WhichArgs {
    /// The machine: its name, its path (`/DC0/vm/web01`), its UUID or the server's own name for it (`vm-42`)
    #[arg(value_name = "VM")]
    vm: String,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Where a machine has to be.
#[derive(Debug, Clone, Default, clap::Args)]
struct FilterArgs {
    /// Only in this datacenter
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    /// Only below this folder
    #[arg(long, value_name = "NAME")]
    folder: Option<String>,
    /// Only with its files on this datastore
    #[arg(long, value_name = "NAME")]
    datastore: Option<String>,
}

impl FilterArgs {
    fn filters(&self) -> Filters {
        Filters {
            datacenter: self.datacenter.clone(),
            folder: self.folder.clone(),
            datastore: self.datastore.clone(),
        }
    }
}

impl WhichArgs {
    fn find(&self, client: &Client) -> Result<VmSummary> {
        find(client, &Wanted::Any(self.vm.clone()), &self.filters.filters())
    }
}

/// Does it.
pub(super) fn run(args: &VsphereArgs, ui: &Ui) -> Result<Exit, Failure> {
    let settings = args.state.settings_or_defaults()?;
    let client = args.access.connect(&settings)?;
    match &args.task {
        Task::List(args) => list::list(args, &client, ui),
        Task::Tree(args) => list::tree(args, &client, ui),
        Task::Show(args) => show::show(args, &client, ui),
        Task::Disks(args) => show::disks(args, &client, ui),
        Task::Snapshot(task) => snapshots::run(task, &args.state, &client, ui),
        Task::Cbt(task) => tracking::run(task, &client, ui),
        Task::DatastoreLs(args) => datastores::ls(args, &client, ui),
        Task::Download(args) => datastores::save(args, &client, ui),
        Task::Export(args) => export::run(args, &client, ui),
        Task::Check(args) => check::run(args, &client, ui),
    }
}

/// What is told of how far a task of the server's is.
fn progress<'a>(ui: &'a Ui, what: &'a str) -> impl FnMut(u8) + 'a {
    let mut before = None;
    move |percent| {
        if ui.verbose > 0 && before != Some(percent) {
            ui.note(&format!("{what}: {percent} %"));
        }
        before = Some(percent);
    }
}

/// A size in the words of people, or nothing.
fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), crate::model::units::human_size)
}

/// Whether a machine runs, and whether the server can do anything with it.
fn power(summary: &inventory::VmSummary) -> String {
    match summary.connection.as_deref() {
        Some("connected") | None => summary.power.name().to_owned(),
        Some(other) => format!("{} ({other})", summary.power.name()),
    }
}
