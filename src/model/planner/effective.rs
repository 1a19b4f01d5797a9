//! The manifest that holds: defaults < what its source says < profile < profile_overrides < what a batch shares < what the
//! VM's manifest says < what the batch lays over it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use super::check::check_root;
use super::origin::Described;
use super::profiles::{MAX_CHAIN, ResolvedProfile};
use super::written::{Said, Written, profile_overrides};
use super::{OriginOf, Surroundings, origin};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::{BUILTIN, Manifest, Profile};
use crate::model::parse::{Key, Layer, Leaf, Node, Tree, Value, merge, parse, without};
use crate::model::redaction::names_secret;
use crate::model::selection::Selecting;

/// What holds where nobody says anything.
pub(super) const DEFAULT: u16 = 0;
/// What the source says of its machine.
pub(super) const SOURCE: u16 = 1;
/// The profile that all of its chain build on; each of them has its own number, the one that was asked for the highest.
pub(super) const PROFILE: u16 = 2;
/// `profile_overrides`; what is in this layer or above it, somebody has written for this VM.
pub(super) const OVERRIDES: u16 = PROFILE + MAX_CHAIN;
/// `profile_overrides` in a batch's `overrides`.
pub(super) const BATCH_PROFILE_OVERRIDES: u16 = OVERRIDES + 1;
/// A batch's `shared_config`.
pub(super) const SHARED: u16 = OVERRIDES + 2;
/// The VM's manifest.
pub(super) const MANIFEST: u16 = OVERRIDES + 3;
/// What a batch lays over the VM's manifest.
pub(super) const BATCH_OVERRIDES: u16 = OVERRIDES + 4;
/// What else a batch says of the VM.
pub(super) const BATCH_ENTRY: u16 = OVERRIDES + 5;

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
    /// The profile.
    pub(super) profile: Arc<ResolvedProfile>,
    /// Where the storage pool lies that results are made in, once that was asked.
    pub(super) pool_directory: Option<PathBuf>,
    /// The VMs of a server that it stands for, where it is not one itself.
    pub(super) selecting: Option<Selecting>,
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
        Effective::of_machine(written, said, facts, settings, around)
    }

    /// The same, of this machine.
    pub(super) fn of_machine(
        written: &Written<'_>,
        said: Said,
        facts: Option<Facts>,
        settings: &Settings,
        around: &mut dyn Surroundings,
    ) -> Result<Effective> {
        check_overrides(&said.tree, said.manifest.profile_overrides.as_ref())?;
        let profile = profile(written, &said, settings, around)?;
        let mut tree = said.tree;
        let default = builtin("default")?;
        let mut root = default.ok_or_else(|| Error::internal("there are no defaults"))?.clone();
        let described = facts.as_ref().map(|facts| Node::from_json(&facts.document()));
        let mut layers = std::mem::take(&mut tree.layers);
        for (layer, of_profile) in layers.iter_mut().skip(usize::from(PROFILE)).zip(profile.layers()) {
            layer.clone_from(of_profile);
        }

        let overrides = profile_overrides(&mut tree);
        let shared = written.shared().map(|shared| shared.root.clone());
        let clears_directory = written.shared().is_some_and(|shared| shared.output_directory.is_some());
        root.set_layer(DEFAULT);
        for (upper, number) in [
            (described, Some(SOURCE)),
            (Some(profile.root().clone()), None),
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
            forget_other_unit(&mut root, &upper.root);
            merge(&mut root, upper.root);
            // The batch's directory goes before what a profile says.
            if number == Some(SHARED)
                && clears_directory
                && let Some(output) = root.get_mut("output")
            {
                output.take("directory");
            }
        }
        if root.get("profile").is_none()
            && let Value::Map(entries) = &mut root.value
        {
            entries.push(made("profile", Node::made(Value::Text(profile.name.clone()))));
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
        Ok(Effective { tree, manifest, facts, profile, pool_directory: None, selecting: None })
    }

    /// What "the same content" is decided by: what differs from the defaults, without what only says how
    /// to run again, and without names for what is spelled out anyway. By which password a VM is fetched makes no other VM of it, and a digest of
    /// one could be guessed at.
    pub(super) fn content(&self) -> serde_json::Value {
        let mut root = self.tree.root.clone();
        for key in ["rerun", "profile", "profiles_directory", "manifest_version"] {
            root.take(key);
        }
        if let Some(vsphere) = root.get_mut("source").and_then(|source| source.get_mut("vsphere")) {
            vsphere.take("password");
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
        values_of(&Tree { root: self.redacted(), layers: self.tree.layers.clone() })
    }
}

/// Each value of a tree and where it comes from.
pub(super) fn values_of(tree: &Tree) -> Vec<OriginOf> {
    let of = |leaf: Leaf| {
        let origin = origin_words(tree, leaf.layer, leaf.line);
        OriginOf { field: leaf.path, value: leaf.value, origin }
    };
    tree.leaves().into_iter().map(of).collect()
}

/// Where what stands in this layer and line of a tree comes from, for people.
#[must_use]
pub fn origin_words(tree: &Tree, layer: u16, line: u32) -> String {
    let label = tree.layers.get(usize::from(layer)).map_or("default", |layer| &layer.label);
    match line {
        line if is_written(tree, layer) && line > 0 => format!("{label}, line {line}"),
        _ => label.to_owned(),
    }
}

/// Whether a layer is something that somebody wrote: for this VM, or into a profile of their own.
pub(super) fn is_written(tree: &Tree, layer: u16) -> bool {
    tree.layers.get(usize::from(layer)).is_some_and(|layer| layer.file.is_some())
}

/// The profile that was asked for, with all that it builds on.
fn profile(
    written: &Written<'_>,
    said: &Said,
    settings: &Settings,
    around: &mut dyn Surroundings,
) -> Result<Arc<ResolvedProfile>> {
    let Said { tree, manifest } = said;
    let named = manifest.profile.as_ref().map(|name| name.as_str());
    let shared = written.shared().filter(|shared| named.is_none() && shared.profile.is_some());
    let of_batch = shared.and_then(|shared| shared.profile.as_deref());
    let directory = match tree.node("profiles_directory").and_then(Node::text) {
        Some(path) => {
            let roots = &settings.paths.read;
            check_root(tree, Kind::Manifest, "profiles_directory", Path::new(path), roots, "paths.read")?;
            Path::new(path)
        }
        None => &settings.profiles_dir,
    };
    around.profile(named.or(of_batch).unwrap_or(BASE_PROFILE), directory).map_err(|error| {
        // What is wrong in a profile's file is told there; that there is none, where it is named.
        match shared {
            _ if error.details().place.file.is_some() => error,
            Some(shared) => {
                let mut root = shared.root.clone();
                root.set_layer(SHARED);
                Tree { root, layers: tree.layers.clone() }.located("profile", error)
            }
            None => tree.located("profile", error),
        }
    })
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
    let overrides = inside(entry, "overrides");
    let mut layers: Vec<Layer> = ["default", "source"]
        .into_iter()
        .chain((0..MAX_CHAIN).map(|_| "profile"))
        .map(|label| layer(label, None, String::new()))
        .collect();
    layers.extend([
        layer("profile_overrides", file.clone(), inside(below, "profile_overrides")),
        layer("overrides.profile_overrides", batch_file.clone(), inside(&overrides, "profile_overrides")),
        layer("shared_config", batch_file.clone(), "shared_config".to_owned()),
        layer("manifest", file, below.to_owned()),
        layer("overrides", batch_file.clone(), overrides),
        layer("batch", batch_file, entry.to_owned()),
    ]);
    layers
}

/// A layer of that name, from that field of that file.
pub(super) fn layer(label: &str, file: Option<String>, below: String) -> Layer {
    Layer { file, below, label: label.to_owned() }
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

/// Memory has two units: what is said in one goes before what lies below it in the other.
pub(super) fn forget_other_unit(root: &mut Node, upper: &Node) {
    const UNITS: [&str; 2] = ["mem_gb", "mem_mb"];
    let says = |unit: &str| upper.get("vm").and_then(|vm| vm.get(unit)).is_some_and(Node::says_something);
    let is_said = UNITS.into_iter().any(says);
    if let Some(vm) = root.get_mut("vm").filter(|_| is_said) {
        for unit in UNITS {
            vm.take(unit);
        }
    }
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
pub(super) fn redact(node: &mut Node) {
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
