//! `rollback`: the way back of a migration. What was made of the source is stopped, and the source is as it was before.
//!
//! The service does it, and goes on with it whatever becomes of this command. What is not here: what there is to undo.

use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use super::client::{Client, job_path};
use super::table::printable;
use super::ui::complain;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::{RollbackRequest, RolledBack};
use crate::model::error::{Error, Kind};

/// How often it is asked whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// Number, BATCH/VM, or unique VM name
    #[arg(value_name = "JOB")]
    job: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask first
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Has it done, and waits until it is.
pub(super) fn run(args: &RollbackArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    let path = job_path(&args.job, "rollback");
    let ask = |dry_run: bool| client.post::<RolledBack>(&path, &RollbackRequest { dry_run });
    let planned = ask(true)?;
    if args.dry_run {
        return print(ui, &planned);
    }
    if !args.yes && !planned.done {
        confirm(ui, &planned)?;
    }
    let mut stands = ask(false)?;
    while !stands.done && stands.error.is_none() {
        client.sleep(LOOK_EVERY)?;
        stands = RolledBack { dry_run: false, ..ask(true)? };
    }
    if let (false, Some(why)) = (stands.done, &stands.error) {
        return Err(Error::new(Kind::Source, format!("the source is not given back yet: {why}"))
            .advice("the service tries it again; `hyper2kvm rollback` says how far it is")
            .into());
    }
    // What was to be done when it was asked for is what was done.
    print(ui, &RolledBack { steps: planned.steps, ..stands })
}

fn confirm(ui: &Ui, planned: &RolledBack) -> Result<(), Failure> {
    let refused = |cause: &str| {
        let advice = "say `--yes` if it is to be done, `--dry-run` to see what";
        Failure::new(Exit::Usage, Error::new(Kind::Cancelled, cause.to_owned()).advice(advice))
    };
    if ui.json || !std::io::stdin().is_terminal() {
        return Err(refused("nobody is there to say whether it is meant"));
    }
    for step in &planned.steps {
        complain(&format!("  {}", printable(step)));
    }
    let of = format!("{}/{}", printable(&planned.job.batch_id), printable(&planned.job.vm_id));
    complain(&format!("give the source of {of} back? [y/N]"));
    let mut answer = String::new();
    match std::io::stdin().lock().read_line(&mut answer) {
        Ok(_) if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) => Ok(()),
        _ => Err(refused("it was not confirmed, and nothing was done")),
    }
}

fn print(ui: &Ui, stands: &RolledBack) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(stands)?;
    } else if !ui.quiet {
        let of = format!("{}/{}", printable(&stands.job.batch_id), printable(&stands.job.vm_id));
        let head = match (stands.done, stands.dry_run) {
            (true, true) => format!("nothing is left to undo at the source of {of}"),
            (true, false) => format!("the source of {of} is given back"),
            (false, _) => format!("would be done to give the source of {of} back"),
        };
        let steps: String = stands.steps.iter().map(|step| format!("  {}\n", printable(step))).collect();
        ui.print(&format!("{head}\n{steps}"))?;
    }
    Ok(Exit::Done)
}
