//! Services of a guest with OpenRC: a link in a runlevel, as `rc-update` makes it.
//!
//! What is not here: masks, which OpenRC does not have.

use super::FIELD;
use crate::guest::fix::Guest;
use crate::guest::linux::configure::unknown;
use crate::guest::linux::text::not_kept;
use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};
use crate::model::setup::Services;

const SCRIPTS: &str = "/etc/init.d";
const RUNLEVELS: &str = "/etc/runlevels";
const DEFAULT: &str = "/etc/runlevels/default";

/// Makes all the changes.
pub(super) fn apply(guest: &mut Guest<'_>, wanted: &Services) -> Result<()> {
    if !wanted.mask.is_empty() {
        return Err(Error::new(Kind::Unsupported, "the guest has OpenRC, which cannot mask a service")
            .field(format!("{FIELD}.mask"))
            .advice("name it under `disable`"));
    }
    for unit in &wanted.enable {
        let name = script(&guest.tree, unit, "enable")?;
        if links(&guest.tree, name)?.is_empty() {
            let detail = format!("{name} starts with the guest");
            guest.tree.link(&format!("{SCRIPTS}/{name}"), &format!("{DEFAULT}/{name}"), &detail)?;
        }
    }
    for unit in &wanted.disable {
        let name = script(&guest.tree, unit, "disable")?;
        for link in links(&guest.tree, name)? {
            guest.tree.remove(&link, &format!("{name} does not start by itself"))?;
        }
    }
    Ok(())
}

/// Reads the runlevels again.
pub(super) fn verify(guest: &Guest<'_>, wanted: &Services) -> Result<()> {
    let verbs = [(&wanted.enable, "enable", true), (&wanted.disable, "disable", false)];
    for (units, verb, starts) in verbs {
        for unit in units {
            let name = script(&guest.tree, unit, verb)?;
            if links(&guest.tree, name)?.is_empty() == starts {
                return Err(not_kept(&format!("{DEFAULT}/{name}"), "the runlevel is not as it was made"));
            }
        }
    }
    Ok(())
}

/// The script behind a service's name.
fn script<'u>(tree: &Tree, unit: &'u str, verb: &str) -> Result<&'u str> {
    let name = unit.strip_suffix(".service").unwrap_or(unit);
    if tree.exists(&format!("{SCRIPTS}/{name}"))? {
        return Ok(name);
    }
    let known = tree.list(SCRIPTS)?;
    let advice = "`rc-service --list` in the source machine shows what there is";
    Err(unknown(&format!("{FIELD}.{verb}"), "service", name, known.iter().map(String::as_str), advice))
}

/// The links of a service in all runlevels.
fn links(tree: &Tree, name: &str) -> Result<Vec<String>> {
    let mut links = Vec::new();
    for runlevel in tree.list(RUNLEVELS)? {
        let link = format!("{RUNLEVELS}/{runlevel}/{name}");
        if tree.link_target(&link)?.is_some() {
            links.push(link);
        }
    }
    Ok(links)
}
