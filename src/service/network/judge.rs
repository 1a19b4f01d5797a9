//! Whether the network is up: the rule, as a pure function of a [`Table`], the settings and what was
//! there before.
//!
//! - With `required_interfaces`, every one of them that exists is up with carrier; if none exists the
//!   network is down.
//! - Without, at least one of the links that hold a default route, or held the last one, is up with
//!   carrier. Of a bridge or bond one of the ports is asked instead: a bridge has carrier as long as
//!   any guest's tap hangs on it, which says nothing about the cable.
//! - Where there never was a default route, at least one link that is neither loopback, bridge, bridge
//!   port nor tap. If there is no such link there is nothing to watch.
//!
//! Addresses do not decide: a lease that is renewed, or an address that moves, is no outage. They are
//! told as remarks, because they are what a person looks for next. What is not here: time (see
//! [`super::hold`]) and the kernel (see [`super::netlink`]).

use super::table::{Link, LinkKind, Table};

/// How deep bridges over bonds over VLANs are followed; a loop of controllers ends here.
const MAX_NESTING: usize = 8;

/// A link that holds a default route, or held the last one. Known by index and by name: a driver that
/// is loaded again gives its card a new index, an administrator may give it a new name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    index: u32,
    name: String,
}

/// What the links come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opinion {
    /// Connected.
    Up,
    /// Cut off.
    Down {
        /// By what.
        why: String,
    },
    /// Nothing to watch.
    Unwatched {
        /// Why not.
        why: String,
    },
}

/// An opinion and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judgement {
    /// The opinion.
    pub(super) opinion: Opinion,
    /// Names in `required_interfaces` that do not exist here.
    pub(super) missing_required: Vec<String>,
    /// The links that decided.
    pub(super) watched: Vec<String>,
    /// What a person would want to know besides.
    pub(super) remarks: Vec<String>,
}

/// The links that hold a default route now; `None` if there is no default route.
pub(super) fn holders(table: &Table) -> Option<Vec<Holder>> {
    let holders: Vec<Holder> = table
        .default_routes
        .iter()
        .filter_map(|index| table.links.get(index).map(|link| (index, link)))
        .filter(|(_, link)| link.kind != LinkKind::Loopback)
        .map(|(index, link)| Holder { index: *index, name: link.name.clone() })
        .collect();
    (!holders.is_empty()).then_some(holders)
}

/// The rule. `last_holders` are the links that hold, or last held, a default route; empty where there
/// never was one.
pub(super) fn judge(table: &Table, required: &[String], last_holders: &[Holder]) -> Judgement {
    if !required.is_empty() {
        return judge_required(table, required);
    }
    if !last_holders.is_empty() {
        return judge_holders(table, last_holders);
    }
    let candidates: Vec<(u32, &Link)> =
        table.links.iter().map(|(index, link)| (*index, link)).filter(|(_, l)| counts(table, l)).collect();
    if candidates.is_empty() {
        return Judgement {
            opinion: Opinion::Unwatched { why: "this machine has no network interface to watch".to_owned() },
            missing_required: Vec::new(),
            watched: Vec::new(),
            remarks: Vec::new(),
        };
    }
    any_up(table, &candidates, Vec::new())
}

/// Whether a link may stand for "the network" where no default route ever told which one it is.
fn counts(table: &Table, link: &Link) -> bool {
    match link.kind {
        LinkKind::Loopback | LinkKind::Bridge | LinkKind::Tap | LinkKind::Fallback => false,
        LinkKind::Bond | LinkKind::Plain => !table.is_bridge_port(link),
    }
}

fn judge_required(table: &Table, required: &[String]) -> Judgement {
    let mut missing_required = Vec::new();
    let mut watched = Vec::new();
    let mut troubles = Vec::new();
    for name in required {
        match table.named(name) {
            None => missing_required.push(name.clone()),
            Some((_, link)) => {
                watched.push(name.clone());
                if !link.is_up() {
                    troubles.push(link.trouble());
                }
            }
        }
    }
    let opinion = if watched.is_empty() {
        let names = required.join(", ");
        Opinion::Down { why: format!("none of network_monitor.required_interfaces exists here ({names})") }
    } else if troubles.is_empty() {
        Opinion::Up
    } else {
        Opinion::Down { why: troubles.join(", ") }
    };
    let mut remarks = Vec::new();
    if !missing_required.is_empty() {
        remarks.push(format!("required interfaces that do not exist here: {}", missing_required.join(", ")));
    }
    Judgement { opinion, missing_required, watched, remarks }
}

fn judge_holders(table: &Table, last_holders: &[Holder]) -> Judgement {
    let mut present = Vec::new();
    let mut gone = Vec::new();
    for holder in last_holders {
        let found = table.links.get_key_value(&holder.index).map(|(index, link)| (*index, link));
        match found.or_else(|| table.named(&holder.name)) {
            Some(link) => present.push(link),
            None => gone.push(format!("{} is gone", holder.name)),
        }
    }
    let mut judgement = any_up(table, &present, gone);
    if table.default_routes.is_empty() {
        let names: Vec<&str> = last_holders.iter().map(|holder| holder.name.as_str()).collect();
        judgement
            .remarks
            .push(format!("there is no default route now; the last went over {}", names.join(", ")));
    }
    judgement
}

/// Up if one of these is. `troubles` are reasons already known against others.
fn any_up(table: &Table, links: &[(u32, &Link)], mut troubles: Vec<String>) -> Judgement {
    let mut connected = false;
    let mut remarks = Vec::new();
    for (index, link) in links {
        match trouble_of(table, *index, link, 0) {
            None => {
                connected = true;
                if !table.addressed.contains(index) {
                    remarks.push(format!("{} is up but has no address", link.name));
                }
            }
            Some(trouble) => troubles.push(trouble),
        }
    }
    let opinion = if connected { Opinion::Up } else { Opinion::Down { why: troubles.join(", ") } };
    if connected {
        remarks.extend(troubles);
    }
    let watched = links.iter().map(|(_, link)| link.name.clone()).collect();
    Judgement { opinion, missing_required: Vec::new(), watched, remarks }
}

/// Why the link does not connect, or `None` if it does.
fn trouble_of(table: &Table, index: u32, link: &Link, depth: usize) -> Option<String> {
    if !matches!(link.kind, LinkKind::Bridge | LinkKind::Bond) || depth >= MAX_NESTING {
        return (!link.is_up()).then(|| link.trouble());
    }
    if !link.enabled {
        return Some(link.trouble());
    }
    // The taps of running guests always have carrier; they count only where there is nothing else,
    // as on a host whose router is one of its guests.
    let (taps, uplinks): (Vec<_>, Vec<_>) =
        table.ports(index).partition(|(_, port)| port.kind == LinkKind::Tap);
    let ports = if uplinks.is_empty() { taps } else { uplinks };
    if ports.is_empty() {
        return Some(format!("{} has no port", link.name));
    }
    let mut troubles = Vec::new();
    for (port_index, port) in ports {
        troubles.push(trouble_of(table, port_index, port, depth + 1)?);
    }
    Some(format!("{} has no connected port ({})", link.name, troubles.join(", ")))
}
