//! Two hosts that share a directory with results: one at a time works there, and the other goes on where it was.
//!
//! A host is a machine and a queue: two daemons with a state directory each are two of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use hyper2kvm::service::queue::QueueHandle;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::site::wait_copying;
use super::support::{Daemon, disks, wait_for, within};

const MIB: u64 = 1 << 20;
const DATA_MIB: u64 = 32;
/// A copy at this rate is caught in its midst, and seldom in the midst of a write.
const SLOWLY: &str = "limits: {disk_reserve: 1MiB, bandwidth: [{rate: 2MiB/s}]}\n";
/// So soon a silent host counts as gone here.
const STALE_S: u64 = 8;

/// What two hosts share: a disk to convert, its manifest, and where results go.
struct Share {
    dir: tempfile::TempDir,
    manifest: PathBuf,
}

impl Share {
    fn make() -> Share {
        let dir = tempfile::Builder::new().prefix("h2k-share-").tempdir().unwrap();
        let source = disks::disk(dir.path(), "disk", "vmdk", DATA_MIB + 8, DATA_MIB, 7);
        let manifest = dir.path().join("web.yaml");
        fs::write(&manifest, disks::manifest(&[("boot", &source, "vmdk")], "")).unwrap();
        Share { dir, manifest }
    }

    /// A host that puts its results here.
    fn host(&self, further: &str) -> Daemon {
        let mut daemon = Daemon::prepare();
        let output = self.dir.path().join("output");
        daemon
            .configure(&format!("output_dir: {}\ntakeover_stale_s: {STALE_S}\n{further}", output.display()));
        daemon.start();
        daemon
    }

    fn batch(&self) -> PathBuf {
        self.dir.path().join("output/web")
    }

    fn lock(&self) -> PathBuf {
        self.batch().join(".hyper2kvm-lock")
    }

    fn submit(&self, daemon: &Daemon, options: &[&str]) -> Output {
        let manifest = self.manifest.to_str().unwrap();
        daemon.run_client(&[&["submit", manifest], options].concat())
    }

    /// Begins the work and lets it get into its midst.
    fn begin(&self, daemon: &Daemon) {
        let done = self.submit(daemon, &[]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        wait_copying(daemon, "web");
        let journal = self.batch().join("web/.boot.qcow2.journal");
        wait_for("some of it to be written down", || {
            let bytes = fs::metadata(&journal).map_or(0, |file| file.len());
            let copied = fs::metadata(self.batch().join("web/.boot.qcow2.partial"))
                .map_or(0, |file| file.blocks() * 512);
            (bytes > 600 && copied > 8 * MIB).then_some(())
        });
    }

    /// The result of a run that nobody disturbed.
    fn undisturbed(&self) -> String {
        let out = self.dir.path().join("undisturbed");
        let done = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
            .arg("convert")
            .arg(&self.manifest)
            .arg("-o")
            .arg(&out)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(!out.join(".hyper2kvm-lock").exists());
        disks::sha256(&out.join("boot.qcow2"))
    }

    fn result(&self) -> String {
        disks::sha256(&self.batch().join("web/boot.qcow2"))
    }

    /// What of the result was not copied again.
    fn kept(&self) -> u64 {
        let report: Value =
            serde_json::from_slice(&fs::read(self.batch().join("web/report.json")).unwrap()).unwrap();
        report["pipeline"]["stages"]["extraction"]["result"]["disks"][0]["kept_bytes"]
            .as_u64()
            .unwrap_or_else(|| panic!("{report:#}"))
    }

    /// All that is there, with what would show a change.
    fn everything(&self) -> BTreeMap<PathBuf, (u64, i64, i64, String)> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.batch()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap().flatten() {
                let (path, metadata) = (entry.path(), entry.path().symlink_metadata().unwrap());
                if metadata.is_dir() {
                    directories.push(path.clone());
                }
                let sum = if metadata.is_file() { disks::sha256(&path) } else { String::new() };
                found.insert(path, (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), sum));
            }
        }
        found
    }
}

/// A refusal: its exit code, and what was said.
#[track_caller]
fn refused(done: &Output) -> (Option<i32>, Value) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let line = said.lines().last().unwrap_or_default();
    let error = serde_json::from_str(line).or_else(|_| serde_json::from_str(&said));
    (done.status.code(), error.unwrap_or_else(|e| panic!("{e}: {said}")))
}

#[track_caller]
fn job(daemon: &Daemon) -> Value {
    daemon.client(&["show", "web/web"])
}

fn signal_all(processes: &[(u32, String)], signal: Signal) {
    for (pid, _) in processes {
        let _ = kill_process(Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap(), signal);
    }
}

