//! Text that a person wrote, made into a tree that remembers where everything stood.
//!
//! Manifests, batches, profiles and configuration all come through [`parse`]: YAML or JSON, told
//! apart by content. The [`Tree`] keeps line and column of every key and value, so that each later
//! complaint (a wrong type, a path outside its roots, a feature that is not there) can point at the
//! place. [`Tree::decode`] turns it into a type, strictly
//! ([`Tree::complaints`] tells all that is wrong with it); [`merge()`] lays trees over each other.
//!
//! Not here: reading files, and what any key means.

mod decode;
mod json;
mod merge;
mod problem;
pub(in crate::model) mod suggest;
mod yaml;

use std::path::Path;

use super::error::{Error, Kind, Result};

pub use decode::MAX_COMPLAINTS;
pub use merge::{Leaf, merge, without};
pub use problem::{Refusal, refuse};
pub use suggest::closest;

/// The largest text that is looked at.
pub const MAX_BYTES: usize = 16 << 20;
/// How deep maps and lists may nest.
pub const MAX_DEPTH: usize = 64;
/// How many keys, values, maps and lists there may be once aliases are resolved.
const MAX_NODES: usize = 500_000;
/// How much text there may be once aliases are resolved.
const MAX_EXPANDED_BYTES: usize = 4 * MAX_BYTES;

/// A value with the place where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Line, from 1; 0 for what no file holds.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Which of the tree's layers it came from.
    pub layer: u16,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing: the same as a key that was left out.
    Null,
    /// `true` or `false` (not `yes`, `on`…: those are texts).
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order it was written in; its keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A key with the place where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key.
    pub name: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// Where a layer of a tree came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file, if it came from one.
    pub file: Option<String>,
    /// The field in that file below which the layer's root lay (`profile_overrides`); empty for the whole file.
    pub below: String,
    /// What it is, for people: `manifest`, `profile production`, `default`.
    pub label: String,
}

/// A parsed file, or several laid over each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// The value.
    pub root: Node,
    /// Where it came from; [`Node::layer`] counts in here.
    pub layers: Vec<Layer>,
}

/// Reads YAML or JSON. `file` is what messages call it.
pub fn parse(bytes: &[u8], file: &str) -> Result<Tree> {
    let text = text(bytes).map_err(|error| error.file(file))?;
    let root = tree(text).map_err(|error| error.file(file))?;
    let layer = Layer { file: Some(file.to_owned()), below: String::new(), label: "manifest".to_owned() };
    Ok(Tree { root, layers: vec![layer] })
}

/// Whether the bytes are one whole YAML or JSON map, whatever it says: what an upload that was cut off is not
/// (as far as that can be told: YAML cut between two lines is whole).
#[must_use]
pub fn is_whole(bytes: &[u8]) -> bool {
    text(bytes).and_then(tree).is_ok_and(|root| matches!(root.value, Value::Map(_)))
}

/// Whether a file holds nothing but comments and empty lines.
#[must_use]
pub fn only_comments(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(text).is_ok_and(|text| {
        text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
    })
}

fn text(bytes: &[u8]) -> Result<&str> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::new(Kind::Manifest, format!("the file has {} bytes", bytes.len()))
            .advice("a manifest may have at most 16 MiB; was a disk image dropped by mistake?"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::new(Kind::Manifest, "the file is UTF-16, not UTF-8").advice("save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let mut cursor = Cursor::new(&good);
            let (line, column) = cursor.at(good.len());
            return Err(Error::new(Kind::Manifest, "the file is not UTF-8 from here on")
                .at(line, column)
                .advice("save it as UTF-8; if it is a disk image, it was dropped by mistake"));
        }
    };
    if let Some((offset, c)) = text.char_indices().find(|(_, c)| is_forbidden(*c)) {
        let (line, column) = Cursor::new(text).at(offset);
        return Err(forbidden(c).at(line, column));
    }
    Ok(text)
}

