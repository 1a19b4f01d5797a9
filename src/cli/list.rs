//! `list`: the jobs.

use super::client::{Client, encode};
use super::{Exit, Failure, StateArgs, Ui, table};
use crate::model::api::JobList;
use crate::model::job::JobState;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only jobs in this state
    #[arg(long = "state", value_name = "STATE", value_parser = parse_state)]
    only: Option<JobState>,
    /// Only jobs of this batch
    #[arg(long, value_name = "BATCH")]
    batch: Option<String>,
    /// At most this many, newest first
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    #[command(flatten)]
    state: StateArgs,
}

/// Prints them.
pub(super) fn run(args: &ListArgs, ui: &Ui) -> Result<Exit, Failure> {
    let list: JobList = Client::new(&args.state)?.get(&path(args))?;
    if ui.json {
        ui.print_json(&list)?;
    } else if list.jobs.is_empty() {
        ui.note("no jobs");
    } else {
        ui.print(&table::jobs(&list.jobs, ui.color))?;
    }
    Ok(Exit::Done)
}

fn path(args: &ListArgs) -> String {
    let mut query = Vec::new();
    if let Some(state) = args.only {
        query.push(format!("state={state}"));
    }
    if let Some(batch) = &args.batch {
        query.push(format!("batch={}", encode(batch)));
    }
    if let Some(limit) = args.limit {
        query.push(format!("limit={limit}"));
    }
    format!("/v1/jobs?{}", query.join("&"))
}

fn parse_state(name: &str) -> Result<JobState, String> {
    JobState::parse(name).ok_or_else(|| {
        format!("there is no such state (allowed: {})", JobState::ALL.map(JobState::name).join(", "))
    })
}
