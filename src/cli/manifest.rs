//! `manifest INPUT`: writes the manifest that a disk, an appliance or a domain stands for, to be read, changed and dropped.
//!
//! Checksums are taken from the appliance where it brings its own, and computed where it does not. What is not here: what a
//! manifest means, and how an appliance is read.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::given::{Given, chosen, document_of_disk, document_of_machine};
use super::table::printable;
use super::{Exit, Failure, StateArgs, Ui, interrupt};
use crate::disk::{Control, verify};
use crate::model::checksum::Algorithm;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::source;

/// Arguments of `manifest`.
#[derive(Debug, clap::Args)]
pub(super) struct ManifestArgs {
    /// A disk, an appliance (OVA, OVF), a VMX, a libvirt domain (its XML, or libvirt://NAME), a VM of a vCenter or ESXi host
    /// (vsphere://CREDENTIAL-OR-HOST/PATH, esxi://CREDENTIAL-OR-HOST/FILE), or a directory of disks
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// Only the machine of this name, of an appliance that has several
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Allow a disk to stand on others (snapshots, checkpoints), which have to lie beside it
    #[arg(long)]
    backing_chain: bool,
    /// Write it there; of several machines, each into a file of its own in this directory
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Compute the checksums of disks that come without one (this is what happens anyway)
    #[arg(long, overrides_with = "no_compute_checksums")]
    compute_checksums: bool,
    /// Leave them out: no disk is read
    #[arg(long)]
    no_compute_checksums: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Writes it.
pub(super) fn run(args: &ManifestArgs, ui: &Ui) -> std::result::Result<Exit, Failure> {
    let mut documents = documents(args, &args.state.settings_or_defaults()?, ui)?;
    if !args.no_compute_checksums {
        let control = Control::new();
        interrupt::ends(&control);
        for (document, _) in &mut documents {
            add_checksums(document, &control, ui)?;
        }
    }
    if ui.json && args.output.is_none() {
        let manifests: Vec<&Value> = documents.iter().map(|(document, _)| document).collect();
        ui.print_json(&json!({ "manifests": manifests }))?;
        return Ok(Exit::Done);
    }
    match (&args.output, documents.as_slice()) {
        (None, [(document, _)]) => ui.print(&yaml(document)?)?,
        (None, several) => {
            let names = several.iter().map(|(document, _)| document["name"].as_str().unwrap_or_default());
            let error = Error::new(
                Kind::Manifest,
                format!("{} has {} machines", args.input.display(), several.len()),
            )
            .allowed(names.collect::<Vec<_>>())
            .advice("name one with `--vm`, or a directory with `-o` for a manifest of each");
            return Err(error.into());
        }
        (Some(path), [(document, filename)]) if !path.is_dir() => write(path, document, filename, ui)?,
        (Some(directory), several) => {
            fs::create_dir_all(directory)
                .map_err(|error| Error::io(Kind::Output, "make", directory, &error).output(directory))?;
            for (document, filename) in several {
                write(&directory.join(filename), document, filename, ui)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Each machine's manifest, and the name of a file for it.
fn documents(args: &ManifestArgs, settings: &Settings, ui: &Ui) -> Result<Vec<(Value, String)>> {
    let machines = match Given::anywhere(&args.input, settings)? {
        Given::Elsewhere(document, filename) => return Ok(vec![(*document, filename)]),
        Given::Manifest => {
            return Err(Error::new(Kind::Manifest, "it is a manifest already, or no disk and no appliance")
                .file(&args.input)
                .advice("name a disk, an appliance, a VMX, a domain or a directory of disks"));
        }
        Given::Disk(format) => {
            let (mut document, _) = document_of_disk(&args.input, format)?;
            // A disk alone becomes a disk alone; who writes a manifest wants the report too.
            document.as_object_mut().map(|document| document.remove("options"));
            if args.backing_chain {
                document["disks"][0]["backing_chain"] = json!(true);
            }
            let name = document["disks"][0]["id"].as_str().unwrap_or("disk").to_owned();
            return Ok(vec![(document, format!("{name}.yaml"))]);
        }
        Given::Machines(machines) => machines,
    };
    let wanted = chosen(machines, args.vm.as_deref(), &args.input)?;
    for warning in wanted.iter().flat_map(|facts| &facts.warnings) {
        ui.note(&printable(warning));
    }
    Ok(wanted.iter().map(document_of_machine).collect())
}

fn add_checksums(document: &mut Value, control: &Control, ui: &Ui) -> Result<()> {
    for disk in document.get_mut("disks").and_then(Value::as_array_mut).into_iter().flatten() {
        if disk.get("checksum").is_some() || disk.get("piece_checksums").is_some() {
            continue;
        }
        let path = PathBuf::from(disk["local_path"].as_str().unwrap_or_default());
        let place = source::stored_place(&path, disk["member"].as_str())?;
        let bar = bar(&place.shown(), ui);
        let digest = verify::digest(&place, Algorithm::Sha256, control, &mut |done| {
            if let Some(bar) = &bar {
                bar.set_position(done);
            }
        });
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        disk["checksum"] = json!(format!("{}:{}", Algorithm::Sha256.name(), digest?));
    }
    Ok(())
}

fn bar(what: &str, ui: &Ui) -> Option<ProgressBar> {
    if !ui.terminal || ui.json || ui.quiet {
        return None;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} checksum of {msg}: {bytes} ({bytes_per_sec})")
    {
        bar.set_style(style);
    }
    bar.set_message(printable(what));
    bar.enable_steady_tick(Duration::from_millis(120));
    Some(bar)
}

fn yaml(document: &Value) -> Result<String> {
    serde_yaml::to_string(document)
        .map_err(|error| Error::internal(format!("a manifest cannot be written as YAML: {error}")))
}

/// Writes a manifest where nothing is yet.
fn write(path: &Path, document: &Value, filename: &str, ui: &Ui) -> Result<()> {
    let is_json = path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"));
    let text = match is_json {
        true => format!("{document:#}\n"),
        false => yaml(document)?,
    };
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::new(Kind::Exists, format!("{} is already there", path.display()))
                .output(path)
                .advice("remove it, or choose another name")
        }
        _ => Error::io(Kind::Output, "write", path, &error).output(path),
    })?;
    let name = document["name"].as_str().unwrap_or(filename);
    ui.note(&printable(&format!("{name}: {}", path.display())));
    Ok(())
}
