//! The server that the others of this target talk to.

use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hyper2kvm::disk::Control;
use hyper2kvm::model::error::Result;
use hyper2kvm::vsphere::cbt::{self, ALL_IN_USE, Area};
use hyper2kvm::vsphere::inventory::VmRef;
use hyper2kvm::vsphere::snapshot::{self, Quiesce};
use hyper2kvm::vsphere::{Client, machine::Machine};
use serde_json::json;

use super::folder::{connect, machine_of};
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

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZE: u64 = 4 * MIB;

/// A machine, `web`, that runs, with a disk of 4 MiB whose first is written.
fn running(dir: &Path, tracked: bool) -> (Vcenter, Client) {
    let content = dir.join("content");
    std::fs::write(&content, vec![7; MIB as usize]).unwrap();
    let vcenter = Vcenter::start(Options::vcenter().machine(json!({
        "name": "web", "on": true, "change_tracking": tracked,
        "disks": [{ "capacity": SIZE, "content": content }],
    })));
    let client = connect(&vcenter.address(), &vcenter, &Control::new()).unwrap();
    (vcenter, client)
}

fn snapshot(client: &Client, name: &str) -> String {
    let vm = VmRef { moref: machine_of(client).moref };
    snapshot::create(client, &vm, (name, ""), Quiesce::No, &mut |_| {}).unwrap().moref
}

fn remove(client: &Client, snapshot: &str) -> Machine {
    snapshot::remove(client, snapshot, false, &mut |_| {}).unwrap();
    machine_of(client)
}

fn changed(client: &Client, snapshot: Option<&str>, since: &str) -> Result<Vec<(u64, u64)>> {
    let machine = machine_of(client);
    let areas =
        cbt::changed(client, &VmRef { moref: machine.moref }, snapshot, (machine.disks[0].key, SIZE), since);
    areas.map(|areas| areas.iter().map(|Area { start, length }| (*start, *length)).collect())
}

fn change_id(client: &Client, snapshot: &str) -> String {
    snapshot::disks(client, snapshot).unwrap()[0].change_id.clone().unwrap()
}

#[test]
fn guests_write_behind_snapshots_and_it_is_merged_when_those_go() {
    let dir = tempfile::tempdir().unwrap();
    let (vcenter, client) = running(dir.path(), false);
    let base = || std::fs::read(vcenter.datastore("ds1").join("web/web-flat.vmdk")).unwrap();
    vcenter.guest_writes("web", 0, 2 * MIB, &[1; 1000]);
    let at_first = base();
    assert_eq!((at_first[2 * MIB as usize], at_first.len() as u64), (1, SIZE));
    assert_eq!(vcenter.disk_now("web", 0), at_first);

    let first = snapshot(&client, "first");
    vcenter.guest_writes("web", 0, 2 * MIB + 500, &[2; 1000]);
    let disk = machine_of(&client).disks[0].clone();
    assert_eq!(disk.path, "[ds1] web/web-000001.vmdk");
    assert_eq!(disk.parent.unwrap().path, "[ds1] web/web.vmdk");
    let second = snapshot(&client, "second");
    vcenter.guest_writes("web", 0, 3 * MIB, &[3; 1000]);
    assert_eq!(machine_of(&client).disks[0].layers(), 3);
    assert_eq!(snapshot::disks(&client, &second).unwrap()[0].path, "[ds1] web/web-000001.vmdk");
    assert!(base() == at_first && vcenter.disk_as_of("web", 0, &first) == at_first);
    let mut as_of_second = at_first;
    as_of_second[2 * MIB as usize + 500..][..1000].fill(2);
    assert_eq!(vcenter.disk_as_of("web", 0, &second), as_of_second);
    let now = vcenter.disk_now("web", 0);
    assert_eq!((now[2 * MIB as usize], now[2 * MIB as usize + 500], now[3 * MIB as usize]), (1, 2, 3));

    // The older one goes first: the younger one stands on the base then.
    assert_eq!(remove(&client, &first).disks[0].layers(), 2);
    assert!(base() == as_of_second && vcenter.disk_as_of("web", 0, &second) == as_of_second);
    let disk = remove(&client, &second).disks[0].clone();
    assert_eq!((disk.path.as_str(), disk.parent), ("[ds1] web/web.vmdk", None));
    assert!(base() == now && vcenter.disk_now("web", 0) == now);
    assert!(!vcenter.datastore("ds1").join("web/web-000001.vmdk").exists());
}

#[test]
fn changes_are_told_between_two_snapshots_and_not_once_they_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (vcenter, client) = running(dir.path(), true);
    let first = snapshot(&client, "first");
    let begun = change_id(&client, &first);
    vcenter.guest_writes("web", 0, 2 * MIB + 100, &[1; 1000]);
    assert_eq!(changed(&client, Some(&first), ALL_IN_USE).unwrap(), [(0, MIB)]);
    remove(&client, &first);
    let second = snapshot(&client, "second");
    vcenter.guest_writes("web", 0, 3 * MIB, &[1; 1000]);
    assert_eq!(changed(&client, Some(&second), &begun).unwrap(), [(2 * MIB, 64 * KIB)]);
    assert_eq!(changed(&client, Some(&second), &change_id(&client, &second)).unwrap(), []);
    // Not of a disk that its machine writes to, …
    changed(&client, None, &begun).unwrap_err();
    // … and not since moments that nobody knows.
    for unknown in ["", "7", "52 de/1", &begun.replace('/', "/9999")] {
        changed(&client, Some(&second), unknown).unwrap_err();
    }
    vcenter.areas("whole");
    assert_eq!(changed(&client, Some(&second), ALL_IN_USE).unwrap(), [(0, SIZE)]);
    vcenter.areas("");
    vcenter.reset_tracking("web");
    remove(&client, &second);
    let third = snapshot(&client, "third");
    changed(&client, Some(&third), &begun).unwrap_err();
    assert_eq!(changed(&client, Some(&third), &change_id(&client, &third)).unwrap(), []);
}

#[test]
fn changes_that_are_to_be_tracked_are_from_the_next_snapshot_on() {
    let dir = tempfile::tempdir().unwrap();
    let (vcenter, client) = running(dir.path(), false);
    let vm = VmRef { moref: machine_of(&client).moref };
    let before = snapshot(&client, "before");
    changed(&client, Some(&before), ALL_IN_USE).unwrap_err();
    remove(&client, &before);
    assert!(!cbt::enable(&client, &vm, &mut |_| {}).unwrap());
    assert_eq!(machine_of(&client).disks[0].change_id, None);
    let first = snapshot(&client, "first");
    let begun = change_id(&client, &first);
    assert_eq!(changed(&client, Some(&first), ALL_IN_USE).unwrap(), [(0, MIB)]);
    vcenter.guest_writes("web", 0, SIZE - 10, &[1; 10]);
    let second = snapshot(&client, "second");
    assert_eq!(changed(&client, Some(&second), &begun).unwrap(), [(SIZE - 64 * KIB, 64 * KIB)]);
}
