//! A source that describes its machine: what it says is laid below what the manifest says.
//!
//! The planner does no IO: who looks at the source is handed in. What is not here: how a description is read.

use std::path::{Path, PathBuf};

use super::check::check_root;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::{Manifest, Source};
use crate::model::parse::Tree;

/// What describes machines (absolute).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An OVA archive.
    Ova(PathBuf),
    /// An OVF descriptor with its disks beside it.
    Ovf(PathBuf),
}

/// Who looks there: the machines that are described, one at least.
pub type Look<'a> = dyn FnMut(&Origin) -> Result<Vec<Facts>> + 'a;

/// Where nothing may be looked at.
pub fn nowhere(_: &Origin) -> Result<Vec<Facts>> {
    Err(Error::new(Kind::Unsupported, "no source is looked at here").advice("name the disks under `disks`"))
}

/// The machine of a manifest that names a description instead of disks.
pub(super) fn facts(
    file: &Tree,
    manifest: &Manifest,
    base_directory: &Path,
    settings: &Settings,
    look: &mut Look<'_>,
) -> Result<Option<Facts>> {
    let (None, Some(source)) = (&manifest.disks, &manifest.source) else { return Ok(None) };
    // That there are two, or that it is called otherwise, is told where the manifest is checked.
    let [provider] = source.providers()[..] else { return Ok(None) };
    if source.provider.as_ref().is_some_and(|name| name.as_str() != provider) {
        return Ok(None);
    }
    let Some((field, origin, wanted)) = origin(source, base_directory) else { return Ok(None) };
    let (Origin::Ova(path) | Origin::Ovf(path)) = &origin;
    check_root(file, Kind::Source, &format!("{field}.path"), path, &settings.paths.read, "paths.read")?;
    let machines = look(&origin).map_err(|error| file.located(&format!("{field}.path"), error))?;
    choose(machines, wanted).map(Some).map_err(|error| file.located(&format!("{field}.vm"), error))
}

fn origin<'s>(source: &'s Source, base: &Path) -> Option<(&'static str, Origin, Option<&'s str>)> {
    let wanted = |vm: &'s Option<crate::model::manifest::values::Line>| vm.as_ref().map(|vm| vm.as_str());
    if let Some(ova) = &source.ova {
        return Some(("source.ova", Origin::Ova(ova.path.below(base)), wanted(&ova.vm)));
    }
    let ovf = source.ovf.as_ref()?;
    Some(("source.ovf", Origin::Ovf(ovf.path.below(base)), wanted(&ovf.vm)))
}

/// The only machine, or the one of that name.
fn choose(machines: Vec<Facts>, wanted: Option<&str>) -> Result<Facts> {
    let names: Vec<String> = machines.iter().map(Facts::plain_name).collect();
    let is_wanted =
        |facts: &Facts| wanted.is_none_or(|name| facts.plain_name() == name || facts.name == name);
    let mut fitting = machines.into_iter().filter(is_wanted);
    let error = match (fitting.next(), fitting.next(), wanted) {
        (Some(one), None, _) => return Ok(one),
        (None, _, Some(name)) => {
            Error::new(Kind::Source, format!("it has no machine `{}`", name.escape_debug()))
                .advice("name one that it has")
        }
        (None, _, None) => Error::new(Kind::Source, "it has no machine").advice("export the appliance again"),
        (Some(_), Some(_), None) => Error::new(Kind::Manifest, format!("it has {} machines", names.len()))
            .advice("say which with `vm`; `hyper2kvm convert` takes all of them"),
        (Some(_), Some(_), Some(name)) => {
            Error::new(Kind::Source, format!("it has two machines called `{}`", name.escape_debug())).advice(
                "write a manifest for each, with its `disks`: `hyper2kvm manifest` writes what is there",
            )
        }
    };
    Err(error.allowed(names))
}
