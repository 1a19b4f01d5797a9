//! Which VMs a server has of those that an entry of a batch selects. What is not here: which of them are meant ([`crate::model::selection`]).

use super::Access;
use crate::disk::Control;
use crate::model::error::{Error, Result};
use crate::model::protocol::RemoteLimits;
use crate::model::remote::{PlannedRemote, WantedVm};
use crate::model::selection::{Candidate, SelectedPower, SelectedVm};
use crate::vsphere::inventory::{self, Filters, Power, VmSummary};
use crate::vsphere::{Client, Patience, tags};

/// Logs in and looks for them.
pub(in crate::pipeline) fn select(
    access: &Access,
    remote: &PlannedRemote,
    limits: &RemoteLimits,
    control: &Control,
) -> Result<Vec<SelectedVm>> {
    let WantedVm::Selected(selecting) = &remote.vm else {
        return Err(Error::internal("one VM is wanted, and not several"));
    };
    let patience = Patience::of(&limits.connection);
    let client = Client::connect(&access.endpoint, &access.login, &patience, control)?;
    let filters = Filters {
        datacenter: remote.datacenter.clone(),
        folder: remote.folder.clone().or_else(|| selecting.folder.clone()),
        datastore: remote.datastore.clone(),
    };
    let mut there: Vec<Candidate> = inventory::list(&client, &filters)?.into_iter().map(candidate).collect();
    if !selecting.tags.is_empty() {
        let tagged = tags::machines_with(&client, &selecting.tags)
            .map_err(|(index, error)| error.field(format!("{}.select.tags[{index}]", selecting.entry)))?;
        there.retain(|candidate| tagged.contains(&candidate.moref));
    }
    selecting.of(&there).map_err(|error| error.source(remote.shown()))
}

fn candidate(summary: VmSummary) -> Candidate {
    Candidate {
        power: match summary.power {
            Power::On => Some(SelectedPower::On),
            Power::Off => Some(SelectedPower::Off),
            Power::Suspended | Power::Unknown => None,
        },
        name: summary.name,
        path: summary.path,
        moref: summary.moref,
        is_template: summary.template,
    }
}
