//! What is done inside the guest: from the manifest to the plan, and what is refused of it.
//!
//! Keys that open encrypted volumes stay where they are: the plan, which is stored, names only their files.

use std::path::{Path, PathBuf};

use super::build;
use crate::model::boot::BootOptions;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::libvirt_uri::{Reach, check_form};
use crate::model::manifest::{BootMethod, Fix, FixEngine, Luks, Manifest, Nic};
use crate::model::parse::Tree;
use crate::model::plan::{KeySource, PlannedFix, PlannedGuest, PlannedKey, PlannedNic};

/// What a manifest wants done inside the guest.
pub(super) fn planned(manifest: &Manifest, settings: &Settings) -> PlannedGuest {
    let fix = manifest.pipeline.as_ref().and_then(|pipeline| pipeline.fix.as_ref());
    PlannedGuest {
        fix: fix.map(planned_fix).unwrap_or_default(),
        keys: manifest
            .luks
            .iter()
            .flatten()
            .filter_map(|luks| {
                Some(PlannedKey {
                    device: luks.device.as_ref().map(|device| device.as_str().to_owned()),
                    uuid: luks.uuid.as_ref().map(|uuid| uuid.as_str().to_owned()),
                    source: key_source(luks, settings)?,
                })
            })
            .collect(),
        nics: manifest
            .nics
            .iter()
            .flatten()
            .map(|nic| PlannedNic {
                mac: nic.mac.as_ref().map(|mac| mac.as_str().to_owned()),
                was: None,
                addresses: nic.addresses.iter().flatten().map(ToString::to_string).collect(),
                gateway: nic.gateway.as_ref().map(ToString::to_string),
                dns: nic.dns.iter().flatten().map(ToString::to_string).collect(),
            })
            .collect(),
        setup: None,
    }
}

/// How a manifest wants it tried whether the result boots.
pub(super) fn boot_test(manifest: &Manifest, settings: &Settings) -> Result<BootOptions> {
    let section = manifest.pipeline.as_ref().and_then(|pipeline| pipeline.boot_test.as_ref());
    let options = section.map_or_else(|| Ok(BootOptions::default()), BootOptions::of_manifest)?;
    if options.method != BootMethod::Libvirt {
        return Ok(options);
    }
    let uri = &settings.libvirt.uri;
    if check_form(uri)? == Reach::Remote {
        // The guest's disks and its console are sockets of this host.
        return Err(Error::new(
            Kind::Unsupported,
            format!("the libvirt of another host ({uri}) can try no result"),
        )
        .field("pipeline.boot_test.method")
        .advice(
            "name a libvirt of this host as `libvirt.uri` of the configuration, or write `method: qemu`",
        ));
    }
    Ok(BootOptions { libvirt_uri: Some(uri.clone()), ..options })
}

/// What nobody says is repaired, because a guest without it does not boot; what goes beyond that has to be asked for.
fn planned_fix(fix: &Fix) -> PlannedFix {
    PlannedFix {
        engine: fix.engine.unwrap_or_default(),
        fstab_mode: fix.fstab_mode.unwrap_or_default(),
        update_grub: fix.update_grub.unwrap_or(true),
        regen_initramfs: fix.regen_initramfs.unwrap_or(true),
        network: fix.network.unwrap_or(true),
        remove_vmware_tools: fix.remove_vmware_tools.unwrap_or(false),
        console: fix.console.unwrap_or(true),
        backup: fix.backup.unwrap_or(true),
        print_fstab: fix.print_fstab.unwrap_or(false),
        root: fix.root.as_ref().map(|root| root.as_str().to_owned()),
        on_no_os: fix.on_no_os.unwrap_or_default(),
        on_unsupported_guest: fix.on_unsupported_guest.unwrap_or_default(),
    }
}

