//! A loader where UEFI looks for one without being told: `\EFI\BOOT\BOOTX64.EFI`.
//!
//! The old machine's firmware remembered in its variables which loader to start; the new machine's remembers nothing. Loaders are copied
//! bit for bit, so that what is signed stays so. GRUB as Debian, Red Hat and SUSE sign it knows the directory of its configuration
//! (`\EFI\debian\grub.cfg`) wherever its copy lies. What is not here: making a loader, and firmware variables.

use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::linux::text::not_kept;
use crate::guest::tree::{Action, Tree, shown};
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::GuestFirmware;

/// Directories that are asked last for a loader, or not at all.
const FOREIGN: [&str; 4] = ["boot", "microsoft", "tools", "linux"];
/// Left free on the EFI system partition.
const SPARE_BYTES: u64 = 64 * 1024;
/// Vendors have a handful of directories on an EFI system partition.
const MOST_DIRECTORIES: usize = 64;

/// The repair.
#[derive(Debug)]
pub struct EfiFallback;

impl Fix for EfiFallback {
    fn name(&self) -> &'static str {
        "efi-fallback"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        options.boot_loader.then_some("UEFI finds a loader without remembering where it is")
    }

    fn applies(&self, facts: &Facts) -> bool {
        let uefi = matches!(facts.identity.firmware, GuestFirmware::Uefi | GuestFirmware::Both);
        uefi && facts.layout.efi_path.is_some() && suffix(facts).is_some()
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let Some(partition) = Partition::of(&guest.tree, &guest.facts)? else { return Ok(()) };
        if partition.has_fallback(&guest.tree)? {
            return Ok(());
        }
        let copies = partition.copies(&guest.tree, &guest.facts)?;
        if copies.is_empty() {
            guest.warnings.push(format!(
                "no loader was found below {} that UEFI could start without its variables",
                shown(&partition.efi)
            ));
        }
        make_room(&guest.tree, &partition, &copies)?;
        for copy in &copies {
            place(&mut guest.tree, copy)?;
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let Some(partition) = Partition::of(&guest.tree, &guest.facts)? else { return Ok(()) };
        let made =
            |path: &str| guest.tree.edits().iter().any(|edit| edit.fix == self.name() && edit.path == path);
        for copy in partition.copies(&guest.tree, &guest.facts)?.iter().filter(|copy| made(&copy.to)) {
            if !is_same(&guest.tree, copy)? {
                return Err(not_kept(&copy.to, &format!("it is not the same as {}", shown(&copy.from))));
            }
        }
        Ok(())
    }
}

/// One file to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copy {
    from: String,
    to: String,
    why: String,
}

/// The EFI system partition.
#[derive(Debug)]
struct Partition {
    /// `/boot/efi/EFI`, as it is written there.
    efi: String,
    /// Names in it.
    directories: Vec<String>,
    /// `/boot/efi/EFI/BOOT`, as it is written there or will be.
    boot: String,
    /// What the architecture adds to names: `x64`.
    suffix: &'static str,
}

/// `None` for architectures that are not known here.
fn suffix(facts: &Facts) -> Option<&'static str> {
    match facts.identity.architecture.as_deref() {
        Some("x86_64") | None => Some("x64"),
        Some("aarch64") => Some("aa64"),
        Some("i386" | "i586" | "i686") => Some("ia32"),
        Some("riscv64") => Some("riscv64"),
        _ => None,
    }
}

impl Partition {
    fn of(tree: &Tree, facts: &Facts) -> Result<Option<Partition>> {
        let (Some(path), Some(suffix)) = (facts.layout.efi_path.as_deref(), suffix(facts)) else {
            return Ok(None);
        };
        let path = path.trim_end_matches('/');
        // FAT does not tell cases apart; what is written there is what is used.
        let Some(efi) = named(&tree.list(path)?, "EFI").map(|name| format!("{path}/{name}")) else {
            return Ok(None);
        };
        let directories = tree.list(&efi)?;
        let boot = named(&directories, "BOOT").unwrap_or("BOOT").to_owned();
        Ok(Some(Partition { boot: format!("{efi}/{boot}"), efi, directories, suffix }))
    }

    fn fallback(&self) -> String {
        format!("BOOT{}.EFI", self.suffix.to_ascii_uppercase())
    }

    fn has_fallback(&self, tree: &Tree) -> Result<bool> {
        Ok(named(&tree.list(&self.boot)?, &self.fallback()).is_some())
    }

