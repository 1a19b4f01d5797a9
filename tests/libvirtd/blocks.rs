//! Jobs of disks of a machine that runs.

use std::path::PathBuf;
use std::time::Duration;

use hyper2kvm::libvirt::blocks::{self, End, Job};
use hyper2kvm::libvirt::domains::{self, Overwrite};

use crate::machines::{disk, holds, image, link, machine, qemu_img};
use crate::support::libvirtd::Libvirtd;

const WITHIN: Duration = Duration::from_secs(60);

/// A file that stands on another.
fn on_top(base: &std::path::Path, name: &str) -> PathBuf {
    let path = base.with_file_name(name);
    let (from, to) = (base.to_str().unwrap(), path.to_str().unwrap());
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", from, "-F", "qcow2", to]);
    path
}

#[test]
fn the_files_of_a_running_machine_are_put_together_pulled_and_copied() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let base = image(&libvirtd, "base.qcow2", "qcow2", 1);
    let middle = on_top(&base, "middle.qcow2");
    crate::machines::write(&middle, "qcow2", 2);
    let top = on_top(&middle, "top.qcow2");
    let xml = machine("web", "", &disk("vda", "qcow2", &top));
    domains::define(link, &xml, &Overwrite::Refuse).unwrap();
    let off = blocks::start(link, "web", "vda", &Job::Pull, None).unwrap_err();
    assert!(off.to_string().contains("is off"), "{off}");
    domains::start(link, "web").unwrap();
    assert_eq!(blocks::progress(link, "web", "vda").unwrap(), None);
    assert_eq!(blocks::wait(link, "web", "vda", WITHIN, &mut |_| {}).unwrap(), End::Nothing);
    for disk in ["vdz", "a\0b"] {
        assert!(blocks::start(link, "web", disk, &Job::Pull, None).is_err());
    }

    // What lies between goes down.
    let between = Job::Commit { base: Some(base.clone()), top: Some(middle.clone()), remove: true };
    blocks::start(link, "web", "vda", &between, None).unwrap();
    let end = blocks::wait(link, "web", "vda", WITHIN, &mut |_| {}).unwrap();
    assert!(matches!(end, End::Done | End::Nothing), "{end:?}");
    assert!(holds(&base, "qcow2", 2) && !middle.exists());

    // A copy that is slow enough to be seen, to be waited for in vain, and to be ended.
    let copy = base.with_file_name("copy.raw");
    let job = Job::Copy { to: copy.clone(), format: "raw".to_owned() };
    blocks::start(link, "web", "vda", &job, Some(64 << 10)).unwrap();
    let progress = blocks::progress(link, "web", "vda").unwrap().unwrap();
    assert!(progress.job == "copy" && !progress.is_ready, "{progress:?}");
    let late = blocks::wait(link, "web", "vda", Duration::from_millis(300), &mut |_| {}).unwrap_err();
    assert!(late.to_string().contains("not done after"), "{late}");
    blocks::abort(link, "web", "vda").unwrap();
    assert_eq!(blocks::progress(link, "web", "vda").unwrap(), None);
    std::fs::remove_file(&copy).unwrap();

    // Everything comes up.
    blocks::start(link, "web", "vda", &Job::Pull, None).unwrap();
    let end = blocks::wait(link, "web", "vda", WITHIN, &mut |_| {}).unwrap();
    assert!(matches!(end, End::Done | End::Nothing), "{end:?}");

    // A copy that the machine is moved to.
    blocks::start(link, "web", "vda", &job, None).unwrap();
    let mut seen = Vec::new();
    let end = blocks::wait(link, "web", "vda", WITHIN, &mut |progress| seen.push(progress.clone())).unwrap();
    assert_eq!(end, End::Ready);
    assert!(seen.last().is_some_and(|last| last.is_ready && last.done_bytes == last.of_bytes), "{seen:?}");
    blocks::pivot(link, "web", "vda").unwrap();
    let found = domains::find(link, "web").unwrap().unwrap();
    assert_eq!(found.disks[0].source, Some(domains::Source::Path(copy.clone())));
    domains::destroy(link, "web").unwrap();
    assert!(holds(&copy, "raw", 2));
}

#[test]
fn a_job_that_somebody_ends_is_not_taken_for_done() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let base = image(&libvirtd, "base.qcow2", "qcow2", 1);
    let top = on_top(&base, "top.qcow2");
    let xml = machine("web", "", &disk("vda", "qcow2", &top));
    domains::define(link, &xml, &Overwrite::Refuse).unwrap();
    domains::start(link, "web").unwrap();
    blocks::start(link, "web", "vda", &Job::Pull, Some(64 << 10)).unwrap();
    let mut was_ended = false;
    let error = blocks::wait(link, "web", "vda", WITHIN, &mut |_| {
        if !was_ended {
            was_ended = true;
            libvirtd.sh("virsh -q blockjob web vda --abort");
        }
    });
    assert!(error.unwrap_err().to_string().contains("before it had done its work"));
}
