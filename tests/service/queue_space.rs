//! A full disk under the queue: typed errors, nothing half done, and it goes on when there is room.
//!
//! Needs a file system that can be filled, so each test runs itself again in a further process of this
//! binary, in a mount namespace of its own; nothing is left when that ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::model::error::Kind;
use hyper2kvm::service::admission::Known;
use hyper2kvm::service::queue::Db;
use rusqlite::Connection;

use crate::intake_support::{Scene, manifest};
use crate::queue_support::{drop_of, plans_below, single};
use crate::support::wait_for;

/// Names the small file system to the test inside.
const SMALL: &str = "HYPER2KVM_TEST_SMALL_FILE_SYSTEM";

/// The small file system, inside; outside, runs the same test again where there is one.
fn small_file_system(test: &str) -> Option<PathBuf> {
    if let Some(here) = std::env::var_os(SMALL) {
        return Some(PathBuf::from(here));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let output = unshare
        .args(["--mount", "sh", "-c", "mount -t tmpfs -o size=2m small \"$0\" && exec \"$@\""])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SMALL, directory.path())
        .output()
        .unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    None
}

/// Takes all room but for so many bytes.
fn fill(directory: &Path, leave: u64) -> PathBuf {
    let space = rustix::fs::statvfs(directory).unwrap();
    let ballast = directory.join("ballast");
    let taken = (space.f_bavail * space.f_frsize).saturating_sub(leave);
    fs::write(&ballast, vec![1; taken as usize]).unwrap();
    ballast
}

#[test]
fn a_commit_without_room_fails_whole_and_the_queue_goes_on_when_there_is_some() {
    let Some(root) = small_file_system(
        "queue_space::a_commit_without_room_fails_whole_and_the_queue_goes_on_when_there_is_some",
    ) else {
        return;
    };
    let path = root.join("queue.db");
    let mut db = Db::open(&path).unwrap();
    let big = |number: u32| {
        let mut drop = drop_of(single(&format!("vm-{number}"), &format!("content {number}")));
        drop.bytes = vec![b'x'; 100_000];
        drop
    };
    let mut plans_root = root.clone();
    plans_root.push("out");
    let plans = plans_below(&plans_root);
    db.accept_with(&[big(0)], &plans, &Known::default()).unwrap();
    let ballast = fill(&root, 64 << 10);
    let mut accepted = 1_isize;
    let mut refused = 0;
    for number in 1..20 {
        match db.accept_with(&[big(number)], &plans, &Known::default()) {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert_eq!(error.kind(), Kind::DiskSpace, "{error}");
                assert!(error.details().advice.is_some());
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "the file system was not full");
    assert_eq!(
        db.unfinished_jobs().unwrap().len() as isize,
        accepted,
        "it can still be read, and nothing is half done"
    );
    fs::remove_file(&ballast).unwrap();
    db.accept_with(&[big(100)], &plans, &Known::default()).unwrap();
    drop(db);
    let raw = Connection::open(&path).unwrap();
    let check: String = raw.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let jobs: isize = raw.query_row("SELECT count(*) FROM job", [], |row| row.get(0)).unwrap();
    let drops: isize = raw.query_row("SELECT count(*) FROM dropped", [], |row| row.get(0)).unwrap();
    assert_eq!((jobs, drops), (accepted + 1, accepted + 1));
}

#[test]
fn drops_that_cannot_be_recorded_stay_where_they_are_until_there_is_room() {
    let Some(root) = small_file_system(
        "queue_space::drops_that_cannot_be_recorded_stay_where_they_are_until_there_is_room",
    ) else {
        return;
    };
    let state = tempfile::tempdir_in(&root).unwrap();
    let scene = {
        let mut scene = Scene::in_directory(state, 0.2);
        scene.start();
        scene
    };
    scene.rename_in("first.json", &manifest("first"));
    scene.wait_for_jobs(1);
    scene.wait_for_file("processing", "first-first.json");
    // A manifest is small, but its row is not: a comment makes it as long as the room that is left.
    let long = |name: &str| manifest(name).replace('\n', &" ".repeat(120_000));
    let hidden = scene.incoming().join(".second");
    fs::write(&hidden, long("second")).unwrap();
    let ballast = fill(&root, 32 << 10);
    fs::rename(&hidden, scene.incoming().join("second.json")).unwrap();
    let told = wait_for("the trouble to be told", || scene.intake().last_error().borrow().clone());
    assert!(told.contains("full") || told.contains("space"), "{told}");
    assert_eq!(scene.jobs().len(), 1);
    assert!(scene.incoming().join("second.json").exists());
    assert!(scene.refused().is_empty());

    fs::remove_file(ballast).unwrap();
    scene.wait_for_jobs(2);
    wait_for("no more trouble", || scene.intake().last_error().borrow().is_none().then_some(()));
    assert!(scene.files("incoming").is_empty());
}
