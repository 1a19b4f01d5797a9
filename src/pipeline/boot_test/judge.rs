//! What the words on a console mean: a guest that is up, one that never will be, or one that waits for a passphrase.
//!
//! A table of what firmware, boot loaders, kernels and the programs of an initramfs really print, in the order in
//! which it is asked. Pure, so that it can be tried on the consoles of real guests. What is not here: when one
//! has waited long enough, and where the words come from.

use regex::Regex;

/// Evidence is quoted up to this length.
const QUOTE_CHARACTERS: usize = 200;

/// What a line says about its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is up.
    Booted(String),
    /// It will not come up by itself: what happened, and the line that says so.
    Failed { what: &'static str, line: String },
    /// It may still come up, but it is the same trouble from which others never did.
    Stuck { what: &'static str, line: String },
    /// It wants the passphrase of an encrypted disk.
    Passphrase(String),
}

/// Where a text stands.
#[derive(Debug, Clone, Copy)]
enum At {
    /// Anywhere in a line.
    Line(&'static str),
    /// Anywhere in a line that has ended: what says more follows on the same one.
    Whole(&'static str),
    /// At the start of a line.
    Start(&'static str),
    /// At the end of the line that is still being written.
    Prompt(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum Means {
    Failed,
    Stuck,
    Passphrase,
}

use At::{Line, Prompt, Start, Whole};
use Means::{Failed, Passphrase, Stuck};

const NO_DISK: &str = "no bootable device";
const UEFI_SHELL: &str = "the UEFI shell: the firmware found nothing to boot";
const PXE: &str = "a boot from the network: the firmware found nothing to boot on the disks";
const REFUSED: &str = "secure boot refused the boot loader";
const GRUB_RESCUE: &str = "the GRUB rescue prompt: GRUB does not find its own files";
const GRUB_PROMPT: &str = "the GRUB prompt: GRUB does not find its configuration";
const GRUB_FILES: &str = "GRUB does not find the kernel or its disk";
const NO_ROOT: &str = "the kernel cannot mount the root file system";
const NO_INIT: &str = "there is no init program on the root file system";
const PANIC: &str = "kernel panic";
const ROOT_MISSING: &str = "the initramfs does not find the root file system";
const INITRAMFS: &str = "the initramfs shell";
const DRACUT: &str = "the dracut emergency shell";
const DRACUT_TIMEOUT: &str = "dracut's time-out scripts: the root file system does not appear";
const EMERGENCY: &str = "emergency mode";
const DEVICE_MISSING: &str = "a device of fstab or of the kernel command line does not appear";
const PASSPHRASE: &str = "the passphrase prompt of an encrypted disk";

/// The first row that fits counts, so what says more stands first.
#[rustfmt::skip]
const TABLE: &[(At, Means, &str)] = &[
    // Firmware: SeaBIOS, then the boot sectors of others, then OVMF.
    (Start("No bootable device"), Failed, NO_DISK),
    (Line("No bootable medium found"), Failed, NO_DISK),
    (Start("Missing operating system"), Failed, NO_DISK),
    (Start("Operating system not found"), Failed, NO_DISK),
    (Start("Error loading operating system"), Failed, NO_DISK),
    (Line("Non-System disk"), Failed, NO_DISK),
    (Start("NTLDR is missing"), Failed, NO_DISK),
    (Start("BOOTMGR is missing"), Failed, NO_DISK),
    (Line("BdsDxe: No bootable option or device was found"), Failed, NO_DISK),
    (Line("\"EFI Internal Shell\""), Failed, UEFI_SHELL),
    (Start("UEFI Interactive Shell"), Failed, UEFI_SHELL),
    (Prompt("Shell>"), Failed, UEFI_SHELL),
    (Line("Security Violation"), Failed, REFUSED),
    (Line(": Access Denied"), Stuck, REFUSED),
    (Line("bad shim signature"), Failed, REFUSED),
    (Line(">>Start PXE over IP"), Failed, PXE),
    (Line(">>Start HTTP Boot"), Failed, PXE),
    (Start("PXE-E"), Failed, PXE),
    (Start("iPXE "), Failed, PXE),
    // Boot loaders.
    (Line("grub rescue>"), Failed, GRUB_RESCUE),
    (Start("Entering rescue mode..."), Failed, GRUB_RESCUE),
    (Prompt("grub>"), Failed, GRUB_PROMPT),
    (Line("Minimal BASH-like line editing is supported"), Failed, GRUB_PROMPT),
    (Line("error: you need to load the kernel first"), Failed, GRUB_FILES),
    (Start("error: no such device"), Stuck, GRUB_FILES),
    (Start("error: file `"), Stuck, GRUB_FILES),
    (Start("error: disk `"), Stuck, GRUB_FILES),
    // The kernel.
    (Line("VFS: Unable to mount root fs"), Failed, NO_ROOT),
    (Line("No filesystem could mount root"), Failed, NO_ROOT),
    (Line("VFS: Cannot open root device"), Stuck, NO_ROOT),
    (Line("No working init found"), Failed, NO_INIT),
    (Whole("Kernel panic - not syncing"), Failed, PANIC),
    (Line("end Kernel panic"), Failed, PANIC),
    // initramfs-tools.
    (Line("Gave up waiting for root file system device"), Failed, ROOT_MISSING),
    (Line("Gave up waiting for root device"), Failed, ROOT_MISSING),
    (Line("No root device specified. Boot arguments must include a root= parameter"), Failed, ROOT_MISSING),
    (Line("Target filesystem doesn't have requested"), Failed, NO_INIT),
    (Line("No init found. Try passing init= bootarg"), Failed, NO_INIT),
    (Line("(initramfs)"), Failed, INITRAMFS),
    (Line("Begin: Waiting for root file system"), Stuck, ROOT_MISSING),
    // dracut.
    (Line("Warning: Could not boot."), Failed, DRACUT),
    (Line("Entering emergency mode. Exit the shell to continue."), Failed, DRACUT),
    (Line("/run/initramfs/rdsosreport.txt"), Failed, DRACUT),
    (Line("dracut Emergency Shell"), Failed, DRACUT),
    (Prompt("dracut:/#"), Failed, DRACUT),
    (Line("FATAL: No or empty root= argument"), Failed, ROOT_MISSING),
    (Line("starting timeout scripts"), Stuck, DRACUT_TIMEOUT),
    (Line("dracut-initqueue: timeout, still waiting"), Stuck, DRACUT_TIMEOUT),
    (Line("dracut-initqueue timeout"), Stuck, DRACUT_TIMEOUT),
    // mkinitcpio (Arch), mkinitfs (Alpine).
    (Line("You are now being dropped into an emergency shell"), Failed, INITRAMFS),
    (Line("initramfs emergency recovery shell launched"), Failed, INITRAMFS),
    (Prompt("[rootfs ~]#"), Failed, INITRAMFS),
    (Line("ERROR: Unable to find root device"), Failed, ROOT_MISSING),
    // systemd, in the initramfs and after it.
    (Line("Failed to switch root"), Failed, NO_INIT),
    (Line("You are in emergency mode"), Failed, EMERGENCY),
    (Line("Welcome to emergency mode"), Failed, EMERGENCY),
    (Line("You are in rescue mode"), Failed, EMERGENCY),
    (Line("Give root password for maintenance"), Failed, EMERGENCY),
    (Line("Give root password for system maintenance"), Failed, EMERGENCY),
    (Line("Press Enter for maintenance"), Failed, EMERGENCY),
    (Line("Cannot open access to console, the root account is locked"), Failed, EMERGENCY),
    (Line("Reached target Emergency Mode"), Failed, EMERGENCY),
    (Line("Reached target emergency.target"), Failed, EMERGENCY),
    (Line("Timed out waiting for device"), Stuck, DEVICE_MISSING),
    (Line("A start job is running for /dev/"), Stuck, DEVICE_MISSING),
    (Line("A start job is running for dev-"), Stuck, DEVICE_MISSING),
    // initramfs-tools; systemd; cryptsetup itself and dracut without systemd; GRUB.
    // Asked wherever the boot was: `Begin: Running /scripts/local-top ... Please unlock disk sda5_crypt:`.
    (Line("Please unlock disk "), Passphrase, PASSPHRASE),
    (Line("Please enter passphrase for disk"), Passphrase, PASSPHRASE),
    (Line("Enter passphrase for "), Passphrase, PASSPHRASE),
    (Line("Password (/dev/"), Passphrase, PASSPHRASE),
];

/// Tells what lines mean, for one guest.
#[derive(Debug)]
pub(super) struct Judge {
    expect: Option<Regex>,
    logins: u32,
}

impl Judge {
    /// Waits for this text, or for a login prompt.
    pub(super) fn new(expect: Option<Regex>) -> Judge {
        Judge { expect, logins: 0 }
    }

    /// What a finished line says.
    pub(super) fn line(&mut self, line: &str) -> Option<Sign> {
        self.hear(line, false)
    }

    /// What the line says that is still being written.
    pub(super) fn prompt(&mut self, line: &str) -> Option<Sign> {
        self.hear(line, true)
    }

    /// Whether something else than a login prompt is waited for.
    pub(super) fn expects(&self) -> bool {
        self.expect.is_some()
    }

    /// Whether a login prompt was seen although something else was waited for.
    pub(super) fn saw_login(&self) -> bool {
        self.logins > 0
    }

    fn hear(&mut self, line: &str, unfinished: bool) -> Option<Sign> {
        if let Some(expect) = &self.expect {
            if expect.is_match(line) {
                return Some(Sign::Booted(format!("the expected text: {}", quoted(line))));
            }
            self.logins += u32::from(login(line).is_some());
        } else if let Some(prompt) = login(line) {
            return Some(Sign::Booted(format!("login prompt: {}", quoted(prompt))));
        }
        let row = TABLE.iter().find(|(at, ..)| match at {
            Line(text) => line.contains(text),
            Whole(text) => !unfinished && line.contains(text),
            Start(text) => line.trim_start().starts_with(text),
            Prompt(text) => unfinished && line.trim_end().ends_with(text),
        });
        let (_, means, what) = row?;
        let line = quoted(line);
        match means {
            Failed => Some(Sign::Failed { what, line }),
            Stuck => Some(Sign::Stuck { what, line }),
            // It is asked only where the answer is awaited: an echo of the question is none.
            Passphrase => unfinished.then_some(Sign::Passphrase(line)),
        }
    }
}

/// The prompt `host login:`, at the end of a line or with something said over it; not `Last login: …`.
fn login(line: &str) -> Option<&str> {
    const WORD: &str = "login:";
    let line = line.trim();
    let end = line.find(WORD)? + WORD.len();
    let (prompt, over) = line.split_at(end);
    let host = prompt.strip_suffix(WORD)?;
    let alone = host.is_empty() && (over.is_empty() || over.starts_with(' '));
    let named = host.strip_suffix(' ').is_some_and(|host| {
        !host.is_empty() && host != "Last" && host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c))
    });
    (alone || named).then_some(prompt)
}

fn quoted(line: &str) -> String {
    line.trim().chars().take(QUOTE_CHARACTERS).collect()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
