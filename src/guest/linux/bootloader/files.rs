//! The files of boot loaders: where they lie, and which repair of text is whose.
//!
//! All that are there are repaired, whichever of them is in use: what is unused today may be used after the next update. What is not
//! here: which kernel starts.

use std::collections::BTreeSet;

use super::arguments::{self, Wish};
use super::{bls, device_map, extlinux, grub_cfg, grubenv, legacy, shell};
use crate::guest::facts::Facts;
use crate::guest::linux::names::Names;
use crate::guest::linux::text::{self, Rewritten};
use crate::guest::tree::{Tree, shown};
use crate::model::error::{Error, Kind, Result};

/// Defaults of GRUB 2, from which its tools make the menu.
pub(super) const DEFAULT_GRUB: &str = "/etc/default/grub";
/// More files than this have not been made by an installer.
const MOST_FILES: usize = 500;

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    /// GRUB 2's menu.
    GrubCfg,
    /// Its environment block.
    Grubenv,
    /// An entry in a file of its own.
    Bls,
    /// GRUB 0.97's menu.
    Legacy,
    /// extlinux' and syslinux' menu.
    Extlinux,
    /// GRUB's list of disks.
    DeviceMap,
    /// Shell variables, among them arguments of all entries.
    Shell,
    /// The same, for what one package adds.
    ShellPart,
    /// Nothing but arguments.
    Arguments,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Where it lies, links followed.
    pub(super) path: String,
    /// What it is written in.
    pub(super) format: Format,
}

/// Below `/`, and below the EFI system partition, in the pattern language of a shell.
const PATTERNS: [(Format, &[&str], &[&str]); 9] = [
    (Format::GrubCfg, &["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"], &["/EFI/*/grub.cfg"]),
    (Format::Grubenv, &["/boot/grub/grubenv", "/boot/grub2/grubenv"], &["/EFI/*/grubenv"]),
    (Format::Bls, &["/boot/loader/entries/*.conf"], &["/loader/entries/*.conf"]),
    (Format::Legacy, &["/boot/grub/menu.lst", "/boot/grub/grub.conf"], &["/EFI/*/grub.conf"]),
    (
        Format::Extlinux,
        &[
            "/boot/extlinux.conf",
            "/boot/extlinux/extlinux.conf",
            "/boot/syslinux/syslinux.cfg",
            "/boot/syslinux/extlinux.conf",
        ],
        &["/syslinux.cfg", "/EFI/syslinux/syslinux.cfg"],
    ),
    (Format::DeviceMap, &["/boot/grub/device.map", "/boot/grub2/device.map"], &[]),
    (Format::Shell, &[DEFAULT_GRUB, "/etc/sysconfig/bootloader", "/etc/update-extlinux.conf"], &[]),
    (Format::ShellPart, &["/etc/default/grub.d/*.cfg"], &[]),
    (Format::Arguments, &["/etc/kernel/cmdline"], &[]),
];

/// All that are there, each once.
pub(super) fn find(tree: &Tree, facts: &Facts) -> Result<Vec<File>> {
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    for (format, paths, on_efi) in PATTERNS {
        let efi = facts
            .layout
            .efi_path
            .as_deref()
            .filter(|path| is_literal(path))
            .map(|path| path.trim_end_matches('/'));
        let on_efi = efi.iter().flat_map(|efi| on_efi.iter().map(move |path| format!("{efi}{path}")));
        let all: Vec<String> = paths.iter().map(|path| (*path).to_owned()).chain(on_efi).collect();
        // One call for all of them: the library wants the first letter to be a slash, and a brace to hold a comma.
        let relative: Vec<&str> = all.iter().map(|path| path.trim_start_matches('/')).collect();
        let pattern = format!("/{{{},}}", relative.join(","));
        let found = tree.appliance().glob(&pattern).map_err(|why| {
            Error::new(Kind::Guest, format!("cannot look for the boot loader's files: {}", shown(&why)))
                .advice("check the guest's file systems in the source machine, then try again")
        })?;
        for path in found.iter().filter(|path| *path != "/").take(MOST_FILES) {
            if let Some(path) = tree.real(path)?
                && seen.insert(path.clone())
            {
                files.push(File { path, format });
            }
        }
    }
    Ok(files)
}

fn is_literal(path: &str) -> bool {
    !path.contains(['{', '}', '*', '?', '[', ']', ',', '\\', '~'])
}

/// What has to be known of all files to repair any of them.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// What names mean.
    pub(super) names: &'a Names<'a>,
    /// Whether kernels are started with an initial RAM disk, where a file does not say.
    pub(super) initramfs: bool,
    /// A serial console is wanted.
    pub(super) console: bool,
    /// A package has put one into the arguments of all entries.
    pub(super) console_from_package: bool,
    /// The administrator does not want UUIDs in the menu.
    pub(super) uuids_off: bool,
}

