//! A VM that is migrated while it runs: what a manifest may say of that, and what its plan says then.

use jiff::Timestamp;

use super::check::unsupported;
use crate::model::error::{Kind, Result};
use crate::model::manifest::{VsphereCutover, VsphereMode, VsphereSource, VsphereTransport, VsphereWarm};
use crate::model::parse::Tree;
use crate::model::warm::{Cutover, INTERVAL_S, MAX_DELTA_BYTES, PlannedWarm};

const BYTES_OF_A_MIB: i64 = 1 << 20;

/// What a manifest says of a warm migration has to make sense.
pub(super) fn check(tree: &Tree, vsphere: &VsphereSource) -> Result<()> {
    let wrong = |key: &str, cause: &str, advice: &str| {
        Err(tree.error(Kind::Manifest, &format!("source.vsphere.{key}"), cause.to_owned()).advice(advice))
    };
    if vsphere.mode != Some(VsphereMode::Warm) {
        return match vsphere.warm {
            None => Ok(()),
            Some(_) => wrong(
                "warm",
                "`warm` says how a VM is migrated while it runs, and `mode` does not say that it is",
                "write `mode: warm`, or remove this",
            ),
        };
    }
    match vsphere.transport {
        None | Some(VsphereTransport::Auto | VsphereTransport::Https) => {}
        Some(_) => {
            return Err(unsupported(
                tree,
                "source.vsphere.transport",
                "warm migration but over `https`: the others do not read the areas that have changed",
            )
            .advice("leave it out"));
        }
    }
    let Some(warm) = &vsphere.warm else { return Ok(()) };
    let cutover = warm.cutover.unwrap_or(VsphereCutover::Manual);
    match (&warm.at, cutover) {
        (None, VsphereCutover::At) => wrong(
            "warm.cutover",
            "it is not said when",
            "say it in `at`: `at: \"2026-11-28T22:00:00+01:00\"`",
        ),
        (Some(_), VsphereCutover::Manual | VsphereCutover::Auto) => {
            wrong("warm.at", "only `cutover: at` goes by the clock", "write `cutover: at`, or remove this")
        }
        (Some(at), VsphereCutover::At) if moment(at.as_str()).is_none() => wrong(
            "warm.at",
            "this is not a moment",
            "write date, time and what the clock is ahead of UTC: `2026-11-28T22:00:00+01:00`",
        ),
        _ if warm.max_delta_mb.is_some() && cutover != VsphereCutover::Auto => wrong(
            "warm.max_delta_mb",
            "only `cutover: auto` goes by how much is left",
            "write `cutover: auto`, or remove this",
        ),
        _ => Ok(()),
    }
}

/// How a VM is migrated while it runs; none where it is not.
pub(super) fn planned(vsphere: &VsphereSource) -> Option<PlannedWarm> {
    if vsphere.mode != Some(VsphereMode::Warm) {
        return None;
    }
    let said = vsphere.warm.as_ref();
    let cutover = match said.and_then(|warm| warm.cutover).unwrap_or(VsphereCutover::Manual) {
        VsphereCutover::Manual => Cutover::Manual,
        VsphereCutover::Auto => Cutover::Auto { max_delta_bytes: said.map_or(MAX_DELTA_BYTES, most_left) },
        VsphereCutover::At => Cutover::At { at: said.and_then(|warm| moment(warm.at.as_ref()?.as_str()))? },
    };
    let interval_s = said.and_then(|warm| warm.interval_s).map_or(INTERVAL_S, |seconds| seconds.0);
    Some(PlannedWarm { cutover, interval_s })
}

fn most_left(warm: &VsphereWarm) -> u64 {
    let bytes = warm.max_delta_mb.map(|mib| mib.get().saturating_mul(BYTES_OF_A_MIB));
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(MAX_DELTA_BYTES)
}

/// RFC 3339, in epoch seconds.
fn moment(text: &str) -> Option<f64> {
    text.parse::<Timestamp>().ok().map(|moment| moment.as_millisecond() as f64 / 1000.0)
}
