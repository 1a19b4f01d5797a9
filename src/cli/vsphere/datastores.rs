//! `vsphere datastore-ls` and `download`: what lies on a datastore, and files of it saved here.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::size;
use crate::cli::table::{Table, cell, printable};
use crate::cli::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind, Result};
use crate::model::units::human_size;
use crate::vsphere::Client;
use crate::vsphere::folder::browse::{Datastore, Entry};
use crate::vsphere::folder::download::{Downloaded, EXCLUDED, Order, download};

/// How often a person is told how far a file is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Arguments of `vsphere datastore-ls`.
#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// The datastore, or a directory on it: `[ds1] web`
    #[arg(value_name = "DIRECTORY")]
    directory: String,
    /// Only in this datacenter
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
}

/// Arguments of `vsphere download`.
#[derive(Debug, clap::Args)]
pub(super) struct DownloadArgs {
    /// Files and directories, with `*` and `?` in any part: `[ds1] web/*.vmdk`
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Below this directory; a file that is there is never replaced, one that was begun is gone on with
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Leave out names like this (may be given several times) [default: what only a running machine has]
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Only in this datacenter
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    /// How many connections to use at most
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    connections: u16,
    /// Only say what would be saved
    #[arg(long)]
    dry_run: bool,
}

/// `datastore-ls --json`
#[derive(Serialize)]
struct Listed {
    entries: Vec<Entry>,
}

/// `download --json`
#[derive(Serialize)]
struct Saved {
    files: Vec<Downloaded>,
}

pub(super) fn ls(args: &LsArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let (datastore, directory) = place(&args.directory)?;
    let store = Datastore::find(client, datastore, args.datacenter.as_deref())?;
    let mut entries = store.list(client, directory)?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if ui.json {
        ui.print_json(&Listed { entries })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["NAME", "SIZE", "MODIFIED"]);
    for entry in &entries {
        let name = if entry.directory { format!("{}/", entry.name) } else { entry.name.clone() };
        let bytes = entry.bytes.filter(|_| !entry.directory);
        table.row([cell(name), cell(size(bytes)), cell(entry.modified.as_deref().unwrap_or("-"))]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

/// The datastore alone may be named without its brackets.
fn place(text: &str) -> Result<(&str, &str)> {
    match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(name, path)| (name, path.trim())).ok_or_else(|| {
            Error::new(Kind::Manifest, format!("`{text}` names no datastore"))
                .advice("write it as vSphere does: `[datastore] directory`")
        }),
        None => Ok((text, "")),
    }
}

pub(super) fn save(args: &DownloadArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let default = EXCLUDED.map(str::to_owned);
    let order = Order {
        what: &args.pattern,
        datacenter: args.datacenter.as_deref(),
        excluded: if args.exclude.is_empty() { &default } else { &args.exclude },
        into: &args.output,
        connections: usize::from(args.connections),
        dry_run: args.dry_run,
    };
    let last = Mutex::new(Instant::now());
    let told = |source: &str, bytes: u64, of: u64| {
        let Ok(mut last) = last.try_lock() else { return };
        if last.elapsed() >= TELL_EVERY {
            *last = Instant::now();
            ui.note(&format!("{}: {} of {}", printable(source), human_size(bytes), human_size(of)));
        }
    };
    let files = download(client, &order, &told)?;
    if ui.json {
        ui.print_json(&Saved { files })?;
        return Ok(Exit::Done);
    }
    for file in &files {
        let digest = file.saved.as_ref().map_or("-", |saved| saved.sha256.as_str());
        ui.print(&format!("{}  {}  {}\n", digest, human_size(file.bytes), printable(&file.file)))?;
    }
    Ok(Exit::Done)
}
