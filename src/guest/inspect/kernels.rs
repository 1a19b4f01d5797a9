//! Kernels: which there are, what belongs to each, and whether it can drive virtio.
//!
//! Names differ from distribution to distribution; what ties an image, an initial RAM disk and a directory of modules together is the
//! version in their names, or for Arch and Alpine the name of the package. What is not here: which one starts by default (see
//! [`super::boot`]), and what is inside an initial RAM disk.

use super::files::Files;
use super::words::compare_versions;
use crate::model::error::Result;
use crate::model::guest::GuestKernel;

/// Where all of it lies; asked for with one question.
const PLACES: [&str; 24] = [
    "/boot/vmlinu[xz]*",
    "/boot/kernel-*",
    "/boot/Image-*",
    "/boot/image-*",
    "/boot/init[r]*",
    "/boot/booster-*.img",
    "/boot/*/*/linux",
    "/boot/*/*/initrd*",
    "/efi/*/*/linux",
    "/efi/*/*/initrd*",
    "/boot/efi/*/*/linux",
    "/boot/efi/*/*/initrd*",
    "/boot/efi/EFI/Linux/*.efi",
    "/efi/EFI/Linux/*.efi",
    "/boot/EFI/Linux/*.efi",
    "/lib/modules/*/modules.builtin",
    "/lib/modules/*/modules.dep",
    "/lib/modules/*/vmlinuz",
    "/lib/modules/*/pkgbase",
    "/lib/modules/*/kernel/drivers/block/virtio_blk.ko*",
    "/lib/modules/*/kernel/drivers/scsi/virtio_scsi.ko*",
    "/lib/modules/*/kernel/drivers/net/virtio_net.ko*",
    "/lib/modules/*/kernel/drivers/virtio/virtio_pci.ko*",
    "/usr/share/kernel/*/kernel.release",
];

/// More kernels than this nobody keeps.
const MOST_KERNELS: usize = 64;

/// The kernels of the guest, newest first; none of them is marked as the default yet.
pub(super) fn kernels(files: Files<'_>) -> Result<Vec<GuestKernel>> {
    let there = files.matching(&PLACES)?;
    let mut flavours = Vec::new();
    for path in there.iter().filter(|path| path.ends_with("/pkgbase") || path.ends_with("/kernel.release")) {
        let Some(text) = files.text(path)? else { continue };
        let word = text.trim().to_owned();
        let directory = path.rsplit('/').nth(1).unwrap_or_default().to_owned();
        let (flavour, version) =
            if path.ends_with("/pkgbase") { (word, directory) } else { (directory, word) };
        flavours.push(Flavour { name: flavour, version });
    }
    let mut kernels = gather(&there, &flavours);
    for kernel in &mut kernels {
        let version = kernel.version.clone();
        let builtin = files.text(&format!("/lib/modules/{version}/modules.builtin"))?;
        // Without a list of what is built in, the configuration says it.
        let config = match builtin {
            Some(_) => None,
            None => files.text(&format!("/boot/config-{version}"))?,
        };
        kernel.virtio =
            has_virtio(&version, &there, &builtin.unwrap_or_default(), &config.unwrap_or_default());
    }
    Ok(kernels)
}

/// A kernel whose files carry the name of its package and not its version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flavour {
    /// `linux-lts`, `virt`
    name: String,
    version: String,
}

