//! Systems by the names of libosinfo, which tools around libvirt go by.
//!
//! A name that libosinfo's database does not know yet does no harm; one of another system would: nothing is guessed. What is not here: the
//! database itself, and what a machine is given because of its system.

use super::guest::{GuestIdentity, GuestType};

/// Where the names of Windows begin.
const WINDOWS: &str = "http://microsoft.com/win/";
/// From before Vista.
const BEFORE_VISTA: [&str; 4] = ["2k", "xp", "2k3", "2k3r2"];
/// From Vista to the last one without a driver for USB 3.
const BEFORE_USB_3: [&str; 4] = ["vista", "2k8", "7", "2k8r2"];

/// How much of a version stands in a system's name.
#[derive(Clone, Copy)]
enum Precision {
    /// `12` of `12.5`
    Major,
    /// `3.17` of `3.17.2`
    Minor,
}

/// The system's id in os-release, the name's beginning, and how much of the version follows.
const LINUXES: [(&str, &str, Precision); 13] = [
    ("debian", "http://debian.org/debian/", Precision::Major),
    ("ubuntu", "http://ubuntu.com/ubuntu/", Precision::Minor),
    ("rhel", "http://redhat.com/rhel/", Precision::Minor),
    ("fedora", "http://fedoraproject.org/fedora/", Precision::Major),
    ("rocky", "http://rockylinux.org/rocky/", Precision::Major),
    ("almalinux", "http://almalinux.org/almalinux/", Precision::Major),
    ("ol", "http://oracle.com/ol/", Precision::Minor),
    ("opensuse-leap", "http://opensuse.org/opensuse/", Precision::Minor),
    ("alpine", "http://alpinelinux.org/alpinelinux/", Precision::Minor),
    ("sled", "http://suse.com/sled/", Precision::Minor),
    ("sles", "http://suse.com/sles/", Precision::Minor),
    ("sles_sap", "http://suse.com/sles/", Precision::Minor),
    ("centos", "http://centos.org/centos/", Precision::Minor),
];

/// libosinfo's name of a guest's system; none where that is not sure.
#[must_use]
pub fn name(guest: &GuestIdentity) -> Option<String> {
    let version = guest.os_version.as_deref().unwrap_or_default();
    match guest.kind {
        GuestType::Windows => windows(version, guest.os_pretty.as_deref().unwrap_or_default())
            .map(|short| format!("{WINDOWS}{short}")),
        GuestType::Linux => linux(guest.os_id.as_deref()?, version, guest.os_pretty.as_deref()),
        GuestType::Unknown => None,
    }
}

/// Whether a name is one of Windows.
#[must_use]
pub fn is_windows(name: &str) -> bool {
    name.starts_with(WINDOWS)
}

/// Whether a name is that of a Windows from before Vista.
#[must_use]
pub fn is_before_vista(name: &str) -> bool {
    name.strip_prefix(WINDOWS).is_some_and(|short| BEFORE_VISTA.contains(&short))
}

/// Whether a name is that of a Windows since Vista that has no driver for USB 3.
#[must_use]
pub fn is_before_usb_3(name: &str) -> bool {
    name.strip_prefix(WINDOWS).is_some_and(|short| BEFORE_USB_3.contains(&short))
}

fn linux(id: &str, version: &str, pretty: Option<&str>) -> Option<String> {
    let numbers: Vec<&str> = version.split('.').collect();
    let major = number(numbers.first()?);
    match (id, major) {
        ("arch", _) => return Some("http://archlinux.org/archlinux/rolling".to_owned()),
        ("opensuse-tumbleweed", _) => return Some("http://opensuse.org/opensuse/tumbleweed".to_owned()),
        // From 15 on server and desktop are one product there; from 8 on CentOS is two.
        ("sles" | "sles_sap" | "sled", Some(15)) => {
            let minor = numbers.get(1).and_then(|minor| number(minor)).filter(|minor| *minor > 0);
            return Some(format!(
                "http://suse.com/sle/15{}",
                minor.map(|n| format!(".{n}")).unwrap_or_default()
            ));
        }
        ("centos", Some(7)) => return Some("http://centos.org/centos/7.0".to_owned()),
        ("centos", Some(major @ 8..)) => {
            let is_stream = major > 8 || pretty.is_some_and(|pretty| pretty.contains("Stream"));
            let product = if is_stream { "centos-stream" } else { "centos" };
            return Some(format!("http://centos.org/{product}/{major}"));
        }
        _ => {}
    }
    let (_, beginning, precision) = LINUXES.iter().find(|(known, ..)| *known == id)?;
    let major = major?;
    let minor = numbers.get(1).copied().filter(|minor| number(minor).is_some());
    Some(match (precision, minor) {
        // Ubuntu's `22.04` keeps its zero.
        (Precision::Minor, Some(minor)) => format!("{beginning}{major}.{minor}"),
        (Precision::Major, _) | (Precision::Minor, None) => format!("{beginning}{major}"),
    })
}

