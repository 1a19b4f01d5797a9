//! `fix DISK…`: the guest inside the disks of one machine is repaired, on a copy or in place; or only shown how.
//!
//! What is not here: the repairs (see `guest::linux`), and how a copy is made (see [`super::convert`]).

use std::path::PathBuf;

use serde::Serialize;

use super::convert::{self, MachineDisks};
use super::table::printable;
use super::{Exit, Failure, Ui, inspect, interrupt};
use crate::guest::facts::{FixOptions, WantedNic};
use crate::model::error::{Error, Result};
use crate::model::guest::GuestIdentity;
use crate::model::manifest::FixEngine;
use crate::model::manifest::values::Mac;
use crate::model::report::FixReport;
use crate::pipeline::{DiskProcessor, Rehearsal};

/// Arguments of `fix`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["dry_run", "output", "in_place"])))]
pub(super) struct FixArgs {
    /// The disks of one machine, in the order in which it has them; they are written to only with --in-place
    #[arg(value_name = "DISK", required = true)]
    disks: Vec<PathBuf>,
    /// Change nothing: print how each file would be changed
    #[arg(long)]
    dry_run: bool,
    /// Where the repaired copy goes
    #[arg(short, long, value_name = "DIR", conflicts_with = "dry_run")]
    output: Option<PathBuf>,
    /// Repair the disks themselves (raw or qcow2, of a machine that is off and not defined). An interrupted repair is finished by
    /// the same command
    #[arg(long, conflicts_with_all = ["dry_run", "output"])]
    in_place: bool,
    /// Go on from what an interrupted repair left in the directory
    #[arg(long, conflicts_with_all = ["dry_run", "in_place"])]
    resume: bool,
    /// Who repairs: this program, an installed virt-v2v, or virt-v2v only for what this program cannot
    #[arg(long, value_name = "ENGINE", default_value = "native", value_parser = ["native", "virt-v2v", "auto"])]
    engine: String,
    /// A file with the passphrase of an encrypted volume (LUKS); may be given several times
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,
    /// The MAC address of a network card that the machine will have, in order; names of cards stay with them
    #[arg(long = "mac", value_name = "MAC", value_parser = mac)]
    macs: Vec<Mac>,
}

/// `{"guest": …, "fixes": […], "diffs": […], "warnings": […]}`
#[derive(Debug, Serialize)]
struct Rehearsed<'a> {
    guest: &'a GuestIdentity,
    fixes: &'a [FixReport],
    diffs: Vec<FileDiff<'a>>,
    warnings: &'a [String],
}

#[derive(Debug, Serialize)]
struct FileDiff<'a> {
    path: &'a str,
    diff: &'a str,
}

/// Repairs a copy, or rehearses it.
pub(super) fn run(args: &FixArgs, ui: &Ui) -> Result<Exit, Failure> {
    if let Some(output) = &args.output {
        let machine = MachineDisks {
            disks: &args.disks,
            engine: &args.engine,
            key_files: &args.key_file,
            macs: &args.macs,
        };
        return convert::repaired_copy(&machine, output, args.resume, ui);
    }
    let keys = inspect::keys(&args.key_file)?;
    let processor = DiskProcessor::new()?;
    interrupt::ends(&processor.control());
    let nic = |mac: &Mac| WantedNic { mac: Some(mac.as_str().to_owned()), ..WantedNic::default() };
    let options = FixOptions {
        engine: engine(&args.engine)?,
        nics: args.macs.iter().map(nic).collect(),
        ..FixOptions::default()
    };
    let begun = |what: &str| {
        if ui.verbose > 0 {
            ui.note(what);
        }
    };
    let found = if args.in_place {
        processor.repair_in_place(&args.disks, keys, options, begun)?
    } else {
        let disks = args.disks.iter().map(|path| processor.inspect(path)).collect::<Result<Vec<_>>>()?;
        processor.rehearse(&disks, keys, options, begun)?
    };
    if ui.json {
        ui.print_json(&Rehearsed {
            guest: &found.identity,
            fixes: &found.fixes,
            diffs: found.diffs.iter().map(|(path, diff)| FileDiff { path, diff }).collect(),
            warnings: &found.warnings,
        })?;
    } else {
        for warning in &found.warnings {
            ui.note(&printable(warning));
        }
        ui.print(&if args.in_place { done(&found) } else { shown(&found) })?;
    }
    Ok(Exit::Done)
}

/// What was changed in the disks, a line each.
fn done(found: &Rehearsal) -> String {
    if found.fixes.is_empty() {
        return "nothing had to be changed\n".to_owned();
    }
    let line = |fix: &FixReport| {
        format!("{}: {} {}: {}\n", fix.name, printable(&fix.path), fix.action, printable(&fix.detail))
    };
    found.fixes.iter().map(line).collect()
}

/// Diffs as they are, line by line; a guest's own control characters do not reach the terminal.
fn shown(found: &Rehearsal) -> String {
    if found.diffs.is_empty() {
        return "nothing would be changed\n".to_owned();
    }
    let mut text = String::new();
    for line in found.diffs.iter().flat_map(|(_, diff)| diff.lines()) {
        let columns: Vec<String> = line.split('\t').map(printable).collect();
        text.push_str(&columns.join("\t"));
        text.push('\n');
    }
    text
}

/// As a manifest says it.
fn engine(name: &str) -> Result<FixEngine> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|error| {
        Error::internal(format!("an engine of the command line is not a manifest's: {error}"))
    })
}

fn mac(text: &str) -> Result<Mac, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| error.to_string())
}
