//! The manifest that holds: defaults < what its source says < profile < profile_overrides < what the file says.

use std::path::Path;
use std::sync::LazyLock;

use super::OriginOf;
use super::origin::{self, Look};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::values::PathText;
use crate::model::manifest::{BUILTIN, Manifest, PROFILE_NAMES, Profile};
use crate::model::parse::{Key, Layer, Node, Tree, Value, closest, merge, parse, without};
use crate::model::redaction::names_secret;

/// What holds where nobody says anything.
pub(super) const DEFAULT: u16 = 0;
/// What the source says of its machine.
pub(super) const SOURCE: u16 = 1;
/// The profile.
pub(super) const PROFILE: u16 = 2;
/// `profile_overrides`.
pub(super) const OVERRIDES: u16 = 3;
/// The file itself.
pub(super) const MANIFEST: u16 = 4;

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
    /// The effective manifest of a parsed file.
    pub(super) fn of(
        mut file: Tree,
        base_directory: &Path,
        settings: &Settings,
        look: &mut Look<'_>,
    ) -> Result<Effective> {
        let written: Manifest = file.decode()?;
        if written.manifest_version.is_none() {
            return Err(file
                .error(Kind::Manifest, "manifest_version", "`manifest_version` is required")
                .advice("add `manifest_version: \"1.0\"`"));
        }
        check_overrides(&file, written.profile_overrides.as_ref())?;
        let name = written.profile.as_ref().map_or(BASE_PROFILE, |name| name.as_str()).to_owned();
        let (mut root, profile) = match (builtin("default")?, builtin(&name)?) {
            (Some(default), Some(profile)) if name != "default" => (default.clone(), profile.clone()),
            _ => return Err(no_such_profile(&file, &name)),
        };

        let facts = origin::facts(&file, &written, base_directory, settings, look)?;
        let described = facts.as_ref().map(|facts| Node::from_json(&facts.document()));
        let name_of_file = file.layers.first().and_then(|layer| layer.file.clone());
        let layer = |label: &str, file: Option<String>, below: &str| Layer {
            file,
            below: below.to_owned(),
            label: label.to_owned(),
        };
        let layers = vec![
            layer("default", None, ""),
            layer("source", None, ""),
            layer(&format!("profile {name}"), None, ""),
            layer("profile_overrides", name_of_file.clone(), "profile_overrides"),
            layer("manifest", name_of_file, ""),
        ];

        let overrides = file.root.take("profile_overrides").map(|(_, node)| node);
        root.set_layer(DEFAULT);
        for (mut upper, number) in [
            (described, SOURCE),
            (Some(profile), PROFILE),
            (overrides, OVERRIDES),
            (Some(file.root), MANIFEST),
        ]
        .into_iter()
        .filter_map(|(node, number)| Some((node?, number)))
        {
            upper.set_layer(number);
            let mut upper = Tree { root: upper, layers: layers.clone() };
            replace_aliases(&mut upper)?;
            merge(&mut root, upper.root);
        }
        root.take("description");
        if root.get("profile").is_none()
            && let Value::Map(entries) = &mut root.value
        {
            entries.push(made("profile", Node::made(Value::Text(name))));
        }
        make_absolute(&mut root, base_directory);
        let tree = Tree { root, layers };
        let manifest = tree.decode()?;
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

fn replace_aliases(layer: &mut Tree) -> Result<()> {
    for (alias, field) in ALIASES {
        let Some(value) = layer.node(alias).cloned() else { continue };
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

/// Counts relative paths from the directory that the manifest was dropped in.
fn make_absolute(root: &mut Node, base: &Path) {
    if let Some(directory) = root.get_mut("output").and_then(|output| output.get_mut("directory")) {
        make_path_absolute(directory, base);
    }
    if let Some(Value::List(keys)) = root.get_mut("luks").map(|luks| &mut luks.value) {
        for key in keys {
            if let Some(path) = key.get_mut("key_file") {
                make_path_absolute(path, base);
            }
        }
    }
    if let Some(Value::Map(stages)) = root.get_mut("hooks").map(|hooks| &mut hooks.value) {
        for (_, hooks) in stages {
            let Value::List(hooks) = &mut hooks.value else { continue };
            for hook in hooks {
                for key in ["path", "working_directory"] {
                    // One that begins with a name is absolute by that.
                    if let Some(path) = hook.get_mut(key)
                        && !path.text().is_some_and(|text| text.starts_with("{{"))
                    {
                        make_path_absolute(path, base);
                    }
                }
            }
        }
    }
    let mappings = root.get_mut("storage_mapping").and_then(|mapping| mapping.get_mut("disk_mappings"));
    if let Some(Value::Map(mappings)) = mappings.map(|mappings| &mut mappings.value) {
        for (_, entry) in mappings {
            make_path_absolute(entry, base);
            if let Some(directory) = entry.get_mut("directory") {
                make_path_absolute(directory, base);
            }
        }
    }
    let Some(Value::List(disks)) = root.get_mut("disks").map(|disks| &mut disks.value) else { return };
    for disk in disks {
        if let Some(path) = disk.get_mut("local_path") {
            make_path_absolute(path, base);
        }
        if let Some(Value::List(paths)) = disk.get_mut("allowed_paths").map(|paths| &mut paths.value) {
            paths.iter_mut().for_each(|path| make_path_absolute(path, base));
        }
    }
}

fn make_path_absolute(node: &mut Node, base: &Path) {
    // What is not a path stays as it is: decoding it says what is wrong.
    if let Value::Text(text) = &mut node.value
        && let Ok(path) = PathText::new(text)
        && let Ok(absolute) = path.below(base).into_os_string().into_string()
    {
        *text = absolute;
    }
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
