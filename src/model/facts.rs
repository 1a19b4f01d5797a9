//! What is known of a machine at its source, whatever described it there: an OVF, a VMX, a libvirt domain, a folder of disks.
//!
//! It is what a manifest does not say: laid below the manifest, a person's word wins over it. What is not here: where it is read from, and
//! what the machine will be on this side ([`machine`](super::machine)).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::machine::Firmware;
use super::manifest::{DiskBus, NicModel};
use super::plan::{Packing, SourceFormat};

/// Names are cut to what a manifest allows.
const MOST_NAME_CHARS: usize = 255;

/// A machine at its source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// What people call it.
    pub name: String,
    /// Processors.
    pub vcpus: Option<u32>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// What starts it.
    pub firmware: Option<Firmware>,
    /// Whether only signed boot loaders run.
    pub secure_boot: bool,
    /// Whether it has a TPM.
    pub tpm: bool,
    /// SMBIOS UUID, as the guest reads it.
    pub uuid: Option<String>,
    /// SMBIOS serial number.
    pub serial: Option<String>,
    /// QEMU machine type, where it has one there.
    pub machine: Option<String>,
    /// The bus of its disks, where it has the same there as here.
    pub disk_bus: Option<DiskBus>,
    /// The model of its network cards, likewise.
    pub nic_model: Option<NicModel>,
    /// What runs on it, as its hypervisor calls that: `debian11_64Guest`.
    pub guest_os: Option<String>,
    /// Which version of it: `rhel9.0`.
    pub os_version: Option<String>,
    /// The file that holds its firmware's variables.
    pub nvram: Option<String>,
    /// Its disks, in the order in which its firmware sees them.
    pub disks: Vec<FoundDisk>,
    /// Its network cards, in order.
    pub nics: Vec<FoundNic>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The same of what the pre-flight has rules for.
    pub notes: Vec<SourceNote>,
}

/// What a source says of a machine that breaks a rule of the pre-flight (see [`validation`](super::validation)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceNote {
    /// Which rule.
    pub rule: String,
    /// The disk that it is about, if it is one.
    pub about: Option<String>,
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundDisk {
    /// By which it is called here: its file's name without the suffix, made safe.
    pub id: String,
    /// Where it lies (absolute).
    pub path: PathBuf,
    /// As which member of that file, if that is an archive.
    pub member: Option<String>,
    /// How that is packed.
    pub packing: Option<Packing>,
    /// Its format.
    pub format: SourceFormat,
    /// What the guest sees, as far as it is said.
    pub capacity_bytes: Option<u64>,
    /// What its file or member hashes to, as manifests write it.
    pub checksum: Option<String>,
    /// The same of each of its pieces, if it is cut into such.
    pub piece_checksums: Vec<String>,
    /// Whether it is the last of a chain of snapshots.
    pub is_chain: bool,
    /// Directories other than its own in which the others of the chain lie.
    #[serde(default)]
    pub allowed_paths: Vec<PathBuf>,
    /// What it hangs on.
    pub controller: Controller,
    /// Which controller of its kind.
    pub bus: u32,
    /// Where on the controller.
    pub unit: u32,
}

/// What a disk hangs on, in the order in which firmware looks for one to boot from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Parallel ATA.
    Ide,
    /// Any kind of SCSI.
    Scsi,
    /// AHCI.
    Sata,
    /// NVM Express.
    Nvme,
    /// Something else, or not said.
    #[default]
    Other,
}

/// A network card of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundNic {
    /// Its hardware address.
    pub mac: Option<String>,
    /// The network that it was connected to.
    pub network: Option<String>,
    /// What it is there: `VmxNet3`, `E1000`.
    pub model: Option<String>,
    /// What it is here, where that is another than the machine's others are.
    #[serde(default)]
    pub own_model: Option<NicModel>,
    /// The VLAN that its frames are tagged with there.
    #[serde(default)]
    pub vlan: Option<u16>,
}

impl Facts {
    /// The name, fit for a manifest: one line, and not too long.
    #[must_use]
    pub fn plain_name(&self) -> String {
        plain(&self.name)
    }

    /// As a manifest says it, but for its version. What a guest has there and a manifest has no word for is left out.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut document = Map::new();
        let name = self.plain_name();
        if !name.is_empty() {
            document.insert("name".to_owned(), json!(name));
        }
        let mut vm = Map::new();
        let mut say = |key: &str, value: Option<Value>| value.map(|value| vm.insert(key.to_owned(), value));
        say("cpu", self.vcpus.map(|count| json!(count)));
        say("mem_mb", self.memory_bytes.map(|bytes| json!(bytes.div_ceil(1 << 20))));
        say("firmware", self.firmware.map(|firmware| json!(firmware.name())));
        say("secureboot", self.secure_boot.then(|| json!(true)));
        say("tpm", self.tpm.then(|| json!(true)));
        say("uuid", self.uuid.as_ref().map(|uuid| json!(uuid)));
        say(
            "serial",
            self.serial.as_deref().map(plain).filter(|text| !text.is_empty()).map(|text| json!(text)),
        );
        say("machine", self.machine.as_ref().map(|machine| json!(machine)));
        say("disk_bus", self.disk_bus.map(|bus| json!(bus)));
        say("nic_model", self.nic_model.map(|model| json!(model)));
        say("os_hint", self.family().map(|family| json!(family)));
        say("os_version", self.os_version.as_ref().map(|version| json!(version)));
        if !vm.is_empty() {
            document.insert("vm".to_owned(), Value::Object(vm));
        }
        document.insert("disks".to_owned(), self.disks.iter().enumerate().map(disk_entry).collect());
        if !self.nics.is_empty() {
            document.insert("nics".to_owned(), self.nics.iter().enumerate().map(nic_entry).collect());
        }
        Value::Object(document)
    }

    /// `windows` or `linux`, by what the hypervisor calls the guest.
    fn family(&self) -> Option<&'static str> {
        const LINUXES: [&str; 15] = [
            "linux", "debian", "ubuntu", "rhel", "red hat", "redhat", "centos", "sles", "suse", "fedora",
            "oracle", "rocky", "alma", "photon", "amazon",
        ];
        let name = self.guest_os.as_ref()?.to_lowercase();
        match name {
            name if is_windows(&name) => Some("windows"),
            name if LINUXES.iter().any(|word| name.contains(word)) => Some("linux"),
            _ => None,
        }
    }
}

