//! The addresses of machines, found by each method in a network that is real: libvirt's own, with its DHCP server.
//!
//! The machines are QEMU's, without a disk: their firmware tries to boot from the network, and asks for an address as a guest does. Where
//! something has to have a static address, or to go on answering, a network namespace is plugged in beside the machine, with a card of the same
//! MAC address.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::libvirtd::Libvirtd;

const MAC: &str = "52:54:00:00:00:07";
/// How long firmware may take until it has an address, on a loaded machine.
const PATIENCE: &str = "120s";

/// What the program says of a machine's addresses.
fn ask(libvirtd: &Libvirtd, words: &[&str]) -> Result<Value, Value> {
    let output = libvirtd.hyper2kvm().args(["libvirt", "addresses", "--json"]).args(words).output().unwrap();
    let (text, good) = if output.status.success() { (&output.stdout, true) } else { (&output.stderr, false) };
    let value = serde_json::from_slice(text).unwrap_or_else(|_| panic!("{output:?}"));
    if good { Ok(value) } else { Err(value) }
}

/// How a machine's firmware is.
#[derive(Clone, Copy, PartialEq)]
pub enum Firmware {
    /// It asks for an address.
    Asks,
    /// It leaves the network alone.
    IsSilent,
}

/// A machine with one card; `metadata` goes into its definition.
pub fn machine(libvirtd: &Libvirtd, source: &str, firmware: Firmware, metadata: &str) {
    let rom = if firmware == Firmware::IsSilent { "<rom enabled='no'/>" } else { "" };
    libvirtd.sh(&format!(
        "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web</name><uuid>564d1c2a-0000-1111-2222-333344445555</uuid>{metadata}<memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/></os><features><acpi/></features>
<devices><interface {source}<mac address='{MAC}'/><model type='virtio'/>{rom}</interface></devices></domain>
end"
    ));
}

pub const IN_DEFAULT: &str = "type='network'><source network='default'/>";

/// Plugs a namespace in, with the machine's MAC address and this IP address, and has the host speak to it: it is a neighbour then.
fn neighbour(libvirtd: &Libvirtd, address: &str) {
    libvirtd.sh(&format!(
        "ip netns add guest
ip link add h2kveth type veth peer name eth0 address {MAC} netns guest
ip link set h2kveth master virbr0 up
ip -n guest link set eth0 up
ip -n guest address add {address}/24 dev eth0
until ip neighbour show {address} | grep -q lladdr; do
  bash -c 'echo >/dev/udp/{address}/9'
  sleep 0.2
done"
    ));
}

fn methods(found: &Value) -> Vec<&str> {
    let address = &found["addresses"][0];
    address["methods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn used<'f>(found: &'f Value, name: &str) -> &'f Value {
    found["methods"].as_array().unwrap().iter().find(|used| used["name"] == name).unwrap()
}

#[test]
fn an_address_that_was_leased_is_found_by_lease_and_lease_file_and_when_it_speaks_by_arp() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("virsh -q net-start default");
    machine(&libvirtd, IN_DEFAULT, Firmware::IsSilent, "");
    libvirtd.sh("virsh -q start web");
    let nothing = ask(&libvirtd, &["web"]).unwrap();
    assert_eq!(nothing["addresses"], json!([]));
    assert!(used(&nothing, "agent")["error"].as_str().unwrap().contains("agent"), "{nothing}");
    for method in ["lease", "arp", "lease_file"] {
        let used = used(&nothing, method);
        assert!(used["error"].is_null() && used["took_ms"].as_f64().unwrap() > 0.0, "{nothing}");
    }

    libvirtd.sh("virsh -q destroy web");
    machine(&libvirtd, IN_DEFAULT, Firmware::Asks, "");
    libvirtd.sh("virsh -q start web");
    let found = ask(&libvirtd, &["web", "--wait", "--timeout", PATIENCE, "--method", "lease"]).unwrap();
    assert_eq!(found["addresses"][0]["confidence"], 0.9, "{found}");
    let found = ask(&libvirtd, &["web"]).unwrap();
    let address = &found["addresses"][0];
    assert!(methods(&found).starts_with(&["lease"]) && methods(&found).ends_with(&["lease_file"]), "{found}");
    let leased = address["address"].as_str().unwrap().to_owned();
    assert!(leased.starts_with("192.168.122."), "{found}");
    let of =
        (&address["mac"], &address["prefix"], &address["family"], &address["network"], &address["scope"]);
    assert_eq!(of, (&json!(MAC), &json!(24), &json!("ipv4"), &json!("default"), &json!("card")));
    assert!(address["interface"].as_str().unwrap().starts_with("vnet"), "{found}");
    assert_eq!((&found["state"], &found["cached"]), (&json!("running"), &json!(false)));

    neighbour(&libvirtd, &leased);
    let found = ask(&libvirtd, &["web"]).unwrap();
    assert_eq!(methods(&found), ["lease", "arp", "lease_file"]);
    assert_eq!(found["addresses"].as_array().unwrap().len(), 1, "{found}");

    // The address is somebody's now, and kept for nobody else.
    let reserve = |mac: &str| {
        let mut command = libvirtd.hyper2kvm();
        command.args([
            "libvirt",
            "network",
            "reserve",
            "default",
            "--mac",
            mac,
            "--address",
            &leased,
            "--json",
        ]);
        command.output().unwrap()
    };
    let taken = reserve("52:54:00:00:00:08");
    assert!(String::from_utf8_lossy(&taken.stderr).contains("has been leased to"), "{taken:?}");
    assert!(reserve(MAC).status.success());
}

