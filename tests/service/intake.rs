//! When a drop is taken, what is refused, and that nothing is lost or taken twice.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::job::JobState;
use hyper2kvm::model::planner::Submission;
use hyper2kvm::model::protocol::Published;
use hyper2kvm::service::admission::{Known, Results};
use hyper2kvm::service::queue::{Change, FileIdentity, NewDrop};
use rustix::fs::{CWD, FileType, mknodat};

use crate::intake_support::{Scene, manifest};
use crate::queue::claim;
use crate::support::{wait_for, wait_for_count, within};

/// Long enough that only a hint can make a file complete within a test.
const FOREVER_S: f64 = 3600.0;

/// Long enough to tell a listing's wait from none, on a loaded machine too.
const SHORT_S: f64 = 0.3;

#[test]
fn a_file_renamed_in_is_taken_at_once() {
    let scene = Scene::started(FOREVER_S);
    scene.rename_in("web.json", &manifest("web"));
    let jobs = scene.wait_for_jobs(1);
    assert_eq!((jobs[0].batch_id.as_str(), jobs[0].vm_name.as_str()), ("web", "web"));
    assert_eq!(scene.wait_for_file("processing", "web-web.json"), manifest("web"));
    assert!(scene.files("incoming").is_empty());
}

#[test]
fn a_file_that_is_closed_and_parses_whole_is_taken_at_once() {
    let scene = Scene::started(FOREVER_S);
    fs::write(scene.incoming().join("web.json"), manifest("web")).unwrap();
    scene.wait_for_jobs(1);
    scene.wait_for_file("processing", "web-web.json");
}

#[test]
fn a_file_that_is_closed_and_does_not_parse_is_given_time() {
    let scene = Scene::started(FOREVER_S);
    let whole = manifest("web");
    let (first, second) = whole.split_at(40);
    let path = scene.incoming().join("web.json");
    fs::write(&path, first).unwrap();
    // A drop that comes later and is taken shows that the first one has been looked at.
    scene.rename_in("other.json", &manifest("other"));
    scene.wait_for_jobs(1);
    assert!(path.exists());
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(second.as_bytes()).unwrap();
    scene.wait_for_jobs(2);
}

#[test]
fn a_file_that_never_parses_is_refused_once_it_has_held_still() {
    let scene = Scene::started(SHORT_S);
    fs::write(scene.incoming().join("web.json"), "{\"manifest_version\": \"1.0\",").unwrap();
    let refused = scene.wait_for_refusal("web.json");
    assert_eq!(refused.report.kind, Kind::Manifest);
    assert!(refused.report.line.is_some(), "{:?}", refused.report);
}

#[test]
fn what_lies_there_at_the_start_is_taken_once_it_has_held_still() {
    let mut scene = Scene::new(SHORT_S);
    fs::write(scene.incoming().join("web.json"), manifest("web")).unwrap();
    scene.start();
    scene.wait_for_jobs(1);
}

#[test]
fn a_writer_that_closes_often_is_waited_for() {
    let scene = Scene::started(2.0);
    let path = scene.incoming().join("web.json");
    for part in manifest("web").as_bytes().chunks(16) {
        fs::OpenOptions::new().append(true).create(true).open(&path).unwrap().write_all(part).unwrap();
    }
    scene.wait_for_jobs(1);
    assert!(scene.refused().is_empty());
}

#[test]
fn a_writer_that_stalls_with_the_file_open_is_waited_for() {
    let scene = Scene::started(0.5);
    let path = scene.incoming().join("web.json");
    let whole = manifest("web");
    let mut writer = fs::File::create(&path).unwrap();
    writer.write_all(&whole.as_bytes()[..30]).unwrap();
    writer.sync_all().unwrap();
    // Several settling times pass; a listing finds the file too.
    assert!(
        within(Duration::from_millis(2500), || {
            scene.intake().look();
            (!path.exists()).then_some(())
        })
        .is_none()
    );
    writer.write_all(&whole.as_bytes()[30..]).unwrap();
    drop(writer);
    scene.wait_for_jobs(1);
    assert!(scene.refused().is_empty());
}

