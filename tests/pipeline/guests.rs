//! The guest work beside the copy: real appliances, commands, deaths. What is repaired in a guest is not asked here.

use hyper2kvm::model::error::{Disposition, Kind};
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::manifest::{OnNoOs, OnUnsupportedGuest};
use hyper2kvm::model::plan::Compression;
use hyper2kvm::model::protocol::{WorkerCommand, WorkerEvent, WorkerOutcome};

use crate::site::Site;
use crate::support::{disks, within};

/// Disks in which no system is, and a plan that opens them.
fn opened(formats: &[&str]) -> Site {
    let mut site = Site::new(formats);
    for planned in &mut site.order.plan.stages {
        planned.enabled |= matches!(planned.stage, Stage::Inspect | Stage::Fix);
    }
    site
}

/// The same, converted as it is.
fn bearable(formats: &[&str]) -> Site {
    let mut site = opened(formats);
    site.order.plan.guest.fix.on_no_os = OnNoOs::Skip;
    site.order.plan.guest.fix.on_unsupported_guest = OnUnsupportedGuest::Emulated;
    site
}

fn stage_begins(event: &WorkerEvent, wanted: Stage) -> bool {
    matches!(event, WorkerEvent::StageStarted { stage } if *stage == wanted)
}

/// Processes whose parent is this one.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| stat_of(*pid).is_some_and(|(_, ppid)| ppid == parent)).collect()
}

/// Its state and its parent.
fn stat_of(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Whether this is an appliance that works for the site.
fn appliances(site: &Site) -> Vec<u32> {
    let marker = site.out().join(".disk0.overlay.partial");
    let marker = marker.as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let works = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(marker.len()).any(|part| part == marker))
    };
    numbers.filter(works).collect()
}

#[test]
fn a_disk_without_a_system_that_can_be_repaired_is_refused_and_nothing_is_published() {
    let site = opened(&["vmdk"]);
    let before = disks::sha256(site.source(0));
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Guest, "{error}\n{}", site.log_text());
    assert!(
        error.details().place.field.as_deref().is_some_and(|field| field.starts_with("pipeline.fix.on_"))
    );
    assert!(site.names().iter().all(|name| name.starts_with('.')), "{:?}", site.names());
    assert!(!site.names().iter().any(|name| name.contains("overlay")), "{:?}", site.names());
    assert_eq!(disks::sha256(site.source(0)), before);
    site.assert_no_process();
}

#[test]
fn what_cannot_be_repaired_is_converted_as_it_is_where_the_manifest_allows_that() {
    for compress in [Compression::None, Compression::Zstd] {
        let mut site = bearable(&["vmdk", "vhd"]);
        site.order.plan.output.compress = compress;
        let published = site.succeed();
        site.assert_same_content();
        site.assert_only(&["disk0.qcow2", "disk1.qcow2", "report.json"]);
        let report = published.content.unwrap();
        for stage in [Stage::Inspect, Stage::Fix] {
            assert!(report.pipeline.stages[&stage].success);
        }
        let fix = report.pipeline.stages[&Stage::Fix].result.clone().unwrap();
        assert!(fix["skipped"].is_string(), "{fix}");
        assert!(report.fixes.is_empty());
        assert!(report.warnings.iter().any(|warning| warning.message.contains("as it is")));
        let log = site.log().with_extension("appliance.log");
        assert!(std::fs::read_to_string(log).unwrap().contains("launch"));
        assert!(!site.root().join("work").exists());
        site.assert_no_process();
    }
}

#[test]
fn a_pause_stops_the_appliance_and_a_cancel_ends_it_and_leaves_nothing() {
    let site = bearable(&["raw"]);
    let mut stopped = None;
    let told = site.run_with(|event, worker| {
        if stage_begins(event, Stage::Inspect) {
            let there = within(crate::site::PATIENCE, || (!appliances(&site).is_empty()).then_some(()));
            assert!(there.is_some(), "no appliance was started\n{}", site.log_text());
            worker.send(WorkerCommand::Pause);
        }
        if matches!(event, WorkerEvent::Paused) {
            let states = || appliances(&site).into_iter().filter_map(|pid| Some(stat_of(pid)?.0));
            stopped = within(crate::site::PATIENCE, || states().all(|state| state == 'T').then_some(()));
            worker.send(WorkerCommand::Cancel { keep_partial: false });
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Cancelled);
    assert!(stopped.is_some(), "the appliance went on while paused");
    site.assert_only(&[]);
    site.assert_no_process();
}

#[test]
fn guest_work_that_dies_costs_an_attempt_and_the_copies_are_kept() {
    let site = bearable(&["raw"]);
    let mut pid = None;
    let told = site.run_with(|event, _| {
        if let WorkerEvent::Started { pid: worker, .. } = event {
            pid = Some(*worker);
        }
        if stage_begins(event, Stage::Inspect) {
            let children = children_of(pid.unwrap());
            assert!(!children.is_empty(), "{}", site.log_text());
            for child in children {
                let child = rustix::process::Pid::from_raw(child.cast_signed()).unwrap();
                let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
            }
        }
    });
    let WorkerOutcome::Failed { error } = told.outcome else { panic!("{:?}", told.outcome) };
    assert_eq!((error.kind(), error.disposition()), (Kind::Guest, Disposition::Transient), "{error}");
    site.assert_only(&[".disk0.qcow2.extents", ".disk0.qcow2.partial", ".vm.journal.json"]);
    site.assert_no_process();
    let told = site.run();
    assert!(matches!(told.events[0], WorkerEvent::Started { resumed: true, .. }), "{:?}", told.events[0]);
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}\n{}", told.outcome, site.log_text());
    site.assert_same_content();
}

#[test]
#[cfg(feature = "failpoints")]
fn a_worker_killed_while_a_guest_is_open_is_gone_on_from_to_the_same_result() {
    for step in ["guest.started", "fix.before-mark", "fix.after-mark"] {
        let site = bearable(&["vmdk"]);
        let program = crate::crashes::armed(&site, step);
        let told = crate::site::drive(&program, &site.order, &site.log(), |_, _| {});
        assert!(matches!(told.outcome, WorkerOutcome::Failed { .. }), "{step}: {:?}", told.outcome);
        site.assert_no_process();
        site.succeed();
        site.assert_same_content();
        site.assert_only(&["disk0.qcow2", "report.json"]);
    }
}
