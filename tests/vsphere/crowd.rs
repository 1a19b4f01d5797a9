//! A hundred machines of one server in one batch: all end, each with its own bytes, within all limits, and nothing of it is left.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, within};

const MACHINES: usize = 100;
const DATASTORES: [&str; 2] = ["ds1", "ds2"];
/// At a time on the host, and on each datastore.
const LIMITS: &str =
    "max_concurrent_jobs: 4\nlimits: {disk_reserve: 1MiB, per_esxi_host: 3, per_datastore: 2}\n";

fn name(number: usize) -> String {
    format!("web-{number:03}")
}

#[test]
fn a_hundred_machines_are_moved_in_one_batch_within_the_limits_and_nothing_is_left() {
    let mut daemon = prepared(LIMITS);
    let content = |number: usize| daemon.scratch().join(format!("content-{number}"));
    let mut options = Options::vcenter().with("datastores", json!(DATASTORES));
    for number in 0..MACHINES {
        disks::raw(&content(number), 2, 1, number as u64 + 1);
        options = options.machine(json!({
            "name": name(number), "folder": "prod", "datastore": DATASTORES[number % 2], "disks": [disk(&content(number))],
        }));
    }
    let digests: Vec<String> = (0..MACHINES).map(|number| disks::sha256(&content(number))).collect();
    let vcenter = Vcenter::start(options);
    store(&daemon, &vcenter, PASSWORD);
    daemon.start();
    let port = vcenter.port();
    daemon.drop_file(
        "all.yaml",
        format!(
            "batch_version: \"1.0\"\nshared_config: {{profile: none}}\nvms:\n  - {{select: {{folder: prod}}, manifest: {{source: {{vsphere: {{credential: vc, port: {port}}}}}}}}}\n"
        ),
    );
    let (mut sessions, mut copying) = (0, 0);
    let ended = within(Duration::from_secs(300), || {
        sessions = sessions.max(vcenter.sessions());
        let progress = daemon.progress("all")?;
        let at_work = |vm: &&Value| vm["state"] == "running" && vm["current_stage"] == "extraction";
        copying = copying.max(progress["vms"].as_object().unwrap().values().filter(at_work).count());
        matches!(progress["state"].as_str(), Some("completed" | "failed")).then_some(progress)
    });
    let progress = ended.unwrap_or_else(|| panic!("{:#}\n{}", daemon.progress("all").unwrap(), daemon.log()));
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    assert!(
        (1..=3).contains(&copying) && sessions <= 5,
        "{copying} copied at a time, {sessions} were logged in"
    );
    // One to select them, and of each one who looks and one who copies.
    let logins = vcenter.requests().iter().filter(|request| request.call == "Login").count();
    assert!(logins <= 2 * MACHINES + 1, "{logins}");

    for (number, digest) in digests.iter().enumerate() {
        let results = daemon.state().join("output/all").join(name(number));
        let report: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
        assert_eq!(report["pipeline"]["success"], true, "{report:#}");
        let result = results.join("disk-0.qcow2");
        assert_eq!(disks::content_sha256(&result, "qcow2"), *digest, "{number}");
    }
    daemon.wait_settled("processed", "all.yaml.report.json");
    let partial = Daemon::files_below(&daemon.state().join("output"), |name| name.contains(".partial"));
    assert!(partial.is_empty(), "{partial:?}");
    let gone = within(Duration::from_secs(10), || (vcenter.sessions() == 0).then_some(()));
    assert!(gone.is_some(), "{} are still logged in", vcenter.sessions());
    let alone = within(Duration::from_secs(10), || (daemon.processes().len() == 1).then_some(()));
    assert!(alone.is_some(), "{:?}", daemon.processes());
}
