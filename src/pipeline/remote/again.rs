//! The very machine that a plan was made for, looked for again when something is still to be done at it, or depends on it.
//!
//! It is known by what its server calls it, and by the UUID that its server gave it: so it is found where it was taken out of the inventory and put
//! back. Never by its name: another one may be called so by now. What is not here: looking for it the first time ([`super::ask`]).

use super::{Access, find};
use crate::disk::Control;
use crate::model::error::Result;
use crate::model::protocol::RemoteLimits;
use crate::model::remote::PlannedRemote;
use crate::vsphere::inventory::{self, VmRef};
use crate::vsphere::{Client, Patience};

/// Who is asked for which machine, and how.
pub(in crate::pipeline) type Whom<'f> = (&'f Access, &'f PlannedRemote, &'f RemoteLimits);

/// Logs in.
pub(in crate::pipeline) fn log_in((access, _, limits): Whom<'_>, control: &Control) -> Result<Client> {
    Client::connect(&access.endpoint, &access.login, &Patience::of(&limits.connection), control)
}

/// The machine; none: its server says that it has it no more.
pub(in crate::pipeline) fn find_again(client: &Client, remote: &PlannedRemote) -> Result<Option<VmRef>> {
    let Some(found) = &remote.found else {
        return find(client, remote).map(|machine| Some(VmRef { moref: machine.moref }));
    };
    let vm = VmRef { moref: found.moref.clone() };
    if inventory::is_there(client, &vm)? {
        return Ok(Some(vm));
    }
    match &found.instance_uuid {
        Some(uuid) => inventory::with_instance_uuid(client, uuid),
        // What an earlier version has found is known by nothing else.
        None => find(client, remote).map(|machine| Some(VmRef { moref: machine.moref })),
    }
}

/// Whether its server says that it has it no more.
pub(in crate::pipeline) fn is_gone(whom: Whom<'_>, control: &Control) -> Result<bool> {
    Ok(find_again(&log_in(whom, control)?, whom.1)?.is_none())
}
