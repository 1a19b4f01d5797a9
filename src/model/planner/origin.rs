//! A source that describes its machine: what it says is laid below what the manifest says.
//!
//! The planner does no IO: who looks at the source is handed in. What is not here: how a description is read.

use std::path::{Path, PathBuf};

use super::Surroundings;
use super::check::check_root;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::libvirt_uri::check_named;
use crate::model::manifest::values::{DiskPattern, Line};
use crate::model::manifest::{Manifest, Source};
use crate::model::parse::Tree;

/// What describes machines (paths absolute).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An OVA archive.
    Ova(PathBuf),
    /// An OVF descriptor with its disks beside it.
    Ovf(PathBuf),
    /// A VMX with its disks beside it.
    Vmx(PathBuf),
    /// The XML of a libvirt domain.
    LibvirtXml(PathBuf),
    /// A domain of a libvirt.
    LibvirtDomain {
        /// Which libvirt.
        uri: String,
        /// Its name there.
        name: String,
    },
    /// A directory of disks.
    Folder {
        /// Which.
        directory: PathBuf,
        /// How the disks of several machines are told apart; none: all are one machine's.
        group_by: Option<DiskPattern>,
    },
}

impl Origin {
    /// What is looked at first; none if that is no file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Origin::Ova(path) | Origin::Ovf(path) | Origin::Vmx(path) | Origin::LibvirtXml(path) => {
                Some(path)
            }
            Origin::Folder { directory, .. } => Some(directory),
            Origin::LibvirtDomain { .. } => None,
        }
    }
}

/// An origin that a manifest names, and with what words.
struct NamedOrigin<'s> {
    origin: Origin,
    /// Which field says where it is.
    path_field: &'static str,
    /// Which field says which machine.
    vm_field: &'static str,
    /// The machine, if it is said.
    wanted: Option<&'s str>,
}

/// The machines that a manifest's source describes, where it names that instead of disks.
pub(super) struct Described {
    /// All of them.
    pub(super) machines: Vec<Facts>,
    /// The only one, or the one that the manifest names: or why it is none of them.
    pub(super) chosen: Result<Facts>,
    /// Whether a manifest in a batch means all of them: it names none.
    pub(super) are_all_meant: bool,
}

/// Looks at what a manifest (its paths absolute) names instead of disks; none if it does not.
pub(super) fn described(
    said: &Tree,
    manifest: &Manifest,
    settings: &Settings,
    around: &mut dyn Surroundings,
) -> Result<Option<Described>> {
    let (None, Some(source)) = (&manifest.disks, &manifest.source) else { return Ok(None) };
    // That there are two, or that it is called otherwise, is told where the manifest is checked.
    let [provider] = source.providers()[..] else { return Ok(None) };
    if source.provider.as_ref().is_some_and(|name| name.as_str() != provider) {
        return Ok(None);
    }
    let Some(named) = origin(source) else { return Ok(None) };
    let NamedOrigin { origin, path_field, vm_field, wanted } = named;
    if let Some(path) = origin.path() {
        check_root(said, Kind::Source, path_field, path, &settings.paths.read, "paths.read")?;
    }
    if let Origin::LibvirtDomain { uri, .. } = &origin {
        // Whoever writes a manifest decides what is asked.
        check_named(uri, &settings.libvirt).map_err(|error| said.located("source.libvirt-xml.uri", error))?;
    }
    let machines = around.machines(&origin).map_err(|error| said.located(path_field, error))?;
    let chosen = choose(&machines, wanted, &origin).map_err(|error| said.located(vm_field, error));
    Ok(Some(Described { are_all_meant: wanted.is_none(), machines, chosen }))
}

fn origin(source: &Source) -> Option<NamedOrigin<'_>> {
    fn wanted(vm: &Option<Line>) -> Option<&str> {
        vm.as_ref().map(Line::as_str)
    }
    let named = |origin, path_field, vm_field, wanted| NamedOrigin { origin, path_field, vm_field, wanted };
    if let Some(ova) = &source.ova {
        let origin = Origin::Ova(ova.path.as_str().into());
        return Some(named(origin, "source.ova.path", "source.ova.vm", wanted(&ova.vm)));
    }
    if let Some(ovf) = &source.ovf {
        let origin = Origin::Ovf(ovf.path.as_str().into());
        return Some(named(origin, "source.ovf.path", "source.ovf.vm", wanted(&ovf.vm)));
    }
    if let Some(vmx) = &source.vmx {
        return Some(named(Origin::Vmx(vmx.path.as_str().into()), "source.vmx.path", "source.vmx", None));
    }
    if let Some(domain) = &source.libvirt_xml {
        return match (&domain.path, &domain.uri, &domain.domain) {
            (Some(path), None, None) => {
                let origin = Origin::LibvirtXml(path.as_str().into());
                Some(named(origin, "source.libvirt-xml.path", "source.libvirt-xml", None))
            }
            (None, Some(uri), Some(name)) => {
                let (uri, name) = (uri.as_str().to_owned(), name.as_str().to_owned());
                let origin = Origin::LibvirtDomain { uri, name };
                Some(named(origin, "source.libvirt-xml.domain", "source.libvirt-xml", None))
            }
            // What is wrong with it is told where the manifest is checked.
            _ => None,
        };
    }
    let local = source.local.as_ref()?;
    let origin =
        Origin::Folder { directory: local.directory.as_str().into(), group_by: local.group_by.clone() };
    Some(named(origin, "source.local.directory", "source.local.group_by", None))
}

/// The only machine, or the one of that name.
fn choose(machines: &[Facts], wanted: Option<&str>, origin: &Origin) -> Result<Facts> {
    let names: Vec<String> = machines.iter().map(Facts::plain_name).collect();
    let is_wanted =
        |facts: &Facts| wanted.is_none_or(|name| facts.plain_name() == name || facts.name == name);
    let mut fitting = machines.iter().filter(|facts| is_wanted(facts));
    let error = match (fitting.next(), fitting.next(), wanted) {
        (Some(one), None, _) => return Ok(one.clone()),
        (None, _, Some(name)) => {
            Error::new(Kind::Source, format!("it has no machine `{}`", name.escape_debug()))
                .advice("name one that it has")
        }
        (None, _, None) => Error::new(Kind::Source, "it has no machine").advice("export the appliance again"),
        (Some(_), Some(_), None) => Error::new(Kind::Manifest, format!("it has {} machines", names.len()))
            .advice(match origin {
                Origin::Folder { .. } => {
                    "narrow the group `vm` to one: `(?<vm>web)`, and write a manifest for each"
                }
                _ => "say which with `vm`; `hyper2kvm convert` takes all of them",
            }),
        (Some(_), Some(_), Some(name)) => {
            Error::new(Kind::Source, format!("it has two machines called `{}`", name.escape_debug())).advice(
                "write a manifest for each, with its `disks`: `hyper2kvm manifest` writes what is there",
            )
        }
    };
    Err(error.allowed(names))
}
