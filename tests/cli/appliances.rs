//! Appliances of each producer, converted: all disks, in the right order, with the right facts, and nothing unpacked.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{Done, hyper2kvm};
use crate::support::appliances::{Ovf, item, on_controller, pack, sums, system, vmdk, vmware};

pub(crate) fn at(dir: &Path, words: &[&str]) -> Done {
    hyper2kvm().current_dir(dir).env("TMPDIR", dir.join("tmp")).args(words).output().unwrap().into()
}

/// A directory with two disks, and one for what should not be written.
pub(crate) fn site() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    vmdk(dir.path(), "web-disk1.vmdk", 1);
    vmdk(dir.path(), "web-disk2.vmdk", 2);
    dir
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

pub(crate) fn manifest(dir: &Path, input: &str) -> Value {
    let done = at(dir, &["manifest", input, "--no-compute-checksums", "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    done.json()["manifests"][0].clone()
}

/// Converts it, and holds each result against the bytes that went in.
pub(crate) fn converted(dir: &Path, input: &str, results: &[(&str, &str)]) {
    let done = at(dir, &["convert", input, "-o", "out", "--no-fix"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for (result, raw) in results {
        let mut compare = Command::new("qemu-img");
        compare
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .arg(dir.join(raw))
            .arg(dir.join("out").join(result));
        let compared = compare.output().unwrap();
        assert!(compared.status.success(), "{result}: {}", String::from_utf8_lossy(&compared.stdout));
    }
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0, "something was unpacked");
}

pub(crate) const BOTH: [(&str, &str); 2] =
    [("web-disk1.qcow2", "web-disk1.vmdk.raw"), ("web-disk2.qcow2", "web-disk2.vmdk.raw")];

pub(crate) fn two_disks() -> Ovf {
    vmware("web", &[("web-disk1.vmdk", 8), ("web-disk2.vmdk", 8)])
}

#[test]
fn an_ova_of_vmware_gives_all_disks_in_order_with_its_facts_whoever_packed_it() {
    for format in ["ustar", "pax", "gnu"] {
        let site = site();
        let dir = site.path();
        let mut ovf = two_disks();
        ovf.systems = ovf.systems.replace(
            "</VirtualHardwareSection>",
            r#"<vmw:Config vmw:key="firmware" vmw:value="efi"/><vmw:Config vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/><vmw:ExtraConfig vmw:key="uuid.bios" vmw:value="56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc"/></VirtualHardwareSection>"#,
        );
        write(dir, "web.ovf", &ovf.text());
        write(dir, "web.mf", &sums(dir, &["web.ovf", "web-disk1.vmdk", "web-disk2.vmdk"]));
        let files = ["web.ovf", "web.mf", "web-disk2.vmdk", "web-disk1.vmdk"];
        pack(dir, format, "web.ova", &files);
        let found = manifest(dir, "web.ova");
        let machine = json!({
            "cpu": 2, "mem_mb": 1024, "firmware": "uefi", "secureboot": true, "os_hint": "linux",
            "uuid": "8a0b4d56-2211-4433-5566-778899aabbcc",
            "serial": "VMware-56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc",
        });
        assert_eq!(found["vm"], machine, "{format}");
        let members: Vec<&str> =
            found["disks"].as_array().unwrap().iter().map(|disk| disk["member"].as_str().unwrap()).collect();
        assert_eq!(members, ["web-disk1.vmdk", "web-disk2.vmdk"], "{format}");
        assert!(found["disks"][0]["checksum"].as_str().unwrap().starts_with("sha256:"));
        assert_eq!(
            found["nics"],
            json!([{ "id": "nic0", "mac": "00:50:56:aa:bb:01", "network": "VM Network" }])
        );
        converted(dir, "web.ova", &BOTH);
        let domain = fs::read_to_string(dir.join("out/domain.xml")).unwrap();
        for wanted in ["00:50:56:aa:bb:01", "8a0b4d56-2211-4433-5566-778899aabbcc", "firmware='efi'"] {
            assert!(domain.contains(wanted), "{format}: {domain}");
        }
    }
}

#[test]
fn an_ova_of_virtualbox_gives_all_disks_in_order_with_its_facts() {
    let site = site();
    let dir = site.path();
    let mut ovf = two_disks();
    let hardware = item(3, 1, "<rasd:VirtualQuantity>1</rasd:VirtualQuantity>")
        + &item(
            4,
            2,
            "<rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:VirtualQuantity>512</rasd:VirtualQuantity>",
        )
        + &item(5, 3, "<rasd:ResourceSubType>PIIX4</rasd:ResourceSubType><rasd:Address>0</rasd:Address>")
        + &item(20, 5, "<rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:Address>0</rasd:Address>")
        + &item(
            10,
            6,
            "<rasd:Connection>NAT</rasd:Connection><rasd:ResourceSubType>E1000</rasd:ResourceSubType>",
        )
        + &item(15, 7, "<rasd:Parent>3</rasd:Parent><rasd:AddressOnParent>0</rasd:AddressOnParent>")
        + &on_controller(5, 0, "/disk/disk1")
        + &on_controller(3, 1, "/disk/disk0");
    ovf.systems = system("web", "", &hardware).replace(
        "</VirtualSystem>",
        r#"<vbox:Machine ovf:required="false" version="1.19-linux" uuid="{1c2d3e4f-0000-1111-2222-333344445555}" name="web"><Hardware><Firmware type="EFI"/></Hardware></vbox:Machine></VirtualSystem>"#,
    );
    write(dir, "web.ovf", &ovf.text());
    pack(dir, "ustar", "web.ova", &["web.ovf", "web-disk1.vmdk", "web-disk2.vmdk"]);
    let found = manifest(dir, "web.ova");
    let machine = json!({
        "cpu": 1, "mem_mb": 512, "firmware": "uefi", "os_hint": "linux",
        "uuid": "1c2d3e4f-0000-1111-2222-333344445555",
    });
    assert_eq!(found["vm"], machine);
    // What hangs on IDE comes first.
    assert_eq!(
        (&found["disks"][0]["id"], &found["disks"][1]["id"]),
        (&json!("web-disk1"), &json!("web-disk2"))
    );
    converted(dir, "web.ova", &BOTH);
}

#[test]
fn an_ova_of_xenserver_gives_all_disks_in_order_with_its_facts() {
    let site = site();
    let dir = site.path();
    let ids = ["1b7c9b1e-6f0d-4b62-9d3a-6c1f2a3b4c5d", "0a6b8a0d-5e9c-4a51-8c29-5b0e19293a4b"];
    let mut ovf = Ovf {
        head: vmware("", &[]).head,
        references: String::new(),
        disks: String::new(),
        systems: String::new(),
    };
    let mut hardware = item(3, 1, "<rasd:VirtualQuantity>4</rasd:VirtualQuantity>")
        + &item(
            4,
            2,
            "<rasd:AllocationUnits>MB</rasd:AllocationUnits><rasd:VirtualQuantity>2048</rasd:VirtualQuantity>",
        )
        + &item(
            10,
            3,
            "<rasd:Address>3a:11:22:33:44:55</rasd:Address><rasd:Connection>network=Pool-wide network</rasd:Connection>",
        );
    // It writes VHDs that are called by their ids, the second disk before the first, and hangs them on no controller.
    for (device, (id, from)) in [1, 0].into_iter().zip(ids.into_iter().zip(["web-disk2", "web-disk1"])) {
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on"]);
        convert.arg(dir.join(format!("{from}.vmdk.raw"))).arg(dir.join(format!("{id}.vhd")));
        assert!(convert.status().unwrap().success());
        ovf.references += &format!(r#"<File ovf:id="{id}" ovf:href="{id}.vhd"/>"#);
        ovf.disks += &format!(
            r#"<Disk ovf:diskId="{id}" ovf:fileRef="{id}" ovf:capacity="8388608" ovf:format="http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx"/>"#
        );
        hardware += &format!(
            "<Item><rasd:AddressOnParent>{device}</rasd:AddressOnParent><rasd:Connection>{id},device={device}</rasd:Connection><rasd:HostResource>ovf:/disk/{id}</rasd:HostResource><rasd:InstanceID>{id}</rasd:InstanceID><rasd:ResourceType>19</rasd:ResourceType></Item>"
        );
    }
    let settings =
        [("HVM_boot_params", "firmware=uefi;order=cd"), ("platform", "acpi=1;secureboot=true;vtpm=true")];
    for (name, value) in settings {
        hardware += &format!(
            r#"<xenovf:VirtualSystemOtherConfigurationData xmlns:xenovf="http://schemas.citrix.com/ovf/envelope/1" Name="{name}"><xenovf:Value>{value}</xenovf:Value></xenovf:VirtualSystemOtherConfigurationData>"#
        );
    }
    ovf.systems = system("web", "", &hardware).replace("vmx-14", "hvm-3.0-unknown");
    write(dir, "web.ovf", &ovf.text());
    let files = [format!("{}.vhd", ids[0]), format!("{}.vhd", ids[1])];
    pack(dir, "ustar", "web.ova", &["web.ovf", &files[0], &files[1]]);
    let found = manifest(dir, "web.ova");
    let machine = json!({
        "cpu": 4, "mem_mb": 2048, "firmware": "uefi", "secureboot": true, "tpm": true, "os_hint": "linux",
    });
    assert_eq!(found["vm"], machine);
    assert_eq!(found["nics"][0]["mac"], "3a:11:22:33:44:55");
    assert_eq!((&found["disks"][0]["id"], &found["disks"][1]["id"]), (&json!(ids[1]), &json!(ids[0])));
    let results = ids.map(|id| format!("{id}.qcow2"));
    converted(dir, "web.ova", &[(&results[1], "web-disk1.vmdk.raw"), (&results[0], "web-disk2.vmdk.raw")]);
}

#[test]
fn an_ova_of_ovirt_gives_all_disks_in_order_with_its_facts() {
    let site = site();
    let dir = site.path();
    let mut convert = Command::new("qemu-img");
    convert.current_dir(dir).args(["convert", "-O", "qcow2", "web-disk1.vmdk", "9f7a-volume"]);
    assert!(convert.status().unwrap().success());
    fs::rename(dir.join("web-disk2.vmdk.raw"), dir.join("77b1-volume")).unwrap();
    let text = r#"<?xml version="1.0" encoding="UTF-8"?><ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ovf:version="4.2.0.0">
<References><File ovf:href="9f7a-volume" ovf:id="9f7a-volume" ovf:size="1"/><File ovf:href="77b1-volume" ovf:id="77b1-volume" ovf:size="1"/></References>
<DiskSection><Disk ovf:diskId="77b1" ovf:capacity="8388608" ovf:fileRef="77b1-volume" ovf:format="http://www.vmware.com/specifications/vmdk.html#sparse" ovf:volume-format="RAW" ovf:boot="false"/><Disk ovf:diskId="9f7a" ovf:capacity="8388608" ovf:fileRef="9f7a-volume" ovf:format="http://www.vmware.com/specifications/vmdk.html#sparse" ovf:volume-format="COW" ovf:boot="true"/></DiskSection>
<Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type"><Name>web</Name><BiosType>3</BiosType>
<Section ovf:id="5C3D9E11-0000-4000-8000-0123456789AB" ovf:required="false" xsi:type="ovf:OperatingSystemSection_Type"><Description>debian_7</Description></Section>
<Section xsi:type="ovf:VirtualHardwareSection_Type">
<Item><rasd:Caption>3 virtual cpu</rasd:Caption><rasd:InstanceId>1</rasd:InstanceId><rasd:ResourceType>3</rasd:ResourceType><rasd:num_of_sockets>3</rasd:num_of_sockets><rasd:cpu_per_socket>1</rasd:cpu_per_socket><rasd:VirtualQuantity>3</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceId>2</rasd:InstanceId><rasd:ResourceType>4</rasd:ResourceType><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceId>9f7a-volume</rasd:InstanceId><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>9f7a-volume</rasd:HostResource><BootOrder>1</BootOrder></Item>
<Item><rasd:InstanceId>77b1-volume</rasd:InstanceId><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>77b1-volume</rasd:HostResource></Item>
<Item><rasd:InstanceId>n1</rasd:InstanceId><rasd:ResourceType>10</rasd:ResourceType><rasd:ResourceSubType>3</rasd:ResourceSubType><rasd:Connection>ovirtmgmt</rasd:Connection><rasd:MACAddress>56:6f:1a:b3:00:01</rasd:MACAddress></Item>
</Section></Content></ovf:Envelope>"#;
    write(dir, "vm.ovf", text);
    pack(dir, "gnu", "web.ova", &["vm.ovf", "77b1-volume", "9f7a-volume"]);
    let found = manifest(dir, "web.ova");
    assert_eq!(found["vm"]["cpu"], 3);
    assert_eq!(found["vm"]["mem_mb"], 2048);
    assert_eq!(found["vm"]["firmware"], "uefi");
    assert_eq!(found["nics"][0]["mac"], "56:6f:1a:b3:00:01");
    let formats: Vec<&str> = found["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["source_format"].as_str().unwrap())
        .collect();
    assert_eq!(formats, ["qcow2", "raw"], "{found}");
    converted(
        dir,
        "web.ova",
        &[("9f7a-volume.qcow2", "web-disk1.vmdk.raw"), ("77b1-volume.qcow2", "77b1-volume")],
    );
}

#[test]
fn an_ovf_is_read_with_the_files_beside_it_and_with_no_others() {
    let site = site();
    let dir = site.path();
    write(dir, "web.ovf", &two_disks().text());
    converted(dir, "web.ovf", &BOTH);

    fs::remove_file(dir.join("web-disk2.vmdk")).unwrap();
    std::os::unix::fs::symlink(dir.join("web-disk1.vmdk"), dir.join("web-disk2.vmdk")).unwrap();
    let done = at(dir, &["convert", "web.ovf", "-o", "again", "--no-fix"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("symbolic link"), "{}", done.stderr);
    assert!(!dir.join("again").exists());
}

#[test]
fn a_manifest_names_an_appliance_and_says_what_is_different() {
    let site = site();
    let dir = site.path();
    write(dir, "web.ovf", &two_disks().text());
    pack(dir, "pax", "web.ova", &["web.ovf", "web-disk1.vmdk", "web-disk2.vmdk"]);
    write(
        dir,
        "vm.yaml",
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  ova: {path: web.ova}\nvm: {cpu: 8}\noutput: {directory: out}\n",
    );
    let done = at(dir, &["plan", "vm.yaml", "--origins"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("web.ova:web-disk2.vmdk (vmdk)"), "{}", done.stdout);
    let origin = |field: &str| {
        let line = done.stdout.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split("  ").last().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(origin("vm.cpu"), "manifest, line 5");
    assert_eq!(origin("vm.mem_mb"), "source");
    let done = at(dir, &["convert", "vm.yaml"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(dir.join("out/web-disk2.qcow2").exists());
}

#[test]
fn of_several_machines_each_is_converted_or_one_is_chosen() {
    let site = site();
    let dir = site.path();
    let mut ovf = two_disks();
    let only = |disk: &str| item(6, 1, "") + &on_controller(1, 0, disk);
    ovf.systems = system("web", "", &only("ovf:/disk/disk0")) + &system("db", "", &only("ovf:/disk/disk1"));
    write(dir, "both.ovf", &ovf.text());
    pack(dir, "ustar", "both.ova", &["both.ovf", "web-disk1.vmdk", "web-disk2.vmdk"]);
    converted(
        dir,
        "both.ova",
        &[("web/web-disk1.qcow2", "web-disk1.vmdk.raw"), ("db/web-disk2.qcow2", "web-disk2.vmdk.raw")],
    );

    let text = |vm: &str| {
        format!(
            "manifest_version: \"1.0\"\nprofile: none\nsource:\n  ova: {{path: both.ova{vm}}}\noutput: {{directory: one}}\n"
        )
    };
    write(dir, "vm.yaml", &text(""));
    let done = at(dir, &["convert", "vm.yaml"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("2 machines") && done.stderr.contains("web, db"), "{}", done.stderr);
    write(dir, "vm.yaml", &text(", vm: db"));
    let done = at(dir, &["convert", "vm.yaml"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(dir.join("one/web-disk2.qcow2").exists() && !dir.join("one/web-disk1.qcow2").exists());

    let done = at(dir, &["manifest", "both.ova"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    let done = at(dir, &["manifest", "both.ova", "-o", "manifests"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(dir.join("manifests/web.yaml").exists() && dir.join("manifests/db.yaml").exists());
}

#[test]
fn a_manifest_that_was_written_for_an_appliance_converts_it() {
    let site = site();
    let dir = site.path();
    write(dir, "web.ovf", &two_disks().text());
    pack(dir, "gnu", "web.ova", &["web.ovf", "web-disk1.vmdk", "web-disk2.vmdk"]);
    let done = at(dir, &["manifest", "web.ova", "-o", "vm.yaml"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let text = fs::read_to_string(dir.join("vm.yaml")).unwrap();
    assert!(text.contains("checksum: sha256:"), "{text}");
    converted(dir, "vm.yaml", &BOTH);
    // Never over what somebody has written.
    assert_eq!(at(dir, &["manifest", "web.ova", "-o", "vm.yaml"]).code, 1);
}

#[test]
fn a_disk_with_a_wrong_checksum_is_refused_before_anything_is_published() {
    let site = site();
    let dir = site.path();
    write(dir, "web.ovf", &two_disks().text());
    write(dir, "web.mf", &sums(dir, &["web.ovf", "web-disk1.vmdk", "web-disk2.vmdk"]));
    // Somewhere in the middle of its data, where no table notices.
    let mut bytes = fs::read(dir.join("web-disk2.vmdk")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dir.join("web-disk2.vmdk"), bytes).unwrap();
    pack(dir, "ustar", "web.ova", &["web.ovf", "web.mf", "web-disk1.vmdk", "web-disk2.vmdk"]);
    let done = at(dir, &["convert", "web.ova", "-o", "out", "--no-fix"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("checksum") && done.stderr.contains("web-disk2.vmdk"), "{}", done.stderr);
    assert!(!dir.join("out/web-disk1.qcow2").exists() && !dir.join("out/report.json").exists());
}
