//! `select`: several VMs of one source, by their names.

use std::path::Path;

use super::super::written::Written;
use crate::model::error::{Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::values::{Line, PathText};
use crate::model::manifest::{Manifest, Selection};
use crate::model::parse::{self, Key, Node, Tree, Value};
use crate::model::pattern;
use crate::model::selection::Selecting;

/// How a disk of a directory tells its machine where nobody says how: each is one machine's.
const EACH_DISK: &str = "^(?<vm>(?<disk>.+))$";

/// `select.folder` names the directory of disks, where no source is named.
pub(super) fn folder(
    part: &Tree,
    selection: &Selection,
    base: &Path,
    written: &mut Written<'_>,
) -> Result<()> {
    for (key, there) in [("tags", selection.tags.is_some()), ("power", selection.power.is_some())] {
        if there {
            let cause = format!("only VMs of a server have `{key}`, and no server is named");
            return Err(part.error(Kind::Manifest, &format!("select.{key}"), cause).advice(
                "select by `names`, or write the server into the entry's `manifest`: `source.vsphere`",
            ));
        }
    }
    let said = written.said()?;
    let Some(folder) = &selection.folder else {
        let local = said.manifest.source.as_ref().and_then(|source| source.local.as_ref());
        if local.is_some_and(|local| local.group_by.is_none()) {
            put(written, "group_by", EACH_DISK, part);
        }
        return Ok(());
    };
    let source = said.manifest.source.as_ref();
    let local = source.and_then(|source| source.local.as_ref());
    if source.is_some_and(|source| !source.providers().is_empty() && local.is_none())
        || local.is_some_and(|local| local.directory.as_str() != "/")
    {
        return Err(part
            .error(Kind::Manifest, "select.folder", "the source of these VMs is named already")
            .advice("remove it, or remove the source"));
    }
    let folder = PathText::new(folder.as_str())
        .map_err(|refusal| part.error(Kind::Manifest, "select.folder", refusal.to_string()))?
        .below(base);
    put(written, "directory", &folder.to_string_lossy(), part);
    if local.is_none_or(|local| local.group_by.is_none()) {
        put(written, "group_by", EACH_DISK, part);
    }
    Ok(())
}

/// Which VMs of a server are meant: said of one that is not asked yet.
pub(super) fn of_server(
    part: &Tree,
    selection: &Selection,
    manifest: &Manifest,
    entry: &str,
) -> Result<Selecting> {
    let vsphere = manifest.source.as_ref().and_then(|source| source.vsphere.as_ref());
    if selection.folder.is_some() && vsphere.is_some_and(|vsphere| vsphere.folder.is_some()) {
        return Err(part
            .error(Kind::Manifest, "select.folder", "`source.vsphere.folder` already tells the folder")
            .advice("keep one of them"));
    }
    if let Some(name) = &manifest.name {
        return Err(part
            .error(Kind::Manifest, "select", format!("`{name}` would be the name of several VMs"))
            .advice("leave `name` out of the manifest: each is called as its source calls it"));
    }
    let words = |words: &Option<Vec<Line>>| -> Vec<String> {
        words.iter().flatten().map(|word| word.as_str().to_owned()).collect()
    };
    Ok(Selecting {
        entry: entry.to_owned(),
        folder: selection.folder.as_ref().map(|folder| folder.as_str().to_owned()),
        tags: words(&selection.tags),
        names: words(&selection.names),
        exclude: words(&selection.exclude),
        power: selection.power,
        content: String::new(),
    })
}

/// Says a key of `source.local` as if the VM's manifest did.
fn put(written: &mut Written<'_>, key: &str, text: &str, part: &Tree) {
    let place = part.node("select").unwrap_or(&part.root);
    let node = |value: Value| Node { value, line: place.line, column: place.column, layer: 0 };
    let map = |key: &str, inner: Node| {
        let key = Key { name: key.to_owned(), line: place.line, column: place.column };
        node(Value::Map(vec![(key, inner)]))
    };
    let upper = map("source", map("local", map(key, node(Value::Text(text.to_owned())))));
    // Where the rest of it is said: by itself it would lack something there.
    let overrides = written.entry.as_mut().and_then(|entry| entry.overrides.as_mut());
    let of_overrides =
        overrides.filter(|node| node.get("source").is_some_and(|source| source.get("local").is_some()));
    parse::merge(of_overrides.unwrap_or(&mut written.manifest.root), upper);
}

/// The machines that are wanted of those that there are.
pub(super) fn machines(part: &Tree, selection: &Selection, machines: Vec<Facts>) -> Result<Vec<Facts>> {
    let names: Vec<String> = machines.iter().map(Facts::plain_name).collect();
    let fits =
        |patterns: &[Line], name: &str| patterns.iter().any(|wanted| pattern::fits(wanted.as_str(), name));
    if let Some(patterns) = &selection.names {
        for (index, wanted) in patterns.iter().enumerate() {
            if !names.iter().any(|name| pattern::fits(wanted.as_str(), name)) {
                let field = format!("select.names[{index}]");
                return Err(part
                    .error(Kind::Manifest, &field, format!("no VM there is called like `{wanted}`"))
                    .allowed(names)
                    .advice("mend the name, or remove it"));
            }
        }
    }
    let wanted = |name: &str| {
        selection.names.as_ref().is_none_or(|patterns| fits(patterns, name))
            && !selection.exclude.as_ref().is_some_and(|patterns| fits(patterns, name))
    };
    let kept: Vec<Facts> = machines.into_iter().filter(|facts| wanted(&facts.plain_name())).collect();
    if kept.is_empty() {
        return Err(part
            .error(Kind::Manifest, "select", "nothing is left of what is there")
            .allowed(names)
            .advice("exclude less"));
    }
    Ok(kept)
}
