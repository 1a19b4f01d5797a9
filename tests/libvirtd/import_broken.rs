//! Imports that are stopped, killed, or run out of room: nothing half-done stays, at the latest when the next one is over.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use hyper2kvm::libvirt::import::{How, Import, import};
use hyper2kvm::model::error::{Disposition, Error, Kind};
use hyper2kvm::sys::failpoint;
use serde_json::json;

use crate::import::{imported, order};
use crate::storage::{link, names_in, pool, told};
use crate::support::disks::{raw, sha256};
use crate::support::libvirtd::Libvirtd;
use crate::support::wait_for;

#[test]
fn an_import_that_is_told_to_stop_leaves_nothing() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    // Another file system: what is moved is copied, too.
    libvirtd
        .sh(&format!("mount -t tmpfs -o size=64m h2k '{0}'; virsh -q pool-refresh images", path.display()));
    let file = libvirtd.images().join("web.raw");
    raw(&file, 40, 40, 3);
    for how in [How::Copy, How::Move] {
        let left = Cell::new(5);
        let keep_on = || match left.replace(left.get() - 1) {
            1 => Err(Error::new(Kind::Cancelled, "stopped by the operator")),
            _ => Ok(()),
        };
        let stopped = import(&link(&libvirtd), &Import { how, ..order(&file, "web") }, &keep_on, &mut |_| {});
        assert_eq!(stopped.unwrap_err().kind(), Kind::Cancelled);
        assert_eq!(libvirtd.sh(&format!("ls -A '{}'", path.display())), "");
        assert!(file.exists());
    }
}

#[test]
fn an_interrupt_of_the_command_removes_what_it_made() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 400, 400, 3);
    // A machine that is fast may be done before the interrupt comes.
    let was_interrupted = (0..10).any(|_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command
            .args(["libvirt", "--uri", &libvirtd.uri(), "import"])
            .arg(&file)
            .args(["images", "--overwrite"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the volume", || names_in(&path).iter().any(|name| name.contains("upload")).then_some(()));
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        child.wait_with_output().unwrap().status.code() == Some(130)
    });
    assert!(was_interrupted);
    assert!(names_in(&path).is_empty(), "{:?}", names_in(&path));
}

#[test]
fn a_full_pool_is_told_with_its_room_before_and_while_bytes_move() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let shown = path.display();
    libvirtd.sh(&format!("mount -t tmpfs -o size=32m h2k '{shown}'; virsh -q pool-refresh images"));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 200, 40, 3);
    let error = imported(&libvirtd, &order(&file, "web")).unwrap_err();
    let details = error.details();
    assert_eq!(
        (error.kind(), details.free_bytes, details.output.as_ref()),
        (Kind::DiskSpace, Some(32 << 20), Some(&path))
    );
    assert!(details.need_bytes.is_some_and(|bytes| bytes >= 40 << 20), "{error}");
    // Somebody else takes the room meanwhile.
    raw(&file, 200, 24, 3);
    let asked = Cell::new(0);
    let keep_on = || {
        if asked.replace(asked.get() + 1) == 1 {
            libvirtd.sh(&format!("dd if=/dev/zero of='{shown}/other' bs=1M count=64 status=none || true"));
        }
        Ok(())
    };
    let error = import(&link(&libvirtd), &order(&file, "web"), &keep_on, &mut |_| {}).unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (Kind::DiskSpace, Disposition::NeedsOperator), "{error}");
    assert_eq!(libvirtd.sh(&format!("ls -A '{shown}'")), "other\n");
    libvirtd.sh(&format!("rm '{shown}/other'"));
    imported(&libvirtd, &order(&file, "web")).unwrap();
    assert_eq!(libvirtd.sh(&format!("ls -A '{shown}'")), "web\n");
}

#[test]
fn a_libvirtd_that_is_killed_costs_the_attempt_and_nothing_else() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 120, 60, 3);
    let sum = sha256(&file);
    // While bytes come, while they are compared, and before anything is done.
    for (how, when) in [(How::Copy, 4), (How::Move, 38), (How::Copy, 0)] {
        let shown = path.display();
        if how == How::Move {
            libvirtd.sh(&format!("mount -t tmpfs -o size=128m h2k '{shown}'; virsh -q pool-refresh images"));
        }
        let order = Import { how, ..order(&file, "web") };
        let asked = Cell::new(0);
        let keep_on = || {
            if asked.replace(asked.get() + 1) == when {
                libvirtd.kill();
            }
            Ok(())
        };
        let error = import(&link(&libvirtd), &order, &keep_on, &mut |_| {}).unwrap_err();
        assert_eq!((error.kind(), error.disposition()), (Kind::Libvirt, Disposition::Transient), "{error}");
        assert!(file.exists());
        libvirtd.await_up();
        imported(&libvirtd, &Import { how: How::Copy, ..order }).unwrap();
        let there = libvirtd.sh(&format!("cd '{shown}'; ls -A; sha256sum <web; rm web"));
        assert_eq!(there, format!("web\n{sum}  -\n"));
        if how == How::Move {
            libvirtd.sh(&format!("umount '{shown}'"));
        }
        libvirtd.sh("virsh -q pool-refresh images");
    }
}

