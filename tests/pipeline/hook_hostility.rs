//! Hooks that misbehave, and files that are none: what hangs, floods, hides, or was written by somebody else.

use std::time::{Duration, Instant};

use hyper2kvm::model::manifest::HookStage;

use crate::hooks::{failure, hook, note, script, site, with_script};
use crate::support::hooks::{Hooks, as_root};
use crate::support::{wait_for, within};

/// Whether a process runs whose command line holds this.
pub fn runs(marker: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let state = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let ended = state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        !ended && line.windows(marker.len()).any(|part| part == marker.as_bytes())
    })
}

#[track_caller]
pub fn assert_gone(marker: &str) {
    assert!(
        within(Duration::from_secs(20), || (!runs(marker)).then_some(())).is_some(),
        "a process with {marker} is left"
    );
}

/// A number that no other test sleeps for.
pub fn nap() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", 70_000 + std::process::id() % 10_000, NEXT.fetch_add(1, Ordering::Relaxed) + 1)
}

#[test]
fn a_hook_that_hangs_is_killed_with_all_that_it_started() {
    let hooks = Hooks::new();
    let nap = nap();
    // A child in its group, one in a session of its own whose parent is gone, and one that lets go of the outputs too.
    let lines = format!(
        "sleep {nap} & setsid sh -c 'sleep {nap} & sleep 0.1; exit' & setsid setsid -f sleep {nap} >/dev/null 2>&1 </dev/null; exec sleep {nap}"
    );
    let path = hooks.script("hang", &lines);
    let mut planned = hook(HookStage::PreExtraction, 1, script(&path, &[]));
    planned.timeout_s = 4.0;
    let site = site(&hooks, vec![planned]);
    let error = failure(&site);
    assert!(error.to_string().contains("did not end within 4 s"), "{error}");
    assert!(!runs(&nap), "something is left when the worker has ended");
    assert!(site.log_text().contains("processes behind, which were ended"), "{}", site.log_text());
}

#[test]
fn what_a_hook_leaves_running_ends_with_it_although_it_ended_well() {
    let hooks = Hooks::new();
    let nap = nap();
    let site = with_script(&hooks, &format!("setsid -f sleep {nap} >/dev/null 2>&1; exit 0"), &[]);
    site.succeed();
    assert!(!runs(&nap));
}

#[test]
fn a_flood_of_output_is_cut_and_never_holds_the_hook_up() {
    let hooks = Hooks::new();
    let site = with_script(&hooks, "head -c 200000000 /dev/zero | tr '\\0' x; echo; echo end", &[]);
    let begun = Instant::now();
    site.succeed();
    assert!(begun.elapsed() < Duration::from_secs(100));
    assert!(site.log_text().len() < 200_000, "{} bytes", site.log_text().len());
    assert!(site.log_text().contains("bytes more, which are not kept"));
}

#[test]
fn only_what_root_alone_can_have_written_is_run() {
    let hooks = Hooks::new();
    let path = hooks.script("hook", "exit 0");
    let site = site(&hooks, vec![hook(HookStage::PreExtraction, 1, script(&path, &[]))]);
    let dir = hooks.allowed();
    let refused = |says: &str| {
        let error = failure(&site);
        assert!(error.to_string().contains(says), "{error}");
    };
    as_root(&["chmod", "0777"], &[&path]);
    refused("may be changed by others");
    as_root(&["chmod", "0775"], &[&path]);
    refused("may be changed by others");
    as_root(&["chmod", "0644"], &[&path]);
    refused("is not executable");
    as_root(&["chmod", "0755"], &[&path]);
    as_root(&["chown", "12345"], &[&path]);
    refused("belongs to user 12345");
    as_root(&["chown", "0"], &[&path]);
    as_root(&["chmod", "1777"], &[&dir]);
    refused("may be changed by others");
    as_root(&["chmod", "0755"], &[&dir]);
    site.succeed();
}

