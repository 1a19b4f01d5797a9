//! Guests of every family, repaired file by file: what is changed is as reviewed, all else is as it was, and a second time changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};
use hyper2kvm::guest::facts::{FixOptions, WantedNic};
use hyper2kvm::guest::fix::{self, Guest};
use hyper2kvm::guest::inspect;
use hyper2kvm::guest::linux;
use hyper2kvm::guest::tree::{BACKUP_ROOT, Edit, Tree};

use crate::systems::{self, SYSTEMS};

/// A line of so many bytes is not one that somebody wrote.
const FILLING: usize = 200;

fn repaired(appliance: Appliance, root: &str) -> (Vec<Edit>, Vec<String>, Appliance) {
    let nic = WantedNic { mac: Some("00:50:56:9c:00:02".to_owned()), ..WantedNic::default() };
    let options = FixOptions { nics: vec![nic], ..FixOptions::default() };
    let facts = inspect::look(&appliance, &[], Some(root), false).unwrap();
    let tree = Tree::new(appliance, options.backup);
    let mut guest = Guest { tree, facts, options: &options, warnings: Vec::new() };
    fix::carry_out(linux::ALL, &mut guest, &mut |_| ()).unwrap();
    let warnings = guest.warnings;
    let (appliance, edits) = guest.tree.into_appliance();
    appliance.unmount_all().unwrap();
    (edits, warnings, appliance)
}

/// Every change with its reason, and of texts how.
fn told(edits: &[Edit], warnings: &[String]) -> String {
    let mut told = String::new();
    let mut shown: Vec<&str> = Vec::new();
    for edit in edits {
        let _ = writeln!(told, "== {} {} {}: {}", edit.fix, edit.action.name(), edit.path, edit.detail);
        if !shown.contains(&edit.path.as_str()) {
            shown.push(&edit.path);
            for line in fix::diff(edits, &edit.path).unwrap_or_default().lines() {
                // What fills up a GRUB environment block says nothing.
                let line = if line.len() > FILLING && line.ends_with("####") { "…####" } else { line };
                let _ = writeln!(told, "{line}");
            }
        }
    }
    for warning in warnings {
        let _ = writeln!(told, "!! {warning}");
    }
    told
}

/// Plain files below a directory, by their paths in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                left.push(path);
            } else if entry.file_type().unwrap().is_file() {
                let name = format!("/{}", path.strip_prefix(dir).unwrap().display());
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// What is on a partition now.
fn files_of_partition(disk: &Path, index: usize, into: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::create_dir(into).unwrap();
    let image = format!("{}?offset={}", disk.display(), systems::offset(index));
    let mut debugfs = Command::new("/sbin/debugfs");
    debugfs.args(["-R", &format!("rdump / {}", into.display()), &image]);
    let done = debugfs.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    files(into)
}

#[test]
fn each_is_repaired_as_reviewed_and_keeps_all_else() {
    let dir = tempfile::tempdir().unwrap();
    let disk = systems::disk(dir.path());
    let drive = Drive { path: disk.clone(), format: "raw".to_owned(), readonly: false };
    let log = Some(dir.path().join("appliance.log"));
    let settings = Settings { kvm: false, memory_mb: None, temp: dir.path().to_owned(), log };
    let mut appliance = Appliance::launch(&settings, &[drive]).unwrap();
    let mut changed = Vec::new();
    for (index, system) in SYSTEMS.iter().enumerate() {
        let root = format!("/dev/sda{}", index + 1);
        let (edits, warnings, open) = repaired(appliance, &root);
        insta::assert_snapshot!(format!("repaired-{}", system.name), told(&edits, &warnings));
        let (again, _, open) = repaired(open, &root);
        assert_eq!(again, [], "{}: a second time changes something", system.name);
        changed.push(edits);
        appliance = open;
    }
    appliance.finish().unwrap();

    for (index, (system, edits)) in SYSTEMS.iter().zip(&changed).enumerate() {
        let before = files(&dir.path().join(system.name));
        let after = files_of_partition(&disk, index, &dir.path().join(format!("{}-after", system.name)));
        let is_edited = |path: &str| edits.iter().any(|edit| edit.path == path);
        for (path, content) in &before {
            let kept = after.get(path) == Some(content);
            assert!(kept || is_edited(path), "{}: {path} was changed and nobody says so", system.name);
            let backup = after.get(&format!("{BACKUP_ROOT}{path}"));
            assert!(
                backup.is_none_or(|backup| backup == content),
                "{}: the copy of {path} is another",
                system.name
            );
        }
        for path in after.keys().filter(|path| !before.contains_key(*path) && !path.starts_with(BACKUP_ROOT))
        {
            assert!(is_edited(path), "{}: {path} is new and nobody says so", system.name);
        }
    }
}
