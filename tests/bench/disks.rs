//! What a conversion of a disk takes, against `qemu-img convert` on the same file: synced, with the files in the page cache and without.
//!
//! Ours is the whole program, from its start to the published result; only its verification, which the peer does not do, is taken off and
//! told by itself.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::figures::{Figures, median};
use crate::support::appliances::{pack, vmware};

const DISK_BYTES: u64 = 2 << 30;
const DATA_BYTES: u64 = 1 << 30;
const ROUNDS: usize = 3;

/// One way from a source to a target, and by how much the peer's time has to exceed ours.
struct Case {
    name: &'static str,
    driver: &'static str,
    options: &'static str,
    /// Whether it lies in an appliance, which the peer has to unpack first.
    in_ova: bool,
    to: &'static str,
    /// How ours packs the result, and how the peer does.
    packed: Option<(&'static str, &'static str)>,
    goal: f64,
}

const fn case(
    name: &'static str,
    driver: &'static str,
    options: &'static str,
    to: &'static str,
    goal: f64,
) -> Case {
    Case { name, driver, options, in_ova: false, to, packed: None, goal }
}

const STREAM: Case = case("streamOptimized VMDK", "vmdk", "subformat=streamOptimized", "qcow2", 3.0);
const RAW: Case = case("raw", "raw", "", "qcow2", 1.0);

const CASES: [Case; 9] = [
    case("streamOptimized VMDK", "vmdk", "subformat=streamOptimized", "raw", 3.0),
    STREAM,
    Case { name: "streamOptimized VMDK in an OVA", in_ova: true, goal: 3.5, ..STREAM },
    case("monolithicSparse VMDK", "vmdk", "subformat=monolithicSparse", "qcow2", 1.8),
    case("VHDX", "vhdx", "", "qcow2", 1.3),
    case("VHD", "vpc", "force_size=on", "qcow2", 1.3),
    RAW,
    Case { name: "raw, packed with zstd by both,", packed: Some(("zstd", "zstd")), ..RAW },
    Case { name: "raw, packed with zstd against zlib,", packed: Some(("zstd", "zlib")), goal: 3.0, ..RAW },
];

/// What a guest would see of the disk that takes no memory worth the name.
const LARGE_BYTES: u64 = 2 << 40;
const MOST_MEMORY_MIB: f64 = 256.0;
/// Proving a result may take so much more than making it.
const MOST_FOR_VERIFICATION: f64 = 1.10;

/// In turns, so that both meet the same machine.
pub fn measure(figures: &mut Figures) {
    let scratch =
        tempfile::Builder::new().prefix("h2k-bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let flat = scratch.path().join("flat.raw");
    fill(&flat);
    for case in &CASES {
        let source = image(&flat, case);
        for is_cold in [false, true] {
            let (mut peers, mut copying, mut verified) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                prepare(&source, is_cold);
                let peer_s = peer(&source, case, scratch.path());
                prepare(&source, is_cold);
                let (total, verifying_s) = ours(&source, case, scratch.path());
                // The first one is without a clock: binaries loaded, caches as they will be.
                if round > 0 {
                    peers.push(peer_s);
                    copying.push(total - verifying_s);
                    verified.push(total / (total - verifying_s));
                }
            }
            let (peer, ours) = (median(&peers), median(&copying));
            let way = format!("{} → {}, {}", case.name, case.to, if is_cold { "cold" } else { "warm" });
            eprintln!("  {way}: qemu-img {peers:.2?} s, hyper2kvm {copying:.2?} s, verified {verified:.2?}");
            let what = format!("{way}: qemu-img's {peer:.2} s over ours, {ours:.2} s");
            figures.at_least(&what, peer / ours, case.goal, "×");
            let what = format!("{way}: with its verification (check, read back, digest) over without");
            figures.at_most(&what, median(&verified), MOST_FOR_VERIFICATION, "×");
        }
        if source != flat {
            fs::remove_file(&source).unwrap();
        }
    }
    figures.note(
        "the disk",
        format!("{} MiB, of which {} MiB are programs and libraries", DISK_BYTES >> 20, DATA_BYTES >> 20),
    );
    let what = "memory of the largest process, for a VHDX that shows 2 TiB";
    figures.at_most(what, memory_mib(&flat, scratch.path()), MOST_MEMORY_MIB, "MiB");
}

