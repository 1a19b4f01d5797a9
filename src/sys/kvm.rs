//! Whether guests really run under KVM here.
//!
//! `/dev/kvm` that opens proves little: on nested or half-configured hosts a VM can be created and then
//! aborts or hangs. So the probe starts a tiny guest with QEMU, lets it switch to long mode with paging,
//! and believes only the guest's own answer, within a wall limit. It needs no firmware, kernel or disk:
//! the guest is a ROM with some hundred bytes of code.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::process::{ChildLimits, ChildSpec, Launcher, Output, ProcessError};
use crate::sys::sandbox::Rules;

/// A guest that runs answers in well under a second; one that hangs never does.
const KVM_WALL_S: f64 = 5.0;
/// Emulated guests share a processor with everything else.
const TCG_WALL_S: f64 = 60.0;
/// What the guest writes to QEMU's exit device.
const ANSWER: i32 = 0x2a;
/// What QEMU makes of it: twice that, plus one.
const EXIT_CODE: i32 = (ANSWER << 1) | 1;
/// Where the processor begins, counted from the start of a ROM that ends at 4 GiB.
const RESET_VECTOR: usize = 0xfff0;
const ROM_BYTES: usize = 0x1_0000;
/// `jmp 0xf000:0x0000`: to the ROM's copy below 1 MiB.
const JUMP_TO_START: [u8; 5] = [0xea, 0x00, 0x00, 0x00, 0xf0];

/// The guest, as assembled from:
///
/// ```text
/// .code16      cli; cld; xorw %ax,%ax; movw %ax,%es; movw %ax,%ss; movw $0x7000,%sp
///              movw $0x1000,%di; movw $0x1800,%cx; rep stosw          # empty page tables
///              movw $0x2003,%es:0x1000; movw $0x3003,%es:0x2000       # one 2 MiB page at 0
///              movw $0x0083,%es:0x3000; lgdtl %cs:gdtr
///              movl %cr4,%eax; orb $0x20,%al; movl %eax,%cr4          # PAE
///              movl $0x1000,%eax; movl %eax,%cr3
///              movl $0xc0000080,%ecx; rdmsr; orw $0x100,%ax; wrmsr    # long mode
///              movl %cr0,%eax; orl $0x80000001,%eax; movl %eax,%cr0   # paging
///              ljmpl $8,$(0xf0000 + long)
/// .code64 long: movl $0x2a,%eax; pushq %rax; popq %rax; outb %al,$0xf4; 1: hlt; jmp 1b
///         gdt: .quad 0, 0x00209a0000000000
///        gdtr: .word 15; .long 0xf0000 + gdt
/// ```
#[rustfmt::skip]
const GUEST: [u8; 134] = [
    0xfa, 0xfc, 0x31, 0xc0, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0xbf, 0x00, 0x10, 0xb9, 0x00,
    0x18, 0xf3, 0xab, 0x26, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0x26, 0xc7, 0x06, 0x00, 0x20, 0x03,
    0x30, 0x26, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x80, 0x00, 0x0f,
    0x20, 0xe0, 0x0c, 0x20, 0x0f, 0x22, 0xe0, 0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8,
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x01, 0x0f, 0x30, 0x0f, 0x20, 0xc0,
    0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0x66, 0xea, 0x61, 0x00, 0x0f, 0x00, 0x08,
    0x00, 0xb8, 0x2a, 0x00, 0x00, 0x00, 0x50, 0x58, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd, 0x0f, 0x1f, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00,
    0x0f, 0x00, 0x70, 0x00, 0x0f, 0x00,
];

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmProbe {
    /// Whether `/dev/kvm` is there.
    pub present: bool,
    /// Whether a guest ran.
    pub works: bool,
    /// For people: what was seen.
    pub detail: String,
}