#[test]
fn a_file_behind_a_link_or_outside_is_not_run() {
    let hooks = Hooks::new();
    hooks.script("real", "exit 0");
    let (link, nested) = (hooks.allowed().join("link"), hooks.allowed().join("dir"));
    as_root(&["ln", "-s", "/bin/true"], &[&link]);
    as_root(&["ln", "-s", "/bin"], &[&nested]);
    for path in [link, nested.join("true"), "/bin/true".into(), hooks.allowed().join("nothing")] {
        let site = site(&hooks, vec![hook(HookStage::PreExtraction, 1, script(&path, &[]))]);
        let error = failure(&site);
        assert!(!site.out().join("report.json").exists(), "{error}");
    }
}

#[test]
fn a_file_that_becomes_bad_after_it_was_looked_at_is_not_run() {
    let hooks = Hooks::new();
    let second = hooks.script("second", "echo second >>\"$1\"");
    // The first takes the second's place with what somebody else wrote.
    let planted = hooks.file("planted");
    std::fs::write(&planted, "#!/bin/sh\necho planted >>\"$1\"\n").unwrap();
    as_root(&["chmod", "0777"], &[&planted]);
    as_root(&["chown", "12345"], &[&planted]);
    let swap = hooks.file("swap");
    let first = hooks.script("first", "touch \"$1\"; while [ -e \"$1\" ]; do sleep 0.02; done");
    let site = site(
        &hooks,
        vec![
            hook(HookStage::PreExtraction, 1, script(&first, &[&swap.display().to_string()])),
            hook(HookStage::PostExtraction, 1, script(&second, &[&note(&hooks)])),
        ],
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("the first hook", || swap.exists().then_some(()));
            as_root(&["mv", "-f"], &[&planted, &second]);
            as_root(&["rm"], &[&swap]);
        });
        let error = failure(&site);
        assert!(error.to_string().contains("belongs to user 12345"), "{error}");
    });
    assert_eq!(hooks.lines("notes"), Vec::<String>::new());
}

#[test]
fn what_is_no_program_is_never_given_to_a_shell() {
    let hooks = Hooks::new();
    let path = hooks.install("plain", "755", &format!("echo ran >>{}\n", note(&hooks)));
    let site = site(&hooks, vec![hook(HookStage::PreExtraction, 1, script(&path, &[]))]);
    let error = failure(&site);
    assert!(error.to_string().contains("nor begins with `#!`"), "{error}");
    assert_eq!(hooks.lines("notes"), Vec::<String>::new());
}

#[test]
fn a_program_that_is_no_script_is_run_too() {
    let hooks = Hooks::new();
    let path = hooks.allowed().join("touch");
    as_root(&["cp", "--dereference", "/usr/bin/touch"], &[&path]);
    as_root(&["chmod", "755"], &[&path]);
    let touched = hooks.file("touched");
    let site = site(
        &hooks,
        vec![hook(HookStage::PreExtraction, 1, script(&path, &[&touched.display().to_string()]))],
    );
    site.succeed();
    assert!(touched.exists());
}

#[test]
fn what_is_told_of_a_hook_that_is_about_to_start_is_not_lost() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    const HOOKS: u64 = 40;
    let hooks = Hooks::new();
    let path = hooks.script("nap", "exec sleep 600");
    let mut host = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .arg("hooks")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut orders = host.stdin.take().unwrap();
    let bounds = serde_json::json!({
        "roots": [hooks.allowed()], "timeout_s": 600.0, "memory_bytes": 1_u64 << 30,
        "network": {"attempts": 1, "base_delay_s": 1.0, "max_delay_s": 1.0, "jitter": 0.0},
    });
    for id in 1..=HOOKS {
        let call = serde_json::json!({"Script": {"file": path, "args": [], "env": [], "directory": "/"}});
        let run = serde_json::json!({"Run": {"id": id, "call": call, "bounds": bounds}});
        writeln!(orders, "{run}\n{}", serde_json::json!({"Kill": {"id": id}})).unwrap();
    }
    let begun = Instant::now();
    let ended = BufReader::new(host.stdout.take().unwrap()).lines().take(HOOKS as usize);
    for line in ended {
        let line = line.unwrap();
        assert!(line.contains("\"Ended\"") && line.contains("\"success\":false"), "{line}");
    }
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    drop(orders);
    assert!(host.wait().unwrap().success());
}
