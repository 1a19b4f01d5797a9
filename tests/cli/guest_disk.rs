//! A small disk in which a guest's files lie: enough of one to be looked at and repaired.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A VMDK with one file system and these files on it.
pub fn disk(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
    let tree = dir.join("tree");
    for (path, text) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let (raw, vmdk) = (dir.join("disk.raw"), dir.join("disk.vmdk"));
    fs::File::create(&raw).unwrap().set_len(32 << 20).unwrap();
    let made =
        Command::new("/sbin/mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).args([&tree, &raw]).status();
    assert!(made.unwrap().success());
    let made =
        Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "vmdk"]).args([&raw, &vmdk]).status();
    assert!(made.unwrap().success());
    vmdk
}
