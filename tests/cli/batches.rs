//! `convert` and `plan` of a batch's file: order, directories, options over all of its VMs, and what is refused alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::disks;

struct Scene(TempDir);

impl Scene {
    fn new() -> Scene {
        let scene = Scene(tempfile::Builder::new().prefix("h2k-batch-").tempdir().unwrap());
        for (seed, stem) in [(1, "web"), (2, "db"), (3, "mail")] {
            disks::disk(scene.dir(), stem, "vmdk", 8, 1, seed);
        }
        scene
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn batch(&self, head: &str, entries: &[&str]) -> PathBuf {
        let entries: Vec<String> = entries.iter().map(|entry| format!("  - {entry}\n")).collect();
        let path = self.dir().join("fleet.yaml");
        let shared = format!("  {}", disks::BYTES_ONLY);
        fs::write(
            &path,
            format!("batch_version: \"1.0\"\n{head}shared_config:\n{shared}vms:\n{}", entries.concat()),
        )
        .unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
            .current_dir(self.dir())
            .args(arguments)
            .env("NO_COLOR", "1")
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (Value, i32) {
        let done = self.run(arguments);
        let value = serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&done.stderr)));
        (value, done.status.code().unwrap())
    }

    fn is_there(&self, path: &str) -> bool {
        self.dir().join(path).exists()
    }
}

fn entry(id: &str, further: &str) -> String {
    format!(
        "{{id: {id}, {further}manifest: {{disks: [{{id: boot, source_format: vmdk, local_path: {id}.vmdk}}]}}}}"
    )
}

#[test]
fn each_vm_of_a_batch_goes_into_a_directory_of_its_own_below_the_output() {
    let scene = Scene::new();
    let (web, db) = (entry("web", ""), entry("db", "overrides: {output: {format: raw}}, "));
    scene.batch("", &[&web, &db]);
    let (report, code) = scene.json(&["convert", "fleet.yaml", "-o", "out", "--parallel", "2", "--json"]);
    assert_eq!((code, &report["batch"]["successful_vms"]), (0, &2.into()), "{report:#}");
    assert!(scene.is_there("out/web/boot.qcow2") && scene.is_there("out/db/boot.raw"));
    assert!(!scene.is_there("out/.hyper2kvm"), "nothing is left behind");
}

#[test]
fn a_batch_says_where_its_results_go_unless_the_command_line_does() {
    let scene = Scene::new();
    let own = entry("mail", "overrides: {output: {directory: own}}, ");
    let path = scene.batch("", &[&entry("web", ""), &own]);
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("shared_config:\n", "shared_config:\n  output_directory: fleet\n");
    fs::write(&path, text).unwrap();
    assert!(scene.run(&["convert", "fleet.yaml"]).status.success());
    assert!(scene.is_there("fleet/web/boot.qcow2") && scene.is_there("own/boot.qcow2"));
    assert!(scene.run(&["convert", "fleet.yaml", "-o", "there"]).status.success());
    assert!(scene.is_there("there/web/boot.qcow2") && scene.is_there("there/mail/boot.qcow2"));
}

