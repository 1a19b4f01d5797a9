//! Batches that are really converted: what lies beside the results then, that it is true, and that it opens.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::browser;
use crate::support::appliances::{item, on_controller, pack, system, vmdk, vmware};
use crate::support::{Daemon, disks};

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

#[test]
fn a_batch_of_three_of_the_service_leaves_its_reports_and_they_open() {
    let mut daemon = Daemon::prepare();
    daemon.configure(
        "max_concurrent_jobs: 1\nintake: {accept_disks: true, profile: none, settle_s: {disk: 0.5}}\n",
    );
    daemon.start();
    let dir = daemon.scratch();
    let names = ["web-disk1.vmdk", "db-disk1.vmdk", "ci-disk1.vmdk"];
    for (seed, name) in names.iter().enumerate() {
        vmdk(dir, name, seed as u64 + 1);
    }
    // The third cannot be unpacked: something else stands where its first grain is.
    let mut spoiled = fs::read(dir.join(names[2])).unwrap();
    let middle = spoiled.len() / 2;
    spoiled[middle..middle + 4096].fill(0xff);
    fs::write(dir.join(names[2]), spoiled).unwrap();
    let mut ovf = vmware("web", &names.map(|name| (name, 8)));
    let only = |disk: &str| item(6, 1, "") + &on_controller(1, 0, disk);
    let machines = [("web", "ovf:/disk/disk0"), ("db", "ovf:/disk/disk1"), ("ci", "ovf:/disk/disk2")];
    ovf.systems = machines.map(|(name, disk)| system(name, "", &only(disk))).concat();
    fs::write(dir.join("three.ovf"), ovf.text()).unwrap();
    let ova = pack(dir, "ustar", "three.ova", &["three.ovf", names[0], names[1], names[2]]);
    fs::rename(&ova, daemon.state().join("incoming/three.ova")).unwrap();
    daemon.wait_settled("failed", "three.ova");

    let beside = daemon.state().join("output/three");
    let report = json(&beside.join("batch_report.json"));
    assert_eq!((&report["batch"]["total_vms"], &report["batch"]["failed_vms"]), (&3.into(), &1.into()));
    for vm in report["vm_results"].as_array().unwrap() {
        let spans = vm["timeline"].as_array().unwrap();
        let stages: Vec<&str> = spans.iter().filter_map(|span| span["stage"].as_str()).collect();
        assert!(stages.contains(&"load") && stages.contains(&"extraction"), "{vm}");
        assert_eq!(spans[0]["state"], "queued", "{vm}");
        for pair in spans.windows(2) {
            assert_eq!(pair[0]["ended_at"], pair[1]["started_at"], "{vm}");
        }
        let (at, ended) = (&spans.last().unwrap()["ended_at"], &vm["completed_at"]);
        assert!((at.as_f64().unwrap() - ended.as_f64().unwrap()).abs() < 1.0, "{vm}");
    }
    let failed = report["vm_results"].as_array().unwrap().iter().find(|vm| vm["state"] == "failed").unwrap();
    assert_eq!((&failed["vm_id"], &failed["failure"]["kind"]), (&"ci".into(), &"source".into()), "{failed}");
    assert!(read(&beside.join("batch_report.md")).contains("| `ci` | source |"));
    assert!(read(&beside.join("batch_summary.txt")).contains("❌ FAILED | ci"));

    let seen = browser::open(&beside.join("batch_report.html"), (1200, 1200), false);
    assert_eq!((seen.console, seen.requests), (Vec::<String>::new(), Vec::<String>::new()));
    // The colour of what failed: its state, and the end of its bar.
    assert!(seen.picture.stretches([0xcf, 0x22, 0x2e], 3).len() > 5, "nothing is told in red");
}

#[test]
fn several_that_are_converted_here_leave_one_report_of_all_and_one_of_each() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, (name, format)) in [("web", "vmdk"), ("db", "raw")].into_iter().enumerate() {
        let disk = disks::disk(dir.path(), name, format, 32, 2, seed as u64 + 1);
        let further = format!(
            "name: {name}\nprofile: none\npipeline: {{convert: {{enabled: true}}, validate: {{enabled: true}}}}\n"
        );
        fs::write(
            dir.path().join(format!("{name}.yaml")),
            disks::manifest(&[("boot", &disk, format)], &further),
        )
        .unwrap();
    }
    let done = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .current_dir(dir.path())
        .args(["convert", "web.yaml", "db.yaml", "-o", "out", "--json"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let beside = dir.path().join("out");
    let report = json(&beside.join("batch_report.json"));
    assert_eq!(serde_json::from_slice::<Value>(&done.stdout).unwrap(), report);
    for name in ["web", "db"] {
        let path = beside.join(name).join("boot.qcow2");
        let digest = disks::sha256(&path);
        let vm = report["vm_results"].as_array().unwrap().iter().find(|vm| vm["vm_id"] == name).unwrap();
        assert_eq!(vm["outputs"][&*path.to_string_lossy()], digest.as_str());
        let told = json(&beside.join(name).join("report.json"));
        assert_eq!(told["artifacts"][0]["sha256"], digest.as_str());
        assert_eq!(told["domain"]["sha256"], disks::sha256(&beside.join(name).join("domain.xml")).as_str());
        assert_eq!(vm["pipeline_report"], told);
        for page in [
            beside.join(name).join("report.md"),
            beside.join(name).join("report.txt"),
            beside.join("batch_report.md"),
            beside.join("batch_report.html"),
        ] {
            assert!(read(&page).contains(&digest), "{} does not know the digest", page.display());
        }
    }
}
