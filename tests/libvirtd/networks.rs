//! Networks: listed, defined, started, stopped, removed, and addresses in them kept for machines.

use serde_json::{Value, json};

use crate::support::libvirtd::Libvirtd;

const WEB: &str = "52:54:00:00:00:01";
const DB: &str = "52:54:00:00:00:02";

/// What the program answers, which has to go well.
#[track_caller]
fn answer(libvirtd: &Libvirtd, words: &[&str]) -> Value {
    let output = libvirtd.hyper2kvm().arg("libvirt").args(words).arg("--json").output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// How it refuses, with the code that it exits with.
#[track_caller]
fn refusal(libvirtd: &Libvirtd, words: &[&str]) -> (String, i32) {
    let output = libvirtd.hyper2kvm().arg("libvirt").args(words).arg("--json").output().unwrap();
    let told: Value =
        serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{words:?}: {output:?}"));
    assert!(told["suggestion"].as_str().is_some_and(|advice| !advice.is_empty()), "{told}");
    (told["kind"].as_str().unwrap().to_owned(), output.status.code().unwrap())
}

fn network(libvirtd: &Libvirtd, name: &str) -> Value {
    let list = answer(libvirtd, &["networks"]);
    let found = list["networks"].as_array().unwrap().iter().find(|network| network["name"] == name);
    found.cloned().unwrap_or(Value::Null)
}

/// A machine that is plugged into a network, running or not.
fn machine(libvirtd: &Libvirtd, name: &str, network: &str, running: bool) {
    libvirtd.sh(&format!(
        "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><interface type='network'><mac address='{WEB}'/><source network='{network}'/></interface></devices></domain>
end"
    ));
    if running {
        libvirtd.sh(&format!("virsh -q start {name}"));
    }
}

#[test]
fn a_network_with_nat_is_defined_started_used_and_removed_when_no_machine_runs_in_it() {
    let libvirtd = Libvirtd::start();
    let lab = "Büro's <lab> & \"more\"";
    let subnet = "192.168.150.0/24";
    let shown = answer(&libvirtd, &["network", "define-nat", lab, "--subnet", subnet, "--dry-run"]);
    assert!(shown["definition"].as_str().unwrap().contains("<forward mode='nat'/>"), "{shown}");
    assert_eq!(network(&libvirtd, lab), Value::Null);

    let define =
        ["network", "define-nat", lab, "--subnet", subnet, "--range", "192.168.150.10-192.168.150.99"];
    let made = answer(&libvirtd, &[&define[..], &["--bridge", "h2klab", "--start", "--autostart"]].concat());
    assert_eq!((&made["active"], &made["autostart"]), (&json!(true), &json!(true)));
    let listed = network(&libvirtd, lab);
    assert_eq!(listed, made);
    assert_eq!((&listed["forward"], &listed["bridge"]), (&json!("nat"), &json!("h2klab")));
    let range = json!([{"first": "192.168.150.10", "last": "192.168.150.99"}]);
    assert_eq!(listed["segments"][0]["ranges"], range);
    assert!(libvirtd.sh("ip -o address show dev h2klab").contains("192.168.150.1/24"));
    // Taken: the name, the addresses, the bridge.
    for words in [
        ["network", "define-nat", lab, "--subnet", "10.1.0.0/24", "--bridge", "h2kb"],
        ["network", "define-nat", "x", "--subnet", "192.168.150.128/25", "--bridge", "h2kb"],
        ["network", "define-nat", "x", "--subnet", "10.1.0.0/24", "--bridge", "h2klab"],
    ] {
        assert_eq!(refusal(&libvirtd, &words), ("exists".to_owned(), 1), "{words:?}");
    }

    libvirtd.sh("virsh -q net-define /dev/stdin <<'end'
<network><name>plain</name><forward/><ip address='10.2.0.1' netmask='255.255.255.0'/></network>
end");
    assert_eq!(answer(&libvirtd, &["network", "start", "plain"])["started"], true);
    assert_eq!(answer(&libvirtd, &["network", "start", "plain"])["started"], false);
    machine(&libvirtd, "web", "plain", true);
    for task in ["stop", "undefine"] {
        assert_eq!(refusal(&libvirtd, &["network", task, "plain"]), ("libvirt".to_owned(), 1));
    }
    assert_eq!(network(&libvirtd, "plain")["active"], true);
    libvirtd.sh("virsh -q destroy web");
    let gone = json!({"network": "plain", "stopped": true, "undefined": true, "named_by": ["web"]});
    let told = |dry: bool| {
        let mut told = gone.clone();
        told["dry_run"] = json!(dry);
        told
    };
    assert_eq!(answer(&libvirtd, &["network", "undefine", "plain", "--dry-run"]), told(true));
    assert_eq!(network(&libvirtd, "plain")["active"], true);
    assert_eq!(answer(&libvirtd, &["network", "undefine", "plain"]), told(false));
    assert_eq!(network(&libvirtd, "plain"), Value::Null);
    assert_eq!(answer(&libvirtd, &["network", "stop", lab])["stopped"], true);
    assert_eq!(network(&libvirtd, lab)["active"], false);
}

#[test]
fn a_network_that_cannot_be_started_is_not_left_behind() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("ip link add taken type bridge; ip address add 10.3.0.1/24 dev taken; ip link set taken up");
    let words = ["network", "define-nat", "x", "--subnet", "10.3.0.0/24", "--start", "--autostart"];
    assert_eq!(refusal(&libvirtd, &words), ("libvirt".to_owned(), 1));
    assert_eq!(network(&libvirtd, "x"), Value::Null);
    // Nor is it there under names that make no files.
    for name in ["a/b", "..", " x", "a\nb", &"x".repeat(201)] {
        let words = ["network", "define-nat", name, "--subnet", "10.4.0.0/24"];
        assert_eq!(refusal(&libvirtd, &words), ("manifest".to_owned(), 2), "{name}");
    }
    let long = "x".repeat(64);
    answer(&libvirtd, &["network", "define-nat", &long, "--subnet", "10.4.0.0/24", "--start"]);
    assert_eq!(network(&libvirtd, &long)["active"], true);
    for task in ["start", "stop", "undefine"] {
        assert_eq!(refusal(&libvirtd, &["network", task, "no such"]).0, "libvirt");
    }
}

#[test]
fn a_bridge_of_the_host_becomes_a_network_that_machines_are_plugged_into() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("ip link add h2kbr type bridge; ip link set h2kbr up");
    let made = answer(&libvirtd, &["network", "define-bridge", "lan", "--bridge", "h2kbr", "--start"]);
    assert_eq!((&made["forward"], &made["bridge"]), (&json!("bridge"), &json!("h2kbr")));
    machine(&libvirtd, "web", "lan", true);
    assert!(libvirtd.sh("ip -o link show master h2kbr").contains("vnet"));
    // Nobody of libvirt's hands out addresses there.
    let words = ["network", "reserve", "lan", "--mac", WEB, "--address", "10.5.0.7"];
    assert_eq!(refusal(&libvirtd, &words), ("unsupported".to_owned(), 3));
}

