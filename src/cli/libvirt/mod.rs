//! `libvirt …`: the machines, pools and networks of a libvirt, looked at and worked on by hand.
//!
//! One file per group of tasks. What is not here: what any of them does ([`crate::libvirt`]), and the stage that hands results over.

mod addresses;
mod domains;
mod networks;

use std::sync::mpsc;
use std::time::Duration;

use super::{Exit, Failure, Ui};
use crate::libvirt::link::{Access, Link};
use crate::model::error::{Error, Kind, Result};

/// What has not answered by then hangs.
const WITHIN: Duration = Duration::from_secs(30);

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
    Networks(networks::Task),
    #[command(flatten)]
    Addresses(addresses::Task),
}

/// Does it.
pub(super) fn run(args: &LibvirtArgs, ui: &Ui) -> Result<Exit, Failure> {
    let asked = Asked { uri: args.uri.clone().unwrap_or_else(|| crate::libvirt::SYSTEM.0.to_owned()) };
    match &args.task {
        Task::Domains(task) => domains::run(task, &asked, ui),
        Task::Networks(task) => networks::run(task, &asked, ui),
        Task::Addresses(task) => addresses::run(task, &asked, ui),
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

    /// The same for what may take longer.
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
