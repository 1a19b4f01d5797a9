//! The network cards of the machine: whether each has a place on this side. Addresses that no card has are refused with the manifest.

use super::{Scene, Validator};
use crate::model::error::{Error, Kind};
use crate::model::machine::{DEFAULT_NETWORK, Machine, NicLink};
use crate::model::validation::Findings;
use crate::sys::host::has_interface;

pub(super) struct Network;

impl Validator for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn applies(&self, scene: &Scene<'_>) -> bool {
        scene.looks_at_metadata() && scene.plan.output.domain
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        if let Some(machine) = &scene.plan.machine {
            look_at_cards(machine, &has_interface, findings);
        }
    }
}

fn look_at_cards(machine: &Machine, is_here: &dyn Fn(&str) -> bool, findings: &mut Findings) {
    for (index, nic) in machine.nics.iter().enumerate() {
        let card = format!("nics[{index}]");
        if nic.mac.is_none() {
            findings.add(
                "network.no_mac",
                Some(&card),
                Error::new(Kind::Manifest, "it has no hardware address: libvirt gives it one").advice(
                    "give the address of the old card (`nics[].mac`), by which guests and leases know it",
                ),
            );
        }
        match &nic.link {
            NicLink::Network(name) if name == DEFAULT_NETWORK => findings.add(
                "network.mapping",
                Some(&card),
                Error::new(
                    Kind::Manifest,
                    format!("nothing says where it is plugged in: it comes into libvirt's network `{name}`"),
                )
                .advice("name a bridge of the host that it will run on (`nics[].bridge`)"),
            ),
            NicLink::Bridge(name) | NicLink::OpenVswitch(name) if !is_here(name) => findings.add(
                "network.bridge",
                Some(&card),
                Error::new(Kind::Unsupported, format!("its bridge {name} is not on this host"))
                    .advice("make the bridge before the machine starts here, or name another"),
            ),
            NicLink::Network(_) | NicLink::Bridge(_) | NicLink::OpenVswitch(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::machine::MachineNic;
    use crate::model::validation::Weights;

    #[test]
    fn a_card_without_a_place_or_an_address_is_told_and_one_with_both_is_not() {
        let card =
            |mac: Option<&str>, link| MachineNic { mac: mac.map(str::to_owned), ..MachineNic::new(link) };
        let mac = Some("52:54:00:00:00:01");
        for (nic, rules) in [
            (card(mac, NicLink::Bridge("br0".to_owned())), vec![]),
            (card(mac, NicLink::Network("lab".to_owned())), vec![]),
            (card(mac, NicLink::Bridge("br1".to_owned())), vec!["network.bridge"]),
            (card(mac, NicLink::OpenVswitch("ovs1".to_owned())), vec!["network.bridge"]),
            (card(mac, NicLink::Network("default".to_owned())), vec!["network.mapping"]),
            (card(None, NicLink::Bridge("br0".to_owned())), vec!["network.no_mac"]),
        ] {
            let mut machine = Machine::new("web");
            machine.nics = vec![nic.clone()];
            let mut findings = Findings::new(Weights::new());
            look_at_cards(&machine, &|name| name == "br0", &mut findings);
            let found: Vec<&str> = findings.told().map(|finding| finding.rule.as_str()).collect();
            assert_eq!(found, rules, "{nic:?}");
        }
    }
}
