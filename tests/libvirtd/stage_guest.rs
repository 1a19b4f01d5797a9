//! A real guest, from VMware's disk to a machine of libvirt's that answers.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::stage::{Site, went_well};
use crate::support::guests::Guest;
use crate::support::wait::within;

/// It is emulated, on a machine that does much else.
const COMES_UP_WITHIN: Duration = Duration::from_secs(1200);

#[test]
fn a_debian_guest_is_converted_imported_and_started_and_answers_on_its_console() {
    let site = Site::new();
    site.pool("vms");
    let guest = Guest::build("bookworm-bios");
    let told = format!(
        "manifest_version: \"1.0\"\nname: web\ndisks: [{{id: boot, source_format: vmdk, local_path: {}}}]\n\
         nics: [{{mac: \"00:50:56:aa:bb:01\"}}]\npipeline: {{boot_test: {{enabled: false}}}}\noutput: {{directory: {}}}\n\
         libvirt_integration: {{enabled: true, import_to_pool: vms, create_snapshot: true, auto_start: true}}\n",
        guest.disks[0].display(),
        site.out().display(),
    );
    let manifest = site.libvirtd.images().join("guest.yaml");
    fs::write(&manifest, told).unwrap();
    site.virsh("net-start default");
    went_well(&site.libvirtd.hyper2kvm().arg("convert").arg(manifest).output().unwrap());
    assert_eq!(site.virsh("domstate web"), "running");
    assert_eq!(site.virsh("snapshot-list web --name"), "pre-first-boot");
    let console = site.libvirtd.images().join("console.txt");
    let listen = format!("exec cat $(virsh -q ttyconsole web) >{}", console.display());
    let mut listener = site.libvirtd.inside("sh").args(["-c", &listen]).stdin(Stdio::null()).spawn().unwrap();
    let says = || String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let came_up = within(COMES_UP_WITHIN, || says().contains("login:").then_some(()));
    listener.kill().unwrap();
    listener.wait().unwrap();
    assert!(came_up.is_some(), "{}", says());
}
