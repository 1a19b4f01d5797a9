//! A directory of disks: which of its files are disks, and whose.
//!
//! ```text
//!   files ─ by content ─▶ images ─ without extents and what others stand on ─▶ disks ─ by their names ─▶ machines
//! ```
//!
//! Nothing says what the machines are but the names of the files: what else there is to say is a manifest's. Directories below are not looked
//! into, and links are not followed. What is not here: whether a disk is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::disk::{Format, Needs, detect, files_alike, names_in};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Controller, Facts, FoundDisk};
use crate::model::grouping::{Grouping, natural_order};
use crate::model::plan::SourceFormat;
use crate::model::units::own_id;

/// A directory with more is none of disks.
const MOST_FILES: usize = 10_000;
/// Suffixes of disks whose content tells what they are …
const DISK_SUFFIXES: [&str; 9] = ["vmdk", "qcow2", "qcow", "vhd", "vhdx", "vdi", "avhd", "avhdx", "img"];
/// … and of those that are bytes as they are.
const RAW_SUFFIXES: [&str; 2] = ["raw", "img"];
/// Suffixes of what describes a machine better than a directory can.
const DESCRIPTIONS: [&str; 3] = ["vmx", "ovf", "ova"];
/// In one warning.
const MOST_NAMES: usize = 5;

/// An image in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    format: SourceFormat,
    has_parent: bool,
    /// What it stands on, if that lies in the directory too.
    parent: Option<String>,
}

/// What was found, by name.
#[derive(Debug, Default)]
struct Found {
    images: BTreeMap<String, Image>,
    /// Files that hold other images' data.
    extents: BTreeSet<String>,
    /// Files that look like disks by their names only, and why they are none.
    others: BTreeMap<String, String>,
    warnings: Vec<String>,
}

/// The machines whose disks lie there: one called like the directory, or those that the pattern tells apart.
pub(super) fn read(directory: &Path, group_by: Option<&str>) -> Result<Vec<Facts>> {
    machines(directory, group_by).map_err(|error| error.source(directory.display().to_string()))
}

