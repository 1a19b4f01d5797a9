//! The points between stages at which hooks will run.
//!
//! Manifests with hooks are refused when they are planned, so nothing runs here yet; but every
//! boundary exists and [`reached`] is the one place that they all go through. What is not here: how
//! a hook is started.

use crate::model::error::Result;
use crate::model::job::Stage;

/// A boundary between stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Before bytes are brought here.
    PreExtraction,
    /// After that.
    PostExtraction,
    /// Before the guest is repaired.
    PreFix,
    /// After that.
    PostFix,
    /// Before the final format is written.
    PreConvert,
    /// After that.
    PostConvert,
    /// After the result was checked.
    PostValidate,
    /// After the result was published.
    OnSuccess,
    /// After the job failed.
    OnFailure,
}

impl HookPoint {
    /// Every point, in the order in which they are reached.
    pub const ALL: [HookPoint; 9] = [
        HookPoint::PreExtraction,
        HookPoint::PostExtraction,
        HookPoint::PreFix,
        HookPoint::PostFix,
        HookPoint::PreConvert,
        HookPoint::PostConvert,
        HookPoint::PostValidate,
        HookPoint::OnSuccess,
        HookPoint::OnFailure,
    ];

    /// The name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HookPoint::PreExtraction => "pre_extraction",
            HookPoint::PostExtraction => "post_extraction",
            HookPoint::PreFix => "pre_fix",
            HookPoint::PostFix => "post_fix",
            HookPoint::PreConvert => "pre_convert",
            HookPoint::PostConvert => "post_convert",
            HookPoint::PostValidate => "post_validate",
            HookPoint::OnSuccess => "on_success",
            HookPoint::OnFailure => "on_failure",
        }
    }

    /// The point before a stage, if it has one.
    #[must_use]
    pub fn before(stage: Stage) -> Option<HookPoint> {
        match stage {
            Stage::Extraction => Some(HookPoint::PreExtraction),
            Stage::Fix => Some(HookPoint::PreFix),
            Stage::Convert => Some(HookPoint::PreConvert),
            _ => None,
        }
    }

    /// The point after a stage, if it has one.
    #[must_use]
    pub fn after(stage: Stage) -> Option<HookPoint> {
        match stage {
            Stage::Extraction => Some(HookPoint::PostExtraction),
            Stage::Fix => Some(HookPoint::PostFix),
            Stage::Convert => Some(HookPoint::PostConvert),
            Stage::Validate => Some(HookPoint::PostValidate),
            _ => None,
        }
    }
}

/// A boundary was reached. An error ends the job, as a failed hook will.
pub(super) fn reached(point: HookPoint) -> Result<()> {
    tracing::debug!(point = point.name(), "stage boundary");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_but_the_two_at_the_end_belongs_to_a_stage() {
        let of_stages: Vec<HookPoint> = Stage::ALL
            .into_iter()
            .flat_map(|stage| [HookPoint::before(stage), HookPoint::after(stage)])
            .flatten()
            .collect();
        assert_eq!(of_stages, HookPoint::ALL[..7]);
    }
}
