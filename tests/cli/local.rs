//! Commands that need no daemon: plan, validate, schema, bundle; and the configuration that all read.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::fake::Fake;
use crate::run::{Done, hyper2kvm, run, run_at};

/// A directory with a small source disk and a manifest for it.
fn site() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("a.vmdk");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "vmdk"]).arg(&disk).arg("8M").status();
    assert!(made.expect("qemu-img is installed by set-up").success());
    write(&dir, "vm.yaml", &manifest("a.vmdk"));
    dir
}

fn manifest(disk: &str) -> String {
    format!(
        "manifest_version: \"1.0\"\nname: web\ndisks:\n  - {{id: boot, source_format: vmdk, local_path: {disk}}}\n"
    )
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn at(dir: &TempDir, words: &[&str]) -> Done {
    hyper2kvm().args(words).env("HYPER2KVM_STATE_DIR", dir.path().join("state")).output().unwrap().into()
}

#[test]
fn a_plan_tells_every_stage_with_its_reason_and_touches_nothing() {
    let dir = site();
    let path = dir.path().join("vm.yaml");
    let before = fs::read_dir(dir.path()).unwrap().count();
    let done = at(&dir, &["plan", path.to_str().unwrap(), "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let document = done.json();
    let plan = &document["plans"][0];
    let stages = plan["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 8);
    assert!(stages.iter().all(|stage| stage["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
    let on =
        stages.iter().filter(|stage| stage["enabled"] == true).map(|stage| stage["stage"].as_str().unwrap());
    assert_eq!(
        on.collect::<Vec<_>>(),
        ["load", "extraction", "inspect", "fix", "convert", "validate", "boot_test"]
    );
    assert_eq!(plan["lacking"], serde_json::json!([]));
    assert!(document.get("origins").is_none());

    let text = at(&dir, &["plan", path.to_str().unwrap(), "--origins"]).stdout;
    assert!(text.contains("output/vm/web/boot.qcow2"), "{text}");
    assert!(text.contains("manifest, line 2") && text.contains("profile production"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
}

#[test]
fn a_plan_tells_the_addresses_that_cards_get_in_the_guest() {
    let dir = site();
    let path = dir.path().join("vm.yaml");
    let nics = "nics:\n  - {mac: \"52:54:00:12:34:56\", addresses: [192.0.2.10/24], gateway: 192.0.2.1, dns: [192.0.2.53]}\n";
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{nics}")).unwrap();
    let done = at(&dir, &["plan", path.to_str().unwrap()]);
    let line = "card 1 (52:54:00:12:34:56): 192.0.2.10/24, gateway 192.0.2.1, name servers 192.0.2.53\n";
    assert!(
        done.stdout.contains(&format!("\naddresses in the guest\n  {line}")),
        "{} {}",
        done.stdout,
        done.stderr
    );
}

#[test]
fn the_plan_of_a_disk_is_what_converting_it_would_do() {
    let dir = site();
    let here =
        |words: &[&str]| -> Done { hyper2kvm().args(words).current_dir(dir.path()).output().unwrap().into() };
    let planned = here(&["plan", "--json", "a.vmdk"]);
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    assert_eq!(planned.json(), here(&["convert", "--dry-run", "--json", "a.vmdk"]).json());
    let text = here(&["plan", "--origins", "a.vmdk"]).stdout;
    assert!(text.contains("a.qcow2") && text.contains("profile production"), "{text}");
    assert!(!text.contains("line "), "nobody wrote a line: {text}");
    let later = here(&["plan", "vsphere://vc/web"]);
    assert!(later.stderr.contains("no stored credential"), "{}", later.stderr);
    assert_eq!(later.code, here(&["convert", "vsphere://vc/web"]).code);
}

#[test]
fn a_manifest_that_is_wrong_is_told_by_place() {
    let dir = site();
    let path = write(&dir, "bad.yaml", "manifest_version: \"1.0\"\ndisks: []\nfrmat: qcow2\n");
    let done = at(&dir, &["validate", &path]);
    assert_eq!(done.code, 2);
    assert!(done.stdout.contains("bad.yaml:"), "{}", done.stdout);
    let plan = at(&dir, &["plan", &path, "--json"]);
    assert_eq!(plan.code, 2);
    assert!(plan.error_json()["line"].is_number(), "{}", plan.stderr);
}

#[test]
fn all_that_is_wrong_with_a_file_is_told_in_the_order_of_its_lines() {
    let dir = site();
    let text = "manifest_version: \"1.0\"\nfrmat: qcow2\ndisks:\n  - {id: a, source_format: vmkd, local_path: a.vmdk}\n  - {id: b, local_path: 7}\n\
                vm:\n  cpu: 0\n";
    let path = write(&dir, "bad.yaml", text);
    let document = at(&dir, &["validate", "--json", &path]).json();
    let errors = document["inputs"][0]["errors"].as_array().unwrap();
    let told: Vec<(u64, &str)> = errors
        .iter()
        .map(|error| (error["line"].as_u64().unwrap(), error["field"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            (2, "frmat"),
            (4, "disks[0].source_format"),
            (5, "disks[1].source_format"),
            (5, "disks[1].local_path"),
            (7, "vm.cpu")
        ]
    );
    let text = at(&dir, &["validate", &path]).stdout;
    assert_eq!(text.lines().count(), 5, "{text}");

    let many: String = (0..70).map(|number| format!("key{number}: 1\n")).collect();
    let input = &at(&dir, &["validate", "--json", &write(&dir, "many.yaml", &many)]).json()["inputs"][0];
    assert_eq!(input["errors"].as_array().unwrap().len(), 50);
    assert!(input["warnings"][0].as_str().unwrap().contains("more than 50"), "{input}");

    let config = "verbose: loud\nguest: {accel: tcg}\nwatch_dir: /srv\nretry: {jiter: 1}\n";
    let input = &at(&dir, &["validate", "--json", &write(&dir, "c.yaml", config)]).json()["inputs"][0];
    let lines: Vec<u64> =
        input["errors"].as_array().unwrap().iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 2, 3, 4], "{input}");
}

#[test]
fn every_input_is_checked_whatever_it_is_and_one_that_is_wrong_decides_the_exit_code() {
    let dir = site();
    let good = dir.path().join("vm.yaml").to_str().unwrap().to_owned();
    let config = write(&dir, "config.yaml", "max_concurrent_jobs: 2\n");
    let bad_config = write(&dir, "bad-config.yaml", "max_concurrent_jobs: many\n");
    let gone = dir.path().join("gone.yaml").to_str().unwrap().to_owned();
    assert_eq!(at(&dir, &["validate", &good, &config]).code, 0);
    let done = at(&dir, &["validate", "--json", &good, &config, &bad_config, &gone]);
    assert_eq!(done.code, 2);
    let document = done.json();
    let inputs = document["inputs"].as_array().unwrap();
    let ok: Vec<bool> = inputs.iter().map(|input| input["ok"].as_bool().unwrap()).collect();
    assert_eq!(ok, [true, true, false, false]);
    assert_eq!(inputs[2]["errors"][0]["field"], "max_concurrent_jobs");
    assert_eq!(inputs[2]["errors"][0]["line"], 1);
    assert_eq!(inputs[3]["path"], gone.as_str());
}

#[test]
fn a_deep_check_opens_the_sources() {
    let dir = site();
    let bytes = |disk: &str| format!("profile: none\n{}", manifest(disk));
    let good = write(&dir, "good.yaml", &bytes("a.vmdk"));
    let gone = write(&dir, "gone.yaml", &bytes("nothing.vmdk"));
    assert_eq!(at(&dir, &["validate", &gone]).code, 0);
    let deep = at(&dir, &["validate", "--deep", "--json", &good, &gone]);
    assert_eq!(deep.code, 2, "{}", deep.stdout);
    let document = deep.json();
    assert_eq!(document["inputs"][0]["ok"], true, "{document}");
    assert_eq!(document["inputs"][1]["errors"][0]["kind"], "source");
}

#[test]
fn the_service_checks_as_itself_when_asked_to() {
    let (dir, fake) = (site(), Fake::start());
    let good = dir.path().join("vm.yaml").to_str().unwrap().to_owned();
    let bad = write(&dir, "bad.yaml", "nonsense: 1\n");
    let done = run_at(fake.state(), &["submit", "--check", "--json", &bad]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert_eq!(done.json()["inputs"][0]["path"], bad.as_str());
    // The fake service is this test binary, whose stub is not ours: only the manifest itself is judged here.
    let checked = run_at(fake.state(), &["submit", "--check", "--json", &good]).json();
    assert_eq!(checked["inputs"].as_array().unwrap().len(), 1);
    assert_eq!(run_at(fake.state(), &["list", "--json"]).json()["jobs"].as_array().unwrap().len(), 4);
}

#[test]
fn a_configuration_that_is_wrong_ends_what_was_told_to_use_it() {
    let dir = site();
    let config = write(&dir, "c.yaml", "max_concurrent_jobs: many\n");
    let done = run(&["--config", &config, "status"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("c.yaml:1:"), "{}", done.stderr);
}

#[test]
fn there_is_a_schema_of_every_kind() {
    for kind in ["manifest", "batch", "profile", "config", "progress", "report", "error"] {
        let schema = run(&["schema", kind]).json();
        assert_eq!(schema["type"], "object", "{kind}");
    }
    let wrong = run(&["schema", "poem"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("manifest"), "{}", wrong.stderr);
}

#[test]
fn a_bundle_is_an_archive_that_tar_reads_without_secrets() {
    let (dir, fake) = (site(), Fake::start());
    let config = write(&dir, "c.yaml", "# password: hunter2\nmax_concurrent_jobs: 2\n");
    let target = dir.path().join("b.tar").to_str().unwrap().to_owned();
    let words = ["--config", &config, "bundle", "1", "nobody", "-o", &target, "--json"];
    let done = run_at(fake.state(), &words);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.json()["bundle"], target.as_str());

    let listed = Command::new("tar").args(["-tf", &target]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in ["versions.json", "doctor.json", "settings.json", "configuration/0-c.yaml", "status.json"] {
        assert!(listed.contains(name), "{name} is not in\n{listed}");
    }
    for name in ["jobs/0/job.json", "jobs/0/log.txt", "jobs/1/error.json"] {
        assert!(listed.contains(name), "{name} is not in\n{listed}");
    }
    let extract = |name: &str| {
        let done = Command::new("tar").args(["-xOf", &target, name]).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    assert!(!extract("configuration/0-c.yaml").contains("hunter2"));
    serde_json::from_str::<Value>(&extract("doctor.json")).unwrap();
    assert!(extract("jobs/0/log.txt").contains("copying"));
    assert_eq!(run_at(fake.state(), &words).code, 1, "it overwrites nothing");
}
