//! A VM of an ESXi host that is reached by its shell: what a manifest may say of it, and what a plan keeps of that.
//!
//! What is not here: asking the host, and what every source elsewhere has in common ([`super::remote`]).

use super::check::refuse_fixed;
use crate::model::config::CredentialSettings;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Line;
use crate::model::manifest::{EsxiSource, Source, VsphereMode, VsphereTransport};
use crate::model::parse::Tree;
use crate::model::remote::{CONNECTIONS, PlannedAfter, PlannedLogin, PlannedRemote, SSH_PORT, WantedVm};

/// Where an ESXi host has its datastores.
const VOLUMES: &str = "/vmfs/volumes/";
/// What names a machine, and what a disk.
const NAMES: [&str; 2] = [".vmx", ".vmdk"];

/// Which key logs in, and whom it may meet, is no drop's to say.
pub(super) fn check_secrets(tree: &Tree, source: &Source) -> Result<()> {
    let Some(esxi) = &source.esxi else { return Ok(()) };
    refuse_fixed(
        tree,
        "esxi",
        &[("identity", esxi.identity.is_some()), ("known_hosts", esxi.known_hosts.is_some())],
    )
}

/// What it needs to be found.
pub(super) fn check(tree: &Tree, esxi: &EsxiSource) -> Result<()> {
    let wrong = |key: &str, cause: &str, advice: &str| -> Result<()> {
        let error: Error = tree.error(Kind::Manifest, &format!("source.esxi.{key}"), cause);
        Err(error.advice(advice))
    };
    if esxi.credential.is_none() {
        return wrong(
            "credential",
            "`credential` is required",
            "name a stored credential with `host`, `identity` and `known_hosts`: keys are in no manifest",
        );
    }
    if esxi.username.is_some() {
        return wrong("username", "`credential` already tells who logs in", "remove it");
    }
    let Some(path) = esxi.path.as_ref().map(Line::as_str) else {
        return wrong(
            "path",
            "it is not said which VM",
            "give the `path` of its VMX on the host, or of one disk's descriptor",
        );
    };
    let is_named = NAMES.iter().any(|suffix| path.to_ascii_lowercase().ends_with(suffix));
    let is_within = path.strip_prefix(VOLUMES).is_some_and(|rest| {
        rest.contains('/') && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
    });
    match is_named && is_within {
        true => Ok(()),
        false => wrong(
            "path",
            "it is no VMX, and no disk, of a datastore",
            "name it as the host does: `/vmfs/volumes/DATASTORE/DIRECTORY/NAME.vmx`",
        ),
    }
}

/// What a plan keeps of it; none where something is not said, which is refused elsewhere.
pub(super) fn planned(esxi: &EsxiSource, settings: &CredentialSettings) -> Option<PlannedRemote> {
    let credential = esxi.credential.as_ref()?;
    Some(PlannedRemote {
        host: esxi.host.as_ref().map(|host| host.as_str().to_owned()),
        port: esxi.port.and_then(|port| u16::try_from(port.get()).ok()).unwrap_or(SSH_PORT),
        login: PlannedLogin::Credential(settings.stored(credential.as_str())),
        thumbprint: None,
        vm: WantedVm::File(esxi.path.as_ref()?.as_str().to_owned()),
        datacenter: None,
        datastore: None,
        folder: None,
        mode: VsphereMode::Cold,
        transport: VsphereTransport::Ssh,
        ways: Vec::new(),
        connections: CONNECTIONS,
        looks_first: false,
        shutdown: None,
        after: PlannedAfter::default(),
        snapshot: None,
        isolated: false,
        warm: None,
        found: None,
        draft: None,
    })
}

#[cfg(test)]
#[path = "esxi_tests.rs"]
mod tests;
