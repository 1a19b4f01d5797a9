//! `hyper2kvm convert` from outside.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::site::{names, with_pages};
use crate::support::{disks, wait_for};

struct Here {
    temp: tempfile::TempDir,
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Here {
    fn new() -> Here {
        Here { temp: tempfile::Builder::new().prefix("h2k-convert-").tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.temp.path()
    }

    fn disk(&self, stem: &str, format: &str) {
        disks::disk(self.path(), stem, format, 32, 2, 3);
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command.current_dir(self.path()).args(words).stdin(Stdio::null());
        // There is no guest in these disks.
        if words.contains(&"convert") && !words.contains(&"--no-fix") {
            command.arg("--no-fix");
        }
        command
    }

    fn run(&self, words: &[&str]) -> Said {
        self.said(&self.command(words).output().unwrap())
    }

    fn said(&self, output: &Output) -> Said {
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).unwrap().replace(&*self.path().to_string_lossy(), "[here]")
        };
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    fn names(&self) -> Vec<String> {
        names(self.path())
    }
}

#[test]
fn a_bare_disk_becomes_a_qcow2_beside_it_and_nothing_else_is_left() {
    let here = Here::new();
    here.disk("web", "vmdk");
    let said = here.run(&["convert", "web.vmdk", "-q"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    insta::assert_snapshot!(said.out, @"[here]/web.qcow2");
    assert_eq!(said.err, "");
    assert_eq!(here.names(), ["web.qcow2", "web.vmdk"]);
    assert_eq!(
        disks::content_sha256(&here.path().join("web.qcow2"), "qcow2"),
        disks::content_sha256(&here.path().join("web.vmdk"), "vmdk")
    );
}

#[test]
fn options_choose_directory_format_and_packing() {
    let here = Here::new();
    here.disk("web", "qcow2");
    let said = here.run(&["convert", "web.qcow2", "-o", "out/deep", "--compress=zlib", "--no-fix", "-q"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    insta::assert_snapshot!(said.out, @"[here]/out/deep/web.qcow2");
    let said = here.run(&["convert", "web.qcow2", "--to", "raw", "-q"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    insta::assert_snapshot!(said.out, @"[here]/web.raw");
    let said = here.run(&["convert", "web.qcow2", "--to", "vhdx"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
}

#[test]
fn nothing_is_overwritten() {
    let here = Here::new();
    here.disk("web", "qcow2");
    let said = here.run(&["convert", "web.qcow2", "-q"]);
    assert_eq!(said.code, Some(1));
    insta::assert_snapshot!(said.err, @"hyper2kvm: the result would take the place of its source [here]/web.qcow2; name another directory with `-o` or another format with `--to`");
    std::fs::write(here.path().join("web.raw"), "precious").unwrap();
    let said = here.run(&["--json", "convert", "web.qcow2", "--to", "raw"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.out, "");
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["kind"], "exists");
    assert_eq!(here.names(), ["web.qcow2", "web.raw"]);
}

#[test]
fn a_manifest_of_two_disks_ends_with_its_report() {
    let here = Here::new();
    here.disk("boot", "vmdk");
    here.disk("data", "raw");
    let manifest = disks::manifest(
        &[("boot", Path::new("boot.vmdk"), "vmdk"), ("data", Path::new("data.raw"), "raw")],
        "name: web\nprofile: none\npipeline: {convert: {enabled: true}, validate: {enabled: true}}\n",
    );
    std::fs::write(here.path().join("web.yaml"), manifest).unwrap();
    let said = here.run(&["convert", "web.yaml", "-o", "out", "--json"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.err, "");
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["artifacts"].as_array().unwrap().len(), 2);
    let expected = with_pages(&["boot.qcow2", "data.qcow2", "domain.xml", "report.json"]);
    assert_eq!(names(&here.path().join("out")), expected);
}

#[test]
fn several_inputs_get_a_directory_each_and_one_batch_report() {
    let here = Here::new();
    here.disk("a", "vmdk");
    here.disk("b", "raw");
    std::fs::write(here.path().join("c.vmdk"), "not a disk at all").unwrap();
    let said = here.run(&["convert", "a.vmdk", "c.vmdk", "b.raw", "-o", "out", "--json", "--parallel", "2"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["batch"]["total_vms"], 3);
    assert_eq!(report["batch"]["failed_vms"], 1);
    assert_eq!(report["batch"]["success_rate"], 0.6667);
    assert_eq!(report["vm_results"][1]["state"], "failed");
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["kind"], "source");
    assert_eq!(names(&here.path().join("out/a")), ["a.qcow2"]);
    assert_eq!(names(&here.path().join("out/b")), ["b.qcow2"]);
}

#[test]
fn a_failure_can_keep_the_rest_from_beginning() {
    let here = Here::new();
    here.disk("b", "raw");
    std::fs::write(here.path().join("a.vmdk"), "not a disk at all").unwrap();
    let said = here.run(&["convert", "a.vmdk", "b.raw", "-o", "out", "--fail-fast", "--parallel", "1", "-q"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("1 of 2 VMs failed, 1 not begun"), "{}", said.err);
    assert!(!here.path().join("out/b").exists());
}

#[test]
fn a_dry_run_tells_the_plan_and_touches_nothing() {
    let here = Here::new();
    here.disk("web", "vmdk");
    let said = here.run(&["convert", "web.vmdk", "-o", "out", "--dry-run", "--no-fix"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    insta::assert_snapshot!("dry-run", said.out);
    assert_eq!(here.names(), ["web.vmdk"]);
    let said = here.run(&["convert", "web.vmdk", "--dry-run", "--json"]);
    let plans: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(plans["plans"][0]["vm_id"], "web");
}

#[test]
fn what_later_versions_bring_is_named() {
    let here = Here::new();
    std::fs::write(here.path().join("web.yaml"), "manifest_version: '1.0'\nsource: {azure: {vm: web}}\n")
        .unwrap();
    let said = here.run(&["convert", "web.yaml", "--json"]);
    assert_eq!(said.code, Some(3), "{}", said.err);
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["kind"], "unsupported");
}

#[test]
fn a_mistake_in_a_manifest_is_told_with_its_line() {
    let here = Here::new();
    std::fs::write(
        here.path().join("web.yaml"),
        "manifest_version: '1.0'\ndisks:\n  - id: boot\n    frmat: raw\n",
    )
    .unwrap();
    let said = here.run(&["convert", "web.yaml", "--to", "raw", "--json"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!((&error["kind"], &error["line"]), (&"manifest".into(), &4.into()), "{error}");
    assert_eq!(here.names(), ["web.yaml"]);
}

#[test]
fn an_interrupt_keeps_what_is_done_and_says_how_to_go_on() {
    let here = Here::new();
    here.disk("boot", "raw");
    disks::disk(here.path(), "data", "raw", 512, 384, 5);
    let manifest = disks::manifest(
        &[("boot", Path::new("boot.raw"), "raw"), ("data", Path::new("data.raw"), "raw")],
        "name: web\noutput: {compress: zlib}\n",
    );
    std::fs::write(here.path().join("web.yaml"), manifest).unwrap();
    let words = ["convert", "web.yaml", "-o", "out", "-q"];
    let child = here.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let second = here.path().join("out/.data.qcow2.partial");
    wait_for("the second disk", || second.exists().then_some(()));
    let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let said = here.said(&child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{}", said.err);
    assert!(said.err.contains("hyper2kvm convert --resume web.yaml -o out -q"), "{}", said.err);
    assert!(here.path().join("out/.boot.qcow2.partial").exists());

    let refused = here.run(&words);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("--resume"), "{}", refused.err);

    let resumed = here.run(&["convert", "--resume", "web.yaml", "-o", "out", "-q"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    let expected = with_pages(&["boot.qcow2", "data.qcow2", "domain.xml", "report.json"]);
    assert_eq!(names(&here.path().join("out")), expected);
}

#[test]
fn a_packed_disk_goes_on_after_a_kill_where_it_was() {
    let here = Here::new();
    let raw = disks::disk(here.path(), "data", "raw", 96, 80, 5);
    let (size, before) = (std::fs::metadata(&raw).unwrap().len(), disks::sha256(&raw));
    assert!(Command::new("gzip").arg("-1").arg(&raw).status().unwrap().success());
    let manifest = format!(
        "manifest_version: \"1.0\"\nname: web\nprofile: none\ndisks:\n  - {{id: data, source_format: raw, \
         local_path: data.raw.gz, compression: gzip, bytes: {size}}}\n"
    );
    std::fs::write(here.path().join("web.yaml"), manifest).unwrap();
    let words = ["convert", "web.yaml", "-o", "out", "-q", "--bandwidth", "16MiB/s"];
    let mut child = here.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let journal = here.path().join("out/.data.qcow2.journal");
    let length = || std::fs::metadata(&journal).map_or(0, |file| file.len());
    wait_for("some of the copy", || (length() > 0).then_some(()));
    let begun = length();
    wait_for("more of the copy", || (length() > begun + 500).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();

    let resumed = here.run(&["convert", "--resume", "web.yaml", "-o", "out", "-q"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    assert_eq!(disks::content_sha256(&here.path().join("out/data.qcow2"), "qcow2"), before);
    let report = std::fs::read_to_string(here.path().join("out/report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let kept = report.to_string().split("\"kept_bytes\":").nth(1).map(|rest| !rest.starts_with('0'));
    assert_eq!(kept, Some(true), "{report:#}");
}

#[test]
fn an_ordinary_user_without_a_home_can_convert() {
    let here = Here::new();
    here.disk("web", "vmdk");
    let done = Command::new("chmod").args(["-R", "a+rwX"]).arg(here.path()).status().unwrap();
    assert!(done.success());
    // The binary may lie where only root gets: a copy does not.
    let program = here.path().join("hyper2kvm");
    std::fs::copy(env!("CARGO_BIN_EXE_hyper2kvm"), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["convert", "web.vmdk", "--no-fix", "-q"])
        .current_dir(here.path())
        .env_remove("HOME")
        .output()
        .unwrap();
    let said = here.said(&output);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(here.names(), ["hyper2kvm", "web.qcow2", "web.vmdk"]);
}

#[test]
fn sources_are_read_together_no_faster_than_asked() {
    let here = Here::new();
    for name in ["a", "b"] {
        disks::disk(here.path(), name, "raw", 8, 8, 4);
    }
    let begun = Instant::now();
    let said = here.run(&[
        "convert",
        "a.raw",
        "b.raw",
        "--parallel",
        "2",
        "--bandwidth",
        "3MiB/s",
        "-o",
        "out",
        "-q",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    // Of each a piece may come at once.
    assert!(begun.elapsed().as_secs_f64() >= (16.0 - 2.0) / 3.0, "{:?}", begun.elapsed());
    for bad in ["50", "0", "fast"] {
        let said = here.run(&["convert", "a.raw", "--bandwidth", bad, "-o", "other"]);
        assert_eq!(said.code, Some(2), "{bad}: {}", said.err);
        assert!(said.err.contains("64KiB/s or more"), "{}", said.err);
    }
}
