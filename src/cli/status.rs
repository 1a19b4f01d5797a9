//! `status`: how the service stands.

use std::fmt::Write as _;

use super::client::Client;
use super::table::{Paint, moment, printable, span};
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::job::JobState;
use crate::model::progress::{LibvirtStatus, ProfileStatus, Status};
use crate::model::units::human_size;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    state: StateArgs,
}

/// Prints it.
pub(super) fn run(args: &StatusArgs, ui: &Ui) -> Result<Exit, Failure> {
    let status: Status = Client::new(&args.state)?.get("/v1/status")?;
    if ui.json {
        ui.print_json(&status)?;
    } else {
        ui.print(&describe(&status, ui.color))?;
    }
    Ok(Exit::Done)
}

/// `2 running, 29 queued, 2 waiting (disk_space 2)`.
pub(super) fn work_words(status: &Status) -> String {
    let mut words = Vec::new();
    for state in JobState::ALL {
        let Some(count) = status.counts.get(state.name()).filter(|count| **count > 0) else { continue };
        let mut word = format!("{count} {state}");
        if state == JobState::Waiting {
            let reasons: Vec<String> = (status.waiting.iter())
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect();
            let _ = write!(word, " ({})", reasons.join(", "));
        }
        words.push(word);
    }
    if words.is_empty() { "no jobs".to_owned() } else { words.join(", ") }
}

fn describe(status: &Status, color: bool) -> String {
    let mut mode = Vec::new();
    if !status.ready {
        mode.push("not ready");
    }
    if status.paused {
        mode.push("paused");
    }
    if status.draining {
        mode.push("draining");
    }
    let (mode, paint) = match mode.is_empty() {
        true => ("at work".to_owned(), Paint::Good),
        false => (mode.join(", "), Paint::Attention),
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<8} {value}");
    };
    line(
        "service",
        &format!("{}, version {}, process {}", paint.on(&mode, color), status.version, status.pid),
    );
    line("since", &moment(status.started_at));
    let missing = match status.network_missing.as_slice() {
        [] => String::new(),
        names => format!(" (required but not here: {})", names.join(", ")),
    };
    line("network", &printable(&format!("{}{missing}", status.network)));
    for away in &status.servers_away {
        let next =
            away.next_at.map_or_else(|| "tried now".to_owned(), |at| format!("tried again {}", moment(at)));
        line(
            "away",
            &printable(&format!("{} since {}, {next}: {}", away.server, moment(away.since), away.detail)),
        );
    }
    line("jobs", &work_words(status));
    if status.bytes_per_second > 0 {
        line("speed", &format!("{}/s", human_size(status.bytes_per_second)));
    }
    if status.estimated_time_remaining.is_some() {
        line("left", &span(status.estimated_time_remaining));
    }
    if let Some(at) = status.oldest_snapshot_at {
        line("snapshot", &format!("the oldest on a source is of {}", moment(at)));
    }
    for filesystem in &status.filesystems {
        line(
            "space",
            &format!(
                "{}: {} free, {} reserved",
                printable(&filesystem.path),
                human_size(filesystem.free),
                human_size(filesystem.reserved)
            ),
        );
    }
    if let Some(outbox) = &status.notifications {
        let mut words = format!("{} pending, {} given up", outbox.pending, outbox.given_up);
        if let Some(error) = outbox.last_error.as_ref().filter(|_| outbox.pending + outbox.given_up > 0) {
            let _ = write!(words, " ({error})");
        }
        line("notices", &printable(&words));
    }
    if !status.libvirt.uri.is_empty() {
        let LibvirtStatus { uri, state, detail, .. } = &status.libvirt;
        let detail = detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        line("libvirt", &printable(&format!("{uri}: {}{detail}", state.words())));
    }
    let ProfileStatus { kept, hits, misses, invalidations } = status.profiles;
    line("profiles", &format!("{kept} remembered, {hits} hits, {misses} misses, {invalidations} changed"));
    if let Some(error) = &status.last_error {
        line("error", &printable(error));
    }
    text
}
