//! What the commands that act on jobs share: ask for each of them, tell what became of them.

use serde::Serialize;

use super::client::{Client, encode, job_path};
use super::{Exit, Failure, Ui, table};
use crate::model::api::{Acted, JobList};
use crate::model::job::JobState;

/// Asks for the same of every target and prints what became of all of them. The first refusal ends it.
pub(super) fn act_on_jobs(
    client: &Client,
    ui: &Ui,
    targets: &[String],
    action: &str,
    body: &impl Serialize,
) -> Result<Exit, Failure> {
    let mut total = Acted { message: String::new(), jobs: Vec::new() };
    for target in targets {
        let acted: Acted = client.post(&job_path(target, action), body)?;
        total.message = acted.message;
        total.jobs.extend(acted.jobs);
    }
    print_acted(ui, &total)
}

/// Prints what was done, and to which jobs.
pub(super) fn print_acted(ui: &Ui, acted: &Acted) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(acted)?;
    } else if !ui.quiet {
        ui.print(&format!("{}\n", table::printable(&acted.message)))?;
        if !acted.jobs.is_empty() {
            ui.print(&table::jobs(&acted.jobs, ui.color))?;
        }
    }
    Ok(Exit::Done)
}

/// The numbers of all jobs in these states, as targets.
pub(super) fn jobs_in(client: &Client, states: &[JobState]) -> Result<Vec<String>, Failure> {
    let mut targets = Vec::new();
    for state in states {
        let list: JobList = client.get(&format!("/v1/jobs?state={}", encode(state.name())))?;
        targets.extend(list.jobs.iter().map(|job| job.job_id.to_string()));
    }
    Ok(targets)
}
