//! Whether a machine may run here: only one whose source is off, and that shares nothing with another by which others know it.
//!
//! What is not here: whether it was proved to come up.

use std::fs::File;

use crate::model::error::{Error, Kind, Result};
use crate::model::plan::Plan;
use crate::sys::record_lock::is_locked;

/// Refuses a start while a program has a source open: two machines would be one and the same.
pub(super) fn source_is_off(plan: &Plan) -> Result<()> {
    // Whether a VM elsewhere is off, its server is asked.
    for disk in plan.disks.iter().filter(|_| plan.remote.is_none()) {
        // One that cannot be opened any more is no running machine's.
        let Ok(file) = File::open(&disk.source) else { continue };
        if is_locked(&file, 0..0).unwrap_or(false) {
            return Err(Error::new(
                Kind::Source,
                format!(
                    "{} is open elsewhere: the machine that it comes from may run",
                    disk.source.display()
                ),
            )
            .rule("disk.open_elsewhere")
            .source(disk.source.display().to_string())
            .advice("shut it down, or say `allow_live_clone: true` if both may run at once"));
        }
    }
    Ok(())
}

/// A machine of that name is there, and nobody has said that it may give way.
pub(in crate::pipeline) fn stays(domain: &str) -> Error {
    Error::new(Kind::Exists, format!("there is a machine {domain} already, and it may not be replaced"))
        .advice(
            "allow it (`libvirt_integration.overwrite_domain: true`), or give the new one another `vm_name`",
        )
}

/// Another machine there has the same UUID, or a card with the same address.
pub(in crate::pipeline) fn shared(domain: &str, is_uuid: bool, value: &str) -> Error {
    let (what, advice) = match is_uuid {
        true => ("UUID", "undefine that machine, or give this one another `vm.uuid`"),
        false => (
            "hardware address",
            "undefine that machine, give this card another address (`network_mapping.mac_address_policy`), or say `allow_live_clone: true`",
        ),
    };
    Error::new(Kind::Libvirt, format!("the machine {domain} has the {what} {value} already")).advice(advice)
}
