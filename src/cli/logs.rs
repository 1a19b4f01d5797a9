//! `logs`: the log of a job's attempt.
//!
//! The daemon says where it lies. Where the daemon is away, the state directory's layout says it,
//! for a job named as `BATCH/VM` (or a batch of one VM).

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::client::{Client, job_path};
use super::retry::parse_stage;
use super::show::{Shown, look_up};
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::JobDetails;
use crate::model::config::Layout;
use crate::model::error::{Error, Kind};
use crate::model::job::Stage;

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What a worker writes when it goes on to the next stage.
const STAGE_BEGINS: &str = "stage begins";

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Number, BATCH/VM, or unique VM name
    #[arg(value_name = "JOB")]
    job: String,
    /// Only what was said in this stage
    #[arg(long, value_name = "STAGE", value_parser = parse_stage)]
    stage: Option<Stage>,
    /// Go on printing until the job has ended
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
    /// Of this attempt [default: the last]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    #[command(flatten)]
    state: StateArgs,
}

/// `--json`
#[derive(Serialize)]
struct LogDocument {
    log: PathBuf,
    lines: Vec<String>,
}

/// Prints it.
pub(super) fn run(args: &LogsArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    let (path, job_id) = match find_by_daemon(&client, args) {
        Err(failure) if failure.exit == Exit::Unreachable => match find_by_layout(args)? {
            Some(path) => (path, None),
            None => return Err(failure),
        },
        found => {
            let (path, job_id) = found?;
            (path, Some(job_id))
        }
    };
    let mut reader = LogReader::open(&path, args.stage)?;
    if ui.json {
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line()? {
            lines.push(line.trim_end().to_owned());
        }
        ui.print_json(&LogDocument { log: path, lines })?;
        return Ok(Exit::Done);
    }
    loop {
        // Asked before the rest is read, so that nothing said at the very end is missed.
        let goes_on = args.follow && job_id.is_some_and(|id| has_not_ended(&client, id));
        while let Some(line) = reader.next_line()? {
            ui.print(&line)?;
        }
        if !goes_on {
            return Ok(Exit::Done);
        }
        client.sleep(LOOK_EVERY)?;
    }
}

fn has_not_ended(client: &Client, job_id: i64) -> bool {
    let details = client.get::<JobDetails>(&job_path(&job_id.to_string(), ""));
    details.is_ok_and(|details| !details.job.state.is_final())
}

fn find_by_daemon(client: &Client, args: &LogsArgs) -> Result<(PathBuf, i64), Failure> {
    let details = match look_up(client, &args.job)? {
        Shown::Job(details) => details,
        Shown::Batch(list) => match list.jobs.as_slice() {
            [job] => Box::new(client.get::<JobDetails>(&job_path(&job.job_id.to_string(), ""))?),
            jobs => {
                let names: Vec<String> =
                    jobs.iter().map(|job| format!("{}/{}", job.batch_id, job.vm_id)).collect();
                return Err(Error::new(Kind::Manifest, format!("{} is a batch of several VMs", args.job))
                    .advice(format!("name one of {}", names.join(", ")))
                    .into());
            }
        },
    };
    let job = &details.job;
    let layout = args.state.settings_or_defaults()?.layout();
    let path = match (args.attempt, &details.log) {
        (Some(attempt), _) => layout.job_log(&job.batch_id, &job.vm_id, attempt),
        (None, Some(log)) => PathBuf::from(log),
        (None, None) => {
            return Err(Error::new(
                Kind::Source,
                format!("job {} has no log: no attempt was started", job.job_id),
            )
            .advice("see `hyper2kvm show` for what it waits for")
            .into());
        }
    };
    Ok((path, job.job_id))
}

/// Without the daemon: only a name that says the batch can be found.
fn find_by_layout(args: &LogsArgs) -> Result<Option<PathBuf>, Failure> {
    let layout = args.state.settings_or_defaults()?.layout();
    let (batch, vm) = match args.job.split_once('/') {
        Some((batch, vm)) => (batch, Some(vm)),
        None => (args.job.as_str(), None),
    };
    let safe = |name: &str| crate::model::units::is_id(name);
    if !safe(batch) || !vm.is_none_or(safe) {
        return Ok(None);
    }
    if let (Some(vm), Some(attempt)) = (vm, args.attempt) {
        return Ok(Some(layout.job_log(batch, vm, attempt)));
    }
    Ok(newest_attempt(&layout, batch, vm))
}

