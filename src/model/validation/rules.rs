//! Every rule of the pre-flight: its name, how bad a breach is, and whether that may be lowered.
//!
//! A rule is guarded where a breach would cost data, or where the work cannot be done at all: to switch it off would only let it fail later. What
//! is not here: how it is found out (`pipeline::preflight`, and the rooms that read disks and guests).

use super::Severity::{self, Error, Info, Warning};

/// What is looked at, and by which name its breach is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// By which manifests, the configuration and reports know it: `disk.cut_off`.
    pub name: &'static str,
    /// How bad a breach is, where nobody says otherwise.
    pub severity: Severity,
    /// Whether a breach that fails the pre-flight has to.
    pub guarded: bool,
    /// What breaks it, for people.
    pub what: &'static str,
}

const fn rule(name: &'static str, severity: Severity, what: &'static str) -> Rule {
    Rule { name, severity, guarded: false, what }
}

const fn guard(name: &'static str, what: &'static str) -> Rule {
    Rule { name, severity: Error, guarded: true, what }
}

/// All of them, by what they look at.
pub const RULES: &[Rule] = &[
    guard("manifest.invalid", "a key, a value or a contradiction that is refused"),
    guard("manifest.hook", "a hook whose file is not there, or may not be run"),
    rule("manifest.note", Warning, "what planning it found that a person should know"),
    guard("host.qemu_img", "`qemu-img` is not there, or does not work"),
    guard("host.libguestfs", "a guest is to be opened, and libguestfs is not there"),
    guard("host.virt_v2v", "virt-v2v is to repair the guest, and is not installed"),
    guard("host.qemu_system", "the result is to be tried, and QEMU is not there"),
    guard("host.libvirt", "the result is to be tried through libvirt, which cannot do that here"),
    guard("host.uefi", "the machine starts with UEFI, and no such firmware is installed"),
    guard("host.secure_boot", "the machine has secure boot, and no firmware with enrolled keys is installed"),
    guard("host.tpm", "the machine has a TPM, and swtpm is not installed"),
    rule("host.kvm", Warning, "KVM does not work: guests are emulated, which is slow"),
    rule("host.memory", Warning, "the machine has more memory than this host"),
    rule("host.cpus", Warning, "the machine has more processors than this host"),
    guard("target.exists", "a result is there already, or would replace what is in use"),
    guard("target.directory", "the directory of the results cannot be used"),
    guard("target.space", "the results do not fit, with what has to stay free"),
    guard("target.file_size", "a result may be larger than a file on that file system can be"),
    guard("target.format", "a disk is larger than the format of its result can hold"),
    guard("source.login", "the login of a server is refused"),
    guard("source.running", "the VM is not off, or writes to a disk that no snapshot holds"),
    guard("source.snapshots", "the VM has snapshots, or is a linked clone"),
    guard("source.consolidation", "files of snapshots are left that no snapshot has any more"),
    guard("source.encrypted", "vSphere encrypts the VM"),
    guard("source.snapshot", "too little room is free for a snapshot, or it stands for too long"),
    guard("source.shutdown", "the VM does not shut down, or has nobody in it who could be asked to"),
    guard("source.window", "the window in which the VM may be shut down has closed"),
    guard("source.no_disks", "the VM has no disks"),
    guard("source.transport", "the disks of a VM do not come by the way that is left for them"),
    guard("source.changed", "the VM has other disks than its plan was made for"),
    rule("source.not_asked", Info, "the VM is asked for when the job runs, and not before"),
    guard("disk.missing", "a disk, or one of its files, is not there"),
    guard("disk.unreadable", "a disk cannot be read"),
    guard("disk.outside", "a file of a disk lies where it may not be read"),
    guard("disk.format", "a disk is not what the manifest says it is"),
    guard("disk.unsupported", "a kind of image that cannot be read"),
    guard("disk.device", "a disk stands for a device, raw or mapped: its data is not in files"),
    guard("disk.corrupt", "an image is damaged"),
    guard("disk.cut_off", "the end of an image is missing"),
    guard("disk.open_elsewhere", "a program has a disk open, or a lock says so"),
    guard("disk.changed", "a disk was changed while it was looked at"),
    guard("disk.chain", "the chain of snapshots below a disk is broken"),
    guard("disk.snapshots", "a disk has snapshots below it, and the manifest does not allow that"),
    guard("disk.shrinks", "a disk is to become smaller"),
    rule("disk.chain_used", Info, "a disk is read as the last state of a chain of snapshots"),
    rule("disk.note", Warning, "what an image says that a person should know"),
    rule("disk.size", Warning, "a disk has another size than the manifest says"),
    rule("disk.odd_size", Warning, "the size of a disk is no multiple of its sectors"),
    rule("disk.no_checksum", Info, "nothing tells whether a disk arrived whole"),
    rule("disk.independent", Warning, "VMware leaves a disk out of snapshots: it may be of another moment"),
    rule("disk.shared", Warning, "other machines may write a disk, too"),
    rule("guest.no_system", Error, "no operating system is on the disks"),
    rule("guest.encrypted", Error, "a volume is encrypted (LUKS), and no key opens it"),
    rule("guest.bitlocker", Error, "a volume is encrypted with BitLocker"),
    rule("guest.hibernated", Error, "the guest sleeps on its disk, or was shut down by fast startup"),
    rule("guest.unclean", Error, "the guest was not shut down cleanly"),
    rule("guest.file_system", Error, "a file system of the guest has errors, or cannot be opened"),
    rule("guest.space", Error, "the guest has no room for its repairs"),
    rule("guest.architecture", Error, "the guest is for another kind of processor"),
    rule("guest.unsupported", Error, "this version cannot repair such a guest"),
    rule("guest.firmware", Warning, "the guest is set up for another firmware than the machine has"),
    rule("guest.virtio", Warning, "the guest has no drivers for the machine's disks, and is not repaired"),
    rule("guest.hostname", Info, "the guest has no name of its own"),
    rule("guest.not_opened", Info, "nobody looked into the guest"),
    guard("network.mac", "a hardware address that no card has, or two have"),
    rule("network.no_mac", Info, "a card gets a new hardware address"),
    rule("network.mapping", Info, "a card's network is not mapped: it comes into libvirt's `default`"),
    rule("network.bridge", Warning, "a card's bridge is not on this host"),
    rule(
        "domain.name",
        Warning,
        "libvirt does not take the machine's name as it is, or has no room in it for the guest agent's socket",
    ),
    rule("domain.schema", Warning, "libvirt's schema has something against `domain.xml`"),
    rule("domain.reach", Warning, "libvirt's QEMU cannot get to the results where they lie"),
    guard("libvirt.answers", "libvirt is to be told of the result, and does not answer"),
    guard("libvirt.name", "libvirt has a machine of that name, which may not be replaced"),
    guard(
        "libvirt.collision",
        "another machine of libvirt's has the same UUID, or the same hardware address",
    ),
    guard(
        "libvirt.pool",
        "a storage pool that a disk is to go into is not there, or nothing can be made in it",
    ),
    guard("libvirt.volume", "the pool has a volume of that name already"),
    guard("libvirt.network", "what a card is to be plugged into is not there"),
];

impl Rule {
    /// The rule of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Rule> {
        RULES.iter().find(|rule| rule.name == name)
    }
}
