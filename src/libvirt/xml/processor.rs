//! The processor and what belongs to it: features of the platform, the clock and its timers.
//!
//! What is not here: how many processors a machine has, and firmware.

use crate::model::element::Element;
use crate::model::libosinfo;
use crate::model::machine::{CpuModel, Firmware, Machine, RtcBase, Virtualization};

/// What Hyper-V tells its guests: a Windows that hears it runs with fewer exits, and its clock does not drift.
/// Later ones need earlier ones.
const HYPERV: [&str; 10] = [
    "relaxed",
    "vapic",
    "spinlocks",
    "vpindex",
    "runtime",
    "synic",
    "stimer",
    "reset",
    "frequencies",
    "tlbflush",
];
/// How often a guest tries a lock before it gives its time away; Hyper-V's own figure.
const SPINLOCK_RETRIES: u32 = 8191;

pub(super) fn features(machine: &Machine) -> Element {
    // Without it a guest could write the variables that say which signatures count.
    let smm = machine.starts_with() == Firmware::Uefi && machine.secure_boot;
    Element::new("features")
        .child(Element::new("acpi"))
        .child(Element::new("apic"))
        .children(has_hyperv(machine).then(hyperv))
        .children(smm.then(|| Element::new("smm").with("state", "on")))
}

pub(super) fn cpu(machine: &Machine) -> Element {
    let cpu = match (&machine.cpu, machine.virtualization) {
        (CpuModel::HostModel, Virtualization::Kvm) => {
            Element::new("cpu").with("mode", "host-model").with("check", "partial")
        }
        // What QEMU emulates has little to do with the host's: all that it can do.
        (CpuModel::HostModel, Virtualization::Emulated) => {
            Element::new("cpu").with("mode", "maximum").with("check", "none")
        }
        (CpuModel::Named(name), _) => Element::new("cpu")
            .with("mode", "custom")
            .with("match", "exact")
            .child(Element::text("model", name).with("fallback", "allow")),
    };
    // Editions for desktops use no more than two sockets, however many there are.
    let topology = machine
        .is_windows()
        .then(|| Element::new("topology").with("sockets", 1).with("cores", machine.vcpus).with("threads", 1));
    cpu.children(topology)
}

pub(super) fn clock(machine: &Machine) -> Element {
    let offset = match machine.rtc {
        RtcBase::Utc => "utc",
        RtcBase::Localtime => "localtime",
    };
    let timer = |name, key, value| Element::new("timer").with("name", name).with(key, value);
    Element::new("clock")
        .with("offset", offset)
        .child(timer("rtc", "tickpolicy", "catchup"))
        .child(timer("pit", "tickpolicy", "delay"))
        .child(timer("hpet", "present", "no"))
        .children(has_hyperv(machine).then(|| timer("hypervclock", "present", "yes")))
}

/// KVM alone can speak like Hyper-V, and a Windows before Vista does not listen.
fn has_hyperv(machine: &Machine) -> bool {
    let is_old = machine.os_id.as_deref().is_some_and(libosinfo::is_before_vista);
    machine.is_windows() && !is_old && machine.virtualization == Virtualization::Kvm
}

fn hyperv() -> Element {
    let features = HYPERV.into_iter().map(|name| {
        let feature = Element::new(name).with("state", "on");
        if name == "spinlocks" { feature.with("retries", SPINLOCK_RETRIES) } else { feature }
    });
    Element::new("hyperv").with("mode", "custom").children(features)
}
