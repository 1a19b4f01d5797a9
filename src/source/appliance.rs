//! Appliances: an OVF descriptor with its disks, in an archive (OVA) or a directory.
//!
//! ```text
//!   archive or directory ─ shelf ─▶ descriptor ─ ovf ─▶ machines ─┐
//!                                 ▶ list of checksums ─ sums ─────┴▶ facts: each disk with the place of its bytes
//! ```
//!
//! Nothing is unpacked, and of the disks only their beginnings are read. The descriptor's own checksum is held against it here; those of the
//! disks go with them, to be checked by whoever reads all of them. What is not here: the syntax of each part.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;

use super::ovf::{self, Described, DescribedDisk, FileRef};
use super::place::unpacked;
use super::shelf::{self, Item, Shelf, Whole, piece_name};
use super::sums::{self, Sums};
use crate::disk::verify;
use crate::disk::{Format, detect};
use crate::model::checksum;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Facts, FoundDisk};
use crate::model::plan::{Packing, SourceFormat};
use crate::model::units::own_id;

/// The machines of an OVA.
pub(super) fn read_archive(path: &Path) -> Result<Vec<Facts>> {
    shelf::open(path)?;
    let found = detect(path)?.format;
    if found != Format::Tar {
        let advice = match found {
            Format::Gzip | Format::Xz | Format::Zstd | Format::Zip => "unpack it first",
            Format::Html => "the download gave a page instead of the appliance: fetch it again",
            _ => "name an OVA: a tar archive of an OVF descriptor and its disks",
        };
        let error = bad(&format!("it is {}, and no tar archive", found.name())).advice(advice);
        return Err(error.source(path.display().to_string()));
    }
    let shelf = Shelf::of_archive(path)?;
    let descriptors: Vec<&str> = shelf.names().filter(|name| has_suffix(name, ".ovf")).collect();
    let descriptor = match descriptors.as_slice() {
        [one] => (*one).to_owned(),
        [] => {
            return Err(bad("it has no descriptor (`.ovf`)")
                .advice("name an OVA: a tar archive of an OVF descriptor and its disks"));
        }
        [one, two, ..] => {
            return Err(bad(&format!(
                "it has two descriptors, `{}` and `{}`",
                one.escape_debug(),
                two.escape_debug()
            )));
        }
    };
    read(&shelf, &descriptor).map_err(|error| error.source(path.display().to_string()))
}

/// The machines of an OVF with its disks beside it.
pub(super) fn read_folder(path: &Path) -> Result<Vec<Facts>> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| bad("its name is not UTF-8"))?;
    read(&Shelf::of_folder(path, Whole::Appliance), name)
        .map_err(|error| error.source(path.display().to_string()))
}

/// The names of the files of an OVF's disks.
pub(super) fn disks_named(path: &Path) -> Result<Vec<String>> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| bad("its name is not UTF-8"))?;
    let text =
        Shelf::of_folder(path, Whole::Appliance).read(name, ovf::MOST_BYTES as u64)?.unwrap_or_default();
    let machines = ovf::machines(&text)?;
    let disks = machines.into_iter().flat_map(|machine| machine.disks);
    let files: Vec<FileRef> = disks.filter_map(|disk| disk.file).collect();
    match files.iter().find(|file| file.chunk_bytes.is_some()) {
        None => Ok(files.into_iter().map(|file| file.name).collect()),
        Some(file) => Err(Error::new(
            Kind::Unsupported,
            format!("the disk `{}` lies in pieces beside the descriptor", file.name.escape_debug()),
        )
        .advice("put the appliance into a directory of its own and drop a manifest that names it, or pack it as an OVA")),
    }
}

