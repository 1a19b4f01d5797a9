//! What a manifest may say of a VM on a host that is reached by its shell, and the plan that follows.

use std::path::Path;

use super::*;
use crate::model::config::Settings;
use crate::model::facts::{Facts, FoundDisk};
use crate::model::plan::{Plan, SourceFormat};
use crate::model::planner::{Nowhere, Submission, describe};
use crate::model::remote::{Description, FoundVm};

const HEAD: &str = "manifest_version: \"1.0\"\nsource:\n  esxi:\n    credential: esx1\n";
const PATH: &str = "/vmfs/volumes/ds1/web/web.vmx";

fn settings() -> Settings {
    Settings::defaults(Path::new("/state"), 2)
}

fn plan(said: &str) -> Result<Plan> {
    let text = format!("{HEAD}{said}");
    let submission =
        Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/in"), &settings(), &mut Nowhere)?;
    Ok(submission.plans("web", "", &settings())?.remove(0))
}

#[test]
fn a_plan_says_which_file_of_which_host_is_read_by_whose_key() {
    let accepted = plan(&format!("    port: 2222\n    path: {PATH}\n")).unwrap();
    let remote = accepted.remote.as_ref().unwrap();
    assert!(accepted.disks.is_empty() && accepted.needs_network && accepted.is_to_be_described());
    assert_eq!((remote.on_host(), remote.port, remote.transport), (Some(PATH), 2222, VsphereTransport::Ssh));
    assert_eq!(accepted.name, "web");
    assert!(remote.need().login.ends_with("esx1.yaml over SSH"), "{:?}", remote.need());
    let again: Plan = serde_json::from_str(&serde_json::to_string(&accepted).unwrap()).unwrap();
    assert_eq!(again, accepted);
    let disk = FoundDisk {
        id: "web".to_owned(),
        path: "/vmfs/volumes/ds1/web/web-000001.vmdk".into(),
        member: None,
        packing: None,
        format: SourceFormat::Vmdk,
        capacity_bytes: Some(1 << 30),
        checksum: None,
        piece_checksums: Vec::new(),
        is_chain: false,
        allowed_paths: Vec::new(),
        controller: crate::model::facts::Controller::Scsi,
        bus: 0,
        unit: 0,
    };
    let facts = Facts { name: "web".to_owned(), disks: vec![disk], ..Facts::default() };
    let vm = FoundVm { host: "esx1.example.com".to_owned(), moref: PATH.to_owned(), ..FoundVm::default() };
    let described =
        describe(&accepted, &Description { vm, facts: facts.clone(), ways: Vec::new() }, &settings())
            .unwrap();
    assert!(!described.is_to_be_described() && described.has_the_disks_of(&facts));
    assert_eq!(described.remote.unwrap().shown(), format!("{PATH} on esx1.example.com"));
}

#[test]
fn what_is_not_said_or_not_a_manifests_to_say_is_told_by_its_key() {
    for (said, key) in [
        ("    host: esx1\n", "path"),
        ("    path: /vmfs/volumes/ds1/web/web.iso\n", "path"),
        ("    path: /vmfs/volumes/ds1/../../etc/web.vmx\n", "path"),
        ("    path: /etc/web.vmx\n", "path"),
        ("    path: web.vmx\n", "path"),
        ("    path: /vmfs/volumes/ds1/web/web.vmx\n    username: root\n", "username"),
        ("    path: /vmfs/volumes/ds1/web/web.vmx\n    known_hosts: /x\n", "known_hosts"),
    ] {
        let error = plan(said).unwrap_err();
        assert_eq!(error.kind(), Kind::Manifest, "{said}");
        let field = format!("source.esxi.{key}");
        assert_eq!(error.details().place.field.as_deref(), Some(field.as_str()), "{said}");
        assert!(error.details().advice.is_some());
    }
}
