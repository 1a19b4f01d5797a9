//! A real guest, opened and repaired as the service does it: what changes, and that a second time nothing does.

use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::guest::facts::FixOptions;
use hyper2kvm::guest::work::{self, Event, Order, OrderedDrive};

use crate::support::guests::Guest;

/// An overlay for each disk, so that the guest stays as it was.
fn order(dir: &Path, disks: &[PathBuf]) -> Order {
    let drives = disks.iter().enumerate().map(|(index, disk)| {
        let path = dir.join(format!("{index}.qcow2"));
        let mut made = Command::new("qemu-img");
        made.args(["create", "-q", "-f", "qcow2", "-F", "vmdk", "-b"]).arg(disk).arg(&path);
        assert!(made.status().unwrap().success());
        OrderedDrive { id: format!("disk{index}"), path, format: "qcow2".to_owned(), grown_from: None }
    });
    Order {
        kvm: false,
        memory_mb: None,
        temp: dir.to_owned(),
        log: Some(dir.join("appliance.log")),
        drives: drives.collect(),
        keys: Vec::new(),
        fix: Some(FixOptions::default()),
        diffs: true,
    }
}

fn run(order: &Order) -> Vec<Event> {
    let mut events = Vec::new();
    work::run(order, &mut |event| events.push(event)).unwrap();
    events
}

/// The paths that were changed, each with the name of its repair.
fn changed(events: &[Event]) -> Vec<(String, String)> {
    let fixed = events.iter().find_map(|event| match event {
        Event::Fixed { fixes, .. } => Some(fixes),
        _ => None,
    });
    fixed.unwrap().iter().map(|fix| (fix.name.clone(), fix.path.clone())).collect()
}

fn diff<'e>(events: &'e [Event], path: &str) -> &'e str {
    let found = events.iter().find_map(|event| match event {
        Event::Diff { path: of, text } if of == path => Some(text.as_str()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no diff of {path} in {events:#?}"))
}

#[test]
fn a_debian_from_vmware_names_its_disks_by_what_lasts_and_a_second_repair_changes_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let order = order(dir.path(), &Guest::build("bookworm-bios").disks);

    let first = run(&order);

    let fstab = diff(&first, "/etc/fstab");
    let added = || fstab.lines().filter(|line| line.starts_with('+') && !line.starts_with("+++"));
    assert_eq!(added().count(), 2, "{fstab}");
    assert!(added().all(|line| line.starts_with("+UUID=")), "{fstab}");
    assert!(diff(&first, "/etc/initramfs-tools/conf.d/resume").contains("+RESUME=UUID="));
    let of_a_device =
        |event: &Event| matches!(event, Event::Warning { message } if message.contains("/dev/"));
    assert!(!first.iter().any(of_a_device), "{first:#?}");
    let changes = changed(&first);
    let is_changed = |path: &str| changes.iter().any(|(_, changed)| changed == path);
    assert!(is_changed("/boot/grub/device.map"), "{changes:?}");
    assert!(!is_changed("/boot/grub/grub.cfg"), "it names UUIDs and has a serial console: {changes:?}");

    let second = run(&order);
    assert_eq!(changed(&second), []);
}
