//! A guest that is grown, readdressed and set up in one conversion, and tells on its console what became of that.
//!
//! It runs on a network of the test's own, whose gateway is the guest's: what the guest sends there during the boot test would be in the
//! capture. What is not here: the repairs (see `repaired`).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::guests::{Guest, told};
use crate::support::{disks, within};

/// What is asked for. The script ends the boot test, so it tells all that there is to tell.
const ASKED: &str = r#"
vm: {cpu: 1, mem_mb: 1024, firmware: uefi}
nics:
  - mac: "00:50:56:aa:bb:02"
    addresses: [192.0.2.77/24, "2001:db8::77/64"]
    gateway: 192.0.2.1
    dns: [192.0.2.54]
pipeline:
  boot_test: {expect: H2K-SET-UP-END, timeout_s: 600}
configuration:
  hostname: {hostname: moved, domain: example.com, hosts: {192.0.2.20: db.example.com db}}
  users:
    users:
      - name: ops
        password_hash: "$6$hyper2kvmexample$fx6VQp0EPBrk7FJhfPjyqFQ9.D4hkZIM/YRjLSrAu9RsqQCyuVDEyvMnPZDDC5O1kVA.j1nZdaqrT8VESNoGt/"
        ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ops@example.com"]
        groups: [adm]
  services: {disable: [e2scrub_reap], mask: [apt-daily.timer]}
  firstboot:
    scripts:
      - name: first
        content: |
          #!/bin/sh
          echo first > /var/lib/set-up-order
      - name: tell
        content: |
          #!/bin/bash
          line() { printf '\r\nH2K-%s\r\n' "$*" >/dev/ttyS0; }
          line "NAMES $(hostname) $(hostname -f) $(getent hosts db)"
          line "ROOT-MIB $(($(stat -f -c '%b * %S' /) / 1048576))"
          line "OPS $(id -u ops) $(id -nG ops) $(stat -c '%U:%a' /home/ops/.ssh/authorized_keys) $(passwd -S ops | cut -d' ' -f2)"
          line "SERVICES $(systemctl is-enabled apt-daily.timer) $(systemctl is-enabled e2scrub_reap)"
          line "BEFORE $(cat /var/lib/set-up-order)"
          line "NETWORK $(ip -o addr show dev ens192 scope global | awk '{print $4}' | sort | xargs)"
          line "ROUTE $(ip route show default | cut -d' ' -f3) $(grep -h ^DNS= /etc/systemd/network/*.network | sort -u | xargs)"
          echo hello >/dev/udp/192.0.2.1/9
          sleep 2
          case $(ip neigh show 192.0.2.1) in *INCOMPLETE* | *FAILED*) line "ASKED and nobody answers" ;; esac
          line "RECEIVED $(cat /sys/class/net/ens192/statistics/rx_packets)"
          line "SET-UP-END"
"#;
const GROWN_MIB: u64 = 3072;
/// Of XFS: its log and its own structures are not counted as room.
const ROOT_AT_LEAST_MIB: u64 = 2400;

