//! What libvirt will be told: from the manifest to the plan, and what is refused or warned of.
//!
//! What is not here: whether libvirt has such pools, networks and names (the pre-flight asks it), and which disk is for which entry of a storage
//! mapping.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{build, check, mapping, pool, remote};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::handover::{PlannedLibvirt, SNAPSHOT};
use crate::model::job::Stage;
use crate::model::libvirt_uri::{Reach, check_form};
use crate::model::manifest::{LibvirtIntegration, Manifest, VsphereMode};
use crate::model::parse::Tree;
use crate::model::plan::PlannedDisk;

/// What the manifest says of it, where it is on.
fn wanted<'m>(tree: &Tree, manifest: &'m Manifest) -> Option<&'m LibvirtIntegration> {
    manifest.libvirt_integration.as_ref().filter(|_| build::is_on(tree, Stage::Libvirt))
}

/// What the machine is called there, where that is said.
pub(super) fn name(tree: &Tree, manifest: &Manifest) -> Option<String> {
    let said = wanted(tree, manifest)?.vm_name.as_ref()?;
    Some(said.as_str().to_owned())
}

/// What libvirt will be told of the machine of this name. `made_in`: which of its disks are made in which pool.
pub(super) fn planned(
    tree: &Tree,
    manifest: &Manifest,
    uri: &str,
    name: &str,
    (disks, made_in): (&[PlannedDisk], BTreeMap<String, String>),
) -> Option<PlannedLibvirt> {
    let said = wanted(tree, manifest).filter(|_| Stage::BUILT.contains(&Stage::Libvirt))?;
    let is = |choice: Option<bool>| choice.unwrap_or(false);
    let snapshot = said.snapshot_name.as_ref().map_or(SNAPSHOT, |name| name.as_str());
    let for_all = said.import_to_pool.as_ref().map(|pool| pool.as_str());
    let pools = disks.iter().filter_map(|disk| {
        let pool = mapping::disks::pool(manifest, &disk.id).or(for_all)?;
        Some((disk.id.clone(), pool.to_owned()))
    });
    Some(PlannedLibvirt {
        uri: uri.to_owned(),
        name: name.to_owned(),
        define: defines(said),
        overwrite_domain: is(said.overwrite_domain),
        snapshot: is(said.create_snapshot).then(|| snapshot.to_owned()),
        autostart: is(said.autostart),
        start: is(said.auto_start),
        pools: pools.collect(),
        made_in,
        pool_path: said.pool_path.as_ref().map(|path| PathBuf::from(path.as_str())),
        copy_disks: said.copy_disks.unwrap_or(true),
        overwrite_volumes: is(said.overwrite_volumes),
        allow_live_clone: is(manifest.allow_live_clone),
    })
}

fn defines(said: &LibvirtIntegration) -> bool {
    said.define_domain.unwrap_or(true)
}

