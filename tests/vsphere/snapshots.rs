//! Snapshots that hyper2kvm left: found again by their names on all machines of a server, and removed by whoever comes by.

use serde_json::json;

use crate::clones::asked;
use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter};

const OTHERS: &str = "hyper2kvm/elsewhere/weekend/web";

#[test]
fn snapshots_that_another_host_left_are_found_and_removed() {
    let mut daemon = prepared("");
    let machine = |name: &str| json!({ "name": name, "on": true, "disks": [{ "capacity": 4 << 20 }] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine("web")).machine(machine("db")));
    store(&daemon, &vcenter, PASSWORD);
    daemon.start();
    asked(&daemon, &vcenter, &["snapshot", "create", "web", OTHERS, "--quiesce", "no"]);
    asked(&daemon, &vcenter, &["snapshot", "create", "db", "before the update", "--quiesce", "no"]);
    let listed = asked(&daemon, &vcenter, &["snapshot", "list", "--orphans"]);
    let all = listed["snapshots"].as_array().unwrap();
    assert_eq!((all.len(), &all[0]["name"], &all[0]["vm"]), (1, &json!(OTHERS), &json!("web")), "{listed}");
    assert_eq!(all[0]["orphan"], false, "it is young, and another host may need it: {listed}");
    let kept = asked(&daemon, &vcenter, &["snapshot", "remove", "--orphans"]);
    assert_eq!((kept["removed"].as_array().unwrap().len(), kept["kept"].as_array().unwrap().len()), (0, 1));
    let left = ["snapshot", "remove", "--orphans", "--older-than", "0s"];
    let told = asked(&daemon, &vcenter, &[&left[..], &["--dry-run"]].concat());
    assert_eq!((&told["dry_run"], &told["removed"][0]["vm"]), (&json!(true), &json!("web")), "{told}");
    assert_eq!(
        asked(&daemon, &vcenter, &["snapshot", "list", "web"])["snapshots"].as_array().unwrap().len(),
        1
    );
    asked(&daemon, &vcenter, &left);
    assert!(
        asked(&daemon, &vcenter, &["snapshot", "list", "web"])["snapshots"].as_array().unwrap().is_empty()
    );
    let others = asked(&daemon, &vcenter, &["snapshot", "list", "db"]);
    assert_eq!(others["snapshots"][0]["name"], "before the update", "{others}");
}

#[test]
fn without_a_service_nobody_knows_which_snapshots_are_needed() {
    let daemon = prepared("");
    let vcenter = Vcenter::start(Options::vcenter().machine(json!({ "name": "web" })));
    store(&daemon, &vcenter, PASSWORD);
    let (port, config) = (vcenter.port().to_string(), daemon.config());
    let done = daemon.run_client(&[
        "vsphere",
        "--credential",
        "vc",
        "--port",
        &port,
        "--config",
        config.to_str().unwrap(),
        "snapshot",
        "remove",
        "--orphans",
    ]);
    assert!(!done.status.success());
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(told.contains("--older-than"), "{told}");
}
