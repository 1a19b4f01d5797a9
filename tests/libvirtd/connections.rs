//! Connections that are kept: many callers, a libvirtd that is killed, and one that hangs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use hyper2kvm::libvirt::connections::{Connections, Limits};
use hyper2kvm::libvirt::domains::{self, Listed};
use hyper2kvm::libvirt::link::{Access, Link};
use hyper2kvm::model::error::{Disposition, Error, Kind, Result};
use hyper2kvm::model::progress::LibvirtState;
use hyper2kvm::model::retry::RetryPolicy;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::libvirtd::Libvirtd;
use crate::support::{Daemon, wait_for, within};

/// What comes in time on a loaded machine.
const SOON: Duration = Duration::from_secs(120);
/// What is given up soon.
const SHORT: Duration = Duration::from_secs(2);
/// No caller that is told at once waits for so long.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Limits that try again until a libvirtd on a loaded machine is back.
fn patient() -> Limits {
    let retry = RetryPolicy { attempts: 1000, base_delay_s: 0.1, max_delay_s: 0.5, jitter: 0.25 };
    Limits { retry, ..Limits::default() }
}

fn list(connections: &Connections, uri: &str, within: Duration) -> Result<Vec<Listed>> {
    connections.with(uri, Access::Reads, within, domains::list)
}

/// The kind and disposition of a libvirt that may come back.
fn is_away(error: &Error) -> bool {
    error.kind() == Kind::Libvirt
        && error.disposition() == Disposition::Transient
        && error.details().advice.is_some()
}

/// How many clients libvirtd has, as it counts them itself.
fn clients(libvirtd: &Libvirtd) -> usize {
    let told = libvirtd.sh("virt-admin client-list libvirtd");
    told.lines().filter(|line| line.contains("unix")).count()
}

#[test]
fn many_threads_share_few_connections_which_are_closed_when_nobody_needs_them() {
    let libvirtd = Libvirtd::start();
    let connections = Connections::new(Limits { idle: Duration::from_secs(3), ..Limits::default() });
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(list(&connections, &libvirtd.uri(), SOON).unwrap(), []);
                }
            });
        }
    });
    let told = connections.statistics(&libvirtd.uri());
    assert!((1..=5).contains(&told.opened), "{told:?}");
    assert_eq!((told.opened + told.reused, told.errors, told.timed_out), (640, 0, 0), "{told:?}");
    assert!(clients(&libvirtd) <= 5);
    wait_for("idle connections are closed", || (clients(&libvirtd) == 0).then_some(()));
    let seats = || (connections.statistics(&libvirtd.uri()).open_now == 0).then_some(());
    wait_for("their seats are free", seats);
    // What is gone because nobody needed it did not break.
    list(&connections, &libvirtd.uri(), SOON).unwrap();
    let told = connections.statistics(&libvirtd.uri());
    assert_eq!((told.reconnected, told.errors), (0, 0), "{told:?}");
}

#[test]
fn a_connection_that_is_old_is_replaced_by_another() {
    let libvirtd = Libvirtd::start();
    let limits = Limits { lifetime: Duration::from_millis(100), ..Limits::default() };
    let connections = Connections::new(limits);
    list(&connections, &libvirtd.uri(), SOON).unwrap();
    thread::sleep(Duration::from_millis(200));
    list(&connections, &libvirtd.uri(), SOON).unwrap();
    let told = connections.statistics(&libvirtd.uri());
    assert_eq!((told.opened, told.reused, told.reconnected, told.open_now), (2, 0, 0, 1), "{told:?}");
}

#[test]
fn a_libvirtd_that_is_killed_between_and_during_calls_is_connected_to_again() {
    let libvirtd = Libvirtd::start();
    let connections = Connections::new(patient());
    list(&connections, &libvirtd.uri(), SOON).unwrap();
    for round in 1..=2 {
        libvirtd.kill();
        list(&connections, &libvirtd.uri(), SOON).unwrap();
        let told = connections.statistics(&libvirtd.uri());
        assert!(told.reconnected == round && told.errors >= round, "{told:?}");
    }
    let (began, begun) = std::sync::mpsc::channel();
    let error = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let ask_on = move |link: &Link| -> Result<()> {
                loop {
                    domains::list(link)?;
                    let _ = began.send(());
                }
            };
            connections.with(&libvirtd.uri(), Access::Reads, SOON, ask_on).unwrap_err()
        });
        begun.recv().unwrap();
        libvirtd.kill();
        asking.join().unwrap()
    });
    assert!(is_away(&error), "{error}");
    list(&connections, &libvirtd.uri(), SOON).unwrap();
    let told = connections.statistics(&libvirtd.uri());
    assert_eq!((told.reconnected, told.timed_out, told.open_now), (3, 0, 1), "{told:?}");
    assert_eq!(connections.health(&libvirtd.uri()).state, LibvirtState::Answers);
}

