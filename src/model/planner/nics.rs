//! Addresses that a manifest wants inside the guest: what cannot work is refused before anything is touched.
//!
//! What is not here: MACs and the machine's side of a card (see [`super::check`]), and how addresses get into a guest.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::build;
use crate::model::address::CardAddress;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::{Manifest, Nic};
use crate::model::parse::Tree;

/// Refuses what no guest could be given.
pub(super) fn check(tree: &Tree, manifest: &Manifest) -> Result<()> {
    let mut given = BTreeMap::new();
    for (index, nic) in manifest.nics.iter().flatten().enumerate() {
        let addresses = addresses(nic);
        check_is_done(tree, manifest, nic, index)?;
        for (nth, address) in addresses.iter().enumerate() {
            let field = format!("nics[{index}].addresses[{nth}]");
            if let Some(why) = address.unfit() {
                return Err(tree
                    .error(Kind::Manifest, &field, format!("no card can have {address}: {why}"))
                    .advice("give the card's own address, as 192.0.2.10/24 or 2001:db8::10/64"));
            }
            if let Some(first) = given.insert(address.ip, field.clone()) {
                return Err(tree
                    .error(Kind::Manifest, &field, format!("{first} is {} too", address.ip))
                    .advice("give each address once"));
            }
        }
        check_gateway(tree, nic, index, &addresses)?;
        check_dns(tree, nic, index, &addresses)?;
    }
    Ok(())
}

fn addresses(nic: &Nic) -> Vec<CardAddress> {
    nic.addresses.iter().flatten().filter_map(|address| address.as_str().parse().ok()).collect()
}

/// Something has to be there that gives them to the guest.
fn check_is_done(tree: &Tree, manifest: &Manifest, nic: &Nic, index: usize) -> Result<()> {
    let wanted = [
        ("addresses", nic.addresses.as_ref().is_some_and(|addresses| !addresses.is_empty())),
        ("gateway", nic.gateway.is_some()),
        ("dns", nic.dns.as_ref().is_some_and(|servers| !servers.is_empty())),
    ];
    let Some((key, _)) = wanted.into_iter().find(|(_, there)| *there) else { return Ok(()) };
    let refused = |cause: &str, switch: &str| -> Result<()> {
        Err(tree
            .error(Kind::Manifest, &format!("nics[{index}].{key}"), cause.to_owned())
            .advice(format!("set `{switch}: true`, or remove this and set it in the guest yourself")))
    };
    if !build::is_on(tree, Stage::Fix) {
        return refused("nothing changes the guest, so nothing sets this in it", "pipeline.fix.enabled");
    }
    let fix = manifest.pipeline.as_ref().and_then(|pipeline| pipeline.fix.as_ref());
    if fix.and_then(|fix| fix.network) == Some(false) {
        let cause = "the guest's network is not to be changed, so nothing sets this in it";
        return refused(cause, "pipeline.fix.network");
    }
    Ok(())
}

fn check_gateway(tree: &Tree, nic: &Nic, index: usize, addresses: &[CardAddress]) -> Result<()> {
    let Some(gateway) = nic.gateway.as_ref().and_then(|ip| ip.as_str().parse::<IpAddr>().ok()) else {
        return Ok(());
    };
    let bad =
        |cause: String| -> Error { tree.error(Kind::Manifest, &format!("nics[{index}].gateway"), cause) };
    let mut of_its_kind =
        addresses.iter().filter(|address| address.ip.is_ipv4() == gateway.is_ipv4()).peekable();
    if of_its_kind.peek().is_none() {
        let kind = if gateway.is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(bad(format!("the card is given no {kind} address that could reach it"))
            .advice("give one in `addresses`, or remove the gateway"));
    }
    if of_its_kind.clone().any(|address| address.ip == gateway) {
        return Err(bad(format!("{gateway} is the card's own address")).advice("name the router's address"));
    }
    // Routers of IPv6 are often known by an address that is good on every link.
    let on_every_link = matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if on_every_link || of_its_kind.clone().any(|address| address.reaches(gateway)) {
        return Ok(());
    }
    Err(bad(format!("{gateway} is in no subnet of the card's addresses"))
        .allowed(of_its_kind.map(ToString::to_string))
        .advice("name a router in one of these subnets, or mend the prefix length of the address"))
}

fn check_dns(tree: &Tree, nic: &Nic, index: usize, addresses: &[CardAddress]) -> Result<()> {
    let servers = nic.dns.as_deref().unwrap_or_default();
    if !servers.is_empty() && addresses.is_empty() {
        return Err(tree
            .error(
                Kind::Manifest,
                &format!("nics[{index}].dns"),
                "name servers are set with addresses, and the card is given none",
            )
            .advice("give `addresses`, or remove this: the guest keeps the name servers that it has"));
    }
    for (nth, server) in servers.iter().enumerate() {
        if servers[..nth].contains(server) {
            return Err(tree
                .error(
                    Kind::Manifest,
                    &format!("nics[{index}].dns[{nth}]"),
                    format!("{server} is named twice"),
                )
                .advice("name each server once"));
        }
    }
    Ok(())
}
