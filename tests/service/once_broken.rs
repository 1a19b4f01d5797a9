//! What the Python program promised of batches, mappings and hooks and did not do, each as a batch that shows it done.
//!
//! Its other broken promises have their tests where they belong: built-in profiles in `tests/model/profiles.rs`, a validation that could not fail in
//! `tests/cli/preflight.rs`, draining and retries in `daemon.rs` and `attempts.rs`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::hooks::Hooks;
use crate::support::{Daemon, disks};

fn entry(dir: &Path, id: &str, further: &str) -> String {
    let seed = id.bytes().map(u64::from).sum();
    let path = disks::disk(dir, id, "vmdk", 8, 1, seed);
    format!(
        "  - id: {id}\n    manifest: {{{further}disks: [{{id: boot, source_format: vmdk, local_path: {}}}]}}\n",
        path.display()
    )
}

fn batch(shared: &str, entries: &[String]) -> String {
    format!(
        "batch_version: \"1.0\"\nbatch_metadata: {{batch_id: fleet}}\nshared_config:\n  {}{shared}vms:\n{}",
        disks::BYTES_ONLY,
        entries.concat()
    )
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn twelve_machines_are_converted_side_by_side_without_a_failure() {
    let mut daemon = Daemon::prepare();
    daemon.configure("max_concurrent_jobs: 4\n");
    daemon.start();
    let dir = daemon.scratch().to_owned();
    let entries: Vec<String> = (0..12).map(|number| entry(&dir, &format!("vm{number}"), "")).collect();
    daemon.drop_file("fleet.yaml", batch("", &entries));
    let progress = daemon.wait_batch("fleet");
    assert_eq!(progress["counts"]["completed"], 12, "{progress:#}\n{}", daemon.log());
    let vms = progress["vms"].as_object().unwrap();
    let spans: Vec<(f64, f64)> = vms
        .values()
        .map(|vm| (vm["started_at"].as_f64().unwrap(), vm["completed_at"].as_f64().unwrap()))
        .collect();
    let beside = spans
        .iter()
        .filter(|one| spans.iter().any(|other| other.0 < one.1 && one.0 < other.1 && *other != **one));
    assert!(beside.count() > 2, "they ran one after the other: {spans:?}");
}

#[test]
fn script_hooks_run_those_before_the_extraction_too_and_are_told_their_vm() {
    let hooks = Hooks::new();
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("hooks: {{allowed_dirs: [{}]}}\n", hooks.allowed().display()));
    daemon.start();
    let (script, told) = (hooks.script("tell", "echo \"$2\" >>\"$1\""), hooks.file("told"));
    let hook = |stage: &str| {
        format!(
            "    {stage}: [{{type: script, path: {}, args: [\"{}\", \"{stage} {{{{ vm_name }}}} {{{{ disks.0.id }}}}\"]}}]\n",
            script.display(),
            told.display()
        )
    };
    let shared =
        format!("  hooks:\n{}{}{}", hook("pre_extraction"), hook("post_convert"), hook("on_success"));
    let dir = daemon.scratch().to_owned();
    daemon.drop_file("fleet.yaml", batch(&shared, &[entry(&dir, "web", "name: web, ")]));
    assert_eq!(daemon.wait_batch("fleet")["state"], "completed", "{}", daemon.log());
    assert_eq!(
        hooks.lines("told"),
        ["pre_extraction web boot", "post_convert web boot", "on_success web boot"]
    );
}

#[test]
fn network_and_storage_mappings_take_effect() {
    let daemon = Daemon::start_new();
    let dir = daemon.scratch().to_owned();
    let elsewhere = dir.join("fast");
    let shared = format!(
        "  network_mapping: {{source_networks: {{VM Network: br7}}}}\n  storage_mapping: {{disk_mappings: {{boot: {}}}}}\n",
        elsewhere.display()
    );
    let nic = "nics: [{mac: \"52:54:00:00:00:07\", network: VM Network}], ";
    daemon.drop_file("fleet.yaml", batch(&shared, &[entry(&dir, "web", nic)]));
    assert_eq!(daemon.wait_batch("fleet")["state"], "completed", "{}", daemon.log());
    let domain = fs::read_to_string(daemon.state().join("output/fleet/web/domain.xml")).unwrap();
    let disk = elsewhere.join("web-boot.qcow2");
    assert!(domain.contains("br7") && domain.contains("52:54:00:00:00:07"), "{domain}");
    assert!(domain.contains(&disk.display().to_string()) && disk.exists(), "{domain}");
}

#[test]
fn a_batch_with_a_checkpoint_is_gone_on_with_and_what_failed_is_not_recorded_as_done() {
    let daemon = Daemon::start_new();
    let dir = daemon.scratch().to_owned();
    let good = entry(&dir, "web", "");
    let late = entry(&dir, "late", "");
    fs::rename(dir.join("late.vmdk"), dir.join("kept.vmdk")).unwrap();
    let text = batch("", &[good, late]);
    daemon.drop_file("fleet.yaml", &text);
    let progress = daemon.wait_batch("fleet");
    assert_eq!((&progress["counts"]["completed"], &progress["counts"]["failed"]), (&1.into(), &1.into()));
    assert_eq!(progress["completion_percentage"], 100.0);
    daemon.wait_settled("failed", "fleet.yaml");
    let checkpoint = json(&daemon.state().join("output/fleet/.hyper2kvm-checkpoint-fleet.json"));
    assert_eq!(checkpoint["completed_vms"], serde_json::json!(["web"]), "{checkpoint:#}");
    assert_eq!(checkpoint["vms"]["late"]["state"], "failed", "{checkpoint:#}");

    fs::rename(dir.join("kept.vmdk"), dir.join("late.vmdk")).unwrap();
    daemon.drop_file("fleet.yaml", &text);
    daemon.wait_settled("processed", "fleet.yaml");
    let progress = daemon.wait_batch("fleet");
    assert_eq!((&progress["counts"]["completed"], &progress["counts"]["skipped"]), (&1.into(), &1.into()));
    assert_eq!(progress["completion_percentage"], 100.0, "what was skipped counts too");
}

#[test]
fn what_waits_is_counted_as_pending_and_a_stage_as_completed_when_it_has_ended() {
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("max_concurrent_jobs: 1\n{}", crate::site::HELD));
    daemon.start();
    let dir = daemon.scratch().to_owned();
    let big = disks::disk(&dir, "big", "raw", 112, 96, 1);
    let first = format!(
        "  - id: big\n    priority: -1\n    manifest: {{disks: [{{id: boot, source_format: raw, local_path: {}}}]}}\n",
        big.display()
    );
    daemon.drop_file("fleet.yaml", batch("", &[first, entry(&dir, "small", "")]));
    let copying = crate::support::wait_for("the first to copy", || {
        let progress = daemon.progress("fleet")?;
        (progress["vms"]["big"]["current_stage"] == "extraction").then_some(progress)
    });
    assert_eq!((&copying["counts"]["pending"], &copying["counts"]["in_progress"]), (&1.into(), &1.into()));
    assert_eq!(copying["vms"]["big"]["stages_completed"], serde_json::json!(["load"]));
    daemon.client(&["cancel", "fleet"]);
    daemon.wait_batch("fleet");
}
