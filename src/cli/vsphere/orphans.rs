//! `vsphere snapshot … --orphans`: snapshots that hyper2kvm left, of whatever host, on all machines of a server.
//!
//! Whether a job of this host still needs one, its service knows; whether one of another host does, only its age tells. What is not here: how they are found
//! ([`crate::vsphere::orphans`]).

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::client;
use crate::cli::table::{Table, cell, printable};
use crate::cli::{Exit, Failure, StateArgs, Ui};
use crate::model::acts::snapshot_name;
use crate::model::api::JobList;
use crate::model::error::{Error, Kind};
use crate::model::job::JobState;
use crate::model::units::parse_duration_s;
use crate::sys::host::host_name;
use crate::sys::time::now_epoch;
use crate::vsphere::orphans::{self, Ours};
use crate::vsphere::{Client, snapshot};

/// A snapshot of another host that is younger may be in use there.
const OTHERS_OLDER_THAN_S: f64 = 43_200.0;

/// Which snapshots nobody needs.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct OrphanArgs {
    /// Snapshots that hyper2kvm made, of whatever host, on all machines of the server
    #[arg(long)]
    pub(super) orphans: bool,
    /// With --orphans: those that are older than this count as left by whoever made them [default: 12h for those of other hosts]
    #[arg(long, value_name = "DURATION", requires = "orphans", value_parser = duration)]
    older_than: Option<f64>,
}

fn duration(text: &str) -> Result<f64, String> {
    parse_duration_s(text).map_err(|error| error.to_string())
}

/// A snapshot, and whether anybody needs it.
#[derive(Debug, Serialize)]
struct Judged {
    #[serde(flatten)]
    ours: Ours,
    orphan: bool,
    why: String,
}

/// `snapshot list --orphans --json`
#[derive(Serialize)]
struct Document {
    snapshots: Vec<Judged>,
}

/// `snapshot remove --orphans --json`
#[derive(Serialize)]
struct Removed {
    dry_run: bool,
    removed: Vec<Judged>,
    kept: Vec<Judged>,
    failed: Vec<String>,
}

