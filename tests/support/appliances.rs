//! Appliances as producers make them, and archives byte by byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disks;

/// The namespaces that producers declare.
const NAMESPACES: &str = r#"xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vbox="http://www.virtualbox.org/ovf/machine" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance""#;

/// A descriptor, part by part; each part is what stands between its section's tags.
#[derive(Debug, Clone)]
pub struct Ovf {
    pub head: String,
    pub references: String,
    pub disks: String,
    pub systems: String,
}

impl Ovf {
    pub fn text(&self) -> String {
        let Ovf { head, references, disks, systems } = self;
        format!(
            "{head}\n<Envelope {NAMESPACES}>\n<References>{references}</References>\n<DiskSection><Info>Disks</Info>{disks}</DiskSection>\n{systems}\n</Envelope>\n"
        )
    }
}

/// What VMware's tools write for a machine with these disks (file, MiB), on one SCSI controller.
pub fn vmware(name: &str, files: &[(&str, u64)]) -> Ovf {
    let mut ovf = Ovf {
        head: r#"<?xml version="1.0" encoding="UTF-8"?>"#.to_owned(),
        references: String::new(),
        disks: String::new(),
        systems: system(name, "", &hardware(files.len())),
    };
    for (number, (file, mib)) in files.iter().enumerate() {
        ovf.references += &format!(r#"<File ovf:id="file{number}" ovf:href="{file}"/>"#);
        ovf.disks += &format!(
            r#"<Disk ovf:diskId="disk{number}" ovf:fileRef="file{number}" ovf:capacity="{mib}" ovf:capacityAllocationUnits="byte * 2^20" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>"#
        );
    }
    ovf
}

/// A virtual system with this hardware, and further sections before it.
pub fn system(name: &str, sections: &str, hardware: &str) -> String {
    format!(
        r#"<VirtualSystem ovf:id="{name}"><Info/><Name>{name}</Name>{sections}<OperatingSystemSection ovf:id="96" vmw:osType="debian11_64Guest"><Info/></OperatingSystemSection><VirtualHardwareSection><Info/><System><vssd:VirtualSystemType>vmx-14</vssd:VirtualSystemType></System>{hardware}</VirtualHardwareSection></VirtualSystem>"#
    )
}

/// Two processors, a GiB, a card, and disks `disk0` … on a SCSI controller, the last of them first in the text.
pub fn hardware(disks: usize) -> String {
    let mut text = item(3, 1, "<rasd:VirtualQuantity>2</rasd:VirtualQuantity>")
        + &item(
            4,
            2,
            "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>1024</rasd:VirtualQuantity>",
        )
        + &item(
            6,
            3,
            "<rasd:Address>0</rasd:Address><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>",
        )
        + &item(
            10,
            4,
            "<rasd:Connection>VM Network</rasd:Connection><rasd:Address>00:50:56:aa:bb:01</rasd:Address><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>",
        );
    for number in (0..disks).rev() {
        text += &on_controller(3, number, &format!("ovf:/disk/disk{number}"));
    }
    text
}

/// A disk on a controller.
pub fn on_controller(controller: usize, unit: usize, disk: &str) -> String {
    item(
        17,
        100 * controller + unit,
        &format!(
            "<rasd:Parent>{controller}</rasd:Parent><rasd:AddressOnParent>{unit}</rasd:AddressOnParent><rasd:HostResource>{disk}</rasd:HostResource>"
        ),
    )
}

/// One thing that a machine is made of, by its number in CIM.
pub fn item(kind: u32, id: usize, rest: &str) -> String {
    format!(
        "<Item><rasd:InstanceID>{id}</rasd:InstanceID><rasd:ResourceType>{kind}</rasd:ResourceType>{rest}</Item>"
    )
}

/// A stream-optimized VMDK of 8 MiB with 1 MiB of data, and the same bytes as `<file>.raw`.
pub fn vmdk(dir: &Path, file: &str, seed: u64) -> PathBuf {
    let (raw, path) = (dir.join(format!("{file}.raw")), dir.join(file));
    disks::raw(&raw, 8, 1, seed);
    let mut convert = Command::new("qemu-img");
    convert
        .args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"])
        .arg(&raw)
        .arg(&path);
    assert!(convert.status().expect("qemu-img is installed by set-up").success());
    path
}

/// Cuts a file into pieces of so many bytes, as `file.000000000` and so on; their names in order.
pub fn cut_up(dir: &Path, file: &str, bytes: u64) -> Vec<String> {
    let mut split = Command::new("split");
    split.current_dir(dir).args(["-d", "-a", "9", "-b"]).arg(bytes.to_string());
    assert!(split.arg(file).arg(format!("{file}.")).status().expect("split is there").success());
    let count = fs::metadata(dir.join(file)).unwrap().len().div_ceil(bytes);
    fs::remove_file(dir.join(file)).unwrap();
    (0..count).map(|number| format!("{file}.{number:09}")).collect()
}

/// Packs a file with gzip, in its place.
pub fn gzip(dir: &Path, file: &str) {
    let packed = Command::new("gzip").arg("-c").arg(dir.join(file)).output().expect("gzip is there").stdout;
    fs::write(dir.join(file), packed).unwrap();
}

/// `SHA256(file)= …` for these files.
pub fn sums(dir: &Path, files: &[&str]) -> String {
    files.iter().map(|file| format!("SHA256({file})= {}\n", disks::sha256(&dir.join(file)))).collect()
}

/// Packs files of a directory in this order with the real tar.
pub fn pack(dir: &Path, format: &str, archive: &str, files: &[&str]) -> PathBuf {
    let path = dir.join(archive);
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(dir).arg(format!("--format={format}")).arg("-cf").arg(&path).arg("--").args(files);
    assert!(tar.status().expect("tar is there").success());
    path
}

/// An archive of these members: name, kind, content.
pub fn archive(members: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        members.iter().flat_map(|(name, kind, content)| member(name, *kind, content)).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A member as ustar has it.
pub fn member(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = kind;
    if matches!(kind, b'1' | b'2') {
        header[157..168].copy_from_slice(b"/etc/shadow");
    }
    header[257..265].copy_from_slice(b"ustar\x0000");
    sealed(header, content)
}

/// A header with its checksum, and the content behind it.
pub fn sealed(mut header: Vec<u8>, content: &[u8]) -> Vec<u8> {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.extend(content);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

/// An appliance of one VMDK, with a descriptor that was changed, as a ustar archive.
pub fn one_disk(dir: &Path, change: impl FnOnce(&mut Ovf)) -> PathBuf {
    let mut ovf = vmware("web", &[("web-disk1.vmdk", 8)]);
    change(&mut ovf);
    one_disk_described(dir, ovf.text().as_bytes())
}

/// The same with the descriptor given byte by byte.
pub fn one_disk_described(dir: &Path, descriptor: &[u8]) -> PathBuf {
    vmdk(dir, "web-disk1.vmdk", 1);
    fs::write(dir.join("web.ovf"), descriptor).unwrap();
    pack(dir, "ustar", "web.ova", &["web.ovf", "web-disk1.vmdk"])
}
