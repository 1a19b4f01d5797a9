//! What cannot succeed is refused before anything is touched, pointing at the line that asks for it.
//!
//! In this order: secrets that a drop may not hold; features that this version lacks (`unsupported`, never
//! ignored); contradictions; paths outside what the configuration allows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::effective::{Effective, is_written};
use super::{Given, Surroundings, build, pool};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::fitting::is_pcie;
use crate::model::job::Stage;
use crate::model::manifest::{Disk, Firmware, LibvirtXmlSource, Manifest, Source, Vm};
use crate::model::parse::Tree;

/// What cannot succeed, in the order above: of each sort the first.
/// `in_batch`: what it waits for is held against the others there.
pub(super) fn complaints(effective: &Effective, settings: &Settings, in_batch: bool) -> Vec<Error> {
    all(&effective.tree, &effective.manifest, settings, looks(effective, in_batch))
}

fn looks(effective: &Effective, in_batch: bool) -> Looks {
    Looks { in_batch, at_files: true, selects: effective.selecting.is_some() }
}

/// What is held against a manifest besides what it says itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looks {
    /// What it waits for is held against the others of its batch.
    pub(super) in_batch: bool,
    /// Its disks are files of this machine.
    pub(super) at_files: bool,
    /// It stands for several VMs of a server.
    pub(super) selects: bool,
}

