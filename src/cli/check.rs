//! `check`: the service in one line, for monitoring systems.
//!
//! Exit codes are those that such systems prescribe (0 ok, 1 warning, 2 critical, 3 unknown), not
//! those of the other commands. The line is `HYPER2KVM STATE - words | perfdata`.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::client::{Client, encode, job_path};
use super::status::work_words;
use super::table::printable;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::JobList;
use crate::model::job::{JobState, WaitReason};
use crate::model::progress::{BatchProgress, Status};
use crate::model::units::{human_duration, parse_duration_s};

/// A service that has not said anything about itself for this long hangs.
const HEARTBEAT_WITHIN_S: f64 = 120.0;

/// So many batches are looked at for standing still.
const MAX_BATCHES: usize = 100;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// More failed jobs than this are critical [default: any failed job is a warning]
    #[arg(long, value_name = "N")]
    max_failed: Option<u64>,
    /// A job that has not moved for this long is critical
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    stalled: f64,
    /// A snapshot of ours that is older than this is critical
    #[arg(long, value_name = "DURATION", default_value = "12h", value_parser = parse_duration)]
    snapshot_age: f64,
    #[command(flatten)]
    state: StateArgs,
}

/// What monitoring systems know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
enum Verdict {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::Warning => "WARNING",
            Verdict::Critical => "CRITICAL",
            Verdict::Unknown => "UNKNOWN",
        }
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Findings {
    status: Verdict,
    exit_code: u8,
    message: String,
    problems: Vec<String>,
    perfdata: Vec<Figure>,
}

/// One figure of the perfdata.
#[derive(Debug, Serialize)]
struct Figure {
    label: &'static str,
    value: f64,
    unit: &'static str,
    critical: Option<f64>,
}

/// Prints the line.
pub(super) fn run(args: &CheckArgs, ui: &Ui) -> Result<Exit, Failure> {
    let findings = look(args);
    if ui.json {
        ui.print_json(&findings)?;
    } else {
        ui.print(&line(&findings))?;
    }
    Ok(Exit::Monitor(findings.exit_code))
}

fn look(args: &CheckArgs) -> Findings {
    let seen = Client::new(&args.state).and_then(|client| {
        let status: Status = client.get("/v1/status")?;
        let still = standing_still(&client, &status, args.stalled)?;
        Ok((status, still))
    });
    match seen {
        Ok((status, still)) => judge(args, &status, still, now()),
        Err(failure) => {
            let message = failure.error.map_or_else(|| "interrupted".to_owned(), |error| error.to_string());
            // Not being allowed to look says nothing about the service.
            let unreachable = failure.exit == Exit::Unreachable && !message.contains("may not connect");
            let verdict = if unreachable { Verdict::Critical } else { Verdict::Unknown };
            findings(verdict, message, Vec::new(), Vec::new())
        }
    }
}

fn findings(status: Verdict, message: String, problems: Vec<String>, perfdata: Vec<Figure>) -> Findings {
    Findings { status, exit_code: status as u8, message, problems, perfdata }
}

/// Jobs that should move and have not for this long.
fn standing_still(client: &Client, status: &Status, limit_s: f64) -> Result<Vec<String>, Failure> {
    let mut batches = BTreeSet::new();
    for state in [JobState::Running, JobState::Waiting] {
        if status.counts.get(state.name()).is_none_or(|count| *count == 0) {
            continue;
        }
        let list: JobList = client.get(&format!("/v1/jobs?state={}", encode(state.name())))?;
        let should_move = list.jobs.into_iter().filter(|job| !waits_by_intent(job.waiting_reason));
        batches.extend(should_move.map(|job| job.batch_id));
    }
    let mut still = Vec::new();
    for batch_id in batches.into_iter().take(MAX_BATCHES) {
        let progress: BatchProgress = client.get(&job_path(&batch_id, "progress"))?;
        let age = now() - progress.updated_at;
        if !progress.state.is_final() && age > limit_s {
            still.push(format!("{batch_id} has not moved for {}", human_duration(age)));
        }
    }
    Ok(still)
}

/// Whether a person or a plan wants the job to wait.
fn waits_by_intent(reason: Option<WaitReason>) -> bool {
    matches!(
        reason,
        Some(
            WaitReason::Paused
                | WaitReason::Window
                | WaitReason::Cutover
                | WaitReason::Dependency
                | WaitReason::Retry
        )
    )
}

