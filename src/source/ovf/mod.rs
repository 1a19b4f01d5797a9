//! OVF descriptors: which machines an appliance has, what they are made of, and in which files their disks lie.
//!
//! Elements and attributes are told by their own names, whatever namespace a producer put them in, because producers do not agree: VMware,
//! VirtualBox, oVirt, XCP-ng and Amazon's export each read what their own tools write. What a document could do besides saying something
//! (document types, entities) is refused. What is not here: where the files are, and whether they are what is said of them.

mod machine;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::{Document, Node, ParsingOptions};

use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Controller, Facts};
use crate::model::plan::SourceFormat;

/// A descriptor of a hundred disks has some hundred KiB.
pub(super) const MOST_BYTES: usize = 16 << 20;
const MOST_NODES: u32 = 1 << 20;

/// A file that a descriptor names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileRef {
    /// As written, percent signs resolved.
    pub name: String,
    /// Its size, where the descriptor says it.
    pub bytes: Option<u64>,
    /// Whether it is packed with gzip.
    pub gzip: bool,
    /// In parts of so much, if it lies in several files (`name.000000000`, `name.000000001`, …).
    pub chunk_bytes: Option<u64>,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DescribedDisk {
    /// Its file; none: it is empty.
    pub file: Option<FileRef>,
    /// What the guest sees, in bytes; 0: not said.
    pub capacity: u64,
    /// Its format, where the descriptor names one that is known.
    pub format: Option<SourceFormat>,
    /// What it hangs on.
    pub controller: Controller,
    /// Which controller of its kind, counted from 0 in the descriptor's order.
    pub bus: u32,
    /// Where on the controller.
    pub unit: u32,
}

/// A machine of an appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// What it is, but for its disks.
    pub facts: Facts,
    /// Its disks, in the order in which its firmware sees them.
    pub disks: Vec<DescribedDisk>,
}

/// The machines of a descriptor; one at least.
pub(super) fn machines(bytes: &[u8]) -> Result<Vec<Described>> {
    if bytes.len() > MOST_BYTES {
        return Err(bad(&format!("it has more than {} MiB", MOST_BYTES >> 20)));
    }
    let text = decoded(bytes)?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(&text, options).map_err(|error| {
        let is_page = text.get(..256).unwrap_or(&text).to_ascii_lowercase().contains("<html");
        match error {
            _ if is_page => bad("it is a web page")
                .advice("the download gave a page instead of the appliance: fetch it again"),
            roxmltree::Error::DtdDetected => {
                bad("it has a document type, and those can read files and grow without end")
            }
            error => bad(&error.to_string()),
        }
    })?;
    let root = document.root_element();
    if root.tag_name().name() != "Envelope" {
        let found = root.tag_name().name().escape_debug().to_string();
        return Err(bad(&format!("it is a document of another kind (`{found}`)")));
    }
    let files = files(root)?;
    let disks = virtual_disks(root)?;
    let mut used = BTreeSet::new();
    let systems = root.descendants().filter(|node| is_system(*node));
    let machines: Vec<Described> =
        systems.map(|system| machine::machine(system, &files, &disks, &mut used)).collect::<Result<_>>()?;
    if machines.is_empty() {
        return Err(bad("it describes no machine"));
    }
    // To leave it out would be to lose it. A machine may name the file instead.
    let is_lost = |(id, disk): &(&String, &VirtualDisk)| {
        disk.file.as_ref().is_some_and(|file| !used.contains(*id) && !used.contains(file))
    };
    if let Some((id, _)) = disks.iter().find(is_lost) {
        return Err(bad(&format!("no machine of it has the disk `{}`", id.escape_debug())));
    }
    Ok(machines)
}

/// `VirtualSystem`, or what oVirt writes for it.
fn is_system(node: Node<'_, '_>) -> bool {
    node.tag_name().name() == "VirtualSystem"
        || node.tag_name().name() == "Content"
            && attribute(node, "type").is_some_and(|kind| kind.ends_with("VirtualSystem_Type"))
}

