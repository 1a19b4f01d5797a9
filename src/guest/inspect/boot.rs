//! What starts the guest: firmware, boot loader, the kernel that starts by default.
//!
//! A firmware counts where something that it would start is there: for UEFI a system partition with a program on it, for BIOS code in
//! the first sector of a disk. What is not here: how configuration names its default (see [`super::entries`]).

use super::entries::{self, Snippet};
use super::files::Files;
use super::mount::Opened;
use super::storage::Storage;
use crate::guest::appliance::Appliance;
use crate::guest::facts::{Mounted, Volume};
use crate::model::error::Result;
use crate::model::guest::{BootLoader, GuestFirmware, GuestKernel};

const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const EFI_SYSTEM_IN_MBR: &str = "0xef";
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
/// Where a system partition is mounted; without a line in fstab systemd does so by itself.
const EFI_PATHS: [&str; 3] = ["/efi", "/boot/efi", "/boot"];
/// Entries of the boot loader specification that are read.
const MOST_SNIPPETS: usize = 64;

/// What starts the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) firmware: GuestFirmware,
    pub(super) loader: BootLoader,
    /// The EFI system partition's device.
    pub(super) efi_partition: Option<String>,
    /// Where it is mounted.
    pub(super) efi_path: Option<String>,
}

/// The EFI system partition: of several, the one on the root's disk.
pub(super) fn efi_partition<'s>(storage: &'s Storage, opened: &Opened) -> Option<&'s Volume> {
    let root = super::mount::volume_at(opened, storage, "/").and_then(|volume| volume.disk);
    let is_efi = |volume: &&Volume| {
        matches!(volume.partition_type.as_deref(), Some(EFI_SYSTEM | EFI_SYSTEM_IN_MBR))
            && volume.content == "vfat"
    };
    storage.volumes.iter().filter(is_efi).min_by_key(|volume| volume.disk != root)
}

/// Mounts the system partition where the guest would, if its fstab does not say where.
pub(super) fn mount_efi(appliance: &Appliance, storage: &Storage, opened: &mut Opened, readonly: bool) {
    let Some(volume) = efi_partition(storage, opened) else { return };
    if opened.mounted.iter().any(|mounted| mounted.device == volume.device) {
        return;
    }
    for path in EFI_PATHS {
        let is_free = !opened.mounted.iter().any(|mounted| mounted.path == path)
            && appliance.look(path).is_ok_and(|found| found.is_some_and(|stat| stat.is_directory()))
            && appliance.list(path).is_ok_and(|names| names.is_empty());
        if !is_free {
            continue;
        }
        match appliance.mount(if readonly { "ro" } else { "rw" }, &volume.device, path) {
            Ok(()) => opened.mounted.push(Mounted {
                path: path.to_owned(),
                device: volume.device.clone(),
                options: String::new(),
            }),
            Err(why) => opened
                .warnings
                .push(format!("the EFI system partition {} cannot be mounted: {why}", volume.device)),
        }
        return;
    }
}

/// Finds out; marks the kernel that starts by default.
pub(super) fn boot(
    files: Files<'_>,
    storage: &Storage,
    opened: &Opened,
    kernels: &mut [GuestKernel],
) -> Result<Boot> {
    let partition = efi_partition(storage, opened);
    let efi_path = partition
        .and_then(|volume| opened.mounted.iter().find(|mounted| mounted.device == volume.device))
        .map(|mounted| mounted.path.clone());
    let esp = efi_path.as_deref().unwrap_or("/boot/efi");
    let there = files.matching(&[
        "/boot/grub/grub.cfg",
        "/boot/grub2/grub.cfg",
        "/boot/grub/menu.lst",
        "/boot/grub/grub.conf",
        "/boot/grub/grubenv",
        "/boot/grub2/grubenv",
        "/boot/extlinux.conf",
        "/boot/extlinux/extlinux.conf",
        "/boot/syslinux/syslinux.cfg",
        "/extlinux.conf",
        "/boot/loader/loader.conf",
        "/boot/loader/entries/*.conf",
        &format!("{esp}/loader/loader.conf"),
        &format!("{esp}/loader/entries/*.conf"),
        &format!("{esp}/[Ee][Ff][Ii]/*/*.[Ee][Ff][Ii]"),
        &format!("{esp}/[Ee][Ff][Ii]/*/grub.cfg"),
        &format!("{esp}/[Ee][Ff][Ii]/*/grubenv"),
    ])?;
    let firmware =
        firmware(storage, partition.map(|_| efi_path.is_none() || there.iter().any(|path| is_program(path))));
    let loader = loader(&there, firmware);
    if let Some(default) = default_kernel(files, loader, &there, kernels)? {
        mark_default(kernels, &default);
    }
    Ok(Boot { firmware, loader, efi_partition: partition.map(|volume| volume.device.clone()), efi_path })
}