fn tree(text: &str) -> Result<Node> {
    let looks_like_json = text.trim_start().starts_with(['{', '[']);
    let root = if looks_like_json {
        // A YAML flow map begins like JSON, so YAML has the second word; the message is JSON's,
        // because what begins like JSON and is neither was most likely meant as JSON.
        json::read(text).or_else(|complaint| yaml::read(text).map_err(|_| complaint))?
    } else {
        yaml::read(text)?
    };
    match root.value {
        Value::Map(_) => Ok(root),
        Value::Null => Err(Error::new(Kind::Manifest, "the file is empty")
            .advice("write at least `manifest_version: \"1.0\"` and `disks`")),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => Err(
            Error::new(Kind::Manifest, format!("the file holds {}, not keys with values", root.value.what()))
                .at(root.line, root.column)
                .advice("write lines of the form `key: value`, or a JSON object"),
        ),
    }
}

/// Control characters have no place in names and paths, and a NUL ends strings early in every C library
/// behind us. Line breaks and tabs are allowed, because scripts and notes have them.
fn is_forbidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t' | '\r' | '\u{85}')
}

fn forbidden(c: char) -> Error {
    Error::new(Kind::Manifest, format!("the control character U+{:04X} is not allowed", u32::from(c)))
        .advice("remove it")
}

impl Value {
    /// What it is, for people, without its content.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true/false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

impl Node {
    /// A value that no file holds.
    #[must_use]
    pub fn made(value: Value) -> Node {
        Node { value, line: 0, column: 0, layer: 0 }
    }

    /// The value under a key of a map.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    fn entry(&self, key: &str) -> Option<(&Key, &Node)> {
        self.entries().iter().find(|(k, _)| k.name == key).map(|(key, node)| (key, node))
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        entries.iter_mut().find(|(k, _)| k.name == key).map(|(_, node)| node)
    }

    /// Takes a key out of a map.
    pub fn take(&mut self, key: &str) -> Option<(Key, Node)> {
        let Value::Map(entries) = &mut self.value else { return None };
        let index = entries.iter().position(|(k, _)| k.name == key)?;
        Some(entries.remove(index))
    }

    /// The items of a list (none of anything else).
    #[must_use]
    pub fn items(&self) -> &[Node] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// The entries of a map (none of anything else).
    #[must_use]
    pub fn entries(&self) -> &[(Key, Node)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// The text, if it is text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// Whether it says anything: not nothing, and not an empty map or list.
    #[must_use]
    pub fn says_something(&self) -> bool {
        match &self.value {
            Value::Null => false,
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => true,
            Value::List(items) => !items.is_empty(),
            Value::Map(entries) => entries.iter().any(|(_, node)| node.says_something()),
        }
    }

    /// Says of this and everything in it which layer it came from.
    pub fn set_layer(&mut self, layer: u16) {
        self.layer = layer;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.set_layer(layer)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.set_layer(layer)),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
        }
    }

    /// As JSON with sorted keys and without nulls: the same for everything that means the same.
    #[must_use]
    pub fn canonical(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Node::canonical).collect(),
            Value::Map(entries) => {
                let mut sorted: Vec<_> =
                    entries.iter().filter(|(_, node)| node.value != Value::Null).collect();
                sorted.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
                sorted.into_iter().map(|(key, node)| (key.name.clone(), node.canonical())).collect()
            }
        }
    }

    /// A tree that no file holds, from JSON.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Node {
        Node::made(match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::MAX)),
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            serde_json::Value::Object(map) => Value::Map(
                map.iter()
                    .map(|(name, value)| {
                        (Key { name: name.clone(), line: 0, column: 0 }, Node::from_json(value))
                    })
                    .collect(),
            ),
        })
    }
}

impl Tree {
    /// A tree that no file holds.
    #[must_use]
    pub fn of(root: Node, label: &str) -> Tree {
        let layer = Layer { file: None, below: String::new(), label: label.to_owned() };
        Tree { root, layers: vec![layer] }
    }

    /// A complaint about a field, pointing at it (or at what should have held it).
    #[must_use]
    pub fn error(&self, kind: Kind, field: &str, cause: impl Into<String>) -> Error {
        let place = self.place(field);
        self.pointed(Error::new(kind, cause), field, place)
    }

    /// A complaint about a key that may be any text, dots too, pointing at the key.
    #[must_use]
    pub fn error_at_key(&self, kind: Kind, map: &str, key: &str, cause: impl Into<String>) -> Error {
        let found = self.node(map).and_then(|node| node.entry(key));
        let place = found.map_or_else(|| self.place(map), |(key, value)| (key.line, key.column, value.layer));
        self.pointed(Error::new(kind, cause), &format!("{map}.{key}"), place)
    }