/// Puts together what belongs together.
fn gather(there: &[String], flavours: &[Flavour]) -> Vec<GuestKernel> {
    let mut kernels: Vec<GuestKernel> = Vec::new();
    let mut directories: Vec<&str> = there.iter().filter_map(|path| modules_of(path)).collect();
    directories.sort_unstable();
    directories.dedup();
    for version in &directories {
        // A directory with nothing but leftovers of a removed kernel has neither list.
        let is_whole = there.iter().any(|path| {
            modules_of(path) == Some(version)
                && (path.ends_with("/modules.dep") || path.ends_with("/modules.builtin"))
        });
        if is_whole {
            of_version(&mut kernels, version).modules = Some(format!("/lib/modules/{version}"));
        }
    }
    for path in there {
        match place(path) {
            Some(Place::Image(name)) => {
                let version = version_of(name, &directories, flavours);
                let kernel = of_version(&mut kernels, &version);
                // `/boot/vmlinuz-…` before a second copy beside the modules.
                kernel.image.get_or_insert_with(|| path.clone());
            }
            Some(Place::Initramfs(name)) => {
                let version = version_of(name, &directories, flavours);
                // Made for rescue or without a kernel: of no use for starting this system.
                if let Some(kernel) = kernels.iter_mut().find(|kernel| kernel.version == version) {
                    choose_initramfs(kernel, path);
                }
            }
            Some(Place::Unified(name)) => {
                let known = directories
                    .iter()
                    .filter(|version| name.contains(**version))
                    .max_by_key(|version| version.len());
                let flavour = flavours
                    .iter()
                    .filter(|flavour| name.trim_end_matches(".efi").ends_with(&flavour.name))
                    .max_by_key(|flavour| flavour.name.len());
                let version = known
                    .map(|version| (*version).to_owned())
                    .or_else(|| flavour.map(|flavour| flavour.version.clone()))
                    .unwrap_or_else(|| name.trim_end_matches(".efi").to_owned());
                of_version(&mut kernels, &version).unified_image.get_or_insert_with(|| path.clone());
            }
            None => {}
        }
    }
    for path in there.iter().filter(|path| path.starts_with("/lib/modules/") && path.ends_with("/vmlinuz")) {
        if let Some(version) = modules_of(path)
            && let Some(kernel) =
                kernels.iter_mut().find(|kernel| kernel.version == version && kernel.unified_image.is_none())
        {
            kernel.image.get_or_insert_with(|| path.clone());
        }
    }
    kernels.sort_by(|a, b| compare_versions(&b.version, &a.version));
    kernels.truncate(MOST_KERNELS);
    kernels
}

fn of_version<'k>(kernels: &'k mut Vec<GuestKernel>, version: &str) -> &'k mut GuestKernel {
    let at = kernels.iter().position(|kernel| kernel.version == version).unwrap_or_else(|| {
        kernels.push(GuestKernel { version: version.to_owned(), ..GuestKernel::default() });
        kernels.len() - 1
    });
    &mut kernels[at]
}

fn modules_of(path: &str) -> Option<&str> {
    path.strip_prefix("/lib/modules/").map(|rest| rest.split('/').next().unwrap_or(rest))
}

