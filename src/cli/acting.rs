//! What the commands that act on jobs share: ask for each of them, tell what became of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Serialize;

use super::client::{Client, job_path};
use super::{Exit, Failure, Ui, table};
use crate::model::api::{Acted, JobList, JobView};
use crate::model::job::JobState;

/// Asks for the same of every target and prints what became of all of them. A refusal does not keep the
/// others from being asked; the first of them is what the command then ends with.
pub(super) fn act_on_jobs(
    client: &Client,
    ui: &Ui,
    targets: &[String],
    action: &str,
    body: &impl Serialize,
) -> Result<Exit, Failure> {
    let mut total = Acted { message: String::new(), jobs: Vec::new() };
    let mut refused = None;
    for target in targets {
        match client.post::<Acted>(&job_path(target, action), body) {
            Ok(acted) => {
                total.message = acted.message;
                total.jobs.extend(acted.jobs);
            }
            Err(failure) => {
                refused.get_or_insert(failure);
            }
        }
    }
    match refused {
        Some(failure) if total.jobs.is_empty() => Err(failure),
        Some(failure) => print_acted(ui, &total).and(Err(failure)),
        None => print_acted(ui, &total),
    }
}

/// The newest job of every VM of every batch: what an earlier run left is over.
fn newest_of_each(jobs: Vec<JobView>) -> Vec<JobView> {
    let mut newest = BTreeMap::new();
    for job in jobs {
        let key = (job.batch_id.clone(), job.vm_id.clone());
        match newest.entry(key) {
            Entry::Vacant(place) => drop(place.insert(job)),
            Entry::Occupied(mut place) if place.get().job_id < job.job_id => drop(place.insert(job)),
            Entry::Occupied(_) => {}
        }
    }
    newest.into_values().collect()
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

/// The numbers of all jobs in these states, oldest first, as targets. Jobs that a later run of their
/// batch has taken over are not among them.
pub(super) fn jobs_in(client: &Client, states: &[JobState]) -> Result<Vec<String>, Failure> {
    let list: JobList = client.get("/v1/jobs")?;
    let mut wanted = newest_of_each(list.jobs);
    wanted.retain(|job| states.contains(&job.state));
    wanted.sort_by_key(|job| job.job_id);
    Ok(wanted.iter().map(|job| job.job_id.to_string()).collect())
}
