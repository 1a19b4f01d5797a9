//! Profiles: from a name to all that it stands for, through the profiles that it builds on.
//!
//! A custom profile is a file of its own; who finds those is handed in, for the planner does no IO. Each profile of a chain is a layer with
//! its own file, so that a complaint about a value, and the answer where it comes from, name the line in it. What is not here: what lies
//! below and above a profile (see `effective`), and what is remembered of a chain (see `source::profiles`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::effective::{Effective, PROFILE, builtin, layer, redact, replace_aliases, values_of};
use super::origin::Origin;
use super::written::{Written, make_absolute};
use super::{OriginOf, Surroundings, build, check};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::job::Stage;
use crate::model::manifest::{PROFILE_NAMES, Profile};
use crate::model::parse::{Layer, Node, Tree, Value, closest, merge, only_comments, parse};
use crate::model::units::is_id;

/// So many profiles may build on each other: more than anybody keeps in mind.
pub(super) const MAX_CHAIN: u16 = 8;

/// A custom profile's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFile {
    /// Where it lies (absolute): paths in it count from its directory.
    pub path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// Who finds the files of custom profiles.
pub trait ProfileFiles {
    /// The file of the profile of this name (an id), if there is one.
    fn file(&mut self, name: &str) -> Result<Option<ProfileFile>>;
    /// The names of those that are there, for people who misspelt one.
    fn names(&mut self) -> Vec<String>;
}

/// Where there are only built-in profiles.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl ProfileFiles for NoFiles {
    fn file(&mut self, _: &str) -> Result<Option<ProfileFile>> {
        Ok(None)
    }

    fn names(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// One profile of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfileLevel {
    /// Its name.
    pub name: String,
    /// Its file; none: it is built in.
    pub file: Option<PathBuf>,
}

/// A profile with all that it builds on.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedProfile {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: Option<String>,
    /// Itself, then what it builds on, and so on.
    pub chain: Vec<ProfileLevel>,
    /// What they say together.
    root: Node,
    /// Their layers, the one that all build on first.
    layers: Vec<Layer>,
}

/// The profile of this name: a custom one if there is one, else the built-in one.
pub fn resolve(name: &str, files: &mut dyn ProfileFiles) -> Result<ResolvedProfile> {
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(name.to_owned());
    while let Some(wanted) = next {
        let level = find(&wanted, &levels, files).map_err(|error| match levels.last() {
            // What is wrong with a parent as such is told where it is named.
            Some(child) if error.details().place.file.is_none() => child.tree.located("extends", error),
            _ => error,
        })?;
        next = level.extends.clone();
        levels.push(level);
    }
    merged(name, levels)
}

impl ResolvedProfile {
    /// What the chain says, with the layers from [`PROFILE`] on.
    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// These layers.
    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Which stages it switches on or off.
    pub(super) fn switches(&self) -> BTreeMap<Stage, bool> {
        let all = Stage::ALL.into_iter();
        all.filter_map(|stage| Some((stage, build::enabled(&self.root, build::section(stage))?))).collect()
    }

    /// What the chain says, with its origins (see [`origin_words`](super::origin_words)) and without secrets.
    #[must_use]
    pub fn tree(&self) -> Tree {
        let mut root = self.root.clone();
        redact(&mut root);
        let below = (0..PROFILE).map(|_| layer("", None, String::new()));
        Tree { root, layers: below.chain(self.layers.iter().cloned()).collect() }
    }

    /// The same, value by value.
    #[must_use]
    pub fn values(&self) -> Vec<OriginOf> {
        values_of(&self.tree())
    }
}

/// A profile by itself.
struct Level {
    name: String,
    file: Option<PathBuf>,
    description: Option<String>,
    extends: Option<String>,
    tree: Tree,
}

fn find(name: &str, below: &[Level], files: &mut dyn ProfileFiles) -> Result<Level> {
    let chain = || {
        let names: Vec<&str> = below.iter().map(|level| level.name.as_str()).chain([name]).collect();
        names.join(" -> ")
    };
    let bad = |cause: String| Error::new(Kind::Manifest, cause);
    if !is_id(name) {
        return Err(bad(format!("`{}` is no name of a profile", name.escape_debug())).advice(
            "write the name of its file without directory and `.yaml`: letters, digits, `_`, `.` and `-`",
        ));
    }
    if below.len() >= usize::from(MAX_CHAIN) {
        return Err(bad(format!("more than {MAX_CHAIN} profiles build on each other: {}", chain()))
            .advice("put what several of them say into one"));
    }
    // What ends a chain is built in, so all below are files.
    let means_builtin = below.last().is_some_and(|child| child.name == name);
    if !means_builtin {
        if below.iter().any(|level| level.name == name) {
            return Err(bad(format!("profiles build on each other in a circle: {}", chain())).advice(
                "take one `extends` out; the built-in profile of a name is meant only by the custom one of the same name",
            ));
        }
        if let Some(file) = files.file(name)? {
            return Level::of_file(name, &file);
        }
    }
    if let Some(root) = builtin(name)?.filter(|_| name != "default") {
        return Ok(Level::built_in(name, root.clone()));
    }
    let cause = match (means_builtin, below.is_empty()) {
        (true, _) => {
            format!("there is no built-in profile `{name}` for the custom one to build on: {}", chain())
        }
        (false, true) => format!("there is no profile `{name}`"),
        (false, false) => format!("there is no profile `{name}`: {}", chain()),
    };
    let mut known: Vec<String> = PROFILE_NAMES.map(str::to_owned).into();
    if !means_builtin {
        known.extend(files.names().into_iter().filter(|name| !PROFILE_NAMES.contains(&name.as_str())));
    }
    let advice = match closest(name, known.iter().map(String::as_str)) {
        _ if means_builtin => "take `extends` out, or name another profile".to_owned(),
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("name one of these, or write `{name}.yaml` into the directory of profiles"),
    };
    Err(bad(cause).allowed(known).advice(advice))
}

