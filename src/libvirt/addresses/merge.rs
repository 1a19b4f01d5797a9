//! One list of addresses out of what several methods found.
//!
//! Two findings are the same when card and address are. An address is as certain as the best of the methods that found it: that a lease and
//! the neighbour table agree makes neither of them more than it is.

use std::cmp::Ordering;
use std::net::IpAddr;

use serde::Serialize;

use super::cards::Facts;
use super::methods::Method;

/// What a method found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) address: IpAddr,
    pub(super) prefix: Option<u8>,
    pub(super) mac: Option<String>,
    /// What the guest calls the interface.
    pub(super) guest_interface: Option<String>,
}

/// An address of a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix, where it is known.
    pub prefix: Option<u8>,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Of the card, or of another interface inside the guest.
    pub mac: Option<String>,
    /// The host's end of the card.
    pub interface: Option<String>,
    /// What the guest calls it, where the guest was asked.
    pub guest_interface: Option<String>,
    /// libvirt's network that the card is plugged into.
    pub network: Option<String>,
    /// Who can reach it.
    pub scope: Scope,
    /// Who found it, the most certain first.
    pub methods: Vec<Method>,
    /// How sure one may be of it: from 0 to 1.
    pub confidence: f64,
}

/// Who can reach an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Whoever reaches the network of the card.
    Card,
    /// Its neighbours only.
    LinkLocal,
    /// It is on an interface that is no card of the machine: a bridge or a tunnel inside it.
    Inside,
    /// Only the guest itself.
    Loopback,
}

impl Scope {
    /// The name that is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scope::Card => "card",
            Scope::LinkLocal => "link_local",
            Scope::Inside => "inside",
            Scope::Loopback => "loopback",
        }
    }
}

/// Merges what was found, the most certain first.
pub(super) fn merge<'f>(
    facts: &Facts,
    found: impl IntoIterator<Item = (Method, &'f Finding)>,
) -> Vec<Address> {
    let mut found: Vec<(Method, &Finding)> = found.into_iter().collect();
    // The most certain first: what it says of prefix and interface is kept. Those without a card come last and join the others.
    found.sort_by_key(|(method, finding)| (finding.mac.is_none(), *method));
    let mut merged: Vec<Address> = Vec::new();
    for (method, finding) in found {
        if finding.address.is_unspecified() || finding.address.is_multicast() {
            continue;
        }
        let mac = finding.mac.as_ref().map(|mac| mac.to_lowercase());
        let is_same =
            |known: &&mut Address| known.address == finding.address && (mac.is_none() || known.mac == mac);
        match merged.iter_mut().find(is_same) {
            Some(known) => known.take(method, finding),
            None => merged.push(Address::of(facts, method, finding, mac)),
        }
    }
    merged.sort_by(Address::order);
    merged
}

impl Address {
    fn of(facts: &Facts, method: Method, finding: &Finding, mac: Option<String>) -> Address {
        // Where there is one card, an address of no certain one is its.
        let only = facts.cards.first().filter(|_| facts.cards.len() == 1);
        let card = match &mac {
            Some(mac) => facts.card(mac),
            None => only,
        };
        Address {
            address: finding.address,
            prefix: finding.prefix,
            family: if finding.address.is_ipv4() { "ipv4" } else { "ipv6" },
            scope: scope(finding.address, mac.is_some() && card.is_none()),
            mac: mac.or_else(|| card.map(|card| card.mac.clone())),
            interface: card.and_then(|card| card.device.clone()),
            guest_interface: finding.guest_interface.clone(),
            network: card.and_then(|card| card.network.clone()),
            methods: vec![method],
            confidence: method.confidence(),
        }
    }

    fn take(&mut self, method: Method, finding: &Finding) {
        self.prefix = self.prefix.or(finding.prefix);
        self.confidence = self.confidence.max(method.confidence());
        if !self.methods.contains(&method) {
            self.methods.push(method);
            self.methods.sort();
        }
    }

    /// Who gives this to people gives the first: the most certain, then what can be reached from furthest, then IPv4.
    fn order(&self, other: &Address) -> Ordering {
        other
            .confidence
            .total_cmp(&self.confidence)
            .then(self.scope.cmp(&other.scope))
            .then(self.family.cmp(other.family))
            .then(self.address.cmp(&other.address))
            .then(self.mac.cmp(&other.mac))
    }

