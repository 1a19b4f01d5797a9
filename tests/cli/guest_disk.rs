//! A small disk in which a guest's files lie: enough of one to be looked at and repaired.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::trees;

/// A VMDK with one file system and these files on it.
pub fn disk(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
    let (raw, vmdk) = (dir.join("disk.raw"), dir.join("disk.vmdk"));
    trees::ext4(&raw, 32, &trees::tree(dir, files), &[]);
    let made =
        Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "vmdk"]).args([&raw, &vmdk]).status();
    assert!(made.unwrap().success());
    vmdk
}
