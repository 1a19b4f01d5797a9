//! `hyper2kvm vsphere …` and `esxi …`, as a person types them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter};

/// Somebody at a command line, with a stored credential `lab`.
struct Person {
    at: TempDir,
}

impl Person {
    fn new(vcenter: &Vcenter) -> Person {
        let person = Person { at: tempfile::tempdir().unwrap() };
        let credential = json!({
            "host": "localhost", "username": USER, "password": PASSWORD, "ca_file": vcenter.ca(),
        });
        std::fs::create_dir(person.at.path().join("credentials")).unwrap();
        person.write("credentials/lab.yaml", &credential.to_string());
        let settings = json!({ "credentials": { "dir": person.at.path().join("credentials") } });
        person.write("config.yaml", &settings.to_string());
        person
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command.arg(word).arg("--config").arg(self.at.path().join("config.yaml")).stdin(Stdio::null());
        command
    }

    fn asks(&self, vcenter: &Vcenter, arguments: &[&str]) -> Output {
        let port = vcenter.port().to_string();
        let output =
            self.command("vsphere").args(["--credential", "lab", "--port", &port]).args(arguments).output();
        let output = output.unwrap();
        for text in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(text).contains(PASSWORD));
        }
        output
    }

    fn json(&self, vcenter: &Vcenter, arguments: &[&str]) -> Value {
        let output = self.asks(vcenter, &[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The kind, the exit code, and all that is said.
    fn error(&self, vcenter: &Vcenter, arguments: &[&str]) -> (String, i32, Value) {
        let output = self.asks(vcenter, &[arguments, &["--json"]].concat());
        let told: Value = serde_json::from_slice(last_line(&output.stderr)).unwrap();
        let kind = told["kind"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
        (kind, output.status.code().unwrap(), told)
    }
}

fn last_line(text: &[u8]) -> &[u8] {
    text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn estate() -> Options {
    Options::vcenter()
        .with("datacenters", 2)
        .with("datastores", json!(["ds1"]))
        .machine(json!({
            "name": "web", "folder": "prod", "firmware": "efi", "secure_boot": true, "cpus": 4, "memory_mib": 2048,
            "guest_id": "debian11_64Guest", "notes": "ask Ann", "uuid": "564d0b8a-1122-3344-5566-778899aabbcc",
            "disks": [{ "capacity": 8 << 20, "thin": true }, { "capacity": 1 << 20, "mode": "independent_persistent" }],
            "nics": [{ "kind": "vmxnet3", "mac": "00:50:56:aa:bb:01" }],
        }))
        .machine(json!({ "name": "web", "datacenter": "DC1", "disks": [{ "capacity": 1 << 20 }] }))
        .machine(json!({ "name": "ünï code", "disks": [{ "capacity": 1 << 20 }] }))
}

#[test]
fn machines_are_listed_found_and_shown() {
    let vcenter = Vcenter::start(estate());
    let person = Person::new(&vcenter);
    let listed = person.json(&vcenter, &["list"]);
    let names: Vec<&str> =
        listed["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web", "ünï code", "web"]);
    let web = &listed["vms"][0];
    assert_eq!(web["path"], "/DC0/vm/prod/web");
    assert_eq!(
        (&web["power"], &web["cpus"], &web["memory_mb"], &web["disks"]),
        (&json!("off"), &json!(4), &json!(2048), &json!(2))
    );
    assert_eq!(web["datastore"], "ds1");
    let table = text(&person.asks(&vcenter, &["list", "--datacenter", "DC1"]));
    assert!(table.contains("/DC1/vm/web") && !table.contains("/DC0/"), "{table}");
    let tree = text(&person.asks(&vcenter, &["tree"]));
    assert!(tree.contains("DC0/\n  vm/\n    prod/\n      web (off, vm-"), "{tree}");

    let moref = web["moref"].as_str().unwrap();
    for wanted in ["/DC0/vm/prod/web", "prod/web", moref, "564d0b8a-1122-3344-5566-778899aabbcc"] {
        let shown = person.json(&vcenter, &["show", wanted]);
        assert_eq!(shown["path"], "/DC0/vm/prod/web", "{wanted}");
        assert_eq!((&shown["firmware"], &shown["secure_boot"]), (&json!("uefi"), &json!(true)));
        assert_eq!(shown["annotation"], "ask Ann");
        assert_eq!(shown["nics"][0]["mac"], "00:50:56:aa:bb:01");
        assert!(!shown["nics"][0]["network"].as_str().unwrap().starts_with("dvportgroup-"), "{shown}");
        assert_eq!(shown["datacenter"], "DC0");
    }
    assert_eq!(person.json(&vcenter, &["show", "web", "--folder", "prod"])["cpus"], 4);
    assert_eq!(person.json(&vcenter, &["show", "ünï code"])["name"], "ünï code");

    let disks = person.json(&vcenter, &["disks", "prod/web"]);
    assert_eq!(disks["disks"][0]["capacity_bytes"], 8 << 20);
    assert_eq!((&disks["disks"][0]["thin"], &disks["disks"][0]["backing"]), (&json!(true), &json!("flat")));
    assert_eq!(disks["disks"][1]["independent"], true);
    let table = text(&person.asks(&vcenter, &["disks", "prod/web"]));
    assert!(table.contains("flat, thin") && table.contains("independent"), "{table}");
    assert!(text(&person.asks(&vcenter, &["show", "prod/web"])).contains("ask Ann"));
}

#[test]
fn who_is_not_there_or_several_or_not_let_in_is_an_error_that_helps() {
    let vcenter = Vcenter::start(estate());
    let person = Person::new(&vcenter);
    let (kind, code, told) = person.error(&vcenter, &["show", "web"]);
    assert_eq!((kind.as_str(), code), ("source", 1));
    let told = told.to_string();
    assert!(told.contains("/DC0/vm/prod/web (vm-") && told.contains("/DC1/vm/web (vm-"), "{told}");
    let (kind, code, _) = person.error(&vcenter, &["show", "nobody"]);
    assert_eq!((kind.as_str(), code), ("source", 1));

    let port = vcenter.port().to_string();
    let host = ["--host", "localhost", "--port", &port, "--username", USER];
    let ca = vcenter.ca();
    let output = |arguments: &[&str]| {
        let mut command = person.command("vsphere");
        command
            .args(host)
            .arg("--ca-file")
            .arg(&ca)
            .args(arguments)
            .args(["list", "--json"])
            .env("H2K_PASSWORD", "wrong");
        let output = command.output().unwrap();
        let told: Value = serde_json::from_slice(last_line(&output.stderr)).unwrap();
        (told["kind"].as_str().unwrap().to_owned(), output.status.code().unwrap())
    };
    assert_eq!(output(&["--password-env", "H2K_PASSWORD"]), ("auth".to_owned(), 1));
    assert_eq!(output(&["--password-env", "H2K_NOTHING"]), ("auth".to_owned(), 1));
    assert_eq!(output(&["--password-file", "/nowhere"]), ("auth".to_owned(), 1));
    let (kind, code, _) = person.error(&vcenter, &["--host", "other.example.com", "list"]);
    assert_eq!((kind.as_str(), code), ("auth", 1), "a credential is for its own host");
    let usage = person
        .command("vsphere")
        .args(["list", "--host", "h", "--insecure", "--thumbprint", &"ab".repeat(32)])
        .output();
    assert_eq!(usage.unwrap().status.code(), Some(2));
    assert_eq!(person.command("vsphere").arg("list").output().unwrap().status.code(), Some(2));
}

#[test]
fn a_person_says_who_and_how_it_is_trusted_and_blind_trust_is_loud() {
    let vcenter = Vcenter::start(estate());
    let person = Person::new(&vcenter);
    let password = person.write("password", &format!("{PASSWORD}\n"));
    let (port, thumbprint) = (vcenter.port().to_string(), vcenter.thumbprint());
    let lists = |trust: &[&str]| {
        let mut command = person.command("vsphere");
        command.args(["--host", "localhost", "--port", &port, "--username", USER, "--password-file"]);
        let output = command.arg(&password).args(trust).arg("list").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(lists(&["--thumbprint", &thumbprint]).0, 0);
    let (code, told) = lists(&["--insecure"]);
    assert!(code == 0 && told.contains("NOT checked"), "{told}");
    let (code, told) = lists(&[]);
    assert!(code == 1 && told.contains("thumbprint"), "{told}");
    assert_eq!(lists(&["--thumbprint", &"ab".repeat(32)]).0, 1);
    assert_eq!(lists(&["--thumbprint", &"ab".repeat(20)]).0, 2, "SHA-1 proves nothing");
}

#[test]
fn snapshots_are_made_listed_and_removed() {
    let vcenter = Vcenter::start(estate().machine(json!({
        "name": "broken", "needs_consolidation": true, "disks": [{ "capacity": 1 << 20 }],
    })));
    let person = Person::new(&vcenter);
    let made = person
        .json(&vcenter, &["snapshot", "create", "prod/web", "before & <after>", "--description", "ours"]);
    assert_eq!((&made["ok"], &made["snapshot_name"]), (&json!(true), &json!("before & <after>")));
    let moref = made["snapshot_moref"].as_str().unwrap().to_owned();
    let second = person.json(&vcenter, &["snapshot", "create", "prod/web", "later", "--quiesce", "no"]);
    let listed = person.json(&vcenter, &["snapshot", "list", "prod/web"]);
    assert_eq!(listed["snapshots"][0]["name"], "before & <after>");
    assert_eq!(listed["snapshots"][0]["children"][0]["moref"], second["snapshot_moref"]);

    let would = person.json(&vcenter, &["snapshot", "remove", "prod/web", &moref, "--children", "--dry-run"]);
    assert_eq!(would["removed"].as_array().unwrap().len(), 2);
    let (kind, code, _) = person.error(&vcenter, &["snapshot", "remove", "prod/web", "nothing"]);
    assert_eq!((kind.as_str(), code), ("source", 1));
    let removed =
        person.json(&vcenter, &["snapshot", "remove", "prod/web", "before & <after>", "--children"]);
    assert_eq!(removed["removed"].as_array().unwrap().len(), 2);
    assert_eq!(person.json(&vcenter, &["snapshot", "list", "prod/web"])["snapshots"], json!([]));

    let (kind, code, told) = person.error(&vcenter, &["snapshot", "create", "broken", "x"]);
    assert_eq!((kind.as_str(), code), ("source", 1));
    assert!(told.to_string().contains("consolidat"), "{told}");
}

#[test]
fn changes_are_tracked_and_privileges_named() {
    let dir = tempfile::tempdir().unwrap();
    let content = content(dir.path());
    let vcenter = Vcenter::start(Options::vcenter().machine(json!({
        "name": "db", "disks": [{ "capacity": 4 << 20, "content": content }],
    })));
    let person = Person::new(&vcenter);
    let status = person.json(&vcenter, &["cbt", "status", "db"]);
    assert_eq!(status["cbt_enabled"], false);
    let enabled = person.json(&vcenter, &["cbt", "enable", "db"]);
    assert_eq!((&enabled["cbt_enabled"], &enabled["was_enabled"]), (&json!(true), &json!(false)));
    assert_eq!(person.json(&vcenter, &["cbt", "enable", "db"])["was_enabled"], true);
    person.json(&vcenter, &["snapshot", "create", "db", "first"]);
    let status = person.json(&vcenter, &["cbt", "status", "db"]);
    assert_eq!(status["cbt_enabled"], true);
    let key = status["disks"][0]["key"].to_string();
    let changed = person.json(&vcenter, &["cbt", "changed", "db", "--disk", &key, "--snapshot", "first"]);
    assert!((1..4 << 20).contains(&changed["length"].as_u64().unwrap()), "{changed}");
    assert_eq!(changed["areas"][0]["start"], 1 << 20);
    let (kind, code, _) = person.error(&vcenter, &["cbt", "changed", "db", "--disk", "7"]);
    assert_eq!((kind.as_str(), code), ("source", 1));

    let check = person.json(&vcenter, &["check", "db"]);
    assert_eq!(check["ok"], true);
    let named = check["checks"].to_string();
    for privilege in
        ["Datastore.Browse", "VirtualMachine.State.CreateSnapshot", "VirtualMachine.Config.ChangeTracking"]
    {
        assert!(named.contains(privilege), "{privilege}");
    }
    assert!(text(&person.asks(&vcenter, &["check"])).contains("System.View"));
}

/// 4 MiB of which only the second is there.
fn content(dir: &Path) -> PathBuf {
    use std::os::unix::fs::FileExt as _;
    let path = dir.join("content");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(4 << 20).unwrap();
    file.write_all_at(&[7; 1 << 20], 1 << 20).unwrap();
    path
}

#[test]
fn a_host_alone_is_asked_the_same() {
    let machine = json!({ "name": "web", "disks": [{ "capacity": 1 << 20 }] });
    let host = Vcenter::start(Options::esxi().machine(machine));
    let person = Person::new(&host);
    let port = host.port().to_string();
    let output = person
        .command("esxi")
        .args(["--credential", "lab", "--port", &port, "list", "--json"])
        .output()
        .unwrap();
    let listed: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(
        (&listed["vms"][0]["name"], &listed["vms"][0]["datacenter"]),
        (&json!("web"), &json!("ha-datacenter"))
    );
    assert_eq!(person.json(&host, &["show", "/ha-datacenter/vm/web"])["power"], "off");
}

#[test]
fn thousands_of_machines_are_listed_at_once() {
    let vcenter = Vcenter::start(Options::vcenter().fillers(1500));
    let person = Person::new(&vcenter);
    let listed = person.json(&vcenter, &["list"]);
    assert_eq!(listed["vms"].as_array().unwrap().len(), 1500);
    let calls = vcenter.requests().len();
    assert!(calls < 20, "{calls} calls");
}