#[test]
fn names_that_look_like_options_or_hold_spaces_are_just_names() {
    let scene = Scene::started(FOREVER_S);
    scene.rename_in("-rf.json", &manifest("a"));
    scene.rename_in("my own vm.yaml", &manifest("b"));
    scene.rename_in("no-extension", &manifest("c"));
    scene.wait_for_jobs(3);
}

#[test]
fn what_is_no_plain_readable_file_is_refused_and_the_rest_goes_on() {
    let scene = Scene::started(SHORT_S);
    let at = |name: &str| scene.incoming().join(name);
    let secret = scene.state.path().join("secret.json");
    fs::write(&secret, manifest("secret")).unwrap();
    symlink(&secret, at("link.json")).unwrap();
    symlink("/nowhere", at("broken.json")).unwrap();
    mknodat(CWD, at("fifo.json"), FileType::Fifo, 0o600.into(), 0).unwrap();
    let _listener = UnixListener::bind(at("socket.json")).unwrap();
    fs::File::create(at("large.json")).unwrap().set_len((16 << 20) + 1).unwrap();
    fs::write(at("latin.json"), b"name: caf\xe9\n").unwrap();
    fs::write(at("empty.json"), b"").unwrap();
    fs::write(at("new\nline.json"), manifest("newline")).unwrap();
    fs::write(scene.incoming().join(std::ffi::OsStr::from_bytes(b"bad\xff.json")), manifest("bad")).unwrap();
    scene.rename_in("good.json", &manifest("good"));

    scene.wait_for_jobs(1);
    for (name, says) in [
        ("link.json", "symbolic link"),
        ("broken.json", "symbolic link"),
        ("fifo.json", "fifo"),
        ("socket.json", "socket"),
        ("large.json", "16.0 MiB"),
        ("latin.json", "UTF-8"),
        ("empty.json", ""),
        ("new%0Aline.json", "control characters"),
        ("bad%FF.json", "UTF-8"),
    ] {
        let refused = wait_for(&format!("{name} in failed/"), || {
            let reason = fs::read_dir(scene.state.path().join("failed")).ok()?.flatten().next()?.path();
            fs::read_to_string(reason.join(format!("{name}.error.json"))).ok()
        });
        assert!(refused.contains("\"kind\": \"manifest\"") && refused.contains(says), "{name}: {refused}");
    }
    wait_for("an empty drop directory", || {
        fs::read_dir(scene.incoming()).unwrap().next().is_none().then_some(())
    });
    assert_eq!(fs::read_to_string(&secret).unwrap(), manifest("secret"), "a link was followed");
}

#[test]
fn directories_and_bare_disks_are_left_where_they_are() {
    let scene = Scene::started(SHORT_S);
    fs::create_dir(scene.incoming().join("a directory")).unwrap();
    fs::write(scene.incoming().join("disk.vmdk"), "KDMV").unwrap();
    for ignored in [".hidden.json", "x.json.part", "x.error.json", "x.report.json", "x.sha256", "y.json~"] {
        fs::write(scene.incoming().join(ignored), "not a manifest").unwrap();
    }
    scene.rename_in("first.json", &manifest("first"));
    scene.wait_for_jobs(1);
    scene.intake().look();
    fs::write(scene.incoming().join("bad.json"), "not a manifest").unwrap();
    scene.wait_for_refusal("bad.json");
    assert!(scene.incoming().join("a directory").is_dir());
    assert_eq!(scene.files("incoming").len(), 7);
    assert_eq!(scene.refused().len(), 1);
}

#[test]
fn a_second_drop_of_one_name_is_a_drop_of_its_own() {
    let scene = Scene::started(FOREVER_S);
    scene.rename_in("web.json", &manifest("web"));
    scene.wait_for_jobs(1);
    scene.rename_in("web.json", &manifest("another"));
    let jobs = scene.wait_for_jobs(2);
    assert_eq!((jobs[0].batch_id.as_str(), jobs[1].batch_id.as_str()), ("web-2", "web"));
    scene.wait_for_file("processing", "web-2-web.json");

    scene.rename_in("web.json", &manifest("web"));
    let refused = scene.wait_for_refusal("web.json");
    assert_eq!(refused.report.kind, Kind::Duplicate);
    assert!(refused.report.error.contains("`web`"), "{}", refused.report.error);
    assert_eq!(fs::read_to_string(refused.path).unwrap(), manifest("web"));
}

