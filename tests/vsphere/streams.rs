//! Machines whose disks come as streams of an export, as the sources of jobs: straight into their results, whatever breaks off.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};
use crate::support::{Daemon, disks};

/// A service with the login of a vCenter, whose machine `web` has these two disks.
fn site(change: impl FnOnce(Options) -> Options) -> (Daemon, Vcenter, Vec<std::path::PathBuf>) {
    let daemon = Daemon::prepare();
    let content: Vec<_> = [("system", 96, 48, 1), ("data", 8, 2, 2)]
        .map(|(name, mib, filled, seed)| disks::disk(daemon.scratch(), name, "raw", mib, filled, seed))
        .into();
    let machine = json!({ "name": "web", "disks": [disk(&content[0]), disk(&content[1])] });
    let vcenter = Vcenter::start(change(Options::vcenter().machine(machine)));
    let credentials = daemon.scratch().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let login = json!({
        "host": "127.0.0.1", "username": USER, "password": PASSWORD, "thumbprint": vcenter.thumbprint(),
    });
    let file = credentials.join("vc.yaml");
    fs::write(&file, login.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    daemon.configure(&format!("credentials: {{dir: {}}}\n", credentials.display()));
    (daemon, vcenter, content)
}

/// Converts it, and holds the results against what is there; gives the report.
fn converted(daemon: &mut Daemon, vcenter: &Vcenter, content: &[std::path::PathBuf]) -> (Value, Value) {
    daemon.start();
    daemon.drop_file(
        "web.yaml",
        format!(
            "manifest_version: \"1.0\"\nprofile: none\npipeline: {{convert: {{enabled: true}}, validate: {{enabled: true}}}}\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: web, transport: nfc}}\n",
            vcenter.port()
        ),
    );
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    let results = daemon.state().join("output/web/web");
    for (number, content) in content.iter().enumerate() {
        let result = results.join(format!("disk-{number}.qcow2"));
        assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(content, "raw"));
    }
    let report: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
    assert!(report["pipeline"]["stages"]["load"].to_string().contains("\"transport\":\"nfc\""), "{report}");
    (progress, report)
}

fn asked(vcenter: &Vcenter, call: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.call == call).count()
}

fn fetched(vcenter: &Vcenter, name: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.path.contains(name)).count()
}

#[test]
fn streams_become_results_and_are_proved_with_one_request_for_each_disk() {
    let (mut daemon, vcenter, content) = site(|options| options);
    let (progress, _) = converted(&mut daemon, &vcenter, &content);
    assert_eq!(progress["vms"]["web"]["attempt"], 1, "{progress}");
    assert_eq!((fetched(&vcenter, "disk-0"), fetched(&vcenter, "disk-1")), (1, 1));
    assert_eq!(asked(&vcenter, "HttpNfcLeaseAbort"), 0);
    assert_eq!(asked(&vcenter, "ExportVm"), asked(&vcenter, "HttpNfcLeaseComplete"));
}

#[test]
fn a_stream_that_was_cut_is_gone_on_with_by_another_lease() {
    let (mut daemon, vcenter, content) = site(|options| options);
    vcenter.fault(&json!({ "on": "nfc", "named": "disk-0", "times": 1, "kind": "cut", "after": 40 << 20 }));
    let (progress, report) = converted(&mut daemon, &vcenter, &content);
    assert_eq!(progress["vms"]["web"]["attempt"], 2, "{progress}");
    assert_eq!((fetched(&vcenter, "disk-0"), asked(&vcenter, "HttpNfcLeaseAbort")), (2, 1));
    assert_eq!(asked(&vcenter, "ExportVm"), asked(&vcenter, "HttpNfcLeaseComplete") + 1);
    let stages = report["pipeline"]["stages"].to_string();
    assert!(stages.contains("\"kept_bytes\":"), "{stages}");
}
