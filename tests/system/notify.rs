//! What the service manager hears: the notifications on a real datagram socket, the log on stderr.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use hyper2kvm::service::watchdog;

/// Set in the process that notifies; the protocol takes its socket from the environment.
const INSIDE: &str = "HYPER2KVM_TEST_NOTIFIES";

/// Runs this test again with `variables` set and without a service manager of the machine's own.
#[track_caller]
fn again(variables: &[(&str, &str)]) {
    let test = std::thread::current().name().expect("the harness names test threads").to_owned();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .env(INSIDE, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", super::root::said(&done));
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Every datagram that `again` caused.
#[track_caller]
fn heard(variables: &[(&str, &str)]) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut all = vec![("NOTIFY_SOCKET", path.to_str().unwrap())];
    all.extend(variables);
    again(&all);
    let mut datagrams = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        datagrams.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    datagrams
}

#[test]
fn the_service_manager_hears_each_step_in_its_own_words() {
    if is_inside() {
        watchdog::ready("idle");
        watchdog::status("2 run, 29 queued\nREADY=1");
        watchdog::ping();
        watchdog::reloading();
        watchdog::reloaded("configuration read");
        watchdog::extend_timeout(Duration::from_secs(90));
        watchdog::stopping("checkpointing");
        assert!(watchdog::is_supervised());
        return;
    }
    let mut told = heard(&[]);
    let reloading = told.remove(3);
    assert_eq!(
        told,
        [
            "READY=1\nSTATUS=idle\n",
            // A line break cannot smuggle in another assignment.
            "STATUS=2 run, 29 queued READY=1\n",
            "WATCHDOG=1\n",
            "READY=1\nSTATUS=configuration read\n",
            "EXTEND_TIMEOUT_USEC=90000000\n",
            "STOPPING=1\nSTATUS=checkpointing\n",
        ]
    );
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both lines in one datagram");
    assert!(time.trim_end().parse::<u64>().unwrap() > 0);
}

#[test]
fn the_watchdog_is_fed_at_half_of_what_is_allowed() {
    if is_inside() {
        assert_eq!(watchdog::watchdog_interval(), Some(Duration::from_secs(15)));
        return;
    }
    heard(&[("WATCHDOG_USEC", "30000000")]);
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_not_fed() {
    if is_inside() {
        assert_eq!(watchdog::watchdog_interval(), None);
        return;
    }
    heard(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")]);
}

#[test]
fn without_a_service_manager_nothing_happens() {
    if is_inside() {
        watchdog::ready("idle");
        watchdog::ping();
        watchdog::reloading();
        assert!(!watchdog::is_supervised());
        assert_eq!(watchdog::watchdog_interval(), None);
        return;
    }
    again(&[]);
}

#[test]
fn a_service_manager_that_went_away_does_no_harm() {
    if is_inside() {
        watchdog::ready("idle");
        return;
    }
    again(&[("NOTIFY_SOCKET", "/nonexistent/notify")]);
}
