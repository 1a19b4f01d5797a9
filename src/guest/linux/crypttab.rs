//! crypttab: encrypted volumes are named by what does not change with the machine.
//!
//! Only the second field changes. Names, key files and options stay: `initramfs` and its like decide what is in the initial RAM disk. A
//! volume that gets a new key at every start has no UUID that would last, so its partition is named. What is not here: keys.

use super::names::{Meaning, Names, Want, is_by_path};
use super::text::{self, Rewritten, short, split_end};
use crate::guest::facts::{Facts, FixOptions, FstabMode};
use crate::guest::fix::{Fix, Guest};
use crate::model::error::Result;

const CRYPTTAB: &str = "/etc/crypttab";

/// The repair.
#[derive(Debug)]
pub struct Crypttab;

impl Fix for Crypttab {
    fn name(&self) -> &'static str {
        "crypttab"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        (options.fstab != FstabMode::Noop).then_some("crypttab names encrypted volumes by their UUID")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let names = Names::of(&guest.facts);
        let mode = guest.options.fstab;
        text::edit(&mut guest.tree, &mut guest.warnings, CRYPTTAB, |text| rewrite(text, mode, &names))
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let names = Names::of(&guest.facts);
        let mode = guest.options.fstab;
        text::is_settled(&guest.tree, &guest.warnings, CRYPTTAB, |text| rewrite(text, mode, &names))
    }
}

/// Gives every volume its stable name.
#[must_use]
pub fn rewrite(text: &str, mode: FstabMode, names: &Names<'_>) -> Rewritten {
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 256);
    for line in text.split_inclusive('\n') {
        match renamed(line, mode, names, &mut result) {
            Some(line) => new.push_str(&line),
            None => new.push_str(line),
        }
    }
    result.text = new;
    result
}

fn renamed(line: &str, mode: FstabMode, names: &Names<'_>, result: &mut Rewritten) -> Option<String> {
    let blank = |c: char| c == ' ' || c == '\t';
    let (body, end) = split_end(line);
    let start = body.find(|c| !blank(c))?;
    if body[start..].starts_with('#') {
        return None;
    }
    // Name, device, key, options.
    let after_name = start + body[start..].find(blank)?;
    let device_start = after_name + body[after_name..].find(|c| !blank(c))?;
    let device_end = body[device_start..].find(blank).map_or(body.len(), |length| device_start + length);
    let device = &body[device_start..device_end];
    if mode == FstabMode::Noop || (mode == FstabMode::BypathOnly && !is_by_path(device)) {
        return None;
    }
    let mut rest = body[device_end..].split(blank).filter(|field| !field.is_empty());
    let (key, options) = (rest.next().unwrap_or("none"), rest.next().unwrap_or(""));
    let stable = if is_made_anew(key, options) {
        match names.meaning(device, Want::Partition) {
            Meaning::Stable => return None,
            Meaning::Volume(volume) => names.of_partition(volume),
            Meaning::Lost => None,
        }
    } else {
        match names.meaning(device, Want::Luks) {
            Meaning::Stable => return None,
            Meaning::Volume(volume) => names.stable(volume),
            Meaning::Lost => None,
        }
    };
    let Some(stable) = stable else {
        result.lost(device);
        return None;
    };
    result.changed(format!("{} is {stable}", short(device)));
    Some(format!("{}{stable}{}{end}", &body[..device_start], &body[device_end..]))
}

/// Whether what is on the device does not outlive a restart, or has no header to be known by.
fn is_made_anew(key: &str, options: &str) -> bool {
    ["/dev/urandom", "/dev/random", "/dev/hw_random"].contains(&key)
        || options.split(',').any(|option| {
            let name = option.split('=').next().unwrap_or("");
            ["swap", "tmp", "plain"].contains(&name)
        })
}

#[cfg(test)]
mod tests {
    use super::super::samples::facts;
    use super::*;

    fn stabilized(text: &str) -> Rewritten {
        let facts = facts();
        rewrite(text, FstabMode::StabilizeAll, &Names::of(&facts))
    }

    #[test]
    fn the_device_is_named_by_its_uuid_and_all_else_stays() {
        let text = "# <target name> <source device> <key file> <options>\n\
                    sda3_crypt /dev/sda3\t/boot/key.bin  luks,discard,initramfs\n";
        let result = stabilized(text);
        assert_eq!(result.text, text.replace("/dev/sda3", "UUID=luks-uuid"));
        assert_eq!(result.changes, ["/dev/sda3 is UUID=luks-uuid"]);
    }

    #[test]
    fn a_line_without_key_and_options_is_an_entry_too() {
        assert_eq!(stabilized("crypt /dev/sda3\n").text, "crypt UUID=luks-uuid\n");
        assert_eq!(stabilized("crypt /dev/sda3\r\n").text, "crypt UUID=luks-uuid\r\n");
    }

    #[test]
    fn swap_with_a_new_key_each_time_is_named_by_its_partition() {
        let text = "swap /dev/sda5 /dev/urandom swap,cipher=aes-xts-plain64,size=512\n";
        assert_eq!(stabilized(text).text, text.replace("/dev/sda5", "PARTUUID=swap-uuid-part"));
        let text = "data /dev/sdb1 none plain,size=256\n";
        assert_eq!(stabilized(text).text, text.replace("/dev/sdb1", "PARTUUID=data-uuid-part"));
    }

    #[test]
    fn a_device_that_is_not_encrypted_is_not_the_one() {
        let text = "crypt /dev/sda1 none luks\n";
        let result = stabilized(text);
        assert_eq!((result.text.as_str(), result.lost.as_slice()), (text, &["/dev/sda1".to_owned()][..]));
    }

    #[test]
    fn what_is_stable_or_no_entry_stays() {
        for text in [
            "",
            "crypt\n",
            "crypt \n",
            "#crypt /dev/sda3 none luks\n",
            "crypt UUID=luks-uuid none luks\n",
            "crypt /dev/vg/secret none luks\n",
            "crypt /dev/disk/by-id/dm-name-x none luks",
            "\0 \0\n",
        ] {
            let result = stabilized(text);
            assert_eq!(result, Rewritten { text: text.to_owned(), ..Rewritten::default() }, "{text:?}");
        }
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let once = stabilized("a /dev/sda3 none luks\nb /dev/sda5 /dev/urandom swap\n");
        assert_eq!(stabilized(&once.text), Rewritten { text: once.text, ..Rewritten::default() });
    }

    #[test]
    fn the_mode_of_fstab_counts_here_too() {
        let facts = facts();
        let names = Names::of(&facts);
        let text = "crypt /dev/sda3 none luks\ntwo /dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part3 none luks\n";
        assert_eq!(rewrite(text, FstabMode::Noop, &names).text, text);
        let by_path = rewrite(text, FstabMode::BypathOnly, &names);
        assert_eq!(by_path.text, "crypt /dev/sda3 none luks\ntwo UUID=luks-uuid none luks\n");
    }
}
