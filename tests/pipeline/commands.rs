//! Pause, resume, cancel, stop, and a service that vanishes.

use std::time::Duration;

use hyper2kvm::model::job::Stage;
use hyper2kvm::model::protocol::{WorkerCommand, WorkerEvent, WorkerOutcome};

use crate::site::{Site, drive};
use crate::stalls::kept_bytes;
use crate::support::{disks, wait_for, within};

/// A VM whose second disk takes a while: there is time to command.
pub fn slow() -> Site {
    let mut site = Site::new(&["raw"]);
    let source = disks::disk(&site.root().join("in"), "disk1", "raw", 512, 384, 5);
    site.order.plan.disks.push(crate::site::planned_disk("disk1", &source, "raw"));
    // Packing is slow enough on any machine.
    site.order.plan.output.compress = hyper2kvm::model::plan::Compression::Zlib;
    site
}

pub fn second_disk_begins(event: &WorkerEvent) -> bool {
    matches!(event, WorkerEvent::StageDetail { stage: Stage::Convert, detail } if detail == "disk 2/2")
}

#[test]
fn a_paused_worker_stands_still_until_it_is_resumed() {
    let site = slow();
    let partial = site.out().join(".disk1.qcow2.partial");
    let told = site.run_with(|event, worker| {
        if second_disk_begins(event) {
            worker.send(WorkerCommand::Pause);
        }
        if matches!(event, WorkerEvent::Paused) {
            let size = || std::fs::metadata(&partial).map_or(0, |metadata| metadata.len());
            // What was in the kernel's hands may still arrive; then nothing moves any more.
            let still = within(Duration::from_secs(20), || {
                let before = size();
                std::thread::sleep(Duration::from_millis(500));
                (size() == before).then_some(())
            });
            assert!(still.is_some(), "it went on while paused");
            worker.send(WorkerCommand::Resume);
        }
    });
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}\n{}", told.outcome, site.log_text());
    assert!(told.events.contains(&WorkerEvent::Resumed));
    site.assert_same_content();
}

#[test]
fn a_cancelled_worker_leaves_nothing() {
    let site = slow();
    let told = site.run_with(|event, worker| {
        if second_disk_begins(event) {
            worker.send(WorkerCommand::Cancel { keep_partial: false });
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Cancelled);
    site.assert_only(&[]);
    site.assert_no_process();
}

#[test]
fn a_cancelled_worker_keeps_finished_disks_when_told_to() {
    let site = slow();
    let told = site.run_with(|event, worker| {
        if second_disk_begins(event) {
            worker.send(WorkerCommand::Cancel { keep_partial: true });
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Cancelled);
    // Of the second disk as much as there was.
    site.assert_only(&[
        ".disk0.qcow2.extents",
        ".disk0.qcow2.partial",
        ".disk1.qcow2.journal",
        ".disk1.qcow2.partial",
        ".vm.journal.json",
    ]);
}

#[test]
fn a_cancelled_copy_is_kept_when_told_to_and_gone_on_with() {
    // A machine that is busy may look too late: then the copy was quicker.
    let cut = (0..10).map(|_| Site::sized(&["raw"], 640, 512)).find(|site| {
        let told = site.run_with(|event, worker| {
            if matches!(event, WorkerEvent::Disk { progress, .. } if progress.bytes_done > 80 << 20) {
                worker.send(WorkerCommand::Cancel { keep_partial: true });
            }
        });
        told.outcome == WorkerOutcome::Cancelled
    });
    let site = cut.expect("a copy is cancelled in time");
    site.assert_only(&[".disk0.qcow2.journal", ".disk0.qcow2.partial", ".vm.journal.json"]);
    let kept = kept_bytes(&site.succeed());
    assert!(kept > 0, "nothing was kept");
    site.assert_only(&["disk0.qcow2", "report.json"]);
    site.assert_same_content();
}

#[test]
fn a_paused_worker_can_be_cancelled() {
    let site = slow();
    let told = site.run_with(|event, worker| {
        if second_disk_begins(event) {
            worker.send(WorkerCommand::Pause);
        }
        if matches!(event, WorkerEvent::Paused) {
            worker.send(WorkerCommand::Cancel { keep_partial: false });
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Cancelled);
    site.assert_only(&[]);
    site.assert_no_process();
}

#[test]
fn a_stopped_worker_keeps_finished_disks_and_a_next_one_goes_on() {
    let site = slow();
    let told = site.run_with(|event, worker| {
        if second_disk_begins(event) {
            worker.send(WorkerCommand::Stop);
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Stopped);
    assert!(site.names().contains(&".disk0.qcow2.partial".to_owned()), "{:?}", site.names());
    site.assert_no_process();
    let told = site.run();
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}", told.outcome);
    assert!(matches!(told.events[0], WorkerEvent::Started { resumed: true, .. }));
    site.assert_only(&["disk0.qcow2", "disk1.qcow2", "report.json"]);
    site.assert_same_content();
}

#[test]
fn a_killed_worker_counts_as_stopped_and_takes_its_children_with_it() {
    let site = slow();
    let told = site.run_with(|event, worker| {
        if second_disk_begins(event) {
            worker.kill();
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Stopped);
    site.assert_no_process();
    site.succeed();
    site.assert_only(&["disk0.qcow2", "disk1.qcow2", "report.json"]);
}

#[test]
fn a_worker_told_to_end_by_a_signal_stops_and_says_so() {
    let site = slow();
    let mut pid = None;
    let told = site.run_with(|event, _| {
        if let WorkerEvent::Started { pid: started, .. } = event {
            pid = Some(*started);
        }
        if second_disk_begins(event) {
            let done = std::process::Command::new("kill").arg(pid.unwrap().to_string()).status().unwrap();
            assert!(done.success());
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Stopped);
}

#[test]
fn a_worker_nobody_listens_to_any_more_stops() {
    let site = slow();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut worker =
            hyper2kvm::pipeline::launch::WorkerProcess::spawn_program(program, &site.order, &site.log())
                .await
                .unwrap();
        while let Some(event) = worker.next().await {
            if second_disk_begins(&event) {
                break;
            }
        }
    });
    site.assert_no_process();
    runtime.shutdown_background();
}

#[test]
fn two_workers_of_one_vm_do_not_work_at_once() {
    let site = slow();
    let told = site.run_with(|event, _| {
        if second_disk_begins(event) {
            let program = std::path::Path::new(env!("CARGO_BIN_EXE_hyper2kvm"));
            let mut order = site.order.clone();
            order.limits.work_dir = site.root().join("work2");
            let log = site.root().join("log/second.log");
            let second = std::thread::scope(|scope| {
                scope.spawn(|| drive(program, &order, &log, |_, _| {})).join().unwrap()
            });
            // Either it gave up while the first was at work, or it waited and found the result there.
            match second.outcome {
                WorkerOutcome::Failed { error } => {
                    assert!(error.to_string().contains("another conversion of vm"), "{error}");
                }
                WorkerOutcome::Succeeded(published) => assert_eq!(published.directory, site.out()),
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}", told.outcome);
    site.assert_same_content();
    wait_for("the lock to go", || (!site.out().join(".vm.lock").exists()).then_some(()));
}