    /// What is to be copied, from the best loader there is; empty where there is none.
    fn copies(&self, tree: &Tree, facts: &Facts) -> Result<Vec<Copy>> {
        let own = facts.identity.os_id.as_deref().unwrap_or("");
        let mut directories: Vec<&String> =
            self.directories.iter().filter(|name| !is_any(name, &FOREIGN)).take(MOST_DIRECTORIES).collect();
        directories.sort_by_key(|name| !is_vendor_of(name, own));
        let mut offers: Vec<(usize, Vec<Copy>)> = Vec::new();
        for directory in directories {
            let path = format!("{}/{directory}", self.efi);
            offers.extend(self.offer(&path, &tree.list(&path)?));
        }
        // The sort is stable: among equally good ones the distribution's own comes first.
        offers.sort_by_key(|(rank, _)| *rank);
        if let Some((_, copies)) = offers.into_iter().next() {
            return Ok(copies);
        }
        let kernels = &facts.identity.kernels;
        let image = kernels.iter().find(|kernel| kernel.default).or(kernels.first());
        let image = image.and_then(|kernel| kernel.unified_image.as_deref());
        Ok(image
            .map(|image| self.copy(image, &self.fallback(), "there is no other loader"))
            .into_iter()
            .collect())
    }

    /// What a vendor's directory has to offer, and how good that is: 0 is best.
    fn offer(&self, directory: &str, names: &[String]) -> Option<(usize, Vec<Copy>)> {
        let suffix = self.suffix;
        let find = |wanted: &[&str]| wanted.iter().find_map(|wanted| named(names, wanted));
        let copy = |from: &str, to: &str, why: &str| self.copy(&format!("{directory}/{from}"), to, why);
        let grub = find(&[&format!("grub{suffix}.efi"), "grub.efi"]);
        if let (Some(shim), Some(grub)) = (find(&[&format!("shim{suffix}.efi"), "shim.efi"]), grub) {
            let mut copies = vec![
                copy(shim, &self.fallback(), "UEFI looks for this loader"),
                copy(grub, grub, "the loader in front of it looks for it here"),
            ];
            if let Some(keys) = find(&[&format!("mm{suffix}.efi"), "MokManager.efi"]) {
                copies.push(copy(keys, keys, "the loader in front of it looks for it here"));
            }
            // SUSE's GRUB reads the file beside it, which leads to the real one.
            if let Some(menu) = find(&["grub.cfg"]).filter(|_| grub.eq_ignore_ascii_case("grub.efi")) {
                copies.push(copy(menu, "grub.cfg", "GRUB looks for it beside itself"));
            }
            return Some((0, copies));
        }
        if let Some(grub) = grub {
            return Some((1, vec![copy(grub, &self.fallback(), "UEFI looks for this loader")]));
        }
        let other = find(&[&format!("systemd-boot{suffix}.efi")])?;
        Some((2, vec![copy(other, &self.fallback(), "UEFI looks for this loader")]))
    }

    fn copy(&self, from: &str, to: &str, why: &str) -> Copy {
        Copy {
            from: from.to_owned(),
            to: format!("{}/{to}", self.boot),
            why: format!("copy of {from}: {why}"),
        }
    }
}

fn named<'n>(names: &'n [String], wanted: &str) -> Option<&'n str> {
    names.iter().find(|name| name.eq_ignore_ascii_case(wanted)).map(String::as_str)
}

