//! Snapshots that hyper2kvm made, of whatever host, on all machines of a server: found again by their names.
//!
//! What is not here: which of them somebody still needs.

use serde::Serialize;

use super::client::Client;
use super::failure;
use super::machine::{MOST_DEPTH, Snapshot, snapshots};
use super::property::{self, Wanted};
use super::snapshot::flat;
use crate::model::acts::is_ours;
use crate::model::error::Result;
use crate::model::vmware::name_decoded;

const MACHINES: Wanted = Wanted { kind: "VirtualMachine", paths: &["name", "snapshot"] };

/// A snapshot of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ours {
    /// The name of its machine.
    pub vm: String,
    /// What the server calls that.
    pub vm_moref: String,
    /// What it is called: `hyper2kvm/<host>/<batch>/<vm>`.
    pub name: String,
    /// What the server calls it.
    pub moref: String,
    /// Who made it when for what.
    pub description: String,
    /// When it was made, as the server says.
    pub created: String,
}

/// All of them, by machine.
pub fn all(client: &Client) -> Result<Vec<Ours>> {
    let mut found = Vec::new();
    let asked = property::of_all(client, &[MACHINES], |machine| {
        let Some(node) = machine.get("snapshot") else { return Ok(()) };
        let vm = name_decoded(machine.text("name").unwrap_or_default());
        let tree = snapshots(node, "rootSnapshotList", MOST_DEPTH);
        let ours = flat(&tree).into_iter().map(|(_, one)| one.clone()).filter(|one| is_ours(&one.name));
        found.extend(ours.map(|Snapshot { name, moref, description, created, .. }| Ours {
            vm: vm.clone(),
            vm_moref: machine.object.value.clone(),
            name,
            moref,
            description,
            created,
        }));
        Ok(())
    });
    let what = format!("cannot look for snapshots on the machines of {}", client.host());
    asked.map_err(|failure| failure::told(&what, failure))?;
    found.sort_by(|a, b| (&a.vm, &a.moref).cmp(&(&b.vm, &b.moref)));
    Ok(found)
}