#[test]
fn an_import_that_is_killed_anywhere_is_cleared_away_by_the_next() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let file = libvirtd.images().join("web.raw");
    let run = |arguments: &[&str], failpoint: Option<&str>| {
        let mut command = libvirtd.hyper2kvm();
        command.args(["libvirt", "import"]).arg(&file).args(["images", "--json"]).args(arguments);
        command.envs(failpoint.map(|point| ("HYPER2KVM_FAILPOINT", point)));
        command.output().unwrap()
    };
    raw(&file, 60, 20, 3);
    let sum = sha256(&file);
    for point in failpoint::IMPORT.iter().filter(|point| !point.contains("plac")) {
        let point = if *point == "import.sending" { "import.sending:30" } else { point };
        let killed = run(&[], Some(point));
        assert_eq!(killed.status.signal(), Some(9), "{point}: {killed:?}");
        assert!(names_in(&path).iter().any(|name| name.starts_with(".hyper2kvm-upload-")), "{point}");
        let rehearsed = run(&["--dry-run"], None);
        assert!(rehearsed.status.success(), "{point}: {rehearsed:?}");
        let next = run(&[], None);
        assert!(next.status.success(), "{point}: {next:?}");
        assert_eq!(
            (names_in(&path), sha256(&path.join("web.raw"))),
            (vec!["web.raw".to_owned()], sum.clone()),
            "{point}"
        );
        std::fs::remove_file(path.join("web.raw")).unwrap();
    }
    // A file that is moved by its name alone is either here or there.
    for (point, is_there) in [("import.placing", false), ("import.placed", true)] {
        raw(&file, 60, 20, 3);
        let killed = run(&["--move"], Some(point));
        assert_eq!(killed.status.signal(), Some(9), "{point}: {killed:?}");
        assert_eq!((file.exists(), path.join("web.raw").exists()), (!is_there, is_there));
        if is_there {
            raw(&file, 60, 20, 3);
        }
        let next = run(&["--move", "--overwrite"], None);
        assert!(next.status.success(), "{point}: {next:?}");
        assert_eq!(
            (names_in(&path), sha256(&path.join("web.raw"))),
            (vec!["web.raw".to_owned()], sum.clone()),
            "{point}"
        );
        std::fs::remove_file(path.join("web.raw")).unwrap();
    }
    // What it replaces is there, whole, until it does.
    raw(&file, 60, 20, 3);
    std::fs::write(path.join("web.raw"), "old").unwrap();
    let killed = run(&["--move", "--overwrite"], Some("import.placing"));
    assert_eq!(killed.status.signal(), Some(9), "{killed:?}");
    assert_eq!((std::fs::read(path.join("web.raw")).unwrap(), file.exists()), (b"old".to_vec(), true));
    let next = run(&["--move", "--overwrite"], None);
    assert!(next.status.success(), "{next:?}");
    assert_eq!((names_in(&path), file.exists()), (vec!["web.raw".to_owned()], false));
    assert_eq!(sha256(&path.join("web.raw")), sum);
}

#[test]
fn what_another_process_imports_now_or_somebody_made_since_is_left_alone() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 40, 20, 3);
    let outside = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command
            .args(["libvirt", "--json", "--uri", &libvirtd.uri(), "import"])
            .arg(&file)
            .args(["images", "--name", "web"]);
        let output = command.args(arguments).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stderr).unwrap_or_default()
    };
    let asked = Cell::new(0);
    let keep_on = || {
        if asked.replace(asked.get() + 1) == 2 {
            let pid = format!("the process {}", std::process::id());
            for arguments in [&[][..], &["--overwrite"][..]] {
                let error = outside(arguments);
                assert_eq!(error["kind"], json!("exists"), "{error}");
                assert!(error.to_string().contains(&pid), "{error}");
            }
            // In another namespace nobody knows whether it runs.
            let error =
                told(&libvirtd, &["import", file.to_str().unwrap(), "images", "--name", "web"]).unwrap_err();
            assert_eq!(error["kind"], json!("exists"), "{error}");
        }
        Ok(())
    };
    import(&link(&libvirtd), &order(&file, "web"), &keep_on, &mut |_| {}).unwrap();
    assert_eq!((names_in(&path), sha256(&path.join("web"))), (vec!["web".to_owned()], sha256(&file)));
    std::fs::remove_file(path.join("web")).unwrap();
    // What an import left was removed, and another volume made in its place: that is not ours.
    let killed = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["libvirt", "--uri", &libvirtd.uri(), "import"])
        .arg(&file)
        .args(["images", "--name", "web"])
        .env("HYPER2KVM_FAILPOINT", "import.sending:15")
        .output()
        .unwrap();
    assert_eq!(killed.status.signal(), Some(9));
    std::fs::write(path.join("web"), "of somebody else").unwrap();
    assert_eq!(outside(&[])["kind"], json!("exists"));
    assert_eq!(std::fs::read(path.join("web")).unwrap(), b"of somebody else");
}
