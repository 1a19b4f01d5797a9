//! Batches of several VMs, seen from outside: what runs in which order, what is refused alone, and what a batch put back does.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::site::HELD;
use crate::support::{Daemon, disks, wait_for};

/// An entry of `vms` with one small disk.
fn entry(dir: &Path, id: &str, further: &str) -> String {
    let seed = id.bytes().map(u64::from).sum();
    let path = disks::disk(dir, id, "vmdk", 8, 1, seed);
    entry_of(id, &path, "vmdk", further)
}

fn entry_of(id: &str, disk: &Path, format: &str, further: &str) -> String {
    format!(
        "  - id: {id}\n{further}    manifest: {{profile: none, pipeline: {{convert: {{enabled: true}}}}, disks: [{{id: boot, source_format: {format}, local_path: {}}}]}}\n",
        disk.display()
    )
}

fn batch(head: &str, entries: &[String]) -> String {
    format!("batch_version: \"1.0\"\n{head}vms:\n{}", entries.concat())
}

fn states(progress: &Value) -> Vec<(String, String)> {
    let vms = progress["vms"].as_object().unwrap().iter();
    vms.map(|(id, vm)| (id.clone(), vm["state"].as_str().unwrap().to_owned())).collect()
}

fn jobs_of(daemon: &Daemon, state: &str) -> Vec<String> {
    let listed = daemon.client(&["list", "--state", state]);
    let name =
        |job: &Value| format!("{}/{}", job["batch_id"].as_str().unwrap(), job["vm_id"].as_str().unwrap());
    let mut names: Vec<String> = listed["jobs"].as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_vms_of_a_batch_run_in_the_order_of_their_priorities_and_have_directories_of_their_own() {
    let mut daemon = Daemon::prepare();
    daemon.configure("max_concurrent_jobs: 1\n");
    daemon.start();
    let dir = daemon.scratch();
    let text = batch(
        &format!(
            "batch_metadata: {{batch_id: fleet}}\nshared_config: {{output_directory: {}}}\n",
            dir.join("out").display()
        ),
        &[
            entry(dir, "web", "    priority: 5\n"),
            entry(dir, "db", "    priority: 1\n"),
            entry(dir, "mail", "    priority: 3\n    overrides: {output: {format: raw}}\n"),
        ],
    );
    daemon.drop_file("weekend.yaml", &text);
    let progress = daemon.wait_batch("fleet");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    assert_eq!((&progress["total_vms"], &progress["counts"]["completed"]), (&3.into(), &3.into()));
    let began = |vm: &str| progress["vms"][vm]["started_at"].as_f64().unwrap();
    assert!(began("db") < began("mail") && began("mail") < began("web"), "{progress:#}");
    for file in ["web/boot.qcow2", "db/boot.qcow2", "mail/boot.raw", "web/report.json"] {
        assert!(dir.join("out").join(file).exists(), "{file}");
    }
    let settled = daemon.wait_settled("processed", "weekend.yaml.report.json");
    let report = json(&settled);
    assert_eq!(report["batch"]["successful_vms"], 3);
    assert_eq!(json(&dir.join("out/batch_report.json"))["batch"]["batch_id"], "fleet");
    assert!(fs::read_to_string(dir.join("out/batch_summary.txt")).unwrap().contains("mail"));
    assert_eq!(
        json(&dir.join("out/.hyper2kvm-checkpoint-fleet.json"))["completed_vms"].as_array().unwrap().len(),
        3
    );
    assert!(dir.join("out/.hyper2kvm-batch-progress-fleet.json").exists());
}

#[test]
fn a_vm_that_cannot_be_read_fails_alone_and_the_report_names_its_line() {
    let daemon = Daemon::start_new();
    let dir = daemon.scratch();
    let bad =
        "  - {id: bad, manifest: {disks: [{id: boot, source_formt: raw, local_path: x.img}]}}\n".to_owned();
    let entries =
        [entry(dir, "web", ""), bad, entry(dir, "waits", "    depends_on: [bad]\n"), entry(dir, "db", "")];
    daemon.drop_file("weekend.yaml", batch("", &entries));
    let progress = daemon.wait_batch("weekend");
    assert_eq!(progress["state"], "failed");
    let state = |vm: &str| progress["vms"][vm]["state"].as_str().unwrap().to_owned();
    assert_eq!(
        (state("web"), state("db"), state("bad"), state("waits")),
        ("succeeded".into(), "succeeded".into(), "failed".into(), "failed".into())
    );
    let error = json(&daemon.wait_settled("failed", "weekend.yaml.error.json"));
    let failed = error["failed_vms"].as_array().unwrap();
    assert_eq!(failed.len(), 2, "{error:#}");
    assert_eq!(
        (&error["vm_id"], &error["kind"], &error["line"]),
        (&"bad".into(), &"manifest".into(), &line_of_bad(&entries).into()),
        "{error:#}"
    );
    let summary = fs::read_to_string(daemon.state().join("output/weekend/batch_summary.txt")).unwrap();
    assert!(summary.contains("source_formt") && summary.contains("vms[1]"), "{summary}");

    // Trying again what was refused needs another manifest, and says so.
    let refused = daemon.run_client(&["retry", "weekend/bad"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("mend"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(1));
}

/// The line at which the batch speaks of the bad VM.
fn line_of_bad(entries: &[String]) -> u64 {
    let before = batch("", entries);
    before.lines().position(|line| line.contains("source_formt")).unwrap() as u64 + 1
}

#[test]
fn of_a_batch_of_five_put_back_after_mending_one_exactly_that_one_and_the_other_failed_one_run() {
    let daemon = Daemon::start_new();
    let dir = daemon.scratch().to_owned();
    let good: Vec<String> = ["a", "b", "c"].iter().map(|id| entry(&dir, id, "")).collect();
    let late = dir.join("late.vmdk");
    let waiting = entry_of("late", &late, "vmdk", "");
    let broken = "  - {id: broken, manifest: {disks: []}}\n".to_owned();
    let all = |last: String| batch("", &[good.concat(), waiting.clone(), last]);
    daemon.drop_file("weekend.yaml", all(broken));
    assert_eq!(daemon.wait_batch("weekend")["counts"]["failed"], 2);
    daemon.wait_settled("failed", "weekend.yaml");

    disks::disk(&dir, "late", "vmdk", 8, 1, 9);
    daemon.drop_file("weekend.yaml", all(entry(&dir, "broken", "")));
    daemon.wait_settled("processed", "weekend.yaml");
    let progress = daemon.wait_batch("weekend");
    assert_eq!(progress["counts"]["skipped"], 3, "{progress:#}");
    assert_eq!(progress["counts"]["completed"], 2, "{progress:#}");
    for vm in ["late", "broken"] {
        assert_eq!(progress["vms"][vm]["state"], "succeeded");
    }
}

#[test]
fn manifests_beside_a_batch_move_with_it_whichever_comes_first() {
    let daemon = Daemon::start_new();
    let dir = daemon.scratch().to_owned();
    let disk = disks::disk(&dir, "web", "vmdk", 8, 1, 3);
    let web = disks::manifest(&[("boot", &disk, "vmdk")], "name: web");
    let head = "batch_version: \"1.0\"\nvms: [{manifest: web.yaml}, {manifest: db.yaml}]\n";
    daemon.drop_file("fleet.yaml", head);
    daemon.drop_file("web.yaml", &web);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(daemon.client(&["list"])["jobs"].as_array().unwrap().is_empty(), "it waits for db.yaml");
    daemon.drop_file("db.yaml", web.replace("name: web", "name: db"));
    let progress = daemon.wait_batch("fleet");
    assert_eq!(
        states(&progress),
        [("db".into(), "succeeded".into()), ("web".into(), "succeeded".into())],
        "{}",
        daemon.log()
    );
    let settled = daemon.wait_settled("processed", "fleet.yaml");
    for name in ["fleet.yaml", "web.yaml", "db.yaml"] {
        assert!(settled.join(name).is_file(), "{name}");
    }
    assert_eq!(fs::read_dir(daemon.state().join("incoming")).unwrap().count(), 0);
    assert_eq!(daemon.client(&["list"])["jobs"].as_array().unwrap().len(), 2, "none ran by itself");
}

#[test]
fn a_manifest_that_never_comes_is_waited_for_and_then_its_vm_alone_is_refused() {
    let mut daemon = Daemon::prepare();
    daemon.configure("intake: {companion_wait_s: 1}\n");
    daemon.start();
    let dir = daemon.scratch().to_owned();
    daemon
        .drop_file("fleet.yaml", batch("", &[entry(&dir, "web", ""), "  - {manifest: gone.yaml}\n".into()]));
    let progress = daemon.wait_batch("fleet");
    assert_eq!(states(&progress), [("gone".into(), "failed".into()), ("web".into(), "succeeded".into())]);
    let error = json(&daemon.wait_settled("failed", "fleet.yaml.error.json"));
    assert!(error["error"].as_str().unwrap().contains("gone.yaml"), "{error:#}");
}

#[test]
fn a_secret_in_a_manifest_of_a_batch_is_not_kept() {
    let mut daemon = Daemon::prepare();
    daemon.configure("credentials: {allow_inline: true}\n");
    daemon.start();
    let disk = disks::disk(daemon.scratch(), "web", "vmdk", 8, 1, 3);
    let web = format!(
        "manifest_version: \"1.0\"\nname: web\npipeline: {{boot_test: {{enabled: false}}, fix: {{on_no_os: skip}}}}\nconfiguration: {{users: {{users: [{{name: joe, password: topsecret-7}}]}}}}\ndisks: [{{id: boot, source_format: vmdk, local_path: {}}}]\n",
        disk.display()
    );
    daemon.drop_file("web.yaml.part", &web);
    daemon.drop_file("fleet.yaml", "batch_version: \"1.0\"\nvms: [{manifest: web.yaml}]\n");
    fs::rename(daemon.state().join("incoming/web.yaml.part"), daemon.state().join("incoming/web.yaml"))
        .unwrap();
    daemon.wait_batch("fleet");
    wait_for("the batch to be put away", || {
        daemon.settled("processed", "fleet.yaml").or_else(|| daemon.settled("failed", "fleet.yaml"))
    });
    let telling = Daemon::files_below(daemon.state(), |_| true).into_iter().filter(|path| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(11).any(|word| word == b"topsecret-7"))
    });
    assert_eq!(telling.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_batch_of_no_vms_is_done_at_once() {
    let daemon = Daemon::start_new();
    daemon.drop_file("none.yaml", "batch_version: \"1.0\"\nbatch_metadata: {batch_id: nothing}\nvms: []\n");
    let report = json(&daemon.wait_settled("processed", "none.yaml.report.json"));
    assert_eq!(
        (&report["batch"]["total_vms"], &report["batch"]["success"]),
        (&0.into(), &true.into()),
        "{report:#}"
    );
}

#[test]
fn after_a_failure_nothing_begins_where_the_batch_says_so() {
    let mut daemon = Daemon::prepare();
    daemon.configure("max_concurrent_jobs: 1\n");
    daemon.start();
    let dir = daemon.scratch().to_owned();
    let broken = dir.join("broken.vmdk");
    fs::write(&broken, "KDMV and nothing else").unwrap();
    let entries =
        [entry_of("first", &broken, "vmdk", "    priority: 1\n"), entry(&dir, "second", "    priority: 2\n")];
    daemon.drop_file("fleet.yaml", batch("batch_metadata: {continue_on_error: false}\n", &entries));
    let progress = daemon.wait_batch("fleet");
    assert_eq!(states(&progress), [("first".into(), "failed".into()), ("second".into(), "cancelled".into())]);
    assert!(!daemon.state().join("output/fleet/second").exists());
}

#[test]
fn a_batch_is_paused_resumed_cancelled_and_what_failed_of_it_tried_again_by_its_name() {
    let mut daemon = Daemon::prepare();
    // The big one is cancelled in the end: nobody waits for all of it.
    daemon.configure("max_concurrent_jobs: 2\nlimits: {disk_reserve: 1MiB, bandwidth: [{rate: 3MiB/s}]}\n");
    daemon.start();
    let dir = daemon.scratch().to_owned();
    let big = disks::disk(&dir, "big", "raw", 112, 96, 1);
    let late = dir.join("late.vmdk");
    let entries = [entry_of("big", &big, "raw", ""), entry_of("late", &late, "vmdk", "")];
    daemon.drop_file("fleet.yaml", batch("", &entries));
    wait_for("one to fail while the other copies", || {
        (jobs_of(&daemon, "failed") == ["fleet/late"] && jobs_of(&daemon, "running") == ["fleet/big"])
            .then_some(())
    });
    daemon.client(&["pause", "fleet"]);
    wait_for("it to stand still", || (jobs_of(&daemon, "waiting") == ["fleet/big"]).then_some(()));
    daemon.client(&["resume", "fleet"]);
    wait_for("it to go on", || (jobs_of(&daemon, "running") == ["fleet/big"]).then_some(()));
    disks::disk(&dir, "late", "vmdk", 8, 1, 9);
    daemon.client(&["retry", "fleet", "--failed"]);
    wait_for("the failed one to succeed", || (jobs_of(&daemon, "succeeded") == ["fleet/late"]).then_some(()));
    daemon.client(&["cancel", "fleet"]);
    let progress = daemon.wait_batch("fleet");
    assert_eq!(progress["state"], "cancelled");
    assert_eq!(states(&progress), [("big".into(), "cancelled".into()), ("late".into(), "succeeded".into())]);
}

#[test]
fn no_more_vms_run_at_a_time_than_the_batch_allows() {
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("max_concurrent_jobs: 3\n{HELD}"));
    daemon.start();
    let dir = daemon.scratch().to_owned();
    let entries: Vec<String> = (0..3)
        .map(|number| {
            let id = format!("vm{number}");
            let path = disks::disk(&dir, &id, "raw", 32, 16, number);
            entry_of(&id, &path, "raw", "")
        })
        .collect();
    daemon.drop_file("fleet.yaml", batch("batch_metadata: {parallel_limit: 1}\n", &entries));
    let mut most = 0;
    wait_for("the batch to end", || {
        let progress = daemon.progress("fleet")?;
        most = most.max(progress["counts"]["in_progress"].as_u64().unwrap());
        (progress["state"] == "completed").then_some(())
    });
    assert_eq!(most, 1);
}
