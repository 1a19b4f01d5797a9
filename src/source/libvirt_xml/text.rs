//! The XML of a domain as a tree: read within bounds, and without what a document could do besides saying something.
//!
//! What is not here: what the elements mean.

use roxmltree::{Document, Node, ParsingOptions};

use crate::model::error::{Error, Kind, Result};

/// A domain with hundreds of disks has some hundred KiB …
pub(super) const MOST_BYTES: u64 = 4 << 20;
/// … and some ten thousand elements, attributes and texts.
const MOST_NODES: u32 = 50_000;

/// Reads a domain's XML, and does this with its root.
pub(super) fn with_domain<T>(bytes: &[u8], read: impl FnOnce(Node<'_, '_>) -> Result<T>) -> Result<T> {
    if bytes.len() as u64 > MOST_BYTES {
        return Err(bad(&format!("it has more than {} MiB", MOST_BYTES >> 20)));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| match error {
        roxmltree::Error::DtdDetected => {
            bad("it has a document type, and those can read files and grow without end")
        }
        roxmltree::Error::NodesLimitReached => {
            bad(&format!("it has more than {MOST_NODES} elements and texts"))
        }
        error => bad(&error.to_string()),
    })?;
    let root = document.root_element();
    if !root.has_tag_name("domain") {
        let found = root.tag_name().name().escape_debug().to_string();
        return Err(bad(&format!("it is a document of another kind (`{found}`)")));
    }
    read(root)
}

/// Whether this is how the XML of a domain begins, behind comments and what else may stand before the first element.
pub(super) fn begins_domain(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head));
    let mut rest = text.trim_start();
    loop {
        let end = match rest {
            rest if rest.starts_with("<!--") => "-->",
            rest if rest.starts_with("<?") => "?>",
            _ => break,
        };
        let Some((_, behind)) = rest.split_once(end) else { return false };
        rest = behind.trim_start();
    }
    // One with a document type is told as a domain, and refused as one.
    let name = rest.strip_prefix("<!DOCTYPE").map(str::trim_start).or_else(|| rest.strip_prefix('<'));
    let behind = name.and_then(|name| name.strip_prefix("domain"));
    behind.is_some_and(|behind| behind.starts_with(|c: char| c.is_ascii_whitespace() || "/>[".contains(c)))
}

/// The first child of that name.
pub(super) fn child<'d>(node: Node<'d, 'd>, name: &str) -> Option<Node<'d, 'd>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// All children of that name.
pub(super) fn children<'d>(node: Node<'d, 'd>, name: &'static str) -> impl Iterator<Item = Node<'d, 'd>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

/// What is below these names, one in the other.
pub(super) fn below<'d>(node: Node<'d, 'd>, path: &[&str]) -> Option<Node<'d, 'd>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

/// Its text, without space around it; none if there is no more.
pub(super) fn text_of<'d>(node: Node<'d, 'd>) -> Option<&'d str> {
    node.text().map(str::trim).filter(|text| !text.is_empty())
}

/// A number of whole things.
pub(super) fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// `4` and `GiB` → bytes. libvirt tells the letters of a unit apart by neither case nor number.
pub(super) fn amount(count: &str, unit: &str) -> Option<u64> {
    let (base, power): (u64, u32) = match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => (1, 1),
        "k" | "kib" => (1024, 1),
        "m" | "mib" => (1024, 2),
        "g" | "gib" => (1024, 3),
        "t" | "tib" => (1024, 4),
        "p" | "pib" => (1024, 5),
        "e" | "eib" => (1024, 6),
        "kb" => (1000, 1),
        "mb" => (1000, 2),
        "gb" => (1000, 3),
        "tb" => (1000, 4),
        "pb" => (1000, 5),
        "eb" => (1000, 6),
        _ => return None,
    };
    number(count)?.checked_mul(base.checked_pow(power)?)
}

pub(super) fn bad(why: &str) -> Error {
    Error::new(Kind::Source, format!("the domain XML is refused: {why}"))
        .advice(
            "write it again with `virsh dumpxml --inactive NAME`, or name the machine's disks in a manifest",
        )
        .permanent()
}

/// The same, of an element.
pub(super) fn bad_at(node: Node<'_, '_>, why: &str) -> Error {
    bad(&format!("line {}: {why}", line_of(node)))
}

/// Something in it that this version does not convert.
pub(super) fn unsupported_at(node: Node<'_, '_>, why: &str, advice: &str) -> Error {
    let line = line_of(node);
    Error::new(Kind::Unsupported, format!("line {line} of the domain XML: {why}")).advice(advice)
}

fn line_of(node: Node<'_, '_>) -> u32 {
    node.document().text_pos_at(node.range().start).row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_told_by_their_first_element() {
        for head in [
            "<domain type='kvm'>",
            "\u{feff}<?xml version='1.0'?>\n<domain>",
            "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n<domain type='kvm' id='3'>",
            "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain/>",
            "<domain/>",
        ] {
            assert!(begins_domain(head.as_bytes()), "{head}");
        }
        for head in [
            "",
            "<",
            "<domainsnapshot>",
            "<!-- <domain>",
            "domain",
            "<Envelope>",
            "manifest_version: 1",
            "<domains>",
        ] {
            assert!(!begins_domain(head.as_bytes()), "{head}");
        }
    }

    #[test]
    fn amounts_are_read_in_every_unit_and_none_that_is_too_large() {
        for (count, unit, bytes) in [
            ("1048576", "KiB", 1 << 30),
            ("1048576", "k", 1 << 30),
            ("1073741824", "b", 1 << 30),
            ("1073741824", "bytes", 1 << 30),
            ("1024", "MiB", 1 << 30),
            ("1024", "M", 1 << 30),
            ("1", "GiB", 1 << 30),
            ("1", "g", 1 << 30),
            ("2", "TiB", 2 << 40),
            ("2", "T", 2 << 40),
            ("2", "KB", 2_000),
            ("2", "MB", 2_000_000),
            ("2", "GB", 2_000_000_000),
            ("2", "TB", 2_000_000_000_000),
            ("2", "tb", 2_000_000_000_000),
        ] {
            assert_eq!(amount(count, unit), Some(bytes), "{count} {unit}");
        }
        for (count, unit) in [
            ("18446744073709551615", "KiB"),
            ("16", "EiB"),
            ("99999999999999999999", "b"),
            ("-1", "b"),
            ("+1", "b"),
            ("1.5", "GiB"),
            ("", "GiB"),
            ("1", "GiBs"),
            ("1", ""),
        ] {
            assert_eq!(amount(count, unit), None, "{count} {unit}");
        }
    }
}
