//! fstab: names that change with the machine become names that do not.
//!
//! Only the first field of a line is ever changed; comments, columns, options and lines that nobody understands stay as they are, byte
//! for byte. No option is added: a file system that is missing must be noticed, not skipped. What is not here: which volume a name means
//! (see [`super::names`]).

use super::names::{Meaning, Names, Want, fits, is_by_path};
use super::text::{self, Rewritten, short, split_end};
use crate::guest::facts::{Facts, FixOptions, FstabMode};
use crate::guest::fix::{Fix, Guest};
use crate::guest::tree::shown;
use crate::model::error::Result;

const FSTAB: &str = "/etc/fstab";

/// The repair.
#[derive(Debug)]
pub struct Fstab;

impl Fix for Fstab {
    fn name(&self) -> &'static str {
        "fstab"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        match options.fstab {
            FstabMode::StabilizeAll => Some("fstab names every device by its UUID"),
            FstabMode::BypathOnly => Some("fstab names devices by their UUID where it named a slot"),
            FstabMode::Noop => options.print_fstab.then_some("fstab is put into the log"),
        }
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let names = Names::of(&guest.facts);
        let mode = guest.options.fstab;
        if guest.options.print_fstab {
            print(&guest.tree, "as it was")?;
        }
        text::edit(&mut guest.tree, &mut guest.warnings, FSTAB, |text| rewrite(text, mode, &names))?;
        if guest.options.print_fstab && mode != FstabMode::Noop {
            print(&guest.tree, "as it is now")?;
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let names = Names::of(&guest.facts);
        let mode = guest.options.fstab;
        text::is_settled(&guest.tree, &guest.warnings, FSTAB, |text| rewrite(text, mode, &names))?;
        let Some(text) = text::read(&guest.tree, FSTAB)? else { return Ok(()) };
        match elsewhere(&text, &names) {
            Some(spec) => Err(text::not_kept(FSTAB, &format!("`/` is {spec}, which is another volume"))),
            None => Ok(()),
        }
    }
}

fn print(tree: &crate::guest::tree::Tree, when: &str) -> Result<()> {
    if let Some(text) = text::read(tree, FSTAB)? {
        for line in text.lines() {
            tracing::info!("fstab {when}: {}", shown(line));
        }
    }
    Ok(())
}

/// The three fields that count, and where the first one lies in its line.
struct Entry<'a> {
    before: &'a str,
    spec: &'a str,
    after: &'a str,
    target: &'a str,
    kind: &'a str,
}

/// `None` for comments, empty lines, and lines that are no entries.
fn entry(line: &str) -> Option<Entry<'_>> {
    let blank = |c: char| c == ' ' || c == '\t';
    let (body, _) = split_end(line);
    let start = body.find(|c| !blank(c))?;
    if body[start..].starts_with('#') {
        return None;
    }
    let (before, rest) = line.split_at(start);
    let (spec, after) = rest.split_at(rest.find(blank)?);
    let mut fields = split_end(after).0.split(blank).filter(|field| !field.is_empty());
    let (target, kind) = (fields.next()?, fields.next().unwrap_or(""));
    Some(Entry { before, spec, after, target, kind })
}

/// Gives every device its stable name.
#[must_use]
pub fn rewrite(text: &str, mode: FstabMode, names: &Names<'_>) -> Rewritten {
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 256);
    for line in text.split_inclusive('\n') {
        let entry = entry(line).filter(|entry| match mode {
            FstabMode::StabilizeAll => true,
            FstabMode::BypathOnly => is_by_path(entry.spec),
            FstabMode::Noop => false,
        });
        match entry.and_then(|entry| renamed(&entry, names, &mut result)) {
            Some(line) => new.push_str(&line),
            None => new.push_str(line),
        }
    }
    result.text = new;
    result
}

fn renamed(entry: &Entry<'_>, names: &Names<'_>, result: &mut Rewritten) -> Option<String> {
    let want = Want::FileSystem(entry.kind);
    let volume = match names.meaning(entry.spec, want) {
        Meaning::Stable => return None,
        // This file was found on the root file system, so that is the one that it calls so.
        _ if entry.target == "/" && names.root().is_some() => names.root(),
        Meaning::Volume(volume) => Some(volume),
        // What was found there, and is what the line says, was looked for with more than its name.
        Meaning::Lost => names.mounted_at(entry.target).filter(|volume| fits(volume, want)),
    };
    let Some(stable) = volume.and_then(|volume| names.stable(volume)) else {
        result.lost(entry.spec);
        return None;
    };
    result.changed(format!("{} is {stable}", short(entry.spec)));
    let gap = entry.after.len() - entry.after.trim_start_matches(' ').len();
    // A column made with spaces is kept where the new name fits into it; one space makes no column.
    let is_column = gap > 1 && !entry.after[gap..].starts_with('\t');
    let kept = if is_column { (entry.spec.len() + gap).saturating_sub(stable.len()).max(1) } else { gap };
    Some(format!("{}{stable}{}{}", entry.before, " ".repeat(kept), &entry.after[gap..]))
}

/// What `/` is said to be, if that is known not to be the root file system that was mounted.
fn elsewhere(text: &str, names: &Names<'_>) -> Option<String> {
    let root = names.root()?;
    let mut entries = text.lines().filter_map(entry);
    let line = entries.find(|entry| entry.target == "/" && names.contradicts(entry.spec, root))?;
    Some(short(line.spec))
}

