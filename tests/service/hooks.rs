//! Hooks of dropped manifests, run by a daemon that is stopped, killed and reloaded meanwhile.

use std::time::Duration;

use serde_json::Value;

use super::site::{drop_disk, only_vm, source, wait_vm};
use super::support::hooks::Hooks;
use super::support::receiver::{Answer, WebReceiver};
use super::support::{Daemon, wait_for, within};

/// A running daemon that may run these hooks.
fn start(hooks: &Hooks) -> Daemon {
    let mut daemon = Daemon::prepare();
    allow(&daemon, hooks, "");
    daemon.start();
    daemon
}

fn allow(daemon: &Daemon, hooks: &Hooks, further: &str) {
    daemon.configure(&format!("hooks: {{allowed_dirs: [{}]}}\n{further}", hooks.allowed().display()));
}

/// Drops a VM whose manifest has these hooks.
fn drop_hooked(daemon: &Daemon, hooks: &str) {
    let disk = source(daemon, "disk", "raw", 4);
    drop_disk(daemon, "vm", &disk, "raw", &format!("hooks:\n{hooks}"));
}

fn entry(stage: &str, path: &std::path::Path, args: &[&str], further: &str) -> String {
    format!("  {stage}:\n    - {{type: script, path: {}, args: {args:?}{further}}}\n", path.display())
}

#[test]
fn a_daemon_runs_hooks_shows_them_and_keeps_what_they_said() {
    let hooks = Hooks::new();
    let daemon = start(&hooks);
    let (flag, notes) = (hooks.file("flag"), hooks.file("notes"));
    let path = hooks.script(
        "wait",
        "echo \"said by $2\"; echo \"$3\" >>\"$2\"; while [ ! -e \"$1\" ]; do sleep 0.05; done",
    );
    let args =
        [flag.to_str().unwrap(), notes.to_str().unwrap(), "{{ vm_name }} {{ job_id }} {{ disks.0.id }}"];
    drop_hooked(&daemon, &entry("pre_extraction", &path, &args, ", name: waiting"));
    let vm = wait_vm(&daemon, "vm", "in its hook", |vm| vm["stage_detail"] == "hook waiting");
    assert_eq!(vm["current_stage"], "extraction", "{vm}");
    assert_eq!(vm["status"], "in_progress");
    std::fs::write(&flag, "").unwrap();
    assert_eq!(daemon.wait_batch("vm")["state"], "completed", "{}", daemon.log());
    assert_eq!(hooks.lines("notes"), ["vm 1 boot"]);
    let shown = daemon.client(&["show", "vm"]);
    let log = std::fs::read_to_string(shown["log"].as_str().unwrap()).unwrap();
    assert!(log.contains(&format!("| said by {}", notes.display())), "{log}");
    let report = daemon.wait_settled("processed", "vm.yaml.report.json");
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert!(report.to_string().contains("\"name\":\"waiting\""), "{report}");
    daemon_has_nobody_else(&daemon);
}

/// What runs hooks ends with the job.
#[track_caller]
fn daemon_has_nobody_else(daemon: &Daemon) {
    let alone = within(Duration::from_secs(20), || {
        daemon.processes().iter().all(|(pid, _)| *pid == daemon.pid()).then_some(())
    });
    assert!(alone.is_some(), "{:?}", daemon.processes());
}

#[test]
fn a_daemon_that_is_killed_in_a_hook_leaves_nothing_and_the_next_one_goes_on_with_it() {
    let hooks = Hooks::new();
    let mut daemon = start(&hooks);
    let notes = hooks.file("notes");
    let nap = format!("{}.25", 80_000 + std::process::id() % 10_000);
    let note = hooks.script("note", "echo \"$H2K_STAGE $H2K_ATTEMPT\" >>\"$1\"");
    let hang = hooks.script(
        "hang",
        &format!("echo \"$H2K_STAGE $H2K_ATTEMPT\" >>\"$1\"; [ \"$H2K_ATTEMPT\" -ge 3 ] && exit 0; setsid -f sleep {nap}; exec sleep {nap}"),
    );
    let args = [notes.to_str().unwrap()];
    let text = [
        entry("pre_extraction", &note, &args, ""),
        entry("post_extraction", &hang, &args, ""),
        entry("on_success", &note, &args, ""),
    ];
    drop_hooked(&daemon, &text.concat());
    let reached = |attempt: u32| {
        let last = format!("post_extraction {attempt}");
        wait_for("the hook", || (hooks.lines("notes").last() == Some(&last)).then_some(()));
    };
    reached(1);
    daemon.kill9();
    let asleep = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.windows(nap.len()).any(|part| part == nap.as_bytes())
        })
    };
    assert!(within(Duration::from_secs(20), || (!asleep()).then_some(())).is_some(), "a hook is left");
    daemon.start();
    reached(2);
    assert!(daemon.stop().success());
    assert!(!asleep(), "a hook outlives the stop");
    daemon.start();
    assert_eq!(daemon.wait_batch("vm")["state"], "completed", "{}", daemon.log());
    let expected =
        ["pre_extraction 1", "post_extraction 1", "post_extraction 2", "post_extraction 3", "on_success 1"];
    assert_eq!(hooks.lines("notes"), expected);
    daemon_has_nobody_else(&daemon);
}

