//! agent: QEMU's guest agent runs if it is there, and is installed at the first start if its package is.
//!
//! Nothing of the guest is run now, and nothing is fetched: a package in the guest's own cache is installed by the guest itself, once,
//! without a network. Where there is none a person is told. What is not here: the channel to it, which is the domain's.

use super::text::{not_kept, short};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};

const SERVICE: &str = "qemu-guest-agent.service";
const UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
const OWN_UNITS: &str = "/etc/systemd/system";
/// The unit that installs a package at the first start.
const INSTALLER: &str = "hyper2kvm-guest-agent.service";
const PROGRAMS: [&str; 3] = ["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga", "/sbin/qemu-ga"];
/// Where package managers keep what they have fetched, and what installs it from there.
const CACHES: [(&str, &str); 6] = [
    ("/var/cache/apt/archives/qemu-guest-agent_*.deb", "/usr/bin/dpkg --install"),
    ("/var/cache/dnf/*/packages/qemu-guest-agent-*.rpm", "/usr/bin/rpm --upgrade"),
    ("/var/cache/libdnf5/*/packages/qemu-guest-agent-*.rpm", "/usr/bin/rpm --upgrade"),
    ("/var/cache/yum/*/*/*/packages/qemu-guest-agent-*.rpm", "/usr/bin/rpm --upgrade"),
    ("/var/cache/zypp/packages/*/*/*/qemu-guest-agent-*.rpm", "/usr/bin/rpm --upgrade"),
    ("/var/cache/tdnf/*/rpms/*/qemu-guest-agent-*.rpm", "/usr/bin/rpm --upgrade"),
];

/// The repair.
#[derive(Debug)]
pub struct Agent;

impl Fix for Agent {
    fn name(&self) -> &'static str {
        "guest-agent"
    }

    fn purpose(&self, _: &FixOptions) -> Option<&'static str> {
        Some("QEMU's guest agent is started, if it is there")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        if let Some(unit) = unit(&guest.tree)? {
            for link in wanted_links(&unit) {
                guest.tree.link(&unit.path, &link, "the guest agent is started")?;
            }
            if unit.masked {
                guest.warnings.push("the guest agent is installed and masked; it was left so".to_owned());
            }
            return Ok(());
        }
        if is_installed(&guest.tree)? {
            return Ok(());
        }
        match package(&guest.tree)? {
            Some((path, command)) if guest.tree.is_directory(OWN_UNITS)? => {
                let text = installer(&path, command);
                let detail = "the guest agent is installed at the first start, from the guest's own cache";
                guest.tree.write(&format!("{OWN_UNITS}/{INSTALLER}"), text.as_bytes(), detail)?;
                let link = format!("{OWN_UNITS}/multi-user.target.wants/{INSTALLER}");
                guest.tree.link(&format!("{OWN_UNITS}/{INSTALLER}"), &link, detail)
            }
            _ => {
                guest.warnings.push(
                    "QEMU's guest agent is not installed: install the package qemu-guest-agent in the guest, \
                     so that its host can shut it down, freeze its file systems and ask for its addresses"
                        .to_owned(),
                );
                Ok(())
            }
        }
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let Some(unit) = unit(&guest.tree)? else { return Ok(()) };
        for link in wanted_links(&unit) {
            if guest.tree.link_target(&link)?.as_deref() != Some(unit.path.as_str()) {
                return Err(not_kept(&link, "it does not lead to the agent's unit"));
            }
        }
        Ok(())
    }
}

/// The agent's unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unit {
    path: String,
    masked: bool,
    /// Units that want it once it is enabled, as it says itself; none of one that udev starts.
    wanted_by: Vec<String>,
}

fn unit(tree: &Tree) -> Result<Option<Unit>> {
    for directory in UNITS {
        let path = format!("{directory}/{SERVICE}");
        let Some(text) = super::text::read(tree, &path)? else { continue };
        let own = tree.link_target(&format!("{OWN_UNITS}/{SERVICE}"))?;
        let masked = own.as_deref() == Some("/dev/null");
        return Ok(Some(Unit { path, masked, wanted_by: wanted_by(&text) }));
    }
    Ok(None)
}

