//! `libvirt pools`, `libvirt volumes` and what is done with one of them. What is not here: a file that becomes a volume (`import.rs`).

use std::path::PathBuf;

use serde::Serialize;

use super::{Asked, import};
use crate::cli::table::{Table, cell, printable};
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::link::{Access, Link};
use crate::libvirt::pools::{self, Pool};
use crate::libvirt::volumes::{self, Volume};
use crate::model::error::Result;
use crate::model::units::human_size;

/// Tasks with pools and volumes.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// List the storage pools, active or not
    Pools,
    /// Define, start, refresh or forget a storage pool
    #[command(subcommand)]
    Pool(PoolTask),
    /// List the volumes in a storage pool
    Volumes {
        /// The pool
        pool: String,
    },
    /// Delete a volume
    #[command(subcommand)]
    Volume(VolumeTask),
    /// Make a volume of a disk's file: renamed or sharing its blocks where that can be, else uploaded
    Import(import::ImportArgs),
}

/// Tasks with one pool.
#[derive(Debug, clap::Subcommand)]
pub(super) enum PoolTask {
    /// Define a pool in a directory, make that if it is missing, start the pool now and with libvirt
    Define {
        /// Its name
        name: String,
        /// Its directory, by its whole path
        path: PathBuf,
    },
    /// Start a pool
    Start {
        /// The pool
        name: String,
    },
    /// Have libvirt look again which volumes lie in a pool
    Refresh {
        /// The pool
        name: String,
    },
    /// Stop a pool and forget it; what lies in it stays
    Undefine {
        /// The pool
        name: String,
    },
}

/// Tasks with one volume.
#[derive(Debug, clap::Subcommand)]
pub(super) enum VolumeTask {
    /// Delete a volume with all that it holds, unless something uses it
    Delete {
        /// The pool that it lies in
        pool: String,
        /// Its name
        name: String,
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
    },
}

/// `pools --json`
#[derive(Serialize)]
struct PoolsDocument {
    pools: Vec<Pool>,
}

/// `volumes --json`
#[derive(Serialize)]
struct VolumesDocument {
    volumes: Vec<Volume>,
}

/// `pool undefine --json`
#[derive(Serialize)]
struct UndefinedDocument {
    undefined: String,
}

/// `volume delete --json`
#[derive(Serialize)]
struct DeletedDocument {
    deleted: bool,
    volume: Volume,
}

pub(super) fn run(task: &Task, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        Task::Pools => list_pools(asked, ui),
        Task::Pool(task) => on_pool(task, asked, ui),
        Task::Volumes { pool } => list_volumes(pool, asked, ui),
        Task::Volume(VolumeTask::Delete { pool, name, dry_run }) => delete(pool, name, *dry_run, asked, ui),
        Task::Import(args) => import::run(args, asked, ui),
    }
}

fn list_pools(asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let pools = asked.ask(Access::Reads, pools::list)?;
    if ui.json {
        ui.print_json(&PoolsDocument { pools })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["NAME", "KIND", "STATE", "AUTOSTART", "SIZE", "FREE", "PATH"]);
    for pool in &pools {
        let size = |bytes: u64| if pool.active { human_size(bytes) } else { "-".to_owned() };
        table.row([
            cell(&pool.name),
            cell(&pool.kind),
            cell(state(pool)),
            cell(if pool.autostart { "yes" } else { "no" }),
            cell(size(pool.capacity)),
            cell(size(pool.available)),
            cell(pool.path.as_deref().map_or("-".into(), |path| path.to_string_lossy())),
        ]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

fn state(pool: &Pool) -> &'static str {
    if pool.active { "active" } else { "inactive" }
}

fn on_pool(task: &PoolTask, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let changed = |work: fn(&Link, &str) -> Result<Pool>, name: &str| {
        let name = name.to_owned();
        asked.ask(Access::Changes, move |link| work(link, &name))
    };
    let pool = match task {
        PoolTask::Define { name, path } => {
            let (name, path) = (name.clone(), path.clone());
            asked.ask(Access::Changes, move |link| pools::define(link, &name, &path, true))?
        }
        PoolTask::Start { name } => changed(pools::start, name)?,
        PoolTask::Refresh { name } => changed(pools::refresh, name)?,
        PoolTask::Undefine { name } => return undefine(name, asked, ui),
    };
    if ui.json {
        ui.print_json(&pool)?;
        return Ok(Exit::Done);
    }
    let free = human_size(pool.available);
    ui.print(&format!("{}: {}, {free} free\n", printable(&pool.name), state(&pool)))?;
    Ok(Exit::Done)
}

fn undefine(name: &str, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let undefined = name.to_owned();
    asked.ask(Access::Changes, move |link| pools::undefine(link, &undefined))?;
    if ui.json {
        ui.print_json(&UndefinedDocument { undefined: name.to_owned() })?;
    } else {
        ui.print(&format!("{}: forgotten; what lies in it is still there\n", printable(name)))?;
    }
    Ok(Exit::Done)
}

fn list_volumes(pool: &str, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let pool = pool.to_owned();
    let volumes = asked.ask(Access::Reads, move |link| volumes::list(link, &pool))?;
    if ui.json {
        ui.print_json(&VolumesDocument { volumes })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["NAME", "FORMAT", "SIZE", "OCCUPIES", "PATH"]);
    for volume in &volumes {
        table.row([
            cell(&volume.name),
            cell(volume.format.as_deref().unwrap_or("-")),
            cell(human_size(volume.capacity)),
            cell(human_size(volume.allocation)),
            cell(volume.path.to_string_lossy()),
        ]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

fn delete(pool: &str, name: &str, dry_run: bool, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let (in_pool, named) = (pool.to_owned(), name.to_owned());
    let volume = asked.ask(Access::Changes, move |link| {
        let volume = volumes::rehearse_removal(link, &in_pool, &named)?;
        if !dry_run {
            volumes::remove(link, &in_pool, &named)?;
        }
        Ok(volume)
    })?;
    if ui.json {
        ui.print_json(&DeletedDocument { deleted: !dry_run, volume })?;
        return Ok(Exit::Done);
    }
    let done = if dry_run { "would be deleted" } else { "deleted" };
    let (pool, name) = (printable(pool), printable(name));
    let freed = human_size(volume.allocation);
    ui.print(&format!("{pool}/{name}: {done} ({freed}, {})\n", printable(&volume.path.to_string_lossy())))?;
    Ok(Exit::Done)
}