/// The same of an effective manifest, however it came to be.
pub(super) fn all(tree: &Tree, manifest: &Manifest, settings: &Settings, looks: Looks) -> Vec<Error> {
    let read: &[PathBuf] = if looks.at_files { &settings.paths.read } else { &[] };
    let disks = manifest.disks.as_deref().unwrap_or_default();
    [
        super::remote::check_secrets(tree, manifest, settings),
        super::power::check(tree, manifest, settings),
        manifest.source.as_ref().map_or(Ok(()), |source| super::esxi::check_secrets(tree, source)),
        check_origin(tree, manifest, looks.selects),
        check_features(tree, manifest),
        check_stages(tree),
        super::guest::check(tree, manifest, settings),
        super::setup::check(tree, manifest, settings),
        super::nics::check(tree, manifest),
        super::hooks::check(tree, manifest, settings),
        super::firmware::check(tree, manifest),
        check_machine(tree, manifest),
        super::output::check(tree, manifest),
        check_disks(tree, disks, read),
        super::growth::check(tree, disks),
        super::output::check_directory(tree, manifest, disks, &settings.paths.write),
        super::mapping::check(tree, manifest, settings),
        super::handover::check(tree, manifest, settings),
        if looks.in_batch { Ok(()) } else { check_dependencies(tree, manifest) },
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect()
}

/// The same; where nothing is wrong, it is asked for what only others know. `vm_id`: its id in its batch, if there is one.
pub(super) fn settle(
    effective: &mut Effective,
    vm_id: Option<&str>,
    given: &Given<'_>,
    around: &mut dyn Surroundings,
) -> Vec<Error> {
    let found = complaints(effective, given.settings, vm_id.is_some());
    if !found.is_empty() {
        return found;
    }
    let alone = || build::vm_id(&effective.manifest, given.filename);
    let vm_id = vm_id.map_or_else(alone, str::to_owned);
    match pool::directory(effective, &vm_id, given.settings, around) {
        Ok(directory) => {
            effective.pool_directory = directory;
            found
        }
        Err(error) => vec![error],
    }
}

fn check_dependencies(tree: &Tree, manifest: &Manifest) -> Result<()> {
    if manifest.depends_on.as_ref().is_some_and(|ids| !ids.is_empty()) {
        return Err(tree
            .error(Kind::Manifest, "depends_on[0]", "there is no such VM: this manifest is a batch of one")
            .advice("remove `depends_on`; VMs can only depend on VMs of the same batch"));
    }
    Ok(())
}

pub(super) fn refuse_fixed(tree: &Tree, provider: &str, keys: &[(&str, bool)]) -> Result<()> {
    for (key, there) in keys {
        if *there {
            return Err(tree
                .error(
                    Kind::Manifest,
                    &format!("source.{provider}.{key}"),
                    format!("`{key}` is not allowed in a manifest"),
                )
                .advice("say it in the configuration or in the stored credential"));
        }
    }
    Ok(())
}

/// Where the VM comes from: local disks, or a source that names them, in this version.
fn check_origin(tree: &Tree, manifest: &Manifest, selects: bool) -> Result<()> {
    let providers = manifest.source.as_ref().map(Source::providers).unwrap_or_default();
    if let Some(disks) = &manifest.disks {
        if disks.is_empty() {
            return Err(tree
                .error(Kind::Manifest, "disks", "`disks` has to hold at least one disk")
                .advice("add one, with `id`, `source_format` and `local_path`"));
        }
        return Ok(());
    }
    let Some(&provider) = providers.first() else {
        return Err(tree
            .error(Kind::Manifest, "disks", "`disks` is required")
            .advice("name at least one disk, with `id`, `source_format` and `local_path`"));
    };
    let field = format!("source.{provider}");
    if let Some(second) = providers.get(1) {
        return Err(tree
            .error(
                Kind::Manifest,
                &format!("source.{second}"),
                format!("`source` names two providers, `{provider}` and `{second}`"),
            )
            .advice("keep one of them"));
    }
    let source = manifest.source.as_ref();
    if source.and_then(|source| source.provider.as_ref()).is_some_and(|name| name.as_str() != provider) {
        return Err(tree
            .error(
                Kind::Manifest,
                "source.provider",
                format!("`source` holds `{provider}`, and `provider` says something else"),
            )
            .advice("remove it, or let it repeat the key"));
    }
    if let Some(vsphere) = source.and_then(|source| source.vsphere.as_ref()) {
        return super::remote::check(tree, vsphere, selects);
    }
    if let Some(esxi) = source.and_then(|source| source.esxi.as_ref()) {
        return super::esxi::check(tree, esxi);
    }
    if let Some(domain) = source.and_then(|source| source.libvirt_xml.as_ref()) {
        check_domain(tree, domain)?;
    }
    Err(unsupported(tree, &field, &format!("sources of the kind `{provider}`"))
        .advice("bring the disks to this machine and name them under `disks`"))
}

/// A domain is a file, or one of a libvirt.
fn check_domain(tree: &Tree, domain: &LibvirtXmlSource) -> Result<()> {
    let wrong = |key: &str, why: &str| {
        let field = format!("source.libvirt-xml{key}");
        Err(tree.error(Kind::Manifest, &field, why).advice("give `path`, or `uri` and `domain`"))
    };
    match (&domain.path, &domain.uri, &domain.domain) {
        (Some(_), Some(_), _) => wrong(".uri", "`path` already tells which domain"),
        (Some(_), None, Some(_)) => wrong(".domain", "`path` already tells which domain"),
        (None, None, None) => wrong("", "it is not said which domain"),
        (None, Some(_), None) => wrong("", "`domain` is required beside `uri`"),
        (None, None, Some(_)) => wrong("", "`uri` is required beside `domain`"),
        (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
    }
}

pub(super) fn unsupported(tree: &Tree, field: &str, what: &str) -> Error {
    tree.error(Kind::Unsupported, field, format!("this version of hyper2kvm has no {what}"))
}

/// Keys whose feature does not exist yet.
fn check_features(tree: &Tree, manifest: &Manifest) -> Result<()> {
    if manifest.options.as_ref().and_then(|options| options.dry_run) == Some(true) {
        return Err(unsupported(tree, "options.dry_run", "jobs that do nothing")
            .advice("ask `hyper2kvm plan` what would be done"));
    }
    let report = manifest.options.as_ref().and_then(|options| options.report.as_ref());
    if report.and_then(|report| report.path.as_ref()).is_some_and(|path| path.as_str() != "report.json") {
        return Err(tree
            .error(
                Kind::Unsupported,
                "options.report.path",
                "a report is always `report.json` beside the results",
            )
            .advice("remove it: that name is what marks a result as complete"));
    }
    Ok(())
}

/// A stage that this version lacks: what somebody wrote about it is refused; what only a built-in profile wants is left out with a
/// warning (see [`build`]).
fn check_stages(tree: &Tree) -> Result<()> {
    for stage in Stage::ALL.into_iter().filter(|stage| !Stage::BUILT.contains(stage)) {
        let section = build::section(stage);
        let Some(node) = tree.node(section) else { continue };
        let enabled = node.get("enabled").is_some_and(|node| node.canonical() == true);
        if !enabled {
            continue;
        }
        let is_said = |key: &str| node.get(key).is_some_and(|value| is_written(tree, value.layer));
        if is_said("enabled") {
            let field = format!("{section}.enabled");
            return Err(unsupported(tree, &field, &format!("stage `{stage}`"))
                .advice("remove it, or set it to false: the guest is then converted as it is"));
        }
        let written = node.entries().iter().find(|(_, value)| is_written(tree, value.layer));
        if let Some((key, _)) = written {
            let field = format!("{section}.{}", key.name);
            return Err(unsupported(tree, &field, &format!("stage `{stage}`, to which this belongs"))
                .advice(format!(
                    "remove it, or set `{section}.enabled: false`: the guest is then converted as it is"
                )));
        }
    }
    Ok(())
}

fn check_machine(tree: &Tree, manifest: &Manifest) -> Result<()> {
    if manifest.vm.as_ref().is_some_and(|vm| vm.mem_gb.is_some() && vm.mem_mb.is_some()) {
        return Err(tree
            .error(Kind::Manifest, "vm.mem_mb", "`mem_gb` and `mem_mb` are both given")
            .advice("keep one of them"));
    }
    // With BIOS there is none ([`super::firmware`]).
    let is_secure = |vm: &&Vm| vm.secureboot == Some(true) && vm.firmware != Some(Firmware::Bios);
    let kind = manifest.vm.as_ref().filter(is_secure).and_then(|vm| vm.machine.as_ref());
    if let Some(kind) = kind.filter(|kind| !is_pcie(kind.as_str())) {
        return Err(tree
            .error(
                Kind::Manifest,
                "vm.machine",
                format!("secure boot needs a q35, and `{}` is none", kind.as_str()),
            )
            .advice("leave `machine` out, or set `secureboot: false`"));
    }
    let mut macs = BTreeMap::new();
    for (index, nic) in manifest.nics.iter().flatten().enumerate() {
        let Some(mac) = &nic.mac else { continue };
        if let Some(first) = macs.insert(mac, index) {
            return Err(tree
                .error(
                    Kind::Manifest,
                    &format!("nics[{index}].mac"),
                    format!("nics[{first}] has this address too"),
                )
                .rule("network.mac")
                .advice("each card has its own"));
        }
    }
    Ok(())
}

fn check_disks(tree: &Tree, disks: &[Disk], roots: &[PathBuf]) -> Result<()> {
    let mut ids = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for (index, disk) in disks.iter().enumerate() {
        if let Some(first) = ids.insert(&disk.id, index) {
            return Err(tree
                .error(
                    Kind::Manifest,
                    &format!("disks[{index}].id"),
                    format!("disks[{first}] has the id `{}` too", disk.id),
                )
                .advice("give each disk its own: it names the result"));
        }
        let field = format!("disks[{index}].local_path");
        if let Some(first) = paths.insert((&disk.local_path, &disk.member), index) {
            return Err(tree
                .error(Kind::Manifest, &field, format!("disks[{first}] is the same file"))
                .advice("name each disk once"));
        }
        check_root(tree, Kind::Source, &field, Path::new(disk.local_path.as_str()), roots, "paths.read")?;
        for (nth, path) in disk.allowed_paths.iter().flatten().enumerate() {
            let field = format!("disks[{index}].allowed_paths[{nth}]");
            check_root(tree, Kind::Source, &field, Path::new(path.as_str()), roots, "paths.read")?;
        }
    }
    Ok(())
}

pub(super) fn check_root(
    tree: &Tree,
    kind: Kind,
    field: &str,
    path: &Path,
    roots: &[PathBuf],
    key: &str,
) -> Result<()> {
    if roots.is_empty() || roots.iter().any(|root| path.starts_with(root)) {
        return Ok(());
    }
    let error = tree
        .error(kind, field, format!("{} does not lie below any of `{key}`", path.display()))
        .allowed(roots.iter().map(|root| root.display().to_string()))
        .advice(format!("move it there, or have the administrator add its directory to `{key}`"));
    Err(match kind {
        Kind::Output => error.output(path),
        _ => error.source(path.display().to_string()),
    })
}
