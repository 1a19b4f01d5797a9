//! What the keys of a VMX say of its machine. What is not here: where its disks lie, and whether they are there.

use super::text::{Dictionary, bad, shown};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Controller, Facts, FoundNic, SourceNote, is_windows};
use crate::model::machine::Firmware;
use crate::model::manifest::values::Mac;
use crate::model::vmware::{SystemId, name_decoded};

const MOST_DISKS: usize = 256;
const MOST_VCPUS: u32 = 4096;
const MOST_MEMORY_MIB: u64 = 64 << 20;
/// VMware has ten.
const MOST_NICS: u32 = 64;

/// What a disk can hang on, as keys begin.
const CONTROLLERS: [(&str, Controller); 4] = [
    ("ide", Controller::Ide),
    ("scsi", Controller::Scsi),
    ("sata", Controller::Sata),
    ("nvme", Controller::Nvme),
];

/// Where a disk hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) controller: Controller,
    pub(super) bus: u32,
    pub(super) unit: u32,
}

/// A disk, by the name that the VMX has for its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedDisk {
    pub(super) slot: Slot,
    pub(super) file: String,
}

/// The machine, still without its disks, and what they are called.
pub(super) fn machine(said: &Dictionary) -> Result<(Facts, Vec<NamedDisk>)> {
    if said.get("encryption.keysafe").is_some() || said.get("encryption.data").is_some() {
        return Err(Error::new(
            Kind::Unsupported,
            "the machine is encrypted: its VMX can be read with its password only",
        )
        .advice("remove the encryption in VMware (and a TPM, which needs it), then copy the machine again"));
    }
    let mut facts = Facts {
        name: said.get("displayname").map(name_decoded).unwrap_or_default(),
        vcpus: Some(vcpus(said)?),
        memory_bytes: memory_bytes(said)?,
        firmware: Some(match said.get("firmware") {
            Some(name) if name.eq_ignore_ascii_case("efi") => Firmware::Uefi,
            _ => Firmware::Bios,
        }),
        tpm: said.is_true("vtpm.present"),
        guest_os: said.get("guestos").map(str::to_owned),
        nvram: said.get("nvram").map(str::to_owned),
        warnings: said.warning.iter().cloned().collect(),
        ..Facts::default()
    };
    facts.secure_boot = facts.firmware == Some(Firmware::Uefi) && said.is_true("uefi.secureboot.enabled");
    let hardware = said.get("virtualhw.version").and_then(|version| version.parse().ok());
    if let Some(id) = said.get("uuid.bios").and_then(SystemId::parse) {
        facts.uuid = Some(id.uuid(hardware, facts.guest_os.as_deref().is_some_and(is_windows)));
        facts.serial = Some(id.serial());
    }
    facts.nics = nics(said, &mut facts.warnings);
    let disks = disks(said, &mut facts.warnings)?;
    facts.notes = disks.iter().flat_map(|disk| notes(said, disk)).collect();
    if said.get("checkpoint.vmstate").is_some() {
        facts.warnings.push(
            "the machine is suspended: what it had in memory stays behind; wake it and shut it down, then copy it again"
                .to_owned(),
        );
    }
    Ok((facts, disks))
}

/// One processor where nothing is said: only more are written down.
fn vcpus(said: &Dictionary) -> Result<u32> {
    let Some(text) = said.get("numvcpus") else { return Ok(1) };
    let count = text.parse().ok().filter(|count| (1..=MOST_VCPUS).contains(count));
    count.ok_or_else(|| bad(&format!("a machine cannot have `{}` processors", shown(text.as_bytes()))))
}

/// Versions differ in what they take where nothing is said, so nothing is said here either.
fn memory_bytes(said: &Dictionary) -> Result<Option<u64>> {
    let Some(text) = said.get("memsize") else { return Ok(None) };
    let mib = text.parse().ok().filter(|mib| (1..=MOST_MEMORY_MIB).contains(mib));
    mib.map(|mib: u64| Some(mib << 20))
        .ok_or_else(|| bad(&format!("a machine cannot have `{}` MiB of memory", shown(text.as_bytes()))))
}

