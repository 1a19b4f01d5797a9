//! Hooks that are run by real workers: scripts and Python functions, as manifests want them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::hook::{Content, HookCall, HookRetries, PlannedHook};
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::manifest::{HookStage, OnNoOs, OnUnsupportedGuest, RetryStrategy};
use hyper2kvm::model::protocol::{WorkerEvent, WorkerOutcome};
use hyper2kvm::model::template::Template;

use crate::site::Site;
use crate::support::hooks::Hooks;

/// A hook of this stage.
pub fn hook(stage: HookStage, number: u32, call: HookCall) -> PlannedHook {
    PlannedHook {
        stage,
        number,
        name: format!("{}[{}]", stage.name(), number - 1),
        call,
        timeout_s: 60.0,
        continue_on_error: false,
        beside: false,
        retry: HookRetries {
            max_retries: 0,
            initial_delay_s: 0.05,
            strategy: RetryStrategy::Constant,
            max_delay_s: 1.0,
            retry_on_timeout: true,
        },
    }
}

/// A script with these arguments, which may hold names.
pub fn script(path: &Path, args: &[&str]) -> HookCall {
    HookCall::Script {
        path: path.to_owned(),
        args: args.iter().map(|arg| Template::parse(arg).unwrap()).collect(),
        env: BTreeMap::new(),
        working_directory: None,
    }
}

fn python(module: &str, function: &str, args: &serde_json::Value) -> HookCall {
    let Content::Map(args) = Content::parse(args).unwrap() else { panic!("arguments are a map") };
    HookCall::Python {
        module: module.into(),
        function: function.to_owned(),
        args: args.into_iter().collect(),
    }
}

/// A VM with these hooks.
pub fn site(hooks: &Hooks, planned: Vec<PlannedHook>) -> Site {
    let mut site = Site::new(&["raw"]);
    site.order.plan.hooks = planned;
    site.order.limits.hook_roots = vec![hooks.allowed()];
    site
}

/// A VM whose only hook is this script, before its disk is read.
pub fn with_script(hooks: &Hooks, lines: &str, args: &[&str]) -> Site {
    let path = hooks.script("hook", lines);
    site(hooks, vec![hook(HookStage::PreExtraction, 1, script(&path, args))])
}

pub fn note(hooks: &Hooks) -> String {
    hooks.file("notes").display().to_string()
}

pub fn failure(site: &Site) -> Error {
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Hook, "{error}\n{}", site.log_text());
    assert!(error.details().advice.is_some(), "{error}");
    error
}

#[test]
fn hooks_run_at_every_stage_in_order_and_the_report_lists_them() {
    let hooks = Hooks::new();
    let path = hooks.script("note", "echo \"$H2K_STAGE $H2K_VM $H2K_ATTEMPT $2\" >>\"$1\"");
    let notes = note(&hooks);
    let planned = HookStage::ALL
        .into_iter()
        .flat_map(|stage| [1, 2].map(|number| (stage, number)))
        .map(|(stage, number)| hook(stage, number, script(&path, &[&notes, "{{ attempt }}"])))
        .collect();
    let mut site = site(&hooks, planned);
    for planned in &mut site.order.plan.stages {
        planned.enabled |= planned.stage == Stage::Fix;
    }
    site.order.plan.guest.fix.on_no_os = OnNoOs::Skip;
    site.order.plan.guest.fix.on_unsupported_guest = OnUnsupportedGuest::Emulated;
    let published = site.succeed();
    let expected: Vec<String> = HookStage::ALL
        .into_iter()
        .filter(|stage| *stage != HookStage::OnFailure)
        .flat_map(|stage| [1, 2].map(|_| format!("{} vm 1 1", stage.name())))
        .collect();
    assert_eq!(hooks.lines("notes"), expected);
    site.assert_only(&["disk0.qcow2", "report.json"]);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(site.out().join("report.json")).unwrap()).unwrap();
    let listed = report["hooks"].as_array().unwrap();
    assert_eq!(listed.len(), 14, "those before the report was written");
    assert_eq!(listed[0]["stage"], "pre_extraction");
    assert_eq!(listed[0]["type"], "script");
    assert_eq!(listed[0]["status"], "exit code 0");
    assert_eq!((listed[0]["attempts"].as_u64(), listed[0]["exit_code"].as_i64()), (Some(1), Some(0)));
    assert_eq!(published.content.unwrap().hooks.len(), 16, "and those of on_success");
    site.assert_no_process();
}

