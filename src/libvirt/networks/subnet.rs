//! The IPv4 subnet of a network: which addresses are in it, and which of them guests may have.

use std::fmt;
use std::net::Ipv4Addr;

use crate::model::error::{Error, Kind, Result};

/// A subnet has at least room for the host and one guest.
const LONGEST_PREFIX: u8 = 30;
/// What is shorter is no subnet of a host's.
const SHORTEST_PREFIX: u8 = 8;

/// A subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    first: u32,
    prefix: u8,
}

impl Subnet {
    /// Reads one as people write it: `192.0.2.0/24`.
    pub fn parse(text: &str) -> Result<Subnet> {
        let bad = |why: &str| {
            let shown: String = text.chars().take(64).collect();
            Error::new(Kind::Manifest, format!("`{}` {why}", shown.escape_debug()))
        };
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?))
        });
        let Some((address, prefix)) = parts else {
            let advice = "write an IPv4 network with the length of its prefix, as 192.168.150.0/24";
            return Err(bad("is not a subnet").advice(advice));
        };
        if !(SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&prefix) {
            let limits = format!("from /{SHORTEST_PREFIX} to /{LONGEST_PREFIX}");
            return Err(bad("is too large or too small for a network of guests")
                .advice("take one that has room for all guests, as 192.168.150.0/24")
                .allowed([limits]));
        }
        let subnet = Subnet::around(address, prefix);
        if subnet.first != u32::from(address) {
            return Err(bad("is an address in a subnet, and not the subnet")
                .advice(format!("write {subnet} if that is meant")));
        }
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            return Err(bad("cannot be used by guests").advice("take a private one, as 192.168.150.0/24"));
        }
        Ok(subnet)
    }

    /// The one that holds this address.
    pub(super) fn around(address: Ipv4Addr, prefix: u8) -> Subnet {
        let prefix = prefix.min(32);
        Subnet { first: u32::from(address) & Subnet::mask_of(prefix), prefix }
    }

    fn mask_of(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    /// Its mask.
    pub(super) fn mask(self) -> Ipv4Addr {
        Subnet::mask_of(self.prefix).into()
    }

    fn last(self) -> u32 {
        self.first | !Subnet::mask_of(self.prefix)
    }

    /// The host's own address in it.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        self.first.saturating_add(1).into()
    }

    /// All that guests may have.
    #[must_use]
    pub fn guests(self) -> (Ipv4Addr, Ipv4Addr) {
        (self.first.saturating_add(2).into(), self.last().saturating_sub(1).into())
    }

    /// Whether a guest may have it.
    #[must_use]
    pub fn is_for_guests(self, address: Ipv4Addr) -> bool {
        let (first, last) = self.guests();
        (first..=last).contains(&address)
    }

    /// Whether the address is anywhere in it.
    #[must_use]
    pub fn holds(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last()).contains(&u32::from(address))
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Subnet) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

/// Reads a range as people write it: `192.0.2.10-192.0.2.99`.
pub fn parse_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let parts = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<Ipv4Addr>().ok()?, last.trim().parse::<Ipv4Addr>().ok()?))
    });
    parts.filter(|(first, last)| first <= last).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        Error::new(Kind::Manifest, format!("`{}` is not a range of addresses", shown.escape_debug()))
            .advice("write its first and its last IPv4 address, as 192.168.150.10-192.168.150.99")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_says_who_may_have_which_address() {
        let subnet = Subnet::parse("192.168.150.0/24").unwrap();
        assert_eq!(subnet.host(), Ipv4Addr::new(192, 168, 150, 1));
        assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(subnet.guests(), (Ipv4Addr::new(192, 168, 150, 2), Ipv4Addr::new(192, 168, 150, 254)));
        let smallest = Subnet::parse("10.0.0.4/30").unwrap();
        assert_eq!(smallest.guests(), (Ipv4Addr::new(10, 0, 0, 6), Ipv4Addr::new(10, 0, 0, 6)));
        assert!(
            !smallest.is_for_guests(Ipv4Addr::new(10, 0, 0, 5)) && smallest.holds(Ipv4Addr::new(10, 0, 0, 7))
        );
    }

    #[test]
    fn subnets_overlap_when_one_holds_a_part_of_the_other() {
        let subnet = |text| Subnet::parse(text).unwrap();
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.9.8.0/24")));
        assert!(subnet("10.9.8.0/24").overlaps(subnet("10.0.0.0/8")));
        assert!(!subnet("10.9.8.0/24").overlaps(subnet("10.9.9.0/24")));
    }

    #[test]
    fn a_subnet_of_others_that_is_a_single_address_has_no_guests() {
        for address in [Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 7)] {
            let subnet = Subnet::around(address, 32);
            assert!(subnet.holds(address) && !subnet.is_for_guests(address));
        }
    }

    #[test]
    fn what_is_no_subnet_is_refused_with_what_was_probably_meant() {
        for (text, advice) in [
            ("192.168.150.7/24", "192.168.150.0/24"),
            ("192.168.150.0", "length of its prefix"),
            ("192.168.150.0/31", "room"),
            ("192.168.150.0/0", "room"),
            ("192.168.150.0/-1", "length"),
            ("fd00::/64", "IPv4"),
            ("127.0.0.0/8", "private"),
            ("224.0.0.0/8", "private"),
            ("\0\n", "IPv4"),
            ("", "IPv4"),
        ] {
            let error = Subnet::parse(text).unwrap_err();
            assert!(
                error.details().advice.as_deref().is_some_and(|told| told.contains(advice)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_range_has_a_first_and_a_last_address_in_that_order() {
        let range = parse_range("10.0.0.5-10.0.0.9").unwrap();
        assert_eq!(range, (Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 9)));
        for text in ["10.0.0.9-10.0.0.5", "10.0.0.9", "10.0.0.9-", "a-b", ""] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
