//! What the mappings of networks and storage come to in a plan, for a person. What is not here: by which entry (`plan --origins` tells the values).

use std::fmt::Write as _;

use super::table::printable;
use crate::model::limits::{FlowLimit, NicLimits};
use crate::model::machine::{DEFAULT_NETWORK, MachineNic, NicLink};
use crate::model::plan::{Plan, PlannedDisk, Preallocation};
use crate::model::units::human_size;

/// What holds for a disk's result beyond its place.
pub(super) fn disk(plan: &Plan, disk: &PlannedDisk) -> Vec<String> {
    let mut notes = Vec::new();
    match plan.preallocation_of(disk) {
        Preallocation::Off if disk.placement.preallocation.is_some() => notes.push("thin".to_owned()),
        Preallocation::Falloc if disk.placement.preallocation.is_some() => {
            notes.push("thick: all of its room is taken beforehand".to_owned());
        }
        _ => {}
    }
    let machine = plan.machine.iter().flat_map(|machine| &machine.disks);
    if let Some(found) = machine.into_iter().find(|found| found.id == disk.id) {
        notes.extend(found.cache.map(|cache| format!("the host's cache: {}", cache.name())));
        let limits = found.limits.each().into_iter().filter_map(|(name, limit)| Some((name, limit?)));
        let limits: Vec<String> = limits
            .map(|(name, limit)| match name.contains("bytes") {
                true => format!("{name} {}/s", human_size(limit)),
                false => format!("{name} {limit}"),
            })
            .collect();
        notes.extend((!limits.is_empty()).then(|| format!("limited: {}", limits.join(", "))));
    }
    notes
}

/// What the cards are plugged into; nothing where all are as they are without a mapping.
pub(super) fn cards(plan: &Plan) -> String {
    let cards = plan.machine.iter().flat_map(|machine| &machine.nics).collect::<Vec<_>>();
    let is_plain = |card: &&MachineNic| {
        card.link == NicLink::Network(DEFAULT_NETWORK.to_owned()) && card.limits.is_none()
    };
    let has_new = plan.guest.nics.iter().any(|nic| nic.was.is_some());
    if cards.iter().all(is_plain) && !has_new {
        return String::new();
    }
    let mut text = "\nnetwork cards\n".to_owned();
    for (number, card) in cards.iter().enumerate() {
        let mac = card.mac.as_deref().unwrap_or("a new address");
        let was = plan.guest.nics.get(number).and_then(|nic| nic.was.as_deref());
        let was = was.map(|was| format!(" (was {was})")).unwrap_or_default();
        let line = format!("card {}, {mac}{was}: {}", number + 1, link(card));
        let _ = writeln!(text, "  {}", printable(&line));
        for limit in limits(&card.limits) {
            let _ = writeln!(text, "    {limit}");
        }
    }
    text
}

fn link(card: &MachineNic) -> String {
    let link = match &card.link {
        NicLink::Network(name) => format!("libvirt's network {name}"),
        NicLink::Bridge(name) => format!("bridge {name}"),
        NicLink::OpenVswitch(name) => format!("Open vSwitch {name}"),
    };
    match card.vlan {
        Some(tag) => format!("{link}, VLAN {tag}"),
        None => link,
    }
}

fn limits(limits: &NicLimits) -> Vec<String> {
    let way = |word: &str, limit: Option<FlowLimit>| {
        let FlowLimit { average, peak, burst } = limit?;
        let mut text = format!("{word} at most {}/s", human_size(average));
        if let Some(peak) = peak {
            let _ = write!(text, ", for a moment {}/s", human_size(peak));
        }
        if let Some(burst) = burst {
            let _ = write!(text, ", {} at once", human_size(burst));
        }
        Some(text)
    };
    way("receives", limits.inbound).into_iter().chain(way("sends", limits.outbound)).collect()
}
