//! What cards are plugged into: by the name of the network that they had where the machine came from.
//!
//! An entry of that very name holds, else the pattern that says most (see [`pattern`]), else `default_bridge`. `nics[].bridge` is stronger than
//! all of them. What is not here: the addresses of cards.

use super::is_asked_for;
use crate::model::error::{Error, Kind, Result};
use crate::model::limits::{FlowLimit, NicLimits};
use crate::model::machine::{DEFAULT_NETWORK, Machine, NicLink};
use crate::model::manifest::{
    Bandwidth, Flow, FlowLimits, Manifest, NetworkMapping, NetworkPlug, NetworkTarget, Nic,
};
use crate::model::parse::Tree;
use crate::model::pattern;

pub(super) const NETWORKS: &str = "network_mapping.source_networks";
/// No card sends as much at once; and it is a number that libvirt takes.
const MOST_BURST: u64 = 1 << 40;

/// The entry that holds for a card.
fn entry<'m>(mapping: &'m NetworkMapping, nic: &Nic) -> Option<&'m NetworkTarget> {
    let (networks, name) = (mapping.source_networks.as_ref()?, nic.network.as_ref()?.as_str());
    networks.get(name).or_else(|| {
        let holds = *pattern::fitting(networks.keys().map(String::as_str), name).first()?;
        networks.get(holds)
    })
}

/// Plugs the cards of a machine in.
pub(in crate::model::planner) fn apply(manifest: &Manifest, machine: &mut Machine) {
    let mapping = manifest.network_mapping.as_ref();
    for (nic, card) in manifest.nics.iter().flatten().zip(&mut machine.nics) {
        let entry = mapping.and_then(|mapping| entry(mapping, nic));
        let plug = match entry {
            Some(NetworkTarget::Plug(plug)) => Some(plug.as_ref()),
            _ => None,
        };
        if nic.bridge.is_none() {
            let default = mapping.and_then(|mapping| mapping.default_bridge.as_ref());
            let link = match entry {
                Some(NetworkTarget::Bridge(bridge)) => Some(NicLink::Bridge(bridge.as_str().to_owned())),
                Some(NetworkTarget::Plug(plug)) => link(plug),
                None => default.map(|bridge| NicLink::Bridge(bridge.as_str().to_owned())),
            };
            card.link = link.unwrap_or_else(|| card.link.clone());
        }
        if matches!(card.link, NicLink::OpenVswitch(_)) {
            let tag = plug.and_then(|plug| plug.vlan).or(nic.vlan);
            card.vlan = tag.and_then(|tag| u16::try_from(tag.get()).ok());
        }
        if let Some(model) = plug.and_then(|plug| plug.model).filter(|_| nic.model.is_none()) {
            card.model = model;
        }
        let bandwidth = nic.bandwidth.as_ref().or_else(|| plug?.bandwidth.as_ref());
        card.limits = bandwidth.map(limits).unwrap_or_default();
    }
}

fn link(plug: &NetworkPlug) -> Option<NicLink> {
    let bridge = plug.bridge.as_ref().map(|name| NicLink::Bridge(name.as_str().to_owned()));
    let network = plug.network.as_ref().map(|name| NicLink::Network(name.as_str().to_owned()));
    let switch = plug.ovs_bridge.as_ref().map(|name| NicLink::OpenVswitch(name.as_str().to_owned()));
    bridge.or(network).or(switch)
}

fn limits(bandwidth: &Bandwidth) -> NicLimits {
    NicLimits {
        inbound: bandwidth.inbound.as_ref().map(limit),
        outbound: bandwidth.outbound.as_ref().map(limit),
    }
}

fn limit(flow: &Flow) -> FlowLimit {
    match flow {
        Flow::Average(average) => FlowLimit { average: average.0, peak: None, burst: None },
        Flow::Limits(FlowLimits { average, peak, burst }) => {
            FlowLimit { average: average.0, peak: peak.map(|peak| peak.0), burst: burst.map(|burst| burst.0) }
        }
    }
}

/// What a person should know: cards that no entry is for, and tags that nothing sets.
pub(in crate::model::planner) fn warnings(manifest: &Manifest, machine: &Machine) -> Vec<String> {
    let mapping = manifest.network_mapping.as_ref();
    let maps = mapping.is_some_and(|mapping| mapping.source_networks.is_some());
    let mut warnings = Vec::new();
    for (index, (nic, card)) in manifest.nics.iter().flatten().zip(&machine.nics).enumerate() {
        let is_named = nic.bridge.is_some() || mapping.and_then(|mapping| entry(mapping, nic)).is_some();
        let is_left = maps && !is_named && card.link == NicLink::Network(DEFAULT_NETWORK.to_owned());
        if is_left {
            let network = nic.network.as_ref().map(|name| format!(" (`{name}`)")).unwrap_or_default();
            warnings.push(format!(
                "nics[{index}]{network}: no entry of network_mapping.source_networks is for it, so libvirt's network \
                 `{DEFAULT_NETWORK}` is; name it, or set `default_bridge`"
            ));
        }
        if let (Some(tag), None) = (nic.vlan, card.vlan) {
            let tag = tag.get();
            warnings.push(format!(
                "nics[{index}].vlan: {tag} is not set, because only cards at Open vSwitch are tagged; what the card is \
                 plugged into has to be in that VLAN"
            ));
        }
    }
    warnings
}

