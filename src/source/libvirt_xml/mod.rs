//! Domains of libvirt: a machine as `virsh dumpxml` tells it, with its disks wherever they lie on this host.
//!
//! ```text
//!   file, or libvirt ─ text ─▶ tree ─ machine, cards, disks ─▶ facts, disks by name ─ here ─▶ disks that are there
//! ```
//!
//! What only libvirt knows (the XML of a domain that is named, where a volume lies, whether a machine runs) is asked through [`Libvirt`], which is
//! handed in. Unlike an appliance, a domain names files anywhere: none is touched that may not be read. What is not here: what a disk is made of.

mod cards;
mod disks;
mod machine;
mod text;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::Libvirt;
use super::plain::{self, NoFile};
use crate::disk::{detect, names_in};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Facts, FoundDisk};
use crate::model::manifest::values::normalised;
use crate::model::plan::SourceFormat;
use crate::sys::fs::{open_nofollow, parent_of};
use disks::{NamedDisk, NamedPlace};
use text::bad;

/// So much is enough to tell a domain, behind what libvirt writes above it.
const HEAD_BYTES: u64 = 4096;

/// What is asked and looked at for a domain.
#[derive(Clone, Copy)]
pub(super) struct Reach<'r> {
    pub(super) libvirt: &'r dyn Libvirt,
    /// Every disk has to lie below one of these; empty: bound only by permissions.
    pub(super) read_roots: &'r [PathBuf],
}