enum Place<'p> {
    /// With what its name says of its version.
    Image(&'p str),
    Initramfs(&'p str),
    Unified(&'p str),
}

/// What a path holds, by its name.
fn place(path: &str) -> Option<Place<'_>> {
    let (directory, name) = path.rsplit_once('/')?;
    if directory.ends_with("/EFI/Linux") {
        return Some(Place::Unified(name));
    }
    if directory.starts_with("/lib/modules") || directory.starts_with("/usr/share") {
        return None;
    }
    if directory != "/boot" {
        // kernel-install's layout: /boot/<machine-id>/<version>/linux. FAT has one name in any case, so the ESP's EFI/Linux answers too.
        let version = directory.rsplit('/').next()?;
        if version.eq_ignore_ascii_case("EFI") {
            return None;
        }
        return Some(if name == "linux" { Place::Image(version) } else { Place::Initramfs(version) });
    }
    // Kept copies, rescue and crash kernels do not start the system.
    let spare = [".old", ".bak", ".orig", ".dpkg-bak", ".hmac", ".sig", ".pre-v2v"];
    let is_spare = spare.iter().any(|end| name.ends_with(end));
    if is_spare || name.contains("rescue") || name.contains("kdump") || name.contains("fallback") {
        return None;
    }
    for prefix in ["vmlinuz-", "vmlinux-", "kernel-", "Image-", "image-"] {
        if let Some(version) = name.strip_prefix(prefix) {
            let version =
                version.strip_suffix(".gz").or_else(|| version.strip_suffix(".xz")).unwrap_or(version);
            // SUSE's vmlinux-… are copies for debugging, packed.
            return (prefix != "vmlinux-" || !name.ends_with(".gz")).then_some(Place::Image(version));
        }
    }
    for prefix in ["initrd.img-", "initramfs-", "initrd-", "booster-"] {
        if let Some(version) = name.strip_prefix(prefix) {
            return Some(Place::Initramfs(version.strip_suffix(".img").unwrap_or(version)));
        }
    }
    None
}

/// The version that a name stands for: itself, or that of the package it names.
fn version_of(name: &str, directories: &[&str], flavours: &[Flavour]) -> String {
    if directories.contains(&name) {
        return name.to_owned();
    }
    if let Some(flavour) = flavours.iter().find(|flavour| flavour.name == name) {
        return flavour.version.clone();
    }
    // Alpine's `vmlinuz-virt` belongs to `6.6.58-0-virt`.
    let ending = format!("-{name}");
    let fitting: Vec<&&str> = directories.iter().filter(|version| version.ends_with(&ending)).collect();
    match fitting.as_slice() {
        [one] => (**one).to_owned(),
        _ => name.to_owned(),
    }
}

/// Of several, the plain name: not one made for crash dumps or by another tool beside it.
fn choose_initramfs(kernel: &mut GuestKernel, path: &str) {
    if kernel.initramfs.as_ref().is_none_or(|known| path.len() < known.len()) {
        kernel.initramfs = Some(path.to_owned());
    }
}

/// Whether there are drivers for virtio's bus, a disk on it and a network card on it.
fn has_virtio(version: &str, there: &[String], builtin: &str, config: &str) -> bool {
    let driver = |name: &str, option: &str| {
        let module = format!("/{name}.ko");
        there.iter().any(|path| modules_of(path) == Some(version) && path.contains(&module))
            || builtin.lines().any(|line| line.ends_with(&module))
            || config.lines().any(|line| line.strip_prefix(option) == Some("=y"))
    };
    driver("virtio_pci", "CONFIG_VIRTIO_PCI")
        && (driver("virtio_blk", "CONFIG_VIRTIO_BLK") || driver("virtio_scsi", "CONFIG_SCSI_VIRTIO"))
        && driver("virtio_net", "CONFIG_VIRTIO_NET")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn told(kernels: &[GuestKernel]) -> Vec<String> {
        let or = |path: &Option<String>| path.clone().unwrap_or_else(|| "-".to_owned());
        kernels
            .iter()
            .map(|k| format!("{} {} {} {}", k.version, or(&k.image), or(&k.initramfs), or(&k.unified_image)))
            .collect()
    }

    #[test]
    fn kernels_of_every_distribution_find_their_initial_ram_disks() {
        let rows: [(&str, &[Flavour], &[&str]); 8] = [
            (
                "/boot/vmlinuz-6.1.0-9-amd64 /boot/vmlinuz-6.1.0-10-amd64 /boot/initrd.img-6.1.0-9-amd64 /boot/initrd.img-6.1.0-10-amd64
                 /lib/modules/6.1.0-9-amd64/modules.dep /lib/modules/6.1.0-10-amd64/modules.dep",
                &[],
                &[
                    "6.1.0-10-amd64 /boot/vmlinuz-6.1.0-10-amd64 /boot/initrd.img-6.1.0-10-amd64 -",
                    "6.1.0-9-amd64 /boot/vmlinuz-6.1.0-9-amd64 /boot/initrd.img-6.1.0-9-amd64 -",
                ],
            ),
            (
                "/boot/vmlinuz-5.14.0-427.el9.x86_64 /boot/vmlinuz-0-rescue-90561ec5 /boot/initramfs-0-rescue-90561ec5.img
                 /boot/initramfs-5.14.0-427.el9.x86_64.img /boot/initramfs-5.14.0-427.el9.x86_64kdump.img
                 /lib/modules/5.14.0-427.el9.x86_64/modules.dep /lib/modules/5.14.0-427.el9.x86_64/vmlinuz",
                &[],
                &["5.14.0-427.el9.x86_64 /boot/vmlinuz-5.14.0-427.el9.x86_64 /boot/initramfs-5.14.0-427.el9.x86_64.img -"],
            ),
            (
                "/boot/vmlinuz /boot/initrd /boot/vmlinuz-6.4.0-150600.21-default /boot/initrd-6.4.0-150600.21-default
                 /boot/vmlinux-6.4.0-150600.21-default.gz /lib/modules/6.4.0-150600.21-default/modules.dep",
                &[],
                &["6.4.0-150600.21-default /boot/vmlinuz-6.4.0-150600.21-default /boot/initrd-6.4.0-150600.21-default -"],
            ),
            (
                "/boot/vmlinuz-linux /boot/initramfs-linux.img /boot/initramfs-linux-fallback.img
                 /lib/modules/6.11.1-arch1-1/modules.dep /lib/modules/6.11.1-arch1-1/vmlinuz",
                &[Flavour { name: String::new(), version: String::new() }],
                &["linux /boot/vmlinuz-linux /boot/initramfs-linux.img -", "6.11.1-arch1-1 /lib/modules/6.11.1-arch1-1/vmlinuz - -"],
            ),
            (
                "/boot/vmlinuz-virt /boot/initramfs-virt /lib/modules/6.6.58-0-virt/modules.dep",
                &[],
                &["6.6.58-0-virt /boot/vmlinuz-virt /boot/initramfs-virt -"],
            ),
            (
                "/boot/vmlinuz-6.1.10-11.ph5 /boot/initrd.img-6.1.10-11.ph5 /lib/modules/6.1.10-11.ph5/modules.builtin",
                &[],
                &["6.1.10-11.ph5 /boot/vmlinuz-6.1.10-11.ph5 /boot/initrd.img-6.1.10-11.ph5 -"],
            ),
            (
                "/boot/0123/6.8.5-301.fc40/linux /boot/0123/6.8.5-301.fc40/initrd /lib/modules/6.8.5-301.fc40/modules.dep",
                &[],
                &["6.8.5-301.fc40 /boot/0123/6.8.5-301.fc40/linux /boot/0123/6.8.5-301.fc40/initrd -"],
            ),
            (
                "/boot/efi/EFI/Linux/debian-6.12.6-amd64.efi /lib/modules/6.12.6-amd64/modules.dep",
                &[],
                &["6.12.6-amd64 - - /boot/efi/EFI/Linux/debian-6.12.6-amd64.efi"],
            ),
        ];
        for (text, flavours, expected) in rows {
            assert_eq!(told(&gather(&paths(text), flavours)), expected);
        }
    }

    #[test]
    fn arch_s_kernel_is_known_by_its_package() {
        let flavours = [Flavour { name: "linux".to_owned(), version: "6.11.1-arch1-1".to_owned() }];
        let there = paths(
            "/boot/vmlinuz-linux /boot/initramfs-linux.img /efi/EFI/Linux/arch-linux.efi /lib/modules/6.11.1-arch1-1/modules.dep",
        );
        assert_eq!(
            told(&gather(&there, &flavours)),
            ["6.11.1-arch1-1 /boot/vmlinuz-linux /boot/initramfs-linux.img /efi/EFI/Linux/arch-linux.efi"]
        );
    }

    #[test]
    fn the_directory_of_unified_images_is_no_kernel_though_fat_knows_it_by_that_name() {
        let there = paths(
            "/boot/efi/EFI/linux /boot/efi/EFI/Linux/debian-6.12.1.efi /lib/modules/6.12.1/modules.dep /boot/vmlinuz-6.12.1",
        );
        assert_eq!(
            told(&gather(&there, &[])),
            ["6.12.1 /boot/vmlinuz-6.12.1 - /boot/efi/EFI/Linux/debian-6.12.1.efi"]
        );
    }

    #[test]
    fn virtio_needs_bus_disk_and_network_however_they_are_built() {
        let modules = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| format!("/lib/modules/6.1/kernel/drivers/x/{name}.ko.xz")).collect()
        };
        let all = modules(&["virtio_blk", "virtio_net", "virtio_pci"]);
        assert!(has_virtio("6.1", &all, "", ""));
        assert!(!has_virtio("6.2", &all, "", ""), "of another kernel");
        assert!(!has_virtio("6.1", &modules(&["virtio_blk", "virtio_pci"]), "", ""), "no network");
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/block/virtio_blk.ko\n";
        assert!(has_virtio("6.1", &modules(&["virtio_net"]), builtin, ""));
        let config = "CONFIG_VIRTIO_PCI=y\nCONFIG_SCSI_VIRTIO=y\nCONFIG_VIRTIO_NET=y\n";
        assert!(has_virtio("6.1", &[], "", config));
        assert!(!has_virtio(
            "6.1",
            &[],
            "",
            "CONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO_NET=m\n"
        ));
    }
}
