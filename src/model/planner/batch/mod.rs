//! A batch's file, taken apart: what it says of all its VMs, and each VM by itself.
//!
//! What is wrong with one VM is kept with that VM, so that the others can run: a wrong entry, a manifest that cannot be read, a
//! source that is not there. The batch itself is refused only for what no VM can be blamed for alone: its own keys, names that are there twice, VMs
//! that wait for each other in a circle. What is not here: what becomes of refused VMs.

mod entry;
mod relations;
mod select;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::check::check_root;
use super::effective::Effective;
use super::written::{Shared, make_absolute, make_path_absolute};
use super::{Rerun, Surroundings, mapping};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::{Line, PathText};
use crate::model::manifest::{self, BatchManifest};
use crate::model::parse::{self, Layer, Node, Tree, Value};
use crate::model::window::Window;
use entry::Reader;
use relations::{check_dependencies, check_names};

/// A batch's file.
pub(super) struct Batch {
    /// What it is called, if it says.
    pub(super) id: Option<String>,
    /// Which VMs run again.
    pub(super) rerun: Rerun,
    /// How many run at a time.
    pub(super) parallel_limit: Option<u32>,
    /// Whether the others go on when one fails.
    pub(super) continue_on_error: Option<bool>,
    /// Where its VMs have their directories.
    pub(super) output_directory: Option<PathBuf>,
    /// When it may work, if that is limited.
    pub(super) window: Option<Window>,
    /// Its VMs, without those that are switched off.
    pub(super) vms: Vec<Member>,
}

/// One VM of it.
pub(super) struct Member {
    /// Its id.
    pub(super) vm_id: String,
    /// Where the batch speaks of it: field, line and column.
    pub(super) place: (String, u32, u32),
    /// The file that its manifest is in, if that is not the batch's.
    pub(super) manifest_path: Option<PathBuf>,
    /// Its effective manifest, or all that is wrong with it (never empty).
    pub(super) read: Read,
}

/// The manifests of its VMs that a file names by their paths (absolute), if it is a batch: whether they are there or not.
#[must_use]
pub fn manifests_named(bytes: &[u8], filename: &str, base_directory: &Path) -> Vec<PathBuf> {
    // Nearly every file is none, and need not be parsed to know that.
    let word = b"batch_version";
    if !bytes.windows(word.len()).any(|here| here == word) {
        return Vec::new();
    }
    let Ok(tree) = parse::parse(bytes, filename) else { return Vec::new() };
    if tree.root.get("batch_version").is_none() {
        return Vec::new();
    }
    let entries = tree.root.get("vms").map(Node::items).unwrap_or_default();
    let is_on =
        |entry: &&Node| entry.get("enabled").is_none_or(|enabled| enabled.value != Value::Bool(false));
    let on = entries.iter().filter(is_on);
    let named = on.filter_map(|entry| PathText::new(entry.get("manifest")?.text()?).ok());
    named.map(|path| path.below(base_directory)).collect()
}

/// An effective manifest, or all that is wrong with it.
pub(super) type Read = std::result::Result<Effective, Vec<Error>>;

/// What the planner is given beside the file.
pub(super) struct Given<'g> {
    pub(super) filename: &'g str,
    pub(super) base: &'g Path,
    pub(super) settings: &'g Settings,
}

