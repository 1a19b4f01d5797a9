//! Machines of the smallest kind: no system in them, so that they start at once and listen to nobody.

use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::libvirt::link::{Access, Link};

use crate::support::libvirtd::Libvirtd;

/// That this program made it, for this VM of this batch.
pub fn made_by(batch: &str, vm: &str) -> String {
    format!(
        "<metadata><h2k:made xmlns:h2k='urn:hyper2kvm:domain:1' version='0' batch='{batch}' vm='{vm}' at='2026-11-29T12:00:00Z'/></metadata>"
    )
}

/// A machine with more at its head and among its devices. Names are given as XML writes them.
pub fn machine(name: &str, head: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name>{head}<memory unit='MiB'>64</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
         <on_reboot>restart</on_reboot><devices>{devices}</devices></domain>"
    )
}

/// One whose firmware is UEFI.
pub fn uefi_machine(name: &str, head: &str, devices: &str) -> String {
    machine(name, head, devices).replace(
        "hvm</type>",
        "hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
         <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>",
    )
}

/// A disk among the devices.
pub fn disk(target: &str, format: &str, path: &Path) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{}'/><target dev='{target}'/></disk>",
        path.display()
    )
}

/// A file of 16 MiB for a disk, which has this byte everywhere in its first MiB.
pub fn image(libvirtd: &Libvirtd, name: &str, format: &str, byte: u8) -> PathBuf {
    let path = libvirtd.images().join(name);
    qemu_img(&["create", "-q", "-f", format, path.to_str().unwrap(), "16M"]);
    write(&path, format, byte);
    path
}

/// Has this byte everywhere in the first MiB.
pub fn write(path: &Path, format: &str, byte: u8) {
    let pattern = format!("write -q -P {byte} 0 1M");
    run("qemu-io", &["-f", format, "-c", &pattern, path.to_str().unwrap()]);
}

/// Whether there is this byte everywhere in the first MiB.
pub fn holds(path: &Path, format: &str, byte: u8) -> bool {
    let pattern = format!("read -q -P {byte} 0 1M");
    let mut command = Command::new("qemu-io");
    command.args(["-U", "-r", "-f", format, "-c", &pattern]).arg(path);
    let output = command.output().unwrap();
    output.status.success()
        && !String::from_utf8_lossy(&output.stdout).contains("Pattern verification failed")
}

pub fn qemu_img(arguments: &[&str]) {
    run("qemu-img", arguments);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A connection from outside.
pub fn link(libvirtd: &Libvirtd) -> Link {
    Link::open(&libvirtd.uri(), Access::Changes).unwrap()
}
