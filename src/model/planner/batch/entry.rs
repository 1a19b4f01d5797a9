//! One entry of a batch's `vms`: its manifest, wherever that is, and the VMs that it stands for.

use std::path::{Path, PathBuf};

use super::super::check::{self, check_root};
use super::super::effective::{Effective, described};
use super::super::written::{Entry, Shared, Written};
use super::super::{Surroundings, build, remote, stem};
use super::{Given, Member, Read, select};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::values::PathText;
use crate::model::manifest::{BatchVm, Manifest, Selection, VmManifest};
use crate::model::parse::{self, Key, Layer, Node, Tree, Value};
use crate::model::units::safe_id;

/// Reads one entry of `vms`.
pub(super) struct Reader<'b> {
    pub(super) given: &'b Given<'b>,
    pub(super) shared: Option<&'b Shared>,
    pub(super) index: usize,
    pub(super) field: String,
}

/// A VM's manifest where it was found.
struct Found {
    tree: Tree,
    /// Its file, if it has one of its own.
    path: Option<PathBuf>,
    base: PathBuf,
}

impl<'b> Reader<'b> {
    /// The VMs of an entry: one, or as many as its source describes.
    pub(super) fn members(&self, mut entry: Node, around: &mut dyn Surroundings) -> Vec<Member> {
        let manifest = entry.take("manifest").filter(|(_, node)| node.value != Value::Null);
        let overrides = entry.take("overrides").filter(|(_, node)| node.value != Value::Null);
        let overrides = overrides.map(|(_, node)| node);
        let called = self.called(&entry, manifest.as_ref(), overrides.as_ref());
        let place = match entry.get("id") {
            Some(id) => (format!("{}.id", self.field), id.line, id.column),
            None => (self.field.clone(), entry.line, entry.column),
        };
        let refused = |path: Option<PathBuf>, errors: Vec<Error>| {
            let (vm_id, place) = (called.clone(), place.clone());
            vec![Member { vm_id, place, manifest_path: path, read: Err(errors) }]
        };
        let says = ["priority", "depends_on"]
            .iter()
            .filter_map(|key| entry.entries().iter().find(|(known, _)| known.name == **key).cloned())
            .collect();
        let part = Tree { root: entry, layers: vec![self.layer(self.field.clone())] };
        let typed: BatchVm = match part.decode() {
            Ok(typed) => typed,
            Err(_) => return refused(None, part.complaints::<BatchVm>()),
        };
        let found = match self.manifest(&part, manifest, typed.select.is_some(), around) {
            Ok(found) => found,
            Err(error) => return refused(None, vec![error]),
        };
        let Found { tree, path, base } = found;
        let mut written = Written {
            needs_version: path.is_some(),
            manifest: tree,
            base: &base,
            entry: Some(Entry {
                file: self.given.filename.to_owned(),
                field: self.field.clone(),
                base: self.given.base,
                overrides,
                says,
                shared: self.shared,
            }),
            called: None,
        };
        let members = self.read(&part, &typed, &mut written, &called, around).map_err(|error| {
            // All that the type does not allow is told at once; anything else is one complaint.
            let all = written.manifest.complaints::<Manifest>();
            if all.is_empty() { vec![error] } else { all }
        });
        match members {
            Err(errors) => refused(path, errors),
            Ok(members) => {
                let told =
                    |(vm_id, read)| Member { vm_id, place: place.clone(), manifest_path: path.clone(), read };
                members.into_iter().map(told).collect()
            }
        }
    }

    fn layer(&self, below: String) -> Layer {
        Layer { file: Some(self.given.filename.to_owned()), below, label: "batch".to_owned() }
    }

    /// What the VM is called if its manifest cannot be read: people have to find it again.
    fn called(&self, entry: &Node, manifest: Option<&(Key, Node)>, overrides: Option<&Node>) -> String {
        let named = |node: Option<&Node>, key: &str| {
            let text = node?.get(key)?.text()?;
            Some(safe_id(text)).filter(|id| !id.is_empty())
        };
        let manifest = manifest.map(|(_, node)| node);
        let of_file = || {
            let path = manifest.and_then(Node::text)?;
            let name = Path::new(path).file_name()?.to_string_lossy().into_owned();
            Some(safe_id(&stem(&name)))
        };
        named(Some(entry), "id")
            .or_else(|| named(overrides, "name"))
            .or_else(|| named(manifest, "name"))
            .or_else(of_file)
            .unwrap_or_else(|| format!("vm_{}", self.index))
    }

