//! `libvirt addresses`: under which addresses a machine can be reached.

use std::time::Duration;

use serde::Serialize;

use super::Asked;
use crate::cli::table::{Paint, Table, cell, number};
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::addresses::{Finder, Found, Method, Statistics};
use crate::libvirt::link::{Access, Link};
use crate::model::error::{Error, Kind, Result};
use crate::model::units::parse_duration_s;

/// A week: who waits for longer waits for nothing.
const LONGEST_WAIT_S: f64 = 7.0 * 86_400.0;

/// Tasks with addresses.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// Find a machine's addresses: by the agent inside it, by leases, the host's neighbours, and what was configured
    Addresses(Args),
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// The machine
    name: String,
    /// Wait until an address of use is there
    #[arg(long)]
    wait: bool,
    /// How long to wait for it
    #[arg(long, value_name = "TIME", default_value = "60s", requires = "wait")]
    timeout: String,
    /// How sure one may be of the address that is waited for: agent 1.0, lease 0.9, ARP 0.8, lease file 0.6, configured 0.5
    #[arg(long, value_name = "0..1", default_value_t = 0.8, requires = "wait")]
    confidence: f64,
    /// Only this way of finding out; may be repeated
    #[arg(long = "method", value_name = "METHOD", value_parser = parse_method)]
    methods: Vec<Method>,
    /// Addresses that nobody else can reach, too: of the guest's loopback, link-local ones, of bridges and tunnels inside
    #[arg(long)]
    all: bool,
}

/// `--json`
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    found: Found,
    statistics: Statistics,
}

pub(super) fn run(task: &Task, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let Task::Addresses(args) = task;
    let timeout = timeout_of(args)?;
    let work = |args: &Args| {
        let args = args.clone();
        let (uri, within) = (asked.uri.clone(), asked.within);
        move |link: &Link| find(link, &args, timeout, (&uri, within))
    };
    let longer = timeout.unwrap_or_default();
    let mut document = match asked.ask_longer(longer, Access::Changes, work(args)) {
        // All but the agent tells those who may only look, too.
        Err(error) if error.kind() == Kind::Auth => asked.ask_longer(longer, Access::Reads, work(args))?,
        answered => answered?,
    };
    if !args.all {
        document.found.addresses.retain(|address| address.is_of_use());
    }
    if ui.json {
        ui.print_json(&document)?;
        return Ok(Exit::Done);
    }
    ui.print(&table_of(&document.found, ui.color))?;
    tell_how(&document.found, args, ui)
}

fn find(
    link: &Link,
    args: &Args,
    timeout: Option<Duration>,
    (uri, within): (&str, Duration),
) -> Result<Document> {
    let finder = Finder::new();
    // Who waits for long hears when something happens to the machine. Where that cannot be, answers grow old all the same.
    let _following = timeout.and_then(|_| finder.follow(uri, within).ok());
    let found = match timeout {
        Some(timeout) => finder.wait(link, &args.name, &args.methods, args.confidence, timeout)?,
        None => finder.find(link, &args.name, &args.methods)?,
    };
    Ok(Document { found, statistics: finder.statistics() })
}

fn timeout_of(args: &Args) -> Result<Option<Duration>> {
    if !(0.0..=1.0).contains(&args.confidence) {
        return Err(Error::new(Kind::Manifest, format!("{} is not a confidence", args.confidence))
            .advice("0.8 takes what the agent, a lease or the neighbour table tells")
            .allowed(["0 to 1"]));
    }
    let seconds = parse_duration_s(&args.timeout)?;
    if seconds > LONGEST_WAIT_S {
        return Err(Error::new(Kind::Manifest, format!("`{}` is too long to wait", args.timeout))
            .advice("wait for a week at most, as 7d"));
    }
    Ok(args.wait.then(|| Duration::from_secs_f64(seconds)))
}

fn parse_method(name: &str) -> Result<Method, String> {
    Method::parse(name).ok_or_else(|| {
        format!("there is no such method (allowed: {})", Method::ALL.map(Method::name).join(", "))
    })
}

fn table_of(found: &Found, color: bool) -> String {
    let mut table = Table::new(&["ADDRESS", "MAC", "INTERFACE", "CONFIDENCE", "FOUND BY", "SCOPE"]);
    for address in &found.addresses {
        let text = match address.prefix {
            Some(prefix) => format!("{}/{prefix}", address.address),
            None => address.address.to_string(),
        };
        let (interface, in_guest) = (address.interface.as_deref(), address.guest_interface.as_deref());
        let interface = match (interface, in_guest) {
            (Some(one), Some(other)) => format!("{one} ({other})"),
            (Some(one), None) | (None, Some(one)) => one.to_owned(),
            (None, None) => "-".to_owned(),
        };
        let methods: Vec<&str> = address.methods.iter().map(|method| method.name()).collect();
        table.row([
            cell(text),
            cell(address.mac.as_deref().unwrap_or("-")),
            cell(interface),
            cell(format!("{:.1}", address.confidence)),
            cell(methods.join(", ")),
            cell(address.scope.name()),
        ]);
    }
    table.render(color)
}

/// Beside the result: why there are not more, and with `-v` how it was found out.
fn tell_how(found: &Found, args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    if let Some(note) = &found.note {
        ui.note(note);
    }
    if ui.verbose > 0 {
        let mut table = Table::new(&["METHOD", "TOOK MS", "FOUND", "WHY NOT"]);
        for used in &found.methods {
            let why = cell(used.error.as_deref().unwrap_or("-")).paint(Paint::Faint);
            table.row([cell(used.name.name()), number(used.took_ms), number(used.found), why]);
        }
        ui.note(table.render(false).trim_end());
    } else if found.addresses.is_empty() && !args.all {
        ui.note(
            "no address that others can reach: `-v` tells what each method says, `--all` shows the others",
        );
    }
    Ok(Exit::Done)
}
