//! What an outage does to jobs: a real daemon and a real copy, in a private network.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::netns::{cable, in_private_network, plug, unplug};
use super::root::text_of;
use crate::support::receiver::WebReceiver;
use crate::support::{Daemon, disks, wait_for, within};

/// A daemon that follows `eth0`, which is plugged in.
fn daemon(further: &str) -> Daemon {
    cable("eth0");
    let mut daemon = Daemon::prepare();
    // A copy lasts as long as these tests need it.
    let settings = format!(
        "network_monitor: {{required_interfaces: [eth0]{further}}}\nlimits: {{bandwidth: [{{rate: 20MiB/s}}]}}\n"
    );
    daemon.configure(&settings);
    daemon.start();
    daemon
}

/// Drops a manifest for a disk of noise.
fn drop_disk(daemon: &Daemon, name: &str, mib: u64) -> PathBuf {
    let disk = disks::disk(daemon.scratch(), name, "raw", mib, mib, mib);
    let further = "profile: none\npipeline: {convert: {enabled: true}}\noutput: {compress: zlib}\n";
    daemon.drop_file(&format!("{name}.yaml"), disks::manifest(&[("boot", &disk, "raw")], further));
    disk
}

fn job(daemon: &Daemon, batch: &str) -> Value {
    let jobs = daemon.client(&["list"]);
    let jobs = jobs["jobs"].as_array().unwrap();
    jobs.iter().find(|job| job["batch_id"] == batch).cloned().unwrap_or_default()
}

fn waits_for_network(job: &Value) -> bool {
    job["state"] == "waiting" && job["waiting_reason"] == "network"
}

fn bytes_done(daemon: &Daemon, batch: &str) -> u64 {
    let progress = daemon.progress(batch).unwrap_or_default();
    progress["vms"][batch]["disks"]["boot"]["bytes_done"].as_u64().unwrap_or(0)
}

#[track_caller]
fn wait_copying(daemon: &Daemon, batch: &str) {
    wait_for("bytes to be copied", || (bytes_done(daemon, batch) > 0).then_some(()));
}

/// The result holds what the source holds.
#[track_caller]
fn assert_result(daemon: &Daemon, batch: &str, source: &Path) {
    let result = daemon.state().join(format!("output/{batch}/{batch}/boot.qcow2"));
    text_of(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]).arg(source).arg(result));
}

#[test]
fn a_running_copy_stands_still_within_a_second_and_goes_on_when_the_network_is_back() {
    in_private_network(|| {
        let daemon = daemon("");
        let source = drop_disk(&daemon, "web01", 150);
        wait_copying(&daemon, "web01");

        let pulled = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        unplug("eth0");
        let waiting = wait_for("the job to wait for the network", || {
            let job = job(&daemon, "web01");
            waits_for_network(&job).then_some(job)
        });
        let events = daemon.client(&["show", &waiting["job_id"].to_string()]);
        let last = events["events"].as_array().unwrap().last().cloned().unwrap();
        assert!(last["at"].as_f64().unwrap() - pulled < 5.0, "pulled at {pulled}, then {last}");
        assert!(waiting["waiting_detail"].as_str().unwrap().contains("eth0 has no carrier"), "{waiting}");

        // What was under way to the pipe arrives; then nothing moves.
        let mut seen = bytes_done(&daemon, "web01");
        let mut still_since = Instant::now();
        let stands = within(Duration::from_secs(20), || {
            let now = bytes_done(&daemon, "web01");
            if now != seen {
                (seen, still_since) = (now, Instant::now());
            }
            (still_since.elapsed() > Duration::from_secs(3)).then_some(())
        });
        assert!(stands.is_some(), "the copy goes on");
        assert_eq!(daemon.status_file().unwrap()["network"], "down");
        assert_eq!(daemon.client(&["status"])["waiting"]["network"], 1);

        plug("eth0");
        let progress = daemon.wait_batch("web01");
        assert_eq!(progress["state"], "completed", "{progress}");
        assert_eq!(progress["vms"]["web01"]["attempt"], 1, "waiting costs no attempt: {progress}");
        assert_result(&daemon, "web01", &source);
    });
}

#[test]
fn while_the_network_is_down_no_job_starts() {
    in_private_network(|| {
        let daemon = daemon("");
        unplug("eth0");
        wait_for("the daemon to know", || (daemon.client(&["status"])["network"] == "down").then_some(()));
        let source = drop_disk(&daemon, "web02", 4);
        wait_for("the job to wait for the network", || {
            waits_for_network(&job(&daemon, "web02")).then_some(())
        });
        assert_eq!(job(&daemon, "web02")["attempt"], 0);
        plug("eth0");
        assert_eq!(daemon.wait_batch("web02")["state"], "completed");
        assert_result(&daemon, "web02", &source);
    });
}

#[test]
fn local_jobs_go_on_where_only_network_jobs_are_to_pause() {
    in_private_network(|| {
        let daemon = daemon(", pause_scope: network_jobs");
        unplug("eth0");
        wait_for("the daemon to know", || (daemon.client(&["status"])["network"] == "down").then_some(()));
        drop_disk(&daemon, "web03", 4);
        assert_eq!(daemon.wait_batch("web03")["state"], "completed");
    });
}

#[test]
fn a_network_that_flaps_a_hundred_times_leaves_the_job_in_one_piece() {
    in_private_network(|| {
        let daemon = daemon("");
        let source = drop_disk(&daemon, "web04", 100);
        wait_copying(&daemon, "web04");
        let began = Instant::now();
        for flap in 1..=100_u32 {
            unplug("eth0");
            plug("eth0");
            std::thread::sleep((Duration::from_millis(100) * flap).saturating_sub(began.elapsed()));
        }
        let progress = daemon.wait_batch("web04");
        assert_eq!(progress["state"], "completed", "{progress}");
        assert_eq!(progress["vms"]["web04"]["attempt"], 1, "{progress}");
        assert_result(&daemon, "web04", &source);
        // A fast copy ends while it still flaps; up counts only once it has held.
        wait_for("the network to be up", || (daemon.client(&["status"])["network"] == "up").then_some(()));
    });
}

#[test]
fn an_outage_that_lasts_is_told_to_who_can_be_reached() {
    in_private_network(|| {
        super::netns::ip("link set lo up");
        let receiver = WebReceiver::start();
        cable("eth0");
        let mut daemon = Daemon::prepare();
        daemon.configure(&format!(
            "network_monitor: {{required_interfaces: [eth0], max_network_wait_s: 1}}\n\
             notifications: {{enabled: true, webhook_url: \"{}\"}}\n",
            receiver.url("/")
        ));
        daemon.start();
        unplug("eth0");
        let told = wait_for("the message", || receiver.taken().first().cloned());
        let details = told.json()["details"].clone();
        assert_eq!(details["event"], "network_outage", "{details}");
        assert!(details["missing"].as_str().unwrap().contains("eth0 has no carrier"), "{details}");
        plug("eth0");
        wait_for("the network to be up", || (daemon.client(&["status"])["network"] == "up").then_some(()));
        unplug("eth0");
        wait_for("the second message", || (receiver.taken().len() == 2).then_some(()));
        assert_ne!(receiver.taken()[1].id(), told.id(), "another outage is another event");
    });
}
