//! `libvirt attach-disk`, `detach-disk`, `attach-nic`, `detach-nic` and `block-job`: the devices of one machine.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{Asked, duration};
use crate::cli::table::printable;
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::blocks::{self, End, Job, Progress};
use crate::libvirt::domains::{self, Changed, NewDisk, NewNic, NicSource, Source};
use crate::libvirt::link::{Access, Link};
use crate::model::error::Result;
use crate::model::units::human_size;

/// Tasks with the devices of a machine.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// Give a machine a disk
    AttachDisk(AttachDiskArgs),
    /// Take a disk away from a machine; its file stays
    DetachDisk {
        /// The machine
        name: String,
        /// What the disk is called in there, as `vdb`
        target: String,
    },
    /// Give a machine a network card
    AttachNic(AttachNicArgs),
    /// Take a network card away from a machine
    DetachNic {
        /// The machine
        name: String,
        /// The address of the card
        mac: String,
    },
    /// Show, begin or end a job of a running machine's disk
    BlockJob(BlockJobArgs),
}

/// Arguments of `libvirt attach-disk`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["file", "volume"])))]
pub(super) struct AttachDiskArgs {
    /// The machine
    name: String,
    /// What the disk is to be called in there, as `vdb`
    target: String,
    /// The file or device that holds it
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The volume that holds it, of the pool `--pool`
    #[arg(long, value_name = "VOLUME", requires = "pool")]
    volume: Option<String>,
    /// The pool of the volume
    #[arg(long, value_name = "POOL", requires = "volume")]
    pool: Option<String>,
    /// How it is read; nobody guesses that
    #[arg(long, value_name = "FORMAT", value_parser = ["qcow2", "raw", "vmdk", "vdi", "vpc", "vhdx"])]
    format: String,
    /// What it hangs on [default: by its name: virtio, scsi, ide]
    #[arg(long, value_parser = ["virtio", "scsi", "sata", "ide", "usb"])]
    bus: Option<String>,
    /// The machine may only read it
    #[arg(long)]
    readonly: bool,
}

/// Arguments of `libvirt attach-nic`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["network", "bridge"])))]
pub(super) struct AttachNicArgs {
    /// The machine
    name: String,
    /// Connect it to this network of libvirt's
    #[arg(long)]
    network: Option<String>,
    /// Connect it to this bridge of the host's
    #[arg(long)]
    bridge: Option<String>,
    /// Its address [default: libvirt makes one]
    #[arg(long)]
    mac: Option<String>,
    /// What the guest sees
    #[arg(long, default_value = "virtio")]
    model: String,
    /// Leave its cable out
    #[arg(long)]
    link_down: bool,
}

/// Arguments of `libvirt block-job`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").args(["pull", "commit", "copy", "pivot", "abort"])))]
pub(super) struct BlockJobArgs {
    /// The machine
    name: String,
    /// What the disk is called in there, as `vda`
    disk: String,
    /// Take all that lies below into the file on top
    #[arg(long)]
    pull: bool,
    /// Put the file on top into the one below it
    #[arg(long)]
    commit: bool,
    /// With `--commit`: into this file, which lies further below
    #[arg(long, value_name = "PATH", requires = "commit")]
    base: Option<PathBuf>,
    /// With `--commit`: from this file on, which is not the one on top
    #[arg(long, value_name = "PATH", requires = "commit")]
    top: Option<PathBuf>,
    /// Copy the disk to a new file
    #[arg(long, value_name = "PATH")]
    copy: Option<PathBuf>,
    /// With `--copy`: how that file is written
    #[arg(long, value_parser = ["qcow2", "raw"], default_value = "qcow2")]
    format: String,
    /// Move the machine to what the job has made
    #[arg(long)]
    pivot: bool,
    /// End the job; the machine stays with the files that it has
    #[arg(long)]
    abort: bool,
    /// Wait until it is done or ready, for so long
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["pivot", "abort"])]
    wait: Option<Duration>,
}

/// What is said of a device that came or went.
#[derive(Serialize)]
struct Told<'n> {
    name: &'n str,
    #[serde(flatten)]
    changed: Changed,
}

/// What is said of a job.
#[derive(Serialize)]
struct JobTold<'n> {
    name: &'n str,
    disk: &'n str,
    /// What is at work, if something is.
    progress: Option<Progress>,
    /// How waiting for it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