/// Refuses what contradicts itself.
pub(super) fn check(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    pool::check(tree, manifest)?;
    let Some(said) = wanted(tree, manifest) else {
        let cause = "a pool is libvirt's, and libvirt is told nothing";
        return mapping::disks::complain_of_pool(tree, manifest, cause)
            .map_or(Ok(()), |error| Err(needs(error, "enabled")));
    };
    if check_form(&settings.libvirt.uri)? == Reach::Remote {
        let what = format!("way to hand results to the libvirt of another host ({})", settings.libvirt.uri);
        return Err(check::unsupported(tree, "libvirt_integration.enabled", &what)
            .advice("name a libvirt of this host as `libvirt.uri` of the configuration"));
    }
    let goes_into_a_pool = said.import_to_pool.is_some() || mapping::disks::names_a_pool(manifest);
    if !defines(said) {
        let needing = [
            ("create_snapshot", said.create_snapshot, "a snapshot is one of a machine, and none is defined"),
            ("autostart", said.autostart, "a machine that is not defined does not start with the host"),
            ("auto_start", said.auto_start, "a machine that is not defined cannot be started"),
            ("overwrite_domain", said.overwrite_domain, "nothing is defined in the place of another machine"),
        ];
        for (key, choice, cause) in needing {
            if choice == Some(true) {
                return Err(needs(complaint(tree, key, cause), "define_domain"));
            }
        }
        if !goes_into_a_pool && pool::named(manifest).is_none() {
            let cause = "nothing is left to be told: no machine is defined, and no disk goes into a pool";
            return Err(complaint(tree, "define_domain", cause).advice(
                "name a pool (`output.pool`, `import_to_pool`), or set `libvirt_integration.enabled: false`",
            ));
        }
    }
    if said.copy_disks == Some(false) && !goes_into_a_pool {
        return Err(complaint(
            tree,
            "copy_disks",
            "disks are to be moved, and it is not said into which pool",
        )
        .advice("name it (`import_to_pool`), or remove this"));
    }
    if let Some(path) = &said.pool_path {
        let field = "libvirt_integration.pool_path";
        check::check_root(
            tree,
            Kind::Output,
            field,
            Path::new(path.as_str()),
            &settings.paths.write,
            "paths.write",
        )?;
    }
    let names = [
        ("libvirt_integration.vm_name", said.vm_name.as_ref()),
        ("libvirt_integration.snapshot_name", said.snapshot_name.as_ref()),
        ("libvirt_integration.import_to_pool", said.import_to_pool.as_ref()),
        (pool::FIELD, manifest.output.as_ref().and_then(|output| output.pool.as_ref())),
    ];
    for (field, name) in names {
        let Some(name) = name.map(|name| name.as_str()) else { continue };
        if name.contains('/') || name.trim() != name || name.chars().all(|c| c == '.') {
            let cause = "libvirt makes files of this name, and none can be called so";
            return Err(tree
                .error(Kind::Manifest, field, cause)
                .advice("write a name without a slash, without spaces around it, and not of dots alone"));
        }
    }
    Ok(())
}

/// Says what has no effect.
pub(super) fn warnings(tree: &Tree, manifest: &Manifest) -> Vec<String> {
    let Some(said) = wanted(tree, manifest) else {
        // Of a VM that runs on, it decides about the cards, too.
        let is_clone =
            remote::asked_for(manifest).is_some_and(|vsphere| vsphere.mode == Some(VsphereMode::Clone));
        let clone = (manifest.allow_live_clone == Some(true) && !is_clone)
            .then(|| "allow_live_clone has no effect: libvirt is told nothing".to_owned());
        return clone.into_iter().collect();
    };
    let without_pool = said.import_to_pool.is_none() && !mapping::disks::names_a_pool(manifest);
    let without_snapshot = said.create_snapshot != Some(true);
    let not_put = match pool::named(manifest) {
        Some(_) => "results are made in their pool, and not put into it",
        None => "no disk goes into a pool",
    };
    let told = [
        ("snapshot_name", said.snapshot_name.is_some() && without_snapshot, "no snapshot is made"),
        ("pool_path", said.pool_path.is_some() && without_pool, not_put),
        ("overwrite_volumes", said.overwrite_volumes == Some(true) && without_pool, not_put),
    ];
    let told = told.into_iter().filter(|(_, is_said, _)| *is_said);
    told.map(|(key, _, why)| format!("libvirt_integration.{key} has no effect: {why}"))
        .chain(pool::is_of_no_use(manifest).then(|| {
            format!("{} has no effect: `storage_mapping` says of every disk where it goes", pool::FIELD)
        }))
        .collect()
}

fn complaint(tree: &Tree, key: &str, cause: &str) -> Error {
    tree.error(Kind::Manifest, &format!("libvirt_integration.{key}"), cause)
}

/// What only makes sense with another key.
fn needs(error: Error, key: &str) -> Error {
    error.advice(format!("remove it, or set `libvirt_integration.{key}: true`"))
}