fn judge(args: &CheckArgs, status: &Status, still: Vec<String>, now: f64) -> Findings {
    let count = |state: JobState| status.counts.get(state.name()).copied().unwrap_or(0);
    let failed = count(JobState::Failed);
    let snapshot_age = status.oldest_snapshot_at.map(|at| (now - at).max(0.0));
    let mut problems: Vec<(Verdict, String)> =
        still.into_iter().map(|words| (Verdict::Critical, words)).collect();
    let mut problem = |wrong: bool, verdict: Verdict, words: String| {
        if wrong {
            problems.push((verdict, words));
        }
    };
    let silent = now - status.heartbeat_at;
    problem(
        silent > HEARTBEAT_WITHIN_S,
        Verdict::Critical,
        format!("no heartbeat for {}", human_duration(silent)),
    );
    problem(!status.ready, Verdict::Critical, "not ready".to_owned());
    problem(
        args.max_failed.is_some_and(|max| failed > max),
        Verdict::Critical,
        format!("{failed} failed jobs"),
    );
    problem(args.max_failed.is_none() && failed > 0, Verdict::Warning, format!("{failed} failed jobs"));
    problem(
        snapshot_age.is_some_and(|age| age > args.snapshot_age),
        Verdict::Critical,
        format!("a snapshot is {} old", human_duration(snapshot_age.unwrap_or_default())),
    );
    problem(status.network == "down", Verdict::Warning, "the network is down".to_owned());
    problem(status.paused, Verdict::Warning, "paused".to_owned());
    problem(status.draining, Verdict::Warning, "draining".to_owned());
    for reason in [WaitReason::DiskSpace, WaitReason::Auth, WaitReason::Libvirt] {
        let waiting = status.waiting.get(reason.name()).copied().unwrap_or(0);
        problem(waiting > 0, Verdict::Warning, format!("{waiting} jobs wait for {reason}"));
    }
    problems.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
    let verdict = problems.first().map_or(Verdict::Ok, |(verdict, _)| *verdict);
    let problems: Vec<String> = problems.into_iter().map(|(_, words)| words).collect();
    let work = work_words(status);
    let message = if problems.is_empty() { work } else { format!("{}; {work}", problems.join("; ")) };
    findings(verdict, message, problems, perfdata(args, status, snapshot_age))
}

fn perfdata(args: &CheckArgs, status: &Status, snapshot_age: Option<f64>) -> Vec<Figure> {
    let count = |state: JobState| status.counts.get(state.name()).copied().unwrap_or(0) as f64;
    let figure = |label, value, unit, critical| Figure { label, value, unit, critical };
    let mut figures = vec![
        figure("running", count(JobState::Running), "", None),
        figure("queued", count(JobState::Queued), "", None),
        figure("waiting", count(JobState::Waiting), "", None),
        figure("failed", count(JobState::Failed), "", args.max_failed.map(|max| max as f64)),
        figure("succeeded", count(JobState::Succeeded), "", None),
        figure("bytes_per_second", status.bytes_per_second as f64, "B", None),
    ];
    if let Some(age) = snapshot_age {
        figures.push(figure("oldest_snapshot", age.round(), "s", Some(args.snapshot_age)));
    }
    figures
}

/// `HYPER2KVM OK - 2 running | running=2;;;0 …`: one line, whatever the words hold.
fn line(findings: &Findings) -> String {
    // A bar would begin the perfdata.
    let words = printable(&findings.message).replace('|', "/");
    let mut line = format!("HYPER2KVM {} - {words}", findings.status.word());
    for (index, figure) in findings.perfdata.iter().enumerate() {
        line.push_str(if index == 0 { " | " } else { " " });
        let critical = figure.critical.map_or_else(String::new, |critical| critical.to_string());
        line.push_str(&format!("{}={}{};;{critical};0", figure.label, figure.value, figure.unit));
    }
    line.push('\n');
    line
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn parse_duration(text: &str) -> Result<f64, String> {
    parse_duration_s(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::progress::ProfileStatus;

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            pid: 1,
            started_at: 0.0,
            heartbeat_at: 1000.0,
            ready: true,
            network: "up".to_owned(),
            network_missing: Vec::new(),
            servers_away: Vec::new(),
            paused: false,
            draining: false,
            counts: BTreeMap::from([("running".to_owned(), 2)]),
            waiting: BTreeMap::new(),
            bytes_per_second: 5,
            estimated_time_remaining: None,
            oldest_snapshot_at: None,
            notifications: None,
            profiles: ProfileStatus::default(),
            filesystems: Vec::new(),
            libvirt: crate::model::progress::LibvirtStatus::default(),
            last_error: None,
        }
    }

    fn args() -> CheckArgs {
        CheckArgs { max_failed: None, stalled: 1800.0, snapshot_age: 43_200.0, state: StateArgs::default() }
    }

    #[test]
    fn all_well_is_one_line_with_figures() {
        let found = judge(&args(), &status(), Vec::new(), 1000.0);
        assert_eq!(
            line(&found),
            "HYPER2KVM OK - 2 running | running=2;;;0 queued=0;;;0 waiting=0;;;0 failed=0;;;0 succeeded=0;;;0 \
             bytes_per_second=5B;;;0\n"
        );
        assert_eq!(found.exit_code, 0);
    }

    #[test]
    fn failed_jobs_warn_and_more_than_allowed_are_critical() {
        let mut status = status();
        status.counts.insert("failed".to_owned(), 3);
        assert_eq!(judge(&args(), &status, Vec::new(), 1000.0).status, Verdict::Warning);
        let limit = |max| CheckArgs { max_failed: Some(max), ..args() };
        assert_eq!(judge(&limit(3), &status, Vec::new(), 1000.0).status, Verdict::Ok);
        assert_eq!(judge(&limit(2), &status, Vec::new(), 1000.0).status, Verdict::Critical);
    }

    #[test]
    fn the_worst_problem_decides_and_is_named_first() {
        let mut status = status();
        status.network = "down".to_owned();
        status.oldest_snapshot_at = Some(0.0);
        let found = judge(&args(), &status, vec!["b | has not moved".to_owned()], 50_000.0);
        assert_eq!(found.status, Verdict::Critical);
        assert!(found.problems[0].contains("has not moved"), "{:?}", found.problems);
        assert_eq!(line(&found).matches('|').count(), 1, "{}", line(&found));
    }
}
