//! Hooks on the command line: what is told of them beforehand, and `convert` without a daemon.

use std::fs;

use tempfile::TempDir;

use crate::run::{Done, hyper2kvm};
use crate::support::hooks::{Hooks, as_root};

/// A manifest with one script, which notes its arguments, and a configuration that allows it.
fn site(hooks: &Hooks) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("a.img")).unwrap().set_len(1 << 20).unwrap();
    let path = hooks.script("note", "shift; echo \"$@\" >>\"$NOTES\"");
    let manifest = format!(
        "manifest_version: \"1.0\"\nname: web\nprofile: none\ndisks:\n  - {{id: boot, source_format: raw, local_path: a.img}}\n\
         hooks:\n  pre_extraction:\n    - {{type: script, path: {}, args: [first, \"{{{{ vm_name }}}}\", \"{{{{ output_filename }}}}\"], \
         env: {{NOTES: {}}}}}\n",
        path.display(),
        hooks.file("notes").display()
    );
    fs::write(dir.path().join("vm.yaml"), manifest).unwrap();
    fs::write(
        dir.path().join("config.yaml"),
        format!("hooks: {{allowed_dirs: [{}]}}\n", hooks.allowed().display()),
    )
    .unwrap();
    dir
}

fn at(dir: &TempDir, words: &[&str]) -> Done {
    hyper2kvm()
        .current_dir(dir.path())
        .args(words)
        .env("HYPER2KVM_STATE_DIR", dir.path().join("state"))
        .output()
        .unwrap()
        .into()
}

#[test]
fn convert_runs_hooks_only_from_where_its_configuration_allows_it() {
    let hooks = Hooks::new();
    let dir = site(&hooks);
    fs::write(dir.path().join("empty.yaml"), "").unwrap();
    let done = at(&dir, &["--config", "empty.yaml", "convert", "vm.yaml", "-o", "out"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("hooks.allowed_dirs"), "{}", done.stderr);
    assert!(!dir.path().join("out/boot.qcow2").exists());

    let done = at(&dir, &["--config", "config.yaml", "convert", "vm.yaml", "-o", "out", "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(hooks.lines("notes"), ["web boot.qcow2"]);
    assert_eq!(done.json()["hooks"][0]["status"], "exit code 0");
    let mut names: Vec<_> =
        fs::read_dir(dir.path().join("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["boot.qcow2", "domain.xml", "report.json", "report.md", "report.txt"]);
}

#[test]
fn what_only_tells_what_would_be_done_runs_no_hook_and_shows_it() {
    let hooks = Hooks::new();
    let dir = site(&hooks);
    for words in [vec!["plan", "vm.yaml"], vec!["convert", "vm.yaml", "-o", "out", "--dry-run"]] {
        let done = at(&dir, &[vec!["--config", "config.yaml"], words].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        let shown = format!("{}/note first web '{{{{ output_filename }}}}'", hooks.allowed().display());
        assert!(done.stdout.contains("pre_extraction  script pre_extraction[0]"), "{}", done.stdout);
        assert!(done.stdout.contains(&shown), "{}", done.stdout);
    }
    assert_eq!(hooks.lines("notes"), Vec::<String>::new());
}

#[test]
fn validate_looks_at_the_files_and_says_how_to_mend_them() {
    let hooks = Hooks::new();
    let dir = site(&hooks);
    let validate = || at(&dir, &["--config", "config.yaml", "validate", "vm.yaml"]);
    assert_eq!(validate().code, 0, "{}", validate().stderr);
    let path = hooks.allowed().join("note");
    as_root(&["chmod", "777"], &[&path]);
    let done = validate();
    assert_ne!(done.code, 0);
    let told = format!("{}{}", done.stdout, done.stderr);
    assert!(told.contains(&format!("chmod go-w {}", path.display())), "{told}");
    as_root(&["rm"], &[&path]);
    assert_ne!(validate().code, 0);
}
