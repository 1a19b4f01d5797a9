//! Who the system is: distribution and version, and how it is run: packages, services, initial RAM disks, its own name.
//!
//! What is not here: kernels, boot loader, network, agents.

use super::files::Files;
use super::words::assigned;
use crate::model::error::Result;
use crate::model::guest::{Family, InitSystem, InitramfsTool};

/// What os-release says, or an older file in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) id: Option<String>,
    pub(super) version: Option<String>,
    pub(super) pretty: Option<String>,
    /// Distributions that it is made of.
    like: Vec<String>,
}

/// Files that say it where there is no os-release, with the distribution that they stand for.
const OLD: [(&str, Option<&str>); 8] = [
    ("/etc/redhat-release", None),
    ("/etc/SuSE-release", Some("sles")),
    ("/etc/alpine-release", Some("alpine")),
    ("/etc/arch-release", Some("arch")),
    ("/etc/photon-release", Some("photon")),
    ("/etc/system-release", None),
    ("/etc/slackware-version", Some("slackware")),
    ("/etc/debian_version", Some("debian")),
];

/// Reads it.
pub(super) fn release(files: Files<'_>) -> Result<Release> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = files.text(path)? {
            let release = of_os_release(&text);
            if release.id.is_some() {
                return Ok(release);
            }
        }
    }
    if let Some(text) = files.text("/etc/lsb-release")?
        && let Some(release) = of_lsb_release(&text)
    {
        return Ok(release);
    }
    for (path, id) in OLD {
        if let Some(text) = files.text(path)? {
            return Ok(of_old_release(&text, id));
        }
    }
    Ok(Release::default())
}

fn of_os_release(text: &str) -> Release {
    let words = |key: &str| assigned(text, key);
    Release {
        id: words("ID").map(|id| id.to_ascii_lowercase()),
        version: words("VERSION_ID"),
        pretty: words("PRETTY_NAME").or_else(|| words("NAME")),
        like: words("ID_LIKE").unwrap_or_default().split_whitespace().map(str::to_ascii_lowercase).collect(),
    }
}

fn of_lsb_release(text: &str) -> Option<Release> {
    Some(Release {
        id: Some(assigned(text, "DISTRIB_ID")?.to_ascii_lowercase()),
        version: assigned(text, "DISTRIB_RELEASE"),
        pretty: assigned(text, "DISTRIB_DESCRIPTION"),
        like: Vec::new(),
    })
}

/// `CentOS release 6.10 (Final)`, `Red Hat Enterprise Linux Server release 5.11 (Tikanga)`, `SUSE Linux Enterprise Server 11 (x86_64)`
fn of_old_release(text: &str, id: Option<&str>) -> Release {
    let line = text.lines().next().unwrap_or_default().trim();
    let version = line
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned);
    let known = [
        ("Red Hat", "rhel"),
        ("CentOS", "centos"),
        ("Fedora", "fedora"),
        ("Oracle", "ol"),
        ("Scientific", "scientific"),
        ("Amazon", "amzn"),
        ("openSUSE", "opensuse"),
    ];
    let named = known.iter().find(|(name, _)| line.contains(name)).map(|(_, id)| *id);
    let is_named = line.contains(char::is_alphabetic);
    let pretty = match id {
        Some(id) if !is_named => Some(format!("{}{} {line}", id[..1].to_uppercase(), &id[1..])),
        _ if line.is_empty() => None,
        _ => Some(line.to_owned()),
    };
    Release { id: named.or(id).map(str::to_owned), version, pretty, like: Vec::new() }
}

