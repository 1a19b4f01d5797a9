//! XML as it is written: elements, attributes, text, indented by two spaces.
//!
//! Whatever goes in comes out as itself or not at all: markup is escaped, and characters that XML 1.0
//! cannot hold (most control characters) become U+FFFD, since no escape exists for them. What is not here:
//! reading, namespaces, and any idea of what the elements mean.

use std::fmt::{self, Write as _};

/// One element, with what is in it.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Text(String),
    Children(Vec<Element>),
}

impl Element {
    /// An empty element.
    pub(crate) fn new(name: &'static str) -> Element {
        Element { name, attributes: Vec::new(), content: Content::Children(Vec::new()) }
    }

    /// An element that holds text.
    pub(crate) fn text(name: &'static str, text: impl fmt::Display) -> Element {
        Element { name, attributes: Vec::new(), content: Content::Text(text.to_string()) }
    }

    /// Adds an attribute.
    pub(crate) fn with(mut self, name: &'static str, value: impl fmt::Display) -> Element {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Adds a child; to an element that holds text nothing can be added.
    pub(crate) fn child(mut self, child: Element) -> Element {
        if let Content::Children(children) = &mut self.content {
            children.push(child);
        }
        self
    }

    /// Adds children.
    pub(crate) fn children(self, children: impl IntoIterator<Item = Element>) -> Element {
        children.into_iter().fold(self, Element::child)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The value of an attribute.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The same element without an attribute.
    pub(crate) fn without(mut self, name: &str) -> Element {
        self.attributes.retain(|(known, _)| *known != name);
        self
    }

    /// Makes something else of each child, or nothing.
    pub(crate) fn each_child(mut self, change: impl FnMut(Element) -> Option<Element>) -> Element {
        if let Content::Children(children) = self.content {
            self.content = Content::Children(children.into_iter().filter_map(change).collect());
        }
        self
    }

    fn write(&self, depth: usize, out: &mut String) {
        let indent = "  ".repeat(depth);
        let _ = write!(out, "{indent}<{}", self.name);
        for (name, value) in &self.attributes {
            let _ = write!(out, " {name}='{}'", escaped(value));
        }
        match &self.content {
            Content::Text(text) => {
                let _ = writeln!(out, ">{}</{}>", escaped(text), self.name);
            }
            Content::Children(children) if children.is_empty() => out.push_str("/>\n"),
            Content::Children(children) => {
                out.push_str(">\n");
                for child in children {
                    child.write(depth + 1, out);
                }
                let _ = writeln!(out, "{indent}</{}>", self.name);
            }
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(0, &mut out);
        f.write_str(&out)
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '\'' => safe.push_str("&apos;"),
            '"' => safe.push_str("&quot;"),
            // As references, because a parser makes spaces of them in attributes.
            '\t' => safe.push_str("&#9;"),
            '\n' => safe.push_str("&#10;"),
            '\r' => safe.push_str("&#13;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_nested_and_indented() {
        let tree = Element::new("os")
            .with("firmware", "efi")
            .child(Element::text("type", "hvm").with("arch", "x86_64"))
            .child(Element::new("boot"));
        assert_eq!(
            tree.to_string(),
            "<os firmware='efi'>\n  <type arch='x86_64'>hvm</type>\n  <boot/>\n</os>\n"
        );
    }

    #[test]
    fn a_tree_is_changed_child_by_child() {
        let tree =
            Element::new("os").with("a", 1).child(Element::new("x").with("b", 2)).child(Element::new("y"));
        assert_eq!((tree.name(), tree.attribute("a"), tree.attribute("b")), ("os", Some("1"), None));
        let changed = tree.without("a").each_child(|child| (child.name() == "x").then(|| child.without("b")));
        assert_eq!(changed.to_string(), "<os>\n  <x/>\n</os>\n");
    }

    #[test]
    fn nothing_in_a_text_becomes_markup() {
        let text = Element::text("name", "a</name><x y='1'>&\"\0\u{1b}\n").with("k", "'/><z ");
        assert_eq!(
            text.to_string(),
            "<name k='&apos;/&gt;&lt;z '>a&lt;/name&gt;&lt;x y=&apos;1&apos;&gt;&amp;&quot;\u{fffd}\u{fffd}&#10;</name>\n"
        );
    }
}
