//! Looks at inputs without doing anything: what `validate` and `submit --check` tell.

use std::path::Path;

use crate::model::api::{ErrorView, InputCheck, SubmitRequest};
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
    let plans = plans(request.content.as_bytes(), &request.filename, base, settings);
    outcome(&request.filename, plans)
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

fn outcome(path: &str, plans: Result<Vec<Plan>, Error>) -> InputCheck {
    match plans {
        Ok(plans) => InputCheck {
            path: path.to_owned(),
            ok: true,
            errors: Vec::new(),
            warnings: plans.into_iter().flat_map(|plan| plan.warnings).collect(),
        },
        Err(error) => InputCheck {
            path: path.to_owned(),
            ok: false,
            errors: vec![ErrorView::from(&error)],
            warnings: Vec::new(),
        },
    }
}
