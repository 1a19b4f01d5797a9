//! `libvirt events`: what happens to the machines, as it happens, until interrupted.

use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Asked;
use crate::cli::table::{moment, printable};
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::events::{Event, Events, Next};
use crate::model::error::Error;
use crate::model::units::parse_duration_s;

/// Who gives no limit waits for ever, a day at a time.
const AT_A_TIME: Duration = Duration::from_secs(24 * 3600);

/// Tasks with events.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// Follow what happens to the machines, until interrupted; with --json one object a line
    Events {
        /// End after so many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// End after this long
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        lasts: Option<Duration>,
    },
}

pub(super) fn run(task: &Task, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let Task::Events { count, lasts } = task;
    let events = Events::open(&asked.uri, asked.within)?;
    let ender = events.ender();
    match Signals::new([SIGINT, SIGTERM]) {
        Ok(mut signals) => {
            std::thread::spawn(move || signals.forever().for_each(|_| ender.end()));
        }
        Err(error) => tracing::warn!(%error, "signals end this command at once"),
    }
    ui.note(&format!("following {}", printable(&asked.uri)));
    let deadline = lasts.and_then(|lasts| Instant::now().checked_add(lasts));
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        let rest = deadline.map_or(AT_A_TIME, |deadline| deadline.saturating_duration_since(Instant::now()));
        match events.next_within(rest) {
            Next::Event(event) => print(&event, ui)?,
            Next::Ended(Some(error)) => return Err(error.into()),
            Next::Ended(None) => return Err(Failure::silent(Exit::Interrupted)),
            Next::Nothing if lasts.is_some() => break,
            Next::Nothing => continue,
        }
        seen += 1;
    }
    Ok(Exit::Done)
}

fn print(event: &Event, ui: &Ui) -> Result<(), Failure> {
    if ui.json {
        let line = serde_json::to_string(event)
            .map_err(|error| Error::internal(format!("cannot write this as JSON: {error}")))?;
        return ui.print(&format!("{line}\n"));
    }
    let (at, domain) = (moment(event.at), printable(&event.domain));
    ui.print(&format!("{at}  {domain}  {} ({})\n", event.event.name(), event.detail))
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = parse_duration_s(text).map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