#[test]
fn a_hook_gets_its_arguments_as_they_are_and_no_variables_but_its_own() {
    let hooks = Hooks::new();
    let lines = "for a; do echo \"[$a]\"; done >\"$OUT\"; env | cut -d= -f1 | sort >>\"$OUT\"; pwd >>\"$OUT\"; ls /proc/self/fd | wc -l >>\"$OUT\"";
    let path = hooks.script("show", lines);
    let mut call = script(&path, &["$(id)", "`id`; id", "", "a  b", "{{ output_path }}", "*"]);
    if let HookCall::Script { env, working_directory, .. } = &mut call {
        env.insert("OUT".to_owned(), Template::plain(note(&hooks)));
        *working_directory = Some(Template::parse("{{ output_dir }}").unwrap());
    }
    let site = site(&hooks, vec![hook(HookStage::PostConvert, 1, call)]);
    site.succeed();
    let out = site.out().display().to_string();
    let lines = hooks.lines("notes");
    let partial = format!("[{out}/.disk0.qcow2.partial]");
    assert_eq!(lines[..6], ["[$(id)]", "[`id`; id]", "[]", "[a  b]", &partial, "[*]"]);
    let names =
        ["H2K_ATTEMPT", "H2K_BATCH", "H2K_HOOK", "H2K_JOB", "H2K_STAGE", "H2K_VM", "OUT", "PATH", "PWD"];
    assert_eq!(lines[6..15], names, "PWD is the shell's own");
    // Standard input and outputs, the script, and the directory that `ls` reads.
    assert_eq!(lines[15..], [out, "5".to_owned()]);
}

#[test]
fn a_hook_that_fails_ends_the_job_and_on_failure_hears_why() {
    let hooks = Hooks::new();
    let bad = hooks.script("bad", "echo 'it is broken' >&2; exit 7");
    let told = hooks.script("told", "echo \"$2: $3\" >>\"$1\"");
    let site = site(
        &hooks,
        vec![
            hook(HookStage::PostExtraction, 1, script(&bad, &[])),
            hook(HookStage::PostExtraction, 2, script(&told, &[&note(&hooks), "never", ""])),
            hook(HookStage::OnFailure, 1, script(&told, &[&note(&hooks), "{{ error_kind }}", "{{ error }}"])),
        ],
    );
    let error = failure(&site);
    assert!(error.to_string().contains("exit code 7"), "{error}");
    assert_eq!(error.details().stage, Some(Stage::Extraction));
    assert_eq!(error.details().console_tail.as_deref(), Some("it is broken"));
    assert!(site.log_text().contains("| it is broken"), "{}", site.log_text());
    let notes = hooks.lines("notes");
    assert_eq!(notes, ["hook: the hook post_extraction[0] (post_extraction) failed: exit code 7"]);
    assert!(!site.out().join("report.json").exists());
    // The job is tried again: the hook that failed runs again, the disk is there.
    hooks.script("bad", "echo \"again $H2K_ATTEMPT\"");
    let published = site.succeed();
    assert_eq!(published.content.unwrap().hooks[0].attempts, 2);
}

#[test]
fn a_failure_that_is_to_be_borne_is_a_warning() {
    let hooks = Hooks::new();
    let bad = hooks.script("bad", "exit 3");
    let mut borne = hook(HookStage::PreExtraction, 1, script(&bad, &[]));
    borne.continue_on_error = true;
    let site = site(&hooks, vec![borne]);
    let report = site.succeed().content.unwrap();
    assert!(report.warnings.iter().any(|notice| notice.message.contains("exit code 3")));
    assert!(!report.hooks[0].success);
    assert_eq!(report.hooks[0].exit_code, Some(3));
}