/// Finds out whether guests run under KVM; takes at most a few seconds.
#[must_use]
pub fn probe(launcher: &Launcher) -> KvmProbe {
    let device = Path::new("/dev/kvm");
    let told = |present, works, detail: &str| KvmProbe { present, works, detail: detail.to_owned() };
    if !device.exists() {
        let why =
            "there is no /dev/kvm: virtualisation is off in the firmware, or this is a VM without nesting";
        return told(false, false, why);
    }
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
        let why = format!("/dev/kvm cannot be opened: {error}; is the user in the group `kvm`?");
        return told(true, false, &why);
    }
    let Some(qemu) = find_qemu() else {
        return told(true, false, "qemu-system-x86_64 is not there, so it was not tried");
    };
    match run_guest(launcher, &qemu, "kvm", "host", KVM_WALL_S) {
        Ok(()) => told(true, true, "a guest ran"),
        Err(why) => told(true, false, &why),
    }
}

/// Runs the same guest under emulation, which works everywhere; says why it did not.
pub fn probe_emulation(launcher: &Launcher) -> Result<(), String> {
    let qemu = find_qemu().ok_or("qemu-system-x86_64 is not there")?;
    run_guest(launcher, &qemu, "tcg", "max", TCG_WALL_S)
}

/// `qemu-system-x86_64` on the path, or where some distributions hide it.
#[must_use]
pub fn find_qemu() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("qemu-system-x86_64"))
        .chain([PathBuf::from("/usr/bin/qemu-system-x86_64"), PathBuf::from("/usr/libexec/qemu-kvm")])
        .find(|candidate| candidate.is_file())
}

fn run_guest(
    launcher: &Launcher,
    qemu: &Path,
    accelerator: &str,
    processor: &str,
    wall_s: f64,
) -> Result<(), String> {
    let rom = Rom::write().map_err(|error| format!("it was not tried: {error}"))?;
    let line = format!(
        "-nodefaults -no-user-config -display none -m 16 -machine pc,accel={accelerator} -cpu {processor} \
         -device isa-debug-exit,iobase=0xf4,iosize=1 -bios"
    );
    let mut spec = ChildSpec::new(qemu, line.split_whitespace());
    spec.args.push(rom.0.display().to_string());
    spec.limits = ChildLimits { wall_s: Some(wall_s), file_size_bytes: Some(0), ..ChildLimits::default() };
    spec.sandbox = Some(Rules {
        read: vec![rom.0.clone()],
        write: [PathBuf::from("/dev/kvm")].into_iter().filter(|device| device.exists()).collect(),
        execute: qemu.parent().map(Path::to_owned).into_iter().collect(),
        ..Rules::default()
    });
    match launcher.run_short(&spec, &mut |_| ()) {
        Ok(output) if output.status.code() == Some(EXIT_CODE) => Ok(()),
        Ok(output) => Err(format!("a guest could not be run: {}", why(&output))),
        Err(ProcessError::TimedOut { .. }) => {
            Err(format!("a guest was started, but it did not run within {wall_s} s"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The first thing that QEMU complained about: what follows is mostly its consequence.
fn why(output: &Output) -> String {
    let complaint = output.complaint();
    let first = complaint.lines().find(|line| !line.contains("warning:")).unwrap_or_default();
    let first = first.rsplit_once("error: ").map_or(first, |(_, rest)| rest).trim();
    if first.is_empty() { output.ending() } else { first.to_owned() }
}

/// The guest's file, removed when dropped.
struct Rom(PathBuf);

impl Rom {
    fn write() -> std::io::Result<Rom> {
        let mut bytes = vec![0xf4; ROM_BYTES];
        bytes[..GUEST.len()].copy_from_slice(&GUEST);
        bytes[RESET_VECTOR..RESET_VECTOR + JUMP_TO_START.len()].copy_from_slice(&JUMP_TO_START);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let name = format!("hyper2kvm-probe-{:016x}.rom", u64::from_ne_bytes(random));
        let path = std::env::temp_dir().join(name);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let rom = Rom(path);
        file.write_all(&bytes)?;
        Ok(rom)
    }
}

impl Drop for Rom {
    fn drop(&mut self) {
        // Left behind it is 64 KiB in a directory that is emptied anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}
