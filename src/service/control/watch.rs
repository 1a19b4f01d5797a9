//! Streams of moments: one JSON document a line, a line whenever something changed.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;

use super::ControlContext;
use super::answer::{Refused, within};
use super::handlers::Target;
use crate::model::api::{JobFilter, Overview};
use crate::model::job::JobState;
use crate::model::progress::BatchProgress;
use crate::service::command::Command;

/// How often it is looked whether something changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A line is sent at least this often, so that the reader knows the service lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// How many of the queue's next jobs an overview holds.
const NEXT_JOBS: u32 = 20;

/// What can be watched.
#[derive(Clone)]
enum Subject {
    Batch(String),
    Everything,
}

/// What was seen, in a form that tells whether anything but the time changed.
#[derive(Serialize, Clone, PartialEq)]
#[serde(untagged)]
enum Moment {
    Batch(Box<BatchProgress>),
    Everything(Box<Overview>),
}

impl Moment {
    fn is_last(&self) -> bool {
        matches!(self, Moment::Batch(progress) if progress.state.is_final())
    }

    fn without_clock(&self) -> Moment {
        let mut moment = self.clone();
        match &mut moment {
            Moment::Batch(progress) => progress.heartbeat_at = 0.0,
            Moment::Everything(overview) => overview.status.heartbeat_at = 0.0,
        }
        moment
    }

    fn line(&self) -> Bytes {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

/// A batch (or the batch of a job) until all of it has ended.
pub(super) async fn batch(
    State(context): State<ControlContext>,
    Target(target): Target,
) -> Result<Response, Refused> {
    stream_of(context, Subject::Batch(target)).await
}

/// Everything, until the reader has seen enough.
pub(super) async fn overview(State(context): State<ControlContext>) -> Result<Response, Refused> {
    stream_of(context, Subject::Everything).await
}

async fn stream_of(context: ControlContext, subject: Subject) -> Result<Response, Refused> {
    // The first look decides the status code; after it, only lines can be sent.
    let first = look(&context, &subject).await?;
    let watcher = Watcher { context, subject, first: Some(first), seen: None, sent_at: Instant::now() };
    let lines = stream::unfold(Some(watcher), async |watcher| {
        let mut watcher = watcher?;
        let (line, last) = watcher.next_line().await?;
        Some((Ok::<Bytes, Infallible>(line), (!last).then_some(watcher)))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Watcher {
    context: ControlContext,
    subject: Subject,
    first: Option<Moment>,
    seen: Option<Moment>,
    sent_at: Instant,
}

impl Watcher {
    /// The next line that is worth sending, and whether it is the last one.
    async fn next_line(&mut self) -> Option<(Bytes, bool)> {
        loop {
            let moment = match self.first.take() {
                Some(moment) => moment,
                None => {
                    tokio::select! {
                        () = self.context.stop.cancelled() => return None,
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                    look(&self.context, &self.subject).await.ok()?
                }
            };
            let bare = moment.without_clock();
            if self.seen.as_ref() != Some(&bare) || self.sent_at.elapsed() >= HEARTBEAT_EVERY {
                self.seen = Some(bare);
                self.sent_at = Instant::now();
                return Some((moment.line(), moment.is_last()));
            }
        }
    }
}

async fn look(context: &ControlContext, subject: &Subject) -> Result<Moment, Refused> {
    let scheduler = &context.scheduler;
    match subject {
        Subject::Batch(target) => {
            let progress = within(scheduler.ask(|reply| Command::Progress(target.clone(), reply))).await?;
            Ok(Moment::Batch(Box::new(progress)))
        }
        Subject::Everything => {
            let status = within(scheduler.ask(Command::Status)).await?;
            let mut jobs = Vec::new();
            for (state, limit) in [
                (JobState::Running, None),
                (JobState::Waiting, Some(NEXT_JOBS)),
                (JobState::Queued, Some(NEXT_JOBS)),
            ] {
                let filter = JobFilter { state: Some(state), limit, ..JobFilter::default() };
                jobs.extend(within(scheduler.ask(|reply| Command::List(filter, reply))).await?.jobs);
            }
            Ok(Moment::Everything(Box::new(Overview { status, jobs })))
        }
    }
}
