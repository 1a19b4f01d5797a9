//! What happens when a result of that name is there.

use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::OnExists;
use hyper2kvm::model::protocol::{WorkerEvent, WorkerOutcome};

use crate::site::{Site, drive};

#[test]
fn a_result_that_is_there_is_refused_before_anything_is_copied() {
    let site = Site::new(&["raw"]);
    std::fs::create_dir(site.out()).unwrap();
    std::fs::write(site.out().join("disk0.qcow2"), "precious").unwrap();
    let told = site.run();
    assert!(!told.events.iter().any(|event| matches!(event, WorkerEvent::Disk { .. })));
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.to_string().contains("disk0.qcow2 is already there"), "{error}");
    site.assert_only(&["disk0.qcow2"]);
    assert_eq!(std::fs::read_to_string(site.out().join("disk0.qcow2")).unwrap(), "precious");
}

#[test]
fn a_report_that_is_there_counts_as_a_result() {
    let site = Site::new(&["raw"]);
    std::fs::create_dir(site.out()).unwrap();
    for name in ["report.json", "report.md", "report.txt"] {
        std::fs::write(site.out().join(name), "{}").unwrap();
        assert_eq!(site.fail().kind(), Kind::Exists);
        assert_eq!(site.names(), [name]);
        std::fs::remove_file(site.out().join(name)).unwrap();
    }
}

#[test]
fn publishing_that_fails_at_the_report_can_be_tried_again() {
    let site = Site::new(&["raw"]);
    let in_the_way = site.out().join(".report.json.partial");
    std::fs::create_dir_all(&in_the_way).unwrap();
    assert_eq!(site.fail().kind(), Kind::Output);
    assert!(!site.out().join("disk0.qcow2").exists(), "a final name means a complete result");
    std::fs::remove_dir(&in_the_way).unwrap();
    site.succeed();
    site.assert_only(&["disk0.qcow2", "report.json"]);
}

#[test]
fn a_suffix_puts_the_whole_result_beside_the_old_one() {
    let mut site = Site::new(&["raw", "raw"]);
    site.order.plan.output.on_exists = OnExists::Suffix;
    site.succeed();
    site.assert_only(&["disk0.qcow2", "disk1.qcow2", "report.json"]);
    site.order.job_id += 1;
    let published = site.succeed();
    site.assert_only(&[
        "disk0-2.qcow2",
        "disk0.qcow2",
        "disk1-2.qcow2",
        "disk1.qcow2",
        "report-2.json",
        "report.json",
    ]);
    assert!(published.outputs.contains_key(&site.out().join("disk1-2.qcow2")));
    site.order.job_id += 1;
    site.succeed();
    assert!(site.names().contains(&"report-3.json".to_owned()));
}

#[test]
fn a_result_is_replaced_when_told_to() {
    let mut site = Site::new(&["raw"]);
    site.order.plan.output.on_exists = OnExists::Replace;
    std::fs::create_dir(site.out()).unwrap();
    std::fs::write(site.out().join("disk0.qcow2"), "old").unwrap();
    std::fs::write(site.out().join("report.json"), "old").unwrap();
    site.succeed();
    site.assert_only(&["disk0.qcow2", "report.json"]);
    site.assert_same_content();
    assert!(std::fs::read_to_string(site.out().join("report.json")).unwrap().contains("disk0"));
}

