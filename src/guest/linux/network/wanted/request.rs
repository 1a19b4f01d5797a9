//! What a manifest wants of one card, sorted by family, and what of a guest's old configuration has to go for it.
//!
//! A family of which an address is given is set anew: its old addresses go, and nothing asks a DHCP server for one. The other stays as
//! it is. Pure. What is not here: how any system writes it.

use std::net::IpAddr;

use crate::guest::facts::WantedNic;
use crate::guest::linux::text::{Rewritten, short};
use crate::model::address::CardAddress;
use crate::model::error::{Error, Kind, Result};

/// The families of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

impl Version {
    pub(super) const BOTH: [Version; 2] = [Version::V4, Version::V6];

    pub(super) fn of(ip: IpAddr) -> Version {
        if ip.is_ipv4() { Version::V4 } else { Version::V6 }
    }
}

/// What a card is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which of the manifest's cards it is.
    pub(super) index: usize,
    /// Its MAC, if the manifest names it.
    pub(super) mac: Option<String>,
    addresses: Vec<CardAddress>,
    gateway: Option<IpAddr>,
    /// Name servers; none: those that the guest has stay.
    pub(super) dns: Vec<IpAddr>,
}

impl Wanted {
    /// Of a card of the manifest; `None` if it is to keep what it has.
    pub(super) fn new(index: usize, nic: &WantedNic) -> Result<Option<Wanted>> {
        if nic.addresses.is_empty() {
            return Ok(None);
        }
        let bad = |key: &str, text: &str| {
            Error::new(Kind::Manifest, format!("`{}` is not an address", short(text)))
                .field(format!("nics[{index}].{key}"))
                .advice("as 192.0.2.10/24 or 2001:db8::10/64 for the card, 192.0.2.1 for others")
        };
        let ip = |key: &str, text: &String| text.parse::<IpAddr>().map_err(|_| bad(key, text));
        Ok(Some(Wanted {
            index,
            mac: nic.mac.clone(),
            addresses: nic
                .addresses
                .iter()
                .map(|text| text.parse().map_err(|_| bad("addresses", text)))
                .collect::<Result<_>>()?,
            gateway: nic.gateway.as_ref().map(|text| ip("gateway", text)).transpose()?,
            dns: nic.dns.iter().map(|text| ip("dns", text)).collect::<Result<_>>()?,
        }))
    }

