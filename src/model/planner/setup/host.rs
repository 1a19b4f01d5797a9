//! `configuration.hostname`: the guest's own name, and names that it is to know.
//!
//! What is not here: which files of which distribution hold them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{refused, words};
use crate::model::error::{Kind, Result};
use crate::model::manifest::Hostname;
use crate::model::parse::Tree;
use crate::model::setup::HostName;

const FIELD: &str = "configuration.hostname";

/// The guest's own name.
pub(super) fn name(tree: &Tree, wanted: &Hostname) -> Result<Option<HostName>> {
    let domain_field = format!("{FIELD}.domain");
    let Some(hostname) = &wanted.hostname else {
        return match &wanted.domain {
            None => Ok(None),
            Some(_) => Err(tree
                .error(Kind::Manifest, &domain_field, "it is not said whose domain this is")
                .advice("give the name too: `hostname`")),
        };
    };
    let field = format!("{FIELD}.hostname");
    let name = words::host(tree, &field, hostname.as_str())?;
    if name.len() > words::MOST_HOST {
        return Err(refused(
            tree,
            &field,
            format!("`{name}` has {} characters", name.len()),
            "at most 64 characters",
            "Linux keeps no longer name: put its domain into `domain`",
        ));
    }
    let Some(domain) = &wanted.domain else {
        let full = name.contains('.').then(|| name.clone());
        return Ok(Some(HostName { name, full }));
    };
    let domain = words::host(tree, &domain_field, domain.as_str())?;
    if name.contains('.') {
        return Err(tree
            .error(Kind::Manifest, &domain_field, format!("`{name}` has a domain already"))
            .advice("keep it in one of the two"));
    }
    let full = words::host(tree, &domain_field, &format!("{name}.{domain}"))?;
    Ok(Some(HostName { name, full: Some(full) }))
}

/// Addresses and their names.
pub(super) fn table(tree: &Tree, wanted: &Hostname) -> Result<BTreeMap<IpAddr, Vec<String>>> {
    let mut table = BTreeMap::new();
    for (address, names) in wanted.hosts.iter().flatten() {
        let field = format!("{FIELD}.hosts.{address}");
        let Ok(ip) = address.parse::<IpAddr>() else {
            return Err(refused(
                tree,
                &format!("{FIELD}.hosts"),
                format!("`{}` is not an address", address.escape_debug()),
                "IPv4 or IPv6 addresses as keys",
                "write `192.0.2.10: \"db.example.com db\"`",
            ));
        };
        let names: Vec<String> = names
            .as_str()
            .split_whitespace()
            .map(|name| words::host(tree, &field, name))
            .collect::<Result<_>>()?;
        if names.is_empty() || table.insert(ip, names).is_some() {
            return Err(tree
                .error(
                    Kind::Manifest,
                    &format!("{FIELD}.hosts"),
                    format!("{ip} has no names, or is there twice"),
                )
                .advice("give each address once, with its names"));
        }
    }
    Ok(table)
}
