//! GRUB's `device.map`: which disk is the BIOS's first.
//!
//! The disks get new names. GRUB's tools look for the disks themselves where the file says nothing, and refuse to work where it names
//! one that is gone, so old names are taken out rather than guessed anew. What is not here: anything that GRUB reads at start.

use crate::guest::linux::names::is_unstable;
use crate::guest::linux::text::{Rewritten, short};

/// Takes out lines that name a disk of the old machine; an empty text means that no map is needed.
#[must_use]
pub(super) fn rewrite(text: &str) -> Rewritten {
    let mut result = Rewritten::default();
    for line in text.split_inclusive('\n') {
        let device = line.split_ascii_whitespace().nth(1).unwrap_or("");
        if is_unstable(device) && !line.trim_start().starts_with('#') {
            result.changed(format!("{} is taken out: it has another name now", short(device)));
        } else {
            result.text.push_str(line);
        }
    }
    let maps_a_disk = result.text.lines().any(|line| line.trim_start().starts_with("(hd"));
    if !maps_a_disk && !result.changes.is_empty() {
        result.text.clear();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_go_and_stable_ones_stay() {
        let text = "(fd0)\t/dev/fd0\n(hd0)\t/dev/sda\n(hd1)\t/dev/disk/by-id/dm-name-x\n";
        assert_eq!(rewrite(text).text, "(fd0)\t/dev/fd0\n(hd1)\t/dev/disk/by-id/dm-name-x\n");
    }

    #[test]
    fn a_map_without_disks_is_no_map() {
        assert_eq!(rewrite("# made by\n(fd0)\t/dev/fd0\n(hd0)\t/dev/disk/by-id/scsi-36000c29\n").text, "");
        assert_eq!(rewrite("(hd0) /dev/vda\n").text, "");
    }

    #[test]
    fn a_map_without_old_names_stays() {
        for text in ["", "(fd0) /dev/fd0\n", "(hd0) /dev/mapper/x\n", "#(hd0) /dev/sda\n", "\0"] {
            assert_eq!(rewrite(text), Rewritten { text: text.to_owned(), ..Rewritten::default() });
        }
    }
}