/// Text in what people's tools write: UTF-8, UTF-16, or, where the declaration says so, Latin-1.
fn decoded(bytes: &[u8]) -> Result<String> {
    let utf16 = |order: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(|pair| order([pair[0], pair[1]]));
        char::decode_utf16(units)
            .collect::<std::result::Result<String, _>>()
            .map_err(|_| bad("it is no UTF-16"))
    };
    match bytes {
        [0xff, 0xfe, ..] => return utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => return utf16(u16::from_be_bytes),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let head = bytes[..bytes.len().min(200)].to_ascii_lowercase();
    let says_latin = head.windows(10).any(|part| part == b"iso-8859-1")
        || head.windows(12).any(|part| part == b"windows-1252");
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) if says_latin => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Err(_) => Err(bad("it is not UTF-8")),
    }
}

fn files(root: Node<'_, '_>) -> Result<BTreeMap<String, FileRef>> {
    let mut files = BTreeMap::new();
    for node in root.descendants().filter(|node| node.tag_name().name() == "File") {
        let (Some(id), Some(href)) = (attribute(node, "id"), attribute(node, "href")) else { continue };
        let gzip = match attribute(node, "compression") {
            None | Some("" | "identity") => false,
            Some("gzip") => true,
            Some(other) => {
                return Err(bad(&format!("`{href}` is packed with `{other}`, which is not known")));
            }
        };
        let number = |name: &str| {
            attribute(node, name).map(|text| {
                text.parse::<u64>().map_err(|_| bad(&format!("`{name}` of `{href}` is no size: `{text}`")))
            })
        };
        let chunk_bytes = number("chunkSize").transpose()?.filter(|bytes| *bytes > 0);
        let file = FileRef { name: href_name(href)?, bytes: number("size").transpose()?, gzip, chunk_bytes };
        if files.insert(id.to_owned(), file).is_some() {
            return Err(bad(&format!("two of its files have the id `{id}`")));
        }
    }
    Ok(files)
}

/// A reference as the name of a file beside the descriptor.
fn href_name(href: &str) -> Result<String> {
    let refused = |why: &str| Err(bad(&format!("the file `{}` {why}", href.escape_debug())));
    if href.contains("://") {
        return refused("is somewhere else, and only what lies beside a descriptor is read");
    }
    let Some(name) = unescaped(href) else { return refused("has a name that makes no sense") };
    if name.starts_with('/') {
        return refused("has an absolute name");
    }
    if name.chars().any(|c| c.is_control() || c == '\\') {
        return refused("has characters in its name that no file name should have");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.contains(&"..") {
        return refused("lies outside of the appliance");
    }
    Ok(parts.join("/"))
}

/// `%20` → a space.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = behind;
            continue;
        }
        let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &behind[2..];
    }
    String::from_utf8(bytes).ok()
}

/// What the descriptor says of a disk by itself.
struct VirtualDisk {
    file: Option<String>,
    capacity: u64,
    format: Option<SourceFormat>,
}

fn virtual_disks(root: Node<'_, '_>) -> Result<BTreeMap<String, VirtualDisk>> {
    let mut disks = BTreeMap::new();
    let properties = properties(root);
    let is_disk =
        |node: &Node<'_, '_>| node.tag_name().name() == "Disk" && attribute(*node, "diskId").is_some();
    for node in root.descendants().filter(is_disk) {
        let id = attribute(node, "diskId").unwrap_or_default();
        if let Some(parent) = attribute(node, "parentRef").filter(|parent| !parent.is_empty()) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("disk `{id}` holds only what differs from disk `{parent}`"),
            )
            .advice("consolidate the machine's snapshots, then export it again"));
        }
        let unit = attribute(node, "capacityAllocationUnits").unwrap_or("byte");
        let capacity = attribute(node, "capacity").or_else(|| attribute(node, "size")).unwrap_or("0");
        let resolved = resolved(capacity, &properties);
        let capacity = resolved.and_then(|number| amount(number, unit)).ok_or_else(|| {
            bad(&format!("disk `{id}` is said to have `{capacity}` times `{unit}`, which is no size"))
        })?;
        let file = attribute(node, "fileRef").filter(|file| !file.is_empty()).map(str::to_owned);
        if disks.insert(id.to_owned(), VirtualDisk { file, capacity, format: format(node) }).is_some() {
            return Err(bad(&format!("two of its disks have the id `{id}`")));
        }
    }
    Ok(disks)
}