fn wanted_by(text: &str) -> Vec<String> {
    let fits = |unit: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.\\@:".contains(c);
        !unit.starts_with('.') && unit.contains('.') && unit.len() < 200 && unit.chars().all(plain)
    };
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("WantedBy="));
    values.flat_map(str::split_whitespace).filter(fits).map(str::to_owned).collect()
}

fn wanted_links(unit: &Unit) -> Vec<String> {
    if unit.masked {
        return Vec::new();
    }
    unit.wanted_by.iter().map(|by| format!("{OWN_UNITS}/{by}.wants/{SERVICE}")).collect()
}

fn is_installed(tree: &Tree) -> Result<bool> {
    for path in PROGRAMS {
        if tree.exists(path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The newest name of a package that is at hand, and what installs it.
fn package(tree: &Tree) -> Result<Option<(String, &'static str)>> {
    for (pattern, command) in CACHES {
        let paths = tree.appliance().glob(pattern).map_err(|why| {
            Error::new(Kind::Guest, format!("cannot look for {pattern} in the guest: {}", short(&why)))
                .advice("check the guest's file systems in the source machine, then try again")
        })?;
        if let Some(path) = paths.into_iter().rfind(|path| is_harmless(path)) {
            return Ok(Some((path, command)));
        }
    }
    Ok(None)
}

/// Whether a path means only itself in a unit.
fn is_harmless(path: &str) -> bool {
    path.len() < 1000 && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+~:%".contains(c))
}

fn installer(package: &str, command: &str) -> String {
    // apt writes an epoch as `1%3a`, and a percent sign in a unit begins a specifier.
    let package = package.replace('%', "%%");
    format!(
        "# Written by the migration to KVM. It tries once, and does nothing where the agent is there.\n\
         [Unit]\n\
         Description=Install QEMU's guest agent from this machine's package cache\n\
         ConditionPathExists=!/usr/sbin/qemu-ga\n\
         ConditionPathExists=!/usr/bin/qemu-ga\n\
         ConditionPathExists={package}\n\
         After=local-fs.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         Environment=DEBIAN_FRONTEND=noninteractive\n\
         ExecStart=-{command} {package}\n\
         ExecStart=-/bin/systemctl disable {INSTALLER}\n\
         ExecStart=-/bin/systemctl --no-block start {SERVICE}\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_enabled_as_its_unit_says() {
        let text = "[Unit]\nDescription=QEMU Guest Agent\n[Install]\nWantedBy=dev-virtio\\x2dports-org.qemu.guest_agent.0.device\n";
        let unit = Unit {
            path: format!("/lib/systemd/system/{SERVICE}"),
            masked: false,
            wanted_by: wanted_by(text),
        };
        assert_eq!(
            wanted_links(&unit),
            [
                "/etc/systemd/system/dev-virtio\\x2dports-org.qemu.guest_agent.0.device.wants/qemu-guest-agent.service"
            ]
        );
        assert_eq!(wanted_links(&Unit { masked: true, ..unit }), [""; 0]);
    }

    #[test]
    fn a_unit_cannot_lead_out_of_its_directory() {
        assert_eq!(
            wanted_by("WantedBy=../../x.target a/b.target ..\nWantedBy=multi-user.target\n"),
            ["multi-user.target"]
        );
    }

    #[test]
    fn a_package_is_installed_once_and_from_a_plain_path_only() {
        let text = installer(
            "/var/cache/apt/archives/qemu-guest-agent_1%3a7.2_amd64.deb",
            "/usr/bin/dpkg --install",
        );
        assert!(text.contains(
            "ExecStart=-/usr/bin/dpkg --install /var/cache/apt/archives/qemu-guest-agent_1%%3a7.2_amd64.deb\n"
        ));
        assert!(text.contains("ExecStart=-/bin/systemctl disable hyper2kvm-guest-agent.service\n"));
        assert!(is_harmless("/var/cache/apt/archives/qemu-guest-agent_7.2+dfsg-7_amd64.deb"));
        for path in ["/x/a b.deb", "/x/a\nExecStart=/bin/sh.deb", "/x/$a.deb"] {
            assert!(!is_harmless(path), "{path}");
        }
    }
}
