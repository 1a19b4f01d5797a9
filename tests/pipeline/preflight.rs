//! The pre-flight of a job: all that is wrong is its failure, what is found is in its report, and validators of the administrator's have their say.

use std::time::{Duration, Instant};

use hyper2kvm::model::config::CustomValidator;
use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::protocol::WorkerOutcome;
use hyper2kvm::model::report::Report;
use hyper2kvm::model::validation::{Severity, Validation, Weight};

use crate::hook_hostility::{assert_gone, nap};
use crate::site::Site;
use crate::support::hooks::Hooks;
use crate::support::{disks, trees};

fn report(site: &Site) -> Report {
    site.succeed();
    serde_json::from_slice(&std::fs::read(site.out().join("report.json")).unwrap()).unwrap()
}

fn validation(site: &Site) -> Validation {
    report(site).validation.unwrap()
}

fn rules(validation: &Validation) -> Vec<(&str, Severity)> {
    validation.results.iter().map(|finding| (finding.rule.as_str(), finding.severity)).collect()
}

fn weigh(site: &mut Site, rule: &str, weight: Weight) {
    site.order.plan.rules.insert(rule.to_owned(), weight);
}

#[test]
fn what_was_found_is_in_the_report_and_what_is_a_warning_among_its_warnings() {
    let mut site = Site::new(&["raw", "vmdk"]);
    site.order.plan.disks[0].checksum = Some(disks::sha256(site.source(0)));
    site.order.plan.disks[1].bytes = Some(12_345);
    let report = report(&site);
    let validation = report.validation.unwrap();
    assert!(validation.ok);
    let found = [("disk.size", Severity::Warning), ("disk.no_checksum", Severity::Info)];
    assert_eq!(rules(&validation), found);
    assert_eq!((validation.counts.warning, validation.counts.info), (1, 1));
    let warnings: Vec<&str> = report.warnings.iter().map(|notice| notice.message.as_str()).collect();
    assert!(
        matches!(warnings.as_slice(), [one] if one.starts_with("disk disk1: the manifest says 12345")),
        "{warnings:?}"
    );
    assert!(site.log_text().contains("there is no checksum of it"), "{}", site.log_text());
}

#[test]
fn a_job_that_cannot_begin_tells_all_that_is_wrong_with_the_kind_of_the_worst() {
    let mut site = Site::new(&["raw", "qcow2", "vmdk"]);
    std::fs::create_dir(site.out()).unwrap();
    std::fs::write(site.out().join("disk0.qcow2"), "a result").unwrap();
    std::fs::write(site.source(1), "<html>").unwrap();
    std::fs::remove_file(site.source(2)).unwrap();
    let error = site.fail();
    assert_eq!((error.kind(), error.details().stage), (Kind::Exists, Some(Stage::Load)), "{error}");
    for word in ["also:", "disk0.qcow2", "a web page", "disk2.vmdk"] {
        assert!(error.details().cause.contains(word), "{word}: {error}");
    }
    weigh(&mut site, "disk.format", Weight::Critical);
    let error = site.fail();
    assert_eq!(
        (error.kind(), error.details().rule.as_deref()),
        (Kind::Source, Some("disk.format")),
        "{error}"
    );
    assert_eq!(site.names(), ["disk0.qcow2"], "nothing is left but what was there");
}

#[test]
fn a_rule_that_was_raised_fails_a_job_and_the_administrators_word_is_not_lowered() {
    let mut site = Site::new(&["raw"]);
    site.order.plan.disks[0].bytes = Some(12_345);
    site.order.limits.preflight.rules.insert("disk.size".to_owned(), Weight::Error);
    assert_eq!(site.fail().details().rule.as_deref(), Some("disk.size"));
    weigh(&mut site, "disk.size", Weight::Off);
    assert_eq!(site.fail().details().rule.as_deref(), Some("disk.size"));
    site.order.limits.preflight.rules.clear();
    assert!(!rules(&validation(&site)).iter().any(|(rule, _)| *rule == "disk.size"));
}

/// A site whose job is judged by a shell script.
fn judged(hooks: &Hooks, lines: &str) -> Site {
    let path = hooks.script("judge", lines);
    let mut site = Site::new(&["raw"]);
    site.order.limits.hook_roots = vec![hooks.allowed()];
    site.order.limits.preflight.validators =
        vec![CustomValidator { name: "site".to_owned(), path, timeout_s: 60.0 }];
    // What an administrator has set up is not a drop's to switch off.
    site.order.plan.preflight = hyper2kvm::model::plan::Preflight::Off;
    site
}

#[test]
fn a_validator_of_the_administrators_is_given_the_plan_and_its_findings_count() {
    let hooks = Hooks::new();
    let plan = hooks.file("plan");
    let env = hooks.file("env");
    let lines = format!(
        "cat >{}; env >{}; echo careful >&2; echo '[{{\"severity\": \"warning\", \"message\": \"nobody owns it\", \"rule\": \"owner\", \"about\": \"disk0\"}}]'",
        plan.display(),
        env.display()
    );
    let site = judged(&hooks, &lines);
    let validation = validation(&site);
    assert_eq!(rules(&validation), [("custom.site.owner", Severity::Warning)]);
    assert_eq!(validation.results[0].message, "nobody owns it");
    let given: serde_json::Value = serde_json::from_slice(&std::fs::read(plan).unwrap()).unwrap();
    assert_eq!((&given["vm_id"], &given["disks"][0]["id"]), (&"vm".into(), &"disk0".into()));
    let variables = hooks.lines("env");
    let names: Vec<&str> = variables.iter().filter_map(|line| line.split('=').next()).collect();
    assert!(
        names.iter().all(|name| ["PATH", "H2K_VALIDATOR", "PWD", "SHLVL", "_", "OLDPWD"].contains(name)),
        "{names:?}"
    );

    let error =
        judged(&hooks, "echo '[{\"severity\": \"error\", \"message\": \"not before Monday\"}]'").fail();
    assert_eq!((error.kind(), error.details().rule.as_deref()), (Kind::Hook, Some("custom.site")), "{error}");
    assert!(error.to_string().contains("not before Monday"), "{error}");
    assert_eq!(rules(&self::validation(&judged(&hooks, "echo '[]'"))), []);
}

