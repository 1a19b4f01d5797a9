//! Entries of the Boot Loader Specification: `loader/entries/*.conf`, read by Fedora's and RHEL's GRUB and by systemd-boot.
//!
//! Only the `options` line changes. An entry that starts a unified kernel image carries its arguments in that image, which is never
//! rewritten. What is not here: `loader.conf`'s other settings.

use super::arguments::{self, Wish};
use crate::guest::linux::text::{Rewritten, split_end};

/// What an entry says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The file's name without `.conf`: what GRUB remembers.
    pub(super) id: String,
    /// The kernel that it loads, without directories.
    pub(super) kernel: Option<String>,
    /// Whether an initial RAM disk is loaded.
    pub(super) initramfs: bool,
    /// Whether the arguments are in GRUB's environment.
    pub(super) indirect: bool,
}

/// A key and where its value begins.
fn key(line: &str) -> Option<(&str, usize)> {
    let body = split_end(line).0;
    let start = body.len() - body.trim_start().len();
    if body[start..].starts_with('#') {
        return None;
    }
    let length = body[start..].find(|c: char| c.is_ascii_whitespace())?;
    let value = start + length + (body[start + length..].len() - body[start + length..].trim_start().len());
    Some((&body[start..start + length], value))
}

/// Reads an entry.
#[must_use]
pub(super) fn read(id: &str, text: &str) -> Entry {
    let mut entry = Entry { id: id.to_owned(), ..Entry::default() };
    for line in text.lines() {
        let Some((key, at)) = key(line) else { continue };
        let value = line[at..].trim();
        match key {
            "linux" => {
                let file = value.split_ascii_whitespace().next().unwrap_or("");
                entry.kernel = file.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned);
            }
            "initrd" => entry.initramfs |= !value.is_empty(),
            "options" => entry.indirect |= value.contains("$kernelopts") || value.contains("${kernelopts}"),
            _ => {}
        }
    }
    entry
}

/// Renames devices in the arguments, and adds a console where the entry itself holds them.
#[must_use]
pub(super) fn rewrite(text: &str, wish: Wish<'_>) -> Rewritten {
    let entry = read("", text);
    let options = || {
        text.split_inclusive('\n')
            .filter_map(|line| Some((line, key(line)?)))
            .filter(|(_, key)| key.0 == "options")
    };
    let said = options().any(|(line, (_, at))| arguments::has_serial_console(&line[at..]));
    let mut console = wish.console && !said && !entry.indirect && entry.kernel.is_some();
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 128);
    for line in text.split_inclusive('\n') {
        match key(line).filter(|(key, _)| *key == "options") {
            Some((_, at)) => {
                let (body, end) = split_end(line);
                let wish = Wish { console, initramfs: entry.initramfs, ..wish };
                console = false;
                new.push_str(&body[..at]);
                new.push_str(&arguments::rewrite(&body[at..], wish, &mut result));
                new.push_str(end);
            }
            None => new.push_str(line),
        }
    }
    result.text = new;
    result
}

/// What `loader.conf` of systemd-boot makes the default: a name, or a pattern of names.
#[must_use]
pub(super) fn default(loader_conf: &str) -> Option<&str> {
    loader_conf
        .lines()
        .filter_map(|line| key(line).filter(|(key, _)| *key == "default").map(|(_, at)| line[at..].trim()))
        .next_back()
}

/// Makes an entry the default of systemd-boot.
#[must_use]
pub(super) fn with_default(loader_conf: &str, id: &str) -> String {
    let mut new = String::with_capacity(loader_conf.len() + 128);
    let mut found = false;
    for line in loader_conf.split_inclusive('\n') {
        match key(line).filter(|(key, _)| *key == "default") {
            Some((_, at)) => {
                new.push_str(&format!("{}{id}.conf{}", &line[..at], split_end(line).1));
                found = true;
            }
            None => new.push_str(line),
        }
    }
    if !found {
        let gap = if new.is_empty() || new.ends_with('\n') { "" } else { "\n" };
        new.push_str(&format!("{gap}default {id}.conf\n"));
    }
    new
}

