//! Starting, stopping and removing networks. None is taken away from under a machine that runs.

use roxmltree::Document;
use serde::Serialize;
use virt::error::ErrorNumber;
use virt::sys;

use super::{Forward, needed, read, shown};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::error::{Error, Kind, Result};

/// The machines that are plugged into a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Users {
    /// Those that run.
    pub running: Vec<String>,
    /// Those that are off and would not start without it.
    pub off: Vec<String>,
}

/// What became of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// It was active, and is no more.
    pub stopped: bool,
    /// It is not defined any more.
    pub undefined: bool,
    /// Machines that are off and name it.
    pub named_by: Vec<String>,
}

/// Starts a network; `false`: it was active.
pub fn start(link: &Link, name: &str) -> Result<bool> {
    let network = needed(link, name)?;
    let failed = |error| told(&format!("cannot start the network {}", shown(name)), &error);
    if network.is_active().map_err(failed)? {
        return Ok(false);
    }
    network.create().map_err(failed)?;
    Ok(true)
}

/// Stops a network that no running machine is plugged into. With `dry`, only says what it would do.
pub fn stop(link: &Link, name: &str, dry: bool) -> Result<Ended> {
    end(link, name, false, dry)
}

/// Stops a network and removes its definition, unless a running machine is plugged into it. With `dry`, only says what it would do.
pub fn undefine(link: &Link, name: &str, dry: bool) -> Result<Ended> {
    end(link, name, true, dry)
}

fn end(link: &Link, name: &str, for_good: bool, dry: bool) -> Result<Ended> {
    let network = needed(link, name)?;
    let users = users(link, name)?;
    let what = if for_good { "remove" } else { "stop" };
    if !users.running.is_empty() {
        let names: Vec<String> = users.running.iter().map(|name| shown(name)).collect();
        let cause =
            format!("cannot {what} the network {}: used by {}, which runs", shown(name), names.join(", "));
        return Err(Error::new(Kind::Libvirt, cause)
            .advice("shut the machine down, or plug it in elsewhere, and try again"));
    }
    let failed = |error| told(&format!("cannot {what} the network {}", shown(name)), &error);
    let active = network.is_active().map_err(failed)?;
    let persistent = network.is_persistent().map_err(failed)?;
    // One without a definition is gone when it is stopped.
    let ended =
        Ended { stopped: active, undefined: for_good || (active && !persistent), named_by: users.off };
    if dry {
        return Ok(ended);
    }
    if active {
        network.destroy().map_err(failed)?;
    }
    if for_good && persistent {
        network.undefine().map_err(failed)?;
    }
    Ok(ended)
}

/// Which machines are plugged into a network, or into the bridge that goes with it.
pub fn users(link: &Link, name: &str) -> Result<Users> {
    let failed = |error| told("cannot see which machines use a network", &error);
    let network = read(&needed(link, name)?)?;
    // A bridge of the host's stays when the network goes.
    let bridge = network.bridge.filter(|_| network.forward != Forward::Bridge);
    let is_used = |xml: &str| is_plugged_in(xml, name, bridge.as_deref());
    let mut users = Users::default();
    for domain in link.raw().list_all_domains(0).map_err(failed)? {
        let read = domain.get_name().and_then(|machine| Ok((machine, domain.get_xml_desc(0)?)));
        let (machine, xml) = match read {
            // One that went away since it was listed uses nothing.
            Err(error) if error.code() == ErrorNumber::NoDomain => continue,
            read => read.map_err(failed)?,
        };
        let now = is_used(&xml);
        // What it will be plugged into at its next start may differ from what it is plugged into now.
        let later = || domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).is_ok_and(|xml| is_used(&xml));
        if now && domain.get_id().is_some() {
            users.running.push(machine);
        } else if now || later() {
            users.off.push(machine);
        }
    }
    users.running.sort();
    users.off.sort();
    Ok(users)
}

fn is_plugged_in(xml: &str, network: &str, bridge: Option<&str>) -> bool {
    let Ok(document) = Document::parse(xml) else { return false };
    let interfaces = document.descendants().filter(|node| node.has_tag_name("interface"));
    let mut sources = interfaces.flat_map(|node| node.children()).filter(|node| node.has_tag_name("source"));
    sources.any(|node| {
        let is_in_bridge = bridge.is_some() && node.attribute("bridge") == bridge;
        node.attribute("network") == Some(network) || is_in_bridge
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_uses_a_network_by_its_name_or_by_the_bridge_that_goes_with_it() {
        let plugged = |source: &str| {
            let xml =
                format!("<domain><devices><interface><source {source}/></interface></devices></domain>");
            is_plugged_in(&xml, "default", Some("virbr0"))
        };
        assert!(plugged("network='default'") && plugged("bridge='virbr0'"));
        assert!(!plugged("network='lab' bridge='virbr1'") && !plugged("") && !plugged("dev='default'"));
        assert!(!is_plugged_in("<domain><interface><source/></interface></domain>", "default", None));
    }
}
