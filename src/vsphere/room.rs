//! How much is free on the datastores that a machine's files grow on.
//!
//! What is not here: how much has to be.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::client::Client;
use super::failure;
use super::inventory::VmRef;
use super::machine::Machine;
use super::property::{self, Wanted};
use super::soap::{self, MoRef};
use crate::model::error::Result;
use crate::model::vmware::name_decoded;

const MACHINE: Wanted = Wanted { kind: "VirtualMachine", paths: &["datastore"] };
const DATASTORE: Wanted =
    Wanted { kind: "Datastore", paths: &["name", "summary.freeSpace", "summary.capacity"] };

/// A datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// What it is called.
    pub name: String,
    /// Bytes that are free.
    pub free: u64,
    /// Of so many.
    pub capacity: u64,
}

impl Room {
    /// Whether at least so many hundredths are free.
    #[must_use]
    pub fn has_free(&self, percent: u8) -> bool {
        u128::from(self.free) * 100 >= u128::from(self.capacity) * u128::from(percent)
    }
}

/// The datastores on which a snapshot of a machine grows: where its disks and its configuration lie.
pub fn of(client: &Client, machine: &Machine) -> Result<Vec<Room>> {
    let what = format!("cannot ask how much is free for {} of {}", machine.moref, client.host());
    let told = |failure| failure::told(&what, failure);
    let home = machine.vmx.strip_prefix('[').and_then(|path| path.split_once(']')).map(|(name, _)| name);
    let names: BTreeSet<String> =
        (machine.disks.iter().map(|disk| disk.datastore.as_str())).chain(home).map(name_decoded).collect();
    let mut all: Vec<MoRef> = Vec::new();
    let vm = VmRef { moref: machine.moref.clone() };
    property::of_objects(client, &[vm.object()], &[MACHINE], |found| {
        let stores = found.get("datastore").into_iter();
        all.extend(stores.flat_map(|stores| stores.children().filter(Node::is_element)).map(soap::moref));
        Ok(())
    })
    .map_err(told)?;
    let mut rooms = Vec::new();
    property::of_objects(client, &all, &[DATASTORE], |found| {
        let name = name_decoded(found.text("name").unwrap_or_default());
        let free = found.number("summary.freeSpace").zip(found.number("summary.capacity"));
        if let Some((free, capacity)) = free.filter(|_| names.contains(&name)) {
            rooms.push(Room { name, free, capacity });
        }
        Ok(())
    })
    .map_err(told)?;
    Ok(rooms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_datastore_is_counted_in_hundredths() {
        let room = |free, capacity| Room { name: "ds1".to_owned(), free, capacity };
        assert!(room(20, 100).has_free(20) && !room(19, 100).has_free(20));
        assert!(room(u64::MAX, u64::MAX).has_free(100) && room(0, 0).has_free(20));
    }
}
