//! Which of a kernel's modules are needed, and which others they need: from `modules.dep` and `modules.builtin`.
//!
//! Pure. What is not here: reading these files.

use std::collections::{BTreeMap, BTreeSet};

/// What a guest needs to find its disks under KVM, in the order in which they are of use. Names with underscores, as the kernel shows them.
///
/// `virtio_net` is left out on purpose: a NIC that appears so early is named before the guest's own rules for names are there.
pub(super) const WANTED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"];
/// Without one of these there is no disk.
pub(super) const NEEDED: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// A kernel's modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Modules {
    /// By name: path below the kernel's directory, and the paths of what it needs.
    by_name: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// From the texts of `modules.dep` and `modules.builtin`.
    #[must_use]
    pub(super) fn parse(dep: &str, builtin: &str) -> Modules {
        let mut modules = Modules::default();
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            if let Some(name) = name_of(path) {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                modules.by_name.insert(name, (path.to_owned(), needs));
            }
        }
        modules.builtin = builtin.lines().filter_map(name_of).collect();
        modules
    }

    /// Whether a driver is part of the kernel itself.
    #[must_use]
    pub(super) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// Whether a driver is there in either form.
    #[must_use]
    pub(super) fn has(&self, name: &str) -> bool {
        self.is_builtin(name) || self.by_name.contains_key(name)
    }

    /// Of these drivers, those that are modules.
    #[must_use]
    pub(super) fn loadable<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        names
            .iter()
            .copied()
            .filter(|name| !self.is_builtin(name) && self.by_name.contains_key(*name))
            .collect()
    }

    /// Paths of what a module needs, below the kernel's directory.
    #[must_use]
    pub(super) fn needs(&self, name: &str) -> &[String] {
        self.by_name.get(name).map_or(&[], |(_, needs)| needs)
    }

    /// Paths of these modules and of all that they need, below the kernel's directory, sorted.
    ///
    /// A path that leads out of that directory is left out: the file comes from a guest.
    #[must_use]
    pub(super) fn files(&self, names: &[&str]) -> Vec<String> {
        let mut files = BTreeSet::new();
        let mut open: Vec<String> =
            names.iter().filter_map(|name| self.by_name.get(*name)).map(|(path, _)| path.clone()).collect();
        while let Some(path) = open.pop() {
            if !is_inside(&path) || !files.insert(path.clone()) {
                continue;
            }
            let needs = name_of(&path).and_then(|name| self.by_name.get(&name)).map(|(_, needs)| needs);
            open.extend(needs.into_iter().flatten().cloned());
        }
        files.into_iter().collect()
    }
}

fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !part.is_empty() && part != "..")
}

/// `kernel/drivers/block/virtio_blk.ko.xz` → `virtio_blk`; `None` for what is no module.
#[must_use]
pub(super) fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let endings = [".ko", ".ko.xz", ".ko.zst", ".ko.gz", ".ko.lz4"];
    let stem = endings.iter().find_map(|ending| file.strip_suffix(ending))?;
    Some(stem.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_legacy_dev.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci_legacy_dev.ko:
kernel/drivers/block/virtio_blk.ko.zst: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/net/net-failover.ko: ../../../etc/shadow
";

    #[test]
    fn a_module_brings_all_that_it_needs_and_each_once() {
        let modules = Modules::parse(DEP, "");
        assert_eq!(
            modules.files(&["virtio_pci", "virtio_blk"]),
            [
                "kernel/drivers/block/virtio_blk.ko.zst",
                "kernel/drivers/virtio/virtio.ko",
                "kernel/drivers/virtio/virtio_pci.ko",
                "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
                "kernel/drivers/virtio/virtio_ring.ko",
            ]
        );
    }

    #[test]
    fn a_driver_that_is_built_in_needs_no_file() {
        let modules = Modules::parse(DEP, "kernel/drivers/virtio/virtio_pci.ko\n");
        assert!(modules.has("virtio_pci") && modules.is_builtin("virtio_pci"));
        assert_eq!(modules.loadable(&WANTED), ["virtio_blk"]);
    }

    #[test]
    fn a_path_out_of_the_modules_directory_is_left_out() {
        let modules = Modules::parse(DEP, "");
        assert_eq!(modules.files(&["net_failover"]), ["kernel/drivers/net/net-failover.ko"]);
    }

    #[test]
    fn hyphens_and_underscores_are_the_same_in_a_name() {
        assert_eq!(name_of("a/b/virtio-rng.ko.xz").as_deref(), Some("virtio_rng"));
        assert_eq!(name_of("modules.dep"), None);
    }
}
