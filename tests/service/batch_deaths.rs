//! A weekend that goes wrong: a batch of thirty under a service that is killed every few seconds, and a batch that another host finishes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::hooks::Hooks;
use crate::support::{Daemon, disks, within};

const VMS: usize = 30;
/// Kills of the service, with this much time in between.
const KILLS: usize = 8;
const BETWEEN: Duration = Duration::from_millis(2500);
/// However fast the machine is, all of them together last longer than some kills.
const SLOWLY: &str = "limits: {disk_reserve: 1MiB, bandwidth: [{rate: 3MiB/s}]}\n";

/// Thirty small disks, and a batch that names them; each VM tells the file `told` that it was read.
fn batch(dir: &Path, output: &Path, hook: Option<(&Path, &Path)>) -> String {
    let hooks = hook.map_or_else(String::new, |(script, told)| {
        format!(
            "  hooks:\n    post_extraction:\n      - {{type: script, path: {}, args: [\"{}\", \"{{{{ vm_id }}}}\"]}}\n",
            script.display(),
            told.display()
        )
    });
    let mut text = format!(
        "batch_version: \"1.0\"\nbatch_metadata: {{batch_id: weekend, parallel_limit: 2}}\nshared_config:\n  output_directory: {}\n  {}{hooks}vms:\n",
        output.display(),
        disks::BYTES_ONLY,
    );
    for number in 0..VMS {
        let id = format!("vm{number:02}");
        let path = disks::disk(dir, &id, "vmdk", 8, 2, number as u64 + 1);
        let waits =
            if number % 7 == 6 { format!("depends_on: [vm{:02}], ", number - 1) } else { String::new() };
        text += &format!(
            "  - {{id: {id}, {waits}manifest: {{disks: [{{id: boot, source_format: vmdk, local_path: {}}}]}}}}\n",
            path.display()
        );
    }
    text
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

/// What each VM's disk holds, from its source and from its result.
fn assert_results(dir: &Path, output: &Path) {
    for number in 0..VMS {
        let id = format!("vm{number:02}");
        let source = disks::content_sha256(&dir.join(format!("{id}.vmdk")), "vmdk");
        let result = disks::content_sha256(&output.join(&id).join("boot.qcow2"), "qcow2");
        assert_eq!(source, result, "{id}");
        assert!(output.join(&id).join("report.json").exists(), "{id}");
    }
    let left = Daemon::files_below(output, |name| {
        [".partial", ".journal", ".hyper2kvm-lock"].iter().any(|end| name.contains(end))
    });
    assert_eq!(left, Vec::<PathBuf>::new());
}

fn has_ended(daemon: &Daemon) -> bool {
    daemon.progress("weekend").is_some_and(|progress| progress["state"] == "completed")
}

#[test]
fn a_batch_of_thirty_under_a_service_that_is_killed_every_few_seconds_ends_with_each_vm_and_each_hook_once() {
    let hooks = Hooks::new();
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!(
        "max_concurrent_jobs: 2\n{SLOWLY}hooks: {{allowed_dirs: [{}]}}\n",
        hooks.allowed().display()
    ));
    daemon.start();
    let dir = daemon.scratch().to_owned();
    let output = dir.join("out");
    let told = hooks.file("told");
    let script = hooks.script("tell", "echo \"$2 $H2K_ATTEMPT\" >>\"$1\"");
    let text = batch(&dir, &output, Some((&script, &told)));
    daemon.drop_file("weekend.yaml", &text);
    let mut kills = 0;
    while kills < KILLS && !has_ended(&daemon) {
        thread::sleep(BETWEEN);
        daemon.kill9();
        daemon.assert_no_orphans();
        daemon.start();
        kills += 1;
    }
    assert!(kills > 2, "it was over too soon to be disturbed");
    let progress = daemon.wait_batch("weekend");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    assert_eq!(progress["counts"]["completed"], VMS as u64, "{progress:#}");
    daemon.wait_settled("processed", "weekend.yaml");
    assert_results(&dir, &output);

    let report = json(&output.join("batch_report.json"));
    let told_of: Vec<&str> =
        report["vm_results"].as_array().unwrap().iter().map(|vm| vm["vm_id"].as_str().unwrap()).collect();
    let wanted: Vec<String> = (0..VMS).map(|number| format!("vm{number:02}")).collect();
    assert_eq!(told_of, wanted, "each once, in the order of the batch");
    assert_eq!(report["batch"]["successful_vms"], VMS as u64);

    // A hook that was cut is begun again, and knows it; one that has ended is not.
    let mut attempts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in hooks.lines("told") {
        let (vm, attempt) = line.split_once(' ').unwrap();
        attempts.entry(vm.to_owned()).or_default().push(attempt.to_owned());
    }
    assert_eq!(attempts.len(), VMS, "{attempts:?}");
    for (vm, attempts) in &attempts {
        let mut once = attempts.clone();
        once.dedup();
        assert_eq!(&once, attempts, "{vm}: no attempt ran twice");
    }
    let again = attempts.values().filter(|attempts| attempts.len() > 1).count();
    assert!(again <= kills * 2, "only what was cut: {attempts:?}");
    daemon.stop();
    daemon.assert_no_orphans();
}

#[test]
fn a_batch_that_was_released_is_finished_by_a_second_host_from_its_checkpoint() {
    let share = tempfile::Builder::new().prefix("h2k-share-").tempdir().unwrap();
    let output = share.path().join("out");
    let manifest = share.path().join("weekend.yaml");
    fs::write(&manifest, batch(share.path(), &output, None)).unwrap();
    let host = || {
        let mut daemon = Daemon::prepare();
        daemon.configure(&format!("max_concurrent_jobs: 2\n{SLOWLY}"));
        daemon.start();
        daemon
    };
    let first = host();
    first.client(&["submit", manifest.to_str().unwrap()]);
    let some_are_done = || {
        let done = first.progress("weekend")?["counts"]["completed"].as_u64()?;
        (done >= 5).then_some(done)
    };
    within(Duration::from_secs(120), some_are_done).expect("some of them to be done");
    let second = host();
    let both = second.run_client(&["submit", "--takeover", manifest.to_str().unwrap()]);
    assert!(!both.status.success(), "both at once: never");
    first.client(&["release", "weekend"]);
    let checkpoint = json(&output.join(".hyper2kvm-checkpoint-weekend.json"));
    let done = checkpoint["completed_vms"].as_array().unwrap().len();
    assert!((5..VMS).contains(&done), "{done} were done");
    let taken = second.run_client(&["submit", "--takeover", manifest.to_str().unwrap()]);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let progress = second.wait_batch("weekend");
    assert_eq!(progress["counts"]["skipped"], done as u64, "{progress:#}");
    assert_eq!(progress["counts"]["completed"], (VMS - done) as u64, "{progress:#}");
    // The locks go with the batch's end.
    within(Duration::from_secs(30), || (!output.join(".hyper2kvm-lock").exists()).then_some(())).unwrap();
    assert_results(share.path(), &output);
}
