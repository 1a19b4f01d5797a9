//! How old a guest is, as far as that decides which machine it can run on.
//!
//! Told from what was found in the disk: the kernel that starts, or the version of a Windows. What cannot be told is taken for a guest of
//! today. What is not here: what such a guest is given instead ([`fitting`](super::fitting)).

use super::guest::{GuestIdentity, GuestKernel, GuestType};

/// From this kernel on Linux works on q35 as well as on the chipset before it.
const Q35_KERNEL: [u32; 3] = [2, 6, 32];
/// From this kernel on Linux drives virtio 1.0, …
const VIRTIO_1_KERNEL: [u32; 3] = [4, 0, 0];
/// … and Red Hat brought that back into 3.10 with this build (7.2).
const EL7_KERNEL: [u32; 3] = [3, 10, 0];
const EL7_VIRTIO_1_BUILD: u32 = 327;
/// Vista, the first Windows with drivers for SATA and PCI Express.
const VISTA: u32 = 6;

/// What a guest is too old for. Later is younger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuestAge {
    /// PCI Express, SATA and USB 3: made for machines like QEMU's `pc`.
    BeforeQ35,
    /// Virtio 1.0, the only kind that a PCI Express slot offers.
    BeforeVirtio1,
    /// Nothing.
    Modern,
}

impl GuestAge {
    /// How old this guest is.
    #[must_use]
    pub fn of(guest: &GuestIdentity) -> GuestAge {
        match guest.kind {
            GuestType::Windows => of_windows(guest.os_version.as_deref().unwrap_or_default()),
            GuestType::Linux => of_linux(&guest.kernels),
            GuestType::Unknown => GuestAge::Modern,
        }
    }
}

fn of_windows(version: &str) -> GuestAge {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    // The drivers that are given to a Windows know both kinds of virtio.
    if major.is_some_and(|major| major < VISTA) { GuestAge::BeforeQ35 } else { GuestAge::Modern }
}

fn of_linux(kernels: &[GuestKernel]) -> GuestAge {
    let starts = kernels.iter().find(|kernel| kernel.default).or(kernels.first());
    let Some((release, build)) = starts.and_then(|kernel| release(&kernel.version)) else {
        return GuestAge::Modern;
    };
    let is_backport = release == EL7_KERNEL && build >= EL7_VIRTIO_1_BUILD;
    match release {
        release if release < Q35_KERNEL => GuestAge::BeforeQ35,
        release if release < VIRTIO_1_KERNEL && !is_backport => GuestAge::BeforeVirtio1,
        _ => GuestAge::Modern,
    }
}

/// `3.10.0-1160.el7.x86_64`: the release, and the build if it is one of Enterprise Linux 7.
fn release(version: &str) -> Option<([u32; 3], u32)> {
    let (numbers, rest) = version.split_once('-').unwrap_or((version, ""));
    let mut parts = numbers.split('.').map(leading);
    let major = parts.next()??;
    let mut next = || parts.next().flatten().unwrap_or(0);
    let release = [major, next(), next()];
    let build = if rest.contains(".el7") { leading(rest).unwrap_or(0) } else { 0 };
    Some((release, build))
}

/// The number with which a text begins.
fn leading(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(versions: &[(&str, bool)]) -> GuestAge {
        let kernels = versions.iter().map(|(version, default)| GuestKernel {
            version: (*version).to_owned(),
            default: *default,
            ..GuestKernel::default()
        });
        let kernels = kernels.collect();
        GuestAge::of(&GuestIdentity { kind: GuestType::Linux, kernels, ..GuestIdentity::default() })
    }

    #[test]
    fn a_linux_is_as_old_as_the_kernel_that_starts() {
        use GuestAge::{BeforeQ35, BeforeVirtio1, Modern};
        for (kernel, age) in [
            ("2.6.18-398.el5", BeforeQ35),
            ("2.6.32-754.el6.x86_64", BeforeVirtio1),
            ("3.10.0-229.el7.x86_64", BeforeVirtio1),
            ("3.10.0-327.el7.x86_64", Modern),
            ("3.10.0-1160.119.1.el7.x86_64", Modern),
            ("3.10.0-957", BeforeVirtio1),
            ("3.16.0-11-amd64", BeforeVirtio1),
            ("4.4.0-210-generic", Modern),
            ("6.1.0-56-amd64", Modern),
            ("2.4.21", BeforeQ35),
            ("6.12", Modern),
            ("vmlinuz", Modern),
            ("99999999999.1", Modern),
            ("", Modern),
        ] {
            assert_eq!(linux(&[(kernel, true)]), age, "{kernel}");
        }
        assert_eq!(linux(&[("6.1.0", false), ("2.6.18", true)]), BeforeQ35);
        assert_eq!(linux(&[("6.1.0", false), ("2.6.18", false)]), Modern, "the newest");
        assert_eq!(linux(&[]), Modern);
    }

    #[test]
    fn a_windows_is_old_until_vista() {
        for (version, age) in [
            (Some("5.2.3790"), GuestAge::BeforeQ35),
            (Some("5.1"), GuestAge::BeforeQ35),
            (Some("6.0.6002"), GuestAge::Modern),
            (Some("10.0.20348"), GuestAge::Modern),
            (Some("x"), GuestAge::Modern),
            (None, GuestAge::Modern),
        ] {
            let os_version = version.map(str::to_owned);
            let guest = GuestIdentity { kind: GuestType::Windows, os_version, ..GuestIdentity::default() };
            assert_eq!(GuestAge::of(&guest), age, "{version:?}");
        }
    }
}
