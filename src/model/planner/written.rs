//! One VM as somebody wrote it: its manifest, and what a batch lays below and over it. Not merged with a profile, nor with what
//! its source says (see `effective`).
//!
//! Every part has its own file and its own directory, from which the paths in it count: they are absolute when the parts meet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::effective::{
    BATCH_ENTRY, BATCH_OVERRIDES, BATCH_PROFILE_OVERRIDES, MANIFEST, OVERRIDES, layers, replace_aliases,
};
use crate::model::error::{Kind, Result};
use crate::model::manifest::Manifest;
use crate::model::manifest::values::PathText;
use crate::model::parse::{Key, Node, Tree, Value, merge};

/// What a batch lays below the manifests of all its VMs.
#[derive(Debug)]
pub(super) struct Shared {
    /// `shared_config`, its paths absolute, without the directory.
    pub(super) root: Node,
    /// The profile that it names.
    pub(super) profile: Option<String>,
    /// The batch's directory (absolute).
    pub(super) output_directory: Option<PathBuf>,
}

/// What a batch's file says of one VM.
#[derive(Debug)]
pub(super) struct Entry<'b> {
    /// The file's name, as messages call it.
    pub(super) file: String,
    /// The field of the entry: `vms[3]`.
    pub(super) field: String,
    /// The file's directory.
    pub(super) base: &'b Path,
    /// `overrides`.
    pub(super) overrides: Option<Node>,
    /// What of a manifest the entry says itself.
    pub(super) says: Vec<(Key, Node)>,
    /// What the batch shares.
    pub(super) shared: Option<&'b Shared>,
}

/// One VM as it was written.
#[derive(Debug)]
pub(super) struct Written<'b> {
    /// Its manifest, which may be a part of a batch's file.
    pub(super) manifest: Tree,
    /// What relative paths in that count from.
    pub(super) base: &'b Path,
    /// Whether a manifest has to say its version: one inside of a batch does not.
    pub(super) needs_version: bool,
    /// What a batch says of it, if there is one.
    pub(super) entry: Option<Entry<'b>>,
    /// What it is called if neither it nor its source says so; none: after the file.
    pub(super) called: Option<String>,
}

/// What was said for one VM, laid over each other.
pub(super) struct Said {
    /// With the layers of an effective manifest.
    pub(super) tree: Tree,
    /// The same, typed.
    pub(super) manifest: Manifest,
}

impl Written<'_> {
    /// A manifest that is a file of its own.
    pub(super) fn alone(manifest: Tree, base: &Path) -> Written<'_> {
        Written { manifest, base, needs_version: true, entry: None, called: None }
    }

    /// What a batch shares.
    pub(super) fn shared(&self) -> Option<&Shared> {
        self.entry.as_ref()?.shared
    }

    /// What was said by the manifest and over it.
    pub(super) fn said(&self) -> Result<Said> {
        let written: Manifest = self.manifest.decode()?;
        if self.needs_version && written.manifest_version.is_none() {
            return Err(self
                .manifest
                .error(Kind::Manifest, "manifest_version", "`manifest_version` is required")
                .advice("add `manifest_version: \"1.0\"`"));
        }
        let source = self.manifest.layers.first();
        let file = source.and_then(|layer| layer.file.clone());
        let below = source.map_or("", |layer| layer.below.as_str());
        let batch = self.entry.as_ref().map(|entry| (entry.file.clone(), entry.field.as_str()));
        let layers = layers((file, below), batch);
        let part = |mut root: Node, base: &Path, layer: u16| -> Result<Node> {
            root.set_layer(layer);
            let mut tree = Tree { root, layers: layers.clone() };
            replace_aliases(&mut tree)?;
            if let Some(profile) = tree.root.get_mut("profile_overrides") {
                make_absolute(profile, base);
            }
            make_absolute(&mut tree.root, base);
            Ok(tree.root)
        };
        let mut root = part(self.manifest.root.clone(), self.base, MANIFEST)?;
        let Some(entry) = &self.entry else {
            let tree = Tree { root, layers };
            let manifest = tree.decode()?;
            return Ok(Said { tree, manifest });
        };
        if let Some(overrides) = &entry.overrides {
            // It is held against the type by itself, so that a complaint names the place in the batch.
            let mut tree = Tree { root: overrides.clone(), layers: layers.clone() };
            tree.root.set_layer(BATCH_OVERRIDES);
            tree.decode::<Manifest>()?;
            merge(&mut root, part(tree.root, entry.base, BATCH_OVERRIDES)?);
        }
        let mut says = Node::made(Value::Map(entry.says.clone()));
        says.set_layer(BATCH_ENTRY);
        merge(&mut root, says);
        let tree = Tree { root, layers };
        let manifest = tree.decode()?;
        Ok(Said { tree, manifest })
    }

    /// Counts the paths that are still relative (none that somebody wrote) from the manifest's directory.
    pub(super) fn make_absolute(&self, root: &mut Node) {
        make_absolute(root, self.base);
    }
}

/// `profile_overrides`, taken out of what was said: a part of its own, below the rest.
pub(super) fn profile_overrides(said: &mut Tree) -> Option<Node> {
    let (_, mut node) = said.root.take("profile_overrides")?;
    lower(&mut node);
    Some(node)
}

fn lower(node: &mut Node) {
    node.layer = if node.layer >= BATCH_OVERRIDES { BATCH_PROFILE_OVERRIDES } else { OVERRIDES };
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(lower),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| lower(node)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
}

/// Counts relative paths from the directory of the file that they stand in.
pub(super) fn make_absolute(root: &mut Node, base: &Path) {
    if let Some(directory) = root.get_mut("output").and_then(|output| output.get_mut("directory")) {
        make_path_absolute(directory, base);
    }
    if let Some(directory) = root.get_mut("profiles_directory") {
        make_path_absolute(directory, base);
    }
    if let Some(path) = root.get_mut("libvirt_integration").and_then(|told| told.get_mut("pool_path")) {
        make_path_absolute(path, base);
    }
    for (provider, key) in [
        ("ova", "path"),
        ("ovf", "path"),
        ("vmx", "path"),
        ("libvirt-xml", "path"),
        ("local", "directory"),
        ("vsphere", "password_file"),
    ] {
        let source = root.get_mut("source").and_then(|source| source.get_mut(provider));
        if let Some(path) = source.and_then(|provider| provider.get_mut(key)) {
            make_path_absolute(path, base);
        }
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

pub(super) fn make_path_absolute(node: &mut Node, base: &Path) {
    // What is not a path stays as it is: decoding it says what is wrong.
    if let Value::Text(text) = &mut node.value
        && let Ok(path) = PathText::new(text)
        && let Ok(absolute) = path.below(base).into_os_string().into_string()
    {
        *text = absolute;
    }
}

/// Replaces every text that is one of these paths.
pub(super) fn follow(value: &mut serde_json::Value, moved: &BTreeMap<PathBuf, PathBuf>) {
    use serde_json::Value;
    match value {
        Value::String(text) => {
            if let Some(to) = moved.get(Path::new(text)) {
                *text = to.to_string_lossy().into_owned();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| follow(item, moved)),
        Value::Object(fields) => fields.values_mut().for_each(|field| follow(field, moved)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
