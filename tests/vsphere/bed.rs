//! The server that the others of this target talk to.

use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::support::vcenter::{Options, Vcenter, disk};

#[test]
fn a_vcenter_and_a_host_have_real_disks_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("content");
    std::fs::write(&content, vec![7; 3 << 20]).unwrap();
    for options in [Options::vcenter(), Options::esxi()] {
        let machine = json!({ "name": "web", "disks": [disk(&content), { "capacity": 64 << 20 }] });
        let vcenter = Vcenter::start(options.fillers(2).machine(machine));
        let store = vcenter.datastore("ds1");
        let flat = std::fs::read(store.join("web/web-flat.vmdk")).unwrap();
        assert_eq!(flat, vec![7; 3 << 20]);
        let empty = store.join("web/web_1-flat.vmdk").metadata().unwrap();
        assert_eq!((empty.len(), empty.blocks()), (64 << 20, 0));
        let descriptor = std::fs::read_to_string(store.join("web/web.vmdk")).unwrap();
        assert!(descriptor.contains("RW 6144 VMFS \"web-flat.vmdk\""), "{descriptor}");
        let (before, address) = (vcenter.thumbprint(), vcenter.address());
        vcenter.certificate("good");
        assert_ne!(vcenter.thumbprint(), before);
        TcpStream::connect(&address).unwrap();
        drop(vcenter);
        TcpStream::connect(&address).unwrap_err();
        assert!(!store.exists());
    }
}
