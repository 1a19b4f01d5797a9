//! What libvirt will be told, from the manifest to the plan.

use std::path::{Path, PathBuf};

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::handover::PlannedLibvirt;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::Plan;
use hyper2kvm::model::planner::Submission;

const MINIMAL: &str = r#"
manifest_version: "1.0"
name: web 1
disks:
  - {id: boot, source_format: raw, local_path: /srv/boot.img}
  - {id: data, source_format: raw, local_path: /srv/data.img}
"#;

fn plan(text: &str) -> Plan {
    let settings = Settings::defaults(Path::new("/state"), 2);
    let text = format!("{MINIMAL}{text}");
    let read = Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings);
    let submission = read.unwrap_or_else(|error| panic!("{error}"));
    submission.plans("web", "", &settings).unwrap().remove(0)
}

fn told(text: &str) -> PlannedLibvirt {
    plan(text).libvirt.expect("libvirt is told")
}

#[test]
fn a_machine_is_defined_under_its_name_and_nothing_else_where_nothing_else_is_said() {
    let plan = plan("libvirt_integration: {enabled: true}\n");
    assert!(plan.runs(Stage::Libvirt) && plan.lacking.is_empty() && plan.warnings.is_empty(), "{plan:?}");
    let told = plan.libvirt.unwrap();
    assert_eq!((told.uri.as_str(), told.name.as_str()), ("qemu:///system", "web 1"));
    assert!(told.define && told.copy_disks && told.pools.is_empty() && told.snapshot.is_none());
    assert!(!told.start && !told.autostart && !told.overwrite_domain && !told.overwrite_volumes);
}

#[test]
fn all_that_is_said_reaches_the_plan() {
    let told = told(
        "libvirt_integration: {enabled: true, vm_name: db, overwrite_domain: true, create_snapshot: true, autostart: true,
           auto_start: true, import_to_pool: images, pool_path: pool, copy_disks: false, overwrite_volumes: true}
allow_live_clone: true\n",
    );
    assert_eq!((told.name.as_str(), told.snapshot.as_deref()), ("db", Some("pre-first-boot")));
    assert_eq!(
        told.pools,
        [("boot", "images"), ("data", "images")].map(|(a, b)| (a.into(), b.into())).into()
    );
    assert_eq!(told.pool_path, Some(PathBuf::from("/drops/pool")));
    assert!(
        told.overwrite_domain && told.autostart && told.start && !told.copy_disks && told.overwrite_volumes
    );
    assert!(told.allow_live_clone);
    assert_eq!(told.volume("boot", "qcow2"), "db-boot.qcow2");
}

#[test]
fn a_mapping_says_which_disk_goes_into_which_pool() {
    let told = told(
        "libvirt_integration: {enabled: true, import_to_pool: images}
storage_mapping: {disk_mappings: {data: {pool: slow}}}\n",
    );
    assert_eq!(told.pools, [("boot", "images"), ("data", "slow")].map(|(a, b)| (a.into(), b.into())).into());
    let mapped = plan("libvirt_integration: {enabled: true}\nstorage_mapping: {default_pool: vms}\n");
    assert_eq!(mapped.libvirt.unwrap().pools.len(), 2);
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let warnings = |text: &str| plan(text).warnings;
    let told = warnings(
        "libvirt_integration: {enabled: true, snapshot_name: first, pool_path: /srv/pool, overwrite_volumes: true}\n",
    );
    for key in ["snapshot_name", "pool_path", "overwrite_volumes"] {
        let field = format!("libvirt_integration.{key} has no effect");
        assert!(told.iter().any(|warning| warning.starts_with(&field)), "{key}: {told:?}");
    }
    let told = warnings("allow_live_clone: true\n");
    assert!(told.len() == 1 && told[0].starts_with("allow_live_clone"), "{told:?}");
}

#[test]
fn the_machine_is_called_as_libvirt_will_know_it_and_an_older_plan_tells_libvirt_nothing() {
    let plan = plan("libvirt_integration: {enabled: true, vm_name: db}\n");
    assert_eq!((plan.name.as_str(), plan.machine.as_ref().unwrap().name.as_str()), ("web 1", "db"));
    let mut stored = serde_json::to_value(&plan).unwrap();
    assert_eq!(serde_json::from_value::<Plan>(stored.clone()).unwrap(), plan);
    stored.as_object_mut().unwrap().remove("libvirt");
    assert_eq!(serde_json::from_value::<Plan>(stored).unwrap().libvirt, None);
}

#[test]
fn a_result_is_tried_by_the_configured_libvirt_and_by_none_of_another_host() {
    let text = format!("{MINIMAL}pipeline: {{boot_test: {{enabled: true, method: libvirt}}}}\n");
    let mut settings = Settings::defaults(Path::new("/state"), 2);
    let read = |text: &str, settings: &Settings| {
        Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), settings)
    };
    for uri in ["qemu:///system", "qemu+unix:///session?socket=/run/x"] {
        settings.libvirt.uri = uri.to_owned();
        let plan = read(&text, &settings).unwrap().plans("web", "", &settings).unwrap().remove(0);
        assert_eq!(plan.boot_test.libvirt_uri.as_deref(), Some(uri));
    }
    settings.libvirt.uri = "qemu+ssh://root@kvm2/system".to_owned();
    let error = read(&text, &settings).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let field = error.details().place.field.clone();
    assert_eq!((field.as_deref(), error.details().place.line), (Some("pipeline.boot_test.method"), Some(7)));
    assert!(read(&text.replace("method: libvirt", "method: qemu"), &settings).is_ok());
}