#[test]
fn a_drop_may_name_no_script_where_no_directory_is_allowed() {
    let hooks = Hooks::new();
    let path = hooks.script("note", "echo ran >>\"$1\"");
    let daemon = Daemon::start_new();
    let notes = hooks.file("notes");
    drop_hooked(&daemon, &entry("pre_extraction", &path, &[notes.to_str().unwrap()], ""));
    let error = daemon.wait_settled("failed", "vm.yaml.error.json");
    let error: Value = serde_json::from_slice(&std::fs::read(error).unwrap()).unwrap();
    assert_eq!(error["field"], "hooks.pre_extraction[0].path", "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("hooks.allowed_dirs"), "{error}");
    assert_eq!(hooks.lines("notes"), Vec::<String>::new());
}

#[test]
fn a_hook_that_kills_what_runs_it_ends_with_it_and_costs_an_attempt() {
    let hooks = Hooks::new();
    let mut daemon = Daemon::prepare();
    allow(&daemon, &hooks, "retry: {max_attempts: 3, base_delay_s: 0.1, max_delay_s: 0.2}\n");
    daemon.start();
    let notes = hooks.file("notes");
    let path = hooks
        .script("ungrateful", "echo \"$H2K_ATTEMPT\" >>\"$1\"; kill -9 $PPID; sleep 30; echo alive >>\"$1\"");
    drop_hooked(&daemon, &entry("pre_extraction", &path, &[notes.to_str().unwrap()], ""));
    assert_eq!(daemon.wait_batch("vm")["state"], "failed", "{}", daemon.log());
    assert_eq!(only_vm(&daemon.progress("vm").unwrap())["attempt"], 3);
    assert_eq!(hooks.lines("notes"), ["1", "2", "3"]);
    daemon_has_nobody_else(&daemon);
}

#[test]
fn a_failed_hook_fails_the_job_at_once_and_a_retry_runs_what_had_not_ended_well() {
    let hooks = Hooks::new();
    let daemon = start(&hooks);
    let notes = hooks.file("notes");
    let good = hooks.script("good", "echo good >>\"$1\"");
    let bad = hooks.script("bad", "echo bad >>\"$1\"; exit 1");
    let told = hooks.script("told", "echo \"$2\" >>\"$1\"");
    let args = [notes.to_str().unwrap()];
    let text = [
        entry("post_extraction", &good, &args, ""),
        entry("post_convert", &bad, &args, ""),
        entry("on_failure", &told, &[notes.to_str().unwrap(), "{{ error_kind }}"], ""),
    ];
    drop_hooked(&daemon, &text.concat());
    assert_eq!(daemon.wait_batch("vm")["state"], "failed");
    let error = daemon.wait_settled("failed", "vm.yaml.error.json");
    let error: Value = serde_json::from_slice(&std::fs::read(error).unwrap()).unwrap();
    assert_eq!((error["kind"].as_str(), error["stage"].as_str()), (Some("hook"), Some("convert")), "{error}");
    assert_eq!(hooks.lines("notes"), ["good", "bad", "hook"]);
    hooks.script("bad", "echo better >>\"$1\"");
    daemon.client(&["retry", "vm"]);
    let done = within(Duration::from_secs(120), || {
        (daemon.client(&["show", "vm"])["state"] == "succeeded").then_some(())
    });
    assert!(done.is_some(), "{}", daemon.log());
    assert_eq!(hooks.lines("notes"), ["good", "bad", "hook", "better"]);
}

#[test]
fn the_example_does_what_it_says() {
    let hooks = Hooks::new();
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    for (name, mode) in [("note", "755"), ("keep-source", "755"), ("validators.py", "644")] {
        let content = std::fs::read_to_string(examples.join("hooks").join(name)).unwrap();
        hooks.install(name, mode, &content);
    }
    let inventory = WebReceiver::start();
    // It is told again, as the example's `retry` says.
    inventory.answer_next([Answer::Status(503, "")]);
    let daemon = start(&hooks);
    let disk = source(&daemon, "web01", "vmdk", 8);
    let manifest = std::fs::read_to_string(examples.join("hooks.yaml")).unwrap();
    let manifest = manifest
        .replace("/etc/hyper2kvm/hooks", hooks.allowed().to_str().unwrap())
        .replace("/srv/export/web01/web01.vmdk", disk.to_str().unwrap())
        .replace("https://inventory.example.com", &inventory.url(""))
        .replace("initial_delay: 2", "initial_delay: 0.1");
    daemon.drop_file(
        "web01.yaml",
        format!(
            "{manifest}pipeline: {{{}}}\n",
            "inspect: {enabled: false}, fix: {enabled: false}, boot_test: {enabled: false}"
        ),
    );
    assert_eq!(daemon.wait_batch("web01")["state"], "completed", "{}", daemon.log());
    let shown = daemon.client(&["show", "web01"]);
    let log = std::fs::read_to_string(shown["log"].as_str().unwrap()).unwrap();
    for said in ["| web01 (pre_extraction, attempt 1): web01 begins:", " holds "] {
        assert!(log.contains(said), "{said}: {log}");
    }
    let kept = daemon.state().join("output/web01/web01/source.txt");
    assert!(std::fs::read_to_string(kept).unwrap().contains("web01"));
    let answers: Vec<_> = inventory.hits().iter().map(|hit| hit.answer).collect();
    assert_eq!(answers, [Some(503), Some(200)]);
    let told = inventory.taken()[0].clone();
    assert_eq!(told.target, "/vms/web01/migrated");
    assert_eq!(told.json()["disk"], daemon.state().join("output/web01/web01/boot.qcow2").to_str().unwrap());
}
