//! How the runner goes on, and what a plan for tests looks like.

use std::path::PathBuf;

use super::*;
use crate::model::boot::BootOptions;
use crate::model::error::Kind;
use crate::model::job::Stage;
use crate::model::machine::{Machine, MachineDisk};
use crate::model::plan::{
    Compression, InputManifest, OnExists, OutputFormat, PlannedGuest, PlannedOutput, PlannedStage,
    Preallocation, SourceFormat,
};
use crate::model::validation::{Severity, Weight};

/// A VM of one disk with these stages.
pub(in crate::pipeline) fn plan(stages: &[Stage]) -> Plan {
    let disk = MachineDisk {
        boot_order: Some(1),
        ..MachineDisk::new("boot", "/out/boot.qcow2", SourceFormat::Qcow2)
    };
    Plan {
        vm_id: "web".to_owned(),
        name: "web".to_owned(),
        profile: "none".to_owned(),
        stages: Stage::ALL
            .into_iter()
            .map(|stage| PlannedStage { stage, enabled: stages.contains(&stage), reason: String::new() })
            .collect(),
        disks: Vec::new(),
        remote: None,
        machine: Some(Machine { disks: vec![disk], ..Machine::new("web") }),
        guest: PlannedGuest::default(),
        boot_test: BootOptions::default(),
        hooks: Vec::new(),
        libvirt: None,
        output: PlannedOutput {
            directory: PathBuf::from("/out"),
            format: OutputFormat::Qcow2,
            compress: Compression::None,
            compress_level: None,
            preallocation: Preallocation::Off,
            group: None,
            mode: None,
            on_exists: OnExists::Refuse,
            report: true,
            domain: true,
            check_image_integrity: true,
            read_back: false,
        },
        preflight: Preflight::Full,
        rules: Weights::new(),
        notes: Vec::new(),
        lacking: Vec::new(),
        warnings: Vec::new(),
        priority: 0,
        depends_on: Vec::new(),
        needs_network: false,
        content_sha256: String::new(),
        input: InputManifest::default(),
    }
}

/// Finds one thing, or nothing to do.
struct Finds(&'static str, bool);

impl Validator for Finds {
    fn name(&self) -> &'static str {
        self.0
    }

    fn applies(&self, _: &Scene<'_>) -> bool {
        self.1
    }

    fn look(&self, _: &Scene<'_>, findings: &mut Findings) {
        findings.add(self.0, None, Error::new(Kind::Source, format!("{} is broken", self.0)));
    }
}

#[test]
fn a_validator_that_fails_ends_no_other_and_one_that_does_not_apply_is_not_asked() {
    let plan = plan(&[Stage::Load]);
    let limits = WorkLimits::unbound(PathBuf::from("/work"), 60.0);
    let scene = Scene {
        plan: &plan,
        limits: &limits,
        launcher: &Launcher::this_program(),
        control: &Control::new(),
        sources: &[],
        no_engine: None,
        machine: None,
        transport: None,
        results: None,
        programs: None,
        kvm: &|| KvmProbe { present: false, works: false, detail: String::new() },
    };
    let mut findings = Findings::new(Weights::from([("guest.space".to_owned(), Weight::Critical)]));
    run_all(
        &[
            &Finds("disk.cut_off", true),
            &Finds("disk.chain", false),
            &Finds("guest.space", true),
            &Finds("host.kvm", true),
        ],
        &scene,
        &mut findings,
    );
    let told: Vec<(&str, Severity)> =
        findings.told().map(|finding| (finding.rule.as_str(), finding.severity)).collect();
    assert_eq!(
        told,
        [
            ("disk.cut_off", Severity::Error),
            ("guest.space", Severity::Critical),
            ("host.kvm", Severity::Warning)
        ]
    );
}

#[test]
fn each_group_of_rules_has_a_validator() {
    let mut groups: Vec<&str> = VALIDATORS.iter().map(|validator| validator.name()).collect();
    // That one is asked when the guest was opened.
    groups.push("guest");
    for rule in crate::model::validation::RULES {
        let group = rule.name.split('.').next().unwrap_or_default();
        assert!(groups.contains(&group), "nobody looks after {}", rule.name);
    }
}
