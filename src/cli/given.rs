//! What a person names on the command line: a manifest, a disk, an appliance, a VMX, a libvirt domain or a directory of disks; told by
//! content where that can be.
//!
//! A disk or an appliance stands for a manifest that says what is known of it; that manifest is made here. What is not here: what
//! a manifest means, and how a VM on a server is named ([`super::remote`]).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::remote;
use crate::disk::{self, Format};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::plan::SourceFormat;
use crate::model::planner::Origin;
use crate::model::units::safe_id;
use crate::pipeline::described;
use crate::source;

/// Suffixes of files that hold a disk as it is, where the content cannot tell.
const RAW_SUFFIXES: [&str; 2] = ["raw", "img"];
/// What stands before the name of a domain of libvirt's.
const DOMAIN: &str = "libvirt://";

/// What an input is.
#[derive(Debug)]
pub(super) enum Given {
    /// Something that a person wrote.
    Manifest,
    /// A disk alone.
    Disk(SourceFormat),
    /// The machines that it describes.
    Machines(Vec<Facts>),
    /// A VM that a server knows: the manifest that it stands for, and the name of the file that it would be.
    Elsewhere(Box<Value>, String),
}

impl Given {
    /// Looks what an input is, which may be a VM of a server.
    pub(super) fn anywhere(input: &Path, settings: &Settings) -> Result<Given> {
        match remote::document(input, &settings.credentials)? {
            Some((document, filename)) => Ok(Given::Elsewhere(Box::new(document), filename)),
            None => Given::of(input, settings),
        }
    }

    /// Looks what an input is.
    pub(super) fn of(input: &Path, settings: &Settings) -> Result<Given> {
        if let Some(machines) = machines(input, settings)? {
            return Ok(Given::Machines(machines));
        }
        Ok(bare_disk(input)?.map_or(Given::Manifest, Given::Disk))
    }
}

/// The machines that an input describes, if it describes any.
pub(super) fn machines(input: &Path, settings: &Settings) -> Result<Option<Vec<Facts>>> {
    refuse_what_comes_later(input)?;
    let origin = origin(input, &settings.libvirt.uri)?;
    origin.map(|origin| described::machines(&origin, settings)).transpose()
}

/// The name of the domain that is meant, if an input names one of libvirt's: `libvirt://web`.
fn domain(input: &Path) -> Result<Option<&str>> {
    let Some(name) = input.to_str().and_then(|text| text.strip_prefix(DOMAIN)) else { return Ok(None) };
    match name.is_empty() || name.contains('/') {
        true => Err(Error::new(Kind::Source, format!("{} names no domain", input.display()))
            .advice("write `libvirt://NAME`, with a name of `hyper2kvm libvirt list`")),
        false => Ok(Some(name)),
    }
}

/// Whether an input is no file: what it is is asked elsewhere.
pub(super) fn is_elsewhere(input: &Path) -> bool {
    input.to_str().is_some_and(|text| text.starts_with(DOMAIN)) || remote::is_meant(input)
}

/// What describes machines there, if anything does: by its name, and archives and domains by their content too.
fn origin(input: &Path, libvirt_uri: &str) -> Result<Option<Origin>> {
    if let Some(name) = domain(input)? {
        return Ok(Some(Origin::LibvirtDomain { uri: libvirt_uri.to_owned(), name: name.to_owned() }));
    }
    let suffix = input.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
    if input.is_dir() {
        return Ok(Some(Origin::Folder { directory: absolute(input)?, group_by: None }));
    }
    let is_archive = || disk::detect(input).is_ok_and(|found| found.format == Format::Tar);
    Ok(match suffix.as_deref() {
        Some("ovf") => Some(Origin::Ovf(absolute(input)?)),
        Some("ova") => Some(Origin::Ova(absolute(input)?)),
        Some("vmx") => Some(Origin::Vmx(absolute(input)?)),
        Some("xml") => Some(Origin::LibvirtXml(absolute(input)?)),
        _ if source::is_domain(input) => Some(Origin::LibvirtXml(absolute(input)?)),
        _ if is_archive() => Some(Origin::Ova(absolute(input)?)),
        _ => None,
    })
}

/// The machines that are meant: that of a name, or all.
pub(super) fn chosen(machines: Vec<Facts>, name: Option<&str>, input: &Path) -> Result<Vec<Facts>> {
    let names: Vec<String> = machines.iter().map(Facts::plain_name).collect();
    let is_meant = |facts: &Facts| name.is_none_or(|name| facts.plain_name() == name);
    let meant: Vec<Facts> = machines.into_iter().filter(is_meant).collect();
    match meant.is_empty() {
        true => Err(Error::new(Kind::Source, format!("{} has no such machine", input.display()))
            .allowed(names)
            .advice("name one that it has with `--vm`")),
        false => Ok(meant),
    }
}

