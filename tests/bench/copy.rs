//! What a conversion costs beyond the `qemu-img convert` that it drives, on the same file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::figures::{Figures, median};
use crate::support::disks;

const DISK_MIB: u64 = 8192;
const DATA_MIB: u64 = 4096;
const ROUNDS: usize = 5;

/// Alternates the bare command and the whole program, so that both meet the same machine.
pub fn measure(figures: &mut Figures) {
    let scratch = tempfile::Builder::new().prefix("h2k-bench-").tempdir_in(room()).unwrap();
    let source = disks::disk(scratch.path(), "source", "vmdk", DISK_MIB, DATA_MIB, 42);
    // Once each without a clock: files in the page cache, binaries loaded.
    bare(&source, scratch.path());
    whole(&source, scratch.path());
    let mut bare_s = Vec::new();
    let mut whole_s = Vec::new();
    let mut verifying_s = Vec::new();
    for round in 0..ROUNDS {
        let bare_took = bare(&source, scratch.path());
        let (total, verifying) = whole(&source, scratch.path());
        eprintln!(
            "  round {round}: bare {bare_took:.2} s, whole {total:.2} s of which verifying {verifying:.2} s"
        );
        bare_s.push(bare_took);
        whole_s.push(total - verifying);
        verifying_s.push(verifying);
    }
    let (bare, whole) = (median(&bare_s), median(&whole_s));
    figures.at_most(
        "conversion over the bare qemu-img, verification apart",
        (whole / bare - 1.0) * 100.0,
        10.0,
        "%",
    );
    figures.note("bare `qemu-img convert` and fsync, median", format!("{bare:.2} s"));
    figures.note("`hyper2kvm convert` without verification, median", format!("{whole:.2} s"));
    figures
        .note("verification (check, comparison, digest), median", format!("{:.2} s", median(&verifying_s)));
    figures.note("the disk", format!("monolithicSparse VMDK, {DISK_MIB} MiB with {DATA_MIB} MiB of data"));
}

/// Where there is room for some gigabytes: beside the build, not in a small `/tmp`.
fn room() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// The same command that ours drives, alone, with the result made durable, as ours is.
fn bare(source: &Path, scratch: &Path) -> f64 {
    let result = scratch.join("bare.qcow2");
    let begun = Instant::now();
    let done = Command::new("qemu-img")
        .args(["convert", "-m", "8", "-f", "vmdk", "-O", "qcow2", "-o", "compat=1.1,lazy_refcounts=off"])
        .arg(source)
        .arg(&result)
        .status()
        .expect("qemu-img is installed by set-up");
    assert!(done.success());
    File::open(&result).unwrap().sync_all().unwrap();
    let took = begun.elapsed().as_secs_f64();
    fs::remove_file(&result).unwrap();
    took
}

/// Our program over the same file: its wall time, and how much of that was verification.
fn whole(source: &Path, scratch: &Path) -> (f64, f64) {
    let results = scratch.join("whole");
    fs::create_dir(&results).unwrap();
    let begun = Instant::now();
    let done = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["convert", "--no-fix", "--json", "-o"])
        .arg(&results)
        .arg(source)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let took = begun.elapsed().as_secs_f64();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).expect("convert --json prints the report");
    let verifying = report["pipeline"]["stages"]["validate"]["duration"].as_f64().expect("it was verified");
    fs::remove_dir_all(&results).unwrap();
    (took, verifying)
}
