//! Initial RAM disks: every kernel that can be started finds its disk under KVM.
//!
//! What lacks is appended as a small archive of the guest's own modules; the kernel unpacks one archive after the other. Nothing of the
//! guest is run, the old image stays as it is in front, and it takes a tenth of the time of making a new one. The guest's own tool is told
//! to keep the drivers. Afterwards each image is read back from the guest.
//!
//! ```text
//!   modules.dep ─▶ modules (what is needed) ┐
//!   image (what is there) ──────────────────┴▶ archive ─▶ appended ─▶ image, read again
//! ```
//!
//! A unified kernel image gets the same archive behind the one inside it; one that is signed is never rewritten. What is not here: which
//! kernel starts (see the boot loader's repair).

mod archive;
mod cpio;
mod depindex;
mod image;
mod keep;
mod lzo;
mod modules;
mod unified;

use archive::Plan;
use image::Image;
use modules::{Modules, NEEDED, WANTED};

use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::tree::{Tree, shown};
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::GuestKernel;

/// Larger images are not read.
const IMAGE_LIMIT_BYTES: u64 = 512 << 20;
/// What stays free in the file system of an image.
const SPARE_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Initramfs;

impl Fix for Initramfs {
    fn name(&self) -> &'static str {
        "initramfs"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        options.initramfs.then_some("every kernel's initial RAM disk gets virtio drivers, and keeps them")
    }

    fn applies(&self, facts: &Facts) -> bool {
        !facts.identity.kernels.is_empty()
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let kernels = guest.facts.identity.kernels.clone();
        let mut able = 0;
        let mut drivers: Vec<&'static str> = Vec::new();
        for kernel in kernels.iter().filter(|kernel| kernel.image.is_some() || kernel.unified_image.is_some())
        {
            match prepare(guest, kernel)? {
                Ready::Yes(loadable) => {
                    able += 1;
                    drivers.extend(
                        loadable.into_iter().filter(|driver| !drivers.contains(driver)).collect::<Vec<_>>(),
                    );
                }
                Ready::No(why) => {
                    guest.warnings.push(format!("the kernel {} cannot start here: {why}", kernel.version));
                }
            }
        }
        if able == 0 {
            return Err(Error::new(Kind::Guest, "no kernel of the guest can find its disk under KVM")
                .advice("install a kernel with virtio drivers in the source machine, or convert with `on_unsupported_guest: emulated`"));
        }
        drivers.sort_by_key(|driver| WANTED.iter().position(|wanted| wanted == driver));
        keep_drivers(guest, &drivers)
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let kernels = &guest.facts.identity.kernels;
        for kernel in kernels {
            let Some(modules) = modules_of(&guest.tree, kernel)? else { continue };
            if NEEDED.iter().any(|driver| !modules.has(driver)) {
                continue;
            }
            let Some((path, image)) = started_with(&guest.tree, kernel)? else { continue };
            let lacking = lacking(&image, kernel, &modules);
            if lacking.iter().any(|driver| NEEDED.contains(driver)) {
                return Err(Error::new(
                    Kind::Guest,
                    format!("{path} was repaired and still lacks {}", lacking.join(", ")),
                )
                .advice("report this with the job's bundle: it is a defect of hyper2kvm"));
            }
        }
        Ok(())
    }
}

/// Fails unless the kernel that starts if nobody chooses finds its disk: the proof of repairs that others made.
pub(in crate::guest) fn check_default(tree: &Tree, facts: &Facts) -> Result<()> {
    let kernels = &facts.identity.kernels;
    let Some(kernel) = kernels.iter().find(|kernel| kernel.default).or(kernels.first()) else {
        return Ok(());
    };
    let Some(modules) = modules_of(tree, kernel)? else { return Ok(()) };
    let Some((path, image)) = started_with(tree, kernel)? else { return Ok(()) };
    let lacking = lacking(&image, kernel, &modules);
    match lacking.iter().find(|driver| NEEDED.contains(driver)) {
        None => Ok(()),
        Some(driver) => Err(Error::new(
            Kind::Guest,
            format!("{} would not find its disk: {path} lacks {driver}", kernel.version),
        )
        .field("pipeline.fix.engine")
        .advice("`engine: native` repairs initial RAM disks itself")),
    }
}

