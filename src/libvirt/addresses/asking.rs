//! How each method is carried out.
//!
//! Each runs on a thread of its own that may hang for as long as libvirt does: whatever it needs it owns, connection included.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::cache::Outcome;
use super::cards::{Card, Facts};
use super::merge::Finding;
use super::methods::Method;
use crate::libvirt::foreign::leases::{self, Told};
use crate::libvirt::link::Link;
use crate::libvirt::networks::is_of_this_host;
use crate::sys::neighbours::{Neighbour, neighbours};

/// Where the system's dnsmasq keeps its leases, one file per bridge.
const LEASE_FILES: &str = "/var/lib/libvirt/dnsmasq";
/// Thousands of leases are less.
const MOST_LEASE_BYTES: u64 = 4 << 20;

/// All that a method needs.
pub(super) struct Asker {
    domain: Domain,
    facts: Arc<Facts>,
    connection: OwnConnection,
    /// Where lease files can be read; nothing where libvirt is elsewhere.
    lease_files: Option<&'static Path>,
}

/// A connection of the thread's own: the link may have been closed when it is done.
struct OwnConnection(Connect);

impl Drop for OwnConnection {
    fn drop(&mut self) {
        // One that cannot be closed ends with this process.
        let _ = self.0.close();
    }
}

impl Asker {
    /// For one machine, as it runs now.
    pub(super) fn new(link: &Link, domain: &Domain, facts: &Arc<Facts>) -> Asker {
        Asker {
            domain: domain.clone(),
            facts: Arc::clone(facts),
            connection: OwnConnection(link.raw().clone()),
            lease_files: is_of_this_host(link).then_some(Path::new(LEASE_FILES)),
        }
    }

    /// Carries a method out.
    pub(super) fn ask(&self, method: Method) -> Outcome {
        match method {
            Method::Agent => self.told_by(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT),
            Method::Lease => self.leased(),
            Method::Arp => self.neighbours(),
            Method::LeaseFile => self.in_lease_files(),
            Method::Configured => Ok(configured(&self.facts)),
        }
    }

    fn told_by(&self, source: sys::virDomainInterfaceAddressesSource) -> Outcome {
        let told = leases::of_domain(&self.domain, source).map_err(|error| words(&error))?;
        let by_agent = source == sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT;
        Ok(told.into_iter().filter_map(|told| finding(told, by_agent)).collect())
    }

    /// What libvirt sees of the neighbours, and what we see of the same table where libvirt is on this host: it reads one piece of the
    /// kernel's answer only, and older ones fail where newer kernels end it in the same piece.
    fn neighbours(&self) -> Outcome {
        let told = self.told_by(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP);
        let mut found = match (told, self.lease_files) {
            (told, None) => told?,
            (told, Some(_)) => {
                let mut seen = self.seen().map_err(|error| format!("cannot see the neighbours: {error}"))?;
                let is_new = |finding: &Finding| {
                    !seen.iter().any(|known| known.address == finding.address && known.mac == finding.mac)
                };
                let more: Vec<Finding> = told.unwrap_or_default().into_iter().filter(is_new).collect();
                seen.extend(more);
                seen
            }
        };
        // A neighbour has an address; what libvirt gives as the length of its prefix is none.
        found.iter_mut().for_each(|finding| finding.prefix = None);
        Ok(found)
    }

    fn seen(&self) -> std::io::Result<Vec<Finding>> {
        let finding = |neighbour: Neighbour| {
            let pairs = neighbour.mac.map(|byte| format!("{byte:02x}"));
            let card = self.facts.card(&pairs.join(":"))?;
            let (address, mac) = (neighbour.address, Some(card.mac.clone()));
            Some(Finding { address, prefix: None, mac, guest_interface: None })
        };
        Ok(neighbours()?.into_iter().filter_map(finding).collect())
    }

    /// The leases of the machine's networks; where a card is plugged into the bridge itself, those of all networks.
    fn leased(&self) -> Outcome {
        let mut found = self.told_by(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)?;
        let has_none = |card: &&Card| card.network.is_none() && card.bridge.is_some();
        let cards: Vec<&Card> = self.facts.cards.iter().filter(has_none).collect();
        if cards.is_empty() {
            return Ok(found);
        }
        let active = sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE;
        let networks = self.connection.0.list_all_networks(active).map_err(|error| words(&error))?;
        for network in networks.iter().filter(|network| {
            // Some have no bridge.
            network
                .get_bridge_name()
                .is_ok_and(|name| cards.iter().any(|card| card.bridge.as_ref() == Some(&name)))
        }) {
            for card in &cards {
                let told = leases::of_network(network, Some(&card.mac)).map_err(|error| words(&error))?;
                found.extend(told.into_iter().filter_map(|told| finding(told, false)));
            }
        }
        Ok(found)
    }

