//! What comes out when nothing goes wrong.

use std::os::unix::fs::PermissionsExt;

use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::{Compression, OutputFormat, SourceFormat};
use hyper2kvm::model::protocol::{WorkerEvent, WorkerOutcome};
use hyper2kvm::model::report::Report;

use crate::site::{BYTES, Site};
use crate::support::{disks, rare_vmdks};

#[test]
fn a_vmdk_becomes_a_checked_qcow2_and_nothing_else_is_left() {
    let site = Site::new(&["vmdk"]);
    let before =
        (disks::sha256(site.source(0)), std::fs::metadata(site.source(0)).unwrap().modified().unwrap());
    let published = site.succeed();
    site.assert_only(&["disk0.qcow2", "report.json"]);
    site.assert_same_content();
    assert_eq!(published.directory, site.out());
    let result = site.out().join("disk0.qcow2");
    assert_eq!(published.outputs[&result].as_deref(), Some(disks::sha256(&result).as_str()));
    let after =
        (disks::sha256(site.source(0)), std::fs::metadata(site.source(0)).unwrap().modified().unwrap());
    assert_eq!(before, after, "the source was touched");
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(site.out()), 0o751);
    assert_eq!(mode(result), 0o640);
    assert!(!site.root().join("work").exists(), "working files are left");
    site.assert_no_process();
}

#[test]
fn three_disks_of_three_formats_are_published_together() {
    let site = Site::new(&["vmdk", "qcow2", "raw"]);
    let told = site.run();
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}", told.outcome);
    site.assert_only(&["disk0.qcow2", "disk1.qcow2", "disk2.qcow2", "report.json"]);
    site.assert_same_content();

    let mut last = 0.0;
    let mut started = Vec::new();
    let mut finished = Vec::new();
    for event in &told.events {
        match event {
            WorkerEvent::Progress { percentage } => {
                assert!(*percentage > last, "{percentage} after {last}");
                last = *percentage;
            }
            WorkerEvent::StageStarted { stage } => started.push(*stage),
            WorkerEvent::StageFinished { stage, .. } => finished.push(*stage),
            _ => {}
        }
    }
    assert_eq!(last, 100.0);
    assert_eq!(started, BYTES);
    assert_eq!(finished, BYTES);
    let details: Vec<&str> = told
        .events
        .iter()
        .filter_map(|event| match event {
            WorkerEvent::StageDetail { stage: Stage::Extraction, detail } => Some(detail.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(details, ["disk 1/3", "disk 2/3", "disk 3/3"]);
    for id in ["disk0", "disk1", "disk2"] {
        let of_disk: Vec<_> = told
            .events
            .iter()
            .filter_map(|event| match event {
                WorkerEvent::Disk { disk, progress } if disk == id => Some(progress),
                _ => None,
            })
            .collect();
        assert_eq!(of_disk.first().unwrap().bytes_done, 0);
        let end = of_disk.last().unwrap();
        assert_eq!(end.bytes_done, end.bytes_total);
        assert_eq!(end.virtual_size, 64 << 20);
        assert!(of_disk.is_sorted_by_key(|progress| progress.bytes_done));
    }
}

#[test]
fn every_format_can_be_written() {
    for (format, compress) in [
        (OutputFormat::Raw, Compression::None),
        (OutputFormat::Qcow2, Compression::Zstd),
        (OutputFormat::Qcow2, Compression::Zlib),
        (OutputFormat::Vmdk, Compression::None),
        (OutputFormat::Vmdk, Compression::Zlib),
        (OutputFormat::Vhd, Compression::None),
        (OutputFormat::Vdi, Compression::None),
    ] {
        let mut site = Site::new(&["qcow2"]);
        site.order.plan.output.format = format;
        site.order.plan.output.compress = compress;
        site.succeed();
        site.assert_only(&[&format!("disk0.{}", format.name()), "report.json"]);
        site.assert_same_content();
    }
}

#[test]
fn what_only_qemu_reads_is_read_by_its_storage_daemon_inside_the_worker_s_sandbox() {
    let mut site = Site::new(&["raw"]);
    let raw = disks::sha256(site.source(0));
    let path = rare_vmdks::se_sparse(site.source(0));
    let disk = &mut site.order.plan.disks[0];
    (disk.source, disk.source_format) = (path, SourceFormat::Vmdk);
    let published = site.succeed();
    let report = published.content.unwrap();
    assert!(report.artifacts[0].engine.contains("qemu-storage-daemon"), "{}", report.artifacts[0].engine);
    assert_eq!(disks::content_sha256(&report.artifacts[0].path, "qcow2"), raw);
    site.assert_only(&["disk0.qcow2", "report.json"]);
    assert!(!site.root().join("work").exists(), "working files are left");
    site.assert_no_process();
}

#[test]
fn without_validation_there_is_no_hash_but_a_result() {
    let mut site = Site::new(&["raw"]);
    for planned in &mut site.order.plan.stages {
        planned.enabled &= planned.stage != Stage::Validate;
    }
    let published = site.succeed();
    assert_eq!(published.outputs.values().collect::<Vec<_>>(), [&None]);
    site.assert_same_content();
}

#[test]
fn the_report_tells_what_was_made_of_what_and_how() {
    let mut site = Site::new(&["vmdk", "raw"]);
    site.order.plan.name = "Web server".to_owned();
    site.order.plan.profile = "production".to_owned();
    site.order.plan.lacking = vec![Stage::Inspect, Stage::Fix, Stage::BootTest];
    site.order.plan.warnings = vec!["a warning of the plan".to_owned()];
    site.order.plan.disks[1].bytes = Some(12_345);
    site.order.plan.input.manifest_version = "1.0".to_owned();
    site.order.plan.input.notes = vec!["passed on".to_owned()];
    let published = site.succeed();
    let text = std::fs::read_to_string(site.out().join("report.json")).unwrap();
    let report: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(published.content.as_deref(), Some(&report));
    for artifact in &report.artifacts {
        assert_eq!(artifact.sha256.as_deref(), Some(disks::sha256(&artifact.path).as_str()));
    }
    let mut shown = text.replace(&*site.root().to_string_lossy(), "[site]");
    for (artifact, name) in report.artifacts.iter().zip(["[sha256 of disk0]", "[sha256 of disk1]"]) {
        shown = shown.replace(artifact.sha256.as_deref().unwrap(), name);
        shown = shown.replace(&artifact.engine, "qemu-img [version]");
    }
    let mut value: serde_json::Value = serde_json::from_str(&shown).unwrap();
    blur(&mut value);
    insta::assert_json_snapshot!("report", value);
}

/// Replaces what differs from run to run.
fn blur(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "timestamp" => *field = "[time]".into(),
                    "started_at" | "ended_at" => {
                        assert!(field.as_f64().is_some_and(|at| at > 1.7e9), "{field}");
                        *field = "[moment]".into();
                    }
                    "duration" | "duration_seconds" | "seconds" => {
                        assert!(
                            field.as_f64().is_some_and(|seconds| (0.0..600.0).contains(&seconds)),
                            "{field}"
                        );
                        *field = "[seconds]".into();
                    }
                    "hyper2kvm_version" => *field = "[version]".into(),
                    // Depends on the version of qemu-img by a cluster or two.
                    "size_bytes" | "size_human" | "file_size_bytes" | "bytes"
                        if name != "virtual_size_bytes" =>
                    {
                        *field = "[size]".into();
                    }
                    _ => blur(field),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(blur),
        _ => {}
    }
}