#[test]
fn many_drops_of_one_name_are_each_taken_once_or_replace_each_other() {
    let scene = Scene::started(FOREVER_S);
    for number in 0..200 {
        scene.rename_in("web.json", &manifest(&format!("vm-{number}")));
    }
    wait_for("the last one", || {
        let jobs = scene.jobs();
        jobs.iter().any(|job| job.vm_name == "vm-199").then_some(())
    });
    wait_for("an empty drop directory", || scene.files("incoming").is_empty().then_some(()));
    let jobs = scene.jobs();
    let mut names: Vec<&str> = jobs.iter().map(|job| job.vm_name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), jobs.len(), "one drop was taken twice");
    assert_eq!(scene.files("processing").len(), jobs.len());
    assert!(scene.refused().is_empty());
}

#[test]
fn a_draining_service_leaves_drops_where_they_are() {
    let scene = Scene::started(SHORT_S);
    scene.draining.send_replace(true);
    scene.rename_in("web.json", &manifest("web"));
    fs::write(scene.incoming().join("bad.json"), "bad").unwrap();
    assert!(within(Duration::from_millis(800), || (!scene.jobs().is_empty()).then_some(())).is_none());
    assert_eq!(scene.files("incoming").len(), 2);
    scene.draining.send_replace(false);
    scene.wait_for_jobs(1);
    scene.wait_for_refusal("bad.json");
}

#[test]
fn a_drop_directory_that_was_made_anew_is_watched_anew() {
    let scene = Scene::started(SHORT_S);
    fs::remove_dir(scene.incoming()).unwrap();
    wait_for("a new drop directory", || scene.incoming().is_dir().then_some(()));
    scene.rename_in("web.json", &manifest("web"));
    scene.wait_for_jobs(1);
}

/// As a daemon that was killed after the row was durable leaves it.
fn accepted_but_not_moved(scene: &Scene, name: &str) {
    let path = scene.incoming().join(name);
    let bytes = fs::read(&path).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let settings = scene.settings.as_ref().clone();
    let identity = FileIdentity {
        dev: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
    };
    let submission = Submission::read(&bytes, name, scene.incoming(), &settings).unwrap();
    let drop = NewDrop::new(bytes, Some(identity), submission);
    scene.queue.with_blocking(move |db| db.accept(&[drop], &settings, &Known::default())).unwrap();
}

#[test]
fn a_drop_that_was_accepted_before_a_crash_is_only_moved() {
    let mut scene = Scene::new(SHORT_S);
    fs::write(scene.incoming().join("web.json"), manifest("web")).unwrap();
    accepted_but_not_moved(&scene, "web.json");
    scene.start();
    scene.wait_for_file("processing", "web-web.json");
    scene.rename_in("later.json", &manifest("later"));
    scene.wait_for_jobs(2);
    assert!(scene.refused().is_empty());
    wait_for("the marks", || {
        scene.queue.with_blocking(|db| db.drops_to_move()).unwrap().is_empty().then_some(())
    });
}

#[test]
fn a_drop_that_was_accepted_and_then_deleted_is_written_from_the_queue() {
    let mut scene = Scene::new(SHORT_S);
    fs::write(scene.incoming().join("web.json"), manifest("web")).unwrap();
    accepted_but_not_moved(&scene, "web.json");
    fs::remove_file(scene.incoming().join("web.json")).unwrap();
    scene.start();
    assert_eq!(scene.wait_for_file("processing", "web-web.json"), manifest("web"));
    let inode = fs::metadata(scene.state.path().join("processing/web-web.json")).unwrap().ino();
    wait_for("the queue to know the file by which the drop is found when it settles", || {
        let row = scene.queue.with_blocking(|db| db.dropped(1)).unwrap().unwrap();
        (row.identity.unwrap().inode == inode).then_some(())
    });
}

#[test]
fn a_move_that_a_power_cut_undid_is_done_again() {
    let mut scene = Scene::started(SHORT_S);
    scene.rename_in("web.json", &manifest("web"));
    scene.wait_for_file("processing", "web-web.json");
    wait_for("the mark", || {
        scene.queue.with_blocking(|db| db.drops_to_move()).unwrap().is_empty().then_some(())
    });
    scene.stop();
    fs::rename(scene.state.path().join("processing/web-web.json"), scene.incoming().join("web.json"))
        .unwrap();
    scene.start();
    scene.wait_for_file("processing", "web-web.json");
    assert_eq!(scene.jobs().len(), 1);
    assert!(scene.refused().is_empty());
}

