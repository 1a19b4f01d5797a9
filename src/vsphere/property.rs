//! Properties of objects: asked for many objects at once, and read page by page, so that thousands of machines cost few round trips and little memory.
//!
//! What is not here: which properties there are, and changes of them over time ([`super::task`]).

use roxmltree::Node;

use super::client::Client;
use super::soap::{self, Call, Failure, Fault, MoRef};
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

/// So many objects are asked for at once; a server may answer with fewer.
const PAGE: u32 = 500;
/// No estate has more pages.
const MOST_PAGES: usize = 10_000;
/// No token of a page is longer.
const MOST_TOKEN: usize = 1024;

/// What is asked of objects of one type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) kind: &'static str,
    pub(super) paths: &'static [&'static str],
}

/// An object, with what was asked of it.
#[derive(Debug, Clone)]
pub(super) struct Found<'a, 'i> {
    pub(super) object: MoRef,
    node: Node<'a, 'i>,
}

impl<'a, 'i> Found<'a, 'i> {
    fn new(node: Node<'a, 'i>) -> Option<Found<'a, 'i>> {
        Some(Found { object: soap::child(node, "obj").map(soap::moref)?, node })
    }

    /// The value of a property; none: the object has none, or it is not told (see [`Found::refusal`]).
    pub(super) fn get(&self, path: &str) -> Option<Node<'a, 'i>> {
        let set = soap::children(self.node, "propSet").find(|set| soap::text(*set, "name") == Some(path))?;
        soap::child(set, "val")
    }

    /// The same as a text.
    pub(super) fn text(&self, path: &str) -> Option<&'a str> {
        self.get(path).map(|value| value.text().unwrap_or_default())
    }

    /// The same as a number.
    pub(super) fn number<N: std::str::FromStr>(&self, path: &str) -> Option<N> {
        self.text(path)?.trim().parse().ok()
    }

    /// The same as the name of an object.
    pub(super) fn object_at(&self, path: &str) -> Option<MoRef> {
        self.get(path).map(soap::moref)
    }

    /// Why a property is not told.
    pub(super) fn refusal(&self, path: &str) -> Option<Fault> {
        let missing =
            soap::children(self.node, "missingSet").find(|set| soap::text(*set, "path") == Some(path))?;
        soap::child(missing, "fault").map(soap::localized_fault)
    }
}

/// Properties of these objects.
pub(super) fn of_objects(
    client: &Client,
    objects: &[MoRef],
    wanted: &[Wanted],
    read: impl FnMut(&Found<'_, '_>) -> Result<()>,
) -> Result<(), Failure> {
    let set = |object: &MoRef| Element::new("objectSet").child(object.element("obj"));
    retrieve(client, wanted, objects.iter().map(set).collect(), read)
}

/// Properties of everything of these types in the inventory. What was read before an error does not count.
pub(super) fn of_all(
    client: &Client,
    wanted: &[Wanted],
    mut read: impl FnMut(&Found<'_, '_>) -> Result<()>,
) -> Result<(), Failure> {
    let service = client.service();
    let manager = service.view_manager.clone().ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("{} has no views of its inventory", client.host()))
            .advice("see that this is vSphere 6.5 or later")
    })?;
    let arguments = [service.root_folder.element("container")]
        .into_iter()
        .chain(wanted.iter().map(|wanted| Element::text("type", wanted.kind)))
        .chain([Element::text("recursive", true)])
        .collect();
    let view =
        client.call(&Call::reads("CreateContainerView", &manager, arguments), soap::returned_object)?;
    let traversal = Element::new("selectSet")
        .with("xsi:type", "TraversalSpec")
        .child(Element::text("name", "view"))
        .child(Element::text("type", "ContainerView"))
        .child(Element::text("path", "view"))
        .child(Element::text("skip", false));
    let set = Element::new("objectSet")
        .child(view.element("obj"))
        .child(Element::text("skip", true))
        .child(traversal);
    let done = retrieve(client, wanted, vec![set], &mut read);
    // It would end with the session, too.
    let _ = client.call(&Call::reads("DestroyView", &view, Vec::new()), |_| Ok(()));
    done
}

