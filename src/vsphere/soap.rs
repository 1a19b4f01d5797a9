//! SOAP as vSphere speaks it: a call is written, its answer read.
//!
//! Only what vSphere has of it: one body, one element in it, no attachments, no references. What is not here: which calls there are, and
//! what a fault means to us ([`super::failure`]).

use roxmltree::{Document, Node, ParsingOptions};
use serde::Serialize;

use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// The namespace of vSphere's API.
const VIM: &str = "urn:vim25";

/// No answer is longer.
pub(super) const MOST_BYTES: usize = 64 << 20;
/// Nor has more elements, texts and attributes.
const MOST_NODES: u32 = 4_000_000;
/// What a server says in words is shown up to here.
const MOST_WORDS: usize = 500;

/// An object of a server's: `VirtualMachine`, `vm-42`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(super) struct MoRef {
    /// Of which type.
    pub(super) kind: String,
    /// Its name.
    pub(super) value: String,
}

impl MoRef {
    /// An object of this type and name.
    pub(super) fn new(kind: impl Into<String>, value: impl Into<String>) -> MoRef {
        MoRef { kind: kind.into(), value: value.into() }
    }

    /// As an argument of a call.
    pub(super) fn element(&self, name: &'static str) -> Element {
        Element::text(name, &self.value).with("type", &self.kind)
    }
}

/// A call: the method, the object, what else.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) this: MoRef,
    pub(super) arguments: Vec<Element>,
    /// Asking twice does the same as asking once.
    pub(super) is_harmless: bool,
}

impl Call {
    /// A call that only reads.
    pub(super) fn reads(method: &'static str, this: &MoRef, arguments: Vec<Element>) -> Call {
        Call { method, this: this.clone(), arguments, is_harmless: true }
    }

    /// One that changes something.
    pub(super) fn changes(method: &'static str, this: &MoRef, arguments: Vec<Element>) -> Call {
        Call { is_harmless: false, ..Call::reads(method, this, arguments) }
    }

    /// As it goes over the wire. What it holds may be a password.
    pub(super) fn envelope(&self) -> String {
        let call = Element::new(self.method)
            .with("xmlns", VIM)
            .child(self.this.element("_this"))
            .children(self.arguments.iter().cloned());
        let envelope = Element::new("Envelope")
            .with("xmlns", ENVELOPE)
            .with("xmlns:xsi", XSI)
            .child(Element::new("Body").child(call));
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{envelope}")
    }
}

/// What a server says went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fault {
    /// Its type: `InvalidLogin`.
    pub(super) kind: String,
    /// In words, on one line.
    pub(super) words: String,
    /// The object that it is about, where it says so.
    pub(super) object: Option<MoRef>,
    /// The privilege that is missing, where one is.
    pub(super) privilege: Option<String>,
    /// What it says besides: names of files, values, the states that it is in.
    pub(super) details: Vec<(String, String)>,
}

/// Why a call has no result.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The server says so.
    Fault(Box<Fault>),
    /// Nobody said anything.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Other(error)
    }
}

/// Reads the answer to a call: what is in it goes to `read`.
pub(super) fn answered<T>(
    text: &str,
    host: &str,
    read: impl FnOnce(Node<'_, '_>) -> Result<T>,
) -> Result<T, Failure> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .map_err(|error| odd(host, &format!("what is no XML, or too much of it: {error}")))?;
    let envelope = document.root_element();
    let body = child(envelope, "Body").filter(|_| envelope.has_tag_name((ENVELOPE, "Envelope")));
    let inner = body.and_then(|body| body.first_element_child());
    let inner = inner.ok_or_else(|| odd(host, "XML that is no answer to a call"))?;
    match inner.tag_name().name() {
        "Fault" => Err(Failure::Fault(Box::new(fault_in(inner)))),
        _ => Ok(read(inner)?),
    }
}

/// A server answered, but not as one of vSphere does.
pub(super) fn odd(host: &str, what: &str) -> Error {
    Error::new(Kind::Source, format!("{host} answered with {what}"))
        .advice("see that this is a vCenter or an ESXi host, and that nothing between it and this machine changes what it says")
}

fn fault_in(node: Node<'_, '_>) -> Fault {
    let detail = child(node, "detail").and_then(|detail| detail.first_element_child());
    let mut fault = detail.map(fault).unwrap_or_default();
    fault.words = one_line(text(node, "faultstring").unwrap_or_default());
    fault
}

/// What `LocalizedMethodFault` holds: a fault with its words.
pub(super) fn localized_fault(node: Node<'_, '_>) -> Fault {
    let mut fault = child(node, "fault").map(fault).unwrap_or_default();
    fault.words = one_line(text(node, "localizedMessage").unwrap_or_default());
    fault
}

fn fault(node: Node<'_, '_>) -> Fault {
    let name = node.tag_name().name();
    let kind = type_of(node).unwrap_or_else(|| name.strip_suffix("Fault").unwrap_or(name)).to_owned();
    let leaf = |node: &Node<'_, '_>| node.first_element_child().is_none();
    let details = node.children().filter(Node::is_element).filter(leaf).take(8);
    let told =
        |node: Node<'_, '_>| (node.tag_name().name().to_owned(), one_line(node.text().unwrap_or_default()));
    Fault {
        kind,
        words: String::new(),
        object: child(node, "object").or_else(|| child(node, "obj")).map(moref),
        privilege: text(node, "privilegeId").map(one_line),
        details: details.map(told).collect(),
    }
}

fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_WORDS).collect();
    line.trim().trim_end_matches('.').to_owned()
}

/// The first child of this name.
pub(super) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

/// The children of this name.
pub(super) fn children<'a, 'i>(
    node: Node<'a, 'i>,
    name: &str,
) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    let name = name.to_owned();
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// What stands at the end of a path of names.
pub(super) fn at<'a, 'i>(node: Node<'a, 'i>, path: &[&str]) -> Option<Node<'a, 'i>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

/// The text of the first child of this name.
pub(super) fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name).map(|child| child.text().unwrap_or_default())
}

/// The number in the first child of this name.
pub(super) fn number<N: std::str::FromStr>(node: Node<'_, '_>, name: &str) -> Option<N> {
    text(node, name)?.trim().parse().ok()
}

/// Whether the first child of this name says yes.
pub(super) fn is_true(node: Node<'_, '_>, name: &str) -> bool {
    text(node, name).is_some_and(says_yes)
}

pub(super) fn says_yes(text: &str) -> bool {
    matches!(text.trim(), "true" | "1")
}

/// The type that an element says it is of, without the prefix of its namespace.
pub(super) fn type_of<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    node.attribute((XSI, "type")).map(|name| name.rsplit(':').next().unwrap_or(name))
}

/// The object that an element names. Its type stands in `type`; what the element itself is of, in `xsi:type`.
pub(super) fn moref(node: Node<'_, '_>) -> MoRef {
    let kind =
        node.attributes().find(|attribute| attribute.name() == "type" && attribute.namespace().is_none());
    MoRef::new(kind.map(|kind| kind.value()).unwrap_or_default(), node.text().unwrap_or_default())
}

/// The one object that a call answers with.
pub(super) fn returned_object(answer: Node<'_, '_>) -> Result<MoRef> {
    let object = child(answer, "returnval").map(moref).filter(|object| !object.value.is_empty());
    object.ok_or_else(|| odd("the server", "nothing where an object was to be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enveloped(body: &str) -> String {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="{ENVELOPE}" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="{XSI}">
<soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"#
        )
    }

    #[test]
    fn a_call_is_written_so_that_nothing_in_it_becomes_markup() {
        let call = Call::reads(
            "Login",
            &MoRef::new("SessionManager", "SessionManager"),
            vec![Element::text("userName", "a<b>&\"'"), Element::text("password", "]]></password>ü")],
        );
        let text = call.envelope();
        let document = Document::parse(&text).unwrap();
        let login = at(document.root_element(), &["Body", "Login"]).unwrap();
        assert_eq!(login.tag_name().namespace(), Some(VIM));
        assert_eq!(super::text(login, "userName"), Some("a<b>&\"'"));
        assert_eq!(super::text(login, "password"), Some("]]></password>ü"));
        assert_eq!(child(login, "_this").map(moref), Some(call.this));
    }

    #[test]
    fn an_answer_is_handed_over_and_a_fault_told_with_what_it_is_about() {
        let text = enveloped(
            r#"<CurrentTimeResponse xmlns="urn:vim25"><returnval>2026</returnval></CurrentTimeResponse>"#,
        );
        let read = answered(&text, "vc", |node| Ok(super::text(node, "returnval").unwrap().to_owned()));
        assert_eq!(read.unwrap(), "2026");

        let text = enveloped(
            r#"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>Permission to perform
this operation was denied.</faultstring><detail><NoPermissionFault xmlns="urn:vim25" xsi:type="NoPermission">
<object type="VirtualMachine">vm-42</object><privilegeId>VirtualMachine.State.CreateSnapshot</privilegeId>
</NoPermissionFault></detail></soapenv:Fault>"#,
        );
        let Err(Failure::Fault(fault)) = answered(&text, "vc", |_| Ok(())) else { panic!("no fault") };
        assert_eq!(fault.kind, "NoPermission");
        assert_eq!(fault.words, "Permission to perform this operation was denied");
        assert_eq!(fault.object, Some(MoRef::new("VirtualMachine", "vm-42")));
        assert_eq!(fault.privilege.as_deref(), Some("VirtualMachine.State.CreateSnapshot"));
    }

    #[test]
    fn an_object_is_of_its_own_type_and_not_of_its_elements() {
        let text =
            format!(r#"<val xmlns:i="{XSI}" i:type="ManagedObjectReference" type="Folder">group-v3</val>"#);
        let document = Document::parse(&text).unwrap();
        assert_eq!(moref(document.root_element()), MoRef::new("Folder", "group-v3"));
        assert_eq!(type_of(document.root_element()), Some("ManagedObjectReference"));
    }

    #[test]
    fn what_is_no_answer_of_vspheres_is_told_and_bombs_do_not_go_off() {
        let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>"#;
        let deep = "<a>".repeat(200_000);
        for text in
            ["", "Not found", "<html><body/></html>", "<Envelope><Body><x/></Body></Envelope>", bomb, &deep]
        {
            let Err(Failure::Other(error)) = answered(text, "vc", |_| Ok(())) else { panic!("{text}") };
            assert_eq!(error.kind(), Kind::Source);
            assert!(error.to_string().starts_with("vc answered with"), "{error}");
        }
    }
}
