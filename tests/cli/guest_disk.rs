//! A small disk in which a guest's files lie: enough of one to be looked at and repaired.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::trees;

/// A Debian that names its root by slot.
pub const GUEST: [(&str, &str); 5] = [
    ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
    ("etc/fstab", "# the root\n/dev/sda / ext4 errors=remount-ro 0 1\n"),
    ("etc/hostname", "web\n"),
    ("usr/bin/apt-get", ""),
    ("etc/network/interfaces", "auto ens192\niface ens192 inet dhcp\n"),
];

/// A VMDK with one file system and these files on it.
pub fn disk(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
    let (raw, vmdk) = (dir.join("disk.raw"), dir.join("disk.vmdk"));
    trees::ext4(&raw, 32, &trees::tree(dir, files), &[]);
    let made =
        Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "vmdk"]).args([&raw, &vmdk]).status();
    assert!(made.unwrap().success());
    vmdk
}