#[cfg(test)]
mod tests {
    use super::super::samples::facts;
    use super::*;

    /// A guest as the installer of Debian 12 leaves it, with data, a share, and what people add.
    const DEBIAN: &str = "\
# /etc/fstab: static file system information.
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
# / was on /dev/sda1 during installation
/dev/sda1 /               ext4    errors=remount-ro 0       1
/dev/sda5\tnone\tswap\tsw\t0\t0
/dev/sdb1                                   /srv   xfs  defaults,nofail 0 2 # data
UUID=other /opt ext4 defaults 0 2
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0
nas:/export /mnt/nas nfs defaults,_netdev 0 0
/srv/a\\040b /mnt/ab none bind 0 0
  tmpfs /tmp tmpfs defaults 0 0
";

    fn stabilized(text: &str) -> Rewritten {
        let facts = facts();
        rewrite(text, FstabMode::StabilizeAll, &Names::of(&facts))
    }

    #[test]
    fn names_become_stable_and_nothing_else_changes() {
        let expected = DEBIAN
            .replace("\n/dev/sda1 /  ", "\nUUID=root-uuid /  ")
            .replace("/dev/sda5\t", "UUID=swap-uuid\t")
            .replace("/dev/sdb1     ", "UUID=data-uuid");
        let result = stabilized(DEBIAN);
        assert_eq!(result.text, expected);
        assert_eq!(result.changes[0], "/dev/sda1 is UUID=root-uuid");
        assert!(result.lost.is_empty());
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let once = stabilized(DEBIAN);
        let twice = stabilized(&once.text);
        assert_eq!(twice, Rewritten { text: once.text, ..Rewritten::default() });
    }

    #[test]
    fn a_device_that_cannot_be_found_is_left_and_told() {
        let text = "/dev/sdq1 /gone ext4 defaults 0 2\n";
        let result = stabilized(text);
        assert_eq!((result.text.as_str(), result.lost.as_slice()), (text, &["/dev/sdq1".to_owned()][..]));
    }

    #[test]
    fn a_type_that_does_not_match_what_is_on_the_disk_is_not_believed() {
        let text = "/dev/sdb1 /srv ext4 defaults 0 2\n";
        let result = stabilized(text);
        assert_eq!(result.text, text);
        assert_eq!(result.lost, ["/dev/sdb1"]);
    }

    #[test]
    fn the_root_is_the_file_system_that_the_file_was_found_on() {
        let result = stabilized("/dev/sdb7 / ext4 defaults 0 1\n");
        assert_eq!(result.text, "UUID=root-uuid / ext4 defaults 0 1\n");
    }

    #[test]
    fn only_names_of_slots_are_changed_where_that_is_asked_for() {
        let facts = facts();
        let text = "/dev/sda1 / ext4 defaults 0 1\n/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part5 none swap sw 0 0\n";
        let result = rewrite(text, FstabMode::BypathOnly, &Names::of(&facts));
        assert_eq!(result.text, "/dev/sda1 / ext4 defaults 0 1\nUUID=swap-uuid none swap sw 0 0\n");
        assert_eq!(rewrite(text, FstabMode::Noop, &Names::of(&facts)).text, text);
    }

    #[test]
    fn lines_that_are_no_entries_stay_byte_for_byte() {
        for text in [
            "",
            "\n\n \t\n",
            "/dev/sda1",
            "/dev/sda1\n",
            "/dev/sda1 \t \n",
            "/dev/sda1,/boot,ext4,defaults\n",
            "#/dev/sda1 / ext4 defaults 0 1\n",
            "   # /dev/sda1 / ext4\n",
            "LABEL=a\\040b / ext4 defaults 0 1\r\n",
            "\0\0\0 \0\n",
        ] {
            assert_eq!(stabilized(text).text, text, "{text:?}");
        }
    }

    #[test]
    fn lines_of_windows_editors_keep_their_ends() {
        assert_eq!(stabilized("/dev/sda5 none swap sw 0 0\r\n").text, "UUID=swap-uuid none swap sw 0 0\r\n");
        assert_eq!(stabilized("/dev/sda5 none swap").text, "UUID=swap-uuid none swap");
    }

    #[test]
    fn a_line_of_a_megabyte_is_no_trouble() {
        let text = format!("/dev/sda1 / ext4 {} 0 1\n", "x".repeat(1 << 20));
        assert_eq!(stabilized(&text).text, text.replace("/dev/sda1", "UUID=root-uuid"));
        let text = format!("/dev/sd{}1 / ext4 defaults 0 1\n", "a".repeat(1 << 20));
        assert!(stabilized(&text).changes[0].len() < 400);
    }

    #[test]
    fn a_root_that_is_another_volume_is_noticed() {
        let facts = facts();
        let names = Names::of(&facts);
        assert_eq!(elsewhere("UUID=root-uuid / ext4 defaults 0 1\n", &names), None);
        assert_eq!(elsewhere("/dev/mapper/vg-root / ext4 defaults 0 1\n", &names), None);
        let other = "UUID=data-uuid / ext4 defaults 0 1\n";
        assert_eq!(elsewhere(other, &names).as_deref(), Some("UUID=data-uuid"));
    }
}
