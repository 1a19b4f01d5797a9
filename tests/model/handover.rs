//! What libvirt will be told, from the manifest to the plan.

use std::path::{Path, PathBuf};

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Error, Kind, Result};
use hyper2kvm::model::facts::Facts;
use hyper2kvm::model::handover::PlannedLibvirt;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::Plan;
use hyper2kvm::model::planner::{Nowhere, Origin, Submission, Surroundings};

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

/// A libvirt with one pool, and how often it was asked.
struct OnePool {
    asked: u32,
}

impl Surroundings for OnePool {
    fn machines(&mut self, origin: &Origin) -> Result<Vec<Facts>> {
        Nowhere.machines(origin)
    }

    fn manifest(&mut self, path: &Path) -> Result<Vec<u8>> {
        Nowhere.manifest(path)
    }

    fn pool(&mut self, name: &str) -> Result<PathBuf> {
        self.asked += 1;
        match name {
            "images" => Ok("/pools/images".into()),
            _ => Err(Error::new(Kind::Libvirt, format!("there is no storage pool {name}"))),
        }
    }
}

fn pooled_with(text: &str, settings: &Settings) -> Result<Submission> {
    let text = format!("{MINIMAL}{text}");
    Submission::read_with(
        text.as_bytes(),
        "web.yaml",
        Path::new("/drops"),
        settings,
        &mut OnePool { asked: 0 },
    )
}

fn pooled(text: &str) -> Result<Submission> {
    pooled_with(text, &Settings::defaults(Path::new("/state"), 2))
}

const ON: &str = "libvirt_integration: {enabled: true}\n";

#[test]
fn results_that_are_made_in_a_pool_have_their_places_there_and_all_else_stays_with_the_vm() {
    let submission = pooled(&format!("{ON}output: {{pool: images, format: raw}}\n")).unwrap();
    let settings = Settings::defaults(Path::new("/state"), 2);
    let plan = submission.plans("web", "", &settings).unwrap().remove(0);
    let paths: Vec<PathBuf> = plan.disks.iter().map(|disk| plan.result_path(disk)).collect();
    assert_eq!(
        paths,
        ["/pools/images/web-1-boot.raw", "/pools/images/web-1-data.raw"].map(PathBuf::from).to_vec()
    );
    assert_eq!(plan.output.directory, Path::new("/state/output/web/web-1"));
    assert_eq!(plan.machine.as_ref().unwrap().disks[0].path, paths[0]);
    let told = plan.libvirt.as_ref().unwrap();
    assert!(told.pools.is_empty() && plan.warnings.is_empty(), "{plan:?}");
    assert_eq!(
        told.made_in,
        [("boot", "images"), ("data", "images")].map(|(a, b)| (a.into(), b.into())).into()
    );
    // A rerun lies beside it, and nobody is asked again.
    let rerun = submission.plans("web", "-2", &settings).unwrap().remove(0);
    assert_eq!(rerun.result_path(&rerun.disks[0]), Path::new("/pools/images/web-1-2-boot.raw"));
    let stored: Submission = serde_json::from_value(serde_json::to_value(&submission).unwrap()).unwrap();
    assert_eq!(stored.plans("web", "", &settings).unwrap().remove(0), plan);
}

#[test]
fn a_mapping_of_one_disk_goes_before_the_pool_that_results_are_made_in() {
    let plan = |text: &str| {
        let submission = pooled(&format!("{ON}output: {{pool: images}}\n{text}")).unwrap();
        submission.plans("web", "", &Settings::defaults(Path::new("/state"), 2)).unwrap().remove(0)
    };
    let mapped = plan("storage_mapping: {disk_mappings: {data: /slow}}\n");
    assert_eq!(mapped.result_path(&mapped.disks[1]), Path::new("/slow/web-1-data.qcow2"));
    assert_eq!(mapped.libvirt.unwrap().made_in.keys().collect::<Vec<_>>(), ["boot"]);
    let imported = plan("storage_mapping: {disk_mappings: {data: {pool: slow}}}\n");
    assert_eq!(imported.result_path(&imported.disks[1]), Path::new("/state/output/web/web-1/data.qcow2"));
    let told = imported.libvirt.unwrap();
    assert_eq!((told.made_in.len(), told.pools["data"].as_str()), (1, "slow"));
    let other_format = plan("storage_mapping: {disk_mappings: {data: {format_override: raw}}}\n");
    assert_eq!(other_format.result_path(&other_format.disks[1]), Path::new("/pools/images/web-1-data.raw"));
    let nothing = plan("storage_mapping: {disk_mappings: {boot: /a, data: /b}}\n");
    assert!(nothing.libvirt.unwrap().made_in.is_empty());
    assert!(nothing.warnings[0].starts_with("output.pool has no effect"), "{:?}", nothing.warnings);
    let ignored = plan("").warnings;
    assert!(ignored.is_empty(), "{ignored:?}");
}

#[test]
fn a_pool_in_which_results_cannot_be_made_is_refused_at_its_line() {
    let refused = |text: &str| pooled(&format!("{ON}{text}")).unwrap_err();
    let field = |error: &Error| error.details().place.field.clone().unwrap_or_default();
    let missing = refused("output: {pool: nowhere}\n");
    assert_eq!((missing.kind(), field(&missing).as_str()), (Kind::Libvirt, "output.pool"));
    assert_eq!(missing.details().place.line, Some(8), "{missing}");
    let own = refused("output: {pool: images, directory: /pools/images}\n");
    assert!(own.to_string().contains("so would the report"), "{own}");
    let (name, disk) = ("x".repeat(120), "y".repeat(100));
    let text = MINIMAL.replace("web 1", &name).replace("id: boot", &format!("id: {disk}"));
    let text = format!("{text}{ON}output: {{pool: images}}\n");
    let mut around = OnePool { asked: 0 };
    let settings = Settings::defaults(Path::new("/state"), 2);
    let long = Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/"), &settings, &mut around)
        .unwrap_err();
    assert!(long.to_string().contains("name of 221 bytes"), "{long}");
    let text = text
        .replace("/srv/data.img", "/pools/images/web-boot.qcow2")
        .replace(&name, "web")
        .replace(&disk, "boot");
    let source = Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/"), &settings, &mut around)
        .unwrap_err();
    assert!(source.to_string().contains("take the place of the source of disks[1]"), "{source}");
    let mut bound = Settings::defaults(Path::new("/state"), 2);
    bound.paths.write = vec!["/srv".into()];
    let outside = pooled_with(&format!("{ON}output: {{pool: images}}\n"), &bound).unwrap_err();
    assert_eq!((outside.kind(), field(&outside).as_str()), (Kind::Output, "output.pool"));
    // What cannot ask a libvirt says what to write instead; and nobody is asked where something else is wrong.
    let text = format!("{MINIMAL}{ON}output: {{pool: images}}\n");
    let unasked = Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings).unwrap_err();
    assert!(
        unasked.kind() == Kind::Unsupported && unasked.to_string().contains("import_to_pool"),
        "{unasked}"
    );
    let mut around = OnePool { asked: 0 };
    let text = format!("{text}priority: high\n");
    Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings, &mut around)
        .unwrap_err();
    assert_eq!(around.asked, 0);
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
