//! A hand-over to libvirt that is cancelled, released or taken over by another host in its midst.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::stage::Site;
use crate::support::daemon::Daemon;
use crate::support::wait::{PATIENCE, wait_for, within};

/// All steps: import, define, snapshot, autostart, start, move.
const ALL: &str =
    "import_to_pool: vms, create_snapshot: true, autostart: true, auto_start: true, copy_disks: false";
/// A worker that stands still hears within that what it is told.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// So soon a silent host counts as gone here.
const STALE_S: u64 = 3;

/// A daemon whose worker stands still at a point of the hand-over, for as long as a file is there.
struct Held {
    daemon: Daemon,
    hold: PathBuf,
}

impl Held {
    fn at(site: &Site, point: &str) -> Held {
        let mut daemon = prepared(site);
        let hold = daemon.scratch().join("hold");
        fs::write(&hold, "").unwrap();
        daemon.env("HYPER2KVM_FAILPOINT", point);
        daemon.env("HYPER2KVM_FAILPOINT_HOLD", hold.to_str().unwrap());
        daemon.start();
        Held { daemon, hold }
    }

    /// Submits the work and waits until the journal says this of it.
    fn begin(&self, site: &Site, stand: &Value) {
        let done = submit(&self.daemon, &site.manifest(ALL, ""), &[]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let stands =
            within(PATIENCE, || (journal(site)?["intent"]["handover"]["stand"] == *stand).then_some(()));
        assert!(stands.is_some(), "{:#?}\n{}", journal(site), self.daemon.log());
    }

    fn go_on(&self) {
        fs::remove_file(&self.hold).unwrap();
    }

    /// Has this asked for while the worker stands still, and lets that go on when it has heard of it. The answer comes when the worker has ended.
    fn meanwhile(&self, words: &[&str]) -> Output {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| self.daemon.run_client(words));
            let path = format!("/v1/jobs/web/{}", words[0]);
            wait_for("it to be asked", || self.daemon.log().contains(&path).then_some(()));
            // Whoever is answered after it was asked is answered after the worker was told.
            self.daemon.client(&["show", "web/web"]);
            std::thread::sleep(HEARD_WITHIN);
            self.go_on();
            asked.join().unwrap()
        })
    }
}

fn prepared(site: &Site) -> Daemon {
    let daemon = Daemon::prepare();
    daemon
        .configure(&format!("libvirt: {{uri: \"{}\"}}\ntakeover_stale_s: {STALE_S}\n", site.libvirtd.uri()));
    daemon
}

fn submit(daemon: &Daemon, manifest: &Path, options: &[&str]) -> Output {
    daemon.run_client(&[&["submit", manifest.to_str().unwrap()], options].concat())
}

fn journal(site: &Site) -> Option<Value> {
    serde_json::from_slice(&fs::read(site.out().join(".web.journal.json")).ok()?).ok()
}

fn state(daemon: &Daemon) -> Value {
    daemon.client(&["show", "web/web"])["state"].clone()
}

fn ends_as(daemon: &Daemon, wanted: &str) {
    let ended = within(PATIENCE, || (state(daemon) == wanted).then_some(()));
    assert!(ended.is_some(), "{:#}\n{}", daemon.client(&["show", "web/web"]), daemon.log());
}

#[test]
fn a_job_that_is_cancelled_between_any_two_steps_leaves_nothing_behind() {
    let site = Site::new();
    site.pool("vms");
    for (number, step) in (1..).zip(["import", "define", "snapshot", "autostart"]) {
        for (point, word) in [("handover.begun", "begun"), ("handover.done", "done")] {
            let held = Held::at(&site, &format!("{point}:{number}"));
            held.begin(&site, &serde_json::json!({ word: step }));
            held.meanwhile(&["cancel", "web"]);
            ends_as(&held.daemon, "cancelled");
            site.is_clean();
            let is_settled = || (!site.out().join(".hyper2kvm-lock").exists()).then_some(());
            wait_for("the batch to be put away", is_settled);
            let left =
                fs::read_dir(site.out()).into_iter().flatten().flatten().map(|entry| entry.file_name());
            // What the batch says of itself stays.
            let of_the_vm = left.filter(|name| !name.to_string_lossy().starts_with(".hyper2kvm-"));
            assert_eq!(of_the_vm.collect::<Vec<_>>(), [""; 0], "{point}:{number}");
            // The next daemon is another host.
            fs::remove_dir_all(site.out()).unwrap();
        }
    }
}

#[test]
fn a_cancel_that_comes_when_the_machine_is_started_comes_too_late() {
    let site = Site::new();
    site.pool("vms");
    for (point, stand) in [
        ("handover.begun:5", serde_json::json!({"begun": "start"})),
        ("handover.answered:5", serde_json::json!({"begun": "start"})),
        ("handover.begun:6", serde_json::json!({"begun": "move"})),
    ] {
        let held = Held::at(&site, point);
        held.begin(&site, &stand);
        held.meanwhile(&["cancel", "web"]);
        ends_as(&held.daemon, "succeeded");
        site.is_whole();
        site.begins_anew();
    }
}

