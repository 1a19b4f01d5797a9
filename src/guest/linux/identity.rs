//! identity: the guest stays who it is.
//!
//! cloud-init knows a machine by what its hypervisor tells of it. Told nothing, or something else, it may take the guest for a new
//! machine: new SSH host keys, another hostname, the network written anew, users' passwords set back. So where it has run before, it is
//! told to go on with the instance that it knows. machine-id and SSH host keys stay because nothing here touches them, which is verified.
//! What is not here: a seed that an administrator gives, which is meant as a new instance (see `configure`).

use super::configure::drop_in;
use super::text::not_kept;
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::tree::Tree;
use crate::model::error::Result;

pub(super) const PIN: &str = "/etc/cloud/cloud.cfg.d/99-hyper2kvm.cfg";
const PIN_TEXT: &str = "\
# The migration to KVM did not make this a new instance: cloud-init goes on with the one that it knows.
# Remove this file (and run `cloud-init clean`) to have it set up the machine anew.
manual_cache_clean: true
ssh_deletekeys: false
";
/// What cloud-init has kept of the instance; without it there is nothing to go on with.
const INSTANCE: &str = "/var/lib/cloud/instance/obj.pkl";
/// What says the same to the program that looks for a cloud before cloud-init starts.
pub(super) const MARK: &str = "/var/lib/cloud/instance/manual-clean";
pub(super) const OFF: &str = "/etc/cloud/cloud-init.disabled";
pub(super) const CONFIGURATION: &str = "/etc/cloud/cloud.cfg";

/// The repair.
#[derive(Debug)]
pub struct Identity;

impl Fix for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn purpose(&self, _: &FixOptions) -> Option<&'static str> {
        Some("cloud-init does not take the guest for a new machine")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        if has_seed(guest.options) {
            return Ok(());
        }
        if is_at_risk(&guest.tree)? {
            let detail = "cloud-init goes on with the instance that it knows";
            guest.tree.write(PIN, pin(guest.options)?.as_bytes(), detail)?;
            guest.tree.write(MARK, b"", detail)?;
        } else if may_start_afresh(&guest.tree)? {
            guest.warnings.push(
                "cloud-init is installed and keeps no instance to go on with: it may set the guest up anew at its first start"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        if !has_seed(guest.options) && is_at_risk(&guest.tree)? {
            for (path, text) in [(PIN, pin(guest.options)?.as_str()), (MARK, "")] {
                if guest.tree.read(path)?.as_deref() != Some(text.as_bytes()) {
                    return Err(not_kept(path, "it is not there, or says something else"));
                }
            }
        }
        match guest.tree.edits().iter().find(|edit| is_identity(&edit.path)) {
            Some(edit) => {
                Err(not_kept(&edit.path, "it is part of what the guest is known by, and was changed"))
            }
            None => Ok(()),
        }
    }
}

fn has_seed(options: &FixOptions) -> bool {
    options.setup.cloud_init.as_ref().is_some_and(|wanted| wanted.seed.is_some())
}

/// What is said to cloud-init; with what the manifest wants said to it, if it does.
fn pin(options: &FixOptions) -> Result<String> {
    match &options.setup.cloud_init {
        Some(wanted) => drop_in(wanted, true),
        None => Ok(PIN_TEXT.to_owned()),
    }
}

/// Whether cloud-init knows an instance that it might not recognise.
pub(super) fn is_at_risk(tree: &Tree) -> Result<bool> {
    Ok(tree.exists(CONFIGURATION)? && tree.exists(INSTANCE)? && !tree.exists(OFF)?)
}

fn may_start_afresh(tree: &Tree) -> Result<bool> {
    Ok(tree.exists(CONFIGURATION)? && !tree.exists(INSTANCE)? && !tree.exists(OFF)?)
}

/// What others know the guest by.
fn is_identity(path: &str) -> bool {
    path == "/etc/machine-id"
        || path == "/var/lib/dbus/machine-id"
        || path.starts_with("/etc/ssh/ssh_host_")
        || path.starts_with("/etc/dropbear/dropbear_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_cloud_init_reads() {
        let pin: serde_json::Value = serde_yaml::from_str(PIN_TEXT).unwrap();
        assert_eq!(pin, serde_json::json!({"manual_cache_clean": true, "ssh_deletekeys": false}));
    }

    #[test]
    fn machine_id_and_host_keys_are_identity() {
        assert!(is_identity("/etc/machine-id") && is_identity("/etc/ssh/ssh_host_ed25519_key.pub"));
        assert!(!is_identity("/etc/ssh/sshd_config") && !is_identity("/etc/hostname"));
    }
}