    /// Families that are set anew.
    pub(super) fn versions(&self) -> impl Iterator<Item = Version> + '_ {
        Version::BOTH.into_iter().filter(|version| self.sets(*version))
    }

    /// Whether this family is set anew.
    pub(super) fn sets(&self, version: Version) -> bool {
        self.of(version).next().is_some()
    }

    /// The addresses of a family.
    pub(super) fn of(&self, version: Version) -> impl Iterator<Item = &CardAddress> + '_ {
        self.addresses.iter().filter(move |address| Version::of(address.ip) == version)
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> &[CardAddress] {
        &self.addresses
    }

    /// Whether a guest's word, an address with or without a prefix or options behind it, belongs to a family that is set anew.
    pub(super) fn replaces(&self, word: &str) -> bool {
        let bare = word.split(['/', ',', ';', ' ']).next().unwrap_or_default();
        bare.parse::<IpAddr>().is_ok_and(|ip| self.sets(Version::of(ip)))
    }

    /// The name servers of a family.
    pub(super) fn dns_of(&self, version: Version) -> Vec<String> {
        self.dns.iter().filter(|ip| Version::of(**ip) == version).map(ToString::to_string).collect()
    }

    /// All name servers with something between them.
    pub(super) fn dns_joined(&self, between: &str) -> String {
        self.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
    }

    /// The gateway of a family: the manifest's, or else the guest's old one, if the new addresses still reach it.
    pub(super) fn gateway<'a>(
        &self,
        version: Version,
        old: impl IntoIterator<Item = &'a str>,
        told: &mut Rewritten,
    ) -> Option<IpAddr> {
        let wanted = self.gateway.filter(|ip| Version::of(*ip) == version);
        let mut kept = wanted;
        for word in old {
            let Ok(ip) = word.trim().parse::<IpAddr>() else { continue };
            if Version::of(ip) != version {
                continue;
            }
            let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            if kept.is_none() && (link_local || self.of(version).any(|address| address.reaches(ip))) {
                kept = Some(ip);
            } else if kept != Some(ip) {
                told.changed(format!("the old gateway {ip} is gone"));
            }
        }
        kept
    }

    /// For people: `ens192 has 192.0.2.10/24, gateway 192.0.2.1`.
    pub(super) fn told(&self, name: &str) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let mut text = format!("{} has {}", short(name), addresses.join(", "));
        if let Some(gateway) = self.gateway {
            text.push_str(&format!(", gateway {gateway}"));
        }
        if !self.dns.is_empty() {
            text.push_str(&format!(", name servers {}", self.dns_joined(", ")));
        }
        text
    }

    /// That it cannot be done in this guest.
    pub(super) fn refused(&self, cause: impl std::fmt::Display, advice: &str) -> Error {
        Error::new(Kind::Unsupported, format!("the addresses cannot be set in this guest: {cause}"))
            .field(format!("nics[{}].addresses", self.index))
            .advice(advice)
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! A request, in few words.

    use super::*;

    /// What becomes of a text, after it was seen that a second time changes nothing.
    pub(in super::super) fn rewritten(
        rewrite: impl Fn(&str, &Wanted, &mut Rewritten) -> String,
        text: &str,
        words: &str,
    ) -> (String, Rewritten) {
        let (wanted, mut told) = (wanted(words), Rewritten::default());
        let new = rewrite(text, &wanted, &mut told);
        assert_eq!(rewrite(&new, &wanted, &mut Rewritten::default()), new, "a second time changes nothing");
        (new, told)
    }

    /// The words are addresses, `via` with the gateway behind it, `dns` with name servers behind it.
    pub(in super::super) fn wanted(words: &str) -> Wanted {
        let mut nic = WantedNic::default();
        let mut key = "addresses";
        for word in words.split_whitespace() {
            match (word, key) {
                ("via", _) => key = "via",
                ("dns", _) => key = "dns",
                (_, "via") => nic.gateway = Some(word.to_owned()),
                (_, "dns") => nic.dns.push(word.to_owned()),
                _ => nic.addresses.push(word.to_owned()),
            }
        }
        Wanted::new(0, &nic).unwrap().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::wanted;
    use super::*;

    #[test]
    fn a_family_is_set_anew_where_an_address_of_it_is_given() {
        let four = wanted("192.0.2.10/24");
        assert!(four.sets(Version::V4) && !four.sets(Version::V6));
        assert!(four.replaces("198.51.100.7/25") && four.replaces("198.51.100.7,198.51.100.1"));
        assert!(!four.replaces("2001:db8::7/64") && !four.replaces("dhcp"));
        assert_eq!(Wanted::new(0, &WantedNic::default()).unwrap(), None);
    }

    #[test]
    fn an_old_gateway_stays_where_it_is_reached_and_is_told_of_where_it_goes() {
        let mut told = Rewritten::default();
        let near = wanted("192.0.2.10/24").gateway(Version::V4, ["2001:db8::1", "192.0.2.1"], &mut told);
        assert_eq!(near, "192.0.2.1".parse().ok());
        assert_eq!(told.changes, [""; 0]);
        let far = wanted("203.0.113.10/24").gateway(Version::V4, ["192.0.2.1"], &mut told);
        assert_eq!((far, told.changes.len()), (None, 1));
        let new = wanted("192.0.2.10/24 via 192.0.2.254").gateway(Version::V4, ["192.0.2.1"], &mut told);
        assert_eq!(new, "192.0.2.254".parse().ok());
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_field() {
        let nic = WantedNic { addresses: vec!["192.0.2.10".to_owned()], ..WantedNic::default() };
        let error = Wanted::new(3, &nic).unwrap_err();
        assert_eq!(error.details().place.field.as_deref(), Some("nics[3].addresses"));
    }
}
