//! What an administrator wants set up in the guest: `configuration` of the manifest, one repair each.
//!
//! Files are edited as the guest's own tools would leave them, because none of these tools runs. What was asked for by name and cannot be
//! done is an error, not a warning: a guest without the account or the service that it was to have is not what was ordered. What is not
//! here: whether names and texts are well-formed, which the planner has seen to.

mod accounts;
mod cloud_init;
mod first_boot;
mod hostname;
mod hosts;
mod network_files;
mod services;

pub(super) use accounts::Accounts;
pub(super) use cloud_init::{CloudInit, drop_in};
pub(super) use first_boot::FirstBoot;
pub(super) use hostname::Hostname;
pub(super) use network_files::NetworkFiles;
pub(super) use services::Services;

use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};
use crate::model::parse::closest;

/// Something of the manifest that does not fit this guest.
fn unfit(field: &str, cause: impl Into<String>, advice: impl Into<String>) -> Error {
    Error::new(Kind::Guest, cause).field(field).advice(advice)
}

/// The same for a name that the guest does not know, with the one that was most likely meant.
fn unknown<'a>(
    field: &str,
    what: &str,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
    advice: &str,
) -> Error {
    let meant = closest(name, known).map(|meant| format!("did you mean `{}`? ", super::text::short(meant)));
    unfit(field, format!("the guest has no {what} `{name}`"), meant.unwrap_or_default() + advice)
}

/// The first of these that is there.
fn first_of<'p>(tree: &Tree, paths: &[&'p str]) -> Result<Option<&'p str>> {
    for path in paths {
        if tree.exists(path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_close_is_told() {
        let error =
            unknown("configuration.services.enable", "unit", "ngnix.service", ["nginx.service"], "or else");
        assert_eq!(
            error.to_string(),
            "configuration.services.enable: the guest has no unit `ngnix.service`; did you mean `nginx.service`? or else"
        );
    }
}
