//! `inspect` against real disks: what it says, and that it leaves everything as it was.

use std::fs;
use std::path::Path;

use crate::guest_disk::{GUEST, disk};
use crate::run::{Done, hyper2kvm};
use crate::support::appliances::{item, on_controller, pack, system, vmdk, vmware};

/// Runs it with a temporary directory of its own, which has to be empty afterwards.
fn inspect(dir: &Path, words: &[&str]) -> Done {
    let temp = dir.join("temp");
    fs::create_dir_all(&temp).unwrap();
    let done = hyper2kvm().arg("inspect").args(words).env("TMPDIR", &temp).output().unwrap().into();
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0, "something is left behind");
    done
}

#[test]
fn a_guest_is_told_and_its_disk_is_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let vmdk = disk(
        dir.path(),
        &[
            (
                "etc/os-release",
                "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
            ),
            ("etc/fstab", "/dev/sda / ext4 errors=remount-ro 0 1\n"),
            ("etc/hostname", "web\n"),
            ("usr/bin/apt-get", ""),
        ],
    );
    let before = fs::read(&vmdk).unwrap();
    let done = inspect(dir.path(), &[vmdk.to_str().unwrap(), "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let told = done.json();
    assert_eq!(told["guests"].as_array().unwrap().len(), 1);
    let guest = &told["guests"][0];
    assert_eq!(
        (&guest["type"], &guest["os_id"], &guest["hostname"]),
        (&"linux".into(), &"debian".into(), &"web".into())
    );
    assert_eq!(guest["mounts"][0]["path"], "/");
    assert_eq!(
        (&told["disks"][0]["format"], &told["disks"][0]["virtual_size"]),
        (&"vmdk".into(), &(32 << 20).into())
    );
    assert_eq!(fs::read(&vmdk).unwrap(), before);
}

#[test]
fn an_appliance_is_told_with_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    vmdk(dir.path(), "web-disk1.vmdk", 1);
    fs::write(dir.path().join("web.ovf"), vmware("web", &[("web-disk1.vmdk", 8)]).text()).unwrap();
    let ova = pack(dir.path(), "ustar", "web.ova", &["web.ovf", "web-disk1.vmdk"]);
    let done = inspect(dir.path(), &[ova.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let shown = done.stdout.replace(dir.path().to_str().unwrap(), "");
    let expected = [
        "machine      web",
        "processors   2",
        "memory       1.0 GiB",
        "meant for    debian11_64Guest",
        "card         00:50:56:aa:bb:01 on VM Network (VmxNet3)",
        "disk         /web.ova:web-disk1.vmdk (vmdk, 8.0 MiB, scsi 0:0)",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    let done = inspect(dir.path(), &[ova.to_str().unwrap(), "--json"]);
    let told = done.json();
    let machine = &told["machines"][0];
    assert_eq!((&machine["name"], &machine["vm"]["cpu"]), (&"web".into(), &2.into()), "{machine}");
    let disk = &machine["disks"][0];
    assert_eq!((&disk["controller"], &disk["bus"], &disk["unit"]), (&"scsi".into(), &0.into(), &0.into()));
    assert_eq!(machine["nics"][0]["model"], "VmxNet3");
    assert_eq!(machine["guest_os"], "debian11_64Guest");
    assert_eq!(told["disks"][0]["member"], "web-disk1.vmdk");
}

#[test]
fn of_an_appliance_with_several_machines_each_is_told_or_one_is_chosen() {
    let dir = tempfile::tempdir().unwrap();
    disk(dir.path(), &GUEST);
    let whole = fs::read(vmdk(dir.path(), "bad.vmdk", 2)).unwrap();
    fs::write(dir.path().join("bad.vmdk"), &whole[..whole.len() / 2]).unwrap();
    let files = ["disk.vmdk", "bad.vmdk"];
    let mut ovf = vmware("all", &files.map(|file| (file, 8)));
    let only = |disk: &str| item(6, 1, "") + &on_controller(1, 0, disk);
    ovf.systems = system("web", "", &only("ovf:/disk/disk0")) + &system("lost", "", &only("ovf:/disk/disk1"));
    fs::write(dir.path().join("all.ovf"), ovf.text()).unwrap();
    let ova = pack(dir.path(), "ustar", "all.ova", &["all.ovf", files[0], files[1]]);
    let ova = ova.to_str().unwrap();

    let done = inspect(dir.path(), &[ova]);
    assert_eq!(done.code, 1, "one could not be looked into: {}", done.stderr);
    let parts: Vec<&str> = done.stdout.split("\n\n").collect();
    assert_eq!(parts.len(), 2, "{}{}", done.stdout, done.stderr);
    for (part, start, within) in [
        (parts[0], "machine      web", "Debian GNU/Linux 12 (bookworm)"),
        (parts[0], "machine      web", "all.ova:disk.vmdk (vmdk, 32.0 MiB, scsi 0:0)"),
        (parts[1], "machine      lost", "not seen     "),
    ] {
        assert!(part.starts_with(start) && part.contains(within), "{part}");
    }

    let done = inspect(dir.path(), &[ova, "--json"]);
    assert_eq!((done.code, done.stderr.as_str()), (1, ""));
    let told = done.json();
    let names = |key: &str| {
        let list = told[key].as_array().unwrap();
        list.iter().map(|one| one["machine"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told["machines"].as_array().unwrap().len(), 2);
    assert_eq!((names("guests"), names("disks")), (vec!["web".to_owned()], vec!["web".to_owned()]));
    assert_eq!(told["guests"][0]["hostname"], "web");
    assert_eq!((names("errors"), &told["errors"][0]["kind"]), (vec!["lost".to_owned()], &"source".into()));

    let done = inspect(dir.path(), &[ova, "--vm", "lost"]);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "as with a disk");
    let done = inspect(dir.path(), &[ova, "--vm", "none"]);
    assert!(done.stderr.contains("no such machine") && done.stderr.contains("web, lost"), "{}", done.stderr);
    let done = inspect(dir.path(), &[dir.path().join("disk.vmdk").to_str().unwrap(), "--vm", "web"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
}

#[test]
fn a_blank_disk_before_it_hides_no_guest() {
    let dir = tempfile::tempdir().unwrap();
    let (blank, vmdk) = (dir.path().join("blank.img"), disk(dir.path(), &GUEST));
    fs::File::create(&blank).unwrap().set_len(8 << 20).unwrap();
    let done = inspect(dir.path(), &[blank.to_str().unwrap(), vmdk.to_str().unwrap(), "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.json()["guests"][0]["hostname"], "web", "{}", done.stdout);
}

#[test]
fn disks_without_a_system_are_an_answer_and_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let vmdk = disk(dir.path(), &[("readme", "only data\n")]);
    let done = inspect(dir.path(), &[vmdk.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("no operating system was found"), "{}", done.stderr);
    assert!(done.stdout.starts_with("disk "), "{}", done.stdout);
}

#[test]
fn a_key_or_a_disk_that_is_not_there_is_told_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let missing = missing.to_str().unwrap();
    let done = inspect(dir.path(), &[missing]);
    assert_eq!(done.code, 1);
    let vmdk = disk(dir.path(), &[("readme", "only data\n")]);
    let done = inspect(dir.path(), &[vmdk.to_str().unwrap(), "--key-file", missing]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("key file"), "{}", done.stderr);
}
