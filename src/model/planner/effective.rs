//! The manifest that holds: defaults < what its source says < profile < profile_overrides < what a batch shares < what the
//! VM's manifest says < what the batch lays over it.

use std::sync::LazyLock;

use super::origin::Described;
use super::written::{Said, Written, profile_overrides};
use super::{OriginOf, Surroundings, origin};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::{BUILTIN, Manifest, PROFILE_NAMES, Profile};
use crate::model::parse::{Key, Layer, Node, Tree, Value, closest, merge, parse, without};
use crate::model::redaction::names_secret;

/// What holds where nobody says anything.
pub(super) const DEFAULT: u16 = 0;
/// What the source says of its machine.
pub(super) const SOURCE: u16 = 1;
/// The profile.
pub(super) const PROFILE: u16 = 2;
/// `profile_overrides`; what is in this layer or above it, somebody has written for this VM.
pub(super) const OVERRIDES: u16 = 3;
/// `profile_overrides` in a batch's `overrides`.
pub(super) const BATCH_PROFILE_OVERRIDES: u16 = 4;
/// A batch's `shared_config`.
pub(super) const SHARED: u16 = 5;
/// The VM's manifest.
pub(super) const MANIFEST: u16 = 6;
/// What a batch lays over the VM's manifest.
pub(super) const BATCH_OVERRIDES: u16 = 7;
/// What else a batch says of the VM.
pub(super) const BATCH_ENTRY: u16 = 8;

/// The profile of a manifest that names none.
pub(super) const BASE_PROFILE: &str = "production";

/// Second names of fields, and the fields they are.
const ALIASES: [(&str, &str); 3] = [
    ("pipeline.convert.compress", "output.compress"),
    ("pipeline.convert.compress_level", "output.compress_level"),
    ("pipeline.convert.check_image_integrity", "pipeline.validate.check_image_integrity"),
];

/// A manifest merged with all that it builds on.
pub(super) struct Effective {
    /// Merged, each value with its origin.
    pub(super) tree: Tree,
    /// The same, typed.
    pub(super) manifest: Manifest,
    /// What the source says, if it was looked at.
    pub(super) facts: Option<Facts>,
}

impl Effective {
    /// The effective manifest of what was written; of the machine that its source describes.
    pub(super) fn of(
        written: &Written<'_>,
        settings: &Settings,
        around: &mut dyn Surroundings,
    ) -> Result<Effective> {
        let said = written.said()?;
        let facts = described(&said, settings, around)?.map(|described| described.chosen).transpose()?;
        Effective::of_machine(written, said, facts)
    }