#[test]
fn a_job_that_is_cancelled_with_what_it_has_copied_goes_on_from_that_and_libvirt_is_told_anew() {
    let site = Site::new();
    site.pool("vms");
    let held = Held::at(&site, "handover.done:3");
    held.begin(&site, &serde_json::json!({"done": "snapshot"}));
    held.meanwhile(&["cancel", "web", "--keep-partial"]);
    ends_as(&held.daemon, "cancelled");
    site.is_clean();
    assert!(site.out().join(".boot.qcow2.partial").exists());
    held.daemon.client(&["retry", "web"]);
    ends_as(&held.daemon, "succeeded");
    site.is_whole();
}

#[test]
fn a_job_that_is_cancelled_while_libvirt_is_away_goes_on_or_is_taken_back_when_it_is_there_again() {
    let site = Site::new();
    site.pool("vms");
    let mut held = Held::at(&site, "handover.done:2");
    held.begin(&site, &serde_json::json!({"done": "define"}));
    site.libvirtd.hold(true);
    site.libvirtd.kill();
    held.meanwhile(&["cancel", "web"]);
    ends_as(&held.daemon, "cancelled");
    assert!(journal(&site).is_some(), "it still says what libvirt knows");
    held.daemon.stop();
    site.libvirtd.hold(false);
    site.libvirtd.await_up();
    assert_eq!(site.virsh("list --all --name"), "web");
    held.daemon.start();
    held.daemon.client(&["retry", "web"]);
    ends_as(&held.daemon, "succeeded");
    site.is_whole();
}

#[test]
fn what_is_left_when_the_machine_runs_already_is_not_thrown_away_by_a_cancel() {
    let site = Site::new();
    site.pool("vms");
    let mut daemon = prepared(&site);
    daemon.env("HYPER2KVM_FAILPOINT", "handover.answered:5");
    daemon.env("HYPER2KVM_FAILPOINT_ONCE", daemon.scratch().join("once").to_str().unwrap());
    daemon.configure(&format!(
        "libvirt: {{uri: \"{}\"}}\nretry: {{base_delay_s: 3600, max_delay_s: 3600}}\n",
        site.libvirtd.uri()
    ));
    daemon.start();
    assert!(submit(&daemon, &site.manifest(ALL, ""), &[]).status.success());
    wait_for("the worker to die", || {
        (site.virsh("list --name") == "web" && state(&daemon) != "running").then_some(())
    });
    daemon.client(&["cancel", "web"]);
    ends_as(&daemon, "cancelled");
    assert_eq!(site.virsh("domstate web"), "running");
    let refused = daemon.run_client(&["retry", "--from", "convert", "web"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("which is not taken back"), "{said}");
    daemon.client(&["retry", "web"]);
    ends_as(&daemon, "succeeded");
    site.is_whole();
}

#[test]
fn a_batch_that_is_released_in_the_midst_of_it_is_taken_back_and_goes_on_at_another_host() {
    let site = Site::new();
    site.pool("vms");
    let held = Held::at(&site, "handover.done:4");
    held.begin(&site, &serde_json::json!({"done": "autostart"}));
    let released = held.meanwhile(&["release", "web"]);
    let released: Value = serde_json::from_slice(&released.stdout).unwrap();
    assert_eq!(released["jobs"][0]["state"], "cancelled", "{released:#}");
    site.is_clean();
    let mut two = prepared(&site);
    two.start();
    let done = submit(&two, &site.manifest(ALL, ""), &["--takeover", "--wait"]);
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), two.log());
    site.is_whole();
}

#[test]
fn what_a_host_that_is_gone_had_told_its_libvirt_only_that_host_goes_on_with() {
    let site = Site::new();
    site.pool("vms");
    let mut one = Held::at(&site, "handover.answered:2");
    one.begin(&site, &serde_json::json!({"begun": "define"}));
    wait_for("it to be defined", || (site.virsh("list --all --name") == "web").then_some(()));
    one.daemon.kill9();
    wait_for("its worker to end", || one.daemon.processes().is_empty().then_some(()));
    let before = (site.virsh("dumpxml web"), journal(&site).unwrap()["intent"].clone());
    std::thread::sleep(Duration::from_millis(STALE_S * 1000 + 500));
    let mut two = prepared(&site);
    two.start();
    let done = submit(&two, &site.manifest(ALL, ""), &["--takeover", "--wait"]);
    assert!(!done.status.success());
    let job = two.client(&["show", "web/web"]);
    assert!(
        job["error"].as_str().unwrap().contains("had begun to hand the result to its libvirt"),
        "{job:#}"
    );
    // Nor does anything that host does with it then.
    for words in [&["retry", "web"][..], &["retry", "--from", "convert", "web"], &["cancel", "web"]] {
        two.run_client(words);
        wait_for("it to end", || (state(&two) == "failed").then_some(()));
        assert_eq!(
            (site.virsh("dumpxml web"), journal(&site).unwrap()["intent"].clone()),
            before,
            "{words:?}"
        );
    }
    two.stop();
    std::thread::sleep(Duration::from_millis(STALE_S * 1000 + 500));
    one.go_on();
    one.daemon.start();
    let done = submit(&one.daemon, &site.manifest(ALL, ""), &["--takeover", "--wait"]);
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), one.daemon.log());
    site.is_whole();
}