/// Refuses entries that say too little or too much, and those that are for no card.
pub(super) fn check(tree: &Tree, manifest: &Manifest) -> Result<()> {
    for (index, nic) in manifest.nics.iter().flatten().enumerate() {
        let complain = |cause: String| tree.error(Kind::Manifest, &format!("nics[{index}].bandwidth"), cause);
        nic.bandwidth.as_ref().map_or(Ok(()), |bandwidth| check_bandwidth(bandwidth, &complain))?;
    }
    let networks = manifest.network_mapping.as_ref().and_then(|mapping| mapping.source_networks.as_ref());
    for (name, target) in networks.into_iter().flatten() {
        let mut optional = false;
        if let NetworkTarget::Plug(plug) = target {
            optional = plug.optional.unwrap_or(false);
            check_plug(plug, &|cause| tree.error_at_key(Kind::Manifest, NETWORKS, name, cause))?;
        }
        let nobody_knows = manifest.nics.is_none() && is_asked_for(manifest);
        if optional
            || nobody_knows
            || super::is_for_many(tree, NETWORKS, name)
            || is_for_a_card(name, manifest)
        {
            continue;
        }
        let mut there: Vec<&str> = networks_of(manifest).collect();
        there.sort_unstable();
        there.dedup();
        let cause = match there.is_empty() {
            true => format!("no network card of the machine says its network, so `{name}` is for none"),
            false => format!("no network card of the machine is in a network `{name}`"),
        };
        return Err(tree.error_at_key(Kind::Manifest, NETWORKS, name, cause).allowed(there).advice(
            "name a network of `nics[].network`, or write the entry as a map with `optional: true`",
        ));
    }
    Ok(())
}

/// The networks that the machine's cards say they are in.
fn networks_of(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.nics.iter().flatten().filter_map(|nic| Some(nic.network.as_ref()?.as_str()))
}

/// Whether an entry is for a card of this machine.
pub(super) fn is_for_a_card(name: &str, manifest: &Manifest) -> bool {
    networks_of(manifest).any(|network| name == network || pattern::fits(name, network))
}

/// Whether an entry may be for nothing.
pub(super) fn is_optional(name: &str, manifest: &Manifest) -> bool {
    let networks = manifest.network_mapping.as_ref().and_then(|mapping| mapping.source_networks.as_ref());
    match networks.and_then(|networks| networks.get(name)) {
        Some(NetworkTarget::Plug(plug)) => plug.optional.unwrap_or(false),
        _ => false,
    }
}

fn check_plug(plug: &NetworkPlug, complain: &dyn Fn(String) -> Error) -> Result<()> {
    let targets = [
        ("bridge", plug.bridge.is_some()),
        ("network", plug.network.is_some()),
        ("ovs_bridge", plug.ovs_bridge.is_some()),
    ];
    let mut named = targets.into_iter().filter_map(|(key, there)| there.then_some(key));
    match (named.next(), named.next()) {
        (None, _) => {
            return Err(complain("it is not said what the cards are plugged into".to_owned())
                .allowed(targets.map(|(key, _)| key))
                .advice("name a bridge, a network of libvirt's, or a bridge of Open vSwitch's"));
        }
        (Some(first), Some(second)) => {
            return Err(
                complain(format!("`{first}` and `{second}` are both given")).advice("keep one of them")
            );
        }
        (Some(_), None) => {}
    }
    if plug.vlan.is_some() && plug.ovs_bridge.is_none() {
        return Err(complain("`vlan` is only set on cards at Open vSwitch".to_owned())
            .advice("name an `ovs_bridge`, or the bridge or network that is in this VLAN"));
    }
    plug.bandwidth.as_ref().map_or(Ok(()), |bandwidth| check_bandwidth(bandwidth, complain))
}

fn check_bandwidth(bandwidth: &Bandwidth, complain: &dyn Fn(String) -> Error) -> Result<()> {
    for (way, flow) in [("inbound", &bandwidth.inbound), ("outbound", &bandwidth.outbound)] {
        let Some(Flow::Limits(limits)) = flow else { continue };
        if limits.peak.is_some_and(|peak| peak < limits.average) {
            return Err(complain(format!("the `peak` of `{way}` is less than its `average`"))
                .advice("give a peak that is larger, or none"));
        }
        if limits.burst.is_some_and(|burst| !(1..=MOST_BURST).contains(&burst.0)) {
            return Err(complain(format!("the `burst` of `{way}` is out of range"))
                .allowed(["1 byte to 1TiB"])
                .advice("look at the unit"));
        }
    }
    Ok(())
}
