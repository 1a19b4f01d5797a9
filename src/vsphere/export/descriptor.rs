//! The envelope of an exported machine: the server writes it, and it has to be one for these very files.
//!
//! What is not here: what it says of the machine, which is read by who converts it.

use roxmltree::{Document, ParsingOptions};

use super::package::Done;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::vsphere::client::Client;
use crate::vsphere::failure;
use crate::vsphere::machine::Machine;
use crate::vsphere::soap::{self, Call, Failure, MoRef};

/// The longest envelopes have some MiB.
const MOST_BYTES: usize = 8 << 20;
const MOST_NODES: u32 = 400_000;
const OVF: &str = "http://schemas.dmtf.org/ovf/envelope/1";

/// See the module.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) text: String,
    /// What the server says that is not in it.
    pub(super) warnings: Vec<String>,
}

/// Has the server write the envelope of a machine with these files.
pub(super) fn create(client: &Client, machine: &Machine, name: &str, files: &[Done]) -> Result<Described> {
    let what = format!("cannot describe {}", machine.name);
    let manager = client.service().ovf_manager.clone().ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("{what}: {} writes no envelopes", client.host()))
            .advice("see that this is vSphere 6.5 or later")
    })?;
    let described = files.iter().zip(&machine.disks).map(|(file, disk)| {
        Element::new("ovfFiles")
            .child(Element::text("deviceId", device_id(file, machine, disk)))
            .child(Element::text("path", &file.name))
            .child(Element::text("size", file.bytes))
            .child(Element::text("capacity", disk.capacity_bytes))
    });
    let wanted = Element::new("cdp").children(described).child(Element::text("name", name));
    let vm = MoRef::new("VirtualMachine", &machine.moref);
    let call = Call::reads("CreateDescriptor", &manager, vec![vm.element("obj"), wanted]);
    let told = client.call(&call, |answer| {
        let result =
            soap::child(answer, "returnval").ok_or_else(|| soap::odd(client.host(), "no envelope"))?;
        let faults = |name: &str| soap::children(result, name).map(soap::localized_fault).collect::<Vec<_>>();
        let text = soap::text(result, "ovfDescriptor").unwrap_or_default().to_owned();
        Ok((text, faults("error"), faults("warning")))
    });
    let (text, errors, warnings) = told.map_err(|failure| failure::told(&what, failure))?;
    if let Some(fault) = errors.into_iter().next() {
        return Err(failure::told(&what, Failure::Fault(Box::new(fault))));
    }
    check(&text, files).map_err(|why| soap::odd(client.host(), &format!("an envelope that {why}")))?;
    Ok(Described { text, warnings: warnings.into_iter().map(|fault| fault.words).collect() })
}

/// How a lease calls a disk, also where there was none.
fn device_id(file: &Done, machine: &Machine, disk: &crate::vsphere::devices::VmDisk) -> String {
    match file.device.as_str() {
        "" => format!("/{}/{}{}:{}", machine.moref, disk.controller_type, disk.bus, disk.unit),
        known => known.to_owned(),
    }
}

/// Whether an envelope is one, names these files, and no others.
fn check(text: &str, files: &[Done]) -> std::result::Result<(), String> {
    if text.len() > MOST_BYTES {
        return Err("is larger than any".to_owned());
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document =
        Document::parse_with_options(text, options).map_err(|error| format!("is no XML: {error}"))?;
    if !document.root_element().has_tag_name((OVF, "Envelope")) {
        return Err("is none".to_owned());
    }
    let named: Vec<&str> = document
        .root_element()
        .children()
        .filter(|node| node.has_tag_name((OVF, "References")))
        .flat_map(|node| node.children())
        .filter(|node| node.has_tag_name((OVF, "File")))
        .filter_map(|node| node.attribute((OVF, "href")))
        .collect();
    let is_same = named.len() == files.len() && files.iter().all(|file| named.contains(&file.name.as_str()));
    if is_same { Ok(()) } else { Err(format!("names {named:?} as its files")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_names_the_files_that_there_are_and_no_others() {
        let file = |name: &str| Done { name: name.to_owned(), ..Done::default() };
        let of = |names: &[&str]| {
            let files: String = names.iter().map(|name| format!("<File ovf:href=\"{name}\"/>")).collect();
            format!(
                "<Envelope xmlns=\"{OVF}\" xmlns:ovf=\"{OVF}\"><References>{files}</References></Envelope>"
            )
        };
        let files = [file("a-disk1.vmdk"), file("a-disk2.vmdk")];
        check(&of(&["a-disk1.vmdk", "a-disk2.vmdk"]), &files).unwrap();
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><Envelope>&a;</Envelope>";
        for text in ["", "<x/>", bomb, &of(&["a-disk1.vmdk"]), &of(&["a-disk1.vmdk", "../../etc/shadow"])] {
            check(text, &files).unwrap_err();
        }
    }
}
