//! Disks and network cards that come and go.

use hyper2kvm::libvirt::domains::{self, Changed, NewDisk, NewNic, NicSource, Overwrite, Source};
use hyper2kvm::libvirt::link::Link;
use hyper2kvm::model::error::Kind;

use crate::machines::{image, link, machine};
use crate::support::libvirtd::Libvirtd;

const NEXT_START: Changed = Changed { live: false, persistent: true, pending: false };
const BOTH: Changed = Changed { live: true, persistent: true, pending: false };

fn targets(link: &Link) -> Vec<String> {
    let found = domains::find(link, "web").unwrap().unwrap();
    found.disks.into_iter().map(|disk| disk.target).collect()
}

#[test]
fn disks_and_cards_come_and_go_now_and_for_the_next_start() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let controller = "<controller type='scsi' model='virtio-scsi'/>";
    domains::define(link, &machine("web", "", controller), &Overwrite::Refuse).unwrap();
    let disk = |target: &str| NewDisk {
        source: Source::Path(image(&libvirtd, &format!("{target} & co.qcow2"), "qcow2", 1)),
        target: target.to_owned(),
        bus: None,
        format: "qcow2".to_owned(),
        readonly: false,
    };
    let nic = NewNic {
        source: NicSource::Network("default".to_owned()),
        mac: Some("52:54:00:AB:00:01".to_owned()),
        model: "virtio".to_owned(),
        link_up: false,
    };

    // Off.
    let first = disk("vda");
    assert_eq!(domains::attach_disk(link, "web", &first).unwrap(), NEXT_START);
    assert_eq!(domains::attach_disk(link, "web", &first).unwrap_err().kind(), Kind::Exists);
    assert_eq!(domains::attach_nic(link, "web", &nic).unwrap(), NEXT_START);
    assert_eq!(domains::attach_nic(link, "web", &nic).unwrap_err().kind(), Kind::Exists);
    let found = domains::find(link, "web").unwrap().unwrap();
    assert_eq!(found.disks[0].source, Some(first.source));
    assert_eq!(found.macs, ["52:54:00:ab:00:01"]);
    assert!(libvirtd.sh("virsh dumpxml web").contains("<link state='down'/>"));
    assert_eq!(domains::detach_nic(link, "web", "52:54:00:ab:00:01").unwrap(), NEXT_START);
    let error = domains::detach_nic(link, "web", "52:54:00:ab:00:01").unwrap_err();
    assert!(error.to_string().contains("has no network card"), "{error}");

    // Running.
    domains::start(link, "web").unwrap();
    assert_eq!(domains::attach_disk(link, "web", &disk("sda")).unwrap(), BOTH);
    assert_eq!(targets(link), ["vda", "sda"]);
    assert_eq!(domains::detach_disk(link, "web", "sda").unwrap(), BOTH);
    assert_eq!(targets(link), ["vda"]);
    let error = domains::detach_disk(link, "web", "sda").unwrap_err();
    assert!(error.to_string().contains("has no disk sda"), "{error}");
    // Nobody is in there who could let go of it.
    let asked = domains::detach_disk(link, "web", "vda").unwrap();
    assert_eq!(asked, Changed { pending: true, ..BOTH });
    domains::destroy(link, "web").unwrap();
    assert_eq!(targets(link), [""; 0]);

    // What cannot be.
    let nowhere = NewDisk { source: Source::Network("rbd".to_owned()), ..disk("vdb") };
    assert_eq!(domains::attach_disk(link, "web", &nowhere).unwrap_err().kind(), Kind::Unsupported);
    let relative = NewDisk { source: Source::Path("a.raw".into()), ..disk("vdb") };
    assert_eq!(domains::attach_disk(link, "web", &relative).unwrap_err().kind(), Kind::Manifest);
    let unnamed = NewDisk { target: "日本".to_owned(), ..disk("vdc") };
    assert_eq!(domains::attach_disk(link, "web", &unnamed).unwrap_err().kind(), Kind::Manifest);
}
