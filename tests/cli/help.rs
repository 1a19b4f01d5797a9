//! What every command says of itself, against what was reviewed.

use hyper2kvm::cli::LATER;

use crate::run::{run, run_at};

/// The commands that this version has.
const COMMANDS: [&str; 31] = [
    "daemon",
    "convert",
    "boot-test",
    "plan",
    "profiles",
    "validate",
    "inspect",
    "fix",
    "submit",
    "list",
    "show",
    "watch",
    "logs",
    "cancel",
    "release",
    "rollback",
    "retry",
    "priority",
    "pause",
    "resume",
    "cutover",
    "drain",
    "prune",
    "status",
    "check",
    "doctor",
    "bundle",
    "schema",
    "completions",
    "man",
    "unit-settings",
];

#[test]
fn help_is_what_was_reviewed() {
    insta::assert_snapshot!("help", run(&["--help"]).stdout);
    for command in COMMANDS {
        let done = run(&[command, "--help"]);
        assert_eq!(done.code, 0);
        insta::assert_snapshot!(format!("help-{command}"), done.stdout);
    }
}

#[test]
fn every_command_is_listed_and_knows_its_version() {
    let help = run(&["help"]).stdout;
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in the list:\n{help}");
        assert_eq!(run(&[command, "--version"]).stdout.split(' ').next_back(), Some("0.1.0\n"));
    }
    assert_eq!(run(&["--version"]).stdout, "hyper2kvm 0.1.0\n");
}

#[test]
fn commands_of_later_versions_are_unknown_with_a_hint() {
    for name in LATER {
        assert!(!COMMANDS.contains(&name), "{name} is here");
        let done = run(&[name]);
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains("unrecognized subcommand"), "{}", done.stderr);
        assert!(done.stderr.contains("comes with a later version"), "{}", done.stderr);
        let error = run(&["--json", name]).error_json();
        assert_eq!(error["exit_code"], 2);
        assert!(error["suggestion"].as_str().unwrap().contains("later version"));
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    for words in [&["frobnicate"][..], &["show"], &["list", "--colour"], &["-v", "-q", "status"], &[]] {
        let done = run(words);
        assert_eq!(done.code, 2, "{words:?}");
        assert!(done.stdout.is_empty() && done.stderr.contains("sage"), "{}", done.stderr);
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = run(&["completions", shell]);
        assert_eq!(done.code, 0);
        assert!(done.stdout.contains("hyper2kvm") && done.stdout.contains("doctor"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).code, 2);
}

#[test]
fn there_is_a_manual_page_per_command() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("man1");
    let done = run_at(dir.path(), &["man", target.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for command in COMMANDS {
        let page = std::fs::read_to_string(target.join(format!("hyper2kvm-{command}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains(".SH NAME"), "{command}");
    }
    assert!(run(&["man"]).stdout.contains(".TH hyper2kvm 1"));
}
