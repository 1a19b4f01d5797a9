//! extlinux and syslinux: `extlinux.conf`, `syslinux.cfg`.
//!
//! Keywords may be written in any case. Arguments stand in `APPEND`, the initial RAM disk there too or in `INITRD`. What is not here: the
//! file that Alpine makes this one from (see [`super::shell`]).

use super::arguments::{self, Wish};
use crate::guest::linux::text::{Rewritten, split_end};

/// Labels that are looked at: nobody could choose among more.
const MOST_ENTRIES: usize = 500;

/// A label and the kernel it loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What `DEFAULT` calls it.
    pub(super) label: String,
    /// The kernel, without directories.
    pub(super) kernel: Option<String>,
    /// Whether the menu begins at it.
    pub(super) preferred: bool,
}

/// The keyword of a line in upper case, and where its value begins.
fn keyword(body: &str) -> Option<(String, usize)> {
    let mut words = arguments::words(body);
    let (blank, word) = words.next()?;
    let at = blank.len() + word.len();
    let value = at + body[at..].len() - body[at..].trim_start().len();
    (!word.is_empty()).then(|| (word.to_ascii_uppercase(), value))
}

/// Renames devices in arguments, and adds a console.
#[must_use]
pub(super) fn rewrite(text: &str, wish: Wish<'_>) -> Rewritten {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let initramfs = initramfs(&lines);
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 512);
    for (line, initramfs) in lines.iter().zip(initramfs) {
        let (body, end) = split_end(line);
        let Some((_, at)) = keyword(body).filter(|(word, _)| word == "APPEND") else {
            new.push_str(line);
            continue;
        };
        let arguments = &body[at..];
        let wish = Wish {
            initramfs: initramfs || arguments::value(arguments, "initrd").is_some(),
            console: wish.console && arguments::value(arguments, "root").is_some(),
            ..wish
        };
        new.push_str(&body[..at]);
        new.push_str(&arguments::rewrite(arguments, wish, &mut result));
        new.push_str(end);
    }
    result.text = new;
    result
}

/// For each line, whether its label has an `INITRD` line.
fn initramfs(lines: &[&str]) -> Vec<bool> {
    let words: Vec<Option<String>> =
        lines.iter().map(|line| keyword(split_end(line).0).map(|(word, _)| word)).collect();
    let mut has = Vec::with_capacity(lines.len());
    for block in words.chunk_by(|_, next| next.as_deref() != Some("LABEL")) {
        let found = block.iter().any(|word| word.as_deref() == Some("INITRD"));
        has.extend(std::iter::repeat_n(found, block.len()));
    }
    has
}

/// The labels in order.
#[must_use]
pub(super) fn menu(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        let Some((word, at)) = keyword(line) else { continue };
        let value = line[at..].trim();
        if word == "LABEL" && entries.len() == MOST_ENTRIES {
            break;
        }
        match (word.as_str(), entries.last_mut()) {
            ("LABEL", _) => entries.push(Entry { label: value.to_owned(), kernel: None, preferred: false }),
            ("KERNEL" | "LINUX", Some(entry)) => entry.kernel = value.rsplit('/').next().map(str::to_owned),
            ("MENU", Some(entry)) if value.eq_ignore_ascii_case("default") => entry.preferred = true,
            _ => {}
        }
    }
    entries
}

/// The label that starts if nobody chooses.
#[must_use]
pub(super) fn default<'m>(text: &str, menu: &'m [Entry]) -> Option<&'m Entry> {
    let named = text.lines().filter_map(|line| {
        keyword(line)
            .filter(|(word, _)| word == "DEFAULT" || word == "ONTIMEOUT")
            .map(|(_, at)| line[at..].trim())
    });
    let named = named.filter_map(|label| menu.iter().find(|entry| entry.label == label)).next_back();
    menu.iter().find(|entry| entry.preferred).or(named).or(menu.first())
}