/// Refuses what cannot be done inside a guest.
pub(super) fn check(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    check_engine(tree, manifest)?;
    boot_test(manifest, settings).map_err(|error| placed(tree, &error))?;
    check_keys(tree, manifest, settings)
}

/// The same error, where the file says it.
fn placed(tree: &Tree, error: &Error) -> Error {
    let details = error.details();
    let field = details.place.field.clone().unwrap_or_default();
    tree.error(error.kind(), &field, details.cause.clone()).advice(details.advice.clone().unwrap_or_default())
}

/// virt-v2v repairs and does nothing else: what is to be set besides would be lost without a word.
fn check_engine(tree: &Tree, manifest: &Manifest) -> Result<()> {
    let fix = manifest.pipeline.as_ref().and_then(|pipeline| pipeline.fix.as_ref());
    if fix.and_then(|fix| fix.engine) != Some(FixEngine::VirtV2v) {
        return Ok(());
    }
    let addresses = |nic: &Nic| nic.addresses.as_ref().is_some_and(|addresses| !addresses.is_empty());
    let card = manifest.nics.iter().flatten().position(addresses);
    let lost = match (&manifest.configuration, card) {
        (Some(_), _) => "configuration".to_owned(),
        (None, Some(card)) => format!("nics[{card}].addresses"),
        (None, None) => return Ok(()),
    };
    Err(tree
        .error(Kind::Unsupported, &lost, "virt-v2v repairs the guest, and cannot set this in it".to_owned())
        .advice("remove it, or write `pipeline.fix.engine: native`"))
}

/// Where a key is; `None` where that is not said, which is refused elsewhere.
fn key_source(luks: &Luks, settings: &Settings) -> Option<KeySource> {
    match (&luks.key_file, &luks.credential) {
        (Some(file), _) => Some(KeySource::KeyFile(PathBuf::from(file.as_str()))),
        (None, Some(name)) => Some(KeySource::Credential(settings.credentials.stored(name.as_str()))),
        (None, None) => None,
    }
}

fn check_keys(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    let opened = build::is_on(tree, Stage::Inspect) || build::is_on(tree, Stage::Fix);
    if manifest.luks.as_ref().is_some_and(|keys| !keys.is_empty()) && !opened {
        return Err(tree
            .error(Kind::Manifest, "luks", "nothing opens the guest, so no key is needed")
            .advice("remove it, or set `pipeline.fix.enabled: true`"));
    }
    for (index, luks) in manifest.luks.iter().flatten().enumerate() {
        let field = |key: &str| format!("luks[{index}].{key}");
        if luks.device.is_some() && luks.uuid.is_some() {
            return Err(tree
                .error(Kind::Manifest, &field("uuid"), "`device` already tells which volume")
                .advice("keep one of them, or none for a key that is tried on every volume"));
        }
        let file = match (&luks.key_file, &luks.credential) {
            (Some(file), None) => file,
            // Whoever administers this machine put it where it is, for manifests to name.
            (None, Some(_)) => continue,
            (Some(_), Some(_)) => {
                return Err(tree
                    .error(Kind::Manifest, &field("credential"), "`key_file` already tells where the key is")
                    .advice("keep one of them"));
            }
            (None, None) => {
                return Err(tree
                    .error(Kind::Manifest, &format!("luks[{index}]"), "it is not said where the key is")
                    .advice(
                        "name a stored credential (`credential`), or a file that holds the key (`key_file`)",
                    ));
            }
        };
        let allowed = &settings.credentials.allowed_dirs;
        if !allowed.iter().any(|dir| Path::new(file.as_str()).starts_with(dir)) {
            return Err(tree
                .error(
                    Kind::Manifest,
                    &field("key_file"),
                    format!("{} does not lie below any of `credentials.allowed_dirs`", file.as_str()),
                )
                .allowed(allowed.iter().map(|dir| dir.display().to_string()))
                .advice("move it there, or have the administrator add its directory to `credentials.allowed_dirs`"));
        }
    }
    Ok(())
}
