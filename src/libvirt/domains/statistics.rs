//! What a machine has used: its processors, memory, disks and network cards.

use serde::Serialize;
use virt::sys;

use super::{State, absent, known};
use crate::libvirt::failure::told;
use crate::libvirt::foreign::statistics::{Record, of_one};
use crate::libvirt::link::Link;
use crate::model::error::Result;

/// All that is counted here.
const GROUPS: u32 = sys::VIR_DOMAIN_STATS_STATE
    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
    | sys::VIR_DOMAIN_STATS_BALLOON
    | sys::VIR_DOMAIN_STATS_VCPU
    | sys::VIR_DOMAIN_STATS_INTERFACE
    | sys::VIR_DOMAIN_STATS_BLOCK;

/// The counters of a machine. What libvirt does not tell (most of it, of a machine that is off) is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// Its virtual processors.
    pub vcpus: Option<u64>,
    /// For how long processors of the host worked for it.
    pub cpu_time_ns: Option<u64>,
    /// Its memory.
    pub memory: Memory,
    /// Its disks.
    pub disks: Vec<DiskCounters>,
    /// Its network cards.
    pub nics: Vec<NicCounters>,
}

/// Memory, in KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What it has now.
    pub current_kib: Option<u64>,
    /// What it may have.
    pub maximum_kib: Option<u64>,
    /// What it takes of the host.
    pub rss_kib: Option<u64>,
    /// What the guest does not use.
    pub unused_kib: Option<u64>,
}

/// What went through a disk since the machine was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskCounters {
    /// What it is called in there: `vda`.
    pub target: String,
    /// Its file or device.
    pub path: Option<String>,
    /// Requests to read.
    pub read_requests: Option<u64>,
    /// Bytes that were read.
    pub read_bytes: Option<u64>,
    /// Requests to write.
    pub written_requests: Option<u64>,
    /// Bytes that were written.
    pub written_bytes: Option<u64>,
    /// What the guest sees.
    pub capacity_bytes: Option<u64>,
    /// What its file takes of the host.
    pub allocated_bytes: Option<u64>,
}

/// What went through a network card since the machine was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicCounters {
    /// The host's end: `vnet0`.
    pub interface: String,
    /// Bytes that came in.
    pub received_bytes: Option<u64>,
    /// Packets that came in.
    pub received_packets: Option<u64>,
    /// Packets that should have come in: errors, and those that were dropped.
    pub received_lost: Option<u64>,
    /// Bytes that went out.
    pub sent_bytes: Option<u64>,
    /// Packets that went out.
    pub sent_packets: Option<u64>,
    /// Packets that should have gone out.
    pub sent_lost: Option<u64>,
}

/// What a machine has used.
pub fn statistics(link: &Link, name: &str) -> Result<Statistics> {
    let counted = of_one(&known(link, name)?, GROUPS);
    let record = counted.map_err(|error| told(&format!("cannot read the counters of {name}"), &error))?;
    record.map(|record| understood(&record)).ok_or_else(|| absent(name))
}

fn understood(record: &Record) -> Statistics {
    let state = record.number("state.state").and_then(|number| u32::try_from(number).ok());
    Statistics {
        name: record.name.clone(),
        state: State::from_number(state.unwrap_or(sys::VIR_DOMAIN_NOSTATE)),
        vcpus: record.number("vcpu.current"),
        cpu_time_ns: record.number("cpu.time"),
        memory: Memory {
            current_kib: record.number("balloon.current"),
            maximum_kib: record.number("balloon.maximum"),
            rss_kib: record.number("balloon.rss"),
            unused_kib: record.number("balloon.unused"),
        },
        disks: each(record, "block", disk),
        nics: each(record, "net", nic),
    }
}

/// Whatever is counted more than once, in its order.
fn each<T>(record: &Record, what: &str, read: impl Fn(&Record, &str) -> Option<T>) -> Vec<T> {
    let count = record.number(&format!("{what}.count")).unwrap_or(0);
    (0..count).filter_map(|index| read(record, &format!("{what}.{index}"))).collect()
}

fn disk(record: &Record, at: &str) -> Option<DiskCounters> {
    let number = |key: &str| record.number(&format!("{at}.{key}"));
    Some(DiskCounters {
        target: record.text(&format!("{at}.name"))?.to_owned(),
        path: record.text(&format!("{at}.path")).map(str::to_owned),
        read_requests: number("rd.reqs"),
        read_bytes: number("rd.bytes"),
        written_requests: number("wr.reqs"),
        written_bytes: number("wr.bytes"),
        capacity_bytes: number("capacity"),
        allocated_bytes: number("allocation"),
    })
}

fn nic(record: &Record, at: &str) -> Option<NicCounters> {
    let number = |key: &str| record.number(&format!("{at}.{key}"));
    let lost = |way: &str| match (number(&format!("{way}.errs")), number(&format!("{way}.drop"))) {
        (None, None) => None,
        (errors, dropped) => Some(errors.unwrap_or(0).saturating_add(dropped.unwrap_or(0))),
    };
    Some(NicCounters {
        interface: record.text(&format!("{at}.name"))?.to_owned(),
        received_bytes: number("rx.bytes"),
        received_packets: number("rx.pkts"),
        received_lost: lost("rx"),
        sent_bytes: number("tx.bytes"),
        sent_packets: number("tx.pkts"),
        sent_lost: lost("tx"),
    })
}
