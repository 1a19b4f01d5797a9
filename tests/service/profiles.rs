//! Profiles of one's own, for drops: which version counts, for how long, and what the service tells of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::site::{drop_disk, source};
use super::support::{Daemon, wait_for, within};

/// A daemon with a directory of profiles, not started.
fn prepare(further: &str) -> (Daemon, PathBuf) {
    let daemon = Daemon::prepare();
    let profiles = daemon.scratch().join("profiles");
    fs::create_dir(&profiles).unwrap();
    daemon.configure(&format!("profiles_dir: {}\n{further}", profiles.display()));
    (daemon, profiles)
}

fn bytes_as(format: &str) -> String {
    format!("extends: none\npipeline: {{convert: {{enabled: true}}}}\noutput: {{format: {format}}}\n")
}

fn write(profiles: &Path, name: &str, text: &str) {
    fs::write(profiles.join(format!("{name}.yaml")), text).unwrap();
}

fn result(daemon: &Daemon, batch: &str, format: &str) -> PathBuf {
    daemon.state().join(format!("output/{batch}/{batch}/boot.{format}"))
}

fn counts(daemon: &Daemon) -> (u64, u64, u64) {
    let status = daemon.client(&["status"]);
    let of = |key: &str| status["profiles"][key].as_u64().unwrap();
    (of("hits"), of("misses"), of("invalidations"))
}

#[test]
fn drops_take_custom_profiles_and_a_change_of_any_file_counts_for_the_next_drop() {
    let (mut daemon, profiles) = prepare("");
    write(&profiles, "web", "extends: base\n");
    write(&profiles, "base", &bytes_as("raw"));
    // What was changed a moment ago is not kept.
    std::thread::sleep(Duration::from_millis(300));
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 2);
    let drop_and_wait = |name: &str| {
        // The same content would be done already.
        drop_disk(&daemon, name, &disk, "raw", &format!("profile: web\nnotes: [{name}]\n"));
        assert_eq!(daemon.wait_batch(name)["state"], "completed", "{}", daemon.log());
    };
    drop_and_wait("one");
    drop_and_wait("two");
    let results = Daemon::files_below(&daemon.state().join("output"), |name| name.starts_with("boot."));
    assert_eq!(results, [result(&daemon, "one", "raw"), result(&daemon, "two", "raw")], "{}", daemon.log());
    let (hits, misses, invalidations) = counts(&daemon);
    assert!(hits >= 1 && misses >= 1 && invalidations == 0, "{hits} {misses} {invalidations}");
    write(&profiles, "base", &bytes_as("vdi"));
    drop_and_wait("three");
    assert!(result(&daemon, "three", "vdi").exists());
    assert_eq!(counts(&daemon).2, 1);
    let told = within(Duration::from_secs(60), || {
        daemon.status_file().filter(|status| status["profiles"]["invalidations"] == 1)
    });
    assert!(told.is_some(), "{:?}", daemon.status_file());
    let words = std::process::Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .arg("status")
        .env("HYPER2KVM_STATE_DIR", daemon.state())
        .output()
        .unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("profiles ") && words.contains(" misses, 1 changed\n"), "{words}");
}

#[test]
fn what_was_accepted_stays_as_it_was_whatever_becomes_of_its_profile() {
    let (mut daemon, profiles) = prepare("");
    write(&profiles, "web", &bytes_as("raw"));
    daemon.start();
    daemon.client(&["pause"]);
    let disk = source(&daemon, "disk", "raw", 2);
    drop_disk(&daemon, "early", &disk, "raw", "profile: web\n");
    wait_for("the drop to be accepted", || {
        let jobs = daemon.client(&["list"]);
        (!jobs["jobs"].as_array()?.is_empty()).then_some(())
    });
    write(&profiles, "web", &bytes_as("vdi"));
    drop_disk(&daemon, "late", &disk, "raw", "profile: web\n");
    wait_for("the other to be accepted", || {
        (daemon.client(&["list"])["jobs"].as_array()?.len() == 2).then_some(())
    });
    fs::remove_file(profiles.join("web.yaml")).unwrap();
    daemon.kill9();
    daemon.start();
    daemon.client(&["resume"]);
    for (batch, format) in [("early", "raw"), ("late", "vdi")] {
        assert_eq!(daemon.wait_batch(batch)["state"], "completed", "{}", daemon.log());
        assert!(result(&daemon, batch, format).exists(), "{batch}");
    }
}

#[test]
fn a_drop_whose_profile_is_wrong_is_told_with_the_line_in_the_profile_and_taken_once_that_is_mended() {
    let (mut daemon, profiles) = prepare("");
    write(&profiles, "web", "extends: base\n");
    write(&profiles, "base", "description: x\nextends: web\n");
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 2);
    drop_disk(&daemon, "vm", &disk, "raw", "profile: web\n");
    let path = daemon.wait_settled("failed", "vm.yaml.error.json");
    let error: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let said = error["error"].as_str().unwrap();
    assert!(said.contains("web -> base -> web"), "{error}");
    assert_eq!(
        (&error["kind"], &error["line"], &error["field"]),
        (&"manifest".into(), &2.into(), &"extends".into())
    );
    assert!(error.to_string().contains(&format!("{}", profiles.join("base.yaml").display())), "{error}");
    write(&profiles, "base", &bytes_as("raw"));
    drop_disk(&daemon, "vm", &disk, "raw", "profile: web\n");
    assert_eq!(daemon.wait_batch("vm")["state"], "completed", "{}", daemon.log());
}

#[test]
fn disks_that_are_dropped_take_the_profile_of_the_configuration_which_has_to_be_there_at_the_start() {
    let (mut daemon, profiles) =
        prepare("intake: {accept_disks: true, profile: web, settle_s: {disk: 0.2}}\n");
    daemon.spawn();
    assert!(!daemon.ready(), "{}", daemon.log());
    assert!(daemon.log().contains("intake.profile: there is no profile `web`"), "{}", daemon.log());
    daemon.wait_end(Duration::from_secs(30));
    write(&profiles, "web", &bytes_as("vdi"));
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 2);
    daemon.drop_file("db.raw", fs::read(disk).unwrap());
    assert_eq!(daemon.wait_batch("db")["state"], "completed", "{}", daemon.log());
    assert!(daemon.state().join("output/db/db/db.vdi").exists());
}
