//! One small function per route: ask the scheduler, give its answer on.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};

use super::ControlContext;
use super::answer::{Answer, Refused, read_body, within};
use crate::model::api::{
    Acted, CancelRequest, Checked, DrainRequest, JobDetails, JobFilter, JobList, JobView, PriorityRequest,
    PruneRequest, Pruned, RetryRequest, RollbackRequest, RolledBack, Said, Stats, SubmitRequest,
};
use crate::model::job::JobState;
use crate::model::progress::{BatchProgress, Status};
use crate::service::command::Command;
use crate::service::preflight;

/// How many ended jobs `stats` looks back at.
const RECENT_JOBS: u32 = 10;

/// The `{target}` of a path, decoded.
pub(super) struct Target(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Target, Refused> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        match path {
            Ok(Path(target)) => Ok(Target(target)),
            Err(error) => Err(Refused::request(
                StatusCode::BAD_REQUEST,
                format!("the job's name cannot be read: {}", error.body_text()),
                "percent-encode it as UTF-8",
            )),
        }
    }
}

pub(super) async fn status(State(context): State<ControlContext>) -> Answer<Status> {
    let libvirt = context.settings.borrow().libvirt.clone();
    context.libvirt.ask(&libvirt.uri, Duration::from_secs_f64(libvirt.timeout_s)).await;
    within(context.scheduler.ask(Command::Status)).await.map(Json)
}

pub(super) async fn stats(State(context): State<ControlContext>) -> Answer<Stats> {
    let list = |state, limit| {
        let filter = JobFilter { state: Some(state), limit, ..JobFilter::default() };
        within(context.scheduler.ask(|reply| Command::List(filter, reply)))
    };
    let status = within(context.scheduler.ask(Command::Status)).await?;
    let current = list(JobState::Running, None).await?.jobs;
    let recent = list(JobState::Succeeded, Some(RECENT_JOBS)).await?.jobs;
    Ok(Json(stats_of(&status, current, recent)))
}

fn stats_of(status: &Status, current_jobs: Vec<JobView>, recent_completed: Vec<JobView>) -> Stats {
    let count = |state: JobState| status.counts.get(state.name()).copied().unwrap_or(0);
    let (succeeded, failed) = (count(JobState::Succeeded), count(JobState::Failed));
    let ended = succeeded + failed;
    let seconds: Vec<f64> =
        recent_completed.iter().filter_map(|job| Some(job.completed_at? - job.started_at?)).collect();
    Stats {
        daemon_start_time: status.started_at,
        uptime_seconds: (status.heartbeat_at - status.started_at).max(0.0),
        total_processed: succeeded,
        total_failed: failed,
        success_rate_percent: (ended > 0).then(|| succeeded as f64 * 100.0 / ended as f64),
        average_processing_time_seconds: (!seconds.is_empty())
            .then(|| seconds.iter().sum::<f64>() / seconds.len() as f64),
        current_queue_depth: count(JobState::Queued) + count(JobState::Waiting) + count(JobState::Running),
        current_jobs,
        recent_completed,
    }
}

pub(super) async fn list(
    State(context): State<ControlContext>,
    filter: Result<Query<JobFilter>, QueryRejection>,
) -> Answer<JobList> {
    let Query(filter) = filter.map_err(|error| {
        Refused::request(
            StatusCode::UNPROCESSABLE_ENTITY,
            error.body_text(),
            "the filter has `state`, `batch` and `limit`",
        )
    })?;
    within(context.scheduler.ask(|reply| Command::List(filter, reply))).await.map(Json)
}

pub(super) async fn show(
    State(context): State<ControlContext>,
    Target(target): Target,
) -> Answer<JobDetails> {
    within(context.scheduler.ask(|reply| Command::Show(target, reply))).await.map(Json)
}

pub(super) async fn progress(
    State(context): State<ControlContext>,
    Target(target): Target,
) -> Answer<BatchProgress> {
    within(context.scheduler.ask(|reply| Command::Progress(target, reply))).await.map(Json)
}

pub(super) async fn metrics(
    State(context): State<ControlContext>,
) -> Result<([(HeaderName, &'static str); 1], String), Refused> {
    let status = within(context.scheduler.ask(Command::Status)).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], (context.metrics)(&status)))
}