#[test]
fn a_hook_of_on_success_that_fails_takes_nothing_back() {
    let hooks = Hooks::new();
    let bad = hooks.script("bad", "exit 3");
    let site = site(&hooks, vec![hook(HookStage::OnSuccess, 1, script(&bad, &[]))]);
    let told = site.run();
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}", told.outcome);
    let warned = |event: &WorkerEvent| matches!(event, WorkerEvent::Warning { message, .. } if message.contains("exit code 3"));
    assert!(told.events.iter().any(warned));
    site.assert_only(&["disk0.qcow2", "report.json"]);
}

#[test]
fn a_hook_is_tried_again_as_its_policy_says() {
    let hooks = Hooks::new();
    let path = hooks.script("third", "echo \"$H2K_ATTEMPT\" >>\"$1\"; [ \"$H2K_ATTEMPT\" -ge 3 ]");
    let mut planned = hook(HookStage::PreExtraction, 1, script(&path, &[&note(&hooks)]));
    planned.retry.max_retries = 2;
    planned.retry.initial_delay_s = 0.4;
    let site = site(&hooks, vec![planned]);
    let begun = Instant::now();
    let report = site.succeed().content.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(800), "it waited between them");
    assert_eq!(hooks.lines("notes"), ["1", "2", "3"]);
    assert_eq!((report.hooks[0].attempts, report.hooks[0].success), (3, true));
}

#[test]
fn a_timeout_is_not_tried_again_where_that_is_said() {
    let hooks = Hooks::new();
    let path = hooks.script("hang", "echo x >>\"$1\"; exec sleep 30");
    let mut planned = hook(HookStage::PreExtraction, 1, script(&path, &[&note(&hooks)]));
    planned.timeout_s = 3.0;
    planned.retry.max_retries = 1;
    let mut site = site(&hooks, vec![planned]);
    failure(&site);
    assert_eq!(hooks.lines("notes").len(), 2, "a timeout is a failure like others");
    site.order.plan.hooks[0].retry.retry_on_timeout = false;
    failure(&site);
    assert_eq!(hooks.lines("notes").len(), 3);
}

#[test]
fn secrets_in_what_a_hook_says_are_not_logged() {
    let hooks = Hooks::new();
    let lines = "echo 'password: hunter2'; echo 'Authorization: Bearer abcdef'; echo 'https://joe:hunter2@host/'; printf 'bell \\033[31m\\n'";
    let path = hooks.script("talk", &format!("{lines}; exit 1"));
    let site = site(&hooks, vec![hook(HookStage::PreExtraction, 1, script(&path, &[]))]);
    let error = failure(&site);
    let told = format!("{}{:?}", site.log_text(), error.details().console_tail);
    for secret in ["hunter2", "abcdef", "\u{1b}[31m"] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
    assert!(told.contains("[redacted]"), "{told}");
}

const VALIDATORS: &str = r#"
import os, sys
from os import system

def verify(disk, least, flags):
    print("looked at", disk)
    assert isinstance(least, int) and flags == {"deep": True, "names": ["a", "vm"]}, (least, flags)
    return os.path.getsize(disk) >= least

def nothing():
    pass

def said():
    return {"success": False, "error": "too small", "output": "3 sectors"}

def fine():
    return {"output": "all good"}

def no():
    return False

def crash():
    raise ValueError("what a pity")
"#;

