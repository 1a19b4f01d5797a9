//! Machines as they are described at their source, for people and programs.
//!
//! For programs it is what a manifest says of them, and besides it what a manifest has no word for. What is not here: where that is read.

use serde_json::{Value, json};

use crate::model::facts::{Controller, Facts, FoundDisk, FoundNic};
use crate::model::units::human_size;

/// A machine's manifest with what else is known: `guest_os`, `nvram`, `warnings`, where each disk hangs, what each card is.
pub(super) fn document(facts: &Facts) -> Value {
    let mut told = facts.document();
    let mut say = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            told[key] = value;
        }
    };
    say("guest_os", facts.guest_os.as_ref().map(|name| json!(name)));
    say("nvram", facts.nvram.as_ref().map(|name| json!(name)));
    say("warnings", (!facts.warnings.is_empty()).then(|| json!(facts.warnings)));
    for (entry, disk) in told["disks"].as_array_mut().into_iter().flatten().zip(&facts.disks) {
        if disk.controller != Controller::Other {
            entry["controller"] = json!(disk.controller);
            entry["bus"] = json!(disk.bus);
            entry["unit"] = json!(disk.unit);
        }
    }
    for (entry, nic) in told["nics"].as_array_mut().into_iter().flatten().zip(&facts.nics) {
        if let Some(model) = &nic.model {
            entry["model"] = json!(model);
        }
    }
    told
}

/// The same in a few lines, without disks.
pub(super) fn lines(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut lines = vec![("machine", facts.plain_name())];
    let mut say = |name: &'static str, value: Option<String>| {
        lines.extend(value.map(|value| (name, value)));
    };
    say("processors", facts.vcpus.map(|count| count.to_string()));
    say("memory", facts.memory_bytes.map(human_size));
    let traits = [
        facts.firmware.map(|firmware| firmware.name().to_owned()),
        facts.secure_boot.then(|| "secure boot".to_owned()),
        facts.tpm.then(|| "TPM".to_owned()),
    ];
    let traits: Vec<String> = traits.into_iter().flatten().collect();
    say("firmware", (!traits.is_empty()).then(|| traits.join(", ")));
    say("uuid", facts.uuid.clone());
    say("serial", facts.serial.clone());
    say("meant for", facts.guest_os.clone());
    for nic in &facts.nics {
        say("card", Some(card(nic)));
    }
    for warning in &facts.warnings {
        say("note", Some(warning.clone()));
    }
    lines
}

/// What a disk hangs on: `scsi 0:1`.
pub(super) fn hangs_on(disk: &FoundDisk) -> Option<String> {
    let controller = match disk.controller {
        Controller::Ide => "ide",
        Controller::Scsi => "scsi",
        Controller::Sata => "sata",
        Controller::Nvme => "nvme",
        Controller::Other => return None,
    };
    Some(format!("{controller} {}:{}", disk.bus, disk.unit))
}

fn card(nic: &FoundNic) -> String {
    let mut text = nic.mac.clone().unwrap_or_else(|| "any address".to_owned());
    if let Some(network) = &nic.network {
        text += &format!(" on {network}");
    }
    if let Some(model) = &nic.model {
        text += &format!(" ({model})");
    }
    text
}