/// The family, by the distribution's name, else by those it says that it is like.
pub(super) fn family(release: &Release) -> Family {
    let of = |id: &str| match id {
        "debian" | "ubuntu" | "linuxmint" | "raspbian" | "devuan" | "kali" | "pop" | "proxmox" | "astra" => {
            Some(Family::Debian)
        }
        "rhel" | "fedora" | "centos" | "rocky" | "almalinux" | "ol" | "scientific" | "amzn" | "openeuler"
        | "eurolinux" | "mariner" | "azurelinux" | "anolis" | "virtuozzo" | "cloudlinux" | "circle"
        | "miraclelinux" | "xenserver" | "redos" => Some(Family::Redhat),
        "sles"
        | "sled"
        | "sles_sap"
        | "sle_hpc"
        | "suse"
        | "opensuse"
        | "sl-micro"
        | "sle-micro"
        | "opensuse-leap"
        | "opensuse-tumbleweed"
        | "opensuse-microos" => Some(Family::Suse),
        "arch" | "archarm" | "manjaro" | "endeavouros" | "cachyos" => Some(Family::Arch),
        "alpine" | "postmarketos" => Some(Family::Alpine),
        "photon" => Some(Family::Photon),
        _ => None,
    };
    release
        .id
        .iter()
        .chain(&release.like)
        .find_map(|id| of(id).or_else(|| id.starts_with("opensuse").then_some(Family::Suse)))
        .unwrap_or_default()
}

/// Programs whose presence tells how the system is run; asked for with one question.
pub(super) const PROGRAMS: [&str; 40] = [
    "/usr/bin/apt-get",
    "/usr/bin/dnf",
    "/usr/bin/dnf5",
    "/bin/yum",
    "/usr/bin/yum",
    "/bin/tdnf",
    "/usr/bin/tdnf",
    "/usr/bin/zypper",
    "/usr/bin/pacman",
    "/sbin/apk",
    "/usr/bin/apk",
    "/usr/bin/emerge",
    "/usr/bin/xbps-install",
    "/usr/sbin/slackpkg",
    "/usr/bin/rpm",
    "/bin/rpm",
    "/usr/bin/dpkg",
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/bin/systemd",
    "/sbin/openrc-init",
    "/sbin/openrc",
    "/usr/bin/openrc",
    "/sbin/initctl",
    "/etc/inittab",
    "/sbin/init",
    "/usr/bin/dracut",
    "/usr/sbin/dracut",
    "/sbin/dracut",
    "/usr/sbin/mkinitramfs",
    "/usr/sbin/update-initramfs",
    "/usr/bin/mkinitcpio",
    "/sbin/mkinitfs",
    "/usr/sbin/mkinitfs",
    "/usr/bin/booster",
    "/sbin/mkinitrd",
    "/usr/sbin/mkinitrd",
    "/bin/sh",
    "/usr/bin/sh",
    "/bin/busybox",
];

fn has(there: &[String], names: &[&str]) -> bool {
    names.iter().any(|name| there.iter().any(|path| path == name))
}

/// What installs packages, by the tools that are there; the distribution's own wins where a foreign one lies beside it.
pub(super) fn package_manager(there: &[String], family: Family) -> Option<&'static str> {
    let tools: [(&str, &[&str], Family); 9] = [
        ("tdnf", &["/usr/bin/tdnf", "/bin/tdnf"], Family::Photon),
        ("apt", &["/usr/bin/apt-get"], Family::Debian),
        ("zypper", &["/usr/bin/zypper"], Family::Suse),
        ("dnf", &["/usr/bin/dnf", "/usr/bin/dnf5"], Family::Redhat),
        ("yum", &["/usr/bin/yum", "/bin/yum"], Family::Redhat),
        ("pacman", &["/usr/bin/pacman"], Family::Arch),
        ("apk", &["/sbin/apk", "/usr/bin/apk"], Family::Alpine),
        ("emerge", &["/usr/bin/emerge"], Family::Other),
        ("xbps", &["/usr/bin/xbps-install"], Family::Other),
    ];
    let found = |own: bool| {
        tools
            .iter()
            .find(|(_, paths, of)| (*of == family || !own) && has(there, paths))
            .map(|(name, ..)| *name)
    };
    let bare = || match () {
        () if has(there, &["/usr/bin/dpkg"]) => Some("dpkg"),
        () if has(there, &["/usr/bin/rpm", "/bin/rpm"]) => Some("rpm"),
        () => None,
    };
    found(true).or_else(|| found(false)).or_else(bare)
}