    fn manifest(
        &self,
        part: &Tree,
        manifest: Option<(Key, Node)>,
        is_selection: bool,
        around: &mut dyn Surroundings,
    ) -> Result<Found> {
        let below = format!("{}.manifest", self.field);
        let inline = |root: Node| Found {
            tree: Tree {
                root,
                layers: vec![Layer { label: "manifest".to_owned(), ..self.layer(below.clone()) }],
            },
            path: None,
            base: self.given.base.to_owned(),
        };
        let Some((key, node)) = manifest else {
            if is_selection {
                return Ok(inline(Node { value: Value::Map(Vec::new()), ..part.root.clone() }));
            }
            return Err(part
                .error(Kind::Manifest, "manifest", "a VM of a batch needs `manifest` or `select`")
                .advice("name the VM's manifest file, or write the manifest here"));
        };
        if matches!(node.value, Value::Map(_)) {
            return Ok(inline(node));
        }
        let whole = Tree {
            root: Node { value: Value::Map(vec![(key, node)]), ..part.root.clone() },
            layers: part.layers.clone(),
        };
        let typed: BatchVm = whole.decode()?;
        let Some(VmManifest::Path(path)) = typed.manifest else {
            return Err(Error::internal("a manifest that is no map is no path either"));
        };
        self.referenced(&whole, &path, around)
    }

    /// A manifest in a file of its own.
    fn referenced(&self, whole: &Tree, named: &PathText, around: &mut dyn Surroundings) -> Result<Found> {
        let path = named.below(self.given.base);
        let settings = self.given.settings;
        // What lies beside the batch in the drop directory belongs to the drop.
        if path.parent() != Some(&settings.intake.dir) {
            check_root(whole, Kind::Manifest, "manifest", &path, &settings.paths.read, "paths.read")?;
        }
        let bytes = around.manifest(&path).map_err(|error| whole.located("manifest", error))?;
        let tree = parse::parse(&bytes, named.as_str())?;
        if tree.root.get("batch_version").is_some() {
            return Err(tree
                .error(Kind::Manifest, "batch_version", "this is a batch, and batches do not hold batches")
                .advice("name the manifests of its VMs"));
        }
        let base = path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Found { tree, path: Some(path), base })
    }

    fn read(
        &self,
        part: &Tree,
        typed: &BatchVm,
        written: &mut Written<'_>,
        called: &str,
        around: &mut dyn Surroundings,
    ) -> Result<Vec<(String, Read)>> {
        if let Some(selection) = &typed.select {
            if remote::asked_for(&written.said()?.manifest).is_some() {
                return Ok(vec![self.of_server(part, (typed, selection), written, around)?]);
            }
            select::folder(part, selection, self.given.base, written)?;
        }
        let said = written.said()?;
        let described = described(&said, self.given.settings, around)?;
        let machines = match (described, &typed.select) {
            (None, None) => None,
            (None, Some(_)) => {
                return Err(part
                    .error(Kind::Manifest, "select", "there is nothing to select from")
                    .advice("name a `folder`, or write the source into the entry's `manifest`"));
            }
            (Some(described), Some(selection)) => {
                Some(select::machines(part, selection, described.machines)?)
            }
            (Some(described), None) if described.are_all_meant => Some(described.machines),
            (Some(described), None) => Some(vec![described.chosen?]),
        };
        let several = machines.as_ref().is_some_and(|machines| machines.len() > 1) || typed.select.is_some();
        if several {
            refuse_id(part, typed)?;
        }
        let mut of = |facts: Option<Facts>, written: &mut Written<'_>| -> Result<(String, Read)> {
            let name = facts.as_ref().map(Facts::plain_name).filter(|name| several && !name.is_empty());
            written.called = Some(name.clone().unwrap_or_else(|| called.to_owned()));
            let said = written.said()?;
            let mut effective =
                Effective::of_machine(written, said, facts, self.given.settings, &mut *around)?;
            let vm_id = match (&typed.id, name) {
                (Some(id), _) => id.as_str().to_owned(),
                (None, Some(name)) => safe_id(&name),
                (None, None) => build::vm_id(&effective.manifest, called),
            };
            let mut errors = check::settle(&mut effective, Some(&vm_id), self.given, &mut *around);
            errors.truncate(parse::MAX_COMPLAINTS);
            let read = if errors.is_empty() { Ok(effective) } else { Err(errors) };
            Ok((vm_id, read))
        };
        match machines {
            None => Ok(vec![of(None, written)?]),
            Some(machines) => machines.into_iter().map(|facts| of(Some(facts), written)).collect(),
        }
    }

    /// What stands for VMs of a server, until it was asked which there are.
    fn of_server(
        &self,
        part: &Tree,
        (typed, selection): (&BatchVm, &Selection),
        written: &mut Written<'_>,
        around: &mut dyn Surroundings,
    ) -> Result<(String, Read)> {
        refuse_id(part, typed)?;
        let said = written.said()?;
        let selecting = select::of_server(part, selection, &said.manifest, &self.field)?;
        let mut effective = Effective::of_machine(written, said, None, self.given.settings, &mut *around)?;
        effective.selecting = Some(selecting);
        let vm_id = format!("select_{}", self.index);
        let mut errors = check::settle(&mut effective, Some(&vm_id), self.given, around);
        errors.truncate(parse::MAX_COMPLAINTS);
        Ok((vm_id, if errors.is_empty() { Ok(effective) } else { Err(errors) }))
    }
}

/// Several VMs have no id in common.
fn refuse_id(part: &Tree, typed: &BatchVm) -> Result<()> {
    let Some(id) = &typed.id else { return Ok(()) };
    Err(part
        .error(Kind::Manifest, "id", format!("`{id}` would be the id of several VMs"))
        .advice("remove it: each is called as its source calls it"))
}
