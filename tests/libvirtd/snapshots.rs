//! Snapshots of machines whose disks say what they hold.

use std::path::PathBuf;
use std::thread;

use hyper2kvm::libvirt::domains::{self, Overwrite, State, Undefine};
use hyper2kvm::libvirt::link::{Access, Link};
use hyper2kvm::libvirt::snapshots::{self, Deleted, Disks, NewSnapshot, Place};
use hyper2kvm::model::error::Kind;

use crate::machines::{disk, holds, image, link, machine, uefi_machine, write};
use crate::support::libvirtd::Libvirtd;

fn auto(name: &str) -> NewSnapshot {
    NewSnapshot {
        name: name.to_owned(),
        description: Some("before <it> runs".to_owned()),
        disks: Disks::Auto,
    }
}

/// The file that is written into, as it is at the next start.
fn file_of(link: &Link, name: &str, target: &str) -> PathBuf {
    let found = domains::find(link, name).unwrap().unwrap();
    match found.disks.into_iter().find(|disk| disk.target == target).unwrap().source {
        Some(domains::Source::Path(path)) => path,
        other => panic!("{other:?}"),
    }
}

#[test]
fn disks_that_can_hold_snapshots_do_and_go_back_to_them() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let path = image(&libvirtd, "web.qcow2", "qcow2", 1);
    domains::define(link, &machine("web", "", &disk("vda", "qcow2", &path)), &Overwrite::Refuse).unwrap();
    for existed in [false, true] {
        let created = snapshots::create(link, "web", &auto("my first.one")).unwrap();
        assert_eq!((created.snapshot.place, created.existed), (Place::Internal, existed));
        assert!(created.why.contains(if existed { "as it was made" } else { "qcow2" }), "{}", created.why);
        assert!(created.snapshot.current && created.snapshot.created_at > 0);
        assert_eq!(created.snapshot.description.as_deref(), Some("before <it> runs"));
    }
    write(&path, "qcow2", 2);
    assert_eq!(snapshots::list(link, "web").unwrap().len(), 1);
    snapshots::revert(link, "web", "my first.one", false).unwrap();
    assert!(holds(&path, "qcow2", 1));

    // One that runs is not taken back by mistake; with its memory it is kept, too.
    domains::start(link, "web").unwrap();
    assert_eq!(snapshots::create(link, "web", &auto("running")).unwrap().snapshot.state, "running");
    let error = snapshots::revert(link, "web", "my first.one", false).unwrap_err();
    assert!(error.to_string().contains("would be lost"), "{error}");
    snapshots::revert(link, "web", "my first.one", true).unwrap();
    assert_eq!(domains::state(link, "web").unwrap().state, State::Off);
    assert_eq!(snapshots::delete(link, "web", "running", false).unwrap(), Deleted::Internal);
    assert_eq!(snapshots::delete(link, "web", "running", false).unwrap(), Deleted::Absent);
    assert!(
        snapshots::revert(link, "web", "running", false).unwrap_err().to_string().contains("no snapshot")
    );

    // With the machine they leave the disk.
    domains::undefine(link, "web", &Undefine { snapshots: true, ..Undefine::default() }).unwrap();
    assert!(!libvirtd.sh(&format!("qemu-img snapshot -l '{}'", path.display())).contains("first"));
}

