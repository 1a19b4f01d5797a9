//! Where the password of a vCenter is not: in nothing that the service writes or shows, and in nothing that is left of a process that dies.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::jobs::{prepared, store};
use crate::support::root::text_of;
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;

/// The password as it is, and as JSON, XML and URLs write it.
fn forms() -> Vec<Vec<u8>> {
    let json = serde_json::to_string(PASSWORD).unwrap();
    let xml = PASSWORD.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let url: String = PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect();
    [PASSWORD.to_owned(), json.trim_matches('"').to_owned(), xml, url].map(String::into_bytes).into()
}

#[track_caller]
pub fn is_clean(what: &str, bytes: &[u8]) {
    for form in forms() {
        assert!(!bytes.windows(form.len()).any(|here| here == form), "{what} has the password");
    }
}

/// All that the service has written, and all that can be seen of its processes.
#[track_caller]
fn nothing_shows_it(daemon: &Daemon) {
    for file in Daemon::files_below(daemon.state(), |name| !name.ends_with(".sock")) {
        is_clean(&file.display().to_string(), &fs::read(&file).unwrap_or_default());
    }
    is_clean("what the service prints", &fs::read(daemon.log_path()).unwrap());
    for (pid, _) in daemon.processes() {
        for name in ["environ", "cmdline"] {
            is_clean(
                &format!("{name} of {pid}"),
                &fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default(),
            );
        }
    }
}

fn cores(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("core"))
        .collect()
}

#[test]
fn the_password_is_nowhere_while_a_job_runs_nor_in_what_is_left_of_its_worker() {
    let mut daemon = prepared("");
    let content = disks::disk(daemon.scratch(), "system", "raw", 16, 16, 1);
    let machine = json!({ "name": "web", "disks": [disk(&content)] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    store(&daemon, &vcenter, PASSWORD);
    // Looking through everything takes a while.
    vcenter.throttle(MIB / 4);
    daemon.start();
    // As a machine may be set up on which every program leaves a core.
    text_of(Command::new("prlimit").args([&format!("--pid={}", daemon.pid()), "--core=unlimited:unlimited"]));
    daemon.drop_file(
        "web.yaml",
        format!(
            "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: web}}\n",
            vcenter.port()
        ),
    );
    wait_for("bytes to come", || (vcenter.sent_of("-flat") > MIB).then_some(()));
    nothing_shows_it(&daemon);
    let processes = daemon.processes();
    let worker = processes.iter().find(|(_, command)| command.contains(" worker ")).unwrap().0;
    let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // At this size the kernel makes none, neither as a file nor for a program that collects them.
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"], "{core}");
    let place = fs::read_link(format!("/proc/{worker}/cwd")).unwrap();
    let before = cores(&place);
    kill_process(Pid::from_raw(i32::try_from(worker).unwrap()).unwrap(), Signal::ABORT).unwrap();
    wait_for("its end", || (!fs::exists(format!("/proc/{worker}")).unwrap()).then_some(()));
    assert_eq!(cores(&place), before);
    vcenter.throttle(0);
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    assert_eq!(progress["vms"]["web"]["attempt"], 2, "{progress}");
    nothing_shows_it(&daemon);
}

#[test]
fn a_password_that_is_refused_is_not_told_with_the_refusal() {
    let mut daemon = prepared("");
    let vcenter =
        Vcenter::start(Options::vcenter().with("password", "another one").machine(json!({ "name": "web" })));
    store(&daemon, &vcenter, PASSWORD);
    daemon.start();
    daemon.drop_file(
        "web.yaml",
        format!(
            "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: web}}\n",
            vcenter.port()
        ),
    );
    wait_for("the job to wait for its login", || {
        (daemon.client(&["list"])["jobs"][0]["waiting_reason"] == "auth").then_some(())
    });
    nothing_shows_it(&daemon);
    daemon.client(&["cancel", "web"]);
    daemon.wait_settled("failed", "web.yaml");
    nothing_shows_it(&daemon);
}