/// What starts services.
pub(super) fn init_system(there: &[String]) -> InitSystem {
    if has(there, &["/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/bin/systemd"]) {
        InitSystem::Systemd
    } else if has(there, &["/sbin/openrc", "/usr/bin/openrc", "/sbin/openrc-init"]) {
        InitSystem::Openrc
    } else if has(there, &["/sbin/initctl"]) {
        InitSystem::Upstart
    } else if has(there, &["/etc/inittab"]) {
        InitSystem::Sysvinit
    } else {
        InitSystem::Unknown
    }
}

/// What makes initial RAM disks.
pub(super) fn initramfs_tool(there: &[String]) -> InitramfsTool {
    let tools: [(InitramfsTool, &[&str]); 6] = [
        (InitramfsTool::InitramfsTools, &["/usr/sbin/mkinitramfs"]),
        (InitramfsTool::Dracut, &["/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut"]),
        (InitramfsTool::Mkinitcpio, &["/usr/bin/mkinitcpio"]),
        (InitramfsTool::Mkinitfs, &["/sbin/mkinitfs", "/usr/sbin/mkinitfs"]),
        (InitramfsTool::Booster, &["/usr/bin/booster"]),
        (InitramfsTool::Mkinitrd, &["/sbin/mkinitrd", "/usr/sbin/mkinitrd"]),
    ];
    tools.iter().find(|(_, paths)| has(there, paths)).map(|(tool, _)| *tool).unwrap_or_default()
}

/// The machine that the system is for, from the head of a program: `x86_64`.
pub(super) fn architecture(elf: &[u8]) -> Option<&'static str> {
    let head = elf.get(..20)?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let pair = [head[18], head[19]];
    let little = head[5] == 1;
    let machine = if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) };
    Some(match (machine, head[4], little) {
        (3, ..) => "i686",
        (62, ..) => "x86_64",
        (183, ..) => "aarch64",
        (40, ..) => "armv7l",
        (243, ..) => "riscv64",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (22, 2, _) => "s390x",
        (258, ..) => "loongarch64",
        _ => return None,
    })
}

/// The guest's own name.
pub(super) fn hostname(files: Files<'_>) -> Result<Option<String>> {
    for path in ["/etc/hostname", "/etc/HOSTNAME"] {
        let text = files.text(path)?.unwrap_or_default();
        let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        if let Some(name) = name.and_then(plausible) {
            return Ok(Some(name));
        }
    }
    let network = files.text("/etc/sysconfig/network")?.unwrap_or_default();
    let open_rc = files.text("/etc/conf.d/hostname")?.unwrap_or_default();
    Ok(assigned(&network, "HOSTNAME")
        .or_else(|| assigned(&open_rc, "hostname"))
        .as_deref()
        .and_then(plausible))
}