/// A machine that is off: kept, written, kept again, taken back, put together.
fn goes_around_outside(link: &Link, name: &str, disks: &[PathBuf], why: &str) {
    let created = snapshots::create(link, name, &auto("one")).unwrap();
    assert_eq!(created.snapshot.place, Place::External);
    assert!(created.why.contains(why), "{}", created.why);
    assert!(snapshots::create(link, name, &auto("one")).unwrap().existed);
    let files = || -> Vec<PathBuf> {
        let found = domains::find(link, name).unwrap().unwrap();
        found.disks.iter().map(|disk| file_of(link, name, &disk.target)).collect()
    };
    let at_one = files();
    let one = file_of(link, name, "vda");
    assert_eq!(Some(&one), created.snapshot.disks[0].overlay.as_ref());
    assert_ne!(one, disks[0]);
    write(&one, "qcow2", 2);
    assert_eq!(snapshots::create(link, name, &auto("two")).unwrap().snapshot.parent.as_deref(), Some("one"));
    let two = file_of(link, name, "vda");
    write(&two, "qcow2", 3);

    let error = snapshots::delete(link, name, "one", false).unwrap_err();
    assert!(error.to_string().contains("later ones stand on it: two"), "{error}");

    // Back to the second, which stays, and what came after it stays in its file.
    let back = snapshots::revert(link, name, "two", false).unwrap();
    assert_eq!((back.disks[0].target.as_str(), &back.disks[0].left), ("vda", &Some(two.clone())));
    let now = file_of(link, name, "vda");
    assert_eq!(back.disks[0].now, now);
    assert!(holds(&now, "qcow2", 2) && holds(&two, "qcow2", 3));
    write(&now, "qcow2", 4);
    // And once more.
    snapshots::revert(link, name, "two", false).unwrap();
    let now = file_of(link, name, "vda");
    assert!(holds(&now, "qcow2", 2));
    write(&now, "qcow2", 5);

    // What was written since stays when they go.
    assert_eq!(
        snapshots::delete(link, name, "two", false).unwrap(),
        Deleted::Merged { files: at_one.clone() }
    );
    assert_eq!(files(), at_one);
    assert!(holds(&one, "qcow2", 5) && !now.exists());
    assert_eq!(domains::state(link, name).unwrap().state, State::Off);
    let merged = Deleted::Merged { files: disks.to_vec() };
    assert_eq!(snapshots::delete(link, name, "one", false).unwrap(), merged);
    assert_eq!(files(), disks);
    assert_eq!(snapshots::list(link, name).unwrap(), []);
}

#[test]
fn raw_disks_are_kept_in_files_beside_them() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let raw = image(&libvirtd, "we b.raw", "raw", 1);
    let second = image(&libvirtd, "second.qcow2", "qcow2", 1);
    let disks = disk("vda", "raw", &raw) + &disk("vdb", "qcow2", &second);
    domains::define(link, &machine("we b", "", &disks), &Overwrite::Refuse).unwrap();
    goes_around_outside(link, "we b", &[raw.clone(), second], "vda is raw");
    assert!(holds(&raw, "raw", 5));
    domains::undefine(link, "we b", &Undefine::default()).unwrap();
}

#[test]
fn machines_with_uefi_are_kept_in_files_beside_their_disks() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let path = image(&libvirtd, "web.qcow2", "qcow2", 1);
    domains::define(link, &uefi_machine("web", "", &disk("vda", "qcow2", &path)), &Overwrite::Refuse)
        .unwrap();
    goes_around_outside(link, "web", &[path], "UEFI");
    let nvram = "ls /var/lib/libvirt/qemu/nvram/web_VARS.fd 2>/dev/null || true";
    assert!(!libvirtd.sh(nvram).is_empty());
    domains::undefine(link, "web", &Undefine { nvram: true, ..Undefine::default() }).unwrap();
    assert!(libvirtd.sh(nvram).is_empty());
}

#[test]
fn a_running_machine_is_kept_outside_and_put_together_while_it_runs() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let raw = image(&libvirtd, "web.raw", "raw", 1);
    domains::define(link, &machine("web", "", &disk("vda", "raw", &raw)), &Overwrite::Refuse).unwrap();
    domains::start(link, "web").unwrap();
    let directory = libvirtd.images().join("overlays");
    std::fs::create_dir(&directory).unwrap();
    let disks = Disks::External { directory: Some(directory.clone()) };
    let new = NewSnapshot { name: "live".to_owned(), description: None, disks };
    let created = snapshots::create(link, "web", &new).unwrap();
    assert_eq!(created.snapshot.disks[0].overlay.as_ref().unwrap().parent(), Some(directory.as_path()));
    let error = snapshots::revert(link, "web", "live", true).unwrap_err();
    assert!(error.to_string().contains("not off"), "{error}");
    assert_eq!(
        snapshots::delete(link, "web", "live", false).unwrap(),
        Deleted::Merged { files: vec![raw.clone()] }
    );
    assert_eq!(domains::state(link, "web").unwrap().state, State::Running);
    assert_eq!(file_of(link, "web", "vda"), raw);
}

