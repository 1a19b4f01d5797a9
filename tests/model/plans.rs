//! From a good manifest to its plan.

use std::path::{Path, PathBuf};

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::Result;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::{Compression, OutputFormat, Plan};
use hyper2kvm::model::planner::{BatchName, Submission};

fn settings() -> Settings {
    Settings::defaults(Path::new("/state"), 2)
}

fn read(text: &str) -> Result<Submission> {
    Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings())
}

fn plan(text: &str) -> Plan {
    let submission = read(text).unwrap_or_else(|error| panic!("{error}"));
    let mut plans = submission.plans("web", "", &settings()).unwrap();
    assert_eq!(plans.len(), 1);
    plans.remove(0)
}

const MINIMAL: &str = r#"
manifest_version: "1.0"
disks:
  - id: boot
    source_format: vmdk
    local_path: disks/../web.vmdk
"#;

#[test]
fn a_minimal_manifest_is_a_batch_of_one_named_like_its_file() {
    let submission = read(MINIMAL).unwrap();
    assert_eq!(submission.name, BatchName::Stem("web".to_owned()));
    let plan = plan(MINIMAL);
    assert_eq!(
        (plan.vm_id.as_str(), plan.name.as_str(), plan.profile.as_str()),
        ("web", "web", "production")
    );
    assert_eq!(plan.disks[0].source, PathBuf::from("/drops/web.vmdk"));
    assert_eq!(plan.output.directory, PathBuf::from("/state/output/web/web"));
    assert_eq!(plan.output.format, OutputFormat::Qcow2);
    assert_eq!(plan.output.compress, Compression::None);
    assert!(plan.output.report && plan.output.check_image_integrity);
}

#[test]
fn what_production_asks_for_and_this_version_lacks_is_told() {
    let plan = plan(MINIMAL);
    assert_eq!(plan.lacking, [Stage::Inspect, Stage::Fix, Stage::BootTest]);
    assert!(plan.warnings[0].contains("inspect, fix, boot_test"), "{:?}", plan.warnings);
    assert!(Stage::BUILT.into_iter().all(|stage| plan.runs(stage)));
    assert!(!plan.runs(Stage::Fix));
}
