//! YAML into a tree: serde_yaml's event parser, with limits, and without what manifests have no use for.
//!
//! Tags (but `!!str`), merge keys, several documents and keys that are not text are refused rather
//! than interpreted: each of them means different things to different YAML readers.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Budget, Error, Key, Kind, MAX_DEPTH, Node, Result, Value};
use super::{forbidden, given_twice, is_forbidden, too_deep};

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Node> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| malformed(&error))?;
        builder.take(event, &span)?;
    }
    Ok(builder.root.unwrap_or(Node::made(Value::Null)))
}

fn malformed(error: &ScanError) -> Error {
    let marker = error.marker();
    Error::new(Kind::Manifest, format!("this is not well-formed YAML: {}", error.info()))
        .at(clamp(marker.line()), clamp(marker.col() + 1))
        .advice("check indentation, quotes and brackets here and in the line before")
}

fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[derive(Clone, Copy)]
struct Place {
    line: u32,
    column: u32,
}

impl Place {
    fn of(span: &Span) -> Place {
        Place { line: clamp(span.start.line()), column: clamp(span.start.col() + 1) }
    }
}

/// A list or map that has begun and not ended.
struct Open {
    place: Place,
    anchor: usize,
    what: OpenWhat,
}

enum OpenWhat {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: BTreeSet<String>, key: Option<Key> },
}

/// A finished node that aliases may repeat, with what a repetition costs.
struct Anchored {
    node: Node,
    nodes: usize,
    bytes: usize,
}

struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    anchors: BTreeMap<usize, Anchored>,
    budget: Budget,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            open: Vec::new(),
            root: None,
            documents: 0,
            anchors: BTreeMap::new(),
            budget: Budget::new(),
        }
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<()> {
        let place = Place::of(span);
        match event {
            Event::DocumentStart(..) => self.begin_document(&place),
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), &place)?;
                let plain = style == ScalarStyle::Plain && tag.is_none();
                self.scalar(&text, plain, anchor, place)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), &place)?;
                self.begin(place, anchor, OpenWhat::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), &place)?;
                let what = OpenWhat::Map { entries: Vec::new(), seen: BTreeSet::new(), key: None };
                self.begin(place, anchor, what)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => self.alias(id, &place),
            _ => Ok(()),
        }
    }

    fn begin_document(&mut self, place: &Place) -> Result<()> {
        self.documents += 1;
        if self.documents > 1 {
            return Err(self.complain("a second YAML document begins here", place).advice(
                "one file holds one manifest: remove the `---`, or drop two files (several VMs go into a batch)",
            ));
        }
        Ok(())
    }

    fn begin(&mut self, place: Place, anchor: usize, what: OpenWhat) -> Result<()> {
        if self.expects_key() {
            return Err(self.complain("a key has to be text", &place).advice("write `key: value`"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep().at(place.line, place.column));
        }
        self.open.push(Open { place, anchor, what });
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(Open { place, anchor, what }) = self.open.pop() else { return Ok(()) };
        let value = match what {
            OpenWhat::List(items) => Value::List(items),
            OpenWhat::Map { entries, .. } => Value::Map(entries),
        };
        self.finish(value, anchor, &place)
    }

    fn scalar(&mut self, text: &str, plain: bool, anchor: usize, place: Place) -> Result<()> {
        if let Some(c) = text.chars().find(|c| is_forbidden(*c)) {
            let field = self.path();
            let error = forbidden(c).at(place.line, place.column);
            return Err(if field.is_empty() { error } else { error.field(field) });
        }
        if self.expects_key() {
            return self.key(text, plain, place);
        }
        self.budget.spend(1, text.len()).map_err(|error| error.at(place.line, place.column))?;
        let value = if plain { resolve(text) } else { Value::Text(text.to_owned()) };
        self.finish(value, anchor, &place)
    }

    fn key(&mut self, name: &str, plain: bool, place: Place) -> Result<()> {
        if plain && name == "<<" {
            return Err(self
                .complain("merge keys (`<<`) are not supported", &place)
                .advice("write the keys out, or put what is common into a profile"));
        }
        self.budget.spend(1, name.len()).map_err(|error| error.at(place.line, place.column))?;
        let path = self.path();
        let Some(Open { what: OpenWhat::Map { entries, seen, key }, .. }) = self.open.last_mut() else {
            return Ok(());
        };
        if !seen.insert(name.to_owned()) {
            let first = entries.iter().find(|(key, _)| key.name == name).map_or(0, |(key, _)| key.line);
            return Err(given_twice(name, first).at(place.line, place.column).field(join(&path, name)));
        }
        *key = Some(Key { name: name.to_owned(), line: place.line, column: place.column });
        Ok(())
    }

    fn alias(&mut self, id: usize, place: &Place) -> Result<()> {
        if self.expects_key() {
            return Err(self.complain("an alias cannot be a key", place).advice("write the key out"));
        }
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(self
                .complain("this alias stands inside what it repeats", place)
                .advice("write it out"));
        };
        let (nodes, bytes) = (anchored.nodes, anchored.bytes);
        self.budget.spend(nodes, bytes).map_err(|error| error.at(place.line, place.column))?;
        let mut node = anchored.node.clone();
        if self.open.len() + depth(&node) > MAX_DEPTH {
            return Err(too_deep().at(place.line, place.column));
        }
        (node.line, node.column) = (place.line, place.column);
        self.add(node);
        Ok(())
    }

    fn finish(&mut self, value: Value, anchor: usize, place: &Place) -> Result<()> {
        let node = Node { value, line: place.line, column: place.column, layer: 0 };
        if anchor != 0 {
            let (nodes, bytes) = cost(&node);
            self.budget.spend(nodes, bytes).map_err(|error| error.at(place.line, place.column))?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, bytes });
        }
        self.add(node);
        Ok(())
    }

    fn add(&mut self, node: Node) {
        match self.open.last_mut().map(|open| &mut open.what) {
            None => self.root = Some(node),
            Some(OpenWhat::List(items)) => items.push(node),
            Some(OpenWhat::Map { entries, key, .. }) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
        }
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last().map(|open| &open.what), Some(OpenWhat::Map { key: None, .. }))
    }

    fn check_tag(&self, tag: Option<&Tag>, place: &Place) -> Result<()> {
        match tag {
            None => Ok(()),
            Some(tag) if tag.core_suffix() == Some("str") => Ok(()),
            Some(tag) => Err(self
                .complain(format!("the YAML tag `{}` is not supported", tag.original()), place)
                .advice("write the value without a tag")),
        }
    }

    fn complain(&self, cause: impl Into<String>, place: &Place) -> Error {
        let error = Error::new(Kind::Manifest, cause).at(place.line, place.column);
        let field = self.path();
        if field.is_empty() { error } else { error.field(field) }
    }

    /// The path of what comes next.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.what {
                OpenWhat::List(items) => path.push_str(&format!("[{}]", items.len())),
                OpenWhat::Map { key: Some(key), .. } => path = join(&path, &key.name),
                OpenWhat::Map { key: None, .. } => {}
            }
        }
        path
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| depth(node)).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => 0,
    }
}

fn cost(node: &Node) -> (usize, usize) {
    let add = |(nodes, bytes): (usize, usize), (n, b)| (nodes + n, bytes + b);
    match &node.value {
        Value::Text(text) => (1, text.len()),
        Value::List(items) => items.iter().map(cost).fold((1, 0), add),
        Value::Map(entries) => {
            entries.iter().map(|(key, node)| add(cost(node), (1, key.name.len()))).fold((1, 0), add)
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => (1, 8),
    }
}

/// What an unquoted scalar is, by YAML 1.2's core schema, but that `0o17`, `0x1f`, `.inf` and `.nan` stay text:
/// no field wants them, and a file mode does want `0o640` as written.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
    {
        return Value::Text(text.to_owned());
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Int(number);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}
