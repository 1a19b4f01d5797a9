//! The domains that are written, given to a real libvirt: each is defined, and QEMU takes those that stand for the others.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper2kvm::libvirt::xml::{domain_name, domain_xml};
use hyper2kvm::model::machine::{CpuModel, DriverStage, Firmware, Machine, Virtualization};
use hyper2kvm::model::plan::SourceFormat;

use crate::machines;
use crate::support::libvirtd::Libvirtd;

/// Of what QEMU is given the disks need no more.
const DISK_BYTES: u64 = 1 << 20;

/// What libvirt has a TPM's certificates made with, and what tells swtpm to end, is a package of its own, which a machine for tests need not have:
/// this much is left out. The state that swtpm starts with is empty, and it ends with QEMU.
const WITHOUT_CERTIFICATES: &str = r#"
mount -t tmpfs h2k-bin /usr/local/bin
mount -t tmpfs h2k-log /var/log
mkdir -p /var/log/libvirt/qemu /var/log/swtpm
ln -s /bin/true /usr/local/bin/swtpm_ioctl
cat >/usr/local/bin/swtpm_setup <<'end'
#!/bin/sh
[ "$1" != --print-capabilities ] || echo '{"type": "swtpm_setup", "features": ["tpm-1.2", "tpm-2.0"], "version": "0.7.1"}'
end
chmod 755 /usr/local/bin/swtpm_setup
"#;

/// Hands libvirt a text, and asks it to hold it against its schema first.
fn define(libvirtd: &Libvirtd, xml: &str) {
    let file = libvirtd.images().join("define.xml");
    std::fs::write(&file, xml).unwrap();
    let output = virsh(libvirtd, &["define", "--validate", file.to_str().unwrap()]);
    assert!(output.0, "{}\n{xml}", output.1);
}

/// Whether it went well, and what was said.
fn virsh(libvirtd: &Libvirtd, words: &[&str]) -> (bool, String) {
    let mut command = Command::new("virsh");
    let output =
        command.args(["-q", "-c", &libvirtd.uri()]).args(words).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.success(), said.concat())
}

#[test]
fn libvirt_defines_machines_of_all_kinds() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh(WITHOUT_CERTIFICATES);
    for (_, machine) in machines::all() {
        // There is no KVM here, and all else is to stay: Hyper-V's features, the host's processor.
        let xml = domain_xml(&machine).replacen("<domain type='kvm'>", "<domain type='qemu'>", 1);
        define(&libvirtd, &xml);
        let name = domain_name(&machine.name);
        let (is_there, told) = virsh(&libvirtd, &["dumpxml", &name]);
        assert!(is_there, "{name}: {told}");
        for (element, count) in [("<disk ", machine.disks.len()), ("<interface ", machine.nics.len())] {
            let extra = match (&machine.stage, element) {
                (DriverStage::Bootstrap { cd, disk }, "<disk ") => cd.iter().count() + disk.iter().count(),
                _ => 0,
            };
            assert_eq!(told.matches(element).count(), count + extra, "{told}");
        }
        // The same name with another identity would be another machine.
        let (is_gone, told) = virsh(&libvirtd, &["undefine", "--nvram", &name]);
        assert!(is_gone, "{told}");
    }
}

#[test]
fn the_longest_names_are_names_of_libvirts_files() {
    let libvirtd = Libvirtd::start();
    for name in ["機".repeat(300), "n".repeat(300)] {
        let mut machine = emulated(Machine::new(&name));
        machine.firmware = Some(Firmware::Uefi);
        runs(&libvirtd, machine);
    }
}

/// The machine of this name.
fn named(name: &str) -> Machine {
    machines::all().into_iter().find(|(known, _)| *known == name).unwrap().1
}

/// The machine as it can run here: emulated, small, with disks that are there and on a network that is.
fn emulated(mut machine: Machine) -> Machine {
    machine.virtualization = Virtualization::Emulated;
    machine.memory_mib = 256;
    machine
}

fn disk(libvirtd: &Libvirtd, old: &mut PathBuf, number: usize, format: &str) {
    let path = libvirtd.images().join(format!("disk-{number}"));
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", format]).arg(&path).arg(DISK_BYTES.to_string());
    assert!(command.status().unwrap().success());
    everybodys(&path);
    *old = path;
}

/// QEMU runs as a user of its own.
fn everybodys(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
}

/// Starts it without letting its processors run: QEMU has made all that the text asks for.
fn runs(libvirtd: &Libvirtd, machine: Machine) {
    let mut machine = emulated(machine);
    for (number, planned) in machine.disks.iter_mut().enumerate() {
        let format = if planned.format == SourceFormat::Raw { "raw" } else { "qcow2" };
        disk(libvirtd, &mut planned.path, number, format);
    }
    if let DriverStage::Bootstrap { cd, disk: probe } = &mut machine.stage {
        for (number, extra) in cd.iter_mut().chain(probe).enumerate() {
            disk(libvirtd, extra, 100 + number, "raw");
        }
    }
    let name = domain_name(&machine.name);
    define(libvirtd, &domain_xml(&machine));
    let (is_started, told) = virsh(libvirtd, &["start", "--paused", &name]);
    assert!(is_started, "{name}: {told}\n{}", libvirtd.log());
    assert_eq!(virsh(libvirtd, &["domstate", &name]), (true, "paused\n".to_owned()));
    for ending in [["destroy", &name].as_slice(), &["undefine", "--nvram", &name]] {
        let (is_over, told) = virsh(libvirtd, ending);
        assert!(is_over, "{told}");
    }
}

#[test]
fn qemu_takes_machines_with_bios_and_uefi() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("virsh -q net-start default");
    for name in
        ["bare", "uefi", "uefi-by-files", "named-processor", "name-hostile", "name-64", "clone", "nics"]
    {
        let mut machine = named(name);
        // Emulated, only what QEMU can emulate.
        machine.cpu = CpuModel::default();
        runs(&libvirtd, machine);
    }
}

#[test]
fn qemu_takes_machines_with_secure_boot_and_a_tpm() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh(WITHOUT_CERTIFICATES);
    for name in ["secure-boot-linux", "secure-boot", "said-pc"] {
        runs(&libvirtd, named(name));
    }
}

#[test]
fn qemu_takes_both_stages_of_a_windows() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("virsh -q net-start default");
    for name in ["windows-bootstrap", "windows-final", "windows-7"] {
        runs(&libvirtd, named(name));
    }
}

#[test]
fn qemu_takes_old_guests_machines() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh(WITHOUT_CERTIFICATES);
    libvirtd.sh("virsh -q net-start default");
    for name in ["rhel-5", "rhel-5-unrepaired", "rhel-6", "windows-2003", "ide-on-q35"] {
        runs(&libvirtd, named(name));
    }
}

#[test]
fn qemu_takes_as_many_disks_as_there_are_on_each_bus() {
    let libvirtd = Libvirtd::start();
    for name in ["disks-1", "disks-7-sata", "disks-20-scsi", "disks-30", "disks-of-each-bus"] {
        runs(&libvirtd, named(name));
    }
}
