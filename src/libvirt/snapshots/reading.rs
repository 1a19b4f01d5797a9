//! What libvirt says of a snapshot.

use std::collections::BTreeMap;
use std::path::PathBuf;

use virt::domain_snapshot::DomainSnapshot;
use virt::sys;

use super::{KeptDisk, Place, Snapshot};
use crate::libvirt::domains::{Description, child, parse};
use crate::libvirt::failure::told;
use crate::model::error::Result;

/// A snapshot with what is needed to go back to it or to take it away.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) snapshot: Snapshot,
    /// The definition that the machine had.
    pub(super) definition: Option<String>,
    /// The files that its external disks stood in, by their names in the machine.
    pub(super) bases: BTreeMap<String, PathBuf>,
}

impl Read {
    pub(super) fn of(handle: &DomainSnapshot, domain: &str) -> Result<Read> {
        let asked = handle.get_xml_desc(sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE);
        // Who may only look is told all but secrets.
        let asked = asked.or_else(|_| handle.get_xml_desc(0));
        let asked = asked.and_then(|xml| Ok((xml, handle.is_current(0)?)));
        let (xml, current) =
            asked.map_err(|error| told(&format!("cannot read a snapshot of {domain}"), &error))?;
        Read::understand(&xml, current)
    }

    fn understand(xml: &str, current: bool) -> Result<Read> {
        let document = parse(xml)?;
        let root = document.root_element();
        let text = |name: &str| child(root, name).and_then(|node| node.text()).map(str::to_owned);
        let mut disks = Vec::new();
        let mut place = Place::Internal;
        for disk in child(root, "disks").iter().flat_map(roxmltree::Node::children) {
            let Some(target) = disk.attribute("name").map(str::to_owned) else { continue };
            let overlay = match disk.attribute("snapshot") {
                Some("external") => child(disk, "source").and_then(|source| source.attribute("file")),
                Some("internal") => None,
                _ => continue,
            };
            if disk.attribute("snapshot") == Some("external") {
                place = Place::External;
            }
            disks.push(KeptDisk { target, overlay: overlay.map(PathBuf::from) });
        }
        let definition = definition(xml, root);
        let described = definition.as_deref().map(Description::read).transpose()?;
        let base = |disk: &KeptDisk| {
            let path = described.as_ref()?.disk(&disk.target)?.path()?.clone();
            Some((disk.target.clone(), path))
        };
        Ok(Read {
            bases: disks.iter().filter_map(base).collect(),
            definition,
            snapshot: Snapshot {
                name: text("name").unwrap_or_default(),
                description: text("description"),
                created_at: text("creationTime").and_then(|time| time.trim().parse().ok()).unwrap_or(0),
                state: text("state").unwrap_or_default(),
                place,
                parent: child(root, "parent")
                    .and_then(|parent| child(parent, "name")?.text())
                    .map(str::to_owned),
                current,
                disks,
            },
        })
    }
}

/// The machine as it was to start the next time. That is told apart where it ran and was to become another one.
fn definition(xml: &str, root: roxmltree::Node<'_, '_>) -> Option<String> {
    const TOLD_APART: &str = "inactiveDomain";
    if let Some(node) = child(root, TOLD_APART) {
        let inner = xml[node.range()].strip_prefix('<')?.strip_prefix(TOLD_APART)?;
        return Some(format!("<domain{}domain>", inner.strip_suffix('>')?.strip_suffix(TOLD_APART)?));
    }
    child(root, "domain").map(|node| xml[node.range()].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_tells_its_disks_and_the_files_in_which_they_stood() {
        let domain = |tag: &str, file: &str| {
            format!(
                "<{tag} type='qemu'><name>web</name><devices><disk type='file'><source file='{file}'/><target dev='vda'/></disk></devices></{tag}>"
            )
        };
        let xml = format!(
            "<domainsnapshot><name>a b</name><state>disk-snapshot</state><parent><name>p</name></parent><creationTime>7</creationTime>\
             <disks><disk name='vda' snapshot='external' type='file'><source file='/d.s'/></disk><disk name='sda' snapshot='no'/></disks>{}{}</domainsnapshot>",
            domain("domain", "/now"),
            domain("inactiveDomain", "/next")
        );
        let read = Read::understand(&xml, true).unwrap();
        assert_eq!((read.snapshot.place, read.snapshot.created_at), (Place::External, 7));
        assert_eq!(read.snapshot.parent.as_deref(), Some("p"));
        let disk = KeptDisk { target: "vda".to_owned(), overlay: Some(PathBuf::from("/d.s")) };
        assert_eq!(read.snapshot.disks, [disk]);
        assert_eq!(read.bases["vda"], PathBuf::from("/next"));
        assert_eq!(read.definition, Some(domain("domain", "/next")));
    }
}
