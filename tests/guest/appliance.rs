//! An appliance opens what is in a disk, and only in there.

use std::path::Path;
use std::process::Command;

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};

/// A disk without partitions: ext4 with a few files.
fn disk(dir: &Path) -> std::path::PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/hostname"), "inside\n").unwrap();
    std::os::unix::fs::symlink("../../../../../../etc/passwd", tree.join("etc/escape")).unwrap();
    let image = dir.join("disk.raw");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(64 * 1024 * 1024).unwrap();
    let made =
        Command::new("/sbin/mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).arg(&image).status();
    assert!(made.unwrap().success());
    image
}

fn settings(dir: &Path) -> Settings {
    Settings { kvm: false, memory_mb: None, temp: dir.to_owned(), log: Some(dir.join("appliance.log")) }
}

#[test]
fn an_appliance_reads_and_writes_a_guest_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path());
    let drive = Drive { path: image, format: "raw".to_owned(), readonly: false };
    let appliance = Appliance::launch(&settings(dir.path()), &[drive]).unwrap();
    let devices = appliance.devices().unwrap();
    assert_eq!(devices, ["/dev/sda"]);
    assert_eq!(appliance.content_of("/dev/sda").unwrap(), "ext4");
    appliance.mount("", "/dev/sda", "/").unwrap();
    assert_eq!(appliance.read("/etc/hostname", u64::MAX).unwrap(), b"inside\n");
    assert!(appliance.read("/etc/escape", u64::MAX).is_err(), "a link out of the guest leads nowhere");
    appliance.write("/etc/hostname", b"changed\n").unwrap();
    let stat = appliance.look("/etc/hostname").unwrap().unwrap();
    assert_eq!((stat.size, stat.mode & 0o777), (8, 0o644));
    assert!(appliance.room("/").unwrap().free_bytes > 10 * 1024 * 1024);
    assert_eq!(appliance.appliance_command("echo here").unwrap(), "here");
    assert!(appliance.read("/nothing", u64::MAX).unwrap_err().contains("No such file"));
    appliance.finish().unwrap();
    assert!(std::fs::read_to_string(dir.path().join("appliance.log")).unwrap().contains("launch"));
}
