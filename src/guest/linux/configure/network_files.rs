//! network-files: files for systemd-networkd and NetworkManager, as the manifest has them.
//!
//! They are for networks that the guest did not have before; cards that it has keep their names and addresses by
//! [`network`](crate::guest::linux::network). What is not here: whether a file's text makes sense to the program that reads it.

use super::{first_of, unfit};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::linux::text::not_kept;
use crate::guest::tree::Tree;
use crate::model::error::Result;
use crate::model::setup::{NamedText, Setup};

/// A program that reads such files.
struct Reader {
    field: &'static str,
    name: &'static str,
    programs: &'static [&'static str],
    directory: &'static str,
    mode: u32,
    files: fn(&Setup) -> &[NamedText],
    /// What starts it, by which link.
    enabled_by: &'static [&'static str],
}

const READERS: [Reader; 2] = [
    Reader {
        field: "configuration.network.network_files",
        name: "systemd-networkd",
        programs: &["/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd"],
        directory: "/etc/systemd/network",
        // It runs as a user of its own.
        mode: 0o644,
        files: |setup| &setup.networkd,
        enabled_by: &["/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"],
    },
    Reader {
        field: "configuration.network.nm_connections",
        name: "NetworkManager",
        programs: &["/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"],
        directory: "/etc/NetworkManager/system-connections",
        // It ignores what others may read: there may be a secret in it.
        mode: 0o600,
        files: |setup| &setup.network_manager,
        enabled_by: &[
            "/etc/systemd/system/multi-user.target.wants/NetworkManager.service",
            "/etc/runlevels/default/networkmanager",
        ],
    },
];

/// The repair.
#[derive(Debug)]
pub(in crate::guest::linux) struct NetworkFiles;

impl Fix for NetworkFiles {
    fn name(&self) -> &'static str {
        "network-files"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        let is_wanted = READERS.iter().any(|reader| !(reader.files)(&options.setup).is_empty());
        is_wanted.then_some("the guest has the network files that it is given")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        for reader in &READERS {
            let files = (reader.files)(&guest.options.setup);
            if files.is_empty() {
                continue;
            }
            check_reader(&guest.tree, reader)?;
            for file in files {
                let path = format!("{}/{}", reader.directory, file.name);
                let detail = format!("a network of {}, as the manifest has it", reader.name);
                guest.tree.write_with_mode(&path, file.text.as_bytes(), reader.mode, &detail)?;
                guest.tree.set_access(&path, (0, 0), reader.mode, &detail)?;
            }
            if first_of(&guest.tree, reader.enabled_by)?.is_none() {
                guest.warnings.push(format!(
                    "{} was given files and is not enabled in the guest: enable it with `configuration.services`",
                    reader.name
                ));
            }
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        for reader in &READERS {
            for file in (reader.files)(&guest.options.setup) {
                let path = format!("{}/{}", reader.directory, file.name);
                let mode = guest.tree.stat(&path)?.map(|stat| stat.mode & 0o777);
                if guest.tree.read(&path)?.as_deref() != Some(file.text.as_bytes())
                    || mode != Some(reader.mode)
                {
                    return Err(not_kept(&path, "it is not there as it was given"));
                }
            }
        }
        Ok(())
    }
}

fn check_reader(tree: &Tree, reader: &Reader) -> Result<()> {
    match first_of(tree, reader.programs)? {
        Some(_) => Ok(()),
        None => Err(unfit(
            reader.field,
            format!("the guest has no {}, so nothing would read these files", reader.name),
            "install it in the source machine, or write the network in the way that the guest has",
        )),
    }
}
