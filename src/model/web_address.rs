//! The address of a web receiver, taken apart: `http` or `https`, host, port, and what stands behind them.
//!
//! What stands behind the host is often a secret (Slack's and Discord's addresses are passwords), so only scheme, host and port are
//! ever shown. Which addresses nobody is connected to stands here too, so that a configuration can be refused for what a connection
//! would be. What is not here: looking up a name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Nobody's address is longer.
const MOST_BYTES: usize = 2048;

/// Where cloud providers answer their guests with passwords, besides the link-local addresses.
const METADATA: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// `https://host:port/path?query`
#[derive(Clone, PartialEq, Eq)]
pub struct WebAddress {
    /// Whether the connection is encrypted.
    pub is_https: bool,
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query; begins with `/`.
    pub target: String,
}

impl WebAddress {
    /// Takes an address apart; the error says what is wrong with it and shows nothing of it.
    pub fn parse(text: &str) -> Result<WebAddress, &'static str> {
        if text.len() > MOST_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it is too long, or holds something else than the letters of a URL");
        }
        let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("it does not begin with http:// or https://"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end);
        let behind = behind.split('#').next().unwrap_or_default();
        if authority.contains('@') {
            return Err("it holds a login before its host");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("its brackets do not close")?;
                host.parse::<Ipv6Addr>().map_err(|_| "what stands in brackets is no IPv6 address")?;
                (host, port)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| "its port is no port")?,
            None if !port.is_empty() => return Err("something stands between its host and its path"),
            None if is_https => 443,
            None => 80,
        };
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_letter) {
            return Err("it has no host, or one that cannot be");
        }
        if host.parse().is_ok_and(|ip| forbidden(ip).is_some()) {
            return Err("its host is an address that nothing is sent to");
        }
        let target = if behind.starts_with('/') { behind.to_owned() } else { format!("/{behind}") };
        Ok(WebAddress { is_https, host: host.to_owned(), port, target })
    }

    /// `host`, or `host:port` where the port is not the usual one: what a request's `Host` says.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.is_https { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_https { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebAddress({self}/…)")
    }
}

/// Why nothing is ever sent to this address; `None` where it may be.
///
/// Who may configure a receiver, or answers for its name, must not make the service talk to what only this machine reaches. Loopback
/// and private networks stay allowed: that is where most receivers are.
#[must_use]
pub fn forbidden(ip: IpAddr) -> Option<&'static str> {
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().or_else(|| translated(v6)).map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if is_link_local {
        return Some("a link-local address");
    }
    if METADATA.contains(&ip) {
        return Some("the address of a cloud's metadata");
    }
    let is_many = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) || ip.is_multicast();
    (is_many || ip.is_unspecified()).then_some("an address of nobody in particular")
}

/// What a translator between IPv6 and IPv4 (64:ff9b::/96) makes of an address, and what old ones (::/96) stand for.
fn translated(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = ip.segments();
    let is_one = [[0x64, 0xff9b, 0, 0, 0, 0], [0; 6]].contains(&[a, b, c, d, e, f]) && !ip.is_loopback();
    is_one.then(|| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_shows_no_more_than_its_host() {
        let web = WebAddress::parse("https://hooks.example.com/services/T0/secret?x=1#part").unwrap();
        assert_eq!((web.is_https, web.host.as_str(), web.port), (true, "hooks.example.com", 443));
        assert_eq!(web.target, "/services/T0/secret?x=1");
        assert_eq!(web.to_string(), "https://hooks.example.com");
        assert!(!format!("{web:?}").contains("secret"));
        for (text, authority, target) in [
            ("http://h", "h", "/"),
            ("http://h:8080?a", "h:8080", "/?a"),
            ("https://[2001:db8::1]:443/", "[2001:db8::1]", "/"),
            ("http://127.0.0.1:81/x", "127.0.0.1:81", "/x"),
        ] {
            let web = WebAddress::parse(text).unwrap();
            assert_eq!((web.authority().as_str(), web.target.as_str()), (authority, target), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_receiver_is_refused_without_being_shown() {
        for text in [
            "ftp://h/",
            "h/x",
            "https://",
            "https:///x",
            "https://user:pass@h/",
            "https://h:99999/",
            "https://[::1/",
            "https://[h]/",
            "https://[::1]x/",
            "https://h h/",
            "https://h/\nHost: x",
            "https://h_%00/",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
        ] {
            let error = WebAddress::parse(text).unwrap_err();
            assert!(!error.contains("pass"), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_is_sent_to_what_only_this_machine_reaches() {
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "::169.254.169.254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(forbidden(ip.parse().unwrap()).is_some(), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "203.0.113.9", "fd00::1", "2001:db8::1"] {
            assert!(forbidden(ip.parse().unwrap()).is_none(), "{ip}");
        }
    }
}