#[test]
fn a_libvirtd_that_stays_away_is_told_within_the_time_of_who_waits() {
    let libvirtd = Libvirtd::start();
    let connections = Connections::new(patient());
    list(&connections, &libvirtd.uri(), SOON).unwrap();
    libvirtd.hold(true);
    libvirtd.kill();
    let asked = Instant::now();
    let error = list(&connections, &libvirtd.uri(), SHORT).unwrap_err();
    assert!(is_away(&error) && error.details().cause.contains("cannot connect"), "{error}");
    assert!(asked.elapsed() < SHORT + AT_ONCE);
    assert_eq!(connections.health(&libvirtd.uri()).state, LibvirtState::Silent);
    libvirtd.hold(false);
    list(&connections, &libvirtd.uri(), SOON).unwrap();
}

#[test]
fn a_libvirtd_that_hangs_costs_its_callers_their_time_and_at_most_so_many_threads() {
    let libvirtd = Libvirtd::start();
    let connections = Connections::new(Limits::default());
    list(&connections, &libvirtd.uri(), SOON).unwrap();
    libvirtd.signal(Signal::STOP);
    for hanging in 1..=3 {
        let asked = Instant::now();
        let error = list(&connections, &libvirtd.uri(), SHORT).unwrap_err();
        assert!(is_away(&error) && error.details().cause.contains("did not answer"), "{error}");
        assert!(asked.elapsed() >= SHORT && asked.elapsed() < SHORT * 3, "{:?}", asked.elapsed());
        assert_eq!(connections.statistics(&libvirtd.uri()).hanging, hanging);
    }
    let asked = Instant::now();
    let error = list(&connections, &libvirtd.uri(), SOON).unwrap_err();
    assert!(is_away(&error) && error.details().cause.contains("does not answer"), "{error}");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    let told = connections.statistics(&libvirtd.uri());
    assert_eq!((told.timed_out, told.open_now, told.hanging), (3, 3, 3), "{told:?}");
    libvirtd.signal(Signal::CONT);
    wait_for("the calls come back", || list(&connections, &libvirtd.uri(), SOON).ok());
    wait_for("their seats are free", || (connections.statistics(&libvirtd.uri()).hanging == 0).then_some(()));
    list(&connections, &libvirtd.uri(), SOON).unwrap();
}

#[test]
fn a_task_that_waits_for_a_libvirtd_that_hangs_holds_up_no_other() {
    let libvirtd = Libvirtd::start();
    let connections = Connections::new(Limits::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    libvirtd.signal(Signal::STOP);
    let (error, ticks) = runtime.block_on(async {
        let uri = libvirtd.uri();
        let mut asked = Box::pin(connections.with_async(&uri, Access::Reads, SHORT, domains::list));
        let mut ticks = 0;
        loop {
            tokio::select! {
                told = &mut asked => break (told.unwrap_err(), ticks),
                () = tokio::time::sleep(Duration::from_millis(20)) => ticks += 1,
            }
        }
    });
    assert!(is_away(&error), "{error}");
    assert!(ticks > 10, "the runtime's only thread went on: {ticks}");
    libvirtd.signal(Signal::CONT);
}

/// `timeout_s`: how long a libvirt may take to answer.
fn configure(config: &Path, libvirtd: &Libvirtd, timeout_s: u32) {
    let text = format!("libvirt: {{uri: \"{}\", timeout_s: {timeout_s}}}\n", libvirtd.uri());
    fs::write(config, text).unwrap();
}

fn refused(mut command: Command, code: i32) -> String {
    let output: Output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(output.stdout.is_empty(), "{output:?}");
    told
}

#[test]
fn a_command_tells_that_libvirtd_hangs_or_is_gone_and_what_to_do() {
    let libvirtd = Libvirtd::start();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("hyper2kvm.yaml");
    configure(&config, &libvirtd, 60);
    let command = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command.arg("--config").arg(&config).args(words);
        command
    };
    assert!(command(&["libvirt", "list"]).output().unwrap().status.success(), "the configured one is asked");
    configure(&config, &libvirtd, 2);
    libvirtd.signal(Signal::STOP);
    let told = refused(command(&["libvirt", "list"]), 1);
    assert!(told.contains("did not answer for 2 s; see what keeps libvirtd"), "{told}");
    let told: Value = serde_json::from_str(&refused(command(&["--json", "libvirt", "list"]), 1)).unwrap();
    assert_eq!(told["exit_code"], 1);
    libvirtd.hold(true);
    libvirtd.kill();
    let asked = Instant::now();
    let told = refused(command(&["libvirt", "list"]), 1);
    assert!(told.contains("cannot connect to qemu+unix") && told.contains("hyper2kvm doctor"), "{told}");
    assert!(asked.elapsed() < SOON / 4, "nobody is waited for: {:?}", asked.elapsed());
    for uri in
        ["qemu+ext:///system?command=/bin/x", "qemu+tcp://host/system", "lxc:///", "qemu+ssh://-oX/system"]
    {
        let told = refused(command(&["libvirt", "--uri", uri, "list"]), 2);
        assert!(told.contains("is no URI of a libvirt that is supported"), "{told}");
    }
}

