//! The crash campaign: kill anything at any moment, and nothing is lost, repeated or half-done.
//!
//! Two kinds of death: at every named failpoint (the process kills itself with SIGKILL right there,
//! once), and at random instants (the test kills the daemon or a worker). After each, the daemon is
//! started again and left alone; then every job must have ended exactly once, every output must be
//! bit-identical to an undisturbed run, and nothing may be left behind.
//!
//! The random instants come from a fixed seed; `HYPER2KVM_CRASH_SEED` gives another, and
//! `HYPER2KVM_CRASH_ROUNDS` another number of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Daemon, disks, wait_for};

/// Points that are met only where a guest is opened: that load is too slow for this campaign and has one of its own.
const NEEDS_A_GUEST: [&str; 5] =
    ["guest.started", "fix.before-mark", "fix.after-mark", "commit.before", "commit.after"];

/// The set of jobs that is run under fire: one, two and three disks, written at random offsets and packed.
struct Load {
    sources: tempfile::TempDir,
    manifests: Vec<(&'static str, String)>,
}

impl Load {
    fn make() -> Load {
        let sources = tempfile::Builder::new().prefix("h2k-sources-").tempdir().unwrap();
        let dir = sources.path();
        let vmdk = disks::disk(dir, "web", "vmdk", 24, 6, 1);
        let raw = disks::disk(dir, "db-boot", "raw", 16, 4, 2);
        let data = disks::disk(dir, "db-data", "qcow2", 32, 8, 3);
        let vhdx = disks::disk(dir, "mail", "vhdx", 16, 4, 4);
        let manifests = vec![
            ("web", disks::manifest(&[("root", &vmdk, "vmdk")], "")),
            ("db", disks::manifest(&[("boot", &raw, "raw"), ("data", &data, "qcow2")], "")),
            ("mail", disks::manifest(&[("root", &vhdx, "vhdx")], "output: {format: raw}")),
            ("cold", disks::manifest(&[("root", &vmdk, "vmdk")], "output: {compress: zlib}")),
        ];
        Load { sources, manifests }
    }

    fn drop_into(&self, daemon: &Daemon) {
        for (name, text) in &self.manifests {
            daemon.drop_file(&format!("{name}.yaml"), text);
        }
    }

    fn source_sums(&self) -> BTreeMap<PathBuf, String> {
        Daemon::files_below(self.sources.path(), |_| true)
            .into_iter()
            .map(|path| (path.clone(), disks::sha256(&path)))
            .collect()
    }