/// In a word, what describes the machines of an input.
pub(super) fn describer(input: &Path) -> &'static str {
    match input.extension() {
        _ if remote::is_meant(input) => "VM",
        _ if is_elsewhere(input) => "domain",
        _ if input.is_dir() => "directory",
        Some(suffix) if suffix.eq_ignore_ascii_case("vmx") => "VMX",
        Some(suffix) if suffix.eq_ignore_ascii_case("xml") => "domain",
        _ if source::is_domain(input) => "domain",
        _ => "appliance",
    }
}

/// The manifest that a machine stands for, and the name of the file that it would be.
pub(super) fn document_of_machine(facts: &Facts) -> (Value, String) {
    let mut document = json!({ "manifest_version": "1.0" });
    if let (Value::Object(into), Value::Object(from)) = (&mut document, facts.document()) {
        into.extend(from);
    }
    (document, format!("{}.yaml", safe_id(&facts.plain_name())))
}

/// Inputs that are not taken here, or by a later version.
pub(super) fn refuse_what_comes_later(input: &Path) -> Result<()> {
    let text = input.to_string_lossy();
    let what = match &text {
        text if text.starts_with(remote::VM) => "VMs on a vCenter here",
        text if text.starts_with(remote::ON_HOST) => "VMs on an ESXi host here",
        _ => return Ok(()),
    };
    Err(Error::new(
        Kind::Unsupported,
        format!("this version of hyper2kvm ({}) does not take {what} yet", env!("CARGO_PKG_VERSION")),
    )
    .source(text.clone())
    .advice("name its disks themselves, or write a manifest that names them"))
}

/// The format, if the input is a disk and not a manifest. Told by content; by name only where the content tells nothing.
pub(super) fn bare_disk(input: &Path) -> Result<Option<SourceFormat>> {
    let real = fs::canonicalize(input).map_err(|error| {
        Error::io(Kind::Source, "open", input, &error)
            .source(input.display().to_string())
            .advice("check the name")
    })?;
    let suffix = input.extension().map(|suffix| suffix.to_string_lossy().to_lowercase()).unwrap_or_default();
    let detected = disk::detect(&real)?;
    match detected.format.source_format() {
        Some(SourceFormat::Raw) if RAW_SUFFIXES.contains(&suffix.as_str()) => Ok(Some(SourceFormat::Raw)),
        Some(SourceFormat::Raw) => {
            // Says `vmdk` and is not: the person has to hear that, not that it is no YAML.
            let claimed = SourceFormat::ALL.into_iter().find(|known| known.name() == suffix);
            Ok(claimed)
        }
        Some(format) => Ok(Some(format)),
        None if detected.format == Format::Empty => {
            Err(Error::new(Kind::Source, format!("{} is empty", input.display()))
                .source(input.display().to_string())
                .advice("copy it again"))
        }
        None => Err(Error::new(
            Kind::Unsupported,
            format!("{} is {}, which is not converted", input.display(), detected.format.name()),
        )
        .source(input.display().to_string())
        .advice(match detected.format {
            Format::Gzip => "name the disk in a manifest, with `compression: gzip`, or unpack it",
            _ => "name a disk image or a manifest",
        })),
    }
}

/// The manifest that a disk alone stands for.
pub(super) fn document_of_disk(input: &Path, format: SourceFormat) -> Result<(Value, String)> {
    document_of_disks(input, &[disk_entry(input, format)?])
}

pub(super) fn disk_entry(disk: &Path, format: SourceFormat) -> Result<Value> {
    let path = absolute(disk)?;
    let id = safe_id(&path.file_stem().unwrap_or_default().to_string_lossy());
    Ok(json!({ "id": id, "source_format": format.name(), "local_path": path }))
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(Kind::Source, "resolve", path, &error))
}

/// A machine of these disks, named like the first.
pub(super) fn document_of_disks(first: &Path, disks: &[Value]) -> Result<(Value, String)> {
    let path = absolute(first)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let filename = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let document = json!({
        "manifest_version": "1.0",
        "name": stem,
        "disks": disks,
        // A disk alone becomes a disk alone.
        "options": { "report": { "enabled": false } },
    });
    Ok((document, filename))
}
