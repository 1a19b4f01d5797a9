//! `libvirt …`: the machines, pools and networks of a libvirt, looked at and worked on by hand.
//!
//! One file per group of tasks. What is not here: what any of them does ([`crate::libvirt`]), and the stage that hands results over.

mod devices;
mod domains;
mod snapshots;

use std::sync::mpsc;
use std::time::Duration;

use super::{Exit, Failure, Ui};
use crate::libvirt::link::{Access, Link};
use crate::model::error::{Error, Kind, Result};
use crate::model::units::parse_duration_s;

/// What has not answered by then hangs.
const WITHIN: Duration = Duration::from_secs(30);
/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Arguments of `libvirt`.
#[derive(Debug, clap::Args)]
pub(super) struct LibvirtArgs {
    /// Which libvirt [default: `libvirt.uri`]
    #[arg(long, value_name = "URI", global = true)]
    uri: Option<String>,
    #[command(subcommand)]
    task: Task,
}

/// All groups, as one row of tasks.
#[derive(Debug, clap::Subcommand)]
enum Task {
    #[command(flatten)]
    Domains(domains::Task),
    #[command(flatten)]
    Devices(devices::Task),
    /// Make, list, go back to or delete snapshots of a machine
    Snapshot(snapshots::SnapshotArgs),
}

/// Does it.
pub(super) fn run(args: &LibvirtArgs, ui: &Ui) -> Result<Exit, Failure> {
    let asked = Asked { uri: args.uri.clone().unwrap_or_else(|| crate::libvirt::SYSTEM.0.to_owned()) };
    match &args.task {
        Task::Domains(task) => domains::run(task, &asked, ui),
        Task::Devices(task) => devices::run(task, &asked, ui),
        Task::Snapshot(args) => snapshots::run(args, &asked, ui),
    }
}

/// The libvirt that is asked.
#[derive(Debug)]
struct Asked {
    uri: String,
}

impl Asked {
    /// Does this with a connection, and waits no longer than libvirt may take: a thread that hangs ends with the program.
    fn ask<T: Send + 'static>(
        &self,
        access: Access,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask_within(WITHIN, access, work)
    }

    /// The same for what may take so much longer.
    fn ask_longer<T: Send + 'static>(
        &self,
        by: Duration,
        access: Access,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask_within(WITHIN + by, access, work)
    }

    /// The same for what may take as long as this.
    fn ask_within<T: Send + 'static>(
        &self,
        within: Duration,
        access: Access,
        work: impl FnOnce(&Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let uri = self.uri.clone();
        let (answer, answered) = mpsc::channel();
        std::thread::spawn(move || answer.send(Link::open(&uri, access).and_then(|link| work(&link))));
        answered.recv_timeout(within).unwrap_or_else(|_| {
            let limit = within.as_secs();
            Err(Error::new(Kind::Libvirt, format!("{} did not answer for {limit} s", self.uri))
                .advice("see what keeps libvirtd (or virtqemud) busy; restart it if it hangs")
                .transient())
        })
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
