//! What a manifest may have done to its source: shut down before it is copied, and changed once its result has taken its place.
//!
//! Shutting down needs two who say so: the manifest, and the host's configuration. What is not here: when it is done, and how.

use crate::model::config::Settings;
use crate::model::error::{Kind, Result};
use crate::model::manifest::{Manifest, VsphereMode, VspherePower, VsphereSource};
use crate::model::parse::Tree;
use crate::model::plan::Plan;
use crate::model::remote::{PlannedAfter, PlannedShutdown};

/// How long a guest may take to shut down if nobody says otherwise.
const SHUTDOWN_S: f64 = 600.0;
/// No guest is waited for longer.
const LONGEST_S: f64 = 86_400.0;
/// vSphere takes no longer name.
const MOST_NAME: usize = 80;

/// How a source is shut down; none: it is not.
pub(super) fn shutdown(vsphere: &VsphereSource) -> Option<PlannedShutdown> {
    (vsphere.power == Some(VspherePower::Shutdown)).then(|| PlannedShutdown {
        timeout_s: vsphere.shutdown_timeout_s.map_or(SHUTDOWN_S, |seconds| seconds.0),
        force_off: vsphere.force_off == Some(true),
    })
}

/// What is changed at it afterwards.
pub(super) fn after(vsphere: &VsphereSource) -> PlannedAfter {
    let Some(after) = &vsphere.after else { return PlannedAfter::default() };
    PlannedAfter {
        disconnect_nics: after.disconnect_nics == Some(true),
        annotate: after.annotate == Some(true),
        disable_autostart: after.disable_autostart == Some(true),
        rename_suffix: after.rename_suffix.as_ref().map(|suffix| suffix.as_str().to_owned()),
    }
}

/// Whether this host, and the rest of the manifest, allow what it says.
pub(super) fn check(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    let vsphere = manifest.source.as_ref().and_then(|source| source.vsphere.as_deref());
    let Some(vsphere) = vsphere.filter(|_| manifest.disks.is_none()) else { return Ok(()) };
    let error =
        |kind: Kind, key: &str, cause: String| tree.error(kind, &format!("source.vsphere.{key}"), cause);
    if vsphere.mode == Some(VsphereMode::Clone) && !after(vsphere).is_nothing() {
        return Err(error(
            Kind::Manifest,
            "after",
            "the source of a `clone` runs on in its place".to_owned(),
        )
        .advice("leave `after` out, or `mode`"));
    }
    if vsphere.power == Some(VspherePower::Shutdown) {
        if !settings.sources.allow_shutdown {
            return Err(error(
                Kind::Manifest,
                "power",
                "this host does not allow that sources are shut down".to_owned(),
            )
            .advice("have its administrator set `sources.allow_shutdown: true` in the configuration, or shut the VM down by hand and leave `power` out"));
        }
        if vsphere.mode == Some(VsphereMode::Clone) {
            return Err(error(Kind::Manifest, "power", "a `clone` is made of a VM that runs on".to_owned())
                .advice("leave `power` out, or `mode`"));
        }
    } else {
        let belongs = [
            ("shutdown_timeout_s", vsphere.shutdown_timeout_s.is_some()),
            ("force_off", vsphere.force_off == Some(true)),
        ];
        if let Some((key, _)) =
            belongs.iter().find(|(_, said)| *said).filter(|_| vsphere.mode != Some(VsphereMode::Warm))
        {
            return Err(error(
                Kind::Manifest,
                key,
                "nothing is shut down to which this would belong".to_owned(),
            )
            .advice("write `power: shutdown`, or leave it out"));
        }
    }
    if let Some(seconds) =
        vsphere.shutdown_timeout_s.filter(|seconds| !(1.0..=LONGEST_S).contains(&seconds.0))
    {
        let cause = format!("a guest is given {} s to shut down", seconds.0);
        return Err(error(Kind::Manifest, "shutdown_timeout_s", cause).advice("between 1 s and a day"));
    }
    let suffix = vsphere.after.as_ref().and_then(|after| after.rename_suffix.as_ref());
    if let Some(suffix) =
        suffix.filter(|suffix| suffix.as_str().is_empty() || suffix.as_str().len() > MOST_NAME / 2)
    {
        let cause = format!("`{}` cannot stand behind a name", suffix.as_str());
        return Err(error(Kind::Manifest, "after.rename_suffix", cause)
            .advice(format!("1 to {} characters, as `-migrated`", MOST_NAME / 2)));
    }
    Ok(())
}

/// What a plan says to people of what is done to its source: a line each.
#[must_use]
pub fn in_words(plan: &Plan) -> Vec<String> {
    let Some(remote) = &plan.remote else { return Vec::new() };
    let mut lines = Vec::new();
    if let Some(PlannedShutdown { timeout_s, force_off }) = remote.shutdown {
        let forced = match force_off {
            true => format!("; its power is CUT if it has not within {timeout_s:.0} s"),
            false => format!(", within {timeout_s:.0} s"),
        };
        lines.push(format!(
            "the source is SHUT DOWN before it is copied if it runs{forced}, and stays off afterwards"
        ));
        if plan.looks_before_shutdown() {
            lines.push("its guest is looked into before that, as of a snapshot that is made for it and removed again".to_owned());
        }
    }
    let PlannedAfter { disconnect_nics, annotate, disable_autostart, rename_suffix } = &remote.after;
    let suffix = rename_suffix.as_ref().map(|suffix| format!("is renamed (`{suffix}` behind its name)"));
    let after = [
        disconnect_nics.then(|| "loses the links of its network cards".to_owned()),
        annotate.then(|| "is noted to have moved".to_owned()),
        disable_autostart.then(|| "is not started with its host any more".to_owned()),
        suffix,
    ];
    let after: Vec<String> = after.into_iter().flatten().collect();
    if !after.is_empty() {
        lines.push(format!(
            "when all is done the source {}; `hyper2kvm rollback` undoes that",
            after.join(", ")
        ));
    }
    lines
}
