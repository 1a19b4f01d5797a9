//! The commands for machines, their devices and their snapshots, run where their libvirt is the system's.

use std::fs;

use serde_json::{Value, json};

use crate::machines::{disk, holds, image, machine, made_by, uefi_machine};
use crate::support::libvirtd::Libvirtd;

/// Runs it, and says what it printed as JSON; it has to end like this.
fn ask(libvirtd: &Libvirtd, arguments: &[&str], code: i32) -> Value {
    let mut command = libvirtd.hyper2kvm();
    let output = command.arg("libvirt").args(arguments).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    let text = if code == 0 { &output.stdout } else { &output.stderr };
    serde_json::from_slice(text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

/// The same for people.
fn read(libvirtd: &Libvirtd, arguments: &[&str]) -> String {
    let output = libvirtd.hyper2kvm().arg("libvirt").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_machine_is_worked_on_by_hand_from_its_definition_to_its_end() {
    let libvirtd = Libvirtd::start();
    let path = image(&libvirtd, "web.qcow2", "qcow2", 1);
    let file = libvirtd.images().join("web.xml");
    let file = file.to_str().unwrap();
    fs::write(file, machine("my web", &made_by("night", "web"), &disk("vda", "qcow2", &path))).unwrap();
    let ask = |arguments: &[&str], code| ask(&libvirtd, arguments, code);

    let defined = ask(&["define", file], 0);
    assert_eq!((&defined["name"], &defined["replaced"]), (&json!("my web"), &Value::Null));
    let shown = ask(&["show", "my web"], 0);
    assert_eq!((&shown["state"], &shown["provenance"]["batch_id"]), (&json!("off"), &json!("night")));
    assert_eq!(shown["disks"][0]["path"], json!(path));
    assert_eq!(
        ask(&["start", "my web"], 0),
        json!({"name": "my web", "state": "running", "reason": "booted"})
    );
    assert_eq!(ask(&["suspend", "my web"], 0)["state"], "paused");
    assert_eq!(ask(&["resume", "my web"], 0)["state"], "running");
    assert_eq!(ask(&["reboot", "my web"], 0)["state"], "running");
    assert_eq!(ask(&["stats", "my web"], 0)["disks"][0]["target"], "vda");
    assert_eq!(ask(&["block-job", "my web", "vda"], 0)["progress"], Value::Null);
    let error = ask(&["stop", "my web", "--timeout", "1s"], 1);
    assert!(error["error"].as_str().unwrap().contains("did not shut down"), "{error}");
    let stopped = ask(&["stop", "my web", "--timeout", "1s", "--force"], 0);
    assert_eq!((&stopped["state"], &stopped["stopped"]), (&json!("off"), &json!("destroyed")));
    ask(&["autostart", "my web", "on"], 0);
    assert_eq!(ask(&["show", "my web"], 0)["autostart"], true);
    assert_eq!(ask(&["destroy", "my web"], 0)["state"], "off");

    let more = image(&libvirtd, "more.raw", "raw", 1);
    let attach = ["attach-disk", "my web", "vdb", "--file", more.to_str().unwrap(), "--format", "raw"];
    assert_eq!(ask(&attach, 0)["persistent"], true);
    ask(&["detach-disk", "my web", "vdb"], 0);
    ask(&["attach-nic", "my web", "--network", "default", "--mac", "52:54:00:00:00:07"], 0);
    ask(&["detach-nic", "my web", "52:54:00:00:00:07"], 0);

    let made = ask(&["snapshot", "create", "my web", "first", "--description", "a & b"], 0);
    assert_eq!((&made["place"], &made["existed"]), (&json!("internal"), &json!(false)));
    assert_eq!(ask(&["snapshot", "list", "my web"], 0)["snapshots"][0]["description"], "a & b");
    crate::machines::write(&path, "qcow2", 2);
    ask(&["snapshot", "revert", "my web", "first"], 0);
    assert!(holds(&path, "qcow2", 1));
    assert_eq!(ask(&["snapshot", "delete", "my web", "first"], 0), json!({"was": "internal"}));

    ask(&["rename", "my web", "web"], 0);
    let dry = ask(&["undefine", "web", "--all", "--dry-run"], 0);
    assert_eq!((&dry["dry_run"], &dry["removed"]), (&json!(true), &json!(["its definition"])));
    ask(&["undefine", "web", "--all"], 0);
    ask(&["undefine", "web", "--all"], 1);
    assert_eq!(ask(&["list"], 0), json!({"domains": []}));

    fs::write(file, "<domain>\n<name>x</domain>").unwrap();
    let error = ask(&["define", file], 2);
    assert_eq!((&error["file"], &error["line"]), (&json!(file), &json!(2)), "{error}");
}

#[test]
fn what_people_read_of_a_machine_says_the_same() {
    let libvirtd = Libvirtd::start();
    let path = image(&libvirtd, "web.qcow2", "qcow2", 1);
    let file = libvirtd.images().join("web.xml");
    let file = file.to_str().unwrap();
    fs::write(file, machine("web", &made_by("night", "web"), &disk("vda", "qcow2", &path))).unwrap();
    assert!(read(&libvirtd, &["define", file]).starts_with("web: defined, "));
    assert_eq!(read(&libvirtd, &["list"]), "NAME  STATE\nweb   off\n");
    assert_eq!(read(&libvirtd, &["start", "web"]), "web: running (booted)\n");
    let shown = read(&libvirtd, &["show", "web"]);
    for line in
        ["state         running (booted)", "made by       hyper2kvm 0, VM web of batch night", "disk vda"]
    {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(read(&libvirtd, &["stats", "web"]).contains("disk vda"));
    assert_eq!(read(&libvirtd, &["block-job", "web", "vda"]), "web vda: no job\n");
    assert_eq!(read(&libvirtd, &["destroy", "web"]), "web: off (destroyed)\n");
    assert!(
        read(&libvirtd, &["snapshot", "create", "web", "one"])
            .contains("snapshot one made: internal, because")
    );
    assert!(read(&libvirtd, &["snapshot", "list", "web"]).contains("shutoff  internal"));
    assert_eq!(read(&libvirtd, &["snapshot", "delete", "web", "one"]), "web: snapshot one deleted\n");
    let removed = read(&libvirtd, &["undefine", "web", "--all"]);
    assert_eq!(removed, "web: removed its definition\n");
}

#[test]
fn a_machine_with_uefi_is_replaced_with_its_variables_kept_and_not_passed_on() {
    let libvirtd = Libvirtd::start();
    let file = libvirtd.images().join("web.xml");
    let define = |batch: &str, more: &[&str], code| {
        fs::write(&file, uefi_machine("web", &made_by(batch, "web"), "")).unwrap();
        ask(&libvirtd, &[&["define", file.to_str().unwrap()], more].concat(), code)
    };
    define("one", &[], 0);
    // The first start makes its variables, which are told apart by their end.
    ask(&libvirtd, &["start", "web"], 0);
    ask(&libvirtd, &["destroy", "web"], 0);
    let nvram = "/var/lib/libvirt/qemu/nvram/web_VARS.fd";
    libvirtd.sh(&format!("printf mark >>{nvram}"));
    define("two", &[], 1);
    let keep = libvirtd.images().join("replaced");
    let overwrite = ["--overwrite", "--keep-in", keep.to_str().unwrap()];
    let replaced = define("two", &overwrite, 0)["replaced"].as_str().unwrap().to_owned();
    assert!(replaced.starts_with(keep.to_str().unwrap()), "{replaced}");
    let kept = fs::read(format!("{replaced}/nvram.fd")).unwrap();
    assert!(kept.len() > 1 << 16 && kept.ends_with(b"mark"));
    assert_eq!(libvirtd.sh(&format!("ls {nvram} 2>/dev/null || true")), "");

    // What cannot be defined leaves the old one with its variables.
    ask(&libvirtd, &["start", "web"], 0);
    ask(&libvirtd, &["destroy", "web"], 0);
    libvirtd.sh(&format!("printf more >>{nvram}"));
    fs::write(&file, machine("web", &made_by("three", "web"), "<disk/>")).unwrap();
    ask(&libvirtd, &[&["define", file.to_str().unwrap()][..], &overwrite].concat(), 2);
    assert_eq!(ask(&libvirtd, &["show", "web"], 0)["provenance"]["batch_id"], "two");
    assert_eq!(libvirtd.sh(&format!("tail -c 4 {nvram}")), "more");

    let removed = ask(&libvirtd, &["undefine", "web", "--all", "--only-ours"], 0);
    assert_eq!(removed["removed"], json!(["its definition", nvram]));
    assert_eq!(libvirtd.sh("find /var/lib/libvirt/qemu -type f"), "");
}