#[test]
fn a_disk_that_a_machine_has_open_is_never_replaced() {
    let mut site = Site::new(&["raw"]);
    site.order.plan.output.on_exists = OnExists::Replace;
    std::fs::create_dir(site.out()).unwrap();
    let path = site.out().join("disk0.qcow2");
    std::fs::write(&path, "in use").unwrap();
    let open = std::fs::File::open(&path).unwrap();
    // As QEMU does: a shared lock on a byte of its own.
    let lock = nix::libc::flock {
        l_type: nix::libc::F_RDLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 100,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(open.as_fd(), nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "in use");
}

/// A program that works as if this were the directory with the settings of its user.
fn with_settings_in(site: &Site) -> PathBuf {
    let script = site.root().join("with-settings");
    let (program, settings) = (env!("CARGO_BIN_EXE_hyper2kvm"), site.root().join("settings"));
    let text = format!("#!/bin/sh\nXDG_CONFIG_HOME='{}' exec {program} \"$@\"\n", settings.display());
    std::fs::create_dir_all(settings.join("libvirt/qemu")).unwrap();
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    script
}

/// Defines a machine of the user's session with this disk, as libvirt writes it down.
fn define(site: &Site, disk: &Path) {
    let text = format!(
        "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE: virsh edit web\n-->\n\n<domain type='kvm'><name>web</name><devices>\
         <disk type='file'><source file='{}'/></disk></devices></domain>",
        disk.display()
    );
    std::fs::write(site.root().join("settings/libvirt/qemu/web.xml"), text).unwrap();
}

#[test]
fn a_disk_that_a_machine_is_defined_with_is_never_replaced() {
    let mut site = Site::new(&["raw"]);
    site.order.plan.output.on_exists = OnExists::Replace;
    let program = with_settings_in(&site);
    std::fs::create_dir(site.out()).unwrap();
    std::fs::create_dir(site.root().join("machines")).unwrap();
    let (path, top) = (site.out().join("disk0.qcow2"), site.root().join("machines/top.qcow2"));
    let img = |words: &[&str]| {
        assert!(Command::new("qemu-img").args(words).status().unwrap().success());
    };
    let text = path.to_str().unwrap();
    img(&["create", "-q", "-f", "qcow2", text, "1M"]);
    img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text, top.to_str().unwrap()]);
    let link = site.root().join("link");
    symlink(&path, &link).unwrap();
    let before = std::fs::read(&path).unwrap();
    for (disk, why) in
        [(&path, "the machine web is defined with it"), (&link, "is defined with it"), (&top, "stands on it")]
    {
        define(&site, disk);
        let told = drive(&program, &site.order, &site.log(), |_, _| {});
        let WorkerOutcome::Failed { error } = told.outcome else { panic!("{:?}", told.outcome) };
        assert_eq!(error.kind(), Kind::Exists);
        assert!(error.to_string().contains(why), "{error}");
        let copied = told.events.iter().any(|event| matches!(event, WorkerEvent::Disk { .. }));
        assert!(!copied, "it is told before anything is copied");
    }
    define(&site, Path::new("/srv/other.qcow2"));
    // One that is defined while the copy is made.
    let told = drive(&program, &site.order, &site.log(), |event, _| {
        if matches!(event, WorkerEvent::StageFinished { stage: Stage::Load, .. }) {
            define(&site, &path);
        }
    });
    let WorkerOutcome::Failed { error } = told.outcome else { panic!("{:?}", told.outcome) };
    assert!(error.to_string().contains("the machine web is defined with it"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // What cannot be told is no permission.
    std::fs::write(site.root().join("settings/libvirt/qemu/web.xml"), "<domain>").unwrap();
    let told = drive(&program, &site.order, &site.log(), |_, _| {});
    let WorkerOutcome::Failed { error } = told.outcome else { panic!("{:?}", told.outcome) };
    assert!(error.to_string().contains("cannot be told"), "{error}");
    std::fs::remove_file(site.root().join("settings/libvirt/qemu/web.xml")).unwrap();
    let told = drive(&program, &site.order, &site.log(), |_, _| {});
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}", told.outcome);
    assert_ne!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_link_under_a_results_name_is_not_followed_and_not_replaced() {
    for on_exists in [OnExists::Refuse, OnExists::Replace] {
        let mut site = Site::new(&["raw"]);
        site.order.plan.output.on_exists = on_exists;
        std::fs::create_dir(site.out()).unwrap();
        let victim = site.root().join("victim");
        symlink(&victim, site.out().join("disk0.qcow2")).unwrap();
        assert_eq!(site.fail().kind(), Kind::Exists);
        assert!(!victim.exists());
    }
}

#[test]
fn a_link_under_a_partial_name_is_removed_not_followed() {
    let site = Site::new(&["raw"]);
    std::fs::create_dir(site.out()).unwrap();
    let victim = site.root().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    symlink(&victim, site.out().join(".disk0.qcow2.partial")).unwrap();
    site.succeed();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    site.assert_same_content();
}

#[test]
fn a_result_directory_that_is_a_link_is_refused() {
    let site = Site::new(&["raw"]);
    let elsewhere = site.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, site.out()).unwrap();
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Output);
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
}

#[test]
fn results_go_only_below_the_roots_they_may_go_to() {
    let mut site = Site::new(&["raw"]);
    let root = site.root().join("allowed");
    std::fs::create_dir(&root).unwrap();
    site.order.limits.write_roots = vec![root.clone()];
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Output);
    assert!(!site.out().exists());
    // A link inside the root does not lead out of it.
    let outside = site.root().join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    site.order.plan.output.directory = root.join("link/deep");
    assert_eq!(site.fail().kind(), Kind::Output);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    site.order.plan.output.directory = root.join("new/deep");
    site.succeed();
}

#[test]
fn ids_that_are_paths_are_refused() {
    for id in ["../escape", "a/b", "", ".", "..", "x\ny", "-rf"] {
        let mut site = Site::new(&["raw"]);
        site.order.plan.disks[0].id = id.to_owned();
        assert_eq!(site.fail().kind(), Kind::Manifest, "{id:?}");
        let mut site = Site::new(&["raw"]);
        site.order.plan.vm_id = id.to_owned();
        assert_eq!(site.fail().kind(), Kind::Manifest, "{id:?}");
        assert!(!site.out().exists());
    }
}