#[test]
fn doctor_tells_the_configured_libvirt_and_whether_it_answers() {
    let libvirtd = Libvirtd::start();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("hyper2kvm.yaml");
    configure(&config, &libvirtd, 60);
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        let output = command.arg("--config").arg(&config).args(["doctor", "--json"]).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = told["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "libvirt").unwrap().clone()
    };
    let found = check();
    assert_eq!(found["status"], "ok", "{found}");
    assert!(found["version"].as_str().unwrap().contains('.'), "{found}");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.starts_with("QEMU at qemu+unix:///system") && detail.ends_with(" ms"), "{found}");
    configure(&config, &libvirtd, 2);
    libvirtd.signal(Signal::STOP);
    let found = check();
    assert_eq!(found["status"], "broken", "{found}");
    assert!(found["detail"].as_str().unwrap().contains("did not answer for 2 s"), "{found}");
    libvirtd.hold(true);
    libvirtd.kill();
    assert_eq!(check()["status"], "missing");
}

#[test]
fn doctor_tells_what_libvirt_lacks_for_machines_with_a_tpm() {
    let libvirtd = Libvirtd::start();
    // What is not there, here or there, need not be hidden.
    let hide = |programs: &str| {
        libvirtd.sh(&format!(
            "for program in {programs}; do [ ! -e /usr/bin/$program ] || mount --bind /dev/null /usr/bin/$program; done"
        ));
    };
    let check = || {
        let output = libvirtd.hyper2kvm().args(["doctor", "--json"]).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = told["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "swtpm").unwrap().clone()
    };
    hide("swtpm_setup");
    let found = check();
    assert_eq!(found["status"], "degraded", "{found}");
    assert!(found["detail"].as_str().unwrap().contains("without swtpm_setup"), "{found}");
    assert!(found["advice"].as_str().unwrap().contains("swtpm-tools"), "{found}");
    hide("swtpm");
    assert_eq!(check()["status"], "missing");
}

#[test]
fn the_service_tells_how_libvirt_stands_and_a_libvirtd_that_hangs_costs_it_nothing() {
    let libvirtd = Libvirtd::start();
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("libvirt: {{uri: \"{}\", timeout_s: 2}}\n", libvirtd.uri()));
    daemon.start();
    let status = || -> Value {
        let asked = Instant::now();
        let told = daemon.client(&["status"]);
        assert!(asked.elapsed() < SOON / 4, "{:?}", asked.elapsed());
        told["libvirt"].clone()
    };
    libvirtd.signal(Signal::STOP);
    let told = status();
    assert!(told["state"] == "not_asked" || told["state"] == "silent", "{told}");
    let silent = within(SOON, || Some(status()).filter(|told| told["state"] == "silent"));
    assert!(silent.is_some(), "{}", status());
    libvirtd.signal(Signal::CONT);
    let answers = wait_for("it answers", || Some(status()).filter(|told| told["state"] == "answers"));
    assert!(answers["detail"].as_str().unwrap().starts_with("QEMU "), "{answers}");
    assert!(answers["since"].as_f64().unwrap() > 0.0, "{answers}");
    assert_eq!(answers["uri"], libvirtd.uri());
}
