//! The kernel's arguments, wherever a boot loader keeps them.
//!
//! A name of a disk in `root=` and its like becomes a stable one, a console of Xen becomes the serial one, and a serial console is added
//! where it is wanted and missing. Every other word, and every blank, stays. What is not here: finding the arguments in a file.

use crate::guest::facts::Volume;
use crate::guest::linux::names::{Meaning, Names, Want};
use crate::guest::linux::text::{Rewritten, short};

/// Arguments whose value begins with a device.
const DEVICES: [&str; 6] = ["root", "real_root", "rootpartition", "resume", "cryptdevice", "cryptroot"];
/// Those of them that name the root file system; the third is a variable of Photon's menu.
const ROOTS: [&str; 3] = ["root", "real_root", "rootpartition"];
/// The serial console that is added.
const SERIAL: &str = "console=ttyS0,115200n8";
/// Consoles that only Xen has.
const XEN_CONSOLES: [&str; 2] = ["hvc0", "xvc0"];

/// What is to become of some arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    /// What names mean.
    pub(super) names: &'a Names<'a>,
    /// Whether an initial RAM disk finds the root: the kernel alone knows partitions, and not what is on them.
    pub(super) initramfs: bool,
    /// Add a serial console if there is none.
    pub(super) console: bool,
}

/// The arguments as they are to be; what changed is told to `result`.
#[must_use]
pub(super) fn rewrite(arguments: &str, wish: Wish<'_>, result: &mut Rewritten) -> String {
    let mut new = String::with_capacity(arguments.len() + 64);
    for (blank, word) in words(arguments) {
        new.push_str(blank);
        match renamed(word, wish, result) {
            Some(word) => new.push_str(&word),
            None => new.push_str(word),
        }
    }
    // A quote that is never closed would swallow it.
    let closed = new.matches('"').count().is_multiple_of(2);
    if wish.console && closed && !has_serial_console(&new) {
        new = with_console(&new);
        result.changed("serial console added".to_owned());
    }
    new
}

/// Whether a serial console is among the arguments.
#[must_use]
pub(super) fn has_serial_console(arguments: &str) -> bool {
    words(arguments).any(|(_, word)| word.trim_matches(['"', '\'']).starts_with("console=ttyS"))
}

/// The value of an argument; the last one counts, as it does for the kernel.
#[must_use]
pub(super) fn value<'a>(arguments: &'a str, key: &str) -> Option<&'a str> {
    let value = |word: &'a str| word.trim_matches(['"', '\'']).strip_prefix(key)?.strip_prefix('=');
    words(arguments).filter_map(|(_, word)| value(word)).last()
}

/// Each word with the blanks before it; the last pair may have no word.
pub(super) fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let start = rest.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(rest.len());
        let mut quoted = false;
        let end = rest[start..].find(|c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        });
        let end = end.map_or(rest.len(), |length| start + length);
        let pair = (&rest[..start], &rest[start..end]);
        rest = &rest[end..];
        Some(pair)
    })
}

fn renamed(word: &str, wish: Wish<'_>, result: &mut Rewritten) -> Option<String> {
    let bare = word.trim_matches(['"', '\'']);
    let (key, value) = bare.split_once('=')?;
    let (old, new) = if key == "console" {
        let name = value.split(',').next().unwrap_or(value);
        if !XEN_CONSOLES.contains(&name) {
            return None;
        }
        (name, "ttyS0".to_owned())
    } else if DEVICES.contains(&key) {
        let device = value.split(':').next().unwrap_or(value);
        // The name of a slot has colons itself.
        let device = if value.starts_with("/dev/disk/") { value } else { device };
        (device, stable(key, device, wish, result)?)
    } else {
        return None;
    };
    result.changed(format!("{key}={} is {key}={new}", short(old)));
    let at = word.len() - word.trim_start_matches(['"', '\'']).len() + key.len() + 1;
    Some(format!("{}{new}{}", &word[..at], &word[at + old.len()..]))
}

fn stable(key: &str, device: &str, wish: Wish<'_>, result: &mut Rewritten) -> Option<String> {
    let is_root = ROOTS.contains(&key);
    let want = match key {
        "resume" => Want::FileSystem("swap"),
        "cryptdevice" | "cryptroot" => Want::Luks,
        _ => Want::FileSystem("auto"),
    };
    let volume: Option<&Volume> = match wish.names.meaning(device, want) {
        Meaning::Stable => return None,
        Meaning::Volume(volume) => Some(volume),
        // A swap file lies in a file system.
        Meaning::Lost if key == "resume" => match wish.names.meaning(device, Want::FileSystem("auto")) {
            Meaning::Volume(volume) => Some(volume),
            _ => None,
        },
        // What this boot loader starts is this system, and it was found on this volume.
        Meaning::Lost if is_root => {
            wish.names.root().filter(|root| wish.initramfs || root.partuuid.is_some())
        }
        Meaning::Lost => None,
    };
    let named = volume.and_then(|volume| {
        if is_root && !wish.initramfs { wish.names.of_partition(volume) } else { wish.names.stable(volume) }
    });
    if named.is_none() {
        result.lost(device);
    }
    named
}