#[cfg(test)]
mod tests {
    use super::super::super::names::Names;
    use super::super::super::samples::facts;
    use super::*;

    /// RHEL 9.
    const RHEL9: &str = "\
title Red Hat Enterprise Linux (5.14.0-362.8.1.el9_3.x86_64) 9.3 (Plow)
version 5.14.0-362.8.1.el9_3.x86_64
linux /vmlinuz-5.14.0-362.8.1.el9_3.x86_64
initrd /initramfs-5.14.0-362.8.1.el9_3.x86_64.img $tuned_initrd
options root=/dev/sda1 ro crashkernel=1G-4G:192M resume=/dev/sda5 rhgb quiet $tuned_params
grub_users $grub_users
grub_arg --unrestricted
grub_class rhel
";
    /// RHEL 8: arguments in the environment block.
    const RHEL8: &str = "\
title Red Hat Enterprise Linux (4.18.0-513.el8.x86_64) 8.9 (Ootpa)
version 4.18.0-513.el8.x86_64
linux /vmlinuz-4.18.0-513.el8.x86_64
initrd /initramfs-4.18.0-513.el8.x86_64.img $tuned_initrd
options $kernelopts $tuned_params
id rhel-20231013
";

    fn done(text: &str, console: bool) -> Rewritten {
        let facts = facts();
        let names = Names::of(&facts);
        rewrite(text, Wish { names: &names, initramfs: true, console })
    }

    #[test]
    fn options_are_rewritten_and_nothing_else() {
        let expected = RHEL9
            .replace("root=/dev/sda1", "root=UUID=root-uuid")
            .replace("resume=/dev/sda5", "resume=UUID=swap-uuid")
            .replace("$tuned_params", "$tuned_params console=tty0 console=ttyS0,115200n8");
        let once = done(RHEL9, true);
        assert_eq!(once.text, expected);
        assert_eq!(done(&expected, true), Rewritten { text: expected, ..Rewritten::default() });
    }

    #[test]
    fn arguments_in_the_environment_are_left_to_it() {
        assert_eq!(done(RHEL8, true).text, RHEL8);
        assert!(read("x", RHEL8).indirect);
    }

    #[test]
    fn an_entry_without_initial_ram_disk_names_the_partition() {
        let text = "title Arch\nlinux /vmlinuz-linux\noptions root=/dev/sda1 rw\n";
        assert_eq!(done(text, false).text, text.replace("/dev/sda1", "PARTUUID=root-uuid-part"));
    }

    #[test]
    fn arguments_of_a_unified_image_get_no_console() {
        let text = "title x\nefi /EFI/Linux/debian.efi\noptions quiet\n";
        assert_eq!(done(text, true).text, text);
    }

    #[test]
    fn several_lines_of_options_get_one_console() {
        let text = "linux /vmlinuz\r\ninitrd /i\r\noptions ro\r\noptions quiet\r\n";
        let once = done(text, true).text;
        assert_eq!(once.matches("ttyS0").count(), 1);
        assert!(once.ends_with("options quiet\r\n"));
        assert_eq!(done(&once, true).text, once);
    }

    #[test]
    fn an_entry_tells_its_kernel() {
        let entry = read("0f-5.14.0", RHEL9);
        assert_eq!(entry.kernel.as_deref(), Some("vmlinuz-5.14.0-362.8.1.el9_3.x86_64"));
        assert!(entry.initramfs && !entry.indirect);
    }

    #[test]
    fn what_is_no_entry_stays() {
        for text in
            ["", "\0\0", "options", "options\n", "#options root=/dev/sda1\n", "linux", &"x".repeat(1 << 20)]
        {
            assert_eq!(done(text, true).text, text);
        }
    }

    #[test]
    fn the_default_of_systemd_boot_is_set_in_place_or_added() {
        assert_eq!(
            with_default("timeout 3\ndefault debian-*\n", "debian-6.1"),
            "timeout 3\ndefault debian-6.1.conf\n"
        );
        assert_eq!(with_default("timeout 3", "a"), "timeout 3\ndefault a.conf\n");
        assert_eq!(default("timeout 3\ndefault debian-*\n"), Some("debian-*"));
    }
}