#[test]
fn a_card_in_the_bridge_itself_is_found_by_lease_and_a_static_address_by_arp_alone() {
    const IN_BRIDGE: &str = "type='bridge'><source bridge='virbr0'/>";
    let libvirtd = Libvirtd::start();
    libvirtd.sh("virsh -q net-start default");
    machine(&libvirtd, IN_BRIDGE, Firmware::IsSilent, "");
    libvirtd.sh("virsh -q start web");
    neighbour(&libvirtd, "192.168.122.250");
    let found = ask(&libvirtd, &["web", "--wait"]).unwrap();
    assert_eq!(found["addresses"][0]["address"], "192.168.122.250");
    assert_eq!((methods(&found), &found["addresses"][0]["confidence"]), (vec!["arp"], &json!(0.8)));
    libvirtd.sh("virsh -q destroy web; ip netns delete guest");
    machine(&libvirtd, IN_BRIDGE, Firmware::Asks, "");
    libvirtd.sh("virsh -q start web");
    let found = ask(&libvirtd, &["web", "--wait", "--timeout", PATIENCE, "--method", "lease"]).unwrap();
    assert_eq!(methods(&found), ["lease"]);
    assert_ne!(found["addresses"][0]["address"], "192.168.122.250");
}

#[test]
fn a_machine_that_is_off_answers_what_was_configured_inside_and_says_so() {
    let libvirtd = Libvirtd::start();
    let metadata = format!(
        "<metadata><h2k:made xmlns:h2k='urn:hyper2kvm:domain:1' version='0.1.0' batch='b' vm='web' at='2026-11-29T12:00:00Z'>
<h2k:address value='192.0.2.7' mac='{MAC}'/><h2k:address value='fe80::7'/><h2k:address value='nonsense'/></h2k:made></metadata>"
    );
    machine(&libvirtd, IN_DEFAULT, Firmware::IsSilent, &metadata);
    let found = ask(&libvirtd, &["web"]).unwrap();
    assert_eq!(found["state"], "off");
    assert!(found["note"].as_str().unwrap().contains("does not run"), "{found}");
    assert_eq!(found["methods"].as_array().unwrap().len(), 1);
    assert_eq!((methods(&found), &found["addresses"][0]["confidence"]), (vec!["configured"], &json!(0.5)));
    assert_eq!(found["addresses"].as_array().unwrap().len(), 1);
    let all = ask(&libvirtd, &["web", "--all"]).unwrap();
    assert_eq!(all["addresses"][1]["scope"], "link_local");
    // It is waited for an address that is certain, and in vain.
    let begun = Instant::now();
    let refused = ask(&libvirtd, &["web", "--wait", "--timeout", "1s"]).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(refused["kind"], "network");
    assert!(refused["error"].as_str().unwrap().contains("192.0.2.7 (0.5)"), "{refused}");
    let found = ask(&libvirtd, &["web", "--wait", "--confidence", "0.5"]).unwrap();
    assert_eq!(found["addresses"][0]["address"], "192.0.2.7");
}

#[test]
fn machines_that_are_not_there_and_questions_that_make_no_sense_are_refused() {
    let libvirtd = Libvirtd::start();
    let long = "x".repeat(5000);
    for (words, kind) in [
        (vec!["no such"], "libvirt"),
        (vec!["'; <x/> \u{1b}[31m Ü"], "libvirt"),
        (vec![""], "manifest"),
        (vec![long.as_str()], "manifest"),
        (vec!["web", "--wait", "--confidence", "NaN"], "manifest"),
        (vec!["web", "--wait", "--confidence", "1.5"], "manifest"),
        (vec!["web", "--wait", "--timeout", "soon"], "manifest"),
        (vec!["web", "--wait", "--timeout", "99999d"], "manifest"),
    ] {
        let refused = ask(&libvirtd, &words).unwrap_err();
        assert_eq!(refused["kind"], kind, "{refused}");
    }
}