fn read(shelf: &Shelf, descriptor: &str) -> Result<Vec<Facts>> {
    let text = shelf
        .read(descriptor, ovf::MOST_BYTES as u64)?
        .ok_or_else(|| bad(&format!("its descriptor `{}` is not there", descriptor.escape_debug())))?;
    let mut warnings = Vec::new();
    let sums = listed_sums(shelf, descriptor, &mut warnings)?;
    if let Some(expected) = sums.as_ref().and_then(|sums| sums.of(descriptor)) {
        let expected = checksum::parse(expected);
        let found = expected.map(|(algorithm, _)| verify::digest_of(&text, algorithm));
        if let (Some((_, expected)), Some(found)) = (expected, found)
            && !found.eq_ignore_ascii_case(expected)
        {
            return Err(bad(&format!(
                "the checksum of its descriptor is {found}, and its list says {expected}"
            )));
        }
    }
    let machines = ovf::machines(&text)?;
    let facts = machines.into_iter().map(|machine| facts(shelf, machine, sums.as_ref(), &warnings));
    facts.collect()
}

/// The list of checksums beside the descriptor, if there is one.
fn listed_sums(shelf: &Shelf, descriptor: &str, warnings: &mut Vec<String>) -> Result<Option<Sums>> {
    let stem = descriptor.rsplit_once('.').map_or(descriptor, |(stem, _)| stem);
    let beside = |suffix: &str| {
        let any = shelf.names().find(|name| has_suffix(name, suffix)).map(str::to_owned);
        any.unwrap_or_else(|| format!("{stem}{suffix}"))
    };
    if shelf.get(&beside(".cert"))?.is_some() {
        warnings.push("the appliance is signed; who signed it is not checked".to_owned());
    }
    let list = beside(".mf");
    let Some(bytes) = shelf.read(&list, sums::MOST_BYTES)? else { return Ok(None) };
    let sums = Sums::parse(&bytes)?;
    for name in sums.names() {
        if shelf.get(name)?.is_none() {
            return Err(bad(&format!(
                "its list of checksums names `{}`, which is not there",
                name.escape_debug()
            )));
        }
    }
    let is_listed = |name: &&str| sums.of(name).is_some() || **name == list || has_suffix(name, ".cert");
    if let Some(unlisted) = shelf.names().find(|name| !is_listed(name)) {
        warnings.push(format!("`{}` is not in the appliance's list of checksums", unlisted.escape_debug()));
    }
    Ok(Some(sums))
}

fn facts(shelf: &Shelf, machine: Described, sums: Option<&Sums>, warnings: &[String]) -> Result<Facts> {
    let mut facts = Facts { warnings: warnings.to_vec(), ..machine.facts };
    let mut ids = BTreeSet::new();
    for disk in machine.disks {
        let Some(file) = &disk.file else {
            facts.warnings.push(format!(
                "a disk of {} bytes has no file, for it is empty: it is left out",
                disk.capacity
            ));
            continue;
        };
        let found = found_disk(shelf, &disk, file, sums, &mut ids, &mut facts.warnings)?;
        facts.disks.push(found);
    }
    if facts.disks.is_empty() {
        return Err(bad(&format!("the machine `{}` has no disk with anything in it", facts.plain_name())));
    }
    Ok(facts)
}

