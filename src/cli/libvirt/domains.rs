//! `libvirt list` and what is done with one machine.

use serde::Serialize;

use super::Asked;
use crate::cli::table::{Table, cell};
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::domains::{self, Listed};
use crate::libvirt::link::Access;

/// Tasks with machines.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// List the machines, running or not
    List,
}

/// `--json`
#[derive(Serialize)]
struct Document {
    domains: Vec<Listed>,
}

pub(super) fn run(task: &Task, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        Task::List => list(asked, ui),
    }
}

fn list(asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let domains = asked.ask(Access::Reads, domains::list)?;
    if ui.json {
        ui.print_json(&Document { domains })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["NAME", "STATE"]);
    for domain in &domains {
        table.row([cell(&domain.name), cell(domain.state.name())]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}