impl<'a> Plan<'a> {
    /// Looks at what these files say together.
    pub(super) fn of(
        tree: &Tree,
        facts: &Facts,
        names: &'a Names<'a>,
        files: &[File],
        console: bool,
    ) -> Result<Plan<'a>> {
        let kernels = &facts.identity.kernels;
        let with_initramfs =
            kernels.iter().any(|kernel| kernel.initramfs.is_some() || kernel.unified_image.is_some());
        let mut plan = Plan {
            names,
            initramfs: kernels.is_empty() || with_initramfs,
            console,
            console_from_package: false,
            uuids_off: false,
        };
        for file in files.iter().filter(|file| matches!(file.format, Format::Shell | Format::ShellPart)) {
            let Some(text) = text::read(tree, &file.path)? else { continue };
            plan.uuids_off |= shell::value(&text, "GRUB_DISABLE_LINUX_UUID") == Some("true");
            plan.console_from_package |= file.format == Format::ShellPart && shell::has_console(&text);
        }
        Ok(plan)
    }

    /// Repairs the text of a file.
    #[must_use]
    pub(super) fn rewrite(&self, format: Format, text: &str) -> Rewritten {
        let wish = Wish { names: self.names, initramfs: self.initramfs, console: self.console };
        let mut result = match format {
            Format::GrubCfg => grub_cfg::rewrite(text, wish),
            Format::Grubenv => grubenv::rewrite(text, wish),
            Format::Bls => bls::rewrite(text, wish),
            Format::Legacy => legacy::rewrite(text, wish),
            Format::Extlinux => extlinux::rewrite(text, wish),
            Format::DeviceMap => device_map::rewrite(text),
            Format::Shell => {
                shell::rewrite(text, Wish { console: self.console && !self.console_from_package, ..wish })
            }
            Format::ShellPart => shell::rewrite(text, Wish { console: false, ..wish }),
            Format::Arguments => {
                let mut result = Rewritten::default();
                result.text = arguments::rewrite(text, wish, &mut result);
                result
            }
        };
        if self.uuids_off
            && format == Format::GrubCfg
            && result.changes.iter().any(|change| change.starts_with("root="))
        {
            result.changed(UUIDS_OFF.to_owned());
        }
        result
    }
}

/// What is said to an administrator who switched UUIDs off.
pub(super) const UUIDS_OFF: &str = "GRUB_DISABLE_LINUX_UUID=true stays as it was set, so the guest's next update of the menu names the disk again, \
                             by the name that it has then";

#[cfg(test)]
mod tests {
    use super::super::super::samples::facts;
    use super::*;

    fn plan<'a>(names: &'a Names<'a>) -> Plan<'a> {
        Plan { names, initramfs: true, console: true, console_from_package: false, uuids_off: false }
    }

    #[test]
    fn an_administrator_who_switched_uuids_off_is_told_what_that_means_now() {
        let facts = facts();
        let names = Names::of(&facts);
        let plan = Plan { uuids_off: true, console: false, ..plan(&names) };
        let text = "menuentry 'x' {\n linux /vmlinuz root=/dev/sda1 ro\n initrd /i\n}\n";
        let result = plan.rewrite(Format::GrubCfg, text);
        assert_eq!(result.text, text.replace("/dev/sda1", "UUID=root-uuid"));
        assert!(result.detail().contains("GRUB_DISABLE_LINUX_UUID"));
        assert_eq!(plan.rewrite(Format::GrubCfg, &result.text).changes, Vec::<String>::new());
    }

    #[test]
    fn the_command_line_of_kernels_to_come_is_rewritten() {
        let facts = facts();
        let names = Names::of(&facts);
        let result = plan(&names).rewrite(Format::Arguments, "root=/dev/sda1 ro\n");
        assert_eq!(result.text, "root=UUID=root-uuid ro console=tty0 console=ttyS0,115200n8\n");
    }

    #[test]
    fn a_console_that_a_package_gives_is_not_given_twice() {
        let facts = facts();
        let names = Names::of(&facts);
        let plan = Plan { console_from_package: true, ..plan(&names) };
        let text = "GRUB_CMDLINE_LINUX=\"\"\n";
        assert_eq!(plan.rewrite(Format::Shell, text).text, text);
        assert_eq!(plan.rewrite(Format::ShellPart, text).text, text);
    }

    #[test]
    fn a_path_that_a_shell_would_read_as_a_pattern_is_known() {
        assert!(is_literal("/boot/efi"));
        assert!(!is_literal("/boot/{a,b}") && !is_literal("/boot/*"));
    }
}