/// The log of the last attempt of this VM, or of the only VM there.
fn newest_attempt(layout: &Layout, batch: &str, vm: Option<&str>) -> Option<PathBuf> {
    let attempts: Vec<(String, u32, PathBuf)> = fs::read_dir(layout.logs().join(batch))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (vm, attempt) = name.strip_suffix(".log")?.rsplit_once('.')?;
            Some((vm.to_owned(), attempt.parse().ok()?, entry.path()))
        })
        .collect();
    let vm = match vm {
        Some(vm) => vm.to_owned(),
        None => {
            let first = &attempts.first()?.0;
            attempts.iter().all(|(vm, ..)| vm == first).then(|| first.clone())?
        }
    };
    attempts
        .into_iter()
        .filter(|(of, ..)| *of == vm)
        .max_by_key(|(_, attempt, _)| *attempt)
        .map(|(.., path)| path)
}

/// Lines of a log that may still grow.
struct LogReader {
    path: PathBuf,
    reader: BufReader<File>,
    wanted: Option<Stage>,
    in_wanted: bool,
    pending: Vec<u8>,
}

impl LogReader {
    fn open(path: &Path, wanted: Option<Stage>) -> Result<LogReader, Error> {
        let file = File::open(path).map_err(|error| {
            let told = Error::io(Kind::Source, "read the log", path, &error);
            match error.kind() {
                io::ErrorKind::PermissionDenied => told.advice("use sudo: logs belong to the service's user"),
                io::ErrorKind::NotFound => {
                    told.advice("it may have been pruned (`retention.logs_s`), or the attempt never started")
                }
                _ => told,
            }
        })?;
        Ok(LogReader {
            path: path.to_owned(),
            reader: BufReader::new(file),
            wanted,
            in_wanted: wanted.is_none(),
            pending: Vec::new(),
        })
    }

    /// The next whole line that is wanted; `None` at the end as it is now.
    fn next_line(&mut self) -> Result<Option<String>, Error> {
        loop {
            let read = (self.reader)
                .read_until(b'\n', &mut self.pending)
                .map_err(|error| Error::io(Kind::Source, "read the log", &self.path, &error))?;
            if read == 0 || !self.pending.ends_with(b"\n") {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
            if self.is_wanted(&line) {
                return Ok(Some(line));
            }
        }
    }

    fn is_wanted(&mut self, line: &str) -> bool {
        if let (Some(wanted), true) = (self.wanted, line.contains(STAGE_BEGINS)) {
            self.in_wanted = line
                .split_once("stage=")
                .and_then(|(_, rest)| rest.split_whitespace().next())
                .is_some_and(|name| name.trim_matches('"') == wanted.name());
        }
        self.in_wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "t INFO order read\n\
        t INFO stage begins stage=load\n\
        t INFO looking\n\
        t INFO stage begins stage=convert\n\
        t INFO copying\n\
        t INFO stage ended stage=convert seconds=1\n\
        t INFO stage begins stage=validate\n";

    fn lines(path: &Path, stage: Option<Stage>) -> Vec<String> {
        let mut reader = LogReader::open(path, stage).unwrap();
        std::iter::from_fn(|| reader.next_line().unwrap()).collect()
    }

    #[test]
    fn a_stage_is_what_was_said_from_its_beginning_to_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.1.log");
        fs::write(&path, LOG).unwrap();
        assert_eq!(lines(&path, None).concat(), LOG);
        let convert = lines(&path, Some(Stage::Convert));
        assert_eq!(convert.len(), 3);
        assert!(convert[1].contains("copying"));
        assert!(lines(&path, Some(Stage::BootTest)).is_empty());
    }

    #[test]
    fn a_line_that_is_still_being_written_is_kept_until_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.1.log");
        fs::write(&path, "half").unwrap();
        let mut reader = LogReader::open(&path, None).unwrap();
        assert_eq!(reader.next_line().unwrap(), None);
        fs::write(&path, "half a line\n").unwrap();
        assert_eq!(reader.next_line().unwrap().unwrap(), "half a line\n");
    }

    #[test]
    fn without_a_daemon_the_last_attempt_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let layout = crate::model::config::Settings::defaults(dir.path(), 1).layout();
        fs::create_dir_all(layout.logs().join("b")).unwrap();
        for attempt in [1, 2, 10] {
            fs::write(layout.job_log("b", "vm.x", attempt), "").unwrap();
        }
        let last = layout.job_log("b", "vm.x", 10);
        assert_eq!(newest_attempt(&layout, "b", Some("vm.x")), Some(last.clone()));
        assert_eq!(newest_attempt(&layout, "b", None), Some(last));
        assert_eq!(newest_attempt(&layout, "b", Some("other")), None);
    }
}
