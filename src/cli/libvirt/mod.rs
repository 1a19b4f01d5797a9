//! `libvirt …`: the machines, pools and networks of a libvirt, looked at and worked on by hand.
//!
//! One file per group of tasks. What is not here: what any of them does ([`crate::libvirt`]), and the stage that hands results over.

mod addresses;
mod devices;
mod domains;
mod events;
mod import;
mod networks;
mod snapshots;
mod storage;

use std::time::Duration;

use super::{Exit, Failure, StateArgs, Ui};
use crate::libvirt::connections::{Connections, Limits};
use crate::libvirt::link::{Access, Link};
use crate::model::error::Result;
use crate::model::units::parse_duration_s;

/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Arguments of `libvirt`.
#[derive(Debug, clap::Args)]
pub(super) struct LibvirtArgs {
    /// Which libvirt [default: `libvirt.uri`]
    #[arg(long, value_name = "URI", global = true)]
    uri: Option<String>,
    #[command(flatten)]
    state: StateArgs,
    #[command(subcommand)]
    task: Task,
}

/// All groups, as one row of tasks.
#[derive(Debug, clap::Subcommand)]
enum Task {
    #[command(flatten)]
    Domains(domains::Task),
    #[command(flatten)]
    Storage(storage::Task),
    #[command(flatten)]
    Events(events::Task),
    #[command(flatten)]
    Devices(devices::Task),
    /// Make, list, go back to or delete snapshots of a machine
    Snapshot(snapshots::SnapshotArgs),
    #[command(flatten)]
    Networks(networks::Task),
    #[command(flatten)]
    Addresses(addresses::Task),
}

/// Does it.
pub(super) fn run(args: &LibvirtArgs, ui: &Ui) -> Result<Exit, Failure> {
    let settings = args.state.settings_or_defaults()?.libvirt;
    let asked = Asked {
        uri: args.uri.clone().unwrap_or(settings.uri),
        within: Duration::from_secs_f64(settings.timeout_s),
        connections: Connections::new(Limits::without_retries()),
    };
    match &args.task {
        Task::Domains(task) => domains::run(task, &asked, ui),
        Task::Storage(task) => storage::run(task, &asked, ui),
        Task::Events(task) => events::run(task, &asked, ui),
        Task::Devices(task) => devices::run(task, &asked, ui),
        Task::Snapshot(args) => snapshots::run(args, &asked, ui),
        Task::Networks(task) => networks::run(task, &asked, ui),
        Task::Addresses(task) => addresses::run(task, &asked, ui),
    }
}

/// The libvirt that is asked.
#[derive(Debug)]
struct Asked {
    uri: String,
    /// What has not answered by then hangs.
    within: Duration,
    connections: Connections,
}

impl Asked {
    /// Does this with a connection, and waits no longer than libvirt may take.
    fn ask<T: Send + 'static>(
        &self,
        access: Access,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask_within(self.within, access, work)
    }

    /// The same for what may take so much longer.
    fn ask_longer<T: Send + 'static>(
        &self,
        by: Duration,
        access: Access,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask_within(self.within + by, access, work)
    }

    /// The same for what may take as long as this.
    fn ask_within<T: Send + 'static>(
        &self,
        within: Duration,
        access: Access,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.connections.with(&self.uri, access, within, work)
    }
}

/// How long something may take, as people write it.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    match parse_duration_s(text).map(Duration::try_from_secs_f64) {
        Ok(Ok(duration)) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("that is too long".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
