//! A guest for tests: two disks, the first with a root file system and swap, the second with data.

use crate::guest::facts::{Facts, Layout, Mounted, Volume};
use crate::model::guest::{GuestIdentity, GuestMount};

/// A partition.
pub(super) fn volume(device: &str, disk: usize, partition: u32, content: &str, uuid: &str) -> Volume {
    Volume {
        device: device.to_owned(),
        disk: Some(disk),
        partition: Some(partition),
        content: content.to_owned(),
        uuid: Some(uuid.to_owned()),
        partuuid: Some(format!("{uuid}-part")),
        ..Volume::default()
    }
}

/// What inspection would have found.
pub(super) fn facts() -> Facts {
    let mount =
        GuestMount { path: "/".to_owned(), spec: "UUID=root-uuid".to_owned(), ..GuestMount::default() };
    Facts {
        identity: GuestIdentity { mounts: vec![mount], ..GuestIdentity::default() },
        layout: Layout {
            disks: vec!["/dev/sda".to_owned(), "/dev/sdb".to_owned()],
            volumes: vec![
                volume("/dev/sda1", 0, 1, "ext4", "root-uuid"),
                volume("/dev/sda5", 0, 5, "swap", "swap-uuid"),
                volume("/dev/sda3", 0, 3, "crypto_LUKS", "luks-uuid"),
                volume("/dev/sdb1", 1, 1, "xfs", "data-uuid"),
            ],
            mounted: vec![Mounted {
                path: "/".to_owned(),
                device: "/dev/sda1".to_owned(),
                ..Mounted::default()
            }],
            ..Layout::default()
        },
    }
}