pub(super) fn run(task: &Task, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        Task::AttachDisk(args) => attach_disk(args, asked, ui),
        Task::DetachDisk { name, target } => {
            let target = target.clone();
            change(asked, ui, name, move |link, name| domains::detach_disk(link, name, &target))
        }
        Task::AttachNic(args) => attach_nic(args, asked, ui),
        Task::DetachNic { name, mac } => {
            let mac = mac.clone();
            change(asked, ui, name, move |link, name| domains::detach_nic(link, name, &mac))
        }
        Task::BlockJob(args) => block_job(args, asked, ui),
    }
}

fn attach_disk(args: &AttachDiskArgs, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let source = match (&args.file, &args.pool, &args.volume) {
        (None, Some(pool), Some(volume)) => Source::Volume { pool: pool.clone(), volume: volume.clone() },
        (file, ..) => Source::Path(file.clone().unwrap_or_default()),
    };
    let new = NewDisk {
        source,
        target: args.target.clone(),
        bus: args.bus.clone(),
        format: args.format.clone(),
        readonly: args.readonly,
    };
    change(asked, ui, &args.name, move |link, name| domains::attach_disk(link, name, &new))
}

fn attach_nic(args: &AttachNicArgs, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let source = match (&args.network, &args.bridge) {
        (None, Some(bridge)) => NicSource::Bridge(bridge.clone()),
        (network, _) => NicSource::Network(network.clone().unwrap_or_default()),
    };
    let new = NewNic { source, mac: args.mac.clone(), model: args.model.clone(), link_up: !args.link_down };
    change(asked, ui, &args.name, move |link, name| domains::attach_nic(link, name, &new))
}

fn change(
    asked: &Asked,
    ui: &Ui,
    name: &str,
    work: impl FnOnce(&Link, &str) -> Result<Changed> + Send + 'static,
) -> Result<Exit, Failure> {
    let wanted = name.to_owned();
    let changed = asked.ask(Access::Changes, move |link| work(link, &wanted))?;
    if ui.json {
        ui.print_json(&Told { name, changed })?;
        return Ok(Exit::Done);
    }
    let reached = match (changed.live, changed.persistent) {
        (true, true) => "changed now and for its next start",
        (true, false) => "changed now",
        (false, _) => "changed for its next start",
    };
    ui.print(&format!("{}: {reached}\n", printable(name)))?;
    if changed.pending {
        ui.note("its guest has not let go of the device yet");
    }
    Ok(Exit::Done)
}

fn block_job(args: &BlockJobArgs, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let (name, disk, wait) = (args.name.clone(), args.disk.clone(), args.wait);
    let (pivot, abort, job) = (args.pivot, args.abort, job(args));
    let is_change = pivot || abort || job.is_some();
    let access = if is_change { Access::Changes } else { Access::Reads };
    let (progress, end) = asked.ask_longer(wait.unwrap_or_default(), access, move |link| {
        if pivot {
            blocks::pivot(link, &name, &disk)?;
        } else if abort {
            blocks::abort(link, &name, &disk)?;
        } else if let Some(job) = job {
            blocks::start(link, &name, &disk, &job, None)?;
        }
        let end = wait.map(|within| blocks::wait(link, &name, &disk, within, &mut |_| {})).transpose()?;
        Ok((blocks::progress(link, &name, &disk)?, end))
    })?;
    if ui.json {
        ui.print_json(&JobTold { name: &args.name, disk: &args.disk, progress, end })?;
        return Ok(Exit::Done);
    }
    let words = match (&progress, end) {
        (Some(at), _) => {
            let ready = if at.is_ready { ", ready to be moved to" } else { "" };
            format!("{}, {} of {}{ready}", at.job, human_size(at.done_bytes), human_size(at.of_bytes))
        }
        (None, Some(End::Done)) => "done".to_owned(),
        (None, _) => "no job".to_owned(),
    };
    ui.print(&format!("{} {}: {words}\n", printable(&args.name), printable(&args.disk)))?;
    Ok(Exit::Done)
}

/// The job that is to be begun, if one is.
fn job(args: &BlockJobArgs) -> Option<Job> {
    if let Some(to) = &args.copy {
        return Some(Job::Copy { to: to.clone(), format: args.format.clone() });
    }
    let commit = Job::Commit { base: args.base.clone(), top: args.top.clone(), remove: false };
    args.commit.then_some(commit).or(args.pull.then_some(Job::Pull))
}
