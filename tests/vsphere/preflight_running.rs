//! Guests of sources that are to be shut down, looked into while they still run: what cannot be converted is told and nobody misses it, and no snapshot is
//! left of the look.

use serde_json::{Value, json};

use crate::preflight::{A_LOOK, ASLEEP, Scene, lock, report, text};
use crate::support::Daemon;

const ALLOWED: &str = "sources: {allow_shutdown: true}\n";
const FULL: &str = "preflight: full";

/// A machine that runs, and is to be shut down.
fn scene(change: impl FnOnce(&mut [u8], &mut [u8])) -> Scene {
    let machine = json!({ "on": true, "shutdown_ms": 100 });
    Scene::with(ALLOWED, &machine, ", power: shutdown", change)
}

/// When it was called, of all requests.
fn calls(scene: &Scene, call: &str) -> Vec<usize> {
    let requests = scene.vcenter.requests().into_iter().enumerate();
    requests.filter(|(_, request)| request.call == call).map(|(number, _)| number).collect()
}

#[track_caller]
fn is_as_it_was(scene: &Scene, power: &str) {
    let now = scene.vcenter.look("web");
    assert_eq!(now["power"], power, "{now}");
    assert_eq!(calls(scene, "CreateSnapshot_Task").len(), calls(scene, "RemoveSnapshot_Task").len());
    let left = Daemon::files_below(&scene.vcenter.datastore("ds1"), |name| name.contains("-00000"));
    assert!(left.is_empty(), "{left:?}");
}

fn look_of<'r>(report: &'r Value, name: &str) -> &'r Value {
    let load = &report["pipeline"]["stages"]["load"];
    if load[name].is_null() { &load["result"][name] } else { &load[name] }
}

#[test]
fn what_cannot_be_converted_is_told_while_it_runs_and_it_runs_on() {
    let scene = scene(|swap, data| {
        // What an earlier sleep has left says nothing of one that is awake.
        swap[4086..4096].copy_from_slice(ASLEEP);
        lock(data);
    });
    let done = scene.convert("preflight: {level: full, rules: {guest.bitlocker: error}}", &[], None);
    let told = text(&done.stdout) + &text(&done.stderr);
    assert!(!done.status.success() && told.contains("encrypted with BitLocker"), "{told}");
    assert!(!told.contains("the guest sleeps"), "{told}");
    assert!(calls(&scene, "ShutdownGuest").is_empty() && calls(&scene, "PowerOffVM_Task").is_empty());
    assert_eq!(calls(&scene, "CreateSnapshot_Task").len(), 1);
    is_as_it_was(&scene, "poweredOn");
    let sent = scene.sent();
    assert!(sent > 0 && sent < A_LOOK, "{sent} bytes for a look: {told}");
    let results = Daemon::files_below(&scene.out(), |name| name.contains("disk-"));
    assert!(results.is_empty(), "a copy had begun: {results:?}");
    scene.assert_untouched();
}

#[test]
fn a_sound_one_is_shut_down_after_the_look_and_looked_into_once_more_when_it_is_off() {
    let scene = scene(|_, _| {});
    let done = scene.convert(FULL, &[], None);
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    let [made, removed, shut] =
        ["CreateSnapshot_Task", "RemoveSnapshot_Task", "ShutdownGuest"].map(|call| calls(&scene, call));
    assert!(made.len() == 1 && removed.len() == 1 && shut.len() == 1, "{made:?} {removed:?} {shut:?}");
    assert!(made < removed && removed < shut, "{made:?} {removed:?} {shut:?}");
    is_as_it_was(&scene, "poweredOff");
    let report = report(&scene.out());
    for name in ["look_before_shutdown", "look"] {
        let read = look_of(&report, name)["bytes_read"].as_u64();
        assert!(read.is_some_and(|read| read > 0 && read < A_LOOK), "{name}: {report}");
    }
    let acts: Vec<(&Value, &Value)> =
        report["acts"].as_array().unwrap().iter().map(|act| (&act["act"], &act["state"])).collect();
    let wanted = [("snapshot", "undone"), ("shut_down", "done")];
    assert!(
        acts.iter().zip(wanted).all(|((act, state), wanted)| (**act == wanted.0) && (**state == wanted.1)),
        "{acts:?}"
    );
}

#[test]
fn where_there_is_no_room_for_a_snapshot_it_is_looked_into_when_it_is_off() {
    let scene = scene(|_, _| {});
    scene.vcenter.free("ds1", 5);
    let strict = scene.convert("preflight: {level: full, rules: {guest.not_opened: error}}", &[], None);
    let told = text(&strict.stdout) + &text(&strict.stderr);
    assert!(!strict.status.success() && told.contains("are free on the datastore ds1"), "{told}");
    is_as_it_was(&scene, "poweredOn");
    assert!(calls(&scene, "CreateSnapshot_Task").is_empty() && calls(&scene, "ShutdownGuest").is_empty());
    let done = scene.convert(FULL, &[], None);
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    is_as_it_was(&scene, "poweredOff");
    assert!(look_of(&report(&scene.out()), "look")["bytes_read"].is_u64());
}

#[test]
fn an_account_that_may_not_make_and_remove_snapshots_has_it_looked_into_when_it_is_off() {
    let scene = scene(|_, _| {});
    // One that could be made, and would stay.
    scene.vcenter.lacks(&["VirtualMachine.State.RemoveSnapshot"]);
    let done = scene.convert(FULL, &[], None);
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    assert!(calls(&scene, "CreateSnapshot_Task").is_empty());
    is_as_it_was(&scene, "poweredOff");
    let report = report(&scene.out());
    assert!(look_of(&report, "look")["bytes_read"].is_u64(), "{report}");
    assert!(look_of(&report, "look_before_shutdown").is_null(), "{report}");
}

#[test]
#[cfg(feature = "failpoints")]
fn whoever_dies_over_the_look_leaves_a_snapshot_that_the_next_one_goes_on_with_or_removes() {
    for goes_off in [false, true] {
        let scene = scene(|_, _| {});
        let cut = scene.convert(FULL, &[], Some("acts.done"));
        assert!(!cut.status.success() && text(&cut.stderr).contains("SIGKILL"), "{}", text(&cut.stderr));
        assert_eq!(calls(&scene, "CreateSnapshot_Task").len(), 1);
        if goes_off {
            // Somebody else shuts it down: what lies below the snapshot is not all of its disks.
            scene.vcenter.guest_writes("web", 2, 0, b"written behind the snapshot");
            scene.vcenter.power(&json!({ "vm": "web", "on": false }));
        }
        let done = scene.convert(FULL, &["--resume"], None);
        assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
        assert_eq!(calls(&scene, "CreateSnapshot_Task").len(), 1);
        assert_eq!(calls(&scene, "ShutdownGuest").len(), usize::from(!goes_off));
        is_as_it_was(&scene, "poweredOff");
        let result = std::fs::read(scene.out().join("disk-2.qcow2")).unwrap();
        let written = result.windows(27).any(|bytes| bytes == b"written behind the snapshot");
        assert_eq!(written, goes_off);
    }
}
