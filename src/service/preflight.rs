//! Looks at inputs without doing anything: what `validate` and `submit --check` tell.

use std::path::Path;

use crate::model::api::{InputCheck, SubmitRequest};
use crate::model::config::Settings;
use crate::model::error::Error;
use crate::model::plan::Plan;
use crate::model::planner::Submission;

/// The batch id that plans are made for when nothing is going to run.
const TRIAL_BATCH: &str = "check";

/// Checks a submission as the service would take it.
#[must_use]
pub fn check_submission(request: &SubmitRequest, settings: &Settings) -> InputCheck {
    let base = Path::new(&request.base_directory);
    check_file(&request.filename, request.content.as_bytes(), &request.filename, base, settings, true)
}

/// Checks a file's bytes; `deep` opens the sources too. `given` is what the answer calls it.
#[must_use]
pub fn check_file(
    given: &str,
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    _deep: bool,
) -> InputCheck {
    match plans(bytes, filename, base_directory, settings) {
        Ok(plans) => InputCheck {
            warnings: plans.into_iter().flat_map(|plan| plan.warnings).collect(),
            ..InputCheck::of(given, &[])
        },
        Err(error) => InputCheck::of(given, &[error]),
    }
}

/// The plans that a file's bytes come to.
pub fn plans(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
) -> Result<Vec<Plan>, Error> {
    Submission::read(bytes, filename, base_directory, settings)?.plans(TRIAL_BATCH, "", settings)
}