#[test]
fn an_address_is_kept_moved_and_given_up_running_and_written_down_alike() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("virsh -q net-start default");
    let reserve = |mac: &str, address: &str, host: &[&str]| {
        let words = ["network", "reserve", "default", "--mac", mac, "--address", address];
        answer(&libvirtd, &[&words[..], host].concat())["reservation"].clone()
    };
    let entries = |flags: &str| {
        let xml = libvirtd.sh(&format!("virsh net-dumpxml default {flags}"));
        xml.lines()
            .map(str::trim)
            .filter(|line| line.starts_with("<host "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let both = || {
        assert_eq!(entries(""), entries("--inactive"));
        entries("")
    };
    assert_eq!(reserve("52-54-00-00-00-01", "192.168.122.50", &["--host", "web"]), json!("added"));
    assert_eq!(both(), [format!("<host mac='{WEB}' name='web' ip='192.168.122.50'/>")]);
    assert_eq!(reserve(WEB, "192.168.122.50", &[]), json!("unchanged"));
    assert_eq!(
        reserve(WEB, "192.168.122.60", &["--host", "web"]),
        json!({"moved": {"from": "192.168.122.50"}})
    );
    assert_eq!(both(), [format!("<host mac='{WEB}' name='web' ip='192.168.122.60'/>")]);
    // What was done to one of the two alone is mended.
    libvirtd.sh(&format!("virsh -q net-update default delete ip-dhcp-host \"<host mac='{WEB}'/>\" --live"));
    assert_eq!(reserve(WEB, "192.168.122.60", &["--host", "web"]), json!("added"));
    assert_eq!(both().len(), 1);

    for (mac, address, host, refused) in [
        (DB, "192.168.122.60", None, ("exists", 1)),
        (DB, "192.168.122.61", Some("web"), ("exists", 1)),
        (DB, "192.168.122.1", None, ("manifest", 2)),
        (DB, "10.9.9.9", None, ("manifest", 2)),
        (DB, "fd00::7", None, ("unsupported", 3)),
        ("01:00:5e:00:00:01", "192.168.122.61", None, ("manifest", 2)),
        (DB, "192.168.122.61", Some("a'/><host b"), ("manifest", 2)),
    ] {
        let words = ["network", "reserve", "default", "--mac", mac, "--address", address];
        let host: Vec<&str> = host.into_iter().flat_map(|host| ["--host", host]).collect();
        let told = refusal(&libvirtd, &[&words[..], &host].concat());
        assert_eq!(told, (refused.0.to_owned(), refused.1), "{mac} {address} {host:?}");
    }
    assert_eq!(both().len(), 1);

    let release =
        || answer(&libvirtd, &["network", "release", "default", "--mac", WEB])["reservation"].clone();
    assert_eq!(release(), json!({"released": {"address": "192.168.122.60"}}));
    assert_eq!((both().len(), release()), (0, json!("unchanged")));
    // Of one that is not active, what is written down is seen to.
    libvirtd.sh("virsh -q net-destroy default");
    assert_eq!(reserve(DB, "192.168.122.70", &[]), json!("added"));
    assert_eq!(entries("--inactive").len(), 1);
}
