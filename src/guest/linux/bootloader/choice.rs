//! Which kernel starts: one that has virtio.
//!
//! A guest may have a kernel without virtio as its default and another with it. Then the other becomes the default, in the words of the
//! boot loader that is in use. What is not here: what is in a kernel (inspection tells), and drivers in initial RAM disks.

use super::files::{DEFAULT_GRUB, File, Format};
use super::{bls, extlinux, grub_cfg, grubenv, legacy, shell};
use crate::guest::facts::Facts;
use crate::guest::linux::text::{self, not_kept, short};
use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::{BootLoader, GuestKernel};

/// What is wanted of a kernel.
const DRIVERS: &str = "virtio's drivers";

/// Makes a kernel with virtio the default, if the default has none.
pub(super) fn apply(tree: &mut Tree, facts: &mut Facts, files: &[File]) -> Result<()> {
    let menus = Menus::read(tree, facts, files)?;
    let default = default_kernel(&menus, facts);
    let Some(wanted) = wanted(&facts.identity.kernels, default)? else { return Ok(()) };
    let why = format!(
        "{} starts now: {} has not {DRIVERS}",
        short(&wanted.version),
        default.map_or_else(|| "the default kernel".to_owned(), |kernel| short(&kernel.version)),
    );
    let version = wanted.version.clone();
    for edit in menus.with_default(wanted)? {
        tree.write(&edit.0, edit.1.as_bytes(), &why)?;
    }
    for kernel in &mut facts.identity.kernels {
        kernel.default = kernel.version == version;
    }
    Ok(())
}

/// Fails if the kernel that starts is known to lack virtio.
pub(super) fn verify(tree: &Tree, facts: &Facts, files: &[File]) -> Result<()> {
    let menus = Menus::read(tree, facts, files)?;
    match default_kernel(&menus, facts) {
        Some(kernel) if !kernel.virtio => {
            let path = menus.files.first().map_or("/boot", |(file, _)| file.path.as_str());
            Err(not_kept(path, &format!("{}, which starts, has not {DRIVERS}", short(&kernel.version))))
        }
        _ => Ok(()),
    }
}

fn default_kernel<'f>(menus: &Menus<'_>, facts: &'f Facts) -> Option<&'f GuestKernel> {
    let kernels = &facts.identity.kernels;
    let started = menus.default();
    let named =
        started.as_deref().and_then(|name| kernels.iter().find(|kernel| image_name(kernel) == Some(name)));
    named.or_else(|| kernels.iter().find(|kernel| kernel.default))
}

fn image_name(kernel: &GuestKernel) -> Option<&str> {
    kernel.image.as_deref()?.rsplit('/').next()
}

/// The kernel that is to become the default; `None` if all is well.
fn wanted<'f>(
    kernels: &'f [GuestKernel],
    default: Option<&'f GuestKernel>,
) -> Result<Option<&'f GuestKernel>> {
    let bootable =
        || kernels.iter().filter(|kernel| kernel.image.is_some() || kernel.unified_image.is_some());
    if bootable().next().is_none() || default.is_some_and(|kernel| kernel.virtio) {
        return Ok(None);
    }
    // Newest first, as they come; what is meant for mending and for finding faults comes last.
    let is_special =
        |kernel: &&GuestKernel| kernel.version.contains("rescue") || kernel.version.contains("debug");
    let best = bootable().filter(|kernel| kernel.virtio).min_by_key(is_special);
    match (best, default) {
        (None, _) => Err(Error::new(Kind::Guest, format!("no kernel of this guest has {DRIVERS}"))
            .advice(
                "install a kernel with virtio_blk and virtio_net in the source machine, or convert it without repair \
                 (`pipeline: {fix: {enabled: false}}`) and give it SATA and e1000e",
            )
            .permanent()),
        // Nothing says that another one starts than the newest.
        (Some(best), None) if bootable().next() == Some(best) => Ok(None),
        (best, _) => Ok(best),
    }
}

/// The menus of the loader that is in use.
struct Menus<'f> {
    loader: BootLoader,
    files: Vec<(&'f File, String)>,
    loader_conf: Option<(String, String)>,
    defaults: Option<String>,
}

impl<'f> Menus<'f> {
    fn read(tree: &Tree, facts: &Facts, files: &'f [File]) -> Result<Menus<'f>> {
        let has = |format: Format| files.iter().any(|file| file.format == format);
        let loader = match facts.identity.bootloader {
            BootLoader::Unknown if has(Format::GrubCfg) => BootLoader::Grub2,
            BootLoader::Unknown if has(Format::Bls) => BootLoader::SystemdBoot,
            BootLoader::Unknown if has(Format::Extlinux) => BootLoader::Extlinux,
            BootLoader::Unknown if has(Format::Legacy) => BootLoader::GrubLegacy,
            known => known,
        };
        let formats: &[Format] = match loader {
            BootLoader::Grub2 => &[Format::GrubCfg, Format::Grubenv, Format::Bls],
            BootLoader::SystemdBoot => &[Format::Bls],
            BootLoader::GrubLegacy => &[Format::Legacy],
            BootLoader::Extlinux => &[Format::Extlinux],
            BootLoader::Unknown => &[],
        };
        let mut menus = Menus { loader, files: Vec::new(), loader_conf: None, defaults: None };
        for file in files.iter().filter(|file| formats.contains(&file.format)) {
            if let Some(text) = text::read(tree, &file.path)? {
                menus.files.push((file, text));
            }
        }
        if loader == BootLoader::Grub2 {
            menus.defaults = text::read(tree, DEFAULT_GRUB)?;
        }
        let entry = menus.files.iter().find(|(file, _)| file.format == Format::Bls);
        if loader == BootLoader::SystemdBoot
            && let Some((directory, _)) = entry.and_then(|(file, _)| file.path.rsplit_once("/entries/"))
        {
            let path = format!("{directory}/loader.conf");
            let text = text::read(tree, &path)?.unwrap_or_default();
            menus.loader_conf = Some((path, text));
        }
        Ok(menus)
    }

    fn of(&self, format: Format) -> impl Iterator<Item = (&File, &str)> {
        self.files
            .iter()
            .filter(move |(file, _)| file.format == format)
            .map(|(file, text)| (*file, text.as_str()))
    }

    fn entries(&self) -> Vec<bls::Entry> {
        let id = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.strip_suffix(".conf").unwrap_or(name).to_owned()
        };
        self.of(Format::Bls).map(|(file, text)| bls::read(&id(&file.path), text)).collect()
    }

