//! What a conversion of a disk takes, against `qemu-img convert` on the same file: synced, with the files in the page cache and without.
//!
//! Ours is the whole program, from its start to the published result; only its verification, which the peer does not do, is taken off and
//! told by itself.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::figures::{Figures, median};

const DISK_BYTES: u64 = 2 << 30;
const DATA_BYTES: u64 = 1 << 30;
const ROUNDS: usize = 3;

/// One way from a source to a target, and by how much the peer's time has to exceed ours.
struct Case {
    name: &'static str,
    driver: &'static str,
    options: &'static str,
    to: &'static str,
    goal: f64,
}

const fn case(
    name: &'static str,
    driver: &'static str,
    options: &'static str,
    to: &'static str,
    goal: f64,
) -> Case {
    Case { name, driver, options, to, goal }
}

const CASES: [Case; 6] = [
    case("streamOptimized VMDK", "vmdk", "subformat=streamOptimized", "raw", 3.0),
    case("streamOptimized VMDK", "vmdk", "subformat=streamOptimized", "qcow2", 3.0),
    case("monolithicSparse VMDK", "vmdk", "subformat=monolithicSparse", "qcow2", 1.8),
    case("VHDX", "vhdx", "", "qcow2", 1.3),
    case("VHD", "vpc", "force_size=on", "qcow2", 1.3),
    case("raw", "raw", "", "qcow2", 1.0),
];

/// In turns, so that both meet the same machine.
pub fn measure(figures: &mut Figures) {
    let scratch =
        tempfile::Builder::new().prefix("h2k-bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let flat = scratch.path().join("flat.raw");
    fill(&flat);
    let mut verifying = Vec::new();
    for Case { name, driver, options, to, goal } in CASES {
        let source = image(&flat, driver, options);
        for is_cold in [false, true] {
            let (mut peers, mut whole) = (Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                prepare(&source, is_cold);
                let peer_s = peer(&source, driver, to, scratch.path());
                prepare(&source, is_cold);
                let (total, verifying_s) = ours(&source, to, scratch.path());
                // The first one is without a clock: binaries loaded, caches as they will be.
                if round > 0 {
                    peers.push(peer_s);
                    whole.push(total - verifying_s);
                    verifying.push(verifying_s);
                }
            }
            let (peer, whole) = (median(&peers), median(&whole));
            let cache = if is_cold { "cold" } else { "warm" };
            eprintln!("  {name} → {to}, {cache}: qemu-img {peers:.2?} s, hyper2kvm {whole:.2?} s");
            let what = format!("{name} → {to}, {cache}: qemu-img's {peer:.2} s over ours, {whole:.2} s");
            figures.at_least(&what, peer / whole, goal, "×");
        }
        if source != flat {
            fs::remove_file(&source).unwrap();
        }
    }
    figures.note(
        "verification afterwards (check, comparison, digest), median",
        format!("{:.2} s", median(&verifying)),
    );
    figures.note(
        "the disk",
        format!("{} MiB, of which {} MiB are programs and libraries", DISK_BYTES >> 20, DATA_BYTES >> 20),
    );
}

/// Programs and libraries of this machine, with a hole behind each of some MiB.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut from: Vec<PathBuf> = Vec::new();
    let listed =
        Command::new("find").args(["/usr", "-xdev", "-type", "f", "-size", "+64k"]).output().unwrap();
    from.extend(String::from_utf8_lossy(&listed.stdout).lines().map(PathBuf::from));
    from.sort();
    let (mut at, mut data) = (0, 0);
    let mut bytes = Vec::new();
    for path in from.iter().cycle() {
        if data >= DATA_BYTES {
            break;
        }
        bytes.clear();
        let Ok(content) = File::open(path) else { continue };
        content.take(8 << 20).read_to_end(&mut bytes).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&bytes).unwrap();
        data += bytes.len() as u64;
        // As far as the data is through, so far is the disk.
        at = (data as f64 / DATA_BYTES as f64 * (DISK_BYTES - (16 << 20)) as f64) as u64 >> 16 << 16;
    }
    file.set_len(DISK_BYTES).unwrap();
    file.sync_all().unwrap();
}

fn image(flat: &Path, driver: &str, options: &str) -> PathBuf {
    if driver == "raw" {
        return flat.to_owned();
    }
    let path = flat.with_file_name(format!("source.{driver}"));
    let mut make = Command::new("qemu-img");
    make.args(["convert", "-f", "raw", "-O", driver]);
    if !options.is_empty() {
        make.args(["-o", options]);
    }
    assert!(make.arg(flat).arg(&path).status().expect("qemu-img is installed by set-up").success());
    File::open(&path).unwrap().sync_all().unwrap();
    path
}

/// The source all in the page cache, or not at all.
fn prepare(source: &Path, is_cold: bool) {
    let mut file = File::open(source).unwrap();
    if is_cold {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    } else {
        std::io::copy(&mut file, &mut std::io::sink()).unwrap();
    }
}

fn peer(source: &Path, driver: &str, to: &str, scratch: &Path) -> f64 {
    let result = scratch.join("peer");
    let begun = Instant::now();
    let done = Command::new("qemu-img")
        .args(["convert", "-W", "-m", "16", "-f", driver, "-O", to])
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

/// The wall time of the whole program, and how much of that was verification.
fn ours(source: &Path, to: &str, scratch: &Path) -> (f64, f64) {
    let results = scratch.join("ours");
    fs::create_dir(&results).unwrap();
    let begun = Instant::now();
    let done = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["convert", "--no-fix", "--json", "--to", to, "-o"])
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
