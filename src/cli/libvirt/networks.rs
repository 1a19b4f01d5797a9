//! `libvirt networks` and `libvirt network …`.

use std::net::IpAddr;

use serde::Serialize;

use super::Asked;
use crate::cli::table::{Paint, Table, cell};
use crate::cli::{Exit, Failure, Ui};
use crate::libvirt::link::Access;
use crate::libvirt::networks::{
    self, Ended, NatNetwork, Network, Released, Reservation, Settled, Subnet, Then, parse_range,
};
use crate::model::error::Result;
use crate::model::manifest::values::{InterfaceName, Mac};
use crate::model::parse::Refusal;

/// Tasks with networks.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// List the networks, active or not
    Networks,
    /// Work on one network
    Network {
        #[command(subcommand)]
        task: One,
    },
}

/// Tasks with one network.
#[derive(Debug, clap::Subcommand)]
pub(super) enum One {
    /// Define a network of libvirt's own, whose machines get out as the host
    DefineNat {
        /// Its name
        name: String,
        /// Its addresses, as 192.168.150.0/24; the host has the first
        #[arg(long, value_name = "SUBNET")]
        subnet: String,
        /// Which of them are handed out, as 192.168.150.10-192.168.150.99 [default: all but the host's]
        #[arg(long, value_name = "FIRST-LAST")]
        range: Option<String>,
        /// What its bridge is called [default: as libvirt likes]
        #[arg(long, value_name = "BRIDGE")]
        bridge: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Define a network that is a bridge of the host
    DefineBridge {
        /// Its name
        name: String,
        /// The bridge
        #[arg(long, value_name = "BRIDGE")]
        bridge: String,
        #[command(flatten)]
        how: How,
    },
    /// Start a network
    Start {
        /// Its name
        name: String,
    },
    /// Stop a network that no running machine uses
    Stop {
        /// Its name
        name: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop a network that no running machine uses, and remove its definition
    Undefine {
        /// Its name
        name: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Keep an address for a network card
    Reserve {
        /// The network
        name: String,
        /// The card's MAC address
        #[arg(long, value_name = "MAC")]
        mac: String,
        /// The address
        #[arg(long, value_name = "ADDRESS")]
        address: IpAddr,
        /// The name that goes with it
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// Give up the address that is kept for a network card
    Release {
        /// The network
        name: String,
        /// The card's MAC address
        #[arg(long, value_name = "MAC")]
        mac: String,
    },
}

/// What is done with a network that was defined.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct How {
    /// Start it, too
    #[arg(long)]
    start: bool,
    /// Have it started with libvirt from now on
    #[arg(long)]
    autostart: bool,
    /// Only show the definition
    #[arg(long)]
    dry_run: bool,
}

/// `--json` of a list.
#[derive(Serialize)]
struct Networks {
    networks: Vec<Network>,
}

/// `--json` of what changed one.
#[derive(Serialize)]
struct Done<T> {
    network: String,
    #[serde(flatten)]
    done: T,
}

#[derive(Serialize)]
struct Definition {
    definition: String,
}

#[derive(Serialize)]
struct Started {
    started: bool,
}

#[derive(Serialize)]
struct EndedView {
    #[serde(flatten)]
    ended: Ended,
    dry_run: bool,
}

#[derive(Serialize)]
struct Kept {
    reservation: Settled,
    mac: String,
    address: IpAddr,
}

#[derive(Serialize)]
struct GivenUp {
    reservation: Released,
    mac: String,
}

pub(super) fn run(task: &Task, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        Task::Networks => list(asked, ui),
        Task::Network { task } => one(task, asked, ui),
    }
}

fn list(asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    let networks = asked.ask(Access::Reads, networks::list)?;
    if ui.json {
        ui.print_json(&Networks { networks })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["NAME", "STATE", "AUTOSTART", "FORWARD", "BRIDGE", "ADDRESSES"]);
    for network in &networks {
        let (state, paint) =
            if network.active { ("active", Paint::Good) } else { ("inactive", Paint::Faint) };
        let segments = network.segments.iter();
        let addresses: Vec<String> = segments.map(|s| format!("{}/{}", s.address, s.prefix)).collect();
        table.row([
            cell(&network.name),
            cell(state).paint(paint),
            cell(if network.autostart { "yes" } else { "no" }),
            cell(network.forward.name()),
            cell(network.bridge.as_deref().unwrap_or("-")),
            cell(if addresses.is_empty() { "-".to_owned() } else { addresses.join(", ") }),
        ]);
    }
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

fn one(task: &One, asked: &Asked, ui: &Ui) -> Result<Exit, Failure> {
    match task {
        One::DefineNat { name, subnet, range, bridge, how } => {
            let network = NatNetwork {
                name: name.clone(),
                subnet: Subnet::parse(subnet)?,
                range: range.as_deref().map(parse_range).transpose()?,
                bridge: bridge.as_deref().map(InterfaceName::new).transpose().map_err(Refusal::into_error)?,
            };
            define(asked, ui, name, *how, networks::nat_xml(&network)?, move |link, then| {
                networks::define_nat(link, &network, then)
            })
        }
        One::DefineBridge { name, bridge, how } => {
            let (bridge, of) = (InterfaceName::new(bridge).map_err(Refusal::into_error)?, name.clone());
            define(asked, ui, name, *how, networks::bridge_xml(name, &bridge)?, move |link, then| {
                networks::define_bridge(link, &of, &bridge, then)
            })
        }
        One::Start { name } => {
            let of = name.clone();
            let started = asked.ask(Access::Changes, move |link| networks::start(link, &of))?;
            let words = if started { "it is active now" } else { "it was active" };
            tell(ui, name, Started { started }, words)
        }
        One::Stop { name, dry_run } => end(asked, ui, name, *dry_run, networks::stop),
        One::Undefine { name, dry_run } => end(asked, ui, name, *dry_run, networks::undefine),
        One::Reserve { name, mac, address, host } => {
            let mac = Mac::new(mac).map_err(Refusal::into_error)?;
            let reservation = Reservation { mac: mac.clone(), address: *address, host: host.clone() };
            let of = name.clone();
            let settled =
                asked.ask(Access::Changes, move |link| networks::reserve(link, &of, &reservation))?;
            let words = match settled {
                Settled::Added => format!("{address} is kept for {mac} now"),
                Settled::Moved { from: Some(from) } if from != *address => {
                    format!("{address} is kept for {mac} now, in place of {from}")
                }
                Settled::Moved { .. } => format!("{address} is kept for {mac} under its new name now"),
                Settled::Unchanged => format!("{address} was kept for {mac}"),
            };
            tell(ui, name, Kept { reservation: settled, mac: mac.to_string(), address: *address }, &words)
        }
        One::Release { name, mac } => {
            let mac = Mac::new(mac).map_err(Refusal::into_error)?;
            let (of, whose) = (name.clone(), mac.clone());
            let released = asked.ask(Access::Changes, move |link| networks::release(link, &of, &whose))?;
            let words = match released {
                Released::Released { address: Some(address) } => {
                    format!("{address} is not kept for {mac} any more")
                }
                Released::Released { address: None } => format!("nothing is kept for {mac} any more"),
                Released::Unchanged => format!("nothing was kept for {mac}"),
            };
            tell(ui, name, GivenUp { reservation: released, mac: mac.to_string() }, &words)
        }
    }
}

fn define(
    asked: &Asked,
    ui: &Ui,
    name: &str,
    how: How,
    definition: String,
    work: impl FnOnce(&crate::libvirt::link::Link, Then) -> Result<Network> + Send + 'static,
) -> Result<Exit, Failure> {
    if how.dry_run {
        let words = definition.clone();
        return tell_text(ui, name, Definition { definition }, &words);
    }
    let then = Then { start: how.start, autostart: how.autostart };
    let network = asked.ask(Access::Changes, move |link| work(link, then))?;
    let words = if network.active { "it is defined and active now" } else { "it is defined now" };
    if ui.json {
        ui.print_json(&network)?;
        return Ok(Exit::Done);
    }
    say(ui, name, words)
}

fn end(
    asked: &Asked,
    ui: &Ui,
    name: &str,
    dry_run: bool,
    work: fn(&crate::libvirt::link::Link, &str, bool) -> Result<Ended>,
) -> Result<Exit, Failure> {
    let of = name.to_owned();
    let access = if dry_run { Access::Reads } else { Access::Changes };
    let ended = asked.ask(access, move |link| work(link, &of, dry_run))?;
    let done = match (ended.stopped, ended.undefined) {
        (true, true) => "stopped and removed",
        (true, false) => "stopped",
        (false, true) => "removed",
        (false, false) => "left as it is: it was not active",
    };
    let mut words = if dry_run { format!("it would be {done}") } else { format!("it was {done}") };
    if !ended.named_by.is_empty() {
        words = format!("{words}; machines that are off and use it: {}", ended.named_by.join(", "));
    }
    tell(ui, name, EndedView { ended, dry_run }, &words)
}

/// One line for people, one document for scripts.
fn tell(ui: &Ui, name: &str, done: impl Serialize, words: &str) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(&Done { network: name.to_owned(), done })?;
        return Ok(Exit::Done);
    }
    say(ui, name, words)
}

fn say(ui: &Ui, name: &str, words: &str) -> Result<Exit, Failure> {
    let mut table = Table::new(&["NETWORK", "DONE"]);
    table.row([cell(name), cell(words)]);
    ui.print(&table.render(ui.color))?;
    Ok(Exit::Done)
}

/// A text as it is.
fn tell_text(ui: &Ui, name: &str, done: impl Serialize, text: &str) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(&Done { network: name.to_owned(), done })?;
    } else {
        ui.print(text)?;
    }
    Ok(Exit::Done)
}
