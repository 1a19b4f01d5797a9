//! Appliances as drops: each machine becomes a job, pausing and limits hold while it is copied, and nothing is unpacked or left.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::appliances::{cut_up, item, on_controller, pack, sums, system, vmdk, vmware};
use crate::support::{Daemon, disks, wait_for};

fn daemon(further: &str) -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!(
        "intake: {{accept_disks: true, profile: none, companion_wait_s: 30, settle_s: {{disk: 0.5}}}}\npaths: {{read: [/nowhere]}}\n{further}"
    ));
    daemon.start();
    daemon
}

fn bring_in(daemon: &Daemon, file: &Path) {
    fs::rename(file, daemon.state().join("incoming").join(file.file_name().unwrap())).unwrap();
}

/// The hash of what a guest would see in a result.
fn result(daemon: &Daemon, path: &str) -> String {
    disks::content_sha256(&daemon.state().join("output").join(path), "qcow2")
}

#[test]
fn each_machine_of_an_ova_becomes_a_job_of_one_batch() {
    let daemon = daemon("");
    let dir = daemon.scratch();
    vmdk(dir, "web-disk1.vmdk", 1);
    vmdk(dir, "db-disk1.vmdk", 2);
    let contents = ["web", "db"].map(|name| disks::sha256(&dir.join(format!("{name}-disk1.vmdk.raw"))));
    let mut ovf = vmware("web", &[("web-disk1.vmdk", 8), ("db-disk1.vmdk", 8)]);
    let only = |disk: &str| item(6, 1, "") + &on_controller(1, 0, disk);
    ovf.systems = system("web", "", &only("ovf:/disk/disk0")) + &system("db", "", &only("ovf:/disk/disk1"));
    fs::write(dir.join("both.ovf"), ovf.text()).unwrap();
    let ova = pack(dir, "ustar", "both.ova", &["both.ovf", "web-disk1.vmdk", "db-disk1.vmdk"]);
    let file = disks::sha256(&ova);
    bring_in(&daemon, &ova);
    let ended = daemon.wait_batch("both");
    assert_eq!(
        (&ended["state"], &ended["total_vms"]),
        (&Value::from("completed"), &Value::from(2)),
        "{ended}"
    );
    assert_eq!(
        ["both/web/web-disk1.qcow2", "both/db/db-disk1.qcow2"].map(|path| result(&daemon, path)),
        contents
    );
    assert_eq!(disks::sha256(&daemon.wait_settled("processed", "both.ova")), file);
}

#[test]
fn an_ovf_is_taken_with_its_disks_and_its_list_of_checksums() {
    let daemon = daemon("");
    let dir = daemon.scratch();
    vmdk(dir, "web-disk1.vmdk", 3);
    let content = disks::sha256(&dir.join("web-disk1.vmdk.raw"));
    fs::write(dir.join("web.ovf"), vmware("web", &[("web-disk1.vmdk", 8)]).text()).unwrap();
    fs::write(dir.join("web.mf"), sums(dir, &["web.ovf", "web-disk1.vmdk"])).unwrap();
    // The descriptor comes first, and waits for what it names.
    for name in ["web.mf", "web.ovf", "web-disk1.vmdk"] {
        bring_in(&daemon, &dir.join(name));
    }
    assert_eq!(daemon.wait_batch("web")["state"], "completed");
    assert_eq!(result(&daemon, "web/web/web-disk1.qcow2"), content);
    let put_away = daemon.wait_settled("processed", "web.ovf");
    wait_for("all its files to be put away", || (fs::read_dir(&put_away).ok()?.count() == 3).then_some(()));
    assert_eq!(fs::read_dir(daemon.state().join("incoming")).unwrap().count(), 0);
}

#[test]
fn an_appliance_that_was_changed_on_its_way_is_refused_or_fails_and_nothing_is_published() {
    let daemon = daemon("");
    let dir = daemon.scratch();
    for (name, spoiled) in [("descriptor", "web.ovf"), ("disk", "web-disk1.vmdk")] {
        vmdk(dir, "web-disk1.vmdk", 4);
        fs::write(dir.join("web.ovf"), vmware("web", &[("web-disk1.vmdk", 8)]).text()).unwrap();
        fs::write(dir.join("web.mf"), sums(dir, &["web.ovf", "web-disk1.vmdk"])).unwrap();
        let mut bytes = fs::read(dir.join(spoiled)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] = bytes[middle].wrapping_add(1);
        fs::write(dir.join(spoiled), bytes).unwrap();
        let archive = format!("{name}.ova");
        bring_in(&daemon, &pack(dir, "pax", &archive, &["web.ovf", "web.mf", "web-disk1.vmdk"]));
        let failed = daemon.wait_settled("failed", &archive);
        let report = failed.with_file_name(format!("{archive}.error.json"));
        let error: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        assert_eq!(error["kind"], "source", "{error}");
        assert!(error["error"].as_str().unwrap().contains("checksum"), "{error}");
        let results = Daemon::files_below(&daemon.state().join("output"), |name| name.ends_with(".qcow2"));
        assert!(results.is_empty(), "{results:?}");
    }
}