#[test]
fn a_released_batch_goes_on_at_another_host_where_it_was() {
    let share = Share::make();
    let (one, two) = (share.host(SLOWLY), share.host(""));
    share.begin(&one);
    let (code, error) = refused(&share.submit(&two, &[]));
    assert_eq!((code, &error["kind"]), (Some(1), &Value::from("exists")), "{error:#}");
    assert!(error["suggestion"].as_str().unwrap().contains("hyper2kvm release web"), "{error:#}");

    let released = one.client(&["release", "web"]);
    assert!(released["message"].as_str().unwrap().starts_with("released"), "{released:#}");
    assert_eq!(released["jobs"][0]["state"], "cancelled");
    let lock: Value = serde_json::from_slice(&fs::read(share.lock()).unwrap()).unwrap();
    assert_eq!(lock["holders"][0]["released"], true, "{lock:#}");
    assert!(share.batch().join("web/.boot.qcow2.partial").exists());
    let checkpoint = fs::read(share.batch().join(".hyper2kvm-checkpoint-web.json")).unwrap();
    let checkpoint: Value = serde_json::from_slice(&checkpoint).unwrap();
    assert_eq!(checkpoint["vms"]["web"]["state"], "cancelled");
    one.client(&["release", "web"]);
    assert_eq!(refused(&one.run_client(&["retry", "web"])).0, Some(1));
    assert_eq!(refused(&one.run_client(&["release", "nobody"])).0, Some(5));
    for host in [&one, &two] {
        let (code, error) = refused(&share.submit(host, &[]));
        assert_eq!((code, &error["kind"]), (Some(1), &Value::from("exists")), "{error:#}");
    }

    let done = share.submit(&two, &["--takeover", "--wait"]);
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), two.log());
    assert!(share.kept() >= 8 * MIB, "{} bytes were kept", share.kept());
    assert_eq!(share.result(), share.undisturbed());
    wait_for("the lock to go", || (!share.lock().exists()).then_some(()));
    assert_eq!(
        refused(&two.run_client(&["release", "web"])).0,
        Some(1),
        "there is nothing left to give away"
    );

    // What is done there is done for everybody who asks to go on with it.
    let again = share.submit(&one, &["--takeover", "--wait"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(job(&one)["state"], "skipped");
}

#[test]
fn a_host_that_comes_back_after_it_was_taken_for_gone_writes_nothing() {
    let share = Share::make();
    let (one, two) = (share.host(SLOWLY), share.host(""));
    share.begin(&one);
    let (code, error) = refused(&share.submit(&two, &["--takeover"]));
    assert_eq!((code, &error["kind"]), (Some(1), &Value::from("exists")), "it is alive: {error:#}");
    assert!(error["error"].as_str().unwrap().contains("sign of life"), "{error:#}");

    let processes = one.processes();
    assert!(processes.len() >= 2, "the daemon and its worker: {processes:?}");
    signal_all(&processes, Signal::STOP);
    thread::sleep(Duration::from_secs(STALE_S) + Duration::from_millis(500));
    let (_, error) = refused(&share.submit(&two, &[]));
    assert_eq!(error["kind"], "exists", "only who asks for it takes over: {error:#}");
    let done = share.submit(&two, &["--takeover", "--wait"]);
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), two.log());
    assert!(share.kept() > 0);
    two.wait_batch("web");
    wait_for("the lock to go", || (!share.lock().exists()).then_some(()));
    thread::sleep(Duration::from_millis(500));

    let before = share.everything();
    signal_all(&processes, Signal::CONT);
    let ended = within(Duration::from_secs(60), || Some(job(&one)).filter(|job| job["state"] == "failed"));
    let ended = ended.unwrap_or_else(|| panic!("{:#}\n{}", job(&one), one.log()));
    assert_eq!(ended["failure"]["kind"], "exists", "{ended:#}");
    assert!(ended["error"].as_str().unwrap().contains("nothing more is written there"), "{ended:#}");
    one.wait_batch("web");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(share.everything(), before);
    assert_eq!(share.result(), share.undisturbed());

    one.client(&["retry", "web"]);
    wait_for("the retry to be refused", || (job(&one)["state"] == "failed").then_some(()));
    let error = job(&one);
    assert!(error["error"].as_str().unwrap().contains("--takeover"), "{error:#}");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(share.everything(), before);
}

