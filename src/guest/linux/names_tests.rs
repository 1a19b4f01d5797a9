//! Which name means which volume, and which names are never followed.

use super::super::samples::{facts, volume};
use super::*;

fn uuid(names: &Names<'_>, name: &str, want: Want<'_>) -> Option<String> {
    match names.meaning(name, want) {
        Meaning::Volume(volume) => names.stable(volume),
        _ => None,
    }
}

#[test]
fn a_disk_is_found_by_its_place_whatever_kind_of_controller_it_was_at() {
    let facts = facts();
    let names = Names::of(&facts);
    for name in ["/dev/sda1", "/dev/hda1", "/dev/xvda1", "/dev/vda1", "/dev/nvme0n1p1", "/dev/cciss/c0d0p1"] {
        assert_eq!(uuid(&names, name, Want::FileSystem("ext4")).as_deref(), Some("UUID=root-uuid"), "{name}");
    }
    for name in ["/dev/sdb1", "/dev/nvme0n2p1", "/dev/nvme1n1p1", "/dev/cciss/c0d1p1"] {
        assert_eq!(uuid(&names, name, Want::FileSystem("xfs")).as_deref(), Some("UUID=data-uuid"), "{name}");
    }
}

#[test]
fn a_name_that_is_the_same_in_any_machine_is_stable() {
    let facts = facts();
    let names = Names::of(&facts);
    for name in [
        "UUID=x",
        "LABEL=sda1",
        "/dev/mapper/vg-root",
        "/dev/vg/root",
        "/dev/md0",
        "/dev/disk/by-uuid/x",
        "/dev/disk/by-id/dm-name-vg-root",
        "/dev/disk/by-id/md-uuid-1:2",
        "/dev/sr0",
        "/dev/cdrom",
        "/dev/fd0",
        "/swapfile",
        "nas:/export",
        "tmpfs",
        "",
    ] {
        assert_eq!(names.meaning(name, Want::FileSystem("auto")), Meaning::Stable, "{name}");
    }
}

#[test]
fn a_name_that_leads_nowhere_is_lost() {
    let facts = facts();
    let names = Names::of(&facts);
    for name in [
        "/dev/sdc1",
        "/dev/sda9",
        "/dev/sda",
        "/dev/sda01",
        "/dev/sda1,",
        "/dev/sda99999999999999999999",
        "/dev/sdaaaaaaaa1",
        "/dev/nvme1n2p1",
        "/dev/nvme0n0p1",
        "/dev/dm-0",
        "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-partx",
    ] {
        assert_eq!(names.meaning(name, Want::FileSystem("auto")), Meaning::Lost, "{name}");
    }
}

#[test]
fn a_volume_with_another_content_than_expected_is_not_the_one() {
    let facts = facts();
    let names = Names::of(&facts);
    assert_eq!(names.meaning("/dev/sda1", Want::FileSystem("xfs")), Meaning::Lost);
    assert_eq!(names.meaning("/dev/sda1", Want::FileSystem("swap")), Meaning::Lost);
    assert_eq!(names.meaning("/dev/sda1", Want::Luks), Meaning::Lost);
    assert!(matches!(names.meaning("/dev/sda1", Want::FileSystem("ext3")), Meaning::Volume(_)));
    assert!(matches!(names.meaning("/dev/sda1", Want::FileSystem("xfs,ext4")), Meaning::Volume(_)));
}

#[test]
fn a_slot_or_serial_number_is_followed_only_where_one_volume_can_be_meant() {
    let facts = facts();
    let names = Names::of(&facts);
    let path = "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part5";
    assert_eq!(uuid(&names, path, Want::FileSystem("swap")).as_deref(), Some("UUID=swap-uuid"));
    // Both disks have a first partition that may be mounted.
    let path = "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part1";
    assert_eq!(names.meaning(path, Want::FileSystem("auto")), Meaning::Lost);
    let id = "/dev/disk/by-id/wwn-0x6000c29f0a1b-part1";
    assert_eq!(uuid(&names, id, Want::FileSystem("xfs")).as_deref(), Some("UUID=data-uuid"));
}

#[test]
fn the_line_of_the_root_file_system_tells_how_the_guest_counted() {
    let mut facts = facts();
    facts.identity.mounts[0].spec = "/dev/sdb1".to_owned();
    let names = Names::of(&facts);
    assert_eq!(uuid(&names, "/dev/sdb1", Want::FileSystem("ext4")).as_deref(), Some("UUID=root-uuid"));
    assert_eq!(uuid(&names, "/dev/sdb5", Want::FileSystem("swap")).as_deref(), Some("UUID=swap-uuid"));
    assert_eq!(names.meaning("/dev/sda1", Want::FileSystem("auto")), Meaning::Lost, "its place is taken");
    facts.identity.mounts[0].spec = "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:1:0-part1".to_owned();
    let names = Names::of(&facts);
    let path = "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:1:0-part1";
    assert_eq!(uuid(&names, path, Want::FileSystem("auto")).as_deref(), Some("UUID=root-uuid"));
}

#[test]
fn an_identity_that_two_volumes_share_is_none() {
    let mut facts = facts();
    let mut copy = volume("/dev/sdc1", 2, 1, "ext4", "root-uuid");
    copy.partuuid = Some("of-its-own".to_owned());
    facts.layout.volumes.push(copy);
    let names = Names::of(&facts);
    let root = names.root().unwrap();
    assert_eq!(names.stable(root).as_deref(), Some("PARTUUID=root-uuid-part"));
}

#[test]
fn two_devices_of_one_btrfs_are_named_by_the_uuid_that_they_share() {
    let mut facts = facts();
    facts.layout.volumes[0].content = "btrfs".to_owned();
    facts.layout.volumes.push(volume("/dev/sdc1", 2, 1, "btrfs", "root-uuid"));
    let names = Names::of(&facts);
    assert_eq!(names.stable(names.root().unwrap()).as_deref(), Some("UUID=root-uuid"));
}

#[test]
fn an_identifier_that_would_need_quotes_is_not_used() {
    let mut facts = facts();
    let root = &mut facts.layout.volumes[0];
    (root.uuid, root.partuuid, root.label) = (Some("a b".to_owned()), None, Some("my disk".to_owned()));
    let names = Names::of(&facts);
    assert_eq!(names.stable(names.root().unwrap()), None);
}

#[test]
fn a_spec_that_names_another_volume_contradicts() {
    let facts = facts();
    let names = Names::of(&facts);
    let root = names.root().unwrap();
    assert!(!names.contradicts("UUID=root-uuid", root));
    assert!(!names.contradicts("/dev/disk/by-uuid/root-uuid", root));
    assert!(names.contradicts("UUID=data-uuid", root));
    assert!(names.contradicts("/dev/disk/by-uuid/data-uuid", root));
    assert!(!names.contradicts("UUID=from-elsewhere", root), "what is not known proves nothing");
    assert!(!names.contradicts("/dev/mapper/root", root));
}