fn nics(said: &Dictionary, warnings: &mut Vec<String>) -> Vec<FoundNic> {
    let mut nics = Vec::new();
    for number in 0..MOST_NICS {
        let key = |name: &str| said.get(&format!("ethernet{number}.{name}"));
        if !said.is_true(&format!("ethernet{number}.present")) {
            continue;
        }
        // A generated address may still stand there where a person gave one, and the other way round.
        let (first, second) = match key("addresstype").map(str::to_ascii_lowercase).as_deref() {
            Some("static") => ("address", "generatedaddress"),
            _ => ("generatedaddress", "address"),
        };
        let address = key(first).or_else(|| key(second)).filter(|address| *address != "00:00:00:00:00:00");
        let mac = address.and_then(|address| Mac::new(address).ok());
        if let (Some(address), None) = (address, &mac) {
            let address = shown(address.as_bytes());
            warnings.push(format!(
                "network card {number} has the address `{address}`, which no card has: it gets another"
            ));
        }
        let network = key("networkname").or_else(|| key("vnet")).or_else(|| key("connectiontype"));
        nics.push(FoundNic {
            mac: mac.map(|mac| mac.as_str().to_owned()),
            network: network.map(str::to_owned),
            model: key("virtualdev").map(str::to_owned),
            ..FoundNic::default()
        });
    }
    nics
}

/// Its disks, in the order in which its firmware sees them.
fn disks(said: &Dictionary, warnings: &mut Vec<String>) -> Result<Vec<NamedDisk>> {
    let mut disks = Vec::new();
    for key in said.keys() {
        let Some((name, slot)) = key.strip_suffix(".present").and_then(|name| Some((name, slot(name)?)))
        else {
            continue;
        };
        if !said.is_true(key) {
            continue;
        }
        let Some(file) = file_of_disk(said, name, warnings) else { continue };
        let controller = &name[..name.find(':').unwrap_or(name.len())];
        if said.flag(&format!("{controller}.present")) == Some(false) {
            warnings.push(format!("the disk at `{name}` is left out: the machine has no `{controller}`"));
            continue;
        }
        if said.get(&format!("{name}.redo")).is_some() {
            warnings.push(format!("changes to the disk at `{name}` that VMware kept aside are not in it"));
        }
        disks.push(NamedDisk { slot, file: file.to_owned() });
    }
    if disks.len() > MOST_DISKS {
        return Err(bad(&format!("it has more than {MOST_DISKS} disks")));
    }
    // Who chose an order in the BIOS' menu, has it written down.
    let chosen: Vec<Slot> = said
        .get("bios.hddorder")
        .map(|order| order.split(',').filter_map(|name| slot(&name.trim().to_ascii_lowercase())).collect())
        .unwrap_or_default();
    let place = |slot: &Slot| chosen.iter().position(|other| other == slot).unwrap_or(usize::MAX);
    disks.sort_by_key(|disk| (place(&disk.slot), disk.slot));
    Ok(disks)
}

/// What VMware does with a disk that copies of it do not show.
fn notes(said: &Dictionary, disk: &NamedDisk) -> Vec<SourceNote> {
    let Slot { controller, bus, unit } = disk.slot;
    let Some((word, _)) = CONTROLLERS.iter().find(|(_, known)| *known == controller) else {
        return Vec::new();
    };
    let name = format!("{word}{bus}:{unit}");
    let says = |key: String, word: &str| {
        said.get(&key).is_some_and(|value| value.to_ascii_lowercase().contains(word))
    };
    let note = |rule: &str, message: String, advice: &str| SourceNote {
        rule: rule.to_owned(),
        about: Some(disk.file.clone()),
        message,
        advice: advice.to_owned(),
    };
    let mut notes = Vec::new();
    if says(format!("{name}.mode"), "independent") {
        notes.push(note(
            "disk.independent",
            format!("the disk at `{name}` is independent: it is left out of VMware's snapshots, and may be of another moment than the others"),
            "shut the machine down before its disks are copied",
        ));
    }
    let bus_is_shared =
        said.get(&format!("{word}{bus}.sharedbus")).is_some_and(|how| !how.eq_ignore_ascii_case("none"));
    if bus_is_shared || says(format!("{name}.sharing"), "multi-writer") {
        notes.push(note(
            "disk.shared",
            format!("the disk at `{name}` may be written by several machines"),
            "shut down all of them before it is copied; on this side it belongs to one machine",
        ));
    }
    notes
}

/// `scsi0:1`
fn slot(name: &str) -> Option<Slot> {
    let (bus, unit) = name.split_once(':')?;
    let (digits, controller) =
        CONTROLLERS.into_iter().find_map(|(word, controller)| Some((bus.strip_prefix(word)?, controller)))?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some(Slot { controller, bus: number(digits)?, unit: number(unit)? })
}

