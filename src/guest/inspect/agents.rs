//! Tools that a hypervisor, a cloud or an administrator has put into a guest, told by their files.
//!
//! What is not here: removing them, and the package database.

/// A tool and the files of which any tells that it is there.
const AGENTS: [(&str, &[&str]); 14] = [
    (
        "open-vm-tools",
        &[
            "/usr/lib/systemd/system/vmtoolsd.service",
            "/lib/systemd/system/vmtoolsd.service",
            "/lib/systemd/system/open-vm-tools.service",
            "/usr/lib/systemd/system/open-vm-tools.service",
            "/etc/init.d/open-vm-tools",
        ],
    ),
    ("vmware-tools", &["/usr/bin/vmware-uninstall-tools.pl", "/etc/vmware-tools/locations"]),
    (
        "virtualbox-guest-additions",
        &[
            "/usr/sbin/VBoxService",
            "/usr/bin/VBoxClient",
            "/opt/VBoxGuestAdditions-*/uninstall.sh",
            "/usr/sbin/vboxadd-service",
        ],
    ),
    (
        "xe-guest-utilities",
        &[
            "/usr/sbin/xe-daemon",
            "/usr/sbin/xe-linux-distribution",
            "/usr/bin/xenstore-xe",
            "/usr/sbin/xe-guest-utilities",
        ],
    ),
    (
        "hyperv-daemons",
        &[
            "/usr/sbin/hv_kvp_daemon",
            "/usr/sbin/hypervkvpd",
            "/usr/lib/systemd/system/hypervkvpd.service",
            "/lib/systemd/system/hv-kvp-daemon.service",
            "/usr/lib/systemd/system/hv-kvp-daemon.service",
        ],
    ),
    ("parallels-tools", &["/usr/lib/parallels-tools/install", "/usr/bin/prltoolsd"]),
    (
        "nutanix-guest-tools",
        &["/usr/local/nutanix/ngt/python/bin/ngt_guest_agent.py", "/usr/local/nutanix/ngt"],
    ),
    ("qemu-guest-agent", &["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"]),
    ("spice-vdagent", &["/usr/bin/spice-vdagent", "/usr/sbin/spice-vdagentd"]),
    ("cloud-init", &["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"]),
    ("walinuxagent", &["/usr/sbin/waagent"]),
    ("amazon-ssm-agent", &["/usr/bin/amazon-ssm-agent", "/snap/amazon-ssm-agent"]),
    ("google-guest-agent", &["/usr/bin/google_guest_agent"]),
    ("ignition", &["/usr/lib/dracut/modules.d/30ignition/module-setup.sh", "/usr/bin/ignition"]),
];

/// Everything to be looked for.
pub(super) fn places() -> Vec<&'static str> {
    AGENTS.iter().flat_map(|(_, paths)| paths.iter().copied()).collect()
}

/// The tools that these files belong to.
pub(super) fn agents(there: &[String]) -> Vec<String> {
    let is_there = |place: &&str| {
        there.iter().any(|path| match place.split_once('*') {
            Some((head, tail)) => path.starts_with(head) && path.ends_with(tail),
            None => path == place,
        })
    };
    AGENTS
        .iter()
        .filter(|(_, paths)| paths.iter().any(is_there))
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_told_by_their_files() {
        let there = [
            "/opt/VBoxGuestAdditions-7.0.20/uninstall.sh",
            "/lib/systemd/system/open-vm-tools.service",
            "/usr/sbin/qemu-ga",
        ]
        .map(str::to_owned);
        assert_eq!(agents(&there), ["open-vm-tools", "virtualbox-guest-additions", "qemu-guest-agent"]);
        assert_eq!(agents(&[]), Vec::<String>::new());
    }
}
