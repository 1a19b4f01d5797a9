//! The points between stages at which hooks will run.
//!
//! Manifests with hooks are refused when they are planned, so nothing runs here yet; but every
//! boundary exists and [`reached`] is the one place that they all go through. What is not here: how
//! a hook is started.

use crate::model::error::Result;
use crate::model::manifest::HookStage;

/// A boundary was reached. An error ends the job, as a failed hook will.
pub(super) fn reached(point: HookStage) -> Result<()> {
    tracing::debug!(point = point.name(), "stage boundary");
    Ok(())
}
