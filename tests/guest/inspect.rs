//! What inspection tells of the systems of several distributions: small trees with real layouts, all looked at in one appliance.

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};
use hyper2kvm::guest::inspect;
use hyper2kvm::model::error::Kind;

use crate::systems::{SYSTEMS, disk};

#[test]
fn systems_of_every_family_are_known_by_what_lies_in_their_trees() {
    let dir = tempfile::tempdir().unwrap();
    let drive = Drive { path: disk(dir.path()), format: "raw".to_owned(), readonly: true };
    let settings = Settings { kvm: false, memory_mb: None, temp: dir.path().to_owned(), log: None };
    let appliance = Appliance::launch(&settings, &[drive]).unwrap();
    for (index, system) in SYSTEMS.iter().enumerate() {
        let root = format!("/dev/sda{}", index + 1);
        let mut identity = inspect::look(&appliance, &[], Some(&root), true).unwrap().identity;
        appliance.unmount_all().unwrap();
        for mount in &mut identity.mounts {
            // How much room a file system leaves is the business of mke2fs.
            assert_eq!(mount.free_bytes.is_some(), mount.path == "/", "{mount:?}");
            (mount.free_bytes, mount.total_bytes) = (None, None);
        }
        insta::assert_json_snapshot!(system.name, identity);
    }

    let none = inspect::look(&appliance, &[], Some("LABEL=data"), true).unwrap_err();
    assert_eq!(
        (none.kind(), none.details().place.field.as_deref()),
        (Kind::Guest, Some("pipeline.fix.root"))
    );

    let chosen = inspect::look(&appliance, &[], None, true).unwrap();
    assert_eq!(chosen.identity.os_id.as_deref(), Some("rhel"), "of different systems the first");
    assert!(
        chosen.identity.notes.iter().any(|note| note.starts_with("6 systems were found")),
        "{:?}",
        chosen.identity.notes
    );
    assert_eq!(chosen.layout.volumes.len(), SYSTEMS.len() + 1);
    appliance.finish().unwrap();
}
