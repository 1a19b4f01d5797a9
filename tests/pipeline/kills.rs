//! Copies that are killed in their midst, again and again: the same file in the end, and little of the source read twice.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::{Compression, OutputFormat};
use hyper2kvm::model::protocol::{WorkerEvent, WorkerOutcome};

use crate::site::{Site, Told};

const MIB: u64 = 1 << 20;
/// More of a source is never read again.
const READ_AGAIN: u64 = 64 * MIB;
/// An earlier copy's last part is looked at before it is gone on with: so much is read of the result.
const LOOKED_AT: u64 = 64 * MIB;
/// Tables, the journal, what a process reads to start.
const BESIDE: u64 = 4 * MIB;
const DATA_MIB: u64 = 256;

/// Runs a worker that is killed as soon as its journal has grown twice; and what it had read then.
fn killed(site: &Site, journal: &Path) -> (Told, u64) {
    let (pid, read, is_over) = (Mutex::new(None), Mutex::new(0), AtomicBool::new(false));
    let size = || fs::metadata(journal).map_or(0, |file| file.len());
    let told = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut grown, mut before) = (0, size());
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(200));
                let now = size();
                grown += u32::from(now > before);
                before = now;
                if let (true, Some(pid)) = (grown >= 3, *pid.lock().unwrap()) {
                    signal("STOP", pid);
                    *read.lock().unwrap() = bytes_read(pid);
                    return signal("KILL", pid);
                }
            }
        });
        let told = site.run_with(|event, _| {
            if let WorkerEvent::Started { pid: started, .. } = event {
                *pid.lock().unwrap() = Some(*started);
            }
        });
        is_over.store(true, Ordering::Relaxed);
        told
    });
    (told, read.into_inner().unwrap())
}

fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
}

fn bytes_read(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let read = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.map_or(0, |count| count.parse().unwrap())
}

/// Bytes of the disk that the whole frames of a journal tell of.
fn written_down(journal: &Path) -> u64 {
    let bytes = fs::read(journal).unwrap_or_default();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut total) = (0, 0);
    while at + 12 <= bytes.len() && at + 12 + number(at) <= bytes.len() {
        let end = at + 12 + number(at);
        // Others are about the copy as a whole, or about when it was made.
        let mut record = if bytes.get(at + 12) == Some(&b'P') { at + 13 } else { end };
        while record < end {
            total += number(record + 8) as u64;
            record +=
                22 + usize::from(u16::from_le_bytes(bytes[record + 20..record + 22].try_into().unwrap()));
        }
        at = end;
    }
    total
}

/// How often it was killed, and the most that was read again after one.
fn kill_until_done(site: &Site, case: &str) -> (usize, u64) {
    let journal = site.out().join(format!(".disk0.{}.journal", site.order.plan.output.format.name()));
    let (mut kills, mut worst, mut done) = (0, 0, 0);
    loop {
        let (told, read) = killed(site, &journal);
        match told.outcome {
            WorkerOutcome::Succeeded(_) => return (kills, worst),
            WorkerOutcome::Failed { error } if error.to_string().contains("SIGKILL") => {}
            other => panic!("{case}: {other:?}\n{}", site.log_text()),
        }
        if !journal.exists() {
            // Too late: the copy was finished and recorded.
            continue;
        }
        let before = std::mem::replace(&mut done, written_down(&journal));
        let again = read.saturating_sub(before.min(LOOKED_AT) + BESIDE).saturating_sub(done - before);
        assert!(again <= READ_AGAIN, "{case}: {} MiB read again", again / MIB);
        worst = worst.max(again);
        kills += 1;
    }
}

fn site(format: &str, to: OutputFormat, compress: Compression) -> Site {
    let mut site = Site::sized(&[format], DATA_MIB + 32, DATA_MIB);
    (site.order.plan.output.format, site.order.plan.output.compress) = (to, compress);
    site
}

#[test]
fn a_copy_killed_again_and_again_gives_the_same_file_and_reads_little_twice() {
    let kinds = ["raw", "vmdk", "vhd", "vhdx", "vdi", "qcow2"]
        .map(|format| (format, OutputFormat::Qcow2, Compression::None));
    let targets = [
        ("raw", OutputFormat::Raw, Compression::None),
        ("raw", OutputFormat::Qcow2, Compression::Zstd),
        ("raw", OutputFormat::Qcow2, Compression::Zlib),
        ("raw", OutputFormat::Vmdk, Compression::Zlib),
        ("raw", OutputFormat::Vmdk, Compression::None),
        ("raw", OutputFormat::Vhd, Compression::None),
        ("raw", OutputFormat::Vdi, Compression::None),
    ];
    for (format, to, compress) in kinds.into_iter().chain(targets) {
        let case = format!("{format} to {} {compress:?}", to.name());
        let undisturbed = site(format, to, compress);
        undisturbed.succeed();
        // Where results are not proved, all that is read is the source.
        let unproved = |mut site: Site| {
            site.order.plan.stages.retain(|planned| planned.stage != Stage::Validate);
            site
        };
        // A machine that is busy may look too late to kill.
        let attempts = (0..10).map(|_| unproved(site(format, to, compress))).map(|site| {
            let (kills, worst) = kill_until_done(&site, &case);
            (site, kills, worst)
        });
        let (site, kills, worst) =
            { attempts }.find(|(_, kills, _)| *kills >= 2).expect("it is killed in time");
        println!("{case}: killed {kills} times, at most {} MiB read again", worst / MIB);
        assert_eq!(site.hashes(), undisturbed.hashes(), "{case}");
        assert!(!site.log_text().contains("an earlier copy is of no use"), "{}", site.log_text());
        site.assert_only(&[&format!("disk0.{}", to.name()), "report.json"]);
        site.assert_no_process();
    }
}
