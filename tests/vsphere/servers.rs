//! A server that goes away while the network is up, and comes back: its jobs wait, and one at a time tries.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::faults::Relay;
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;
const VMS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn site(further: &str) -> (Daemon, Vcenter, Vec<std::path::PathBuf>) {
    let daemon = prepared(further);
    let mut options = Options::vcenter();
    let mut content = Vec::new();
    for (number, name) in VMS.into_iter().enumerate() {
        content.push(disks::disk(daemon.scratch(), name, "raw", 8, 8, number as u64));
        options = options.machine(json!({ "name": name, "disks": [disk(&content[number])] }));
    }
    (daemon, Vcenter::start(options), content)
}

fn drop_all(daemon: &Daemon, port: u16) {
    for name in VMS {
        daemon.drop_file(
            &format!("{name}.yaml"),
            format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: {name}}}\n"),
        );
    }
}

fn all(daemon: &Daemon) -> Vec<Value> {
    daemon.client(&["list"])["jobs"].as_array().unwrap().clone()
}

fn waits_for_server(job: &Value) -> bool {
    job["waiting_reason"] == "network"
        && job["waiting_detail"].as_str().unwrap().starts_with("its server is away: ")
}

#[test]
fn a_server_that_goes_away_is_tried_by_one_job_at_a_time_and_all_go_on_when_it_is_back() {
    let further = "max_concurrent_jobs: 2\nretry: {base_delay_s: 0.5, max_delay_s: 1}\n";
    let (mut daemon, vcenter, content) = site(further);
    let relay = Relay::to(&vcenter.address());
    store(&daemon, &vcenter, PASSWORD);
    vcenter.throttle(MIB);
    daemon.start();
    drop_all(&daemon, relay.address().port());
    wait_for("bytes to come", || (vcenter.sent_of("-flat") > 2 * MIB).then_some(()));
    relay.down(true);
    vcenter.throttle(0);
    wait_for("all to wait for the server", || all(&daemon).iter().all(waits_for_server).then_some(()));
    let status = daemon.client(&["status"]);
    let away = &status["servers_away"][0];
    let server = format!("127.0.0.1:{}", relay.address().port());
    assert_eq!(
        (&away["server"], status["network"].as_str()),
        (&json!(server), Some("unwatched")),
        "{status}"
    );
    let before: Vec<u64> = all(&daemon).iter().map(|job| job["attempt"].as_u64().unwrap()).collect();

    // One a second, and each of them tries once.
    let (asked, begun) = (relay.connections(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let (tried, most) = (relay.connections() - asked, 2 + begun.elapsed().as_secs());
    assert!(tried >= 1 && tried <= most, "{tried} in {:?}", begun.elapsed());
    let after: Vec<u64> = all(&daemon).iter().map(|job| job["attempt"].as_u64().unwrap()).collect();
    // The attempt in which one tries is gone on with when it tries again.
    assert!(after.iter().zip(&before).all(|(after, before)| *after <= before + 1), "{before:?} {after:?}");

    // A service that is killed meanwhile does not begin anew with all of them.
    daemon.kill9();
    daemon.start();
    let (asked, begun) = (relay.connections(), Instant::now());
    while begun.elapsed() < Duration::from_secs(2) {
        let at_work = all(&daemon).iter().filter(|job| job["state"] == "running").count();
        assert!(at_work <= 1, "{at_work} at a time\n{}", daemon.log());
    }
    // One that was cut off, one that is chosen, and then one a second.
    let (tried, most) = (relay.connections() - asked, 3 + begun.elapsed().as_secs());
    assert!(tried <= most, "{tried} in {:?}\n{}", begun.elapsed(), daemon.log());

    relay.down(false);
    for (name, content) in VMS.into_iter().zip(&content) {
        let progress = daemon.wait_batch(name);
        assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
        let result = daemon.state().join(format!("output/{name}/{name}/disk-0.qcow2"));
        assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(content, "raw"));
    }
    assert_eq!(daemon.client(&["status"])["servers_away"], json!([]));
    assert!(daemon.log().contains("it is back"), "{}", daemon.log());
}

#[test]
fn a_server_that_sends_a_byte_now_and_then_costs_attempts_until_there_are_no_more() {
    let further = "vc_connection_timeout_s: 1\nretry: {base_delay_s: 0.2, max_delay_s: 1, max_attempts: 2}\n";
    let (mut daemon, vcenter, _) = site(further);
    store(&daemon, &vcenter, PASSWORD);
    vcenter.fault(&json!({ "on": "folder", "named": "-flat", "kind": "dripping", "times": 100_000 }));
    daemon.start();
    let port = vcenter.port();
    daemon.drop_file(
        "a.yaml",
        format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: a}}\n"),
    );
    let error = fs::read(daemon.wait_settled("failed", "a.yaml.error.json")).unwrap();
    let error: Value = serde_json::from_slice(&error).unwrap();
    assert_eq!((&error["kind"], &error["attempts"]), (&json!("network"), &json!(2)), "{error}");
    assert!(error["error"].as_str().unwrap().contains("less than 4 KiB a second"), "{error}");
    assert!(!daemon.state().join("output/a/a/disk-0.qcow2").exists());
    wait_for("nobody to be logged in", || (vcenter.sessions() == 0).then_some(()));
}

#[test]
fn a_datastore_bears_so_many_jobs_at_a_time() {
    let limits = "max_concurrent_jobs: 3\nlimits: {disk_reserve: 1MiB, per_datastore: 1}\n";
    let (mut daemon, vcenter, _) = site(limits);
    store(&daemon, &vcenter, PASSWORD);
    vcenter.throttle(2 * MIB);
    daemon.start();
    drop_all(&daemon, vcenter.port());
    let mut most = 0;
    wait_for("all to end", || {
        let jobs = all(&daemon);
        let copying = |job: &&Value| job["state"] == "running" && job["current_stage"] == "extraction";
        most = most.max(jobs.iter().filter(copying).count());
        jobs.iter().all(|job| job["state"] == "succeeded").then_some(())
    });
    assert_eq!(most, 1);
}