#[track_caller]
fn critical(site: &Site, why: &str) -> Error {
    let error = site.fail();
    assert_eq!((error.kind(), error.details().rule.as_deref()), (Kind::Hook, Some("custom.site")), "{error}");
    assert!(error.to_string().contains(why), "{error}");
    site.assert_only(&[]);
    site.assert_no_process();
    error
}

#[test]
fn a_validator_that_answers_badly_fails_the_job_and_says_why() {
    let hooks = Hooks::new();
    for (lines, why) in [
        ("echo all is well", "no list of findings"),
        ("exit 0", "no list of findings"),
        ("echo '[]'; exit 3", "exit code 3"),
        ("printf '[\\377]'", "not UTF-8"),
        ("echo '[{\"severity\": \"fatal\", \"message\": \"x\"}]'", "no list of findings"),
        ("kill -9 $$", "killed by signal 9"),
    ] {
        critical(&judged(&hooks, lines), why);
    }
    let mut site = judged(&hooks, "echo '[]'");
    site.order.limits.preflight.validators[0].path = "/bin/true".into();
    critical(&site, "allowed_dirs");
    let open = hooks.install("open", "777", "#!/bin/sh\necho '[]'\n");
    site.order.limits.preflight.validators[0].path = open;
    critical(&site, "may be changed by others");
}

#[test]
fn a_validator_that_hangs_or_floods_is_ended_with_all_that_it_started() {
    let hooks = Hooks::new();
    let nap = nap();
    let mut site = judged(&hooks, &format!("setsid -f sleep {nap}; exec sleep {nap}"));
    site.order.limits.preflight.validators[0].timeout_s = 1.5;
    critical(&site, "did not end within 1.5 s");
    assert_gone(&nap);
    let site = judged(&hooks, "exec yes '[{\"severity\": \"info\", \"message\": \"x\"}]'");
    let begun = Instant::now();
    critical(&site, "more than 64 KiB");
    assert!(begun.elapsed() < Duration::from_secs(50), "it was ended when its time was over");
}

/// A guest that sleeps: its root, and the swap in which its memory lies.
fn asleep() -> Site {
    let mut site = Site::new(&["raw", "raw"]);
    let tree = trees::tree(
        site.root(),
        &[
            (
                "etc/os-release",
                "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
            ),
            ("etc/fstab", "/dev/sda / ext4 errors=remount-ro 0 1\n"),
            ("etc/hostname", "web\n"),
            ("usr/bin/apt-get", ""),
        ],
    );
    trees::ext4(site.source(0), 32, &tree, &[]);
    let swap = site.source(1).to_owned();
    std::fs::write(&swap, vec![0; 8 << 20]).unwrap();
    assert!(std::process::Command::new("/sbin/mkswap").arg("-q").arg(&swap).status().unwrap().success());
    let mut bytes = std::fs::read(&swap).unwrap();
    bytes[4086..4096].copy_from_slice(b"S1SUSPEND\0");
    std::fs::write(&swap, bytes).unwrap();
    for planned in &mut site.order.plan.stages {
        planned.enabled |= matches!(planned.stage, Stage::Inspect | Stage::Fix);
    }
    site
}

#[test]
fn a_guest_that_sleeps_is_refused_unless_the_rule_is_lowered_and_then_converted_as_it_is() {
    let mut site = asleep();
    let error = site.fail();
    assert_eq!(
        (error.kind(), error.details().rule.as_deref()),
        (Kind::Guest, Some("guest.hibernated")),
        "{error}"
    );
    assert!(site.names().iter().all(|name| name.starts_with('.')), "{:?}", site.names());

    weigh(&mut site, "guest.hibernated", Weight::Warning);
    let report = report(&site);
    site.assert_same_content();
    let fix = report.pipeline.stages[&Stage::Fix].result.clone().unwrap();
    assert!(fix["skipped"].as_str().is_some_and(|why| why.contains("hibernated")), "{fix}");
    assert!(report.fixes.is_empty());
    let as_it_is = report.warnings.iter().any(|warning| warning.message.contains("as it is"));
    assert!(as_it_is, "{:?}", report.warnings);
}

#[test]
fn a_guest_that_is_only_looked_at_is_judged_and_the_judgement_is_in_the_report() {
    let mut site = asleep();
    for planned in &mut site.order.plan.stages {
        planned.enabled &= planned.stage != Stage::Fix;
    }
    assert!(rules(&validation(&site)).contains(&("guest.hibernated", Severity::Warning)));
    weigh(&mut site, "guest.hibernated", Weight::Critical);
    std::fs::remove_dir_all(site.out()).unwrap();
    let WorkerOutcome::Failed { error } = site.run().outcome else { panic!("{}", site.log_text()) };
    assert_eq!(error.details().rule.as_deref(), Some("guest.hibernated"), "{error}");
}
