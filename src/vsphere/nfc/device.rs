//! What a lease offers: devices, where each is sent from, and who that has to be.
//!
//! A vCenter has its hosts send disks themselves, from addresses and with certificates of their own. What holds is, in this order: the server that was
//! asked (`*`, or its own name) is trusted as it was when it was asked; another host by the SHA-1 of its certificate that the lease tells, since who
//! told it is trusted, and nobody makes a second certificate with the same SHA-1; a host of which nothing is told like the server that was asked, unless that
//! one alone is pinned. Only the first of them is told the session's cookie: the others know a lease by its address.

use roxmltree::Node;

use crate::model::error::{Error, Kind, Result};
use crate::model::web_address::WebAddress;
use crate::vsphere::devices::VmDisk;
use crate::vsphere::endpoint::{Endpoint, Trusted};
use crate::vsphere::failure;
use crate::vsphere::soap;
use crate::web::{self, Tls, Trust};

/// A SHA-1 has so many bytes.
const DIGEST_BYTES: usize = 20;
/// No machine has more.
const MOST_DEVICES: usize = 1024;
/// Stands for the host that was asked.
const ASKED: &str = "*";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// How the server calls it: `/vm-42/ParaVirtualSCSIController0:0`.
    pub(crate) key: String,
    pub(super) address: WebAddress,
    /// Of the certificate of who sends it.
    thumbprint: Option<[u8; DIGEST_BYTES]>,
    is_disk: bool,
}

impl Device {
    /// Those that a lease's `info` tells.
    pub(super) fn all(info: Node<'_, '_>, asked: &Endpoint) -> Result<Vec<Device>> {
        let told = soap::children(info, "deviceUrl").take(MOST_DEVICES);
        told.map(|node| Device::of(node, asked)).collect()
    }

    fn of(node: Node<'_, '_>, asked: &Endpoint) -> Result<Device> {
        let url = soap::text(node, "url").unwrap_or_default();
        let address = address(url, asked)
            .map_err(|why| soap::odd(&asked.host, &format!("an address of a disk that is none: {why}")))?;
        let is_disk = match soap::text(node, "disk") {
            Some(said) => soap::says_yes(said),
            None => address.target.split('?').next().is_some_and(|path| path.ends_with(".vmdk")),
        };
        let thumbprint = soap::text(node, "sslThumbprint").and_then(digest);
        Ok(Device {
            key: soap::text(node, "key").unwrap_or_default().to_owned(),
            address,
            thumbprint,
            is_disk,
        })
    }

    /// Whether it is this disk.
    pub(super) fn is(&self, disk: &VmDisk) -> bool {
        let wanted = format!("{}{}:{}", plain(&disk.controller_type), disk.bus, disk.unit);
        self.is_disk && plain(self.key.rsplit('/').next().unwrap_or_default()).eq_ignore_ascii_case(&wanted)
    }

    /// Whether the server that was asked sends it itself.
    pub(super) fn is_sent_by(&self, asked: &Endpoint) -> bool {
        self.address.host.eq_ignore_ascii_case(&asked.host) && self.address.port == asked.port
    }

    /// Who sends it, and how that one is trusted.
    pub(super) fn sender(&self, asked: &Endpoint, tls: &Tls) -> Result<(Endpoint, Tls)> {
        let host =
            Endpoint { host: self.address.host.clone(), port: self.address.port, trust: asked.trust.clone() };
        if self.is_sent_by(asked) {
            return Ok((host, tls.clone()));
        }
        let trust = match (&self.thumbprint, &asked.trust) {
            (Some(digest), _) => Trust::Told(*digest),
            (None, Trusted::Pinned(_)) => {
                return Err(Error::new(
                    Kind::Network,
                    format!("{} is to send a disk, and {} tells nothing of its certificate", host.host, asked.host),
                )
                .advice("trust the server by the file of who signs its certificates and its hosts' (`ca_file`) instead of by a thumbprint")
                .permanent());
            }
            (None, trust) => trust.as_web(),
        };
        let tls = Tls::new(trust).map_err(|none| failure::unreached(&host.host, none))?;
        Ok((host, tls))
    }
}

/// `VirtualLsiLogicController` and `LsiLogicController` are the same.
fn plain(name: &str) -> &str {
    name.strip_prefix("Virtual").unwrap_or(name)
}

