//! Hooks in manifests: what they come to in a plan, and what a drop may not have run.

use std::path::{Path, PathBuf};

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::hook::{HookCall, PlannedHook};
use hyper2kvm::model::manifest::{HookStage, RetryStrategy};
use hyper2kvm::model::planner::Submission;

const HEAD: &str = r#"
manifest_version: "1.0"
name: web
vm: {firmware: uefi}
metadata: {tags: {owner: ops, cost: 7, api_key: "0815"}}
disks:
  - {id: boot, source_format: vmdk, local_path: "web a.vmdk", boot_order_hint: 0}
hooks:
"#;

fn read(hooks: &str) -> Result<Vec<PlannedHook>, Error> {
    let mut settings = Settings::defaults(Path::new("/state"), 2);
    settings.hooks.allowed_dirs = vec![PathBuf::from("/etc/hyper2kvm/hooks"), PathBuf::from("/srv/hooks")];
    let text = format!("{HEAD}{hooks}");
    let submission = Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings)?;
    Ok(submission.plans("batch", "", &settings)?.remove(0).hooks)
}

fn planned(hooks: &str) -> Vec<PlannedHook> {
    read(hooks).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refused(hooks: &str) -> String {
    let error = read(hooks).expect_err("it was accepted");
    assert_eq!(error.kind(), Kind::Manifest, "{error}");
    assert!(error.details().place.line.is_some(), "{error}");
    error.to_string()
}

/// The arguments of the only hook, a script.
fn arguments(args: &str) -> Vec<String> {
    let hooks = planned(&format!("  pre_fix:\n    - {{type: script, path: /srv/hooks/a, args: [{args}]}}\n"));
    match &hooks[0].call {
        HookCall::Script { args, .. } => args.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_planner_knows_is_filled_in_and_the_rest_stays_a_name() {
    let args = r#""{{ stage }} {{ vm_name }}/{{ vm_id }}/{{ batch_id }}", "{{ source_path }}", "{{ source_dir }}",
        "{{ source_filename }}", "{{ output_format }}", "{{ firmware }}", "{{ manifest_path }}", "{{timestamp}}",
        "{{ output_path }}", "{{ disks.0.local_path }}", "{{ metadata.tags.cost }}", "{{ name }}", 5, true"#;
    assert_eq!(
        arguments(args),
        [
            "pre_fix web/web/batch",
            "/drops/web a.vmdk",
            "/drops",
            "web a.vmdk",
            "qcow2",
            "uefi",
            "/drops/web.yaml",
            "{{ timestamp }}",
            "{{ output_path }}",
            "/drops/web a.vmdk",
            "7",
            "web",
            "5",
            "true",
        ]
    );
}

#[test]
fn hooks_are_planned_in_the_order_of_their_stages_with_their_defaults() {
    let hooks = planned(
        "  on_failure:\n    - {type: http, url: 'https://h/{{ source_filename }}?v={{ output_path }}'}\n  pre_extraction:\n    - {type: script, path: /srv/hooks/a}\n    - {type: python, name: check, module: validators, function: verify, args: {disk: '{{ output_path }}'}, async: true, continue_on_error: true}\n",
    );
    let told: Vec<(HookStage, u32, &str)> =
        hooks.iter().map(|hook| (hook.stage, hook.number, hook.name.as_str())).collect();
    assert_eq!(
        told,
        [
            (HookStage::PreExtraction, 1, "pre_extraction[0]"),
            (HookStage::PreExtraction, 2, "check"),
            (HookStage::OnFailure, 1, "on_failure[0]"),
        ]
    );
    assert_eq!((hooks[0].timeout_s, hooks[0].retry.max_retries), (300.0, 0));
    assert!(!hooks[0].beside && !hooks[0].continue_on_error);
    assert!(hooks[1].beside && hooks[1].continue_on_error);
    assert!(
        matches!(&hooks[1].call, HookCall::Python { module, .. } if module == Path::new("validators.py"))
    );
    match &hooks[2].call {
        // A value cannot become another part of the URL.
        HookCall::Http { url, method, .. } => {
            assert_eq!(url.to_string(), "https://h/web%20a.vmdk?v={{ output_path }}");
            assert_eq!(method, "POST");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_spellings_of_repetitions_are_understood() {
    let inner = "retry: {max_retries: 3, initial_delay: 5, strategy: linear, max_delay: 40}";
    let outer = "max_retries: 3, retry_delay: 5, retry_strategy: linear, max_delay: 40";
    for spelling in [inner, outer] {
        let hooks = planned(&format!("  pre_fix:\n    - {{type: script, path: /srv/hooks/a, {spelling}}}\n"));
        let retry = hooks[0].retry;
        assert_eq!((retry.max_retries, retry.initial_delay_s, retry.max_delay_s), (3, 5.0, 40.0));
        assert_eq!(retry.strategy, RetryStrategy::Linear);
        assert!(retry.retry_on_timeout);
    }
}

#[test]
fn only_files_below_the_allowed_directories_can_be_named() {
    let script = |path: &str| format!("  pre_fix:\n    - {{type: script, path: {path}}}\n");
    for path in ["/bin/sh", "/srv/hooks", "/srv/hooks/../../bin/sh", "/srv/hooksx/a", "run.sh"] {
        assert!(refused(&script(path)).contains("does not lie below"), "{path}");
    }
    assert!(refused(&script("'/srv/hooks/{{ vm_name }}'")).contains("cannot depend on a name"));
    for module in ["/usr/lib/python3/os.py", "../os", "./os"] {
        let hook = format!("  pre_fix:\n    - {{type: python, module: {module}, function: system}}\n");
        refused(&hook);
    }
    for function in ["os.system", "1x", "''"] {
        let hook = format!("  pre_fix:\n    - {{type: python, module: a, function: {function}}}\n");
        refused(&hook);
    }
}

#[test]
fn variables_that_decide_what_programs_load_cannot_be_set() {
    let with =
        |name: &str| format!("  pre_fix:\n    - {{type: script, path: /srv/hooks/a, env: {{{name}: x}}}}\n");
    for name in [
        "LD_PRELOAD",
        "PATH",
        "BASH_ENV",
        "ENV",
        "PYTHONPATH",
        "PERL5OPT",
        "IFS",
        "HOME",
        "H2K_ATTEMPT",
        "'a b'",
    ] {
        refused(&with(name));
    }
    for name in ["API_TOKEN", "DB_PASSWORD"] {
        assert!(refused(&with(name)).contains("secret"), "{name}");
    }
    for name in ["SOURCE", "TOKEN_FILE", "VM_NAME"] {
        planned(&with(name));
    }
}

#[test]
fn names_that_mean_nothing_are_told_with_what_was_meant() {
    let with = |name: &str| {
        format!("  pre_fix:\n    - {{type: script, path: /srv/hooks/a, args: ['{{{{ {name} }}}}']}}\n")
    };
    for (name, meant) in [
        ("vm_nam", "did you mean `vm_name`"),
        ("disk.0.local_path", "did you mean `disks.0.local_path`"),
        ("disks.0.local_pth", "did you mean `disks.0.local_path`"),
        ("disks.1.local_path", "nothing at `disks.1.local_path`"),
        ("disks.0", "is a map"),
        ("vm.uuid", "nothing at `vm.uuid`"),
        ("metadata.tags.api_key", "is a secret"),
        ("token", "no variable `token`"),
    ] {
        let said = refused(&with(name));
        assert!(said.contains(meant), "{name}: {said}");
    }
}

#[test]
fn hooks_of_a_stage_that_is_off_are_told_of() {
    let mut settings = Settings::defaults(Path::new("/state"), 2);
    settings.hooks.allowed_dirs = vec![PathBuf::from("/srv/hooks")];
    let text = format!("profile: none\n{HEAD}  pre_fix:\n    - {{type: script, path: /srv/hooks/a}}\n");
    let submission = Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings).unwrap();
    let plan = submission.plans("web", "", &settings).unwrap().remove(0);
    assert!(
        plan.warnings.iter().any(|warning| warning.contains("hooks.pre_fix will not run")),
        "{:?}",
        plan.warnings
    );
}
