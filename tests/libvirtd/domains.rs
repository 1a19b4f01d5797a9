//! The machines of a libvirt, from the command line.

use serde_json::{Value, json};

use crate::support::libvirtd::Libvirtd;

#[test]
fn machines_are_listed_with_their_states() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh(
        "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web</name><uuid>564d1c2a-0000-1111-2222-333344445555</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>
end",
    );
    let list = || {
        let output = libvirtd.hyper2kvm().args(["libvirt", "list", "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let web = |state: &str| json!({"domains": [{"name": "web", "uuid": "564d1c2a-0000-1111-2222-333344445555", "state": state}]});
    assert_eq!(list(), web("off"));
    libvirtd.sh("virsh -q start web");
    assert_eq!(list(), web("running"));
    libvirtd.kill();
    libvirtd.await_up();
    assert_eq!(list(), web("running"));
}
