//! What a conversion of a disk takes, against `qemu-img convert` on the same file: synced, with the files in the page cache and without.
//!
//! Ours is the whole program, from its start until the result is published, with all that proves it. The same without that proof, and the digest
//! that follows, are told by themselves.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::figures::{Figures, median};
use crate::published::{self, Waited};
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
/// Of which most is the start of two processes and a sync of the file system.
const MOST_SHARED_S: f64 = 1.0;
/// Proving a result may take so much more than making it.
const MOST_FOR_VERIFICATION: f64 = 1.10;

/// In turns, so that both meet the same machine.
pub fn measure(figures: &mut Figures) {
    let scratch =
        tempfile::Builder::new().prefix("h2k-bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let flat = scratch.path().join("flat.raw");
    programs(&flat);
    for case in &CASES {
        let source = image(&flat, case);
        for is_cold in [false, true] {
            let (mut peers, mut proved, mut unproved, mut digests) = (vec![], vec![], vec![], vec![]);
            for round in 0..=ROUNDS {
                prepare(&source, is_cold);
                let peer_s = peer(&source, case, scratch.path());
                prepare(&source, is_cold);
                let waited = ours(&source, case, scratch.path(), true);
                prepare(&source, is_cold);
                let without = ours(&source, case, scratch.path(), false);
                // The first one is without a clock: binaries loaded, caches as they will be.
                if round > 0 {
                    peers.push(peer_s);
                    proved.push(waited.published_s);
                    unproved.push(without.published_s);
                    digests.push(waited.digest_s);
                }
            }
            let (peer, ours, without) = (median(&peers), median(&proved), median(&unproved));
            let way = format!("{} → {}, {}", case.name, case.to, if is_cold { "cold" } else { "warm" });
            eprintln!(
                "  {way}: qemu-img {peers:.2?} s, hyper2kvm {proved:.2?} s, without proof {unproved:.2?} s, digests {digests:.2?} s"
            );
            let what = format!("{way}: qemu-img's {peer:.2} s over ours, {ours:.2} s");
            figures.at_least(&what, peer / ours, case.goal, "×");
            let what = format!("{way}: proved, {ours:.2} s, over not proved, {without:.2} s");
            figures.at_most(&what, ours / without, MOST_FOR_VERIFICATION, "×");
        }
        if source != flat {
            fs::remove_file(&source).unwrap();
        }
    }
    figures.note(
        "the disk",
        format!("{} MiB, of which {} MiB are programs and libraries", DISK_BYTES >> 20, DATA_BYTES >> 20),
    );
    let what = "raw → raw on a file system that shares blocks, from the start of the program until published";
    figures.at_most(what, shared_s(scratch.path()), MOST_SHARED_S, "s");
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
    let mut child = convert(&source);
    let child = child.args(["--no-fix", "-o"]).arg(&results).stdout(Stdio::null());
    let mut child = child.spawn().unwrap();
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
pub fn programs(path: &Path) {
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

/// How long it takes from the start of the program until the result is published, and how much longer until it has its digest.
fn ours(source: &Path, case: &Case, scratch: &Path, is_proved: bool) -> Waited {
    let (results, manifest) = (scratch.join("ours"), scratch.join("ours.json"));
    let packing = case.packed.map_or("none", |(method, _)| method);
    let mut wanted = json!({
        "manifest_version": "1.0",
        "profile": "none",
        "output": { "format": case.to, "compress": packing, "directory": &results },
        "pipeline": { "convert": { "enabled": true }, "validate": { "enabled": is_proved } },
    });
    match case.in_ova {
        true => wanted["source"] = json!({ "ova": { "path": source } }),
        false => {
            let format = if case.driver == "vpc" { "vhd" } else { case.driver };
            wanted["disks"] = json!([{ "id": "disk", "local_path": source, "source_format": format }]);
        }
    }
    fs::write(&manifest, wanted.to_string()).unwrap();
    let waited = published::run(&mut convert(&manifest), &results);
    let said: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
    assert_eq!(said["artifacts"][0]["sha256"].is_string(), is_proved, "{said}");
    fs::remove_dir_all(&results).unwrap();
    waited
}

fn convert(input: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.args(["convert", "--json"]).arg(input);
    command
}

/// The same disk on a file system that lets files share what they hold: how long it takes, whatever the disk's size.
fn shared_s(scratch: &Path) -> f64 {
    let (image, at) = (scratch.join("sharing.image"), scratch.join("sharing"));
    fs::create_dir(&at).unwrap();
    File::create(&image).unwrap().set_len(6 << 30).unwrap();
    assert!(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).status().unwrap().success());
    assert!(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).status().unwrap().success());
    let source = at.join("flat.raw");
    fs::copy(scratch.join("flat.raw"), &source).unwrap();
    // Who shares blocks has them written first.
    File::open(&source).unwrap().sync_all().unwrap();
    let took = ours(&source, &Case { to: "raw", ..RAW }, &at, true).published_s;
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    fs::remove_file(&image).unwrap();
    took
}