/// The file of what hangs there, if that is a disk. A device of the host counts as one, for its VMDK says what it is.
fn file_of_disk<'d>(said: &'d Dictionary, name: &str, warnings: &mut Vec<String>) -> Option<&'d str> {
    let kind = said.get(&format!("{name}.devicetype")).unwrap_or_default().to_ascii_lowercase();
    let file = said.get(&format!("{name}.filename")).filter(|file| *file != "emptyBackingString");
    let ends = |suffix: &str| file.is_some_and(|file| file.to_ascii_lowercase().ends_with(suffix));
    let is_disk = match kind.as_str() {
        "disk" | "scsi-harddisk" | "ata-harddisk" | "rawdisk" | "plaindisk" => true,
        kind if kind.contains("cdrom") => return None,
        "" if ends(".iso") => return None,
        "" => true,
        _ => ends(".vmdk"),
    };
    match (is_disk, file) {
        (true, Some(file)) => Some(file),
        (true, None) => {
            warnings.push(format!("`{name}` has no file: it is left out"));
            None
        }
        (false, _) => {
            let kind = shown(kind.as_bytes());
            warnings.push(format!("`{name}` is a device (`{kind}`) and no disk: it is left out"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Result<(Facts, Vec<NamedDisk>)> {
        machine(&Dictionary::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_machine_is_told_as_vmware_has_it() {
        let text = r#"
            displayName = "web %2f 1 100%"
            numvcpus = "4"
            memsize = "2048"
            firmware = "efi"
            uefi.secureBoot.enabled = "TRUE"
            vtpm.present = "TRUE"
            guestOS = "debian11-64"
            nvram = "web.nvram"
            virtualHW.version = "14"
            uuid.bios = "56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc"
            ethernet0.present = "TRUE"
            ethernet0.addressType = "static"
            ethernet0.address = "00:50:56:AA:BB:01"
            ethernet0.generatedAddress = "00:0c:29:00:00:01"
            ethernet0.networkName = "VM Network"
            ethernet0.virtualDev = "vmxnet3"
            ethernet1.present = "FALSE"
            ethernet2.present = "TRUE"
            ethernet2.addressType = "generated"
            ethernet2.generatedAddress = "00:0C:29:00:00:02"
            ethernet2.connectionType = "nat"
            ethernet3.present = "TRUE"
            ethernet3.address = "01:00:00:00:00:00"
        "#;
        let (facts, disks) = told(text).unwrap();
        assert_eq!(
            (facts.name.as_str(), facts.vcpus, facts.memory_bytes),
            ("web / 1 100%", Some(4), Some(2 << 30))
        );
        assert_eq!((facts.firmware, facts.secure_boot, facts.tpm), (Some(Firmware::Uefi), true, true));
        assert_eq!(facts.uuid.as_deref(), Some("8a0b4d56-2211-4433-5566-778899aabbcc"));
        assert_eq!(facts.serial.as_deref(), Some("VMware-56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc"));
        assert_eq!(
            (facts.guest_os.as_deref(), facts.nvram.as_deref()),
            (Some("debian11-64"), Some("web.nvram"))
        );
        let nic = |mac: Option<&str>, network: Option<&str>, model: Option<&str>| FoundNic {
            mac: mac.map(str::to_owned),
            network: network.map(str::to_owned),
            model: model.map(str::to_owned),
            ..FoundNic::default()
        };
        assert_eq!(
            facts.nics,
            [
                nic(Some("00:50:56:aa:bb:01"), Some("VM Network"), Some("vmxnet3")),
                nic(Some("00:0c:29:00:00:02"), Some("nat"), None),
                nic(None, None, None),
            ]
        );
        assert!(facts.warnings[0].contains("network card 3"), "{:?}", facts.warnings);
        assert!(disks.is_empty());
    }

    #[test]
    fn what_is_not_said_is_what_vmware_takes_then() {
        let (facts, _) = told("uefi.secureBoot.enabled = \"TRUE\"").unwrap();
        assert_eq!((facts.vcpus, facts.memory_bytes), (Some(1), None));
        assert_eq!((facts.firmware, facts.secure_boot, facts.tpm), (Some(Firmware::Bios), false, false));
        assert_eq!((facts.uuid, facts.serial), (None, None));
    }

    #[test]
    fn disks_come_in_the_order_of_their_controllers_and_drives_are_none() {
        let text = r#"
            scsi1.present = "TRUE"
            scsi1:0.present = "TRUE"
            scsi1:0.fileName = "f.vmdk"
            scsi0.present = "TRUE"
            scsi0:10.present = "TRUE"
            scsi0:10.fileName = "e.vmdk"
            scsi0:2.present = "TRUE"
            scsi0:2.deviceType = "scsi-hardDisk"
            scsi0:2.fileName = "d.vmdk"
            scsi0:3.present = "FALSE"
            scsi0:3.fileName = "unplugged.vmdk"
            ide0:0.present = "TRUE"
            ide0:0.fileName = "c.vmdk"
            ide1:0.present = "TRUE"
            ide1:0.deviceType = "cdrom-image"
            ide1:0.fileName = "x.iso"
            ide1:1.present = "TRUE"
            ide1:1.deviceType = "atapi-cdrom"
            ide1:1.fileName = "auto detect"
            nvme0:0.present = "TRUE"
            nvme0:0.fileName = "h.vmdk"
            sata0:1.present = "TRUE"
            sata0:1.deviceType = "disk"
            sata0:1.fileName = "g.vmdk"
            sata1.present = "FALSE"
            sata1:0.present = "TRUE"
            sata1:0.fileName = "y.vmdk"
            scsi0:7.present = "TRUE"
            scsi0:7.deviceType = "scsi-passthru"
            scsi0:7.fileName = "/dev/sg0"
            scsi99999999999:0.present = "TRUE"
            floppy0.present = "TRUE"
        "#;
        let names = |text: &str| {
            let (facts, disks) = told(text).unwrap();
            (disks.into_iter().map(|disk| disk.file).collect::<Vec<_>>(), facts.warnings)
        };
        let (files, warnings) = names(text);
        assert_eq!(files, ["c.vmdk", "d.vmdk", "e.vmdk", "f.vmdk", "g.vmdk", "h.vmdk"]);
        assert!(warnings.iter().any(|warning| warning.contains("`sata1:0`")), "{warnings:?}");
        assert!(warnings.iter().any(|warning| warning.contains("scsi-passthru")), "{warnings:?}");
        let (files, _) = names(&format!("{text}\nbios.hddOrder = \"sata0:1, scsi0:10\""));
        assert_eq!(files[..3], ["g.vmdk", "e.vmdk", "c.vmdk"]);
    }

    #[test]
    fn disks_that_other_machines_write_or_that_snapshots_leave_out_are_told() {
        let rules = |further: &str| {
            let text = format!("scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"a.vmdk\"\n{further}");
            let (facts, _) = told(&text).unwrap();
            facts.notes.into_iter().map(|note| (note.rule, note.about.unwrap())).collect::<Vec<_>>()
        };
        let of = |rule: &str| vec![(rule.to_owned(), "a.vmdk".to_owned())];
        assert_eq!(rules("scsi0:1.mode = \"persistent\"\nscsi0.sharedBus = \"none\""), []);
        assert_eq!(rules("scsi0:1.mode = \"independent-persistent\""), of("disk.independent"));
        assert_eq!(rules("scsi0.sharedBus = \"virtual\""), of("disk.shared"));
        assert_eq!(rules("scsi0:1.sharing = \"multi-writer\""), of("disk.shared"));
    }

    #[test]
    fn a_vmx_that_was_cut_or_changed_anywhere_is_read_or_refused() {
        let text = "displayName = \"%2fé|22%\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n\
                    bios.hddOrder = \"scsi0:0,:,ide\"\nethernet0.present = \"TRUE\"\nethernet0.address = \"0:é\"\n";
        let mut read = 0;
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] ^= 0x80;
            for bytes in [&text.as_bytes()[..at], &changed] {
                let found = Dictionary::parse(bytes).and_then(|said| machine(&said));
                read += usize::from(found.is_ok_and(|(_, disks)| disks.len() == 1));
            }
        }
        assert!(read > text.len() / 2, "most changes are not of the disk: {read}");
    }

    #[test]
    fn machines_that_cannot_be_are_refused() {
        for line in
            ["numvcpus = \"0\"", "numvcpus = \"-1\"", "memsize = \"lots\"", "memsize = \"99999999999999\""]
        {
            let error = told(line).unwrap_err();
            assert_eq!(error.kind(), Kind::Source, "{line}");
            assert!(error.to_string().contains("cannot have"), "{error}");
        }
        let error = told("encryption.keySafe = \"vmware:key/list/x\"").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let many: String = (0..=MOST_DISKS)
            .map(|unit| format!("scsi0:{unit}.present = \"TRUE\"\nscsi0:{unit}.fileName = \"{unit}.vmdk\"\n"))
            .collect();
        assert!(told(&many).unwrap_err().to_string().contains("disks"));
    }
}