#[test]
fn options_lie_over_every_vm() {
    let scene = Scene::new();
    scene.batch("", &[&entry("web", ""), &entry("db", "overrides: {output: {format: vdi}}, ")]);
    let done = scene.run(&["convert", "fleet.yaml", "-o", "out", "--to", "raw"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(scene.is_there("out/web/boot.raw") && scene.is_there("out/db/boot.raw"));
    let done = scene.run(&["convert", "fleet.yaml", "-o", "out2", "--resize", "+1GiB"]);
    assert_eq!(done.status.code(), Some(2));
}

#[test]
fn a_vm_begins_after_those_it_depends_on_and_not_at_all_when_one_of_them_failed() {
    let scene = Scene::new();
    let first = entry("web", "depends_on: [db], ");
    scene.batch("", &[&first, &entry("db", "priority: 5, ")]);
    let (report, code) = scene.json(&["convert", "fleet.yaml", "-o", "out", "--parallel", "4", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    let ended = |vm: &str| {
        let results = report["vm_results"].as_array().unwrap();
        results.iter().find(|result| result["vm_id"] == vm).unwrap()["timestamp"].as_str().unwrap().to_owned()
    };
    assert!(ended("db") < ended("web"));

    fs::write(scene.dir().join("db.vmdk"), "KDMV and nothing else").unwrap();
    let (report, code) = scene.json(&["convert", "fleet.yaml", "-o", "again", "--json"]);
    assert_eq!(code, 1);
    assert!(!scene.is_there("again/web"), "{report:#}");
    assert!(report.to_string().contains("`db`, which it depends on, did not succeed"), "{report:#}");
}

#[test]
fn one_bad_vm_does_not_keep_the_others_and_its_line_is_told() {
    let scene = Scene::new();
    scene.batch("", &[&entry("web", ""), "{id: bad, manifest: {disks: [{id: boot, source_formt: raw}]}}"]);
    let done = scene.run(&["convert", "fleet.yaml", "-o", "out"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(scene.is_there("out/web/boot.qcow2"));
    assert!(said.contains("fleet.yaml:6:") && said.contains("vms[1].manifest.disks[0]"), "{said}");

    for arguments in
        [&["convert", "fleet.yaml", "-o", "none", "--fail-fast"][..], &["validate", "fleet.yaml"]]
    {
        let done = scene.run(arguments);
        assert_ne!(done.status.code(), Some(0), "{arguments:?}");
        let said =
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(said.contains("fleet.yaml:6:"), "{arguments:?}: {said}");
    }
    assert!(!scene.is_there("none"), "nothing was begun");
}

#[test]
fn a_plan_of_a_batch_tells_each_vm_and_what_all_of_it_takes() {
    let scene = Scene::new();
    scene.batch("", &[&entry("web", ""), &entry("db", "")]);
    let (plan, code) = scene.json(&["plan", "fleet.yaml", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(plan["plans"].as_array().unwrap().len(), 2);
    let price = &plan["price"];
    assert_eq!(price["vms"], 2, "{plan:#}");
    assert!(price["bytes"].as_u64().unwrap() >= 2 << 20, "{price:#}");
    let place = &price["filesystems"][0];
    assert!(place["need"].as_u64().unwrap() > price["bytes"].as_u64().unwrap(), "{price:#}");
    assert!(place["free"].as_u64().unwrap() > 0);
    for arguments in [&["plan", "fleet.yaml"][..], &["convert", "fleet.yaml", "--dry-run"]] {
        let said = String::from_utf8(scene.run(arguments).stdout).unwrap();
        assert!(said.contains("2 VMs") && said.contains("free"), "{arguments:?}: {said}");
    }
}

#[test]
fn nothing_of_a_dry_run_is_left() {
    let scene = Scene::new();
    scene.batch("", &[&entry("web", "")]);
    let before = fs::read_dir(scene.dir()).unwrap().count();
    assert!(scene.run(&["convert", "fleet.yaml", "-o", "out", "--dry-run"]).status.success());
    assert_eq!(fs::read_dir(scene.dir()).unwrap().count(), before);
}

#[test]
fn a_window_is_told_by_plan_and_validate_and_not_waited_for_by_convert() {
    let scene = Scene::new();
    // Closed now, whenever now is: it is open for a minute in twelve hours, or was twelve hours ago.
    let times = [0, 1].map(|minute| {
        let there = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC);
        let there = there.checked_add(jiff::Span::new().hours(12).minutes(minute)).unwrap();
        there.strftime("%a %H:%M").to_string()
    });
    let [open, close] = &times;
    let window = format!("{{open: {open}, close: {close}, at_close: hold}}");
    scene.batch(&format!("batch_metadata: {{window: {window}}}\n"), &[&entry("web", "")]);
    let told = |arguments: &[&str]| {
        let done = scene.run(arguments);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
    };
    let words = format!("opens {open} UTC, in ");
    let convert = ["convert", "fleet.yaml", "-o", "out"];
    for arguments in [
        &["plan", "fleet.yaml"][..],
        &["validate", "fleet.yaml"],
        &["convert", "fleet.yaml", "-o", "out", "--dry-run"],
        &convert,
    ] {
        let said = told(arguments);
        assert!(
            said.contains(&words) && said.contains("stands still until it opens"),
            "{arguments:?}: {said}"
        );
        assert_eq!(said.contains("not waited for here"), arguments[0] == "convert", "{arguments:?}: {said}");
    }
    assert!(scene.is_there("out/web/boot.qcow2"), "a person who converts means now");
    let (plan, _) = scene.json(&["plan", "fleet.yaml", "--json"]);
    assert_eq!(plan["window"]["tz"], "UTC", "{plan:#}");
    assert_eq!(plan["window"]["gates"][0], "start", "{plan:#}");
    let (checked, _) = scene.json(&["validate", "fleet.yaml", "--json"]);
    assert!(checked["inputs"][0]["window"].as_str().unwrap().contains(&words), "{checked:#}");
}
