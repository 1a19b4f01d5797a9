//! A Windows: known for one, described by its registry, and not repaired.

use std::path::{Path, PathBuf};

use hyper2kvm::guest::work::Event;
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::guest::{GuestIdentity, GuestType};

use crate::bad_guests::{repair, run_on};
use crate::support::hive::Key;
use crate::support::trees;

/// An NTFS with these hives in the place where Windows has them.
fn windows(dir: &Path, software: &[u8], system: &[u8]) -> PathBuf {
    let disk = dir.join("windows.raw");
    std::fs::File::create(&disk).unwrap().set_len(48 << 20).unwrap();
    let (software_at, system_at) = (dir.join("SOFTWARE"), dir.join("SYSTEM"));
    std::fs::write(&software_at, software).unwrap();
    std::fs::write(&system_at, system).unwrap();
    let (from_software, from_system) = (software_at.display(), system_at.display());
    trees::guestfish(
        &[&disk],
        &format!(
            "mkfs ntfs /dev/sda\nmount /dev/sda /\nmkdir-p /Windows/System32/config\n\
             upload {from_software} /Windows/System32/config/SOFTWARE\nupload {from_system} /Windows/System32/config/SYSTEM\n"
        ),
    );
    disk
}

fn identity(events: &[Event]) -> &GuestIdentity {
    let told = events.iter().find_map(|event| match event {
        Event::Inspected { identity, .. } => Some(identity),
        _ => None,
    });
    told.unwrap()
}

#[test]
fn it_is_described_by_its_registry_and_its_repair_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut software, mut system) = (Key::default(), Key::default());
    software
        .at("Microsoft\\Windows NT\\CurrentVersion")
        .set("ProductName", "Windows 10 Pro")
        .set("CurrentVersion", "6.3")
        .set("CurrentBuildNumber", "22631");
    let control = system.at("ControlSet001\\Control");
    control.at("ComputerName\\ComputerName").set("ComputerName", "DESK-7");
    control.at("Session Manager\\Environment").set("PROCESSOR_ARCHITECTURE", "AMD64");
    let disk = windows(dir.path(), &software.hive(), &system.hive());
    let before = std::fs::read(&disk).unwrap();

    let events = run_on(dir.path(), &[&disk], None).unwrap();
    let found = identity(&events);
    assert_eq!(found.kind, GuestType::Windows);
    assert_eq!(found.os_pretty.as_deref(), Some("Windows 11 Pro"));
    assert_eq!(found.os_version.as_deref(), Some("10.0.22631"));
    assert_eq!(found.architecture.as_deref(), Some("x86_64"));
    assert_eq!(found.hostname.as_deref(), Some("DESK-7"));
    assert_eq!(found.notes, [""; 0]);

    let error = repair(dir.path(), &[&disk]).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("cannot repair Windows guests"), "{error}");
    assert!(error.details().advice.as_deref().is_some_and(|advice| advice.contains("emulated")), "{error}");
    assert!(std::fs::read(&disk).unwrap() == before, "it was written to");
}

#[test]
fn one_whose_registry_is_damaged_is_a_windows_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut software = Key::default();
    software.at("Microsoft").set("ProductName", "elsewhere");
    let hive = software.hive();
    let disk = windows(dir.path(), b"no hive at all", &hive[..3000]);
    let events = run_on(dir.path(), &[&disk], None).unwrap();
    let found = identity(&events);
    assert_eq!((found.kind, &found.os_pretty), (GuestType::Windows, &None));
    assert!(
        found.notes.iter().any(|note| note.contains("SOFTWARE of the Windows cannot be read")),
        "{:?}",
        found.notes
    );
}