/// Makes another label the one that starts.
#[must_use]
pub(super) fn with_default(text: &str, label: &str) -> String {
    let menu = menu(text);
    let mut new = String::with_capacity(text.len() + 64);
    let mut current = "";
    let mut found = false;
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        let (word, at) = keyword(body).unwrap_or_default();
        let value = body[at..].trim();
        match word.as_str() {
            "LABEL" => current = value,
            "MENU" if value.eq_ignore_ascii_case("default") && current != label => continue,
            // A default may also be the menu itself.
            "DEFAULT" | "ONTIMEOUT" if menu.iter().any(|entry| entry.label == value) => {
                found = true;
                new.push_str(&format!("{}{label}{end}", &body[..at]));
                continue;
            }
            _ => {}
        }
        new.push_str(line);
        if word == "LABEL"
            && value == label
            && menu.iter().any(|entry| entry.preferred && entry.label != label)
        {
            found = true;
            new.push_str(&format!("  MENU DEFAULT{end}"));
        }
    }
    if found || menu.iter().any(|entry| entry.preferred && entry.label == label) {
        new
    } else {
        format!("DEFAULT {label}\n{new}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::names::Names;
    use super::super::super::samples::facts;
    use super::*;

    /// Alpine 3.19 with two kernels.
    const ALPINE: &str = "\
# Generated by update-extlinux 6.04_pre1-r15
DEFAULT menu.c32
PROMPT 0
MENU TITLE Alpine/Linux Boot Menu
TIMEOUT 10
LABEL lts
  MENU DEFAULT
  MENU LABEL Linux lts
  LINUX vmlinuz-lts
  INITRD initramfs-lts
  APPEND root=/dev/sda1 modules=sd-mod,usb-storage,ext4 quiet rootfstype=ext4

LABEL virt
  MENU LABEL Linux virt
  LINUX vmlinuz-virt
  INITRD initramfs-virt
  APPEND root=/dev/sda1 modules=sd-mod,usb-storage,ext4 quiet rootfstype=ext4
";
    /// Arch with syslinux.
    const ARCH: &str = "default arch\ntimeout 50\nlabel arch\n  linux ../vmlinuz-linux\n  append root=/dev/sda1 rw initrd=../initramfs-linux.img\nlabel bare\n  kernel ../bzImage\n  append root=/dev/sda1 rw\n";

    fn done(text: &str, console: bool) -> Rewritten {
        let facts = facts();
        let names = Names::of(&facts);
        rewrite(text, Wish { names: &names, initramfs: true, console })
    }

    #[test]
    fn arguments_are_rewritten() {
        let expected = ALPINE
            .replace("/dev/sda1", "UUID=root-uuid")
            .replace("rootfstype=ext4\n", "rootfstype=ext4 console=tty0 console=ttyS0,115200n8\n");
        assert_eq!(done(ALPINE, true).text, expected);
        assert_eq!(done(&expected, true), Rewritten { text: expected, ..Rewritten::default() });
    }

    #[test]
    fn a_label_without_initial_ram_disk_names_the_partition() {
        let text = done(ARCH, false).text;
        assert!(text.contains("append root=UUID=root-uuid rw initrd="), "{text}");
        assert!(text.ends_with("append root=PARTUUID=root-uuid-part rw\n"), "{text}");
    }

    #[test]
    fn the_menu_and_its_default_are_read() {
        let entries = menu(ALPINE);
        assert_eq!(entries[1].kernel.as_deref(), Some("vmlinuz-virt"));
        assert_eq!(default(ALPINE, &entries).unwrap().label, "lts");
        assert_eq!(default(ARCH, &menu(ARCH)).unwrap().label, "arch");
    }

    #[test]
    fn another_label_becomes_the_default() {
        let alpine = with_default(ALPINE, "virt");
        assert_eq!(default(&alpine, &menu(&alpine)).unwrap().label, "virt");
        assert!(alpine.contains("DEFAULT menu.c32\n"));
        assert_eq!(with_default(&alpine, "virt"), alpine);
        assert_eq!(with_default(ARCH, "bare"), ARCH.replace("default arch", "default bare"));
    }

    #[test]
    fn what_is_no_menu_stays() {
        for text in ["", "APPEND", "APPEND\n", "append \r\n", "\0\0\n", &"x ".repeat(1 << 19)] {
            assert_eq!(done(text, true).text, text);
        }
    }
}