fn windows(version: &str, pretty: &str) -> Option<&'static str> {
    let mut numbers = version.split('.').map(number);
    let mut next = || numbers.next().flatten();
    let (major, minor, build) = (next()?, next()?, next().unwrap_or(0));
    let is_server = pretty.contains("Server");
    Some(match (major, minor, is_server) {
        (5, 0, _) => "2k",
        (5, 1, _) => "xp",
        (5, 2, true) if pretty.contains("R2") => "2k3r2",
        (5, 2, true) => "2k3",
        (5, 2, false) => "xp",
        (6, 0, true) => "2k8",
        (6, 0, false) => "vista",
        (6, 1, true) => "2k8r2",
        (6, 1, false) => "7",
        (6, 2, true) => "2k12",
        (6, 2, false) => "8",
        (6, 3, true) => "2k12r2",
        (6, 3, false) => "8.1",
        (10, _, true) => match build {
            ..17763 => "2k16",
            17763..20348 => "2k19",
            20348..26100 => "2k22",
            _ => "2k25",
        },
        (10, _, false) => {
            if build >= 22000 {
                "11"
            } else {
                "10"
            }
        }
        _ => return None,
    })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(kind: GuestType, id: &str, version: &str, pretty: &str) -> GuestIdentity {
        GuestIdentity {
            kind,
            os_id: Some(id.to_owned()),
            os_version: Some(version.to_owned()),
            os_pretty: Some(pretty.to_owned()),
            ..GuestIdentity::default()
        }
    }

    #[test]
    fn systems_are_called_as_libosinfo_calls_them() {
        for (id, version, pretty, expected) in [
            ("debian", "12", "", "http://debian.org/debian/12"),
            ("debian", "8.11", "", "http://debian.org/debian/8"),
            ("ubuntu", "22.04", "", "http://ubuntu.com/ubuntu/22.04"),
            ("rhel", "9.4", "", "http://redhat.com/rhel/9.4"),
            ("rhel", "5.11", "", "http://redhat.com/rhel/5.11"),
            ("fedora", "41", "", "http://fedoraproject.org/fedora/41"),
            ("rocky", "9.5", "", "http://rockylinux.org/rocky/9"),
            ("centos", "6.10", "", "http://centos.org/centos/6.10"),
            ("centos", "7", "", "http://centos.org/centos/7.0"),
            ("centos", "8", "CentOS Linux 8", "http://centos.org/centos/8"),
            ("centos", "8", "CentOS Stream 8", "http://centos.org/centos-stream/8"),
            ("centos", "9", "CentOS Stream 9", "http://centos.org/centos-stream/9"),
            ("sles", "12.5", "", "http://suse.com/sles/12.5"),
            ("sles", "15.4", "", "http://suse.com/sle/15.4"),
            ("sles", "15", "", "http://suse.com/sle/15"),
            ("opensuse-leap", "15.4", "", "http://opensuse.org/opensuse/15.4"),
            ("opensuse-tumbleweed", "20240101", "", "http://opensuse.org/opensuse/tumbleweed"),
            ("alpine", "3.17.2", "", "http://alpinelinux.org/alpinelinux/3.17"),
            ("arch", "", "", "http://archlinux.org/archlinux/rolling"),
        ] {
            assert_eq!(name(&guest(GuestType::Linux, id, version, pretty)).as_deref(), Some(expected));
        }
        for (version, pretty, expected) in [
            ("5.1.2600", "Microsoft Windows XP", "xp"),
            ("5.2.3790", "Windows Server 2003 R2", "2k3r2"),
            ("6.0.6002", "Windows Server 2008 Standard", "2k8"),
            ("6.1.7601", "Windows 7 Professional", "7"),
            ("6.3.9600", "Windows Server 2012 R2 Standard", "2k12r2"),
            ("10.0.19045", "Windows 10 Pro", "10"),
            ("10.0.22631", "Windows 11 Pro", "11"),
            ("10.0.14393", "Windows Server 2016 Datacenter", "2k16"),
            ("10.0.17763", "Windows Server 2019 Standard", "2k19"),
            ("10.0.20348", "Windows Server 2022 Standard", "2k22"),
            ("10.0.26100", "Windows Server 2025 Standard", "2k25"),
        ] {
            let told = name(&guest(GuestType::Windows, "windows", version, pretty));
            assert_eq!(told, Some(format!("{WINDOWS}{expected}")));
        }
    }

    #[test]
    fn what_is_not_sure_has_no_name() {
        for (kind, id, version) in [
            (GuestType::Linux, "debian", ""),
            (GuestType::Linux, "debian", "sid' injected"),
            (GuestType::Linux, "debian", "+12"),
            (GuestType::Linux, "nobody-knows", "1"),
            (GuestType::Windows, "windows", "11"),
            (GuestType::Windows, "windows", ""),
            (GuestType::Unknown, "debian", "12"),
        ] {
            assert_eq!(name(&guest(kind, id, version, "")), None, "{id} {version}");
        }
    }

    #[test]
    fn old_windows_are_known_by_their_names() {
        let told = |short: &str| {
            let name = format!("{WINDOWS}{short}");
            (is_windows(&name), is_before_vista(&name), is_before_usb_3(&name))
        };
        assert_eq!(told("2k3"), (true, true, false));
        assert_eq!(told("7"), (true, false, true));
        assert_eq!(told("11"), (true, false, false));
        assert!(!is_windows("http://debian.org/debian/7") && !is_before_usb_3("http://debian.org/debian/7"));
    }
}
