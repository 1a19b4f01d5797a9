//! What other hypervisors' guest tools leave in a guest: services, trees and files, and modules loaded by name.
//!
//! Facts only. The kernel's own drivers are in none of these tables: nothing removes them.

/// One hypervisor's tools.
#[derive(Debug)]
pub(super) struct Tools {
    /// For people.
    pub(super) name: &'static str,
    /// Services, without `.service`; also names of init scripts.
    pub(super) services: &'static [&'static str],
    /// A package that may own them, as package managers know it.
    pub(super) package: Option<&'static str>,
}

/// All that are switched off.
pub(super) const TOOLS: [Tools; 7] = [
    Tools {
        name: "open-vm-tools",
        services: &[
            "open-vm-tools",
            "vmtoolsd",
            "vgauthd",
            "vgauth",
            "run-vmblock\\x2dfuse",
            "vmware-vmblock-fuse",
        ],
        package: Some("open-vm-tools"),
    },
    Tools {
        name: "VMware Tools",
        services: &["vmware-tools", "vmware-tools-thinprint", "vmware-tools-vgauth"],
        package: None,
    },
    Tools {
        name: "VirtualBox Guest Additions",
        services: &["vboxadd", "vboxadd-service", "vboxadd-x11"],
        package: None,
    },
    Tools {
        name: "VirtualBox guest utilities",
        services: &["virtualbox-guest-utils", "vboxservice", "vboxclient"],
        package: Some("virtualbox-guest-utils"),
    },
    Tools {
        name: "Xen guest utilities",
        services: &["xe-linux-distribution", "xe-daemon"],
        package: Some("xe-guest-utilities"),
    },
    Tools { name: "Parallels Tools", services: &["prltoolsd", "prl-x11", "prlcc"], package: None },
    Tools {
        name: "Hyper-V daemons",
        services: &[
            "hypervkvpd",
            "hypervvssd",
            "hypervfcopyd",
            "hv-kvp-daemon",
            "hv-vss-daemon",
            "hv-fcopy-daemon",
            "hv_kvp_daemon",
            "hv_vss_daemon",
            "hv_fcopy_daemon",
        ],
        package: Some("hyperv-daemons"),
    },
];

/// Agents of clouds: a person has to know of them, because some set up the guest anew.
pub(super) const CLOUD_AGENTS: [(&str, &str); 5] = [
    ("walinuxagent", "Azure's agent"),
    ("waagent", "Azure's agent"),
    ("google-guest-agent", "Google's agent"),
    ("amazon-ssm-agent", "Amazon's agent"),
    ("oracle-cloud-agent", "Oracle's agent"),
];

/// An installation from an archive of the vendor's: known by the first, all the rest is its.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) name: &'static str,
    /// A pattern of the shell that matches only where it is installed.
    pub(super) sign: &'static str,
    /// A package of these units keeps its own files in the same places: then nothing is removed.
    pub(super) unless: &'static [&'static str],
    /// Patterns of what it put there: files, links and trees.
    pub(super) leftovers: &'static [&'static str],
}

/// All that are removed.
pub(super) const ARCHIVES: [Archive; 3] = [
    Archive {
        name: "VMware Tools",
        sign: "/etc/vmware-tools/locations",
        unless: &["open-vm-tools.service", "vmtoolsd.service"],
        leftovers: &[
            "/etc/init.d/vmware-tools*",
            "/etc/rc.d/init.d/vmware-tools*",
            "/etc/init/vmware-tools*.conf",
            "/etc/pam.d/vmtoolsd",
            "/etc/xdg/autostart/vmware-user.desktop",
            "/etc/udev/rules.d/99-vmware-scsi-udev.rules",
            "/etc/modprobe.d/vmware-tools*.conf",
            "/etc/systemd/system/vmware-tools*.service",
            "/usr/bin/vmware-*",
            "/usr/sbin/vmware-*",
            "/usr/bin/vmtoolsd",
            "/usr/bin/vm-support",
            "/usr/lib/vmware-tools",
            "/usr/lib64/vmware-tools",
            "/usr/share/vmware-tools",
            // The sign goes last, so that work which was cut short is done again.
            "/etc/vmware-tools",
        ],
    },
    Archive {
        name: "VirtualBox Guest Additions",
        sign: "/opt/VBoxGuestAdditions-*",
        unless: &["vboxservice.service", "virtualbox-guest-utils.service"],
        leftovers: &[
            "/etc/init.d/vboxadd*",
            "/etc/rc.d/init.d/vboxadd*",
            "/etc/systemd/system/vboxadd*.service",
            "/usr/lib/systemd/system/vboxadd*.service",
            "/etc/udev/rules.d/60-vboxadd.rules",
            "/etc/X11/Xsession.d/98vboxadd-xclient",
            "/etc/X11/xinit/xinitrc.d/98vboxadd-xclient*",
            "/etc/xdg/autostart/vboxclient.desktop",
            "/usr/bin/VBoxClient*",
            "/usr/bin/VBoxControl",
            "/usr/bin/VBoxDRMClient",
            "/usr/sbin/VBoxService",
            "/usr/sbin/vbox-greeter",
            "/opt/VBoxGuestAdditions-*",
        ],
    },
    Archive {
        name: "Parallels Tools",
        sign: "/usr/lib/parallels-tools",
        unless: &[],
        leftovers: &[
            "/etc/init.d/prltoolsd",
            "/etc/init.d/prl-x11",
            "/etc/systemd/system/prltoolsd.service",
            "/usr/lib/systemd/system/prltoolsd.service",
            "/etc/xdg/autostart/prlcc.desktop",
            "/etc/udev/rules.d/99-parallels-video.rules",
            "/usr/lib/parallels-tools",
        ],
    },
];

/// Modules that only the old hypervisor answers: asked for by name, they fail, and the service that loads them with them.
pub(super) const MODULES: [&str; 19] = [
    "vmhgfs",
    "vmblock",
    "vmmemctl",
    "vmsync",
    "vmci",
    "vmw_balloon",
    "vmw_vmci",
    "vmw_vsock_vmci_transport",
    "vboxadd",
    "vboxguest",
    "vboxsf",
    "vboxvideo",
    "hv_vmbus",
    "hv_utils",
    "hv_balloon",
    "xenfs",
    "prl_fs",
    "prl_tg",
    "prl_eth",
];

/// Drivers of X for screens that stayed behind.
pub(super) const SCREENS: [&str; 3] = ["vmware", "vboxvideo", "prlvideo"];