/// Grown, set up and readdressed, it comes up as asked, and nothing that it sends while it is tried leaves it.
#[track_caller]
pub fn is_set_up(name: &str) {
    let guest = Guest::build(name);
    let source = &guest.disks[0];
    let before = disks::sha256(source);
    let scratch =
        tempfile::Builder::new().prefix("h2k-set-up-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let first = convert(scratch.path(), "first", source, "vmdk", &[]);
    assert_eq!(disks::sha256(source), before, "the source was written to");
    let tried = &first.report["pipeline"]["stages"]["boot_test"]["result"];
    assert_eq!(tried["verdict"], "booted");
    assert_set_up(tried["console_tail"].as_str().unwrap());
    let mac = guest.fact("/nics/0/mac");
    let capture = &first.capture;
    assert!(capture.contains("192.0.2.99"), "the capture misses what was sent to be captured:\n{capture}");
    for trace in [mac, "192.0.2.77", "2001:db8::77"] {
        assert!(!capture.contains(trace), "{trace} has left the guest:\n{capture}");
    }

    let second = convert(scratch.path(), "second", &first.disk, "qcow2", &["--no-boot-test"]);
    assert_eq!(second.report["fixes"], serde_json::json!([]), "what was set up is set up again");
    assert_eq!(disks::content_sha256(&first.disk, "qcow2"), disks::content_sha256(&second.disk, "qcow2"));
}

#[track_caller]
fn assert_set_up(console: &str) {
    let said: Vec<&str> = console.lines().filter_map(|line| line.trim().strip_prefix("H2K-")).collect();
    for line in [
        "NAMES moved moved.example.com 192.0.2.20 db.example.com db",
        "OPS 1000 ops adm ops:600 P",
        "SERVICES masked disabled",
        "BEFORE first",
        "NETWORK 192.0.2.77/24 2001:db8::77/64",
        "ROUTE 192.0.2.1 DNS=192.0.2.54",
        "ASKED and nobody answers",
        "RECEIVED 0",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_said = said.iter().any(|said| said.split_whitespace().eq(words.iter().copied()));
        assert!(is_said, "not said: {line}\n{said:#?}");
    }
    let room = said.iter().find_map(|line| line.strip_prefix("ROOT-MIB ")).and_then(|mib| mib.parse().ok());
    assert!(room.is_some_and(|mib: u64| mib > ROOT_AT_LEAST_MIB), "the root was not grown: {room:?} MiB");
}

struct Converted {
    report: Value,
    disk: PathBuf,
    capture: String,
}

/// One conversion, on a network of its own, with all that passes there written down.
#[track_caller]
fn convert(scratch: &Path, name: &str, disk: &Path, format: &str, options: &[&str]) -> Converted {
    let manifest = scratch.join(format!("{name}.yaml"));
    let disk = disk.display();
    let head = format!(
        "manifest_version: \"1.0\"\nname: {name}\ndisks: [{{id: disk0, source_format: {format}, local_path: {disk}, resize: {GROWN_MIB}MiB}}]\n"
    );
    std::fs::write(&manifest, head + ASKED).unwrap();
    let network = Network::start(&scratch.join(format!("{name}.capture")));
    let results = scratch.join(name);
    let mut command = network.inside(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.args(["convert", "--json", "-v", "-o"]).arg(&results).args(options).arg(&manifest);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    network.send_something();
    Converted {
        report: serde_json::from_slice(&output.stdout).unwrap(),
        disk: results.join("disk0.qcow2"),
        capture: network.end(),
    }
}

/// A network namespace with one link that is up and has the address of the guest's gateway, and who writes down what passes.
struct Network {
    holder: Child,
    captured: PathBuf,
}

impl Network {
    #[track_caller]
    fn start(captured: &Path) -> Network {
        let script = "ip link set lo up && ip link add lan0 type veth peer name far && ip link set far up && \
             ip addr add 192.0.2.1/24 dev lan0 && ip link set lan0 up && exec tcpdump -Z root -i any -e -n -l";
        let mut unshare = Command::new("unshare");
        unshare.arg("--net");
        if !rustix::process::geteuid().is_root() {
            unshare.arg("--map-root-user");
        }
        unshare.args(["--", "sh", "-c", script]).stdin(Stdio::null());
        unshare.stdout(std::fs::File::create(captured).unwrap());
        unshare.stderr(std::fs::File::create(captured.with_extension("said")).unwrap());
        let network = Network { holder: unshare.spawn().unwrap(), captured: captured.to_owned() };
        let listens = within(Duration::from_secs(60), || {
            let said = std::fs::read_to_string(captured.with_extension("said")).unwrap_or_default();
            said.contains("listening on").then_some(())
        });
        assert!(
            listens.is_some(),
            "tcpdump does not listen: {:?}",
            std::fs::read(captured.with_extension("said"))
        );
        network
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// So that a capture without a trace of the guest is one that would have had it.
    #[track_caller]
    fn send_something(&self) {
        let mut send = self.inside("bash");
        send.args(["-c", "echo hello >/dev/udp/192.0.2.99/9"]);
        assert!(send.status().unwrap().success());
        let seen = within(Duration::from_secs(60), || {
            std::fs::read_to_string(&self.captured).unwrap().contains("192.0.2.99").then_some(())
        });
        assert!(seen.is_some(), "what was sent is not captured");
    }

    fn end(mut self) -> String {
        self.stop();
        std::fs::read_to_string(&self.captured).unwrap()
    }

    fn stop(&mut self) {
        // A child that is gone already is what is wanted.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop();
    }
}
