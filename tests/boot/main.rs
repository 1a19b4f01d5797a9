//! Boot tests for real: QEMU runs under emulation, with guests that are boot sectors of some hundred bytes, and a Debian.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod command;
mod sectors;

use std::path::Path;

use hyper2kvm::disk::Engine;
use hyper2kvm::model::machine::{Machine, MachineDisk, MachineNic, NicLink};
use hyper2kvm::model::manifest::Accelerator;
use hyper2kvm::model::plan::SourceFormat;
use hyper2kvm::pipeline::boot_test::BootTestOrder;
use hyper2kvm::sys::process::Launcher;

/// Emulated, on a machine that does other things too: under emulation a guest gets four times this.
const PATIENCE_S: f64 = 150.0;

/// An engine whose sandbox has to hold.
fn engine() -> Engine {
    let launcher = Launcher::with_stub(env!("CARGO_BIN_EXE_hyper2kvm"));
    let mut engine = Engine::find(launcher).expect("qemu-img is installed by set-up");
    engine.sandbox_required = true;
    engine
}

/// A test of one raw disk in a small emulated machine with two network cards.
fn order(disk: &Path, work_dir: &Path) -> BootTestOrder {
    let mut machine = Machine::new("web");
    machine
        .disks
        .push(MachineDisk { boot_order: Some(1), ..MachineDisk::new("boot", disk, SourceFormat::Raw) });
    for mac in ["00:50:56:00:00:01", "00:50:56:00:00:02"] {
        let link = NicLink::Network("default".to_owned());
        machine.nics.push(MachineNic { mac: Some(mac.to_owned()), ..MachineNic::new(link) });
    }
    let mut order = BootTestOrder::new(machine, work_dir);
    order.options.accel = Accelerator::Tcg;
    order.options.memory_mib = Some(128);
    order.options.vcpus = Some(1);
    order.options.timeout_s = PATIENCE_S;
    order
}