/// Whether what a hypervisor calls a guest is a Windows.
#[must_use]
pub fn is_windows(guest_os: &str) -> bool {
    let name = guest_os.to_lowercase();
    name.contains("win") && !name.contains("darwin")
}

fn disk_entry((order, disk): (usize, &FoundDisk)) -> Value {
    let mut entry = json!({
        "id": disk.id,
        "source_format": disk.format.name(),
        "local_path": disk.path,
    });
    if let Some(member) = &disk.member {
        entry["member"] = json!(member);
    }
    if let Some(Packing::Gzip) = disk.packing {
        entry["compression"] = json!("gzip");
    }
    if let Some(bytes) = disk.capacity_bytes.filter(|bytes| *bytes > 0) {
        entry["bytes"] = json!(bytes);
    }
    if let Some(checksum) = &disk.checksum {
        entry["checksum"] = json!(checksum);
    }
    if !disk.piece_checksums.is_empty() {
        entry["piece_checksums"] = json!(disk.piece_checksums);
    }
    if disk.is_chain {
        entry["backing_chain"] = json!(true);
    }
    if !disk.allowed_paths.is_empty() {
        entry["allowed_paths"] = json!(disk.allowed_paths);
    }
    entry["boot_order_hint"] = json!(order);
    entry
}

fn nic_entry((number, nic): (usize, &FoundNic)) -> Value {
    let mut entry = json!({ "id": format!("nic{number}") });
    if let Some(mac) = &nic.mac {
        entry["mac"] = json!(mac);
    }
    if let Some(network) = nic.network.as_deref().map(plain).filter(|name| !name.is_empty()) {
        entry["network"] = json!(network);
    }
    if let Some(vlan) = nic.vlan {
        entry["vlan"] = json!(vlan);
    }
    if let Some(model) = nic.own_model {
        entry["model"] = json!(model);
    }
    entry
}

/// On one line, and no longer than a manifest allows.
fn plain(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().chars().take(MOST_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let disk = FoundDisk {
            id: "web-disk1".to_owned(),
            path: PathBuf::from("/in/web.ova"),
            member: Some("web-disk1.vmdk".to_owned()),
            packing: None,
            format: SourceFormat::Vmdk,
            capacity_bytes: Some(8 << 30),
            checksum: None,
            piece_checksums: Vec::new(),
            is_chain: false,
            allowed_paths: Vec::new(),
            controller: Controller::Scsi,
            bus: 0,
            unit: 0,
        };
        let nic = FoundNic {
            mac: Some("00:50:56:aa:bb:01".to_owned()),
            network: Some("VM\tNetwork".to_owned()),
            ..FoundNic::default()
        };
        Facts {
            name: " web\n1 ".to_owned(),
            vcpus: Some(4),
            memory_bytes: Some((2 << 30) + 1),
            firmware: Some(Firmware::Uefi),
            guest_os: Some("debian11_64Guest".to_owned()),
            disks: vec![disk],
            nics: vec![nic],
            ..Facts::default()
        }
    }

    #[test]
    fn what_is_known_is_said_as_a_manifest_says_it() {
        let expected = json!({
            "name": "web 1",
            "vm": { "cpu": 4, "mem_mb": 2049, "firmware": "uefi", "os_hint": "linux" },
            "disks": [{
                "id": "web-disk1", "source_format": "vmdk", "local_path": "/in/web.ova", "member": "web-disk1.vmdk",
                "bytes": 8_589_934_592_u64, "boot_order_hint": 0,
            }],
            "nics": [{ "id": "nic0", "mac": "00:50:56:aa:bb:01", "network": "VM Network" }],
        });
        assert_eq!(facts().document(), expected);
    }

    #[test]
    fn guests_are_told_apart_by_what_their_hypervisor_calls_them() {
        let family = |name: &str| Facts { guest_os: Some(name.to_owned()), ..Facts::default() }.family();
        for name in ["windows2019srv_64Guest", "Windows 10 (64-bit)", "winNetEnterpriseGuest"] {
            assert_eq!(family(name), Some("windows"), "{name}");
        }
        for name in ["debian11_64Guest", "Red Hat Enterprise Linux 8 (64-bit)", "other3xLinux64Guest"] {
            assert_eq!(family(name), Some("linux"), "{name}");
        }
        for name in ["darwin19_64Guest", "freebsd12_64Guest", "otherGuest"] {
            assert_eq!(family(name), None, "{name}");
        }
    }
}
