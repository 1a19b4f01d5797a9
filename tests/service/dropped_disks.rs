//! Disks as drops: what is taken and when, what belongs together, and that the disk itself is never lost or changed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hyper2kvm::model::error::Kind;
use serde_json::Value;

use crate::intake_support::{Scene, manifest};
use crate::support::vhdx::{Block, Vhdx};
use crate::support::{Daemon, disks, wait_for, within};

/// Long enough that only a rename can make a file complete within a test.
const FOREVER_S: f64 = 3600.0;

/// Long enough to tell the wait from none, on a loaded machine too.
const SHORT_S: f64 = 0.5;

/// A daemon that takes disks and converts them as they are. Nothing else may be read: that binds what is named, not what is dropped.
fn daemon() -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.configure(
        "intake: {accept_disks: true, profile: none, companion_wait_s: 30, settle_s: {disk: 0.5}}\npaths: {read: [/nowhere]}\n",
    );
    daemon.start();
    daemon
}

/// Renames files in, one after the other.
fn bring_in(daemon: &Daemon, files: &[&Path]) {
    for file in files {
        fs::rename(file, daemon.state().join("incoming").join(file.file_name().unwrap())).unwrap();
    }
}

fn qemu_img(arguments: &[&str], directory: &Path) {
    let done = Command::new("qemu-img").args(arguments).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// `web.vmdk` and `web-flat.vmdk`.
fn descriptor_and_extent(directory: &Path) -> [PathBuf; 2] {
    disks::raw(&directory.join("web.raw"), 8, 2, 5);
    qemu_img(
        &["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", "web.raw", "web.vmdk"],
        directory,
    );
    fs::remove_file(directory.join("web.raw")).unwrap();
    [directory.join("web.vmdk"), directory.join("web-flat.vmdk")]
}

/// Names below a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn error_beside(path: &Path) -> Value {
    let mut report = path.as_os_str().to_owned();
    report.push(".error.json");
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

#[test]
fn a_disk_that_is_renamed_in_is_converted_and_put_away_unchanged() {
    let daemon = daemon();
    let disk = disks::disk(daemon.scratch(), "web", "qcow2", 8, 2, 1);
    let (file, content) = (disks::sha256(&disk), disks::content_sha256(&disk, "qcow2"));
    bring_in(&daemon, &[&disk]);
    let put_away = daemon.wait_settled("processed", "web.qcow2");
    let result = daemon.state().join("output/web/web/web.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), content);
    assert_eq!(disks::sha256(&put_away), file);
    assert_eq!(names(put_away.parent().unwrap()), ["web.qcow2", "web.qcow2.report.json"]);
    for area in ["incoming", "processing"] {
        assert_eq!(names(&daemon.state().join(area)), Vec::<String>::new());
    }
}

#[test]
fn another_disk_under_the_name_of_one_that_is_done_is_converted_beside_it_and_the_same_one_is_skipped() {
    let daemon = daemon();
    for (seed, batch) in [(1, "web"), (2, "web-2")] {
        bring_in(&daemon, &[&disks::disk(daemon.scratch(), "web", "qcow2", 8, 2, seed)]);
        assert_eq!(daemon.wait_batch(batch)["state"], "completed");
    }
    assert!(daemon.state().join("output/web-2/web/web.qcow2").exists());
    let first = daemon.wait_settled("processed", "web.qcow2");
    wait_for("the second to be put away", || first.with_file_name("web-2.qcow2").exists().then_some(()));
    bring_in(&daemon, &[&first]);
    wait_for("the first to be put away again", || first.exists().then_some(()));
    let jobs = daemon.client(&["list"]);
    let states: Vec<&Value> = jobs["jobs"].as_array().unwrap().iter().map(|job| &job["state"]).collect();
    assert_eq!(states, ["skipped", "succeeded", "succeeded"]);
}

#[test]
fn a_descriptor_with_its_extent_and_a_chain_are_one_drop_each() {
    let daemon = daemon();
    let [descriptor, extent] = descriptor_and_extent(daemon.scratch());
    let flat = disks::sha256(&extent);
    let base = disks::disk(daemon.scratch(), "base", "qcow2", 8, 2, 6);
    let content = disks::content_sha256(&base, "qcow2");
    qemu_img(&["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"], daemon.scratch());
    bring_in(&daemon, &[&extent, &descriptor, &daemon.scratch().join("top.qcow2"), &base]);
    let put_away = daemon.wait_settled("processed", "web.vmdk");
    wait_for("both files of the disk", || (names(&put_away).len() == 2).then_some(()));
    assert_eq!(names(&put_away), ["web-flat.vmdk", "web.vmdk"]);
    assert_eq!(disks::content_sha256(&daemon.state().join("output/web/web/web.qcow2"), "qcow2"), flat);
    let put_away = daemon.wait_settled("processed", "top.qcow2");
    assert_eq!(names(&put_away), ["base.qcow2", "top.qcow2"]);
    assert_eq!(disks::content_sha256(&daemon.state().join("output/top/top/top.qcow2"), "qcow2"), content);
    assert_eq!(daemon.client(&["list"])["jobs"].as_array().unwrap().len(), 2);
}

#[test]
fn a_disk_of_hyper_v_with_its_checkpoints_is_one_drop() {
    let daemon = daemon();
    let aside = daemon.scratch();
    let base = Vhdx::new(8 << 20, 1, vec![(2, Block::Full(vec![(0, vec![7; 1 << 20])]))]);
    let first = base.on("base.vhdx", 2, vec![(2, Block::Partly(vec![(512, vec![8; 512])]))]);
    // Windows knows no upper and lower case.
    let second = first.on("First.AVHDX", 3, vec![(0, Block::Partly(vec![(4096, vec![9; 1024])]))]);
    let plain = fs::File::create(aside.join("plain.raw")).unwrap();
    for (image, name) in [(&base, "base.vhdx"), (&first, "first.avhdx"), (&second, "web.avhdx")] {
        image.write(&aside.join(name));
        image.show(&plain);
    }
    // The base is a disk of its own as long as nothing is there that stands on it.
    bring_in(&daemon, &[&aside.join("web.avhdx"), &aside.join("first.avhdx"), &aside.join("base.vhdx")]);
    let put_away = daemon.wait_settled("processed", "web.avhdx");
    assert_eq!(names(&put_away), ["base.vhdx", "first.avhdx", "web.avhdx"]);
    let result = daemon.state().join("output/web/web/web.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::sha256(&aside.join("plain.raw")));
    assert_eq!(daemon.client(&["list"])["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_failed_disk_is_brought_back_by_a_retry_and_converted() {
    let daemon = daemon();
    let [descriptor, extent] = descriptor_and_extent(daemon.scratch());
    let in_the_way = daemon.state().join("output/web/web/web.qcow2");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "somebody's").unwrap();
    bring_in(&daemon, &[&descriptor, &extent]);
    let failed = daemon.wait_settled("failed", "web.vmdk");
    assert_eq!(daemon.wait_batch("web")["state"], "failed");
    assert_eq!(names(&failed), ["web-flat.vmdk", "web.vmdk"]);
    assert_eq!(error_beside(&failed)["kind"], "exists");
    assert_eq!(names(&daemon.state().join("processing")), Vec::<String>::new());

    fs::remove_file(&in_the_way).unwrap();
    wait_for("the retry to be taken", || daemon.run_client(&["retry", "web"]).status.success().then_some(()));
    let put_away = daemon.wait_settled("processed", "web.vmdk");
    assert_eq!(names(&put_away), ["web-flat.vmdk", "web.vmdk"]);
    assert!(in_the_way.exists());
    assert_eq!(names(failed.parent().unwrap()), Vec::<String>::new(), "what was said of the first end");
}

#[test]
fn a_retry_of_a_disk_that_somebody_took_away_says_that_it_is_missing() {
    let daemon = daemon();
    let in_the_way = daemon.state().join("output/web/web/web.qcow2");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "somebody's").unwrap();
    bring_in(&daemon, &[&disks::disk(daemon.scratch(), "web", "qcow2", 8, 2, 1)]);
    let failed = daemon.wait_settled("failed", "web.qcow2");
    fs::remove_file(&in_the_way).unwrap();
    fs::remove_file(&failed).unwrap();
    wait_for("the retry to be taken", || daemon.run_client(&["retry", "web"]).status.success().then_some(()));
    let error = wait_for("the job to fail again", || {
        let shown = daemon.client(&["show", "web"]);
        (shown["attempt"] == 2 && shown["state"] == "failed").then(|| shown["failure"].clone())
    });
    assert_eq!(error["kind"], "source", "{error}");
    assert!(error.to_string().contains("processing/web-web.qcow2"), "{error}");
    assert!(
        error_beside(&failed)["kind"] == "exists",
        "what was said of it stays, as nothing was brought back"
    );
}

#[test]
fn a_checksum_beside_a_disk_is_compared_and_goes_along() {
    let daemon = daemon();
    for (stem, right) in [("good", true), ("bad", false)] {
        let disk = disks::disk(daemon.scratch(), stem, "qcow2", 8, 2, 1 + u64::from(right));
        let sum = if right { disks::sha256(&disk) } else { "f".repeat(64) };
        let beside = daemon.scratch().join(format!("{stem}.qcow2.sha256"));
        fs::write(&beside, format!("{sum}  {stem}.qcow2\n")).unwrap();
        bring_in(&daemon, &[&beside, &disk]);
    }
    let good = daemon.wait_settled("processed", "good.qcow2");
    assert_eq!(names(&good), ["good.qcow2", "good.qcow2.sha256"]);
    let bad = daemon.wait_settled("failed", "bad.qcow2");
    assert_eq!(names(&bad), ["bad.qcow2", "bad.qcow2.sha256"]);
    let error = error_beside(&bad);
    assert_eq!(error["kind"], "source");
    assert!(error["error"].as_str().unwrap().contains("checksum"), "{error}");
}

#[test]
fn a_daemon_that_dies_between_the_row_and_the_moves_goes_on_with_them() {
    for failpoint in ["intake.after-accept", "intake.after-move"] {
        let mut daemon = Daemon::prepare();
        daemon.configure("intake: {accept_disks: true, profile: none}\n");
        let fired = daemon.scratch().join("fired");
        daemon.env("HYPER2KVM_FAILPOINT", failpoint);
        daemon.env("HYPER2KVM_FAILPOINT_ONCE", &fired.to_string_lossy());
        daemon.start();
        let [descriptor, extent] = descriptor_and_extent(daemon.scratch());
        bring_in(&daemon, &[&extent, &descriptor]);
        wait_for("the daemon to die", || daemon.ended());
        daemon.kill9();
        assert!(fs::metadata(&fired).unwrap().len() > 0);
        daemon.start();
        let put_away = daemon.wait_settled("processed", "web.vmdk");
        assert_eq!(names(&put_away), ["web-flat.vmdk", "web.vmdk"], "{failpoint}");
        assert_eq!(daemon.client(&["list"])["jobs"].as_array().unwrap().len(), 1, "{failpoint}");
    }
}

#[test]
fn without_the_setting_a_disk_is_reported_once_and_left() {
    let daemon = Daemon::start_new();
    bring_in(&daemon, &[&disks::disk(daemon.scratch(), "web", "qcow2", 8, 2, 1)]);
    let reports = || {
        let log = fs::read_to_string(daemon.log_path()).unwrap();
        log.lines().filter(|line| line.contains("web.qcow2") && line.contains("unsupported")).count()
    };
    wait_for("the report", || (reports() == 1).then_some(()));
    // A drop that comes later and is looked at shows that nothing more is said of the disk.
    daemon.drop_file("bad.yaml", "no manifest");
    daemon.wait_settled("failed", "bad.yaml");
    assert_eq!(reports(), 1);
    assert!(daemon.state().join("incoming/web.qcow2").exists());
}

#[test]
fn a_disk_that_is_copied_in_slowly_is_taken_when_it_has_held_still() {
    let scene = Scene::accepting_disks(3.0, 1.0);
    let source = disks::disk(scene.state.path(), "source", "qcow2", 8, 4, 3);
    let whole = fs::read(&source).unwrap();
    let path = scene.incoming().join("web.qcow2");
    for piece in whole.chunks(whole.len() / 8 + 1) {
        fs::OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(150));
    }
    scene.wait_for_jobs(1);
    let arrived = scene.state.path().join("processing/web-web.qcow2");
    wait_for("the disk in processing/", || arrived.exists().then_some(()));
    assert_eq!(fs::read(arrived).unwrap(), whole);
    assert!(scene.refused().is_empty());
}

#[test]
fn a_disk_that_is_linked_in_while_another_is_looked_at_has_only_to_hold_still() {
    let scene = Scene::accepting_disks(1.0, 1.0);
    for stem in ["first", "second"] {
        let disk = disks::disk(scene.state.path(), stem, "qcow2", 4, 1, 6);
        fs::hard_link(&disk, scene.incoming().join(disk.file_name().unwrap())).unwrap();
        std::thread::sleep(Duration::from_millis(600));
    }
    scene.wait_for_jobs(2);
}

#[test]
fn the_files_of_a_disk_may_come_in_any_order_and_slowly() {
    for [first, second] in [[0, 1], [1, 0]] {
        let scene = Scene::accepting_disks(FOREVER_S, 60.0);
        let files = descriptor_and_extent(scene.state.path());
        scene.bring_in(&files[first]);
        // A drop that comes later and is taken shows that the first file has been looked at.
        scene.rename_in("other.json", &manifest("other"));
        scene.wait_for_jobs(1);
        scene.bring_in(&files[second]);
        scene.wait_for_jobs(2);
        let place = scene.state.path().join("processing/web-web.vmdk");
        wait_for("both files", || (place.is_dir() && names(&place).len() == 2).then_some(()));
        let plans = scene.queue.with_blocking(|db| db.plan(2)).unwrap();
        assert_eq!(plans.disks[0].source, place.join("web.vmdk"));
    }
}

#[test]
fn an_extent_that_does_not_come_is_named_when_the_wait_is_over() {
    let scene = Scene::accepting_disks(FOREVER_S, SHORT_S);
    let [descriptor, extent] = descriptor_and_extent(scene.state.path());
    scene.bring_in(&descriptor);
    let refused = scene.wait_for_refusal("web.vmdk");
    assert_eq!(refused.report.kind, Kind::Source);
    assert!(refused.report.error.contains("`web-flat.vmdk`"), "{}", refused.report.error);
    scene.bring_in(&extent);
    let refused = scene.wait_for_refusal("web-flat.vmdk");
    assert!(refused.report.error.contains("descriptor"), "{}", refused.report.error);
    assert!(scene.jobs().is_empty());
}

#[test]
fn a_disk_that_is_cut_off_is_refused_with_everything_that_came_with_it() {
    let scene = Scene::accepting_disks(FOREVER_S, 1.0);
    let disk = disks::disk(scene.state.path(), "sparse", "vmdk", 8, 4, 3);
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.set_len(fs::metadata(&disk).unwrap().len() - (1 << 20)).unwrap();
    scene.bring_in(&disk);
    let refused = scene.wait_for_refusal("sparse.vmdk");
    assert_eq!(refused.report.kind, Kind::Source);
    assert!(refused.report.error.contains("cut off"), "{}", refused.report.error);

    let [descriptor, extent] = descriptor_and_extent(scene.state.path());
    fs::OpenOptions::new().write(true).open(&extent).unwrap().set_len(7 << 20).unwrap();
    scene.bring_in(&descriptor);
    scene.bring_in(&extent);
    let refused = scene.wait_for_refusal("web.vmdk");
    assert!(refused.report.error.contains("cut off"), "{}", refused.report.error);
    assert_eq!(names(&refused.path), ["web-flat.vmdk", "web.vmdk"]);
    assert!(scene.jobs().is_empty() && names(scene.incoming()).is_empty());
}

#[test]
fn a_disk_that_nothing_tells_the_end_of_needs_a_rename_or_a_checksum() {
    let scene = Scene::accepting_disks(SHORT_S, 1.0);
    let aside = scene.state.path().join("renamed.raw");
    disks::raw(&aside, 4, 1, 7);
    scene.bring_in(&aside);
    scene.wait_for_jobs(1);

    let path = scene.incoming().join("web.raw");
    disks::raw(&path, 4, 1, 8);
    assert!(within(Duration::from_secs(2), || (scene.jobs().len() > 1).then_some(())).is_none());
    assert!(path.exists() && scene.refused().is_empty());
    scene.rename_in("web.raw.sha256", &disks::sha256(&path));
    scene.wait_for_jobs(2);
    let plan = scene.queue.with_blocking(|db| db.plan(2)).unwrap();
    assert!(plan.disks[0].checksum.is_some());
}

#[test]
fn what_is_named_like_a_disk_and_is_none_is_refused() {
    let scene = Scene::accepting_disks(SHORT_S, 1.0);
    scene.rename_in("page.qcow2", "<!doctype html><html>not found</html>");
    scene.rename_in("empty.img", "");
    scene.rename_in("wrong.vhdx", "bytes");
    std::os::unix::fs::symlink("/dev/null", scene.incoming().join("link.qcow2")).unwrap();
    for (name, kind, says) in [
        ("page.qcow2", Kind::Unsupported, "web page"),
        ("empty.img", Kind::Source, "empty"),
        ("wrong.vhdx", Kind::Source, "raw"),
        ("link.qcow2", Kind::Manifest, "symbolic link"),
    ] {
        let refused = wait_for(&format!("the reason of {name}"), || {
            let day = fs::read_dir(scene.state.path().join("failed")).ok()?.flatten().next()?.path();
            let report = fs::read(day.join(format!("{name}.error.json"))).ok()?;
            serde_json::from_slice::<hyper2kvm::model::report::ErrorReport>(&report).ok()
        });
        assert_eq!(refused.kind, kind, "{name}: {}", refused.error);
        assert!(refused.error.contains(says), "{name}: {}", refused.error);
    }
    assert!(scene.jobs().is_empty());
}

#[test]
fn what_two_disks_stand_on_stays_with_them() {
    let scene = Scene::accepting_disks(SHORT_S, 1.0);
    let aside = scene.state.path();
    let base = disks::disk(aside, "base", "qcow2", 4, 1, 6);
    for child in ["a.qcow2", "b.qcow2"] {
        qemu_img(&["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", child], aside);
    }
    for file in [aside.join("a.qcow2"), aside.join("b.qcow2"), base] {
        fs::copy(&file, scene.incoming().join(file.file_name().unwrap())).unwrap();
    }
    assert!(within(Duration::from_secs(2), || (!scene.jobs().is_empty()).then_some(())).is_none());
    assert_eq!(names(scene.incoming()), ["a.qcow2", "b.qcow2", "base.qcow2"]);
    assert!(scene.refused().is_empty());
    // Without the other one it is a disk like any other.
    fs::remove_file(scene.incoming().join("b.qcow2")).unwrap();
    scene.intake().look();
    scene.wait_for_jobs(1);
    let place = scene.state.path().join("processing/a-a.qcow2");
    wait_for("both files", || (place.is_dir() && names(&place).len() == 2).then_some(()));
}