/// The format of a disk's file. oVirt names VMware's for all and its own beside it.
fn format(disk: Node<'_, '_>) -> Option<SourceFormat> {
    match attribute(disk, "volume-format") {
        Some("COW") => return Some(SourceFormat::Qcow2),
        Some("RAW") => return Some(SourceFormat::Raw),
        _ => {}
    }
    let named = attribute(disk, "format")?.to_lowercase();
    let known = [
        ("vmdk", SourceFormat::Vmdk),
        ("vhdx", SourceFormat::Vhdx),
        ("vhd", SourceFormat::Vhd),
        ("virtual-pc", SourceFormat::Vhd),
        ("qcow", SourceFormat::Qcow2),
        ("vdi", SourceFormat::Vdi),
        ("raw", SourceFormat::Raw),
    ];
    known.into_iter().find_map(|(word, format)| named.contains(word).then_some(format))
}

/// What the product's properties are when nobody says otherwise, by their full names.
fn properties<'d>(root: Node<'d, 'd>) -> BTreeMap<String, &'d str> {
    let property = |node: Node<'d, 'd>| {
        let product = node.parent_element().filter(|above| above.tag_name().name() == "ProductSection")?;
        let parts = [attribute(product, "class"), attribute(node, "key"), attribute(product, "instance")];
        let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        Some((parts.join("."), attribute(node, "value")?))
    };
    root.descendants().filter(|node| node.tag_name().name() == "Property").filter_map(property).collect()
}

/// What a value stands for: itself, or, as `${key}`, a property.
fn resolved<'d>(text: &'d str, properties: &BTreeMap<String, &'d str>) -> Option<&'d str> {
    match text.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
        Some(key) => properties.get(key).copied(),
        None => Some(text),
    }
}

/// `8` and `byte * 2^30` → 8 GiB. Names of units as older exporters write them are known too, and decimals that make whole bytes.
fn amount(number: &str, unit: &str) -> Option<u64> {
    let number = number.trim();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) {
        return None;
    }
    let bytes = unit_bytes(unit)?;
    let of_whole = whole.parse::<u64>().ok()?.checked_mul(bytes)?;
    let decimals = decimals.trim_end_matches('0');
    let (share, parts) = match decimals {
        "" => (0, 1),
        digits => (digits.parse::<u64>().ok()?, 10_u64.checked_pow(u32::try_from(digits.len()).ok()?)?),
    };
    let of_decimals = u128::from(share) * u128::from(bytes);
    if !of_decimals.is_multiple_of(u128::from(parts)) {
        return None;
    }
    of_whole.checked_add(u64::try_from(of_decimals / u128::from(parts)).ok()?)
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let mut factors = unit.split('*').map(str::trim);
    let base: u64 = match factors.next()?.to_ascii_lowercase().as_str() {
        "" | "byte" | "bytes" => 1,
        "kilobytes" | "kb" => 1 << 10,
        "megabytes" | "mb" => 1 << 20,
        "gigabytes" | "gb" => 1 << 30,
        "terabytes" | "tb" => 1 << 40,
        _ => return None,
    };
    factors.try_fold(base, |product, factor| {
        let factor = match factor.split_once('^') {
            Some((base, power)) => {
                base.trim().parse::<u64>().ok()?.checked_pow(power.trim().parse().ok()?)?
            }
            None => factor.parse().ok()?,
        };
        product.checked_mul(factor)
    })
}

fn attribute<'d>(node: Node<'d, 'd>, name: &str) -> Option<&'d str> {
    node.attributes().find(|attribute| attribute.name() == name).map(|attribute| attribute.value())
}

fn bad(why: &str) -> Error {
    Error::new(Kind::Source, format!("the OVF descriptor is refused: {why}"))
        .advice("export the appliance again, or give its disks one by one in a manifest")
        .permanent()
}