/// Of the process that took most while a large disk with a GiB of data was converted.
fn memory_mib(flat: &Path, scratch: &Path) -> f64 {
    let large = scratch.join("large.raw");
    fs::copy(flat, &large).unwrap();
    File::options().write(true).open(&large).unwrap().set_len(LARGE_BYTES).unwrap();
    let source = image(&large, &case("VHDX", "vhdx", "", "qcow2", 0.0));
    fs::remove_file(&large).unwrap();
    let results = scratch.join("ours");
    let mut child = convert(&source, &results, "qcow2", None).stdout(Stdio::null()).spawn().unwrap();
    let mut most_kib = 0;
    while child.try_wait().unwrap().is_none() {
        most_kib = most_kib.max(largest_kib(child.id()));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
    fs::remove_dir_all(&results).unwrap();
    fs::remove_file(&source).unwrap();
    most_kib as f64 / 1024.0
}

/// What the largest of a process and all that it started has had in memory at once.
fn largest_kib(of: u32) -> u64 {
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    let everybody = fs::read_dir("/proc").unwrap().flatten();
    let pids = everybody.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter(|pid| field(&status(*pid), "PPid:") == u64::from(of));
    let below = children.map(largest_kib).max().unwrap_or_default();
    below.max(field(&status(of), "VmHWM:"))
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

fn image(flat: &Path, case: &Case) -> PathBuf {
    let Case { driver, options, .. } = case;
    if *driver == "raw" {
        return flat.to_owned();
    }
    let path = flat.with_file_name(format!("source.{driver}"));
    let mut make = Command::new("qemu-img");
    make.args(["convert", "-f", "raw", "-O", driver]);
    if !options.is_empty() {
        make.args(["-o", options]);
    }
    assert!(make.arg(flat).arg(&path).status().expect("qemu-img is installed by set-up").success());
    let path = if case.in_ova { packed(&path) } else { path };
    File::open(&path).unwrap().sync_all().unwrap();
    path
}

/// An appliance of this disk, which goes into it.
fn packed(disk: &Path) -> PathBuf {
    let directory = disk.parent().unwrap();
    let name = disk.file_name().unwrap().to_str().unwrap();
    fs::write(directory.join("source.ovf"), vmware("source", &[(name, DISK_BYTES >> 20)]).text()).unwrap();
    let ova = pack(directory, "ustar", "source.ova", &["source.ovf", name]);
    fs::remove_file(disk).unwrap();
    ova
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

/// An appliance is unpacked first; that is part of it.
fn peer(source: &Path, case: &Case, scratch: &Path) -> f64 {
    let (result, unpacked) = (scratch.join("peer"), scratch.join("unpacked"));
    let begun = Instant::now();
    let mut disk = source.to_owned();
    if case.in_ova {
        fs::create_dir(&unpacked).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(source).arg("-C").arg(&unpacked);
        assert!(tar.status().unwrap().success());
        disk = unpacked.join(format!("source.{}", case.driver));
    }
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-W", "-m", "16", "-f", case.driver, "-O", case.to]);
    if let Some((_, method)) = case.packed {
        convert.arg("-c").arg("-o").arg(format!("compression_type={method}"));
    }
    let done = convert.arg(&disk).arg(&result).status().expect("qemu-img is installed by set-up");
    assert!(done.success());
    File::open(&result).unwrap().sync_all().unwrap();
    let took = begun.elapsed().as_secs_f64();
    fs::remove_file(&result).unwrap();
    if case.in_ova {
        fs::remove_dir_all(&unpacked).unwrap();
    }
    took
}

/// The wall time of the whole program, and how much of that was verification.
fn ours(source: &Path, case: &Case, scratch: &Path) -> (f64, f64) {
    let results = scratch.join("ours");
    let packing = case.packed.map(|(method, _)| method);
    let begun = Instant::now();
    let done = convert(source, &results, case.to, packing).stderr(Stdio::piped()).output().unwrap();
    let took = begun.elapsed().as_secs_f64();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).expect("convert --json prints the report");
    let verifying = report["pipeline"]["stages"]["validate"]["duration"].as_f64().expect("it was verified");
    fs::remove_dir_all(&results).unwrap();
    (took, verifying)
}

fn convert(source: &Path, results: &Path, to: &str, packing: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.args(["convert", "--no-fix", "--json", "--to", to, "-o"]).arg(results).arg(source);
    if let Some(method) = packing {
        command.arg(format!("--compress={method}"));
    }
    command
}