    /// The same, of this machine.
    pub(super) fn of_machine(written: &Written<'_>, said: Said, facts: Option<Facts>) -> Result<Effective> {
        let Said { mut tree, manifest } = said;
        check_overrides(&tree, manifest.profile_overrides.as_ref())?;
        let of_batch = written.shared().and_then(|shared| shared.profile.as_deref());
        let name = manifest.profile.as_ref().map(|name| name.as_str()).or(of_batch).unwrap_or(BASE_PROFILE);
        let name = name.to_owned();
        let (mut root, profile) = match (builtin("default")?, builtin(&name)?) {
            (Some(default), Some(profile)) if name != "default" => (default.clone(), profile.clone()),
            _ => return Err(no_such_profile(&tree, &name)),
        };
        let described = facts.as_ref().map(|facts| Node::from_json(&facts.document()));
        let mut layers = std::mem::take(&mut tree.layers);
        if let Some(layer) = layers.get_mut(usize::from(PROFILE)) {
            layer.label = format!("profile {name}");
        }

        let overrides = profile_overrides(&mut tree);
        let shared = written.shared().map(|shared| shared.root.clone());
        let clears_directory = written.shared().is_some_and(|shared| shared.output_directory.is_some());
        root.set_layer(DEFAULT);
        for (upper, number) in [
            (described, Some(SOURCE)),
            (Some(profile), Some(PROFILE)),
            (overrides, None),
            (shared, Some(SHARED)),
            (Some(tree.root), None),
        ] {
            let Some(mut upper) = upper else { continue };
            if let Some(number) = number {
                upper.set_layer(number);
            }
            let mut upper = Tree { root: upper, layers: layers.clone() };
            replace_aliases(&mut upper)?;
            merge(&mut root, upper.root);
            // The batch's directory goes before what a profile says.
            if number == Some(SHARED)
                && clears_directory
                && let Some(output) = root.get_mut("output")
            {
                output.take("directory");
            }
        }
        root.take("description");
        if root.get("profile").is_none()
            && let Value::Map(entries) = &mut root.value
        {
            entries.push(made("profile", Node::made(Value::Text(name))));
        }
        written.make_absolute(&mut root);
        let mut tree = Tree { root, layers };
        let mut manifest: Manifest = tree.decode()?;
        let has_name = manifest.name.is_some()
            || manifest.source.as_ref().is_some_and(|source| source.name_there().is_some());
        if let Some(name) = written.called.as_ref().filter(|_| !has_name)
            && let Value::Map(entries) = &mut tree.root.value
        {
            entries.push(made("name", Node::made(Value::Text(name.clone()))));
            manifest = tree.decode()?;
        }
        Ok(Effective { tree, manifest, facts })
    }

    /// What "the same content" is decided by: what differs from the defaults, without what only says how
    /// to run again, and without names for what is spelled out anyway.
    pub(super) fn content(&self) -> serde_json::Value {
        let mut root = self.tree.root.clone();
        for key in ["rerun", "profile", "manifest_version"] {
            root.take(key);
        }
        match builtin("default") {
            Ok(Some(default)) => without(&root, default).canonical(),
            _ => root.canonical(),
        }
    }

    /// The merged tree without secrets.
    pub(super) fn redacted(&self) -> Node {
        let mut root = self.tree.root.clone();
        redact(&mut root);
        root
    }

    /// Each value and where it comes from.
    pub(super) fn origins(&self) -> Vec<OriginOf> {
        let tree = Tree { root: self.redacted(), layers: self.tree.layers.clone() };
        tree.leaves()
            .into_iter()
            .map(|leaf| {
                let label = tree.layers.get(usize::from(leaf.layer)).map_or("default", |layer| &layer.label);
                let origin = match leaf.line {
                    line if leaf.layer >= OVERRIDES && line > 0 => format!("{label}, line {line}"),
                    _ => label.to_owned(),
                };
                OriginOf { field: leaf.path, value: leaf.value, origin }
            })
            .collect()
    }
}

/// The built-in profiles, read once: text that is part of the program.
static PROFILES: LazyLock<Result<Tree>> =
    LazyLock::new(|| parse(BUILTIN.as_bytes(), "builtin_profiles.yaml"));

/// A section of the built-in profiles.
pub(super) fn builtin(name: &str) -> Result<Option<&'static Node>> {
    match &*PROFILES {
        Ok(tree) => Ok(tree.root.get(name)),
        Err(error) => Err(Error::internal(format!("the built-in profiles cannot be read: {error}"))),
    }
}

/// What the source of what was said describes.
pub(super) fn described(
    said: &Said,
    settings: &Settings,
    around: &mut dyn Surroundings,
) -> Result<Option<Described>> {
    origin::described(&said.tree, &said.manifest, settings, around)
}

