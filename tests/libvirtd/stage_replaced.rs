//! A machine that gives way to another: whoever takes the other back puts it back whole, wherever he was cut.

use std::fs;
use std::path::PathBuf;

use crate::stage::{Site, failed_with, told, went_well};

const ALL: &str = "overwrite_domain: true, create_snapshot: true, autostart: true, auto_start: true";
/// More memory than any machine has: it is defined, and does not start.
const TOO_LARGE: &str = "vm: {mem_mb: 67108864}\n";
/// One of ours that starts by UEFI, with variables of its own, a snapshot, and it starts with the host.
const OLD: &str = r#"
qemu-img create -q -f raw "$IMAGES/old.img" 1M
mkdir -p /var/lib/libvirt/qemu/nvram
virsh -q define /dev/stdin <<end
<domain type='qemu'><name>web</name><uuid>564d1c2a-0000-1111-2222-333344445555</uuid>
<metadata><h2k:made xmlns:h2k='urn:hyper2kvm:domain:1' version='0' batch='earlier' vm='web' at='2026-01-01T00:00:00Z'/></metadata>
<memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram></os><features><acpi/></features>
<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$IMAGES/old.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>
end
printf 'what it booted by' >/var/lib/libvirt/qemu/nvram/web_VARS.fd
virsh -q snapshot-create-as web before --disk-only >/dev/null
virsh -q autostart web >/dev/null
"#;

impl Site {
    fn with_old_machine() -> Site {
        let site = Site::new();
        site.libvirtd.sh(&format!("IMAGES={}\n{OLD}", site.libvirtd.images().display()));
        site
    }

    /// All that there is of the machine; in which order its controllers stand does not matter.
    fn machine(&self) -> String {
        self.libvirtd.sh(
            "virsh -q dumpxml web --inactive | sort; virsh -q snapshot-list web --name; virsh -q dominfo web | grep Autostart
             for snapshot in $(virsh -q snapshot-list web --name); do virsh -q snapshot-dumpxml web $snapshot | sort; done
             cat /var/lib/libvirt/qemu/nvram/web_VARS.fd 2>/dev/null || true",
        )
    }

    /// The new machine is there, runs, and says where the old one is kept, whole.
    fn is_replaced(&self) {
        assert_eq!(self.virsh("domstate web"), "running");
        let report = self.report();
        let kept =
            PathBuf::from(report["libvirt"]["replaced"].as_str().unwrap_or_else(|| panic!("{report:#}")));
        let text = |name: &str| fs::read_to_string(kept.join(name)).unwrap();
        assert!(text("domain.xml").contains("564d1c2a-0000-1111-2222-333344445555"));
        assert_eq!(text("nvram.fd"), "what it booted by");
        assert!(text("snapshot-1.xml").contains("<name>before</name>") && kept.join("autostart").exists());
    }
}

/// Between the moment when it is begun and the one when it is recorded; and while it is taken back.
const POINTS: [&str; 7] = [
    "handover.begun",
    "handover.settled",
    "handover.gave-way",
    "handover.answered",
    "handover.done:3",
    "handover.undoing",
    "handover.undone",
];

#[test]
fn what_gave_way_is_put_back_whole_wherever_the_work_was_cut() {
    let site = Site::with_old_machine();
    let before = site.machine();
    assert!(before.contains("before") && before.contains("what it booted by"), "{before}");
    for point in POINTS {
        let output = site.convert_with(ALL, TOO_LARGE, &[("HYPER2KVM_FAILPOINT", point)]);
        assert!(
            !output.status.success() && !told(&output).contains("cannot start"),
            "{point}: {}",
            told(&output)
        );
        failed_with(&site.convert(ALL, TOO_LARGE), "cannot start web");
        assert_eq!(site.machine(), before, "{point}");
        assert!(!site.out().join("boot.qcow2").exists(), "{point}");
    }
}

#[test]
fn what_gave_way_is_kept_whole_wherever_the_work_was_cut_that_then_goes_well() {
    for point in &POINTS[..5] {
        let site = Site::with_old_machine();
        let output = site.convert_with(ALL, "", &[("HYPER2KVM_FAILPOINT", point)]);
        assert!(!output.status.success(), "{point}: {}", told(&output));
        went_well(&site.convert(ALL, ""));
        site.is_replaced();
    }
}

#[test]
fn another_manifest_takes_back_what_was_cut_and_what_gave_way_is_put_back_before_it_gives_way_again() {
    for point in ["handover.gave-way", "handover.answered"] {
        let site = Site::with_old_machine();
        let output = site.convert_with(ALL, TOO_LARGE, &[("HYPER2KVM_FAILPOINT", point)]);
        assert!(!output.status.success(), "{point}: {}", told(&output));
        went_well(&site.convert(ALL, ""));
        site.is_replaced();
    }
}

#[test]
fn a_machine_that_was_changed_since_it_was_kept_is_kept_anew() {
    let site = Site::with_old_machine();
    let output = site.convert_with(ALL, "", &[("HYPER2KVM_FAILPOINT", "handover.settled")]);
    assert!(!output.status.success(), "{}", told(&output));
    site.virsh("setmaxmem web 80M --config");
    went_well(&site.convert(ALL, ""));
    site.is_replaced();
    let kept = PathBuf::from(site.report()["libvirt"]["replaced"].as_str().unwrap());
    assert!(fs::read_to_string(kept.join("domain.xml")).unwrap().contains(&(80 << 10).to_string()));
}

#[test]
fn the_same_machine_of_an_earlier_run_becomes_what_it_was() {
    let site = Site::new();
    went_well(&site.convert("", ""));
    let first = site.libvirtd.images().join("first");
    site.virsh("snapshot-create-as web mine");
    fs::rename(site.out(), &first).unwrap();
    let before = site.machine();
    for point in ["handover.answered:1", "handover.done:3", "handover.undoing"] {
        let output = site.convert_with(ALL, TOO_LARGE, &[("HYPER2KVM_FAILPOINT", point)]);
        assert!(
            !output.status.success() && !told(&output).contains("cannot start"),
            "{point}: {}",
            told(&output)
        );
        failed_with(&site.convert(ALL, TOO_LARGE), "cannot start web");
        assert_eq!(site.machine(), before, "{point}");
    }
    let in_its_disk = format!("qemu-img snapshot -l {} | grep -c mine", first.join("boot.qcow2").display());
    assert_eq!(site.libvirtd.sh(&in_its_disk).trim(), "1", "its own snapshot is still in its disk");
    went_well(&site.convert(ALL, ""));
    assert_eq!(site.virsh("domstate web"), "running");
    assert_eq!(site.virsh("snapshot-list web --name"), "mine\npre-first-boot");
}
