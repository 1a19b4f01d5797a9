//! `make bench`: measures the service against its goals, on the release build, on this machine, now.
//!
//! Every figure is printed with its goal; what is compared with another program is measured in the
//! same run, alternating, and printed as a ratio, because a ratio carries over to another machine
//! and a time does not. A goal that is missed is said and makes the run fail.
//!
//! `cargo bench --bench service -- disks idle` measures only what is named.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a bench binary has no outside and may end at a surprise"
)]

mod batches;
mod disks;
mod figures;
mod flood;
mod guest;
mod history;
mod idle;
mod latency;
#[cfg(feature = "libvirt")]
mod libvirt;
mod profiles;
mod published;
#[path = "../support/mod.rs"]
mod support;
mod vsphere;

use std::process::ExitCode;

use figures::Figures;

/// Measures one thing.
type Measure = fn(&mut Figures);

/// What can be measured, in the order in which it is.
const ALL: &[(&str, Measure)] = &[
    ("idle", idle::measure),
    ("latency", latency::measure),
    ("profiles", profiles::measure),
    ("flood", flood::measure),
    ("history", history::measure),
    ("batches", batches::measure),
    ("disks", disks::measure),
    #[cfg(feature = "libvirt")]
    ("libvirt", libvirt::measure),
    ("vsphere", vsphere::measure),
    ("guest", guest::measure),
];

fn main() -> ExitCode {
    // cargo adds `--bench`; everything else picks.
    let picked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut figures = Figures::default();
    for (name, measure) in ALL {
        if picked.is_empty() || picked.iter().any(|word| word == name) {
            eprintln!("measuring: {name}");
            measure(&mut figures);
        }
    }
    figures.print();
    if figures.all_reached() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