    /// GRUB 2's menu: the file that has one, or that reads entries from files of their own.
    fn grub(&self) -> Option<(&File, &str)> {
        self.of(Format::GrubCfg).find(|(_, text)| grub_cfg::default(text).is_some())
    }

    /// The file name of the kernel that starts, where the menus tell.
    fn default(&self) -> Option<String> {
        match self.loader {
            BootLoader::Grub2 => {
                let (_, text) = self.grub()?;
                let name = grub_cfg::default(text)?;
                let saved =
                    || self.of(Format::Grubenv).find_map(|(_, text)| grubenv::value(text, "saved_entry"));
                let name = if name.contains("saved_entry") { saved().unwrap_or("0") } else { name };
                let of_file = || self.entries().into_iter().find(|entry| entry.id == name)?.kernel;
                let menu = grub_cfg::menu(text);
                grub_cfg::find(&menu, name).and_then(|entry| entry.kernel.clone()).or_else(of_file)
            }
            BootLoader::SystemdBoot => {
                let name = bls::default(&self.loader_conf.as_ref()?.1)?;
                let name = name.strip_suffix(".conf").unwrap_or(name);
                self.entries().into_iter().find(|entry| entry.id == name)?.kernel
            }
            BootLoader::GrubLegacy => {
                let (_, text) = self.of(Format::Legacy).next()?;
                legacy::menu(text).into_iter().nth(legacy::default(text))?
            }
            BootLoader::Extlinux => {
                let (_, text) = self.of(Format::Extlinux).next()?;
                extlinux::default(text, &extlinux::menu(text))?.kernel.clone()
            }
            BootLoader::Unknown => None,
        }
    }

    /// Files with the content that makes a kernel the default.
    fn with_default(&self, kernel: &GuestKernel) -> Result<Vec<(String, String)>> {
        let missing = || {
            Error::new(
                Kind::Guest,
                format!(
                    "the kernel that starts has not {DRIVERS}, and {}, which has them, is not in the boot menu",
                    short(&kernel.version)
                ),
            )
            .advice("make a kernel with virtio the default in the source machine")
            .permanent()
        };
        let name = image_name(kernel).ok_or_else(missing)?;
        match self.loader {
            BootLoader::Grub2 => self.grub_with_default(name).ok_or_else(missing),
            BootLoader::SystemdBoot => {
                let (path, text) = self.loader_conf.as_ref().ok_or_else(missing)?;
                let id = self.entries().into_iter().find(|entry| entry.kernel.as_deref() == Some(name));
                Ok(vec![(path.clone(), bls::with_default(text, &id.ok_or_else(missing)?.id))])
            }
            BootLoader::GrubLegacy => {
                let (file, text) = self.of(Format::Legacy).next().ok_or_else(missing)?;
                let place = legacy::menu(text).iter().position(|kernel| kernel.as_deref() == Some(name));
                Ok(vec![(file.path.clone(), legacy::with_default(text, place.ok_or_else(missing)?))])
            }
            BootLoader::Extlinux => {
                let (file, text) = self.of(Format::Extlinux).next().ok_or_else(missing)?;
                let entry =
                    extlinux::menu(text).into_iter().find(|entry| entry.kernel.as_deref() == Some(name));
                Ok(vec![(file.path.clone(), extlinux::with_default(text, &entry.ok_or_else(missing)?.label))])
            }
            BootLoader::Unknown => Err(missing()),
        }
    }

    fn grub_with_default(&self, kernel: &str) -> Option<Vec<(String, String)>> {
        let (file, text) = self.grub()?;
        let menu = grub_cfg::menu(text);
        let starts = |entry: &&grub_cfg::Entry| entry.kernel.as_deref() == Some(kernel) && !entry.recovery;
        let of_menu = menu.iter().find(starts).and_then(grub_cfg::Entry::name);
        let of_file = || self.entries().into_iter().find(|entry| entry.kernel.as_deref() == Some(kernel));
        let name = of_menu.or_else(|| of_file().map(|entry| entry.id))?;
        let mut edits = Vec::new();
        if grub_cfg::default(text)?.contains("saved_entry") {
            for (block, text) in self.of(Format::Grubenv) {
                edits.extend(grubenv::set(text, "saved_entry", &name).map(|text| (block.path.clone(), text)));
            }
            // Without a block that can remember it, the menu itself has to say it.
            if !edits.is_empty() {
                return Some(edits);
            }
        }
        edits.push((file.path.clone(), grub_cfg::with_default(text, &name)));
        if let Some(defaults) = &self.defaults
            && shell::value(defaults, "GRUB_DEFAULT") != Some("saved")
        {
            edits.push((DEFAULT_GRUB.to_owned(), shell::set(defaults, "GRUB_DEFAULT", &name)));
        }
        Some(edits)
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
