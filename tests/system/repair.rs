//! The whole way as an administrator has it: the package with what it recommends, the service's own user, its unit's sandbox.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::installed::Installed;
use super::machine::Kind;
use crate::support::disks;

/// The appliance is built, starts emulated, and so does the guest.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

#[test]
fn the_installed_service_repairs_a_guest_and_sees_it_boot() {
    let installed = Installed::on(Kind::WithGuest("bookworm-bios"));
    let machine = &installed.machine;
    let disk = Path::new("/srv/guest/bookworm-bios.vmdk");
    let source_before = machine.sh(&format!("sha256sum {}", disk.display()));

    installed.drop("web01", &disks::manifest(&[("boot", disk, "vmdk")], "profile: production\n"));
    let ended = machine.wait_sh_for(PATIENCE, "ls -d /var/lib/hyper2kvm/*ed/*/web01.yaml");
    assert!(ended.contains("/processed/"), "{ended}\n{}", installed.journal());

    let report: Value =
        serde_json::from_str(&machine.sh("cat /var/lib/hyper2kvm/output/web01/web01/report.json")).unwrap();
    assert_eq!(report["pipeline"]["stages"]["boot_test"]["result"]["verdict"], "booted", "{report:#}");
    assert!(!report["fixes"].as_array().unwrap().is_empty(), "{report:#}");
    assert_eq!(machine.sh(&format!("sha256sum {}", disk.display())), source_before);
    // What was built for it is kept where the unit says, and nothing lies about.
    machine.sh("ls -d /var/cache/hyper2kvm/.guestfs-*/appliance.d");
    assert_eq!(machine.sh("ps -o args= -u hyper2kvm | grep -v 'hyper2kvm daemon' || true"), "");
    assert_eq!(machine.sh("find /var/lib/hyper2kvm/output -name '*.partial*' -o -name '*overlay*'"), "");
}
