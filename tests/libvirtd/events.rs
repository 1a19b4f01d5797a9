//! Events as they happen, until the stream ends.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hyper2kvm::libvirt::events::{Events, Happened, Next};
use hyper2kvm::model::error::{Disposition, Error, Kind};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::libvirtd::Libvirtd;
use crate::support::wait_for;

const SOON: Duration = Duration::from_secs(120);

const WEB: &str = "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web</name><uuid>564d1c2a-0000-1111-2222-333344445555</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>
end
";

fn next(events: &Events) -> (String, &'static str, &'static str) {
    match events.next_within(SOON) {
        // A QEMU that is killed may still get to say that it goes down.
        Next::Event(event) if event.event == Happened::Shutdown => next(events),
        Next::Event(event) => {
            assert_eq!(event.uuid, "564d1c2a-0000-1111-2222-333344445555");
            (event.domain, event.event.name(), event.detail)
        }
        other => panic!("{other:?}"),
    }
}

fn ended(events: &Events) -> Error {
    match events.next_within(SOON) {
        Next::Ended(Some(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machines_life_is_told_in_order_and_the_stream_ends_with_libvirtd() {
    let libvirtd = Libvirtd::start();
    let events = Events::open(&libvirtd.uri(), SOON).unwrap();
    let other = Events::open(&libvirtd.uri(), SOON).unwrap();
    libvirtd.sh(WEB);
    libvirtd.sh("virsh -q start web; virsh -q suspend web; virsh -q resume web; virsh -q destroy web; virsh -q undefine web");
    for (happened, detail) in [
        ("defined", "added"),
        // QEMU begins standing still.
        ("resumed", "unpaused"),
        ("started", "booted"),
        ("suspended", "paused"),
        ("resumed", "unpaused"),
        ("stopped", "destroyed"),
        ("undefined", "removed"),
    ] {
        assert_eq!(next(&events), ("web".to_owned(), happened, detail));
    }
    assert_eq!(events.next_within(Duration::ZERO), Next::Nothing);
    // One that goes out of scope takes nothing from the others.
    drop(other);
    libvirtd.sh(WEB);
    assert_eq!(next(&events), ("web".to_owned(), "defined", "added"));
    libvirtd.kill();
    let error = ended(&events);
    assert_eq!((error.kind(), error.disposition()), (Kind::Libvirt, Disposition::Transient));
    assert!(error.details().cause.contains("is gone: libvirt ended it"), "{error}");
    assert!(matches!(events.next_within(SOON), Next::Ended(Some(_))), "it stays ended");
}

#[test]
fn a_stream_ends_when_libvirtd_gives_no_sign_of_life_and_can_be_dropped_meanwhile() {
    let libvirtd = Libvirtd::start();
    let (events, other) =
        (Events::open(&libvirtd.uri(), SOON).unwrap(), Events::open(&libvirtd.uri(), SOON).unwrap());
    libvirtd.signal(Signal::STOP);
    let dropped = Instant::now();
    drop(other);
    assert!(dropped.elapsed() < Duration::from_secs(5), "{:?}", dropped.elapsed());
    let error = ended(&events);
    assert!(error.details().cause.contains("no sign of life"), "{error}");
    let asked = Instant::now();
    let error = Events::open(&libvirtd.uri(), Duration::from_secs(1)).unwrap_err();
    assert!(error.details().cause.contains("did not answer"), "{error}");
    assert!(asked.elapsed() < SOON / 4);
}

/// Waits until a command has said that it follows.
fn follows(command: &mut std::process::Child) {
    let mut said = [0; 9];
    std::io::Read::read_exact(command.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"following");
}

#[test]
fn the_command_prints_a_line_for_each_event_until_it_has_enough_or_is_interrupted() {
    let libvirtd = Libvirtd::start();
    let follow = |words: &[&str]| {
        let mut command = libvirtd.hyper2kvm();
        command.args(["libvirt", "events"]).args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut following = follow(&["--json", "--count", "3"]);
    wait_for("three events", || {
        libvirtd.sh(WEB);
        libvirtd.sh("virsh -q undefine web");
        thread::sleep(Duration::from_millis(200));
        following.try_wait().unwrap()
    });
    let output = following.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines.iter().all(|line| line["domain"] == "web" && line["at"].as_f64().unwrap() > 0.0),
        "{lines:?}"
    );

    let output = follow(&["--for", "1s"]).wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");

    let mut until_killed = follow(&["--for", "1h"]);
    follows(&mut until_killed);
    libvirtd.kill();
    let output = until_killed.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is gone"), "{output:?}");
    libvirtd.await_up();

    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.args(["libvirt", "--uri", &libvirtd.uri(), "events"]).stderr(Stdio::piped());
    let mut interrupted = command.spawn().unwrap();
    follows(&mut interrupted);
    let pid = rustix::process::Pid::from_raw(i32::try_from(interrupted.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(interrupted.wait().unwrap().code(), Some(130));
}