fn is_any(name: &str, of: &[&str]) -> bool {
    of.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Whether a directory is that of a distribution, as `/etc/os-release` calls it.
fn is_vendor_of(directory: &str, id: &str) -> bool {
    let directory = directory.to_ascii_lowercase();
    let alias = match id {
        "rhel" => "redhat",
        "ol" => "redhat",
        "opensuse-leap" | "opensuse-tumbleweed" => "opensuse",
        "sled" => "sles",
        other => other,
    };
    !alias.is_empty() && directory == alias
}

/// Fails before anything is written, if it would not fit.
fn make_room(tree: &Tree, partition: &Partition, copies: &[Copy]) -> Result<()> {
    let mut needed = 0;
    for copy in copies {
        needed += tree.stat(&copy.from)?.map_or(0, |stat| stat.size);
    }
    let failed = |why: String| {
        Error::new(
            Kind::Guest,
            format!("cannot look at {} in the guest: {}", shown(&partition.efi), shown(&why)),
        )
        .advice("check the guest's file systems in the source machine, then try again")
    };
    let free = tree.appliance().room(&partition.efi).map_err(failed)?.free_bytes;
    if copies.is_empty() || needed + SPARE_BYTES <= free {
        return Ok(());
    }
    Err(Error::new(
        Kind::Guest,
        format!("the EFI system partition has {free} bytes left; a loader that UEFI finds by itself needs {needed}"),
    )
    .advice("free some room there in the source machine; without that loader the guest does not start elsewhere")
    .permanent())
}

fn place(tree: &mut Tree, copy: &Copy) -> Result<()> {
    let there = tree.exists(&copy.to)?;
    if there && is_same(tree, copy)? {
        return Ok(());
    }
    let backup = if there { tree.back_up(&copy.to)? } else { None };
    let failed = |why: String| {
        Error::new(Kind::Guest, format!("cannot copy {} in the guest: {}", shown(&copy.from), shown(&why)))
            .advice("check the EFI system partition in the source machine, then try again")
    };
    if let Some((directory, _)) = copy.to.rsplit_once('/') {
        tree.appliance().make_directories(directory).map_err(failed)?;
    }
    tree.appliance().copy(&copy.from, &copy.to).map_err(failed)?;
    let action = if there { Action::Changed } else { Action::Created };
    tree.changed_by_tool(&copy.to, action, &shown(&copy.why), backup);
    Ok(())
}

fn is_same(tree: &Tree, copy: &Copy) -> Result<bool> {
    tree.appliance().equal(&copy.from, &copy.to).map_err(|why| {
        Error::new(Kind::Guest, format!("cannot compare {} in the guest: {}", shown(&copy.to), shown(&why)))
            .advice("check the EFI system partition in the source machine, then try again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        Partition {
            efi: "/boot/efi/EFI".to_owned(),
            directories: Vec::new(),
            boot: "/boot/efi/EFI/BOOT".to_owned(),
            suffix: "x64",
        }
    }

    /// What comes of a vendor's directory: rank, and names of copies.
    fn offered(names: &[&str]) -> Option<(usize, Vec<(String, String)>)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (rank, copies) = partition().offer("/boot/efi/EFI/x", &names)?;
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        Some((rank, copies.iter().map(|copy| (name(&copy.from), name(&copy.to))).collect()))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    #[test]
    fn a_signed_chain_is_copied_whole() {
        let debian = ["BOOTX64.CSV", "fbx64.efi", "grub.cfg", "grubx64.efi", "mmx64.efi", "shimx64.efi"];
        let copies = pairs(&[
            ("shimx64.efi", "BOOTX64.EFI"),
            ("grubx64.efi", "grubx64.efi"),
            ("mmx64.efi", "mmx64.efi"),
        ]);
        assert_eq!(offered(&debian), Some((0, copies)));
    }

    #[test]
    fn suses_grub_takes_its_menu_along() {
        let copies = pairs(&[
            ("shim.efi", "BOOTX64.EFI"),
            ("grub.efi", "grub.efi"),
            ("MokManager.efi", "MokManager.efi"),
            ("grub.cfg", "grub.cfg"),
        ]);
        assert_eq!(
            offered(&["MokManager.efi", "boot.csv", "grub.cfg", "grub.efi", "shim.efi"]),
            Some((0, copies))
        );
    }

    #[test]
    fn cases_of_names_do_not_matter() {
        assert_eq!(offered(&["GRUBX64.EFI"]), Some((1, pairs(&[("GRUBX64.EFI", "BOOTX64.EFI")]))));
    }

    #[test]
    fn systemd_boot_serves_where_there_is_no_grub() {
        assert_eq!(
            offered(&["systemd-bootx64.efi"]),
            Some((2, pairs(&[("systemd-bootx64.efi", "BOOTX64.EFI")])))
        );
    }

    #[test]
    fn a_shim_without_the_loader_behind_it_is_no_offer() {
        assert_eq!(offered(&["shimx64.efi"]), None);
        assert_eq!(offered(&[]), None);
    }

    #[test]
    fn the_directory_of_the_distribution_is_known() {
        assert!(is_vendor_of("redhat", "rhel") && is_vendor_of("Debian", "debian"));
        assert!(!is_vendor_of("ubuntu", "debian") && !is_vendor_of("", ""));
    }
}
