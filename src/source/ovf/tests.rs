//! What descriptors of each producer say, and which are refused.

use super::*;
use crate::model::machine::Firmware;

const HEAD: &str = r#"<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="r" xmlns:vmw="v">"#;

fn envelope(references: &str, disks: &str, hardware: &str) -> String {
    format!(
        r#"{HEAD}<References>{references}</References><DiskSection>{disks}</DiskSection><VirtualSystem ovf:id="vm"><Name>web 1</Name><OperatingSystemSection vmw:osType="debian11_64Guest"/><VirtualHardwareSection>{hardware}</VirtualHardwareSection></VirtualSystem></Envelope>"#
    )
}

fn item(kind: &str, id: &str, rest: &str) -> String {
    format!(
        "<Item><rasd:ResourceType>{kind}</rasd:ResourceType><rasd:InstanceID>{id}</rasd:InstanceID>{rest}</Item>"
    )
}

fn hangs_on(parent: &str, unit: u32, disk: &str) -> String {
    format!(
        "<rasd:Parent>{parent}</rasd:Parent><rasd:AddressOnParent>{unit}</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/{disk}</rasd:HostResource>"
    )
}

fn refused(text: &str) -> String {
    let error = machines(text.as_bytes()).unwrap_err();
    assert!(error.details().advice.is_some());
    error.to_string()
}

fn two_disks() -> String {
    envelope(
        r#"<File ovf:id="f1" ovf:href="web%201-disk1.vmdk" ovf:size="700"/><File ovf:id="f2" ovf:href="data.vmdk.gz" ovf:compression="gzip" ovf:chunkSize="1000"/><File ovf:id="f3" ovf:href="web.nvram"/>"#,
        r#"<Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30"/><Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="512"/>"#,
        &[
            item("3", "1", "<rasd:VirtualQuantity>4</rasd:VirtualQuantity>"),
            item("4", "2", "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>2048</rasd:VirtualQuantity>"),
            item("6", "3", "<rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>"),
            item("6", "4", "<rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>"),
            item("17", "5", &hangs_on("4", 0, "d2")),
            item("17", "6", &hangs_on("3", 1, "d1")),
            item("10", "7", "<rasd:Connection>VM Network</rasd:Connection><rasd:Address>00-50-56-AA-bb-01</rasd:Address><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>"),
            r#"<vmw:Config vmw:key="firmware" vmw:value="efi"/><vmw:Config vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/><vmw:ExtraConfig vmw:key="nvram" vmw:value="ovf:/file/f3"/>"#.to_owned(),
        ]
        .concat(),
    )
}

#[test]
fn a_machine_is_told_with_its_disks_in_the_order_of_its_controllers() {
    let found = machines(two_disks().as_bytes()).unwrap().remove(0);
    let facts = found.facts;
    assert_eq!((facts.name.as_str(), facts.vcpus, facts.memory_bytes), ("web 1", Some(4), Some(2 << 30)));
    assert_eq!((facts.firmware, facts.secure_boot, facts.tpm), (Some(Firmware::Uefi), true, false));
    assert_eq!(facts.guest_os.as_deref(), Some("debian11_64Guest"));
    assert_eq!(facts.nvram.as_deref(), Some("web.nvram"));
    let file = |name: &str, bytes, gzip, chunk_bytes| {
        Some(FileRef { name: name.to_owned(), bytes, gzip, chunk_bytes })
    };
    let scsi = |file, capacity, bus, unit| DescribedDisk {
        file,
        capacity,
        format: None,
        controller: Controller::Scsi,
        bus,
        unit,
    };
    assert_eq!(
        found.disks,
        [
            scsi(file("web 1-disk1.vmdk", Some(700), false, None), 8 << 30, 0, 1),
            scsi(file("data.vmdk.gz", None, true, Some(1000)), 512, 1, 0),
        ]
    );
    assert_eq!(facts.nics[0].mac.as_deref(), Some("00:50:56:aa:bb:01"));
    assert_eq!(facts.nics[0].network.as_deref(), Some("VM Network"));
}