impl Level {
    fn of_file(name: &str, file: &ProfileFile) -> Result<Level> {
        let shown = file.path.display().to_string();
        let tree = read(file)?;
        let typed: Profile = tree.decode()?;
        if tree.said_in("output.directory").is_some() {
            return Err(tree
                .error(Kind::Manifest, "output.directory", "all VMs would put their results into one directory")
                .advice("remove it: each VM has its own below `output_dir`, or below a batch's `output_directory`"));
        }
        let label = format!("profile {name} ({shown})");
        Ok(Level {
            name: name.to_owned(),
            file: Some(file.path.clone()),
            description: typed.description.map(|line| line.as_str().to_owned()),
            extends: typed.extends.map(|line| line.as_str().to_owned()),
            tree: Tree { root: tree.root, layers: vec![layer(&label, Some(shown), String::new())] },
        })
    }

    fn built_in(name: &str, root: Node) -> Level {
        let description = root.get("description").and_then(Node::text).map(str::to_owned);
        let layers = vec![layer(&format!("profile {name}"), None, String::new())];
        Level { name: name.to_owned(), file: None, description, extends: None, tree: Tree { root, layers } }
    }
}

fn read(file: &ProfileFile) -> Result<Tree> {
    let shown = file.path.display().to_string();
    if only_comments(&file.bytes) {
        return Err(Error::new(Kind::Manifest, "the profile says nothing")
            .file(&file.path)
            .advice("write `extends: production` and what is to be different"));
    }
    parse(&file.bytes, &shown)
}

/// The profiles of a chain, laid over each other.
fn merged(name: &str, levels: Vec<Level>) -> Result<ResolvedProfile> {
    let chain =
        levels.iter().map(|level| ProfileLevel { name: level.name.clone(), file: level.file.clone() });
    let (chain, description) = (chain.collect(), levels.first().and_then(|level| level.description.clone()));
    let mut root = Node::made(Value::Map(Vec::new()));
    let mut layers = Vec::with_capacity(levels.len());
    for (mut level, number) in levels.into_iter().rev().zip(PROFILE..) {
        for key in ["description", "extends"] {
            level.tree.root.take(key);
        }
        replace_aliases(&mut level.tree)?;
        if let Some(directory) = level.file.as_deref().and_then(Path::parent) {
            make_absolute(&mut level.tree.root, directory);
        }
        level.tree.root.set_layer(number);
        merge(&mut root, level.tree.root);
        layers.extend(level.tree.layers);
    }
    Ok(ResolvedProfile { name: name.to_owned(), description, chain, root, layers })
}

/// All that is wrong with a profile's file, as it would be in its place among the others.
#[must_use]
pub fn complaints(file: &ProfileFile, settings: &Settings, files: &mut dyn ProfileFiles) -> Vec<Error> {
    let typed = match read(file) {
        Ok(tree) => tree.complaints::<Profile>(),
        Err(error) => return vec![error],
    };
    if !typed.is_empty() {
        return typed;
    }
    let is_named = file.path.extension().is_some_and(|suffix| suffix == "yaml");
    let Some(name) = file.path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_named) else {
        return vec![
            Error::new(Kind::Manifest, "no profile can have this file's name")
                .file(&file.path)
                .advice("call it `<name>.yaml`"),
        ];
    };
    let mut put_in_place = PutInPlace { name, file, files };
    // A machine of which nothing is said: what is wrong with it is the profile's.
    let bare = b"manifest_version: \"1.0\"\ndisks: [{id: disk, source_format: raw, local_path: /disk}]\n";
    let checked = resolve(name, &mut put_in_place).and_then(|profile| {
        let mut around = OneProfile(Arc::new(profile));
        let written = Written::alone(parse(bare, "")?, Path::new("/"));
        Ok(check::complaints(&Effective::of(&written, settings, &mut around)?, settings, false))
    });
    let is_of_a_profile = |error: &Error| {
        let file = error.details().place.file.as_ref();
        file.is_none_or(|file| !file.as_os_str().is_empty())
    };
    match checked {
        Ok(found) => found.into_iter().filter(is_of_a_profile).collect(),
        Err(error) if error.details().place.file.is_none() => vec![error.file(&file.path)],
        Err(error) => vec![error],
    }
}

/// A profile's file in its place, wherever it lies now.
struct PutInPlace<'f> {
    name: &'f str,
    file: &'f ProfileFile,
    files: &'f mut dyn ProfileFiles,
}

impl ProfileFiles for PutInPlace<'_> {
    fn file(&mut self, name: &str) -> Result<Option<ProfileFile>> {
        if name == self.name { Ok(Some(self.file.clone())) } else { self.files.file(name) }
    }

    fn names(&mut self) -> Vec<String> {
        self.files.names()
    }
}

/// Where there is this profile and nothing else.
struct OneProfile(Arc<ResolvedProfile>);

impl Surroundings for OneProfile {
    fn machines(&mut self, _: &Origin) -> Result<Vec<Facts>> {
        Err(Error::internal("a machine with a disk of its own has no source"))
    }

    fn manifest(&mut self, _: &Path) -> Result<Vec<u8>> {
        Err(Error::internal("a manifest names no other"))
    }

    fn profile(&mut self, _: &str, _: &Path) -> Result<Arc<ResolvedProfile>> {
        Ok(Arc::clone(&self.0))
    }
}