fn is_program(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".efi")
}

/// `started_by_uefi`: whether there is a system partition, and whether UEFI would find something on it.
fn firmware(storage: &Storage, started_by_uefi: Option<bool>) -> GuestFirmware {
    let uefi = started_by_uefi == Some(true);
    let has_bios_partition =
        storage.volumes.iter().any(|volume| volume.partition_type.as_deref() == Some(BIOS_BOOT));
    let bios = has_bios_partition
        || storage.heads.iter().zip(&storage.tables).any(|(head, table)| {
            // Windows and partition editors leave code in the first sector of a GPT that starts nothing.
            let loader =
                [&b"GRUB"[..], b"LILO"].iter().any(|name| head.windows(4).any(|bytes| bytes == *name));
            let code = head.iter().take(440).any(|byte| *byte != 0);
            loader || code && table.as_deref() != Some("gpt") && !uefi
        });
    match (uefi, bios) {
        (true, true) => GuestFirmware::Both,
        (true, false) => GuestFirmware::Uefi,
        (false, true) => GuestFirmware::Bios,
        (false, false) => GuestFirmware::Unknown,
    }
}

fn loader(there: &[String], firmware: GuestFirmware) -> BootLoader {
    let has = |test: &dyn Fn(&str) -> bool| there.iter().any(|path| test(&path.to_ascii_lowercase()));
    let grub = has(&|path| path.ends_with("/grub.cfg"));
    let systemd = has(&|path| path.contains("/systemd-boot") && path.ends_with(".efi"));
    let grub_program = has(&|path| is_program(path) && (path.contains("/grub") || path.contains("/shim")));
    let starts_by_uefi = matches!(firmware, GuestFirmware::Uefi | GuestFirmware::Both);
    if systemd && starts_by_uefi && !(grub && grub_program) {
        BootLoader::SystemdBoot
    } else if grub {
        BootLoader::Grub2
    } else if has(&|path| path.ends_with("/menu.lst") || path.ends_with("/grub.conf")) {
        BootLoader::GrubLegacy
    } else if has(&|path| path.ends_with("linux.conf") || path.ends_with("syslinux.cfg")) {
        BootLoader::Extlinux
    } else if systemd || starts_by_uefi && has(&|path| path.contains("/efi/linux/")) {
        BootLoader::SystemdBoot
    } else {
        BootLoader::Unknown
    }
}

fn default_kernel(
    files: Files<'_>,
    loader: BootLoader,
    there: &[String],
    kernels: &[GuestKernel],
) -> Result<Option<String>> {
    let first = |ends: &[&str]| -> Result<Option<String>> {
        for end in ends {
            if let Some(path) = there.iter().find(|path| path.ends_with(end)) {
                return files.text(path);
            }
        }
        Ok(None)
    };
    let mut snippets = Vec::new();
    for path in there.iter().filter(|path| path.contains("/loader/entries/")).take(MOST_SNIPPETS) {
        let id = path
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".conf"))
            .unwrap_or_default()
            .to_owned();
        snippets.push(Snippet { id, text: files.text(path)?.unwrap_or_default() });
    }
    let default = match loader {
        BootLoader::Grub2 => {
            // A small file on the system partition only points to the real one.
            let config =
                first(&["/boot/grub2/grub.cfg", "/boot/grub/grub.cfg", "/grub.cfg"])?.unwrap_or_default();
            let environment =
                first(&["/boot/grub2/grubenv", "/boot/grub/grubenv", "/grubenv"])?.unwrap_or_default();
            entries::of_grub(&config, &environment, &snippets)
        }
        BootLoader::GrubLegacy => {
            first(&["/menu.lst", "/grub.conf"])?.and_then(|config| entries::of_grub_legacy(&config))
        }
        BootLoader::SystemdBoot => {
            let unified: Vec<String> =
                kernels.iter().filter_map(|kernel| kernel.unified_image.clone()).collect();
            let config = first(&["/loader/loader.conf"])?.unwrap_or_default();
            entries::of_systemd_boot(&config, &snippets, &unified)
        }
        BootLoader::Extlinux => {
            first(&["linux.conf", "syslinux.cfg"])?.and_then(|config| entries::of_extlinux(&config))
        }
        BootLoader::Unknown => None,
    };
    Ok(default)
}