    fn in_lease_files(&self) -> Outcome {
        let Some(directory) = self.lease_files else {
            return Err("libvirt is not on this host".to_owned());
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let bridges: BTreeSet<&str> =
            self.facts.cards.iter().filter_map(|card| card.bridge.as_deref()).collect();
        let mut found = Vec::new();
        for bridge in bridges.into_iter().filter(|bridge| !bridge.contains('/')) {
            let path = directory.join(format!("{bridge}.status"));
            let Ok(file) = File::open(&path) else { continue };
            let mut text = String::new();
            let read = file.take(MOST_LEASE_BYTES).read_to_string(&mut text);
            read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let leased = in_lease_file(&text, &self.facts, now)
                .map_err(|error| format!("{} is not understood: {error}", path.display()))?;
            found.extend(leased);
        }
        Ok(found)
    }
}

/// A lease as libvirt's helper of dnsmasq writes it down.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    ip_address: Option<IpAddr>,
    mac_address: Option<String>,
    expiry_time: Option<u64>,
}

fn in_lease_file(text: &str, facts: &Facts, now: u64) -> Result<Vec<Finding>, serde_json::Error> {
    // It is empty as long as nobody has a lease.
    let leases: Vec<Written> = if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(text)? };
    // One of length zero never ends.
    let lasts = |lease: &Written| lease.expiry_time.is_none_or(|end| end == 0 || end > now);
    let of_machine = leases.into_iter().filter(lasts).filter_map(|lease| {
        let card = facts.card(lease.mac_address.as_deref()?)?;
        Some(Finding {
            address: lease.ip_address?,
            prefix: None,
            mac: Some(card.mac.clone()),
            guest_interface: None,
        })
    });
    Ok(of_machine.collect())
}

/// What was configured inside, by us.
pub(super) fn configured(facts: &Facts) -> Vec<Finding> {
    let known = facts.configured.iter().filter_map(|configured| {
        let address = configured.address.parse().ok()?;
        Some(Finding { address, prefix: None, mac: configured.mac.clone(), guest_interface: None })
    });
    known.collect()
}

/// What is no address is none: a guest's agent may say anything.
fn finding(told: Told, by_agent: bool) -> Option<Finding> {
    let address: IpAddr = told.address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = u8::try_from(told.prefix).ok().filter(|prefix| (1..=longest).contains(prefix));
    let guest_interface = told.interface.filter(|_| by_agent);
    Some(Finding { address, prefix, mac: told.mac, guest_interface })
}

fn words(error: &Error) -> String {
    error.message().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_file_tells_of_the_machines_cards_and_of_leases_that_are_not_over() {
        let facts = Facts::read(
            "<domain><devices><interface><mac address='52:54:00:00:00:01'/></interface></devices></domain>",
        );
        let text = r#"[{"ip-address": "10.0.0.7", "mac-address": "52:54:00:00:00:01", "expiry-time": 100},
            {"ip-address": "10.0.0.8", "mac-address": "52:54:00:00:00:01", "expiry-time": 50},
            {"ip-address": "10.0.0.9", "mac-address": "52:54:00:00:00:09", "expiry-time": 100}, {}]"#;
        let found = in_lease_file(text, &facts, 60).unwrap();
        assert_eq!(found.iter().map(|found| found.address.to_string()).collect::<Vec<_>>(), ["10.0.0.7"]);
        assert!(in_lease_file("", &facts, 60).unwrap().is_empty());
        for bad in ["{", "{}", r#"[{"ip-address": "x"}]"#] {
            assert!(in_lease_file(bad, &facts, 60).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_an_agent_says_is_an_address_or_nothing() {
        let told =
            |address: &str, prefix| Told { interface: None, mac: None, address: address.to_owned(), prefix };
        assert_eq!(finding(told("10.0.0.7", 24), true).unwrap().prefix, Some(24));
        assert_eq!(finding(told("10.0.0.7", 4_000_000_000), true).unwrap().prefix, None);
        for nonsense in ["", "10.0.0", "fe80::1%eth0", "<x/>", "a\0"] {
            assert!(finding(told(nonsense, 24), true).is_none(), "{nonsense}");
        }
    }
}