/// The layers of every effective manifest, in the order of their numbers.
pub(super) fn layers(manifest: (Option<String>, &str), batch: Option<(String, &str)>) -> Vec<Layer> {
    let (file, below) = manifest;
    let inside = |below: &str, key: &str| match below {
        "" => key.to_owned(),
        _ => format!("{below}.{key}"),
    };
    let (batch_file, entry) = batch.map_or((None, ""), |(file, entry)| (Some(file), entry));
    let layer =
        |label: &str, file: Option<String>, below: String| Layer { file, below, label: label.to_owned() };
    let overrides = inside(entry, "overrides");
    vec![
        layer("default", None, String::new()),
        layer("source", None, String::new()),
        layer("profile", None, String::new()),
        layer("profile_overrides", file.clone(), inside(below, "profile_overrides")),
        layer("overrides.profile_overrides", batch_file.clone(), inside(&overrides, "profile_overrides")),
        layer("shared_config", batch_file.clone(), "shared_config".to_owned()),
        layer("manifest", file, below.to_owned()),
        layer("overrides", batch_file.clone(), overrides),
        layer("batch", batch_file, entry.to_owned()),
    ]
}

fn no_such_profile(file: &Tree, name: &str) -> Error {
    let error = file
        .error(
            Kind::Unsupported,
            "profile",
            format!("there is no built-in profile `{name}`, and this version has no custom profiles"),
        )
        .allowed(PROFILE_NAMES);
    match closest(name, PROFILE_NAMES) {
        Some(meant) => error.advice(format!("did you mean `{meant}`?")),
        None => error.advice("remove it, or build on one of these with profile_overrides"),
    }
}

fn check_overrides(file: &Tree, overrides: Option<&Profile>) -> Result<()> {
    let Some(overrides) = overrides else { return Ok(()) };
    for (key, there) in
        [("extends", overrides.extends.is_some()), ("description", overrides.description.is_some())]
    {
        if there {
            let field = format!("profile_overrides.{key}");
            return Err(file
                .error(Kind::Manifest, &field, format!("`{key}` belongs into a profile's own file"))
                .advice("remove it; `profile` names what these overrides are laid over"));
        }
    }
    Ok(())
}

pub(super) fn replace_aliases(layer: &mut Tree) -> Result<()> {
    for (alias, field) in ALIASES {
        let Some(value) = layer.node(alias).filter(|node| node.value != Value::Null).cloned() else {
            continue;
        };
        if let Some(other) = layer.node(field)
            && other.value != Value::Null
            && other.canonical() != value.canonical()
        {
            return Err(layer
                .error(
                    Kind::Manifest,
                    alias,
                    format!("this is the same as `{field}`, which says something else"),
                )
                .advice("keep one of them"));
        }
        let Value::Map(entries) = &mut layer.root.value else { continue };
        let (alias, field): (Vec<&str>, Vec<&str>) = (alias.split('.').collect(), field.split('.').collect());
        set(entries, &alias, Node { value: Value::Null, ..value });
        set(entries, &field, value);
    }
    Ok(())
}

/// Puts a value at a path of keys, making the maps on the way.
fn set(entries: &mut Vec<(Key, Node)>, path: &[&str], value: Node) {
    let [step, rest @ ..] = path else { return };
    let index = entries.iter().position(|(key, _)| key.name == *step).unwrap_or_else(|| {
        let place = Key { name: (*step).to_owned(), line: value.line, column: value.column };
        entries.push((place, Node { value: Value::Null, ..value }));
        entries.len() - 1
    });
    let node = &mut entries[index].1;
    if rest.is_empty() {
        *node = value;
    } else if let Value::Map(inner) = &mut node.value {
        set(inner, rest, value);
    } else {
        let mut inner = Vec::new();
        set(&mut inner, rest, value);
        node.value = Value::Map(inner);
    }
}

fn made(key: &str, node: Node) -> (Key, Node) {
    (Key { name: key.to_owned(), line: 0, column: 0 }, node)
}

/// Takes out what nobody may read: the content of every field that is named like a secret.
fn redact(node: &mut Node) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(redact),
        Value::Map(entries) => {
            for (key, value) in entries {
                if names_secret(&key.name) && value.value != Value::Null {
                    value.value = Value::Text("***".to_owned());
                } else {
                    redact(value);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
}
