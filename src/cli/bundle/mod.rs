//! `bundle`: a redacted archive for a bug report.
//!
//! What cannot be had (the daemon is away, a log was pruned) is said in the archive and keeps
//! nothing else out. Everything in it passes through [`crate::model::redaction`].

mod tar;

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::client::{Client, job_path};
use super::doctor;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::{ErrorView, JobDetails};
use crate::model::error::{Error, Kind, Result};
use crate::model::progress::Status;
use crate::model::redaction::redact;
use crate::sys::time::now_epoch;
use tar::Archive;

/// The end of a log holds what went wrong.
const LOG_TAIL_BYTES: u64 = 1024 * 1024;

/// Arguments of `bundle`.
#[derive(Debug, clap::Args)]
pub(super) struct BundleArgs {
    /// Jobs whose logs and reports go in: number, BATCH/VM, or unique VM name
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// Where the archive goes [default: hyper2kvm-bundle-TIME.tar here]; never overwrites
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

/// `--json`
#[derive(Serialize)]
struct BundleDocument {
    bundle: PathBuf,
    files: Vec<String>,
}

/// Collects and writes it.
pub(super) fn run(args: &BundleArgs, ui: &Ui) -> std::result::Result<Exit, Failure> {
    let mut archive = Archive::new(now_epoch() as u64);
    about_this_machine(args, &mut archive)?;
    match Client::new(&args.state) {
        Ok(client) => about_the_service(&client, args, &mut archive),
        Err(failure) => note(&mut archive, "status.error.json", &failure),
    }
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("hyper2kvm-bundle-{}.tar", now_epoch() as u64)));
    let files = archive.names().to_vec();
    write_new(&path, &archive.finish())?;
    if ui.json {
        ui.print_json(&BundleDocument { bundle: path, files })?;
    } else {
        ui.print(&format!("{}\n", path.display()))?;
        ui.note("secrets are taken out as far as they can be recognised: look through it before you send it");
    }
    Ok(Exit::Done)
}

fn about_this_machine(args: &BundleArgs, archive: &mut Archive) -> Result<()> {
    let versions = serde_json::json!({
        "hyper2kvm": env!("CARGO_PKG_VERSION"),
        "features": {"libvirt": cfg!(feature = "libvirt"), "guestfs": cfg!(feature = "guestfs")},
        "kernel": fs::read_to_string("/proc/version").unwrap_or_default().trim_end(),
        "system": fs::read_to_string("/etc/os-release").unwrap_or_default(),
    });
    put_json(archive, "versions.json", &versions);
    let source = args.state.source();
    for (index, path) in source.files().unwrap_or_default().iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(path).unwrap_or_else(|error| format!("# cannot be read: {error}\n"));
        put(archive, &format!("configuration/{index}-{name}"), &text);
    }
    let settings = match source.load() {
        Ok(settings) => settings,
        Err(error) => {
            put_json(archive, "configuration/error.json", &ErrorView::from(&error));
            source.defaults()?
        }
    };
    put_json(archive, "settings.json", &settings);
    put_json(archive, "doctor.json", &doctor::examine(&settings));
    Ok(())
}

fn about_the_service(client: &Client, args: &BundleArgs, archive: &mut Archive) {
    match client.get::<Status>("/v1/status") {
        Ok(status) => put_json(archive, "status.json", &status),
        Err(failure) => return note(archive, "status.error.json", &failure),
    }
    for (index, job) in args.jobs.iter().enumerate() {
        let place = format!("jobs/{index}");
        match client.get::<JobDetails>(&job_path(job, "")) {
            Ok(details) => about_job(&place, &details, archive),
            Err(failure) => note(archive, &format!("{place}/error.json"), &failure),
        }
    }
}

fn about_job(place: &str, details: &JobDetails, archive: &mut Archive) {
    put_json(archive, &format!("{place}/job.json"), details);
    if let Some(log) = &details.log {
        let text = tail(Path::new(log)).unwrap_or_else(|error| format!("cannot be read: {error}\n"));
        put(archive, &format!("{place}/log.txt"), &text);
    }
    let report = Path::new(&details.output_directory).join("report.json");
    if let Ok(text) = fs::read_to_string(report) {
        put(archive, &format!("{place}/report.json"), &text);
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn note(archive: &mut Archive, name: &str, failure: &Failure) {
    if let Some(error) = &failure.error {
        put_json(archive, name, &ErrorView::from(error));
    }
}

fn put_json(archive: &mut Archive, name: &str, value: &impl Serialize) {
    let text =
        serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("cannot be written: {error}"));
    put(archive, name, &format!("{text}\n"));
}

fn put(archive: &mut Archive, name: &str, text: &str) {
    archive.add(name, redact(text).as_bytes());
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| {
            Error::io(Kind::Output, "write", path, &error).advice("name another file with --output")
        })
}