    /// Whether it is of use to somebody outside.
    #[must_use]
    pub fn is_of_use(&self) -> bool {
        self.scope == Scope::Card
    }
}

fn scope(address: IpAddr, inside: bool) -> Scope {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Scope::Loopback
    } else if inside {
        Scope::Inside
    } else if link_local {
        Scope::LinkLocal
    } else {
        Scope::Card
    }
}

#[cfg(test)]
mod tests {
    use super::super::cards::Card;
    use super::*;

    const WEB: &str = "52:54:00:00:00:01";
    const DB: &str = "52:54:00:00:00:02";

    fn finding(mac: Option<&str>, address: &str, prefix: Option<u8>) -> Finding {
        let (address, mac) = (address.parse().unwrap(), mac.map(str::to_owned));
        Finding { address, prefix, mac, guest_interface: None }
    }

    fn facts(macs: &[&str]) -> Facts {
        let cards = macs.iter().zip(0..).map(|(mac, index): (_, u32)| Card {
            mac: (*mac).to_owned(),
            device: Some(format!("vnet{index}")),
            network: None,
            bridge: None,
        });
        Facts { cards: cards.collect(), configured: Vec::new() }
    }

    #[test]
    fn methods_that_agree_make_one_address_as_certain_as_the_best_of_them() {
        let (arp, lease) =
            (finding(Some(WEB), "10.0.0.7", None), finding(Some("52:54:00:00:00:01"), "10.0.0.7", Some(24)));
        let configured = finding(None, "10.0.0.7", None);
        let found = [(Method::Configured, &configured), (Method::Arp, &arp), (Method::Lease, &lease)];
        let merged = merge(&facts(&[WEB]), found);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].methods, [Method::Lease, Method::Arp, Method::Configured]);
        assert_eq!((merged[0].confidence, merged[0].prefix), (0.9, Some(24)));
        assert_eq!(merged[0].interface.as_deref(), Some("vnet0"));
    }

    #[test]
    fn an_address_is_of_the_card_with_its_mac_and_of_no_other() {
        let (one, other) =
            (finding(Some(WEB), "10.0.0.7", None), finding(Some("52:54:00:00:00:02"), "10.0.0.8", None));
        let strange = finding(Some("02:42:00:00:00:01"), "172.17.0.1", Some(16));
        let somebodys = finding(None, "10.0.0.9", None);
        let found = [
            (Method::Arp, &other),
            (Method::Arp, &one),
            (Method::Agent, &strange),
            (Method::Configured, &somebodys),
        ];
        let merged = merge(&facts(&[WEB, DB]), found);
        let cards: Vec<_> = merged.iter().map(|a| (a.interface.as_deref(), a.scope)).collect();
        let expected = [
            (None, Scope::Inside),
            (Some("vnet0"), Scope::Card),
            (Some("vnet1"), Scope::Card),
            (None, Scope::Card),
        ];
        assert_eq!(cards, expected);
    }

    #[test]
    fn the_most_certain_comes_first_and_what_nobody_reaches_is_marked() {
        let texts =
            ["127.0.0.1", "fe80::1", "169.254.1.1", "10.0.0.7", "2001:db8::7", "::1", "0.0.0.0", "224.0.0.1"];
        let findings: Vec<Finding> = texts.iter().map(|text| finding(Some(WEB), text, None)).collect();
        let lease = finding(Some(WEB), "10.0.0.6", None);
        let found = findings.iter().map(|found| (Method::Agent, found)).chain([(Method::Lease, &lease)]);
        let merged = merge(&facts(&[WEB]), found);
        let order: Vec<String> = merged.iter().map(|address| address.address.to_string()).collect();
        assert_eq!(
            order,
            ["10.0.0.7", "2001:db8::7", "169.254.1.1", "fe80::1", "127.0.0.1", "::1", "10.0.0.6"]
        );
        let of_use = merged.iter().filter(|address| address.is_of_use()).count();
        assert_eq!(of_use, 3);
    }
}
