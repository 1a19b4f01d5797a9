//! A hand-over to libvirt that fails, is killed, or loses its libvirt, at every step.

use std::fs;

use crate::stage::{Site, failed_with, told, went_well};
use crate::support::daemon::Daemon;
use crate::support::wait::{PATIENCE, within};

/// All steps.
const ALL: &str =
    "import_to_pool: vms, create_snapshot: true, autostart: true, auto_start: true, copy_disks: false";
/// More memory than any machine has: it is defined, and does not start.
const TOO_LARGE: &str = "vm: {mem_mb: 67108864}\n";

impl Site {
    /// All was done, once.
    pub fn is_whole(&self) {
        assert_eq!(self.virsh("list --all --name"), "web");
        assert_eq!(self.virsh("domstate web"), "running");
        assert_eq!(self.virsh("snapshot-list web --name"), "pre-first-boot");
        assert!(self.virsh("dominfo web").contains("Autostart:      enable"));
        self.virsh("pool-refresh vms");
        let volumes = self.virsh("vol-list vms");
        assert_eq!(volumes.lines().count(), 1, "{volumes}");
        let report = self.report();
        assert_eq!(report["libvirt"]["started"], true);
        assert_eq!(report["libvirt"]["uuid"].as_str(), Some(self.virsh("domuuid web").as_str()));
    }

    /// Takes away all that was done, for the next round.
    pub fn begins_anew(&self) {
        self.virsh("destroy web");
        self.virsh("undefine web --snapshots-metadata");
        self.virsh("vol-delete --pool vms web-boot.qcow2");
        fs::remove_dir_all(self.out()).unwrap();
    }
}

#[test]
fn a_machine_that_does_not_start_is_undone_to_the_last_volume_and_a_retry_goes_well() {
    let site = Site::new();
    site.pool("vms");
    failed_with(&site.convert(ALL, TOO_LARGE), "cannot start web");
    site.is_clean();
    went_well(&site.convert(ALL, ""));
    site.is_whole();
}

#[test]
fn each_step_that_fails_takes_back_those_before_it() {
    let site = Site::new();
    site.pool("vms");
    // What stands in the way of which step, and how it goes away again.
    let ways = [
        ("mkdir /etc/libvirt/qemu/web.xml", "rmdir /etc/libvirt/qemu/web.xml"),
        (
            "rm -rf /var/lib/libvirt/qemu/snapshot; touch /var/lib/libvirt/qemu/snapshot",
            "rm /var/lib/libvirt/qemu/snapshot; mkdir /var/lib/libvirt/qemu/snapshot",
        ),
    ];
    for (block, free) in ways {
        site.libvirtd.sh(block);
        let output = site.convert(ALL, "");
        assert!(!output.status.success(), "{block}: {}", told(&output));
        site.libvirtd.sh(free);
        site.is_clean();
    }
    went_well(&site.convert(ALL, ""));
    site.is_whole();
}

#[test]
fn a_result_that_is_defined_where_it_lies_is_taken_back_under_its_partial_name() {
    let site = Site::new();
    failed_with(&site.convert("create_snapshot: true, auto_start: true", TOO_LARGE), "cannot start web");
    site.is_clean();
    // A snapshot of a raw disk lies beside it.
    let raw = format!("{TOO_LARGE}storage_mapping: {{format_override: raw}}\n");
    failed_with(&site.convert("create_snapshot: true, auto_start: true", &raw), "cannot start web");
    site.is_clean();
}

#[test]
fn a_worker_that_is_killed_between_any_two_steps_is_gone_on_from() {
    let site = Site::new();
    site.pool("vms");
    for point in ["handover.begun", "handover.answered", "handover.done"] {
        for nth in 1..=6 {
            let armed = format!("{point}:{nth}");
            let output = site.convert_with(ALL, "", &[("HYPER2KVM_FAILPOINT", &armed)]);
            assert!(!output.status.success(), "{armed}: {}", told(&output));
            assert!(!site.out().join("report.json").exists(), "{armed}");
            let output = site.convert(ALL, "");
            assert!(output.status.success(), "{armed}: {}", told(&output));
            site.is_whole();
            site.begins_anew();
        }
    }
}

