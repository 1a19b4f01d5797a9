//! `vsphere check`: which privileges the account lacks.

use serde::Serialize;

use super::{FilterArgs, WhichArgs};
use crate::cli::table::{Paint, Table, cell};
use crate::cli::{Exit, Failure, Ui};
use crate::vsphere::Client;
use crate::vsphere::client::About;
use crate::vsphere::privileges::{self, Checked, Further};

/// Arguments of `vsphere check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The machine [default: the whole inventory]
    #[arg(value_name = "VM")]
    vm: Option<String>,
    /// Also what shutting it down needs (`power: shutdown`)
    #[arg(long)]
    shutdown: bool,
    /// Also what changing it afterwards needs (`after`)
    #[arg(long)]
    after: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

/// `check --json`
#[derive(Serialize)]
struct Document<'c> {
    server: &'c About,
    ok: bool,
    checks: Vec<Checked>,
}

pub(super) fn run(args: &CheckArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let which = args.vm.clone().map(|vm| WhichArgs { vm, filters: args.filters.clone() });
    let vm = which.map(|which| which.find(client)).transpose()?.map(|vm| vm.reference());
    let further = Further { power: args.shutdown, after: args.after };
    let checks = privileges::check(client, vm.as_ref(), further)?;
    let ok = checks.iter().all(|check| check.granted);
    if ui.json {
        ui.print_json(&Document { server: client.about(), ok, checks })?;
    } else {
        let mut table = Table::new(&["PRIVILEGE", "TO", "ON", ""]);
        for check in &checks {
            let (word, paint) = if check.granted { ("there", Paint::Good) } else { ("missing", Paint::Bad) };
            table.row([
                cell(&check.privilege),
                cell(check.purpose.name()),
                cell(&check.on),
                cell(word).paint(paint),
            ]);
        }
        ui.print(&format!(
            "{}\n{}",
            crate::cli::table::printable(&client.about().full_name),
            table.render(ui.color)
        ))?;
    }
    Ok(if ok { Exit::Done } else { Exit::Failed })
}