/// Adds a serial console, last, so that it is where the system speaks; what stands after `--` is not the kernel's.
fn with_console(arguments: &str) -> String {
    let mut end = arguments.trim_end().len();
    let mut at = 0;
    let mut has_console = false;
    for (blank, word) in words(arguments) {
        if word == "--" || word == "---" {
            end = at;
            break;
        }
        has_console |= word.starts_with("console=");
        at += blank.len() + word.len();
    }
    // Naming one console takes the screen away, unless it is named too.
    let screen = if has_console { "" } else { "console=tty0 " };
    let gap = if arguments[..end].is_empty() { "" } else { " " };
    format!("{}{gap}{screen}{SERIAL}{}", &arguments[..end], &arguments[end..])
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::facts;
    use super::*;

    fn with(arguments: &str, initramfs: bool, console: bool) -> (String, Rewritten) {
        let facts = facts();
        let names = Names::of(&facts);
        let mut result = Rewritten::default();
        let new = rewrite(arguments, Wish { names: &names, initramfs, console }, &mut result);
        (new, result)
    }

    #[test]
    fn names_of_disks_become_stable_and_nothing_else_changes() {
        let (new, result) =
            with("root=/dev/sda1 ro  quiet resume=/dev/sda5 rootflags=x \"a b=/dev/sda1\"", true, false);
        assert_eq!(new, "root=UUID=root-uuid ro  quiet resume=UUID=swap-uuid rootflags=x \"a b=/dev/sda1\"");
        assert_eq!(result.changes.len(), 2);
    }

    #[test]
    fn a_kernel_without_initial_ram_disk_is_told_the_partition() {
        assert_eq!(with("root=/dev/sda1 ro", false, false).0, "root=PARTUUID=root-uuid-part ro");
        assert_eq!(with("root=PARTUUID=x ro", false, false).0, "root=PARTUUID=x ro");
    }

    #[test]
    fn an_encrypted_volume_is_named_and_its_mapping_stays() {
        let (new, _) = with("cryptdevice=/dev/sda3:root:allow-discards root=/dev/mapper/root", true, false);
        assert_eq!(new, "cryptdevice=UUID=luks-uuid:root:allow-discards root=/dev/mapper/root");
        assert_eq!(
            with("cryptroot=/dev/sda3 cryptdm=root", true, false).0,
            "cryptroot=UUID=luks-uuid cryptdm=root"
        );
    }

    #[test]
    fn a_root_that_cannot_be_found_is_the_one_that_was() {
        let slot = "root=/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part1";
        assert_eq!(with(slot, true, false).0, "root=UUID=root-uuid");
    }

    #[test]
    fn swap_that_cannot_be_found_is_told_and_left() {
        let (new, result) = with("resume=/dev/sdq2", true, false);
        assert_eq!(
            (new.as_str(), result.lost.as_slice()),
            ("resume=/dev/sdq2", &["/dev/sdq2".to_owned()][..])
        );
    }

    #[test]
    fn what_is_stable_stays() {
        for arguments in [
            "root=UUID=x ro",
            "root=/dev/mapper/rhel-root rd.lvm.lv=rhel/root",
            "root=LABEL=a resume=/dev/vg/swap",
            "root=/dev/nfs nfsroot=1.2.3.4:/x",
            "$kernelopts $tuned_params",
            "",
            "  ",
            "root=",
        ] {
            assert_eq!(with(arguments, true, false), (arguments.to_owned(), Rewritten::default()));
        }
    }

    #[test]
    fn a_serial_console_is_added_once_and_the_screen_is_kept() {
        let (new, _) = with("root=UUID=x ro quiet ", true, true);
        assert_eq!(new, "root=UUID=x ro quiet console=tty0 console=ttyS0,115200n8 ");
        assert_eq!(with(&new, true, true).0, new);
        assert_eq!(with("console=tty1", true, true).0, "console=tty1 console=ttyS0,115200n8");
        assert_eq!(with("console=ttyS1,9600", true, true).0, "console=ttyS1,9600");
        assert_eq!(with("", true, true).0, "console=tty0 console=ttyS0,115200n8");
        assert_eq!(with("ro -- splash", true, true).0, "ro console=tty0 console=ttyS0,115200n8 -- splash");
    }

    #[test]
    fn a_console_of_xen_becomes_the_serial_one() {
        assert_eq!(with("console=hvc0 ro", true, true).0, "console=ttyS0 ro");
        assert_eq!(with("console=xvc0,9600", true, false).0, "console=ttyS0,9600");
    }

    #[test]
    fn quotes_around_a_word_stay() {
        assert_eq!(with("\"root=/dev/sda1\" ro", true, false).0, "\"root=UUID=root-uuid\" ro");
        assert_eq!(with("root=\"/dev/sda1\" ro", true, false).0, "root=\"/dev/sda1\" ro");
    }

    #[test]
    fn hostile_arguments_are_no_trouble() {
        for arguments in
            ["\"", "root=\"", "=", "\0=\0", "\"\"\"", &"root=/dev/sda1 ".repeat(70_000), "root=/dev/sdä1"]
        {
            let (once, _) = with(arguments, true, true);
            assert_eq!(with(&once, true, true).0, once);
        }
    }

    #[test]
    fn the_last_value_of_an_argument_counts() {
        assert_eq!(value("root=a ro root=b", "root"), Some("b"));
        assert_eq!(value("rootflags=x", "root"), None);
    }
}