/// Where a domain's XML comes from.
#[derive(Clone, Copy)]
enum Told<'f> {
    /// A file: what is relative in it counts from its directory.
    File(&'f Path),
    /// This libvirt.
    Libvirt(&'f str),
}

/// Whether a file is the XML of a domain, by its content.
pub fn is_domain(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = open_nofollow(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    read.is_ok() && text::begins_domain(&head)
}

/// A domain is no manifest: whoever hands one over is told how it is named.
pub(super) fn refuse_as_manifest(bytes: &[u8]) -> Result<()> {
    match text::begins_domain(&bytes[..bytes.len().min(HEAD_BYTES as usize)]) {
        true => Err(Error::new(Kind::Unsupported, "it is the XML of a libvirt domain, and no manifest").advice(
            "hand over a manifest that names it: `source: {libvirt-xml: {path: …}}`; `hyper2kvm convert` takes the XML itself",
        )),
        false => Ok(()),
    }
}

/// The machine of a file.
pub(super) fn read_file(path: &Path, reach: Reach<'_>) -> Result<Vec<Facts>> {
    let read = || {
        let (mut facts, named) = described(&bytes(path)?)?;
        if facts.plain_name().is_empty() {
            path.file_stem().unwrap_or_default().to_string_lossy().into_owned().clone_into(&mut facts.name);
        }
        if reach.libvirt.runs(facts.uuid.as_deref(), &facts.name) {
            return Err(running(&facts.plain_name()));
        }
        with_disks(facts, &named, Told::File(path), reach)
    };
    read().map(|facts| vec![facts]).map_err(|error| error.source(path.display().to_string()))
}

/// The machine of a libvirt.
pub(super) fn read_domain(uri: &str, name: &str, reach: Reach<'_>) -> Result<Vec<Facts>> {
    let read = || {
        refuse_other_hosts(uri)?;
        let domain = reach.libvirt.domain(uri, name)?;
        if domain.runs {
            return Err(running(name));
        }
        let (mut facts, named) = described(domain.xml.as_bytes())?;
        if domain.is_saved {
            facts.warnings.push(
                "the machine was saved (`virsh managedsave`): what it had in memory stays behind; start it and shut it \
                 down first"
                    .to_owned(),
            );
        }
        with_disks(facts, &named, Told::Libvirt(uri), reach)
    };
    read().map(|facts| vec![facts]).map_err(|error| error.source(format!("{uri}: {name}")))
}

/// The same path on another host is another file.
fn refuse_other_hosts(uri: &str) -> Result<()> {
    let authority = uri.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    let host =
        authority.map(|authority| authority.rsplit('@').next().unwrap_or_default()).unwrap_or_default();
    match host {
        "" | "localhost" | "127.0.0.1" | "[::1]" => Ok(()),
        _ => Err(Error::new(
            Kind::Unsupported,
            format!("the machines of {uri} have their disks on another host"),
        )
        .advice(
            "run hyper2kvm there; or copy the disks here, and the XML (`virsh dumpxml --inactive NAME`), and name that \
             file",
        )),
    }
}

fn running(name: &str) -> Error {
    Error::new(Kind::Source, format!("the machine `{}` runs on this host", name.escape_debug()))
        .rule("disk.open_elsewhere")
        .advice("shut it down (`virsh shutdown`), and try again when it is off: its disks change as long as it runs")
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| {
        Error::io(Kind::Source, "read the domain XML", path, &error)
            .advice("check the path; relative ones count from the manifest's directory")
    };
    let (file, metadata) = plain::open(path).map_err(|why| match why {
        NoFile::Link => bad("it is a symbolic link").advice("name the file itself"),
        NoFile::NotPlain => bad("it is not a plain file").advice("name the XML of a domain"),
        NoFile::Failed(error) => failed(error),
    })?;
    if metadata.len() > text::MOST_BYTES {
        return Err(bad(&format!("it has more than {} MiB", text::MOST_BYTES >> 20)));
    }
    let mut bytes = Vec::new();
    file.take(text::MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn described(bytes: &[u8]) -> Result<(Facts, Vec<NamedDisk>)> {
    text::with_domain(bytes, |domain| {
        let mut facts = machine::machine(domain)?;
        cards::cards(domain, &mut facts)?;
        let disks = disks::disks(domain, &mut facts)?;
        Ok((facts, disks))
    })
}

fn with_disks(mut facts: Facts, named: &[NamedDisk], from: Told<'_>, reach: Reach<'_>) -> Result<Facts> {
    if named.is_empty() {
        return Err(bad("the machine has no disk").advice("name a domain that has one"));
    }
    let mut files = BTreeSet::new();
    for (unit, disk) in (0..).zip(named) {
        let (found, real) = found_disk(disk, unit, from, reach, &mut facts.warnings)?;
        if !files.insert(real) {
            return Err(bad(&format!("two of its disks are {}", found.path.display())));
        }
        facts.disks.push(found);
    }
    Ok(facts)
}

/// A disk that is there, and its file whatever leads to it.
fn found_disk(
    disk: &NamedDisk,
    unit: u32,
    from: Told<'_>,
    reach: Reach<'_>,
    warnings: &mut Vec<String>,
) -> Result<(FoundDisk, PathBuf)> {
    let whose = format!("its disk `{}`", disk.id);
    let (path, real) = here(&disk.place, &whose, from, reach)?;
    let mut allowed_paths = Vec::new();
    for place in disk.below.iter().flatten() {
        let below = format!("what {whose} stands on");
        let (path, real_below) = here(place, &below, from, reach)?;
        let directory = parent_of(&path).to_owned();
        let real_directory = parent_of(&real_below);
        let leads_there = directory.canonicalize().is_ok_and(|leads| leads == real_directory);
        let directory = if leads_there { directory } else { real_directory.to_owned() };
        if real_directory != parent_of(&real) && !allowed_paths.contains(&directory) {
            allowed_paths.push(directory);
        }
    }
    let found = detect(&real)?.format;
    if let (false, Some(other)) = (disk.is_format_said, found.source_format())
        && other != SourceFormat::Raw
    {
        warnings.push(format!(
            "the domain does not say that the disk `{}` is {}: it is read as libvirt does then, as bytes as they are",
            disk.id,
            found.name()
        ));
    }
    let is_chain = match &disk.below {
        Some(places) => !places.is_empty(),
        None => disk.format != SourceFormat::Raw && names_in(&real)?.1.parent.is_some(),
    };
    let found = FoundDisk {
        id: disk.id.clone(),
        path,
        member: None,
        packing: None,
        format: disk.format,
        capacity_bytes: None,
        checksum: None,
        piece_checksums: Vec::new(),
        is_chain,
        allowed_paths,
        controller: disk.controller,
        bus: 0,
        unit,
    };
    Ok((found, real))
}

/// The file at a place, as it is named and as it is; it is there, may be read, and is a plain one.
fn here(place: &NamedPlace, whose: &str, from: Told<'_>, reach: Reach<'_>) -> Result<(PathBuf, PathBuf)> {
    let named = match (place, from) {
        (NamedPlace::File(path), Told::File(xml)) => parent_of(xml).join(path),
        (NamedPlace::File(path), Told::Libvirt(_)) => PathBuf::from(path),
        (NamedPlace::Volume { pool, volume }, Told::File(_)) => reach.libvirt.volume(None, pool, volume)?,
        (NamedPlace::Volume { pool, volume }, Told::Libvirt(uri)) => {
            reach.libvirt.volume(Some(uri), pool, volume)?
        }
    };
    let path = normalised(&named);
    let shown = path.display();
    if !path.is_absolute() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{whose} is {shown}, which is no file of this host"),
        )
        .advice("copy it into a file of this host, and name that in a manifest"));
    }
    let is_open = |real: &Path, root: &PathBuf| {
        real.starts_with(root) || root.canonicalize().is_ok_and(|root| real.starts_with(root))
    };
    let may_be_read =
        |path: &Path| reach.read_roots.is_empty() || reach.read_roots.iter().any(|root| is_open(path, root));
    let outside = || {
        Error::new(Kind::Source, format!("{whose}, {shown}, does not lie below any of `paths.read`"))
            .rule("disk.outside")
            .allowed(reach.read_roots.iter().map(|root| root.display().to_string()))
            .advice("move it there, or have the administrator add its directory to `paths.read`")
    };
    if !may_be_read(&path) {
        return Err(outside());
    }
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(Kind::Source, format!("{whose} is not there: {shown}"))
            .rule("disk.missing")
            .advice("bring it there, or write in a copy of the XML where it lies"),
        _ => Error::io(Kind::Source, "open", &path, &error)
            .rule("disk.unreadable")
            .advice("let the user of hyper2kvm read it, and check the storage it lies on"),
    };
    let real = path.canonicalize().map_err(failed)?;
    if !may_be_read(&real) {
        return Err(outside());
    }
    let kind = real.metadata().map_err(failed)?.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        return Err(Error::new(Kind::Unsupported, format!("{whose} is the device {shown}, and only files are read"))
            .rule("disk.device")
            .advice(
                "copy it with `qemu-img convert -O qcow2 DEVICE FILE` while the machine is off, and name the file in a \
                 manifest",
            ));
    }
    if !kind.is_file() {
        return Err(Error::new(Kind::Source, format!("{whose} is not a plain file: {shown}"))
            .advice("name a file that holds a disk"));
    }
    open_nofollow(&real).map_err(failed)?;
    Ok((path, real))
}

#[cfg(test)]
mod tests;
