//! Network interfaces as a guest's configuration names them.
//!
//! One file for each way in which Linux configures its network; a guest may use several at once. What is read is what a repair has to
//! keep: names, MACs, addresses, gateways, name servers. What is not here: any change, and what a name will be under KVM.

mod ifupdown;
mod keyfile;
mod netplan;
mod networkd;
mod sysconfig;

use super::files::Files;
use crate::model::error::Result;
use crate::model::guest::GuestNic;

/// Where all of it lies; asked for with one question.
const PLACES: [&str; 12] = [
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/NetworkManager/system-connections/*",
    "/usr/lib/NetworkManager/system-connections/*",
    "/etc/netplan/*.yaml",
    "/lib/netplan/*.yaml",
    "/etc/systemd/network/*.network",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network/ifcfg-*",
    "/etc/sysconfig/network/ifroute-*",
    "/etc/sysconfig/network/routes",
    "/etc/sysconfig/network/config",
];
/// More files than this are not read.
const MOST_FILES: usize = 256;
/// More interfaces than this are not told.
const MOST_NICS: usize = 256;

/// A file of configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    path: String,
    text: String,
}

/// Every interface that is configured.
pub(super) fn nics(files: Files<'_>) -> Result<Vec<GuestNic>> {
    let mut sources = Vec::new();
    for path in files.matching(&PLACES)?.into_iter().take(MOST_FILES) {
        if let Some(text) = files.text(&path)? {
            sources.push(Source { path, text });
        }
    }
    Ok(read(&sources))
}

fn read(sources: &[Source]) -> Vec<GuestNic> {
    let mut nics = Vec::new();
    for source in sources {
        let Source { path, text } = source;
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let found = match directory {
            // Copies that editors and packages leave are read by nobody.
            _ if name.starts_with('.') || spare(name) => Vec::new(),
            "/etc/network" | "/etc/network/interfaces.d" => ifupdown::nics(text),
            _ if directory.ends_with("NetworkManager/system-connections") => keyfile::nics(text),
            _ if directory.ends_with("/netplan") => netplan::nics(text),
            "/etc/systemd/network" => networkd::nics(text),
            "/etc/sysconfig/network-scripts" if name.starts_with("ifcfg-") => sysconfig::red_hat(name, text),
            "/etc/sysconfig/network" if name.starts_with("ifcfg-") => sysconfig::suse(name, text, sources),
            _ => Vec::new(),
        };
        nics.extend(found.into_iter().map(|nic| GuestNic { file: path.clone(), ..nic }));
    }
    nics.retain(|nic| nic.name != "lo");
    nics.truncate(MOST_NICS);
    nics
}

fn spare(name: &str) -> bool {
    [".bak", ".old", ".orig", ".rpmsave", ".rpmnew", ".rpmorig", ".dpkg-old", ".dpkg-dist", "~"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// A MAC in lower case with colons; none if it is no MAC.
fn mac(text: &str) -> Option<String> {
    let text = text.trim().replace('-', ":").to_ascii_lowercase();
    let parts: Vec<&str> = text.split(':').collect();
    let fits = |part: &&str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(fits)).then_some(text)
}

/// An address with its prefix: `192.0.2.10` and `255.255.255.0` or `24` become `192.0.2.10/24`.
fn with_prefix(address: &str, netmask: Option<&str>) -> String {
    if address.contains('/') {
        return address.to_owned();
    }
    let prefix = match netmask {
        Some(mask) if mask.contains('.') => {
            mask.parse::<std::net::Ipv4Addr>().ok().map(|mask| u32::from(mask).count_ones().to_string())
        }
        Some(prefix) => Some(prefix.trim_start_matches('/').to_owned()),
        None => None,
    };
    match prefix {
        Some(prefix) => format!("{address}/{prefix}"),
        None => address.to_owned(),
    }
}

/// `[Section]` and `Key=Value`, as systemd and NetworkManager write them: the section, the key, the value.
fn ini(text: &str) -> Vec<(&str, &str, &str)> {
    let mut section = "";
    let mut values = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once('=') {
            values.push((section, key.trim(), value.trim()));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_read_in_its_own_language_and_copies_are_not() {
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let nics = read(&[
            source("/etc/network/interfaces", "auto lo\niface lo inet loopback\niface ens192 inet dhcp\n"),
            source("/etc/network/interfaces.d/old.bak", "iface ens256 inet dhcp\n"),
            source("/etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\n"),
            source("/etc/sysconfig/network-scripts/ifcfg-eth0.rpmsave", "DEVICE=eth0\n"),
        ]);
        let names: Vec<(&str, &str)> =
            nics.iter().map(|nic| (nic.name.as_str(), nic.file.as_str())).collect();
        assert_eq!(names, [("ens192", "/etc/network/interfaces")]);
    }

    #[test]
    fn macs_and_prefixes_have_one_form() {
        assert_eq!(mac("00-50-56-AA-BB-01").as_deref(), Some("00:50:56:aa:bb:01"));
        assert_eq!(mac("ens192"), None);
        assert_eq!(with_prefix("192.0.2.10", Some("255.255.254.0")), "192.0.2.10/23");
        assert_eq!(with_prefix("192.0.2.10", Some("24")), "192.0.2.10/24");
        assert_eq!(with_prefix("192.0.2.10/25", Some("24")), "192.0.2.10/25");
        assert_eq!(with_prefix("192.0.2.10", Some("1.2.x")), "192.0.2.10");
    }
}
