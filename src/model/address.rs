//! An address of a network card with its prefix length, and what follows from both: which others it reaches by itself.
//!
//! What is not here: whose address it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// `192.0.2.10/24`, `2001:db8::10/64`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CardAddress {
    /// The address itself.
    pub ip: IpAddr,
    /// How many bits of it are its subnet's.
    pub prefix: u8,
}

/// It is no address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCardAddress;

impl FromStr for CardAddress {
    type Err = NoCardAddress;

    fn from_str(text: &str) -> Result<CardAddress, NoCardAddress> {
        let (ip, prefix) = text.split_once('/').ok_or(NoCardAddress)?;
        let address = CardAddress {
            ip: ip.parse().map_err(|_| NoCardAddress)?,
            prefix: prefix.parse().map_err(|_| NoCardAddress)?,
        };
        if address.prefix <= bits_of(address.ip) { Ok(address) } else { Err(NoCardAddress) }
    }
}

impl fmt::Display for CardAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl CardAddress {
    /// Whether another address is in the same subnet.
    #[must_use]
    pub fn reaches(&self, other: IpAddr) -> bool {
        self.ip.is_ipv4() == other.is_ipv4() && self.subnet_of(self.ip) == self.subnet_of(other)
    }

    /// The netmask, for those who do not know prefix lengths; `None` of IPv6.
    #[must_use]
    pub fn netmask(&self) -> Option<Ipv4Addr> {
        let beyond = 32_u32.checked_sub(u32::from(self.prefix)).filter(|_| self.ip.is_ipv4())?;
        Some(Ipv4Addr::from(u32::MAX.checked_shl(beyond).unwrap_or(0)))
    }

    /// Why no card can have it; `None` if one can.
    #[must_use]
    pub fn unfit(&self) -> Option<&'static str> {
        if self.ip.is_multicast() {
            return Some("it is a multicast address");
        }
        if self.ip.is_unspecified() || self.ip.is_loopback() {
            return Some("it means no card");
        }
        let IpAddr::V4(ip) = self.ip else { return None };
        let mask = self.netmask().map_or(0, u32::from);
        match u32::from(ip) & !mask {
            // Two addresses, or one: all of them are hosts'.
            _ if self.prefix >= 31 => None,
            0 => Some("it is the subnet's own"),
            host if host == !mask => Some("it is the subnet's broadcast address"),
            _ => None,
        }
    }

    /// The bits of an address that this one's prefix covers.
    fn subnet_of(&self, ip: IpAddr) -> u128 {
        let all = match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let beyond = u32::from(bits_of(ip).saturating_sub(self.prefix));
        all.checked_shr(beyond).unwrap_or(0)
    }
}

fn bits_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> CardAddress {
        text.parse().unwrap()
    }

    #[test]
    fn what_has_no_prefix_that_fits_is_no_address_of_a_card() {
        for text in
            ["192.0.2.10", "192.0.2.10/33", "2001:db8::1/129", "192.0.2/24", "/24", "192.0.2.1/-1", ""]
        {
            assert_eq!(text.parse::<CardAddress>(), Err(NoCardAddress), "{text}");
        }
        assert_eq!(address("2001:DB8::0:1/64").to_string(), "2001:db8::1/64");
    }

    #[test]
    fn it_reaches_its_subnet_and_nothing_else() {
        let reaches = |of: &str, other: &str| address(of).reaches(other.parse().unwrap());
        assert!(reaches("192.0.2.10/24", "192.0.2.1") && !reaches("192.0.2.10/24", "192.0.3.1"));
        assert!(reaches("2001:db8::10/64", "2001:db8::1") && !reaches("2001:db8::10/64", "2001:db8:0:1::1"));
        assert!(!reaches("192.0.2.10/24", "2001:db8::1"));
        assert!(reaches("192.0.2.10/0", "198.51.100.1") && !reaches("192.0.2.10/32", "192.0.2.11"));
    }

    #[test]
    fn netmasks_are_those_of_their_prefixes() {
        let mask = |text: &str| address(text).netmask().map(|mask| mask.to_string());
        assert_eq!(mask("192.0.2.10/24").as_deref(), Some("255.255.255.0"));
        assert_eq!(mask("192.0.2.10/0").as_deref(), Some("0.0.0.0"));
        assert_eq!(mask("192.0.2.10/32").as_deref(), Some("255.255.255.255"));
        assert_eq!(mask("2001:db8::1/64"), None);
    }

    #[test]
    fn what_no_card_can_have_is_told_with_its_reason() {
        for text in ["192.0.2.0/24", "192.0.2.255/24", "224.0.0.5/24", "ff02::1/64", "127.0.0.1/8", "::/64"] {
            assert!(address(text).unfit().is_some(), "{text}");
        }
        for text in ["192.0.2.10/24", "192.0.2.0/31", "192.0.2.255/32", "2001:db8::/64", "192.0.3.0/23"] {
            assert_eq!(address(text).unfit(), None, "{text}");
        }
    }
}