    /// Every result: relative path → SHA-256 of the file; of a packed one, whose clusters lie in the order in
    /// which two threads finished them, of what the guest sees.
    fn outputs(&self, daemon: &Daemon) -> BTreeMap<String, String> {
        let root = daemon.state().join("output");
        Daemon::files_below(&root, |name| name.ends_with(".qcow2") || name.ends_with(".raw"))
            .into_iter()
            .map(|path| {
                let driver = path.extension().unwrap().to_string_lossy().into_owned();
                let relative = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                let sum = match relative.starts_with("cold/") {
                    true => disks::content_sha256(&path, &driver),
                    false => disks::sha256(&path),
                };
                (relative, sum)
            })
            .collect()
    }
}

/// What an undisturbed run gives; made once for the whole campaign.
fn undisturbed(load: &Load) -> BTreeMap<String, String> {
    let daemon = Daemon::start_new();
    load.drop_into(&daemon);
    for (name, _) in &load.manifests {
        let progress = daemon.wait_batch(name);
        assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    }
    let outputs = load.outputs(&daemon);
    assert_eq!(outputs.len(), 5, "{outputs:?}");
    outputs
}

/// Everything that has to hold when the dust has settled.
#[track_caller]
fn assert_whole(load: &Load, daemon: &mut Daemon, expected: &BTreeMap<String, String>, after: &str) {
    for (name, _) in &load.manifests {
        let progress = daemon.wait_batch(name);
        assert_eq!(progress["state"], "completed", "after {after}: {progress:#}\n{}", daemon.log());
        daemon.wait_settled("processed", &format!("{name}.yaml"));
        daemon.wait_settled("processed", &format!("{name}.yaml.report.json"));
    }
    let jobs = daemon.client(&["list"]);
    let jobs = jobs["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), load.manifests.len(), "after {after}: every drop is one job: {jobs:#?}");
    for job in jobs {
        assert_eq!(job["state"], "succeeded", "after {after}");
        let shown = daemon.client(&["show", &job["job_id"].to_string()]);
        let ends = shown["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["message"].as_str().unwrap().contains("succeeded"))
            .count();
        assert_eq!(ends, 1, "after {after}: a job ends exactly once: {shown:#}");
    }
    assert_eq!(&load.outputs(daemon), expected, "after {after}: outputs are those of an undisturbed run");
    let left = Daemon::files_below(&daemon.state().join("output"), |name| {
        [".partial", ".journal", ".extents", ".lock"].iter().any(|end| name.contains(end))
    });
    assert!(left.is_empty(), "after {after}: left beside results: {left:?}");
    for area in ["incoming", "processing"] {
        let left = Daemon::files_below(&daemon.state().join(area), |_| true);
        assert!(left.is_empty(), "after {after}: left in {area}: {left:?}");
    }
    daemon.stop();
    daemon.assert_no_orphans();
    daemon.start();
    let temporary = Daemon::files_below(daemon.state(), |name| name.contains(".tmp"));
    assert!(temporary.is_empty(), "after {after}: temporary files after a restart: {temporary:?}");
    wait_for("working files to be cleared after a restart", || {
        (fs::read_dir(daemon.state().join("work")).map_or(0, Iterator::count) == 0).then_some(())
    });
    assert_eq!(daemon.client(&["list"])["jobs"].as_array().unwrap().len(), load.manifests.len());
}

/// Runs the load with a failpoint armed; the process that reaches it first dies there, once.
fn die_at(load: &Load, expected: &BTreeMap<String, String>, failpoint: &str) -> bool {
    let mut daemon = Daemon::prepare();
    let fired = daemon.scratch().join("fired");
    daemon.env("HYPER2KVM_FAILPOINT", failpoint);
    daemon.env("HYPER2KVM_FAILPOINT_ONCE", &fired.to_string_lossy());
    daemon.spawn();
    if daemon.ready() {
        load.drop_into(&daemon);
    }
    wait_for("the failpoint to fire, or all jobs to end without it", || {
        if daemon.ended().is_some() {
            return Some(());
        }
        let all_ended = load
            .manifests
            .iter()
            .all(|(name, _)| daemon.settled("processed", &format!("{name}.yaml")).is_some());
        all_ended.then_some(())
    });
    if daemon.ended().is_some() {
        daemon.kill9();
        daemon.assert_no_orphans();
        daemon.start();
        for (name, text) in &load.manifests {
            let known = daemon.progress(name).is_some()
                || daemon.state().join("incoming").join(format!("{name}.yaml")).exists()
                || daemon.settled("processed", &format!("{name}.yaml")).is_some()
                || !Daemon::files_below(&daemon.state().join("processing"), |file| {
                    file.ends_with(&format!("{name}.yaml"))
                })
                .is_empty();
            if !known {
                daemon.drop_file(&format!("{name}.yaml"), text);
            }
        }
    }
    assert_whole(load, &mut daemon, expected, failpoint);
    fs::metadata(&fired).is_ok_and(|found| found.len() > 0)
}

#[test]
fn a_process_that_dies_at_any_named_point_costs_nothing() {
    let load = Load::make();
    let sums = load.source_sums();
    let expected = undisturbed(&load);
    let mut wrong = Vec::new();
    for failpoint in hyper2kvm::sys::failpoint::ALL.iter().filter(|point| !NEEDS_A_GUEST.contains(point)) {
        // Every point is tried, also behind one that fails: the list of them tells more than the first.
        // The first two commits are those of the start, before anything is dropped.
        let failpoint =
            if failpoint.starts_with("queue.") { format!("{failpoint}:3") } else { (*failpoint).to_owned() };
        match std::panic::catch_unwind(|| die_at(&load, &expected, &failpoint)) {
            Ok(true) => {}
            Ok(false) => wrong.push(format!("{failpoint}: this load never reached it")),
            Err(_) => wrong.push(format!("{failpoint}: see above")),
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(load.source_sums(), sums, "sources are never written to");
}

/// A small reproducible generator: the campaign must be repeatable from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn workers(daemon: &Daemon) -> Vec<u32> {
    daemon
        .processes()
        .into_iter()
        .filter(|(_, command)| command.split(' ').nth(1) == Some("worker"))
        .map(|(pid, _)| pid)
        .collect()
}

#[test]
fn kills_at_random_instants_cost_nothing() {
    let seed = number_from("HYPER2KVM_CRASH_SEED", 20_261_120);
    let rounds = number_from("HYPER2KVM_CRASH_ROUNDS", 200);
    let load = Load::make();
    let sums = load.source_sums();
    let expected = undisturbed(&load);
    let mut dice = Dice(seed | 1);
    let mut kills = 0;
    let mut campaign = 0;
    while kills < rounds {
        campaign += 1;
        let after = format!("campaign {campaign} of seed {seed} ({kills} kills before it)");
        let mut daemon = Daemon::start_new();
        load.drop_into(&daemon);
        // At most this many kills for one set of jobs, so that it comes to an end.
        for _ in 0..12 {
            std::thread::sleep(Duration::from_millis(dice.roll(160)));
            if dice.roll(3) == 0 {
                daemon.kill9();
                if dice.roll(2) == 0 {
                    daemon.assert_no_orphans();
                }
                daemon.start();
            } else if let Some(&pid) = workers(&daemon).first() {
                kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).ok();
            } else {
                continue;
            }
            kills += 1;
        }
        assert_whole(&load, &mut daemon, &expected, &after);
    }
    assert_eq!(load.source_sums(), sums, "sources are never written to");
}

/// The path is only here to keep the helper honest: it must see what it looks for.
#[test]
fn the_search_for_leftovers_finds_leftovers() {
    let scratch = tempfile::tempdir().unwrap();
    let path: &Path = scratch.path();
    fs::create_dir(path.join("vm")).unwrap();
    fs::write(path.join("vm/.root.qcow2.partial"), "x").unwrap();
    assert_eq!(Daemon::files_below(path, |name| name.contains(".partial")).len(), 1);
}