/// Takes a batch's file apart.
pub(super) fn read(mut tree: Tree, given: &Given<'_>, around: &mut dyn Surroundings) -> Result<Batch> {
    let entries = match tree.root.get_mut("vms").map(|vms| &mut vms.value) {
        Some(Value::List(entries)) => std::mem::take(entries),
        _ => Vec::new(),
    };
    let head: BatchManifest = tree.decode()?;
    let metadata = head.batch_metadata;
    let window = match metadata.as_ref().and_then(|about| about.window.as_ref()) {
        Some(written) => Some(window(&tree, written)?),
        None => None,
    };
    let layers = shared_layers(&tree);
    let shared = shared(&mut tree, &layers, given)?;
    let mut vms = Vec::with_capacity(entries.len());
    let mut off = BTreeSet::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let reader = Reader { given, shared: shared.as_ref(), index, field: format!("vms[{index}]") };
        if entry.get("enabled").is_some_and(|enabled| enabled.value == Value::Bool(false)) {
            off.extend(entry.get("id").and_then(Node::text).map(str::to_owned));
            continue;
        }
        vms.extend(reader.members(entry, around));
    }
    if let Some(shared) = &shared {
        check_shared_mappings(shared, &layers, &vms)?;
    }
    check_names(&vms).map_err(|error| error.file(given.filename))?;
    check_dependencies(&mut vms, &off)?;
    Ok(Batch {
        id: metadata.as_ref().and_then(|about| about.batch_id.as_ref()).map(|id| id.as_str().to_owned()),
        rerun: metadata.as_ref().and_then(|about| about.rerun).unwrap_or_default(),
        parallel_limit: metadata
            .as_ref()
            .and_then(|about| about.parallel_limit)
            .and_then(|limit| u32::try_from(limit.get()).ok()),
        continue_on_error: metadata.as_ref().and_then(|about| about.continue_on_error),
        output_directory: shared.and_then(|shared| shared.output_directory),
        window,
        vms,
    })
}

/// What is mapped for all has to be for one of them. As long as one cannot be read, nobody knows.
fn check_shared_mappings(shared: &Shared, layers: &[Layer], vms: &[Member]) -> Result<()> {
    let read: Vec<&manifest::Manifest> =
        vms.iter().filter_map(|vm| vm.read.as_ref().ok()).map(|effective| &effective.manifest).collect();
    if read.is_empty() || read.len() < vms.len() {
        return Ok(());
    }
    mapping::check_shared(&Tree { root: shared.root.clone(), layers: layers.to_vec() }, &read)
}

/// `batch_metadata.window`
fn window(tree: &Tree, written: &manifest::Window) -> Result<Window> {
    let times = (written.open.as_str(), written.close.as_str());
    let tz = written.tz.as_ref().map(Line::as_str);
    Window::new(tz, times, written.gates.as_deref(), written.at_close)
        .map_err(|(field, error)| tree.located(&format!("batch_metadata.window.{field}"), error))
}

/// Where `shared_config` stands, for what is said of it.
fn shared_layers(tree: &Tree) -> Vec<Layer> {
    let file = tree.layers.first().and_then(|layer| layer.file.clone());
    vec![Layer { file, below: "shared_config".to_owned(), label: "shared_config".to_owned() }]
}

/// `shared_config`, as it lies below every VM.
fn shared(tree: &mut Tree, layers: &[Layer], given: &Given<'_>) -> Result<Option<Shared>> {
    let Some((_, mut root)) = tree.root.take("shared_config") else { return Ok(None) };
    let directory = root.take("output_directory");
    make_absolute(&mut root, given.base);
    let mut part = Tree { root, layers: layers.to_vec() };
    if part.node("output.directory").is_some_and(Node::says_something) {
        return Err(part
            .error(Kind::Manifest, "output.directory", "all VMs would put their results into one directory")
            .advice("write `output_directory`: each VM has a directory of its own there"));
    }
    let mut output_directory = None;
    if let Some((key, mut node)) = directory
        && node.value != Value::Null
    {
        make_path_absolute(&mut node, given.base);
        let path = PathBuf::from(node.text().unwrap_or_default());
        if let Value::Map(entries) = &mut part.root.value {
            entries.push((key, node));
        }
        let roots = &given.settings.paths.write;
        check_root(&part, Kind::Output, "output_directory", &path, roots, "paths.write")?;
        part.root.take("output_directory");
        output_directory = Some(path);
    }
    let profile = part.root.get("profile").and_then(Node::text).map(str::to_owned);
    Ok(Some(Shared { root: part.root, profile, output_directory }))
}