enum Ready {
    /// With these drivers as modules.
    Yes(Vec<&'static str>),
    No(String),
}

/// The initial RAM disk that a kernel starts with, and where it is; `None` where there is none, or it is signed and not ours to judge.
fn started_with<'k>(tree: &Tree, kernel: &'k GuestKernel) -> Result<Option<(&'k str, Image)>> {
    if let Some(path) = &kernel.unified_image {
        let Some(bytes) = tree.read_large(path, IMAGE_LIMIT_BYTES)? else { return Ok(None) };
        if unified::is_signed(&bytes).map_err(|error| unreadable(path, &error))? {
            return Ok(None);
        }
        return Ok(Some((path, inside(path, &bytes)?)));
    }
    let Some(path) = &kernel.initramfs else { return Ok(None) };
    Ok(Some((path, read_image(tree, path)?)))
}

/// Gives one kernel's image what it lacks.
fn prepare(guest: &mut Guest<'_>, kernel: &GuestKernel) -> Result<Ready> {
    let Some(modules) = modules_of(&guest.tree, kernel)? else {
        return Ok(Ready::No("its modules are not there".to_owned()));
    };
    if let Some(driver) = NEEDED.iter().find(|driver| !modules.has(driver)) {
        return Ok(Ready::No(format!("it has no driver {driver}")));
    }
    let loadable = modules.loadable(&WANTED);
    if let Some(unified) = &kernel.unified_image {
        return prepare_unified(guest, unified, kernel, &modules, loadable);
    }
    let Some(path) = &kernel.initramfs else {
        return Ok(match loadable.iter().any(|driver| NEEDED.contains(driver)) {
            true => Ready::No("it has no initial RAM disk, and its virtio drivers are modules".to_owned()),
            false => Ready::Yes(loadable),
        });
    };
    let image = read_image(&guest.tree, path)?;
    let lacking = lacking(&image, kernel, &modules);
    if !lacking.is_empty() {
        append(guest, kernel, path, &image, &modules, &lacking)?;
    }
    Ok(Ready::Yes(loadable))
}

fn modules_of(tree: &Tree, kernel: &GuestKernel) -> Result<Option<Modules>> {
    let Some(directory) = &kernel.modules else { return Ok(None) };
    let Some(dep) = tree.read(&format!("{directory}/modules.dep"))? else { return Ok(None) };
    let builtin = tree.read(&format!("{directory}/modules.builtin"))?.unwrap_or_default();
    Ok(Some(Modules::parse(&String::from_utf8_lossy(&dep), &String::from_utf8_lossy(&builtin))))
}

/// Which of the wanted drivers an image should have and has not.
fn lacking(image: &Image, kernel: &GuestKernel, modules: &Modules) -> Vec<&'static str> {
    modules
        .loadable(&WANTED)
        .into_iter()
        .filter(|driver| !image.has_module(&kernel.version, driver))
        .collect()
}

fn read_image(tree: &Tree, path: &str) -> Result<Image> {
    let bytes = tree.read_large(path, IMAGE_LIMIT_BYTES)?.ok_or_else(|| {
        Error::new(Kind::Guest, format!("{} of the guest is not there", shown(path)))
            .advice("its kernel would not start: make its initial RAM disk in the source machine")
    })?;
    image::read(&bytes, &|_| false).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &str, error: &std::io::Error) -> Error {
    Error::new(Kind::Guest, format!("{} of the guest cannot be read: {error}", shown(path)))
        .advice("make that initial RAM disk anew in the source machine, packed with gzip, xz or zstd")
        .permanent()
}

fn append(
    guest: &mut Guest<'_>,
    kernel: &GuestKernel,
    path: &str,
    image: &Image,
    modules: &Modules,
    lacking: &[&str],
) -> Result<()> {
    let archive = archive_of(&guest.tree, kernel, path, image, modules, lacking)?;
    check_room(&guest.tree, path, archive.len())?;
    guest.tree.append_aligned(path, &archive, &appended(lacking, &archive))
}

