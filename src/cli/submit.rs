//! `submit`: hands manifests to the running daemon.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::client::{Client, job_path};
use super::input::Input;
use super::progress::ProgressView;
use super::validate::print_checked;
use super::{Exit, Failure, StateArgs, Ui, table};
use crate::model::api::{Checked, InputCheck, JobDetails, JobList, JobView, SubmitRequest};
use crate::model::error::Error;
use crate::model::job::JobState;
use crate::model::progress::BatchProgress;

/// Arguments of `submit`.
#[derive(Debug, clap::Args)]
pub(super) struct SubmitArgs {
    /// Manifests or batches, as YAML or JSON
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Wait until all of it has ended; exit 1 if anything failed
    #[arg(long, conflicts_with = "check")]
    wait: bool,
    /// Only check, as the service would, with its settings and its permissions
    #[arg(long)]
    check: bool,
    /// Go on with what another host has begun, if it was released there or that host gives no sign of life
    #[arg(long, conflicts_with = "check")]
    takeover: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Hands them over, and tells the jobs that came of them.
pub(super) fn run(args: &SubmitArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    if args.check {
        return check(&client, ui, &args.inputs);
    }
    // One input that is refused does not keep the others out; the first refusal decides the exit code.
    let mut jobs = Vec::new();
    let mut refused: Option<Failure> = None;
    for path in &args.inputs {
        let accepted = request(path)
            .map_err(Failure::from)
            .map(|request| SubmitRequest { takeover: args.takeover, ..request })
            .and_then(|request| client.post::<JobList>("/v1/jobs", &request));
        match accepted {
            Ok(list) => jobs.extend(list.jobs),
            Err(failure) if failure.exit == Exit::Unreachable || failure.exit == Exit::Interrupted => {
                return Err(failure);
            }
            Err(failure) => {
                if let Some(earlier) = refused.replace(failure) {
                    ui.fail(&earlier);
                    refused = refused.map(|last| Failure { exit: earlier.exit, ..last });
                }
            }
        }
    }
    if args.wait {
        jobs = wait(&client, ui, &jobs)?;
    }
    print_jobs(ui, &jobs)?;
    if let Some(failure) = refused {
        return Err(failure);
    }
    let ended_badly = |job: &JobView| matches!(job.state, JobState::Failed | JobState::Cancelled);
    Ok(if args.wait && jobs.iter().any(ended_badly) { Exit::Failed } else { Exit::Done })
}

fn request(path: &std::path::Path) -> Result<SubmitRequest, Error> {
    let input = Input::read(path)?;
    Ok(SubmitRequest {
        content: input.text()?,
        filename: input.filename,
        base_directory: input.base_directory.to_string_lossy().into_owned(),
        takeover: false,
    })
}

fn check(client: &Client, ui: &Ui, paths: &[PathBuf]) -> Result<Exit, Failure> {
    let mut inputs = Vec::new();
    for path in paths {
        let given = path.display().to_string();
        match request(path) {
            Ok(request) => {
                let checked: Checked = client.post("/v1/check", &request)?;
                inputs.extend(
                    checked.inputs.into_iter().map(|check| InputCheck { path: given.clone(), ..check }),
                );
            }
            Err(error) => inputs.push(InputCheck::of(&given, &[error])),
        }
    }
    print_checked(ui, &Checked { inputs })
}

fn print_jobs(ui: &Ui, jobs: &[JobView]) -> Result<(), Failure> {
    if ui.json {
        ui.print_json(&JobList { jobs: jobs.to_vec() })
    } else if jobs.is_empty() || ui.quiet {
        Ok(())
    } else {
        ui.print(&table::jobs(jobs, ui.color))
    }
}

/// Waits until every batch has ended and gives the jobs as they are then, with those that an entry of it has become meanwhile.
fn wait(client: &Client, ui: &Ui, jobs: &[JobView]) -> Result<Vec<JobView>, Failure> {
    let batches: BTreeMap<String, i64> = jobs.iter().map(|job| (job.batch_id.clone(), job.job_id)).collect();
    let mut view = ProgressView::beside_the_result(ui);
    let mut further = Vec::new();
    for job_id in batches.values() {
        let mut ended = None;
        client.watch(&job_path(&job_id.to_string(), "watch"), |progress: BatchProgress| {
            view.show(&progress)?;
            Ok(match progress.state.is_final() {
                true => {
                    ended = Some(progress);
                    ControlFlow::Break(())
                }
                false => ControlFlow::Continue(()),
            })
        })?;
        let Some(BatchProgress { batch_id, vms, .. }) = ended else { return Err(client.ended_first()) };
        let is_known = |vm: &str| jobs.iter().any(|job| job.batch_id == batch_id && job.vm_id == vm);
        further.extend(vms.keys().filter(|vm| !is_known(vm)).map(|vm| format!("{batch_id}/{vm}")));
    }
    view.finish();
    let all = jobs.iter().map(|job| job.job_id.to_string()).chain(further);
    all.map(|job| client.get::<JobDetails>(&job_path(&job, "")).map(|now| now.job)).collect()
}
