//! A private network for one test: the test starts itself again inside a fresh namespace.
//!
//! Everything in there (links, routes, addresses) vanishes with the process, so nothing can be left
//! behind. Without root the namespace belongs to a user namespace, which is enough for all of it.

use std::process::Command;

use super::root::{is_root, text_of};

/// Set in the process that is inside.
const INSIDE: &str = "HYPER2KVM_TEST_INSIDE_NETNS";

/// Runs `body` in a network namespace that has nothing but a loopback. To be called first thing by a test.
#[track_caller]
pub fn in_private_network(body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    let test = std::thread::current().name().expect("the harness names test threads").to_owned();
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !is_root() {
        command.arg("--map-root-user");
    }
    // Were the test to die, what it started inside dies with it.
    command
        .args(["--fork", "--pid", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let done = command.output().expect("unshare is part of util-linux");
    let said = super::root::said(&done);
    assert!(done.status.success(), "inside: {}\n{said}", done.status);
    assert!(said.contains("1 passed"), "the test did not run inside:\n{said}");
}

/// `ip …`, as in a shell.
#[track_caller]
pub fn ip(line: &str) -> String {
    text_of(Command::new("ip").args(line.split_whitespace()))
}

/// A cable: `name` has its other end at `<name>-far`, both switched on.
#[track_caller]
pub fn cable(name: &str) {
    ip(&format!("link add {name} type veth peer name {name}-far"));
    ip(&format!("link set {name}-far up"));
    ip(&format!("link set {name} up"));
}

/// Pulls the cable out: `name` loses its carrier.
#[track_caller]
pub fn unplug(name: &str) {
    ip(&format!("link set {name}-far down"));
}

/// Plugs it in again.
#[track_caller]
pub fn plug(name: &str) {
    ip(&format!("link set {name}-far up"));
}