fn appended(lacking: &[&str], archive: &[u8]) -> String {
    format!("appended {} ({} bytes)", lacking.join(", "), archive.len())
}

/// The guest's own modules that an image lacks.
fn archive_of(
    tree: &Tree,
    kernel: &GuestKernel,
    path: &str,
    image: &Image,
    modules: &Modules,
    lacking: &[&str],
) -> Result<Vec<u8>> {
    let Some(directory) = &kernel.modules else { return Ok(Vec::new()) };
    let plan = Plan::new(image, &kernel.version, modules, lacking);
    let mut contents = Vec::with_capacity(plan.files.len());
    for file in &plan.files {
        let file = format!("{directory}/{file}");
        let content = tree.read(&file)?.ok_or_else(|| {
            Error::new(Kind::Guest, format!("{} of the guest is not there", shown(&file)))
                .advice("install that kernel's package again in the source machine")
        })?;
        contents.push(content);
    }
    let mut tables = Vec::new();
    for name in archive::TABLES {
        if let Some(content) = tree.read(&format!("{directory}/{name}"))? {
            tables.push((name, content));
        }
    }
    plan.build(modules, &contents, &tables).map_err(|error| unreadable(path, &error))
}

fn check_room(tree: &Tree, path: &str, more: usize) -> Result<()> {
    let room = tree.room(path)?;
    let needed = more as u64 + SPARE_BYTES;
    if room.free_bytes >= needed {
        return Ok(());
    }
    Err(Error::new(
        Kind::Guest,
        format!(
            "there is no room beside {} in the guest: {needed} bytes are needed, {} are free",
            shown(path),
            room.free_bytes
        ),
    )
    .advice("remove old kernels in the source machine, or grow that file system"))
}

/// The same for a kernel that is one file with its initial RAM disk.
fn prepare_unified(
    guest: &mut Guest<'_>,
    path: &str,
    kernel: &GuestKernel,
    modules: &Modules,
    loadable: Vec<&'static str>,
) -> Result<Ready> {
    let Some(bytes) = guest.tree.read_large(path, IMAGE_LIMIT_BYTES)? else {
        return Ok(Ready::No(format!("{path} is not there")));
    };
    let image = inside(path, &bytes)?;
    let lacking = lacking(&image, kernel, modules);
    if lacking.is_empty() {
        return Ok(Ready::Yes(loadable));
    }
    if unified::is_signed(&bytes).map_err(|error| unreadable(path, &error))? {
        return Ok(match lacking.iter().any(|driver| NEEDED.contains(driver)) {
            true => Ready::No(format!(
                "{path} is a signed unified kernel image without {}, and such images are never rewritten: make it anew in the source machine with these drivers",
                lacking.join(", ")
            )),
            false => Ready::Yes(loadable),
        });
    }
    let archive = archive_of(&guest.tree, kernel, path, &image, modules, &lacking)?;
    let changed = unified::with_archive(&bytes, &archive).map_err(|error| unreadable(path, &error))?;
    check_room(&guest.tree, path, changed.len() - bytes.len())?;
    guest.tree.replace_large(path, &changed, &appended(&lacking, &archive))?;
    Ok(Ready::Yes(loadable))
}

/// What a unified kernel image has for an initial RAM disk.
fn inside(path: &str, bytes: &[u8]) -> Result<Image> {
    let initramfs = unified::initramfs(bytes).map_err(|error| unreadable(path, &error))?;
    image::read(initramfs, &|_| false).map_err(|error| unreadable(path, &error))
}

/// Tells the guest's tool.
fn keep_drivers(guest: &mut Guest<'_>, drivers: &[&str]) -> Result<()> {
    let Some(kept) = keep::place(guest.facts.identity.initramfs_tool) else { return Ok(()) };
    if drivers.is_empty() {
        return Ok(());
    }
    let there = guest.tree.read_text(kept.path)?;
    if there.is_none() && !kept.create {
        return Ok(());
    }
    let changed = (kept.change)(there.as_deref().unwrap_or(""), drivers);
    guest.tree.write(kept.path, changed.as_bytes(), "its next initial RAM disk has virtio drivers too")
}