#[test]
fn a_file_that_is_linked_in_a_second_time_is_a_second_drop() {
    let scene = Scene::started(SHORT_S);
    let master = scene.state.path().join("master.json");
    fs::write(&master, manifest("web")).unwrap();
    fs::hard_link(&master, scene.incoming().join("web.json")).unwrap();
    scene.wait_for_file("processing", "web-web.json");
    fs::hard_link(&master, scene.incoming().join("web.json")).unwrap();
    assert_eq!(scene.wait_for_refusal("web.json").report.kind, Kind::Duplicate);
    assert_eq!(scene.jobs().len(), 1);
    assert_eq!(scene.files("processing").len(), 1);
}

#[test]
fn more_drops_than_an_inotify_queue_holds_are_all_taken_and_only_once() {
    const DROPS: usize = 20_000;
    let mut scene = Scene::new(0.5);
    // Made beforehand and brought in while intake runs: what is lost by the notes, the listing finds.
    let aside = scene.state.path().join("aside");
    fs::create_dir(&aside).unwrap();
    for number in 0..DROPS {
        fs::write(aside.join(format!("vm-{number}.json")), manifest(&format!("vm-{number}"))).unwrap();
    }
    scene.start();
    for number in 0..DROPS {
        let name = format!("vm-{number}.json");
        fs::rename(aside.join(&name), scene.incoming().join(&name)).unwrap();
    }
    let queued = || scene.queue.with_blocking(|db| db.counts()).unwrap().states["queued"];
    wait_for_count("drops that were queued", DROPS as u64, queued);
    wait_for("an empty drop directory", || {
        fs::read_dir(scene.incoming()).unwrap().next().is_none().then_some(())
    });
    assert_eq!(queued(), DROPS as u64);
    assert_eq!(fs::read_dir(scene.state.path().join("processing")).unwrap().count(), DROPS);
    assert!(scene.refused().is_empty());
}

#[test]
fn a_drop_whose_earlier_result_lies_on_a_mount_that_is_away_stays_until_it_is_back_and_holds_nobody_up() {
    let (back, away) = mpsc::channel::<()>();
    let away = Mutex::new(away);
    let mut scene = Scene::new(SHORT_S);
    // Like a hard NFS mount: the question hangs.
    let hangs = move |_: &Path| {
        let _ = away.lock().unwrap().recv();
        Ok(true)
    };
    scene.results = Results::with(hangs, Duration::from_millis(100));
    scene.start();
    scene.rename_in("web.json", &manifest("web"));
    let job = scene.wait_for_jobs(1).remove(0).job_id;
    let published = Published {
        directory: "/away/web".into(),
        outputs: BTreeMap::from([("/away/web/boot.qcow2".into(), None)]),
        ..Published::default()
    };
    let done = scene.queue.with_blocking(move |db| {
        db.transition(job, claim(1), "started")?;
        db.transition(job, Change::Succeed(published), "published")
    });
    assert_eq!(done.unwrap().state, JobState::Succeeded);
    scene.wait_for_file("processing", "web-web.json");

    let again = manifest("web").replacen('{', "{\"rerun\": \"all\", ", 1);
    scene.rename_in("web.json", &again);
    let trouble =
        wait_for("intake to say what it waits for", || scene.intake().last_error().borrow().clone());
    assert!(trouble.contains("does not answer"), "{trouble}");
    scene.rename_in("other.json", &manifest("other"));
    scene.wait_for_jobs(2);
    assert_eq!(fs::read_to_string(scene.incoming().join("web.json")).unwrap(), again);
    assert!(scene.refused().is_empty());

    drop(back);
    // Sooner than intake would look by itself.
    scene.rename_in("web.json", &again);
    let jobs = scene.wait_for_jobs(3);
    assert!(jobs.iter().any(|job| job.output_directory.ends_with("web/web-2")), "{jobs:#?}");
    wait_for("nothing to be wrong", || scene.intake().last_error().borrow().is_none().then_some(()));
}