#[test]
fn a_snapshot_that_cannot_be_made_or_would_lose_data_is_refused() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let raw = image(&libvirtd, "web.raw", "raw", 1);
    domains::define(link, &machine("web", "", &disk("vda", "raw", &raw)), &Overwrite::Refuse).unwrap();
    let create = |name: &str, disks| {
        snapshots::create(link, "web", &NewSnapshot { name: name.to_owned(), description: None, disks })
    };
    for name in ["", "a/b", ".hidden", "a\0b", &"x".repeat(300)] {
        assert_eq!(create(name, Disks::Auto).unwrap_err().kind(), Kind::Manifest, "{name:?}");
        assert_eq!(
            snapshots::delete(link, "web", name, true).unwrap_err().kind(),
            Kind::Manifest,
            "{name:?}"
        );
    }
    let error = create("x", Disks::Internal).unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.to_string().contains("raw"), "{error}");
    // What lies where its file would go stays.
    let taken = raw.with_file_name("web.vda.taken.qcow2");
    std::fs::write(&taken, "precious").unwrap();
    create("taken", Disks::Auto).unwrap_err();
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "precious");
    assert_eq!(file_of(link, "web", "vda"), raw);

    // The same name for other disks.
    create("one", Disks::Auto).unwrap();
    let second = image(&libvirtd, "second.raw", "raw", 1);
    libvirtd.sh(&format!("virsh -q attach-disk web '{}' vdb --subdriver raw --config", second.display()));
    assert_eq!(create("one", Disks::Auto).unwrap_err().kind(), Kind::Exists);

    // Another machine uses what it keeps.
    let disks = disk("vda", "raw", &raw);
    domains::define(link, &machine("other", "", &disks), &Overwrite::Refuse).unwrap();
    let error = snapshots::delete(link, "web", "one", false).unwrap_err();
    assert!(error.to_string().contains("machine other stands on"), "{error}");
    domains::undefine(link, "other", &Undefine::default()).unwrap();

    // The machine goes on with another file: there is nothing to put together.
    libvirtd.sh("virsh -q detach-disk web vda --config");
    let other = image(&libvirtd, "other.raw", "raw", 7);
    libvirtd.sh(&format!("virsh -q attach-disk web '{}' vda --subdriver raw --config", other.display()));
    let error = snapshots::delete(link, "web", "one", false).unwrap_err();
    assert!(error.to_string().contains("does not stand on"), "{error}");
    assert_eq!(domains::state(link, "web").unwrap().state, State::Off);
    let overlay = raw.with_file_name("web.vda.one.qcow2");
    let forgotten = Deleted::Forgotten { files: vec![overlay.clone()] };
    assert_eq!(snapshots::delete(link, "web", "one", true).unwrap(), forgotten);
    assert!(overlay.exists() && holds(&raw, "raw", 1) && holds(&other, "raw", 7));
}

#[test]
fn twenty_at_once_make_one_snapshot() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let path = image(&libvirtd, "web.qcow2", "qcow2", 1);
    domains::define(link, &machine("web", "", &disk("vda", "qcow2", &path)), &Overwrite::Refuse).unwrap();
    let uri = &libvirtd.uri();
    let made: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(move || {
                    let link = Link::open(uri, Access::Changes).unwrap();
                    usize::from(!snapshots::create(&link, "web", &auto("one")).unwrap().existed)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(made, 1);
    assert_eq!(snapshots::list(link, "web").unwrap().len(), 1);
}