fn found_disk(
    shelf: &Shelf,
    disk: &DescribedDisk,
    file: &FileRef,
    sums: Option<&Sums>,
    ids: &mut BTreeSet<String>,
    warnings: &mut Vec<String>,
) -> Result<FoundDisk> {
    let shown = file.name.escape_debug();
    let (item, called) = match file.chunk_bytes {
        None => (shelf.get(&file.name)?, file.name.clone()),
        // The first piece that can be missing.
        Some(chunk) => (shelf.joined(&file.name, Some(chunk))?, piece_name(&file.name, 0)),
    };
    let item = item.ok_or_else(|| {
        let called = called.escape_debug();
        bad(&format!("its disk `{called}` is not there"))
            .advice("copy or download all files of the appliance")
    })?;
    match file.bytes {
        Some(said) if item.bytes != said && file.chunk_bytes.is_some() => {
            return Err(wrong_pieces(file, &item, said));
        }
        Some(said) if item.bytes < said => {
            return Err(bad(&format!(
                "its disk `{shown}` is cut off: it has {} bytes of {said}",
                item.bytes
            )));
        }
        Some(said) if item.bytes > said => {
            warnings.push(format!("`{shown}` has {} bytes, and the descriptor says {said}", item.bytes));
        }
        _ => {}
    }
    let packing = file.gzip.then_some(Packing::Gzip);
    let plain_name = match packing {
        Some(Packing::Gzip) => file.name.strip_suffix(".gz").unwrap_or(&file.name),
        None => &file.name,
    };
    let (checksum, piece_checksums) = match (sums, file.chunk_bytes) {
        (None, _) => (None, Vec::new()),
        (Some(sums), None) => (sums.of(&file.name).map(str::to_owned), Vec::new()),
        (Some(sums), Some(_)) => (None, sums_of_pieces(sums, file, &item, warnings)),
    };
    let format = match disk.format.or_else(|| by_suffix(plain_name)) {
        Some(format) => format,
        None => {
            let found = detect(unpacked(item.place.clone(), packing, Some(disk.capacity)))?.format;
            let other = || bad(&format!("its disk `{shown}` is {}", found.name()));
            found.source_format().ok_or_else(other)?
        }
    };
    Ok(FoundDisk {
        id: own_id(plain_name, ids),
        path: item.place.path,
        member: item.place.member.map(|member| member.name),
        packing,
        format,
        capacity_bytes: Some(disk.capacity).filter(|bytes| *bytes > 0),
        checksum,
        piece_checksums,
        allowed_paths: Vec::new(),
        is_chain: false,
        controller: disk.controller,
        bus: disk.bus,
        unit: disk.unit,
    })
}

/// Pieces that do not make the file that is described: which of them that is to be seen by.
fn wrong_pieces(file: &FileRef, item: &Item, said: u64) -> Error {
    let pieces = item.place.pieces().len();
    let chunk = file.chunk_bytes.unwrap_or_default().max(1);
    let wanted = usize::try_from(said.div_ceil(chunk)).unwrap_or(usize::MAX);
    let why = match wanted.cmp(&pieces) {
        Ordering::Greater => format!("its disk lacks the piece `{}`", piece_name(&file.name, pieces)),
        Ordering::Less => format!("it has a piece too much: `{}`", piece_name(&file.name, wanted)),
        Ordering::Equal => format!("the piece `{}` is not whole", piece_name(&file.name, pieces - 1)),
    };
    bad(&format!("{}; `{}` has {} bytes of {said}", why.escape_debug(), file.name.escape_debug(), item.bytes))
        .advice("copy or download all files of the appliance")
}

/// The checksums of all pieces; none, with a warning, if one is not listed.
fn sums_of_pieces(sums: &Sums, file: &FileRef, item: &Item, warnings: &mut Vec<String>) -> Vec<String> {
    let names = (0..item.place.pieces().len()).map(|number| piece_name(&file.name, number));
    let found: Option<Vec<String>> = names.map(|name| sums.of(&name).map(str::to_owned)).collect();
    found.unwrap_or_else(|| {
        let shown = file.name.escape_debug();
        warnings.push(format!(
            "the list of checksums does not have all pieces of `{shown}`: they are not checked"
        ));
        Vec::new()
    })
}

fn by_suffix(name: &str) -> Option<SourceFormat> {
    let (_, suffix) = name.rsplit_once('.')?;
    SourceFormat::ALL.into_iter().find(|format| suffix.eq_ignore_ascii_case(format.name()))
}

fn has_suffix(name: &str, suffix: &str) -> bool {
    name.len() > suffix.len() && name.to_ascii_lowercase().ends_with(suffix)
}

fn bad(why: &str) -> Error {
    Error::new(Kind::Source, format!("the appliance is refused: {why}"))
        .advice("export or download the appliance again")
        .permanent()
}