/// Boot loaders name files from the root of the file system that they lie on, so the end of the path has to do.
fn mark_default(kernels: &mut [GuestKernel], default: &str) {
    let parts = |path: &str| path.rsplit('/').take(2).map(str::to_owned).collect::<Vec<_>>();
    let wanted = parts(default);
    let same = |path: Option<&String>| {
        path.is_some_and(|path| {
            let parts = parts(path);
            // kernel-install calls every kernel `linux`, in a directory named by the version.
            parts[0] == wanted[0] && (parts[0] != "linux" || parts.get(1) == wanted.get(1))
        })
    };
    if let Some(kernel) =
        kernels.iter_mut().find(|kernel| same(kernel.image.as_ref()) || same(kernel.unified_image.as_ref()))
    {
        kernel.default = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(table: &str, head: &[u8], partition_type: Option<&str>) -> Storage {
        let volume = Volume { partition_type: partition_type.map(str::to_owned), ..Volume::default() };
        Storage {
            disks: vec!["/dev/sda".to_owned()],
            tables: vec![Some(table.to_owned())],
            heads: vec![head.to_vec()],
            volumes: vec![volume],
            ..Storage::default()
        }
    }

    #[test]
    fn firmware_is_what_would_find_something_to_start() {
        let mut grub = vec![0xeb, 0x63, 0x90];
        grub.extend(b"GRUB \0Geom\0Hard Disk");
        let zeros = [0; 440];
        let rows = [
            ("gpt", &zeros[..], None, Some(true), GuestFirmware::Uefi),
            ("gpt", &grub, Some(BIOS_BOOT), Some(true), GuestFirmware::Both),
            ("gpt", &grub, Some(BIOS_BOOT), None, GuestFirmware::Bios),
            ("gpt", &grub, None, Some(false), GuestFirmware::Bios),
            ("dos", &grub, None, None, GuestFirmware::Bios),
            ("dos", b"\x33\xc0Missing operating system", None, None, GuestFirmware::Bios),
            ("gpt", b"\x33\xc0Invalid partition table", None, Some(true), GuestFirmware::Uefi),
            ("gpt", &zeros, None, None, GuestFirmware::Unknown),
        ];
        for (table, head, kind, uefi, expected) in rows {
            assert_eq!(firmware(&storage(table, head, kind), uefi), expected, "{table} {kind:?} {uefi:?}");
        }
    }

    #[test]
    fn the_boot_loader_is_told_by_its_files() {
        let of = |text: &str, firmware| {
            let there: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            loader(&there, firmware)
        };
        let uefi = GuestFirmware::Uefi;
        assert_eq!(of("/boot/grub/grub.cfg", GuestFirmware::Bios), BootLoader::Grub2);
        assert_eq!(of("/boot/efi/EFI/debian/shimx64.efi /boot/grub/grub.cfg", uefi), BootLoader::Grub2);
        assert_eq!(
            of("/boot/efi/EFI/systemd/systemd-bootx64.efi /boot/efi/EFI/Linux/a.efi", uefi),
            BootLoader::SystemdBoot
        );
        assert_eq!(
            of("/boot/efi/EFI/systemd/systemd-bootx64.efi /boot/grub/grub.cfg", uefi),
            BootLoader::SystemdBoot
        );
        assert_eq!(of("/boot/grub/menu.lst", GuestFirmware::Bios), BootLoader::GrubLegacy);
        assert_eq!(of("/boot/extlinux.conf", GuestFirmware::Bios), BootLoader::Extlinux);
        assert_eq!(of("/boot/EFI/Linux/arch-linux.efi", uefi), BootLoader::SystemdBoot);
        assert_eq!(of("", uefi), BootLoader::Unknown);
    }

    #[test]
    fn the_default_kernel_is_found_by_the_end_of_its_path() {
        let kernel = |image: &str| GuestKernel { image: Some(image.to_owned()), ..GuestKernel::default() };
        let mut kernels =
            vec![kernel("/boot/vmlinuz-6.1"), kernel("/boot/vmlinuz-5.10"), kernel("/boot/0123/6.8/linux")];
        mark_default(&mut kernels, "/vmlinuz-5.10");
        mark_default(&mut kernels, "/0123/6.9/linux");
        assert_eq!(kernels.iter().map(|kernel| kernel.default).collect::<Vec<_>>(), [false, true, false]);
        mark_default(&mut kernels, "/0123/6.8/linux");
        assert!(kernels[2].default);
    }
}