#[test]
fn other_encodings_are_read() {
    let text = two_disks();
    let wanted = machines(text.as_bytes()).unwrap();
    let utf16: Vec<u8> = [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    assert_eq!(machines(&utf16).unwrap(), wanted);
    assert_eq!(machines(format!("\u{feff}{text}").as_bytes()).unwrap(), wanted);
    let latin = text
        .replace(r#"version="1.0""#, r#"version="1.0" encoding="ISO-8859-1""#)
        .replace("web 1<", "caf\u{1}<");
    let latin: Vec<u8> = latin.bytes().map(|byte| if byte == 1 { 0xe9 } else { byte }).collect();
    assert_eq!(machines(&latin).unwrap()[0].facts.name, "caf\u{e9}");
}

#[test]
fn files_that_lie_elsewhere_are_refused() {
    for href in [
        "../x.vmdk",
        "/etc/shadow",
        "file:///etc/shadow",
        "http://example.com/x",
        "%2e%2e/x",
        "a%2f..%2f..%2fx",
        "%zz",
        "a%00b",
    ] {
        let told = refused(&envelope(&format!(r#"<File ovf:id="f" ovf:href="{href}"/>"#), "", ""));
        assert!(told.contains("the file `"), "{href}: {told}");
    }
}

#[test]
fn documents_that_do_more_than_say_something_are_refused() {
    let entity = r#"<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Envelope>&e;</Envelope>"#;
    assert!(refused(entity).contains("refused"));
    assert!(refused("<html><body>404</body></html>").contains("another kind"));
    assert!(refused("").contains("refused"));
    assert!(refused(&format!("{HEAD}</Envelope>")).contains("no machine"));
    assert!(refused(&" ".repeat(MOST_BYTES + 1)).contains("MiB"));
}

#[test]
fn amounts_are_whole_bytes_of_known_units() {
    assert_eq!(amount("8", "byte * 2^30"), Some(8 << 30));
    assert_eq!(amount("8", "GigaBytes"), Some(8 << 30));
    assert_eq!(amount("3", "byte * 1024 * 1024"), Some(3 << 20));
    assert_eq!(amount("5", "byte * 10^9"), Some(5_000_000_000));
    assert_eq!(amount("8.5", "byte * 2^30"), Some(17 << 29));
    assert_eq!(amount(" 16.000 ", "byte"), Some(16));
    assert_eq!(amount("0.1", "byte * 10^9"), Some(100_000_000));
    for (number, unit) in [
        ("1.5", "byte"),
        ("0.1", "GigaBytes"),
        ("1.", "GigaBytes"),
        ("1.-5", "GigaBytes"),
        ("1.00000000000000000000000001", "GigaBytes"),
        ("18446744073709551615.5", "GigaBytes"),
        ("-1", "byte"),
        ("${disk.size}", "byte"),
        ("1", "parsec"),
        ("99", "byte * 2^62"),
        ("1", "byte * 2^99"),
    ] {
        assert_eq!(amount(number, unit), None, "{number} {unit}");
    }
}

#[test]
fn machines_that_cannot_be_are_refused() {
    for (kind, quantity) in
        [("3", "0"), ("3", "-2"), ("3", "99999999999"), ("4", "0"), ("4", "18446744073709551615")]
    {
        let told = refused(&envelope(
            "",
            "",
            &item(kind, "1", &format!("<rasd:VirtualQuantity>{quantity}</rasd:VirtualQuantity>")),
        ));
        assert!(told.contains("cannot have"), "{kind} {quantity}: {told}");
    }
    let file = r#"<File ovf:id="f" ovf:href="a.vmdk"/>"#;
    let disk = r#"<Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1"/>"#;
    let twice = [item("17", "1", &hangs_on("9", 0, "d")), item("17", "2", &hangs_on("9", 1, "d"))].concat();
    assert!(refused(&envelope(file, disk, &twice)).contains("used twice"));
    assert!(
        refused(&envelope(file, disk, &item("17", "1", &hangs_on("9", 0, "x")))).contains("not described")
    );
    assert!(refused(&envelope("", disk, &item("17", "1", &hangs_on("9", 0, "d")))).contains("not listed"));
    let delta = r#"<Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1" ovf:parentRef="p"/>"#;
    assert!(refused(&envelope(file, delta, "")).contains("differs from"));
}