/// Where a URL of a lease leads.
fn address(url: &str, asked: &Endpoint) -> std::result::Result<WebAddress, String> {
    let rest = url.strip_prefix("https://").ok_or("it is not encrypted")?;
    let (authority, path) = rest.split_once('/').ok_or("it has no path")?;
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    if host.is_empty() {
        return Err("it has no host".to_owned());
    }
    let url = if host == ASKED { format!("https://asked/{path}") } else { url.to_owned() };
    let mut address = web::address(&url).map_err(|none| none.to_string())?;
    if host == ASKED {
        address.host.clone_from(&asked.host);
        address.port = port.map_or(Ok(asked.port), str::parse).map_err(|_| "its port is no port")?;
    }
    Ok(address)
}

/// `AB:CD:…`; none where it is no SHA-1.
fn digest(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| !matches!(byte, b':' | b' ')).collect();
    if digits.len() != 2 * DIGEST_BYTES {
        return None;
    }
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::thumbprint::Thumbprint;

    fn asked(trust: Trusted) -> Endpoint {
        Endpoint { host: "vc.example.com".to_owned(), port: 8443, trust }
    }

    fn system() -> Endpoint {
        asked(Trusted::System { ca_file: None })
    }

    fn devices(urls: &str) -> Result<Vec<Device>> {
        let document = roxmltree::Document::parse(urls).unwrap();
        Device::all(document.root_element(), &system())
    }

    #[test]
    fn a_star_is_the_host_that_was_asked_and_other_hosts_are_themselves() {
        let digest = "AA:".repeat(20);
        let found = devices(&format!(
            "<info><deviceUrl><key>/vm-1/VirtualLsiLogicController0:0</key><url>https://*/nfc/52x/disk-0.vmdk</url><disk>true</disk></deviceUrl>
             <deviceUrl><key>/vm-1/ParaVirtualSCSIController1:2</key><url>https://esx1/nfc/5/d%201.vmdk?a=b</url>
               <sslThumbprint>{}</sslThumbprint><disk>true</disk></deviceUrl>
             <deviceUrl><key>/vm-1/nvram</key><url>https://*:444/nfc/5/x.nvram</url><disk>false</disk></deviceUrl></info>",
            digest.trim_end_matches(':')
        ))
        .unwrap();
        let shown: Vec<_> =
            found.iter().map(|device| format!("{}{}", device.address, device.address.target)).collect();
        assert_eq!(
            shown,
            [
                "https://vc.example.com:8443/nfc/52x/disk-0.vmdk",
                "https://esx1/nfc/5/d%201.vmdk?a=b",
                "https://vc.example.com:444/nfc/5/x.nvram"
            ]
        );
        assert_eq!(found[1].thumbprint, Some([0xaa; 20]));
        assert!(
            found[0].is_sent_by(&system())
                && !found[1].is_sent_by(&system())
                && !found[2].is_sent_by(&system())
        );

        let disk = |kind: &str, bus, unit| VmDisk {
            controller_type: kind.to_owned(),
            bus,
            unit,
            ..VmDisk::default()
        };
        assert!(found[0].is(&disk("VirtualLsiLogicController", 0, 0)));
        assert!(found[1].is(&disk("ParaVirtualSCSIController", 1, 2)));
        assert!(!found[1].is(&disk("ParaVirtualSCSIController", 1, 1)));
        assert!(!found[0].is(&disk("ParaVirtualSCSIController", 0, 0)));
    }

    #[test]
    fn addresses_that_are_none_and_such_without_encryption_are_refused() {
        for url in ["http://*/nfc/5/a.vmdk", "https://*", "https://*:x/a", "ftp://h/a", "", "https:///a"] {
            let error =
                devices(&format!("<info><deviceUrl><url>{url}</url></deviceUrl></info>")).unwrap_err();
            assert_eq!(error.kind(), Kind::Source, "{url}: {error}");
        }
    }

    #[test]
    fn a_host_without_a_thumbprint_is_not_taken_where_only_the_server_is_known() {
        let device =
            &devices("<info><deviceUrl><url>https://esx1/nfc/5/a.vmdk</url></deviceUrl></info>").unwrap()[0];
        let tls = Tls::new(Trust::Anything).unwrap();
        let pinned = asked(Trusted::Pinned(Thumbprint([1; 32])));
        let error = device.sender(&pinned, &tls).unwrap_err();
        assert!(error.to_string().contains("esx1") && error.details().advice.is_some(), "{error}");
        assert!(device.sender(&asked(Trusted::Anything), &tls).is_ok());
        assert!(
            devices("<info><deviceUrl><url>https://*/a</url></deviceUrl></info>").unwrap()[0]
                .sender(&pinned, &tls)
                .is_ok()
        );
    }
}
