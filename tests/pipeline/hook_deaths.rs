//! Hooks whose worker is stopped, cancelled, paused or killed: what is left of them, and what runs again.

use std::time::Duration;

use hyper2kvm::model::job::Stage;
use hyper2kvm::model::manifest::HookStage;
use hyper2kvm::model::protocol::{WorkerCommand, WorkerEvent, WorkerOutcome};

use crate::hook_hostility::{assert_gone, nap, runs};
use crate::hooks::{hook, note, script, site, with_script};
use crate::site::Site;
use crate::support::hooks::Hooks;
use crate::support::{wait_for, within};

/// A hook that says that it runs and then hangs.
fn hanging(hooks: &Hooks, nap: &str) -> Site {
    with_script(
        hooks,
        &format!(
            "echo \"$H2K_ATTEMPT\" >>\"$1\"; [ \"$H2K_ATTEMPT\" = 1 ] || exit 0; setsid -f sleep {nap}; exec sleep {nap}"
        ),
        &[&note(hooks)],
    )
}

fn is_shown(event: &WorkerEvent) -> bool {
    matches!(event, WorkerEvent::StageDetail { stage: Stage::Extraction, detail } if detail == "hook pre_extraction[0]")
}

#[test]
fn a_hook_that_is_stopped_runs_again_and_knows_it() {
    let hooks = Hooks::new();
    let nap = nap();
    let site = hanging(&hooks, &nap);
    let told = site.run_with(|event, worker| {
        if is_shown(event) {
            wait_for("the hook", || (hooks.lines("notes") == ["1"]).then_some(()));
            worker.send(WorkerCommand::Stop);
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Stopped, "{}", site.log_text());
    assert!(!runs(&nap));
    let report = site.succeed().content.unwrap();
    assert_eq!(hooks.lines("notes"), ["1", "2"]);
    assert_eq!(report.hooks[0].attempts, 2);
}

#[test]
fn a_hook_that_is_cancelled_leaves_nothing() {
    let hooks = Hooks::new();
    let nap = nap();
    let site = hanging(&hooks, &nap);
    let told = site.run_with(|event, worker| {
        if is_shown(event) {
            wait_for("the hook", || (hooks.lines("notes") == ["1"]).then_some(()));
            worker.send(WorkerCommand::Cancel { keep_partial: false });
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Cancelled);
    site.assert_only(&[]);
    assert!(!runs(&nap));
}

#[test]
fn a_hook_stands_still_while_its_worker_does_and_that_costs_it_no_time() {
    let hooks = Hooks::new();
    let path = hooks.script("count", "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i >>\"$1\"; sleep 0.2; done");
    let mut planned = hook(HookStage::PreExtraction, 1, script(&path, &[&note(&hooks)]));
    planned.timeout_s = 10.0;
    let site = site(&hooks, vec![planned]);
    let told = site.run_with(|event, worker| {
        if is_shown(event) {
            wait_for("the hook", || (!hooks.lines("notes").is_empty()).then_some(()));
            worker.send(WorkerCommand::Pause);
        }
        if matches!(event, WorkerEvent::Paused) {
            let still = within(Duration::from_secs(20), || {
                let before = hooks.lines("notes").len();
                std::thread::sleep(Duration::from_millis(700));
                (hooks.lines("notes").len() == before).then_some(before)
            });
            assert!(still.is_some_and(|lines| lines < 10), "{still:?}");
            std::thread::sleep(Duration::from_secs(9));
            worker.send(WorkerCommand::Resume);
        }
    });
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}\n{}", told.outcome, site.log_text());
}

#[test]
fn a_killed_worker_leaves_no_hook_and_the_next_one_runs_only_what_had_not_ended() {
    let hooks = Hooks::new();
    let nap = nap();
    let done = hooks.script("done", "echo \"done $H2K_ATTEMPT\" >>\"$1\"");
    let hang = hooks.script(
        "hang",
        &format!("echo \"hang $H2K_ATTEMPT\" >>\"$1\"; [ \"$H2K_ATTEMPT\" = 1 ] || exit 0; setsid -f sleep {nap}; exec sleep {nap}"),
    );
    let site = site(
        &hooks,
        vec![
            hook(HookStage::PreExtraction, 1, script(&done, &[&note(&hooks)])),
            hook(HookStage::PostExtraction, 1, script(&hang, &[&note(&hooks)])),
        ],
    );
    let told = site.run_with(|event, worker| {
        if matches!(event, WorkerEvent::StageDetail { detail, .. } if detail == "hook post_extraction[0]") {
            wait_for("the hook", || (hooks.lines("notes").len() == 2).then_some(()));
            worker.kill();
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Stopped, "{}", site.log_text());
    assert_gone(&nap);
    site.succeed();
    assert_eq!(hooks.lines("notes"), ["done 1", "hang 1", "hang 2"]);
    site.assert_only(&["disk0.qcow2", "report.json"]);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_worker_that_dies_between_any_two_records_runs_no_hook_again_whose_end_was_recorded() {
    use crate::crashes::armed;
    use crate::site::drive;
    for (failpoint, runs) in [
        // Recorded as started, and never was.
        ("hooks.before-start:2", vec!["pre 1", "success 1"]),
        ("hooks.after-start:1", vec!["pre 2", "success 1"]),
        // It had ended, and that was not recorded.
        ("hooks.before-end:1", vec!["pre 1", "pre 2", "success 1"]),
        ("hooks.after-end:1", vec!["pre 1", "success 1"]),
        ("publish.after-report:1", vec!["pre 1", "success 1"]),
        ("hooks.after-start:2", vec!["pre 1", "success 2"]),
        ("hooks.after-end:2", vec!["pre 1", "success 1"]),
    ] {
        let hooks = Hooks::new();
        let path = hooks.script("note", "echo \"$2 $H2K_ATTEMPT\" >>\"$1\"");
        let site = site(
            &hooks,
            vec![
                hook(HookStage::PreExtraction, 1, script(&path, &[&note(&hooks), "pre"])),
                hook(HookStage::OnSuccess, 1, script(&path, &[&note(&hooks), "success"])),
            ],
        );
        let told = drive(&armed(&site, failpoint), &site.order, &site.log(), |_, _| {});
        assert!(matches!(told.outcome, WorkerOutcome::Failed { .. }), "{failpoint}: {:?}", told.outcome);
        site.succeed();
        assert_eq!(hooks.lines("notes"), runs, "{failpoint}");
        site.assert_only(&["disk0.qcow2", "report.json"]);
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn a_result_that_is_there_needs_no_hook_any_more() {
    use crate::crashes::armed;
    use crate::site::drive;
    let hooks = Hooks::new();
    let site = with_script(&hooks, "echo ran >>\"$1\"", &[&note(&hooks)]);
    drive(&armed(&site, "worker.before-finished"), &site.order, &site.log(), |_, _| {});
    crate::support::hooks::as_root(&["rm"], &[&hooks.allowed().join("hook")]);
    let report = site.succeed().content.unwrap();
    assert_eq!((hooks.lines("notes").len(), report.hooks.len()), (1, 1));
    site.assert_only(&["disk0.qcow2", "report.json"]);
}