fn machines(directory: &Path, group_by: Option<&str>) -> Result<Vec<Facts>> {
    let grouping = group_by.map(Grouping::new).transpose().map_err(|why| Error::new(Kind::Manifest, why))?;
    let found = look(directory)?;
    let mut warnings = found.warnings;
    let parents: BTreeSet<&String> =
        found.images.values().filter_map(|image| image.parent.as_ref()).collect();
    let disks: Vec<&String> = found
        .images
        .keys()
        .filter(|name| !parents.contains(name) && !found.extents.contains(*name))
        .collect();
    let unknown = found.others.iter().filter(|(name, _)| !found.extents.contains(*name));
    warnings.extend(unknown.map(|(name, why)| format!("`{}` is left out: {why}", name.escape_debug())));
    if disks.is_empty() {
        let why = warnings.first().map(|warning| format!(": {warning}")).unwrap_or_default();
        let error = Error::new(Kind::Source, format!("there is no disk in the directory{why}"))
            .advice("name a directory with disks in it; directories below are not looked into");
        return Err(
            error.allowed(DISK_SUFFIXES.iter().chain(["raw"].iter()).map(|suffix| format!("*.{suffix}")))
        );
    }

    let mut machines: BTreeMap<&str, Vec<(&str, &String)>> = BTreeMap::new();
    let mut strangers = Vec::new();
    let own_name = directory.file_name().and_then(|name| name.to_str()).unwrap_or("machine");
    for name in disks {
        let plain = plain_name(name, &found.images);
        match grouping.as_ref().map_or(Some((own_name, plain)), |grouping| grouping.tell(plain)) {
            Some((vm, disk)) => machines.entry(vm).or_default().push((disk, name)),
            None => strangers.push(name.escape_debug().to_string()),
        }
    }
    if machines.is_empty() {
        return Err(Error::new(
            Kind::Source,
            "`group_by` does not fit the name of any disk in the directory",
        )
        .advice("it is held against names without their suffixes")
        .allowed(strangers.into_iter().take(MOST_NAMES)));
    }
    if !strangers.is_empty() {
        let more = strangers.len().saturating_sub(MOST_NAMES);
        strangers.truncate(MOST_NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        warnings.push(format!(
            "disks are left out, for `group_by` does not fit them: `{}`{more}",
            strangers.join("`, `")
        ));
    }
    let mut facts: Vec<Facts> = machines
        .into_iter()
        .map(|(vm, disks)| machine(directory, vm, disks, &found.images, &warnings))
        .collect::<Result<_>>()?;
    facts.sort_by(|one, other| natural_order(&one.name, &other.name));
    Ok(facts)
}

/// One machine of these disks.
fn machine(
    directory: &Path,
    vm: &str,
    mut disks: Vec<(&str, &String)>,
    images: &BTreeMap<String, Image>,
    warnings: &[String],
) -> Result<Facts> {
    disks.sort_by(|one, other| natural_order(one.0, other.0).then_with(|| one.1.cmp(other.1)));
    let mut used: BTreeMap<&str, &str> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut facts = Facts { name: vm.to_owned(), warnings: warnings.to_vec(), ..Facts::default() };
    let mut last = None;
    for (unit, (disk, name)) in (0..).zip(disks) {
        // Two states of one disk would be two disks of one machine.
        for below in chain(name, images) {
            if let Some(other) = used.insert(below, name) {
                return Err(ambiguous(name, other, &format!("both stand on `{}`", below.escape_debug())));
            }
        }
        if let Some((_, other)) = last.replace((disk, name)).filter(|(before, _)| *before == disk) {
            return Err(ambiguous(
                name,
                other,
                &format!("both are disk `{}` of `{}`", disk.escape_debug(), vm.escape_debug()),
            ));
        }
        let Some(image) = images.get(name) else { continue };
        facts.disks.push(FoundDisk {
            id: own_id(name, &mut ids),
            path: directory.join(name),
            member: None,
            format: image.format,
            capacity_bytes: None,
            checksum: None,
            packing: None,
            piece_checksums: Vec::new(),
            allowed_paths: Vec::new(),
            is_chain: image.has_parent,
            controller: Controller::Other,
            bus: 0,
            unit,
        });
    }
    Ok(facts)
}

fn ambiguous(one: &str, other: &str, why: &str) -> Error {
    Error::new(Kind::Source, format!("`{}` and `{}` {why}", other.escape_debug(), one.escape_debug()))
        .advice("move the one that is not wanted away, or name the machine's disks in a manifest")
}

/// Looks at every file of the directory.
fn look(directory: &Path) -> Result<Found> {
    let unreadable = |error: std::io::Error| {
        Error::io(Kind::Source, "read", directory, &error)
            .advice("name a directory of disks that the service's user may read; relative paths count from the manifest's directory")
    };
    let real = directory.canonicalize().map_err(unreadable)?;
    let mut found = Found::default();
    for (count, entry) in fs::read_dir(directory).map_err(unreadable)?.enumerate() {
        if count >= MOST_FILES {
            return Err(Error::new(Kind::Source, format!("the directory has more than {MOST_FILES} files"))
                .advice("move the disks into a directory of their own"));
        }
        let entry = entry.map_err(unreadable)?;
        let file_type = entry.file_type().map_err(unreadable)?;
        let name = entry.file_name();
        let suffix = suffix(&name.to_string_lossy());
        let is_called_disk = [&DISK_SUFFIXES[..], &RAW_SUFFIXES].concat().contains(&suffix.as_str());
        let Some(name) = name.to_str() else {
            if is_called_disk {
                found.warnings.push(format!(
                    "`{}` is left out: its name is not UTF-8",
                    name.to_string_lossy().escape_debug()
                ));
            }
            continue;
        };
        if name.starts_with('.') || file_type.is_dir() {
            continue;
        }
        if DESCRIPTIONS.contains(&suffix.as_str()) && file_type.is_file() {
            found.warnings.push(format!(
                "`{}` describes a machine: name it instead of the directory to have what it says",
                name.escape_debug()
            ));
            continue;
        }
        if !file_type.is_file() {
            if is_called_disk {
                found.others.insert(name.to_owned(), "it is a link, and no file".to_owned());
            }
            continue;
        }
        match image(&real, name, &suffix, is_called_disk, &mut found) {
            Err(error) if is_called_disk => return Err(error),
            // Whatever it is, it does not have to be readable.
            _ => {}
        }
    }
    Ok(found)
}

/// Looks at a file: by content, because a chain goes on in files of any name.
fn image(directory: &Path, name: &str, suffix: &str, is_called_disk: bool, found: &mut Found) -> Result<()> {
    let path = directory.join(name);
    let detected = detect(&path)?.format;
    let mut out = |why: &str| {
        if is_called_disk {
            found.others.insert(name.to_owned(), why.to_owned());
        }
    };
    match detected.source_format() {
        // What VMware knows of changed blocks.
        Some(SourceFormat::Raw) if name.to_lowercase().ends_with("-ctk.vmdk") => {}
        Some(SourceFormat::Raw) if RAW_SUFFIXES.contains(&suffix) => {
            let image = Image { format: SourceFormat::Raw, has_parent: false, parent: None };
            found.images.insert(name.to_owned(), image);
        }
        Some(SourceFormat::Raw) => out("it is no disk by its content"),
        None if detected == Format::Empty => out("it is empty"),
        None => out(&format!("it is {}", detected.name())),
        Some(format) => {
            let (_, Needs { extents, parent, any_case, is_extent }) = names_in(&path)?;
            if is_extent {
                out("it is a part of a disk whose descriptor is not there");
            } else if is_called_disk || suffix == "raw" || parent.is_some() {
                let inside =
                    parent.as_deref().map(|parent| directory.join(parent)).and_then(
                        |below| match files_alike(&below).as_slice() {
                            [only] if any_case => name_in(directory, only),
                            _ => name_in(directory, &below),
                        },
                    );
                let image = Image { format, has_parent: parent.is_some(), parent: inside };
                found.images.insert(name.to_owned(), image);
            }
            found.extents.extend(extents.iter().filter_map(|extent| name_in(directory, Path::new(extent))));
        }
    }
    Ok(())
}

/// What a file is called there, if it lies in the directory.
fn name_in(directory: &Path, path: &Path) -> Option<String> {
    let real = directory.join(path).canonicalize().ok()?;
    (real.parent() == Some(directory)).then(|| real.file_name()?.to_str().map(str::to_owned)).flatten()
}

/// The disk and what it stands on, as far as that lies in the directory. Images that stand on one another in a circle end it.
fn chain<'i>(name: &'i str, images: &'i BTreeMap<String, Image>) -> Vec<&'i str> {
    let mut chain = vec![name];
    while let Some(parent) = chain.last().and_then(|last| images.get(*last)?.parent.as_deref()) {
        if chain.contains(&parent) {
            break;
        }
        chain.push(parent);
    }
    chain
}

/// A disk's name without its suffix. A snapshot is called like the disk that it was made of, with something behind: that counts for nothing.
fn plain_name<'i>(name: &'i str, images: &'i BTreeMap<String, Image>) -> &'i str {
    let own = stem(name);
    let is_name_of = |stem: &&str| {
        let behind = own.strip_prefix(stem);
        behind.is_some_and(|behind| !behind.starts_with(char::is_alphanumeric))
    };
    chain(name, images).into_iter().map(stem).rfind(is_name_of).unwrap_or(own)
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn suffix(name: &str) -> String {
    name.rsplit_once('.').map_or(String::new(), |(_, suffix)| suffix.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use tempfile::TempDir;

    fn folder(makers: &[&str]) -> TempDir {
        let directory = tempfile::Builder::new().prefix("rack").tempdir().unwrap();
        for words in makers {
            let words = format!("create -q {words}");
            let done = Command::new("qemu-img")
                .args(words.split(' '))
                .current_dir(directory.path())
                .output()
                .unwrap();
            assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
        }
        directory
    }

    fn ids(facts: &Facts) -> Vec<&str> {
        facts.disks.iter().map(|disk| disk.id.as_str()).collect()
    }

    fn refused(directory: &TempDir, group_by: Option<&str>) -> String {
        let error = read(directory.path(), group_by).unwrap_err();
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.details().advice.is_some(), "{error}");
        error.to_string()
    }

    #[test]
    fn the_disks_of_a_directory_are_one_machine_in_the_order_of_their_numbers() {
        let directory = folder(&[
            "-f qcow2 disk10.qcow2 8M",
            "-f vmdk -o subformat=twoGbMaxExtentSparse disk2.vmdk 3G",
            "-f vmdk -o subformat=monolithicFlat disk1.vmdk 8M",
            "-f raw disk3.img 8M",
            "-f raw notes.txt 1M",
            "-f raw odd.vhdx 1M",
        ]);
        std::fs::write(directory.path().join("disk1-ctk.vmdk"), "changed blocks").unwrap();
        std::fs::write(directory.path().join("web.vmx"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("disk0.vmdk")).unwrap();
        std::fs::create_dir(directory.path().join("below.vmdk")).unwrap();
        let machines = read(directory.path(), None).unwrap();
        let [machine] = machines.as_slice() else { panic!("{machines:?}") };
        assert_eq!(machine.name, directory.path().file_name().unwrap().to_str().unwrap());
        assert_eq!(ids(machine), ["disk1", "disk2", "disk3", "disk10"]);
        let formats: Vec<_> = machine.disks.iter().map(|disk| disk.format).collect();
        use SourceFormat::{Qcow2, Raw, Vmdk};
        assert_eq!(formats, [Vmdk, Vmdk, Raw, Qcow2]);
        assert!(machine.disks.iter().all(|disk| !disk.is_chain));
        assert_eq!(machine.warnings.len(), 3, "{:?}", machine.warnings);
        for word in ["web.vmx", "disk0.vmdk", "odd.vhdx"] {
            assert!(machine.warnings.iter().any(|warning| warning.contains(word)), "{:?}", machine.warnings);
        }
    }

    #[test]
    fn of_a_chain_the_last_is_the_disk_whatever_its_name() {
        let directory = folder(&[
            "-f vmdk a.vmdk 8M",
            "-f vmdk -b a.vmdk -F vmdk a-000001.vmdk",
            "-f vmdk -b a-000001.vmdk -F vmdk a-000002.vmdk",
            "-f raw b.raw 8M",
            "-f qcow2 -b b.raw -F raw b.snapshot1",
        ]);
        let machine = read(directory.path(), None).unwrap().remove(0);
        assert_eq!(ids(&machine), ["a-000002", "b"]);
        assert!(machine.disks[1].path.ends_with("b.snapshot1"));
        assert!(machine.disks.iter().all(|disk| disk.is_chain));

        let done = Command::new("qemu-img")
            .args(["create", "-q", "-f", "vmdk", "-b", "a.vmdk", "-F", "vmdk", "other.vmdk"])
            .current_dir(directory.path())
            .status();
        assert!(done.unwrap().success());
        assert!(refused(&directory, None).contains("both stand on `a.vmdk`"));
        let apart = read(directory.path(), Some("^(?<vm>.)(?<disk>.*)?$")).unwrap();
        assert_eq!(apart.len(), 1, "`a` and `b` have no disk by that pattern: {apart:?}");
    }

    #[test]
    fn names_tell_whose_disk_each_is() {
        let directory = folder(&[
            "-f qcow2 web-disk10.qcow2 8M",
            "-f qcow2 web-disk2.qcow2 8M",
            "-f vmdk db-disk1.vmdk 8M",
            "-f vmdk -b db-disk1.vmdk -F vmdk db-disk1-000001.vmdk",
            "-f qcow2 stray.qcow2 8M",
        ]);
        let pattern = r"^(?<vm>.+)-disk(?<disk>\d+)$";
        let machines = read(directory.path(), Some(pattern)).unwrap();
        let told: Vec<_> = machines.iter().map(|machine| (machine.name.as_str(), ids(machine))).collect();
        assert_eq!(told, [("db", vec!["db-disk1-000001"]), ("web", vec!["web-disk2", "web-disk10"])]);
        assert!(machines[0].warnings[0].contains("`stray.qcow2`"), "{:?}", machines[0].warnings);
        assert!(refused(&directory, Some("^(?<vm>x)(?<disk>y)$")).contains("does not fit"));
        assert!(
            refused(&directory, Some("^(?<vm>...)-(?<disk>disk)")).contains("both are disk `disk` of `web`")
        );
    }

    #[test]
    fn a_directory_without_a_disk_is_refused() {
        let directory = folder(&["-f vmdk -o subformat=twoGbMaxExtentSparse a.vmdk 3G"]);
        std::fs::remove_file(directory.path().join("a.vmdk")).unwrap();
        assert!(refused(&directory, None).contains("no disk"));
        std::fs::write(directory.path().join("a-s000.vmdk"), "").unwrap();
        assert!(refused(&directory, None).contains("`a-s000.vmdk` is left out: it is empty"));
        let gone = read(&directory.path().join("gone"), None).unwrap_err();
        assert_eq!(gone.kind(), Kind::Source);
    }
}