fn plausible(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (name.len() <= 253 && name.chars().all(fits)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> (String, String, Family) {
        let release = of_os_release(text);
        let family = family(&release);
        (release.id.unwrap_or_default(), release.version.unwrap_or_default(), family)
    }

    #[test]
    fn os_release_of_every_distribution_is_understood() {
        let rows = [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
                "debian",
                "12",
                Family::Debian,
            ),
            (
                "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n",
                "ubuntu",
                "24.04",
                Family::Debian,
            ),
            (
                "NAME=\"Red Hat Enterprise Linux Server\"\nVERSION=\"7.9 (Maipo)\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"7.9\"\n",
                "rhel",
                "7.9",
                Family::Redhat,
            ),
            (
                "NAME=\"Red Hat Enterprise Linux\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"10.0\"\n",
                "rhel",
                "10.0",
                Family::Redhat,
            ),
            (
                "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n",
                "rocky",
                "9.4",
                Family::Redhat,
            ),
            ("NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=40\n", "fedora", "40", Family::Redhat),
            (
                "NAME=\"SLES\"\nVERSION=\"15-SP5\"\nVERSION_ID=\"15.5\"\nID=\"sles\"\nID_LIKE=\"suse\"\n",
                "sles",
                "15.5",
                Family::Suse,
            ),
            (
                "NAME=\"openSUSE Leap\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\nVERSION_ID=\"15.6\"\n",
                "opensuse-leap",
                "15.6",
                Family::Suse,
            ),
            (
                "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n",
                "arch",
                "",
                Family::Arch,
            ),
            ("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.3\n", "alpine", "3.20.3", Family::Alpine),
            (
                "NAME=\"VMware Photon OS\"\nVERSION=\"5.0\"\nID=photon\nVERSION_ID=5.0\n",
                "photon",
                "5.0",
                Family::Photon,
            ),
            (
                "NAME=\"Amazon Linux\"\nVERSION=\"2\"\nID=\"amzn\"\nID_LIKE=\"centos rhel fedora\"\nVERSION_ID=\"2\"\n",
                "amzn",
                "2",
                Family::Redhat,
            ),
            (
                "NAME=\"Something\"\nID=something\nID_LIKE=\"ubuntu debian\"\n",
                "something",
                "",
                Family::Debian,
            ),
            ("NAME=NixOS\nID=nixos\nVERSION_ID=\"24.05\"\n", "nixos", "24.05", Family::Other),
        ];
        for (text, id, version, family) in rows {
            assert_eq!(told(text), (id.to_owned(), version.to_owned(), family), "{text}");
        }
    }

    #[test]
    fn systems_from_before_os_release_are_known_by_their_own_files() {
        let rows = [
            ("CentOS release 6.10 (Final)\n", None, "centos", "6.10"),
            ("Red Hat Enterprise Linux Server release 5.11 (Tikanga)\n", None, "rhel", "5.11"),
            ("SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\n", Some("sles"), "sles", "11"),
            ("7.11\n", Some("debian"), "debian", "7.11"),
        ];
        for (text, stands_for, id, version) in rows {
            let release = of_old_release(text, stands_for);
            assert_eq!((release.id.as_deref(), release.version.as_deref()), (Some(id), Some(version)));
        }
        assert_eq!(of_old_release("7.11\n", Some("debian")).pretty.as_deref(), Some("Debian 7.11"));
    }

    #[test]
    fn the_distribution_s_own_package_manager_is_told() {
        let there = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let photon = there(&["/usr/bin/tdnf", "/usr/bin/rpm", "/bin/yum"]);
        assert_eq!(package_manager(&photon, Family::Photon), Some("tdnf"));
        let arch_with_apt = there(&["/usr/bin/apt-get", "/usr/bin/pacman"]);
        assert_eq!(package_manager(&arch_with_apt, Family::Arch), Some("pacman"));
        assert_eq!(package_manager(&there(&["/bin/yum"]), Family::Redhat), Some("yum"));
        assert_eq!(package_manager(&there(&["/bin/rpm"]), Family::Other), Some("rpm"));
        assert_eq!(package_manager(&[], Family::Other), None);
    }

    #[test]
    fn the_architecture_stands_in_the_head_of_a_program() {
        let elf = |class: u8, data: u8, machine: [u8; 2]| {
            let mut head = vec![0x7f, b'E', b'L', b'F', class, data, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0];
            head.extend(machine);
            head
        };
        assert_eq!(architecture(&elf(2, 1, [62, 0])), Some("x86_64"));
        assert_eq!(architecture(&elf(2, 1, [183, 0])), Some("aarch64"));
        assert_eq!(architecture(&elf(2, 2, [0, 22])), Some("s390x"));
        assert_eq!(architecture(b"#!/bin/sh\n"), None);
    }
}