#[test]
fn undoing_that_is_cut_is_finished_before_the_work_begins_anew() {
    let site = Site::new();
    site.pool("vms");
    for point in ["handover.undoing", "handover.undone"] {
        let output = site.convert_with(ALL, TOO_LARGE, &[("HYPER2KVM_FAILPOINT", point)]);
        assert!(!output.status.success(), "{point}: {}", told(&output));
        assert_eq!(site.virsh("list --all --name"), if point == "handover.undoing" { "web" } else { "" });
        failed_with(&site.convert(ALL, TOO_LARGE), "cannot start web");
        site.is_clean();
    }
}

#[test]
fn a_libvirt_that_is_killed_in_between_is_waited_for_and_nothing_is_done_twice() {
    let site = Site::new();
    site.pool("vms");
    // The last step needs no libvirt.
    for nth in 1..=4 {
        let armed = format!("handover.done:{nth}");
        assert!(!site.convert_with(ALL, "", &[("HYPER2KVM_FAILPOINT", &armed)]).status.success());
        site.libvirtd.hold(true);
        site.libvirtd.kill();
        let output = site.convert(ALL, "");
        assert!(
            !output.status.success() && !site.out().join("report.json").exists(),
            "{armed}: {}",
            told(&output)
        );
        site.libvirtd.hold(false);
        site.libvirtd.await_up();
        let output = site.convert(ALL, "");
        assert!(output.status.success(), "{armed}: {}", told(&output));
        site.is_whole();
        site.begins_anew();
    }
}

#[test]
fn a_job_of_the_service_waits_for_its_libvirt_and_then_goes_well() {
    let site = Site::new();
    site.pool("vms");
    let mut daemon = Daemon::prepare();
    // Nobody waits for as long as that: it goes on when libvirt is back.
    let retry = "retry: {base_delay_s: 3600, max_delay_s: 3600}";
    daemon.configure(&format!("libvirt: {{uri: \"{}\"}}\n{retry}\n", site.libvirtd.uri()));
    site.libvirtd.hold(true);
    site.libvirtd.kill();
    daemon.start();
    daemon.drop_file("web.yaml", fs::read(site.manifest(ALL, "")).unwrap());
    let waits = within(PATIENCE, || {
        let progress = daemon.progress("web")?;
        (progress["vms"]["web"]["waiting_reason"] == "libvirt").then_some(())
    });
    assert!(waits.is_some(), "{}", daemon.log());
    let is_known =
        within(PATIENCE, || (daemon.client(&["status"])["libvirt"]["state"] == "silent").then_some(()));
    assert!(is_known.is_some(), "{}", daemon.client(&["status"]));
    site.libvirtd.hold(false);
    site.libvirtd.await_up();
    let batch = daemon.wait_batch("web");
    assert_eq!(batch["vms"]["web"]["state"], "succeeded", "{}", daemon.log());
    site.is_whole();
}

#[test]
fn a_pool_without_room_is_told_and_gone_on_with_when_there_is_some() {
    let site = Site::new();
    let path = site.libvirtd.images().join("small");
    fs::create_dir(&path).unwrap();
    site.libvirtd.sh(&format!("mount -t tmpfs -o size=1m,mode=755 small {}", path.display()));
    site.virsh(&format!("pool-define-as small dir --target {}", path.display()));
    site.virsh("pool-start small");
    failed_with(&site.convert("import_to_pool: small", ""), "small");
    // Room may be made: the job goes on there.
    site.virsh("pool-refresh small");
    assert_eq!(site.virsh("vol-list small") + &site.virsh("list --all --name"), "");
    assert!(!site.out().join("report.json").exists());
    site.libvirtd.sh(&format!("mount -o remount,size=64m {}", path.display()));
    went_well(&site.convert("import_to_pool: small", ""));
    assert!(
        site.virsh("vol-list small").starts_with("web-boot.qcow2") && site.out().join("report.json").exists()
    );
}