#[test]
fn an_ovf_whose_disks_lie_in_pieces_beside_it_is_refused_and_one_in_an_archive_is_not() {
    let daemon = daemon("");
    let dir = daemon.scratch();
    vmdk(dir, "web-disk1.vmdk", 6);
    let content = disks::sha256(&dir.join("web-disk1.vmdk.raw"));
    let mut ovf = vmware("web", &[("web-disk1.vmdk", 8)]);
    ovf.references = ovf.references.replace("/>", r#" ovf:chunkSize="500000"/>"#);
    let mut files = vec!["web.ovf".to_owned()];
    files.extend(cut_up(dir, "web-disk1.vmdk", 500_000));
    fs::write(dir.join("web.ovf"), ovf.text()).unwrap();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    bring_in(&daemon, &pack(dir, "ustar", "packed.ova", &files));
    daemon.wait_settled("processed", "packed.ova");
    assert_eq!(result(&daemon, "packed/web/web-disk1.qcow2"), content);

    bring_in(&daemon, &dir.join("web.ovf"));
    let failed = daemon.wait_settled("failed", "web.ovf");
    let report = failed.with_file_name("web.ovf.error.json");
    let error: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(error["kind"], "unsupported", "{error}");
    assert!(error["error"].as_str().unwrap().contains("in pieces"), "{error}");
}

#[test]
fn an_ova_is_converted_under_a_limit_that_a_reload_lifts_and_stands_still_while_paused() {
    let daemon = daemon("limits: {bandwidth: [{rate: 1MiB/s}]}\n");
    let dir = daemon.scratch();
    disks::raw(&dir.join("web.raw"), 64, 48, 7);
    let content = disks::sha256(&dir.join("web.raw"));
    let mut convert = Command::new("qemu-img");
    convert.current_dir(dir).args([
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        "web.raw",
    ]);
    assert!(convert.arg("web-disk1.vmdk").status().unwrap().success());
    fs::write(dir.join("web.ovf"), vmware("web", &[("web-disk1.vmdk", 64)]).text()).unwrap();
    bring_in(&daemon, &pack(dir, "gnu", "web.ova", &["web.ovf", "web-disk1.vmdk"]));

    let done = || {
        let progress = daemon.progress("web")?;
        progress["vms"]["web"]["disks"]["web-disk1"]["bytes_done"].as_u64()
    };
    wait_for("some of it to be copied", || done().filter(|bytes| *bytes > 0));
    daemon.client(&["pause"]);
    wait_for("the job to be paused", || {
        let jobs = daemon.client(&["list"]);
        (jobs["jobs"][0]["waiting_reason"] == "paused").then_some(())
    });
    // What is shown may be a second old.
    let held = wait_for("the copy to stand still", || {
        let before = done();
        std::thread::sleep(Duration::from_secs(2));
        (done() == before).then_some(before)
    });
    assert!(held.unwrap() < 40 << 20, "nothing held it to its limit: {held:?}");

    daemon.client(&["resume"]);
    daemon.configure("intake: {accept_disks: true, profile: none}\n");
    daemon.signal(rustix::process::Signal::HUP);
    assert_eq!(daemon.wait_batch("web")["state"], "completed");
    assert_eq!(result(&daemon, "web/web/web-disk1.qcow2"), content);
}

#[test]
fn a_vmx_is_taken_with_its_disks_and_all_their_files() {
    let daemon = daemon("");
    let dir = daemon.scratch();
    disks::raw(&dir.join("web.raw"), 8, 2, 9);
    let content = disks::sha256(&dir.join("web.raw"));
    let mut convert = Command::new("qemu-img");
    convert.current_dir(dir).args([
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        "web.raw",
    ]);
    assert!(convert.arg("web.vmdk").status().unwrap().success());
    let text = "displayName = \"web\"\nnumvcpus = \"2\"\nmemsize = \"1024\"\nscsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"web.vmdk\"\n";
    fs::write(dir.join("web.vmx"), text).unwrap();
    for name in ["web.vmx", "web.vmdk", "web-flat.vmdk"] {
        bring_in(&daemon, &dir.join(name));
    }
    assert_eq!(daemon.wait_batch("web")["state"], "completed");
    assert_eq!(result(&daemon, "web/web/web.qcow2"), content);
    let put_away = daemon.wait_settled("processed", "web.vmx");
    wait_for("all its files to be put away", || (fs::read_dir(&put_away).ok()?.count() == 3).then_some(()));
    let domain = fs::read_to_string(daemon.state().join("output/web/web/domain.xml")).unwrap();
    assert!(domain.contains("<memory unit='MiB'>1024</memory>"), "{domain}");
}