pub(super) async fn submit(
    State(context): State<ControlContext>,
    body: Bytes,
) -> Result<(StatusCode, Json<JobList>), Refused> {
    let request: SubmitRequest = read_body(&body)?;
    let jobs = within(context.scheduler.ask(|reply| Command::Submit(request, reply))).await?;
    Ok((StatusCode::CREATED, Json(jobs)))
}

/// The pre-flight as the service: with its settings, its user and its view of the file systems.
pub(super) async fn check(State(context): State<ControlContext>, body: Bytes) -> Answer<Checked> {
    let request: SubmitRequest = read_body(&body)?;
    let settings = context.settings.borrow().clone();
    let checked = tokio::task::spawn_blocking(move || preflight::check_submission(&request, &settings)).await;
    match checked {
        Ok(input) => Ok(Json(Checked { inputs: vec![input] })),
        Err(_) => Err(Refused::busy("the check ended without an answer")),
    }
}

pub(super) async fn cancel(
    State(context): State<ControlContext>,
    Target(target): Target,
    body: Bytes,
) -> Answer<Acted> {
    let CancelRequest { keep_partial } = read_body(&body)?;
    within(context.scheduler.ask(|reply| Command::Cancel { target, keep_partial, reply })).await.map(Json)
}

pub(super) async fn release(State(context): State<ControlContext>, Target(target): Target) -> Answer<Acted> {
    within(context.scheduler.ask(|reply| Command::Release { target, reply })).await.map(Json)
}

pub(super) async fn rollback(
    State(context): State<ControlContext>,
    Target(target): Target,
    body: Bytes,
) -> Answer<RolledBack> {
    let RollbackRequest { dry_run } = read_body(&body)?;
    within(context.scheduler.ask(|reply| Command::Rollback { target, dry_run, reply })).await.map(Json)
}

pub(super) async fn retry(
    State(context): State<ControlContext>,
    Target(target): Target,
    body: Bytes,
) -> Answer<Acted> {
    let request: RetryRequest = read_body(&body)?;
    within(context.scheduler.ask(|reply| Command::Retry { target, request, reply })).await.map(Json)
}

pub(super) async fn priority(
    State(context): State<ControlContext>,
    Target(target): Target,
    body: Bytes,
) -> Answer<Acted> {
    let PriorityRequest { priority } = read_body(&body)?;
    within(context.scheduler.ask(|reply| Command::Priority { target, priority, reply })).await.map(Json)
}

pub(super) async fn pause(State(context): State<ControlContext>, Target(target): Target) -> Answer<Acted> {
    within(context.scheduler.ask(|reply| Command::Pause(Some(target), reply))).await.map(Json)
}

pub(super) async fn resume(State(context): State<ControlContext>, Target(target): Target) -> Answer<Acted> {
    within(context.scheduler.ask(|reply| Command::Resume(Some(target), reply))).await.map(Json)
}

pub(super) async fn cutover(State(context): State<ControlContext>, Target(target): Target) -> Answer<Acted> {
    within(context.scheduler.ask(|reply| Command::Cutover(target, reply))).await.map(Json)
}

pub(super) async fn pause_all(State(context): State<ControlContext>) -> Answer<Acted> {
    within(context.scheduler.ask(|reply| Command::Pause(None, reply))).await.map(Json)
}

pub(super) async fn resume_all(State(context): State<ControlContext>) -> Answer<Acted> {
    within(context.scheduler.ask(|reply| Command::Resume(None, reply))).await.map(Json)
}

pub(super) async fn drain(State(context): State<ControlContext>, body: Bytes) -> Answer<Acted> {
    let DrainRequest { on } = read_body(&body)?;
    within(context.scheduler.ask(|reply| Command::Drain(on, reply))).await.map(Json)
}

pub(super) async fn prune(State(context): State<ControlContext>, body: Bytes) -> Answer<Pruned> {
    let PruneRequest { dry_run } = read_body(&body)?;
    within(context.scheduler.ask(|reply| Command::Prune { dry_run, reply })).await.map(Json)
}

pub(super) async fn reload(State(context): State<ControlContext>) -> Answer<Said> {
    let message = within(context.scheduler.ask(Command::Reload)).await?;
    Ok(Json(Said { message }))
}

pub(super) async fn stop(State(context): State<ControlContext>) -> Answer<Said> {
    let message = within(context.scheduler.ask(Command::Stop)).await?;
    Ok(Json(Said { message }))
}