#[test]
fn a_daemon_that_was_killed_goes_on_without_being_asked() {
    let share = Share::make();
    let mut one = share.host(SLOWLY);
    share.begin(&one);
    one.kill9();
    assert!(share.lock().exists());
    one.start();
    assert_eq!(one.wait_batch("web")["state"], "completed");
    assert!(share.kept() >= 4 * MIB);
    assert_eq!(share.result(), share.undisturbed());
    wait_for("the lock to go", || (!share.lock().exists()).then_some(()));
}

#[test]
fn a_batch_that_was_not_begun_is_released_too() {
    let share = Share::make();
    let (one, two) = (share.host(""), share.host(""));
    one.client(&["pause"]);
    assert!(share.submit(&one, &[]).status.success());
    one.client(&["release", "web"]);
    assert_eq!(job(&one)["state"], "cancelled");
    assert_eq!(refused(&share.submit(&two, &[])).1["kind"], "exists");
    let done = share.submit(&two, &["--takeover", "--wait"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_release_that_was_cut_short_is_finished_by_the_next_daemon() {
    let share = Share::make();
    let mut one = share.host(SLOWLY);
    share.begin(&one);
    one.kill9();
    // As much is durable when a release has begun.
    let queue = QueueHandle::open(&one.state().join("queue.db")).unwrap();
    queue.with_blocking(|db| db.set_flag("released:1", Some("1"))).unwrap();
    drop(queue);
    one.start();
    assert_eq!(one.wait_batch("web")["state"], "cancelled");
    let two = share.host("");
    wait_for("it to be given away", || {
        share.submit(&two, &["--takeover", "--wait"]).status.success().then_some(())
    });
    assert!(share.kept() > 0);
    assert_eq!(share.result(), share.undisturbed());
}

#[test]
fn what_is_no_lock_is_told_and_left_as_it_is() {
    let newer = r#"{"heartbeat_at":1.0,"version":99,"host":"a","host_name":"a","machine":"a","boot_id":null,"token":"t",
        "program":"daemon","taken_at":1.0,"heartbeat_every_s":1.0,"holders":[]}"#;
    let large = "x".repeat(1 << 20);
    type Make<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let cases: Vec<Make<'_>> = vec![
        ("newer", Box::new(|lock| fs::write(lock, newer).unwrap())),
        ("large", Box::new(|lock| fs::write(lock, &large).unwrap())),
        ("nonsense", Box::new(|lock| fs::write(lock, "{\"heartbeat_at\": ").unwrap())),
        ("link", Box::new(|lock| symlink("/etc/hostname", lock).unwrap())),
        ("directory", Box::new(|lock| fs::create_dir(lock).unwrap())),
    ];
    let daemon = Daemon::start_new();
    let source = disks::disk(daemon.scratch(), "disk", "raw", 8, 2, 1);
    for (case, make) in cases {
        let (batch, further) = (daemon.state().join("output").join(case), format!("name: {case}"));
        fs::create_dir_all(&batch).unwrap();
        let lock = batch.join(".hyper2kvm-lock");
        make(&lock);
        let kind = lock.symlink_metadata().unwrap().file_type();
        daemon.drop_file(&format!("{case}.yaml"), disks::manifest(&[("boot", &source, "raw")], &further));
        let error = daemon.wait_settled("failed", &format!("{case}.yaml.error.json"));
        let error: Value = serde_json::from_slice(&fs::read(error).unwrap()).unwrap();
        assert_eq!(error["kind"], "output", "{case}: {error:#}");
        assert!(error["error"].as_str().unwrap().contains(".hyper2kvm-lock"), "{case}: {error:#}");
        assert_eq!(lock.symlink_metadata().unwrap().file_type(), kind, "{case}");
        assert_eq!(fs::read_dir(&batch).unwrap().count(), 1, "{case}: nothing is written beside it");
    }
}

#[test]
fn a_conversion_by_hand_keeps_out_of_where_the_service_works() {
    let share = Share::make();
    let one = share.host(SLOWLY);
    share.begin(&one);
    let convert_into = |directory: &Path| {
        Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
            .args(["convert", "--json"])
            .arg(&share.manifest)
            .arg("-o")
            .arg(directory)
            .output()
            .unwrap()
    };
    let convert = || convert_into(&share.batch());
    for directory in [share.batch(), share.batch().join("web")] {
        let (code, error) = refused(&convert_into(&directory));
        assert_eq!((code, &error["kind"]), (Some(1), &Value::from("exists")), "{error:#}");
        assert!(error["error"].as_str().unwrap().contains("belongs to the service"), "{error:#}");
    }
    one.client(&["cancel", "web"]);
    wait_for("the lock to go", || (!share.lock().exists()).then_some(()));
    let done = convert();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!share.lock().exists());
}