/// A filter of properties, as calls take it.
pub(super) fn filter(name: &'static str, wanted: &[Wanted], objects: Vec<Element>) -> Element {
    let set = |wanted: &Wanted| {
        Element::new("propSet")
            .child(Element::text("type", wanted.kind))
            .child(Element::text("all", false))
            .children(wanted.paths.iter().map(|path| Element::text("pathSet", path)))
    };
    Element::new(name).children(wanted.iter().map(set)).children(objects)
}

fn retrieve(
    client: &Client,
    wanted: &[Wanted],
    objects: Vec<Element>,
    mut read: impl FnMut(&Found<'_, '_>) -> Result<()>,
) -> Result<(), Failure> {
    let collector = &client.service().property_collector;
    let options = Element::new("options").child(Element::text("maxObjects", PAGE));
    let arguments = vec![filter("specSet", wanted, objects), options];
    let mut call = Call::reads("RetrievePropertiesEx", collector, arguments);
    for _ in 0..MOST_PAGES {
        let token = client.call(&call, |answer| page(answer, &mut read))?;
        let Some(token) = token else { return Ok(()) };
        call = Call::reads("ContinueRetrievePropertiesEx", collector, vec![Element::text("token", token)]);
    }
    Err(soap::odd(client.host(), "more and more pages").into())
}

/// Reads a page; where there is another one, its token.
fn page(answer: Node<'_, '_>, read: &mut impl FnMut(&Found<'_, '_>) -> Result<()>) -> Result<Option<String>> {
    // Nothing was found: then nothing is returned.
    let Some(returned) = soap::child(answer, "returnval") else { return Ok(None) };
    for object in soap::children(returned, "objects").filter_map(Found::new) {
        read(&object)?;
    }
    let token = soap::text(returned, "token").filter(|token| !token.is_empty());
    match token {
        Some(token) if token.len() > MOST_TOKEN => Err(soap::odd("the server", "a token that is too long")),
        token => Ok(token.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_what_is_missing_and_tells_the_next_one() {
        let text = r#"<r xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><returnval><token>1</token>
            <objects><obj type="VirtualMachine">vm-1</obj>
              <propSet><name>name</name><val xsi:type="xsd:string">a&amp;b</val></propSet>
              <propSet><name>summary.config.numCpu</name><val>4</val></propSet>
              <missingSet><path>config</path><fault><fault xsi:type="NoPermission"><object type="VirtualMachine">vm-1</object>
                <privilegeId>System.Read</privilegeId></fault><localizedMessage>no</localizedMessage></fault></missingSet>
            </objects><objects><noObj/></objects></returnval></r>"#;
        let document = roxmltree::Document::parse(text).unwrap();
        let mut seen = Vec::new();
        let token = page(document.root_element(), &mut |found: &Found<'_, '_>| {
            let refusal = found.refusal("config").unwrap();
            assert_eq!(
                (refusal.kind.as_str(), refusal.privilege.as_deref()),
                ("NoPermission", Some("System.Read"))
            );
            assert!(found.refusal("name").is_none() && found.get("config").is_none());
            seen.push((
                found.object.value.clone(),
                found.text("name").unwrap().to_owned(),
                found.number::<u32>("summary.config.numCpu"),
            ));
            Ok(())
        });
        assert_eq!(token.unwrap().as_deref(), Some("1"));
        assert_eq!(seen, [("vm-1".to_owned(), "a&b".to_owned(), Some(4))]);
        let nothing = roxmltree::Document::parse("<r/>").unwrap();
        assert_eq!(page(nothing.root_element(), &mut |_: &Found<'_, '_>| Ok(())).unwrap(), None);
    }
}