#[test]
fn a_python_function_gets_its_arguments_by_name_and_its_answer_counts() {
    let hooks = Hooks::new();
    hooks.install("validators.py", "644", VALIDATORS);
    let args = serde_json::json!({
        "disk": "{{ output_path }}", "least": 4096, "flags": { "deep": true, "names": ["a", "{{ vm_id }}"] }
    });
    let site = site(
        &hooks,
        vec![
            hook(HookStage::PostConvert, 1, python("validators.py", "verify", &args)),
            hook(HookStage::PostConvert, 2, python("validators.py", "nothing", &serde_json::json!({}))),
            hook(HookStage::PostConvert, 3, python("validators.py", "fine", &serde_json::json!({}))),
        ],
    );
    let report = site.succeed().content.unwrap();
    assert!(report.hooks.iter().all(|run| run.success && run.hook_type.name() == "python"));
    assert!(site.log_text().contains("| looked at"), "{}", site.log_text());
    assert!(site.log_text().contains("| all good"), "{}", site.log_text());
}

#[test]
fn a_python_function_that_fails_or_is_not_the_files_own_fails_the_job() {
    let hooks = Hooks::new();
    let path = hooks.install("validators.py", "644", VALIDATORS).display().to_string();
    for (function, args, says) in [
        ("no", "{}", "no() says that it failed"),
        ("said", "{}", "too small"),
        ("crash", "{}", "what a pity"),
        ("system", r#"{"command": "true"}"#, "defines no function `system`"),
        ("os", "{}", "defines no function `os`"),
        ("missing", "{}", "defines no function `missing`"),
        ("nothing", r#"{"unwanted": 1}"#, "unexpected keyword argument"),
    ] {
        let args = serde_json::from_str(args).unwrap();
        let site = site(&hooks, vec![hook(HookStage::PreExtraction, 1, python(&path, function, &args))]);
        let error = failure(&site);
        let tail = error.details().console_tail.clone().unwrap_or_default();
        assert!(tail.contains(says), "{function}: {error}: {tail}");
    }
}

#[test]
fn a_python_function_that_hangs_is_killed() {
    let hooks = Hooks::new();
    hooks.install("hang.py", "644", "import time\ndef hang():\n    time.sleep(1000)\n");
    let mut planned = hook(HookStage::PreExtraction, 1, python("hang.py", "hang", &serde_json::json!({})));
    planned.timeout_s = 1.0;
    planned.retry.max_retries = 1;
    let site = site(&hooks, vec![planned]);
    let error = failure(&site);
    assert!(error.to_string().contains("did not end within"), "{error}");
    assert_eq!(site.log_text().matches("hook failed: tried again").count(), 1, "{}", site.log_text());
}

#[test]
fn a_hook_beside_the_stages_is_waited_for_before_anything_is_published() {
    let hooks = Hooks::new();
    let slow =
        hooks.script("slow", "while [ ! -e \"$1\" ]; do sleep 0.02; done; sleep 0.5; echo slow >>\"$2\"");
    let quick = hooks.script("quick", "echo quick >>\"$2\"; touch \"$1\"");
    let (flag, notes) = (hooks.file("flag").display().to_string(), note(&hooks));
    let mut beside = hook(HookStage::PreExtraction, 1, script(&slow, &[&flag, &notes]));
    beside.beside = true;
    let site = site(
        &hooks,
        vec![
            beside,
            // It could never come to this if the first were waited for.
            hook(HookStage::PostValidate, 1, script(&quick, &[&flag, &notes])),
            hook(HookStage::OnSuccess, 1, script(&quick, &[&flag, &notes])),
        ],
    );
    let report = site.succeed().content.unwrap();
    assert_eq!(hooks.lines("notes"), ["quick", "slow", "quick"]);
    assert_eq!(report.hooks.len(), 3);
}

#[test]
fn a_hook_beside_the_stages_that_fails_keeps_the_result_from_being_published() {
    let hooks = Hooks::new();
    let bad = hooks.script("bad", "sleep 0.3; exit 9");
    let mut beside = hook(HookStage::PreExtraction, 1, script(&bad, &[]));
    beside.beside = true;
    let site = site(&hooks, vec![beside]);
    let error = failure(&site);
    assert!(error.to_string().contains("exit code 9"), "{error}");
    assert!(!site.out().join("report.json").exists());
}