    /// An error that came from elsewhere, pointing at the field that led there.
    #[must_use]
    pub fn located(&self, field: &str, error: Error) -> Error {
        self.pointed(error, field, self.place(field))
    }

    /// The node at a path such as `disks[1].source_format`.
    #[must_use]
    pub fn node(&self, field: &str) -> Option<&Node> {
        let mut node = &self.root;
        for step in steps(field) {
            node = match step {
                Step::Key(key) => node.get(key)?,
                Step::Index(index) => node.items().get(index)?,
            };
        }
        Some(node)
    }

    /// Whether the field says anything, and in which layer it does.
    #[must_use]
    pub fn said_in(&self, field: &str) -> Option<u16> {
        self.node(field).filter(|node| node.says_something()).map(|node| node.layer)
    }

    /// Line, column and layer of a field, or of the nearest thing around it that is there.
    fn place(&self, field: &str) -> (u32, u32, u16) {
        let mut node = &self.root;
        let mut place = (node.line, node.column, node.layer);
        for step in steps(field) {
            let next = match step {
                Step::Key(key) => node.entry(key),
                Step::Index(index) => {
                    let Some(item) = node.items().get(index) else { return place };
                    place = (item.line, item.column, item.layer);
                    node = item;
                    continue;
                }
            };
            let Some((key, value)) = next else { return place };
            place = match value.value {
                // A map begins at its first key, which is another line: its own key is what a person looks for.
                Value::Map(_) | Value::List(_) | Value::Null => (key.line, key.column, value.layer),
                Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {
                    (value.line, value.column, value.layer)
                }
            };
            node = value;
        }
        place
    }

    fn pointed(&self, mut error: Error, field: &str, (line, column, layer): (u32, u32, u16)) -> Error {
        let layer = self.layers.get(usize::from(layer));
        let below = layer.map_or("", |layer| layer.below.as_str());
        let field = match (below.is_empty(), field.is_empty()) {
            (true, _) => field.to_owned(),
            (false, true) => below.to_owned(),
            (false, false) => format!("{below}.{field}"),
        };
        if !field.is_empty() {
            error = error.field(field);
        }
        if let Some(file) = layer.and_then(|layer| layer.file.as_ref()) {
            error = error.file(file);
        }
        if line > 0 {
            error = error.at(line, column);
        }
        error
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `disks[1].source_format` → key, index, key.
fn steps(field: &str) -> impl Iterator<Item = Step<'_>> {
    field.split(['.', '[']).filter(|part| !part.is_empty()).map(|part| {
        match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
            Some(index) => Step::Index(index),
            None => Step::Key(part),
        }
    })
}

/// Turns growing byte offsets into lines and columns without counting anything twice.
struct Cursor<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
    column: u32,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, offset: 0, line: 1, column: 1 }
    }

    /// Line and column of an offset not before the last one asked for.
    fn at(&mut self, offset: usize) -> (u32, u32) {
        for c in self.text.get(self.offset..offset).unwrap_or_default().chars() {
            if c == '\n' {
                self.line = self.line.saturating_add(1);
                self.column = 1;
            } else {
                self.column = self.column.saturating_add(1);
            }
        }
        self.offset = self.offset.max(offset);
        (self.line, self.column)
    }
}

/// What is left of the limits while a text is read.
struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Budget {
    fn new() -> Budget {
        Budget { nodes: MAX_NODES, bytes: MAX_EXPANDED_BYTES }
    }

    fn spend(&mut self, nodes: usize, bytes: usize) -> Result<()> {
        let left = self.nodes.checked_sub(nodes).zip(self.bytes.checked_sub(bytes));
        let (nodes, bytes) = left.ok_or_else(|| {
            Error::new(Kind::Manifest, "the file holds far more than a manifest can need")
                .advice("write less, or with fewer aliases")
        })?;
        (self.nodes, self.bytes) = (nodes, bytes);
        Ok(())
    }
}

fn too_deep() -> Error {
    Error::new(Kind::Manifest, format!("maps and lists are nested more than {MAX_DEPTH} deep"))
        .advice("no manifest needs that: check the brackets and the indentation")
}

fn given_twice(name: &str, first_line: u32) -> Error {
    Error::new(Kind::Manifest, format!("the key `{name}` is given twice (first on line {first_line})"))
        .advice("keep one of them")
}

/// What messages call the file at `path`: its name, which is what the person who wrote it knows.
#[must_use]
pub fn display_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
