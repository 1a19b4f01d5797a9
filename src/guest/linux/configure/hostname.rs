//! hostname: the guest has the name that the manifest gives it, and knows the names that it is to know.
//!
//! The name stands in `/etc/hostname` on every system of today; older ones of the RHEL family take it from `/etc/sysconfig/network`,
//! and SUSE's also have `/etc/HOSTNAME`. What cloud-init knows of an older name does not come back: it leaves a name alone that was changed
//! behind its back. What is not here: the lines of `/etc/hosts` (see [`super::hosts`]).

use super::hosts;
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::linux::text::{self, Rewritten, not_kept, split_end};
use crate::model::error::Result;
use crate::model::guest::Family;
use crate::model::setup::Setup;

const HOSTNAME: &str = "/etc/hostname";
const SUSE: &str = "/etc/HOSTNAME";
const SYSCONFIG: &str = "/etc/sysconfig/network";
const HOSTS: &str = "/etc/hosts";
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The repair.
#[derive(Debug)]
pub(in crate::guest::linux) struct Hostname;

impl Fix for Hostname {
    fn name(&self) -> &'static str {
        "hostname"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        let setup = &options.setup;
        (setup.host.is_some() || !setup.hosts.is_empty()).then_some("the guest has the name that it is given")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let setup = &guest.options.setup;
        let tree = &mut guest.tree;
        if let Some(host) = &setup.host {
            let line = format!("{}\n", host.name);
            let detail = format!("the guest is called {}", host.name);
            tree.write(HOSTNAME, line.as_bytes(), &detail)?;
            // A link there leads to the file above.
            if tree.exists(SUSE)? && tree.link_target(SUSE)?.is_none() {
                let full = host.full.as_ref().unwrap_or(&host.name);
                tree.write(SUSE, format!("{full}\n").as_bytes(), &detail)?;
            }
            text::edit(tree, &mut guest.warnings, SYSCONFIG, |text| with_hostname(text, &host.name))?;
        }
        if !tree.exists(HOSTS)? {
            let made = hosts::rewrite(LOOPBACK, &wanted(setup, &guest.facts));
            return tree.write(HOSTS, made.text.as_bytes(), "the guest knows its names");
        }
        text::edit(tree, &mut guest.warnings, HOSTS, |text| {
            hosts::rewrite(text, &wanted(setup, &guest.facts))
        })
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let setup = &guest.options.setup;
        if let Some(host) = &setup.host {
            let is_there = text::read(&guest.tree, HOSTNAME)?.is_some_and(|text| text.trim() == host.name);
            if !is_there {
                return Err(not_kept(HOSTNAME, "it holds another name"));
            }
            text::is_settled(&guest.tree, &guest.warnings, SYSCONFIG, |text| {
                with_hostname(text, &host.name)
            })?;
        }
        text::is_settled(&guest.tree, &guest.warnings, HOSTS, |text| {
            hosts::rewrite(text, &wanted(setup, &guest.facts))
        })
    }
}

fn wanted<'s>(setup: &'s Setup, facts: &Facts) -> hosts::Wanted<'s> {
    hosts::Wanted {
        host: setup.host.as_ref(),
        debian: facts.identity.family == Family::Debian,
        table: &setup.hosts,
    }
}

/// The name in the file that old systems read; others do not have such a line, and get none.
fn with_hostname(text: &str, name: &str) -> Rewritten {
    let mut result = Rewritten::default();
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        let wanted = format!("HOSTNAME={name}");
        if body.trim_start().starts_with("HOSTNAME=") && body != wanted {
            result.changed(format!("the guest is called {name}"));
            result.text.push_str(&wanted);
            result.text.push_str(end);
        } else {
            result.text.push_str(line);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_system_reads_its_name_from_its_network_file() {
        let text = "NETWORKING=yes\nHOSTNAME=old.example.com\n# HOSTNAME=x\n";
        let new = "NETWORKING=yes\nHOSTNAME=web\n# HOSTNAME=x\n";
        assert_eq!(with_hostname(text, "web").text, new);
        assert_eq!(with_hostname(new, "web"), Rewritten { text: new.to_owned(), ..Rewritten::default() });
        assert_eq!(with_hostname("NETWORKING=yes\n", "web").text, "NETWORKING=yes\n");
    }
}
