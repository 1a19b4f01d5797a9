//! Batches: what the service adds to the work of two hundred VMs, how much four at a time are worth where sources are slow, and how soon a batch of ten
//! thousand is checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::figures::Figures;
use crate::support::{Daemon, disks};

const MANY: usize = 200;
const AT_A_TIME: u32 = 2;
const HUGE: usize = 10_000;
/// Sources that give this much, and how many of them.
const SLOW_MIB_PER_S: u64 = 8;
const SLOW: usize = 8;
const SLOW_DATA_MIB: u64 = 48;
/// As the kernel counts a process's time.
const TICKS_PER_SECOND: f64 = 100.0;

/// All four.
pub fn measure(figures: &mut Figures) {
    checking(figures);
    taking(figures);
    scheduling(figures);
    slow_sources(figures);
}

fn entry(id: &str, path: &Path) -> String {
    format!(
        "  - {{id: {id}, manifest: {{disks: [{{id: boot, source_format: raw, local_path: {}}}]}}}}\n",
        path.display()
    )
}

fn batch(head: &str, entries: &[String]) -> String {
    format!("batch_version: \"1.0\"\n{head}shared_config:\n  {}vms:\n{}", disks::BYTES_ONLY, entries.concat())
}

fn hyper2kvm() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
}

fn checking(figures: &mut Figures) {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<String> =
        (0..HUGE).map(|n| entry(&format!("vm{n}"), Path::new(&format!("/srv/{n}.img")))).collect();
    let path = dir.path().join("huge.yaml");
    fs::write(&path, batch("", &entries)).unwrap();
    let once = || {
        let begun = Instant::now();
        let done = hyper2kvm().arg("validate").arg(&path).stdout(Stdio::null()).status().unwrap();
        assert!(done.success());
        begun.elapsed().as_secs_f64()
    };
    let best = (0..3).map(|_| once()).fold(f64::INFINITY, f64::min);
    figures.at_most("a batch of 10,000 VMs is checked", best, 2.0, "s");
}

/// From the drop of a huge batch until all of it is shown, while all work is paused, and how soon the service answers then.
fn taking(figures: &mut Figures) {
    let mut daemon = Daemon::prepare();
    daemon.start();
    assert!(daemon.run_client(&["pause", "--all"]).status.success());
    let source = disks::disk(daemon.scratch(), "small", "raw", 1, 1, 7);
    let entries: Vec<String> = (0..HUGE).map(|number| entry(&format!("vm{number}"), &source)).collect();
    let begun = Instant::now();
    daemon.drop_file("huge.yaml", batch("", &entries));
    while daemon.progress("huge").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(600), "the batch was not taken\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    figures.at_most("a batch of 10,000 VMs is taken and shown", begun.elapsed().as_secs_f64(), 20.0, "s");
    let asked = Instant::now();
    assert!(daemon.run_client(&["status"]).status.success());
    figures.note("`status` after that", format!("{:.2} s", asked.elapsed().as_secs_f64()));
}

/// What of the wall time no worker was at work in a slot, and what the service itself took.
fn scheduling(figures: &mut Figures) {
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("max_concurrent_jobs: {AT_A_TIME}\n"));
    daemon.start();
    let source = disks::disk(daemon.scratch(), "small", "raw", 64, 48, 7);
    let entries: Vec<String> = (0..MANY)
        .map(|number| {
            let path = daemon.scratch().join(format!("{number}.raw"));
            fs::hard_link(&source, &path).unwrap();
            entry(&format!("vm{number}"), &path)
        })
        .collect();
    daemon.drop_file("many.yaml", batch("batch_metadata: {parallel_limit: 16}\n", &entries));
    let file = daemon.state().join("progress/many.json");
    let (mut writes, mut seen) = (0_u32, None::<SystemTime>);
    let begun = Instant::now();
    let progress = loop {
        assert!(begun.elapsed() < Duration::from_secs(600), "the batch did not end\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
        let Ok(changed) = fs::metadata(&file).and_then(|file| file.modified()) else { continue };
        if seen.replace(changed) != Some(changed) {
            writes += 1;
            let progress = daemon.progress("many").unwrap();
            if progress["state"] == "completed" {
                break progress;
            }
        }
    };
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let vms = progress["vms"].as_object().unwrap();
    let first = vms.values().map(|vm| number(&vm["started_at"])).fold(f64::INFINITY, f64::min);
    let wall = number(&progress["completed_at"]) - first;
    let busy: f64 = vms.values().map(|vm| number(&vm["duration"])).sum::<f64>() / f64::from(AT_A_TIME);
    let overhead = ((wall - busy) / wall * 100.0).max(0.0);
    figures.at_most("200 VMs: time in which a slot had no worker", overhead, 2.0, "% of wall");
    figures.note("200 VMs: wall", format!("{wall:.1} s, {:.2} s each", wall / MANY as f64));
    figures.at_most("200 VMs: progress file written", f64::from(writes) / wall, 1.05, "times a second");
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    figures.at_most(
        "200 VMs: the service's own processor time",
        cpu_seconds(daemon.pid()) / wall / cores * 100.0,
        1.0,
        "% of the machine",
    );
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// A file that gives no more than so much a second, as storage far away does.
struct SlowFile {
    path: PathBuf,
    server: Child,
}

impl SlowFile {
    fn over(source: &Path, path: PathBuf) -> SlowFile {
        fs::write(&path, "").unwrap();
        let server = Command::new("nbdfuse")
            .arg(&path)
            .args(["--command", "nbdkit", "-s", "--exit-with-parent", "--filter=rate", "file"])
            .arg(source)
            .arg(format!("rate={}", (SLOW_MIB_PER_S * 8) << 20))
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdfuse is installed by set-up");
        let file = SlowFile { path, server };
        let size = fs::metadata(source).unwrap().len();
        for _ in 0..200 {
            if fs::metadata(&file.path).is_ok_and(|there| there.len() == size) {
                return file;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nbdfuse did not come up at {}", file.path.display());
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        // It lets go of the mount point and ends; a bench has nothing to add if it does not.
        drop(Command::new("fusermount3").arg("-u").arg(&self.path).stderr(Stdio::null()).status());
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn slow_sources(figures: &mut Figures) {
    let dir = tempfile::tempdir().unwrap();
    let source = disks::disk(dir.path(), "source", "raw", SLOW_DATA_MIB, SLOW_DATA_MIB, 3);
    let time = |at_a_time: &str, out: &str| {
        // New ones for each run: nothing of them is in the cache.
        let files: Vec<SlowFile> = (0..SLOW)
            .map(|number| SlowFile::over(&source, dir.path().join(format!("{out}-{number}.img"))))
            .collect();
        let entries: Vec<String> =
            files.iter().enumerate().map(|(n, file)| entry(&format!("vm{n}"), &file.path)).collect();
        let path = dir.path().join(format!("{out}.yaml"));
        fs::write(&path, batch("", &entries)).unwrap();
        let begun = Instant::now();
        let done = hyper2kvm()
            .arg("convert")
            .arg(&path)
            .args(["--no-fix", "--parallel", at_a_time, "-q", "-o"])
            .arg(dir.path().join(out))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success());
        begun.elapsed().as_secs_f64()
    };
    let (serial, four) = (time("1", "one"), time("4", "four"));
    figures.at_least(
        "8 VMs from slow sources, four at a time against one",
        serial / four,
        3.5,
        "times as fast",
    );
    figures
        .note("8 VMs from slow sources", format!("{serial:.1} s one at a time, {four:.1} s four at a time"));
}