/// Lists all that hyper2kvm made, and says which nobody needs.
pub(super) fn list(args: &OrphanArgs, state: &StateArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let snapshots = judge(orphans::all(client)?, &needed(state), args.older_than, now_epoch());
    if ui.json {
        ui.print_json(&Document { snapshots })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["VM", "SNAPSHOT", "REFERENCE", "MADE", "ORPHAN", "WHY"]);
    for Judged { ours, orphan, why } in &snapshots {
        table.row([
            cell(&ours.vm),
            cell(&ours.name),
            cell(&ours.moref),
            cell(&ours.created),
            cell(if *orphan { "yes" } else { "no" }),
            cell(why),
        ]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

/// Removes those that nobody needs.
pub(super) fn remove(
    (args, dry_run): (&OrphanArgs, bool),
    state: &StateArgs,
    client: &Client,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let needed = needed(state);
    if needed.is_none() && args.older_than.is_none() && !dry_run {
        return Err(Error::new(
            Kind::Manifest,
            "the service of this host does not answer: nobody knows which snapshots its jobs need",
        )
        .advice("start it, or say how old those are that are left: `--older-than 12h`")
        .into());
    }
    let judged = judge(orphans::all(client)?, &needed, args.older_than, now_epoch());
    let (removed, kept): (Vec<Judged>, Vec<Judged>) = judged.into_iter().partition(|judged| judged.orphan);
    let mut failed = Vec::new();
    let mut text = String::new();
    for Judged { ours, .. } in &removed {
        let told = match dry_run {
            true => Ok("would be removed"),
            false => snapshot::remove(client, &ours.moref, false, &mut super::progress(ui, "snapshot"))
                .map(|()| "removed"),
        };
        let words = told.unwrap_or_else(|error| {
            failed.push(format!("{}: {error}", ours.name));
            "could not be removed"
        });
        let _ = writeln!(text, "{}: snapshot {} {words}", printable(&ours.vm), printable(&ours.name));
    }
    for Judged { ours, why, .. } in &kept {
        let _ = writeln!(text, "{}: snapshot {} stays: {why}", printable(&ours.vm), printable(&ours.name));
    }
    let has_failed = !failed.is_empty();
    failed.iter().for_each(|why| ui.note(why));
    match ui.json {
        true => ui.print_json(&Removed { dry_run, removed, kept, failed })?,
        false => ui.print(&text)?,
    }
    Ok(if has_failed { Exit::Failed } else { Exit::Done })
}

/// The names of snapshots that jobs of this host may need; none: its service does not answer.
fn needed(state: &StateArgs) -> Option<Vec<String>> {
    let client = client::Client::new(state).ok()?;
    let mut names = Vec::new();
    for open in JobState::ALL.into_iter().filter(|state| !state.is_final()) {
        let path = format!("/v1/jobs?state={}", client::encode(open.name()));
        let list: JobList = client.get(&path).ok()?;
        names.extend(list.jobs.iter().map(|job| snapshot_name(&host_name(), &job.batch_id, &job.vm_id)));
    }
    Some(names)
}

fn judge(all: Vec<Ours>, needed: &Option<Vec<String>>, older_than: Option<f64>, now: f64) -> Vec<Judged> {
    let here = snapshot_name(&host_name(), "", "");
    let here = here.trim_end_matches('/').to_owned() + "/";
    let one = |ours: Ours| {
        let age = ours.created.parse::<Timestamp>().ok().map(|at| now - at.as_millisecond() as f64 / 1000.0);
        let is_older = |than: f64| age.is_some_and(|age| age > than);
        let is_of = |name: &String| ours.name == *name || ours.name.starts_with(&format!("{name}/"));
        let (orphan, why) = match (ours.name.starts_with(&here), needed) {
            (true, Some(needed)) if needed.iter().any(is_of) => (false, "a job of this host needs it"),
            (true, Some(_)) => match older_than.is_none_or(is_older) {
                true => (true, "no job of this host needs it"),
                false => (false, "it is younger than is asked for"),
            },
            (is_here, _) => match (is_older(older_than.unwrap_or(OTHERS_OLDER_THAN_S)), is_here) {
                (true, _) => (true, "it is older than a copy takes"),
                (false, true) => (false, "the service of this host does not answer, and it is young"),
                (false, false) => (false, "another host may still need it: it is young"),
            },
        };
        Judged { ours, orphan, why: why.to_owned() }
    };
    all.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_800_000_000.0;

    fn ours(host: &str, batch: &str, age_s: f64) -> Ours {
        Ours {
            vm: "web".to_owned(),
            vm_moref: "vm-1".to_owned(),
            name: snapshot_name(host, batch, "web"),
            moref: "snapshot-1".to_owned(),
            description: String::new(),
            created: Timestamp::from_second((NOW - age_s) as i64).unwrap().to_string(),
        }
    }

    #[test]
    fn only_what_nobody_can_need_any_more_is_an_orphan() {
        let host = host_name();
        let needed = Some(vec![snapshot_name(&host, "b", "web")]);
        let orphan = |ours: Ours, needed: &Option<Vec<String>>, older_than| {
            judge(vec![ours], needed, older_than, NOW).remove(0).orphan
        };
        assert!(!orphan(ours(&host, "b", 1e6), &needed, None));
        assert!(!orphan(ours(&host, "b", 1e6), &needed, Some(1.0)));
        let mut pass = ours(&host, "b", 1e6);
        pass.name.push_str("/2");
        assert!(!orphan(pass, &needed, None), "of a later pass of the same job");
        assert!(orphan(ours(&host, "c", 10.0), &needed, None));
        assert!(!orphan(ours(&host, "c", 10.0), &needed, Some(60.0)));
        assert!(!orphan(ours(&host, "c", 10.0), &None, None));
        assert!(orphan(ours(&host, "c", 100.0), &None, Some(60.0)));
        assert!(!orphan(ours("elsewhere", "b", 3600.0), &needed, None));
        assert!(orphan(ours("elsewhere", "b", 50_000.0), &needed, None));
        assert!(orphan(ours("elsewhere", "b", 100.0), &needed, Some(60.0)));
    }
}
