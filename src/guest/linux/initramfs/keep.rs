//! What makes the guest's own tool keep the drivers when it makes its next initial RAM disk.
//!
//! Without this a guest would boot until its next kernel update: tools that look at the machine they run on add virtio by themselves there, but
//! those that are told a list do not. One file per tool, changed as little as possible. Pure. What is not here: making an image.

use crate::model::guest::InitramfsTool;

/// A file that says it, and what it says with the drivers in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// Where.
    pub(super) path: &'static str,
    /// How the content is changed; it is empty where the file is not there.
    pub(super) change: fn(&str, &[&str]) -> String,
    /// Whether it is made where it is not there.
    pub(super) create: bool,
}

/// Where a tool is told.
#[must_use]
pub(super) fn place(tool: InitramfsTool) -> Option<Kept> {
    let kept = |path, change, create| Some(Kept { path, change, create });
    match tool {
        InitramfsTool::InitramfsTools => kept("/etc/initramfs-tools/modules", initramfs_tools, true),
        InitramfsTool::Dracut => kept("/etc/dracut.conf.d/hyper2kvm.conf", dracut, true),
        InitramfsTool::Mkinitcpio => kept("/etc/mkinitcpio.conf", mkinitcpio, false),
        InitramfsTool::Mkinitfs => kept("/etc/mkinitfs/mkinitfs.conf", mkinitfs, false),
        InitramfsTool::Mkinitrd => kept("/etc/sysconfig/kernel", mkinitrd, false),
        InitramfsTool::Booster => kept("/etc/booster.yaml", booster, true),
        InitramfsTool::Unknown => None,
    }
}

const REASON: &str = "# Drivers of the machine that this system was moved to (hyper2kvm).";

/// One name per line.
fn initramfs_tools(text: &str, drivers: &[&str]) -> String {
    let named = |driver: &&&str| {
        text.lines()
            .any(|line| line.split('#').next().unwrap_or("").split_whitespace().next() == Some(**driver))
    };
    let missing: Vec<&&str> = drivers.iter().filter(|driver| !named(driver)).collect();
    if missing.is_empty() {
        return text.to_owned();
    }
    let mut changed = ended(text);
    changed.push_str(REASON);
    changed.push('\n');
    for driver in missing {
        changed.push_str(driver);
        changed.push('\n');
    }
    changed
}

/// A file of our own.
fn dracut(_: &str, drivers: &[&str]) -> String {
    format!("{REASON}\nadd_drivers+=\" {} \"\n", drivers.join(" "))
}

fn mkinitcpio(text: &str, drivers: &[&str]) -> String {
    in_list(text, "MODULES=(", ')', drivers)
}

fn mkinitfs(text: &str, _: &[&str]) -> String {
    in_list(text, "features=\"", '"', &["virtio"])
}

fn mkinitrd(text: &str, drivers: &[&str]) -> String {
    in_list(text, "INITRD_MODULES=\"", '"', drivers)
}

fn booster(text: &str, drivers: &[&str]) -> String {
    if let Some(line) = text.lines().find(|line| line.starts_with("modules:")) {
        let listed: Vec<&str> =
            line["modules:".len()..].trim().trim_matches('"').split(',').map(str::trim).collect();
        let missing: Vec<&str> = drivers.iter().copied().filter(|driver| !listed.contains(driver)).collect();
        if missing.is_empty() {
            return text.to_owned();
        }
        let all: Vec<&str> = listed.into_iter().filter(|name| !name.is_empty()).chain(missing).collect();
        return text.replacen(line, &format!("modules: {}", all.join(",")), 1);
    }
    format!("{}modules: {}\n", ended(text), drivers.join(","))
}

/// Adds words to a list that stands on one line; a list that is not there, or goes over several lines, stays as it is.
fn in_list(text: &str, opening: &str, closing: char, words: &[&str]) -> String {
    let mut changed = String::with_capacity(text.len() + 64);
    let mut done = false;
    for line in text.split_inclusive('\n') {
        let list = line
            .strip_prefix(opening)
            .filter(|_| !done)
            .and_then(|rest| rest.find(closing).map(|end| (&rest[..end], &rest[end..])));
        let Some((list, behind)) = list else {
            changed.push_str(line);
            continue;
        };
        done = true;
        let listed: Vec<&str> = list.split_whitespace().collect();
        let missing = words.iter().copied().filter(|word| !listed.contains(word));
        let all: Vec<&str> = listed.iter().copied().chain(missing).collect();
        if all.len() == listed.len() {
            changed.push_str(line);
        } else {
            changed.push_str(opening);
            changed.push_str(&all.join(" "));
            changed.push_str(behind);
        }
    }
    changed
}

/// With a line break at its end, if it is not empty.
fn ended(text: &str) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVERS: [&str; 2] = ["virtio_pci", "virtio_blk"];

    fn twice(change: fn(&str, &[&str]) -> String, text: &str) -> String {
        let once = change(text, &DRIVERS);
        assert_eq!(change(&once, &DRIVERS), once, "a second time changes something");
        once
    }

    #[test]
    fn initramfs_tools_gets_the_names_that_it_does_not_have() {
        assert_eq!(
            twice(initramfs_tools, "# List of modules\n# virtio_pci\nvirtio_blk\nmptspi"),
            format!("# List of modules\n# virtio_pci\nvirtio_blk\nmptspi\n{REASON}\nvirtio_pci\n")
        );
    }

    #[test]
    fn dracut_gets_a_file_of_its_own() {
        assert_eq!(twice(dracut, ""), format!("{REASON}\nadd_drivers+=\" virtio_pci virtio_blk \"\n"));
    }

    #[test]
    fn lists_of_one_line_are_added_to_and_keep_what_stands_behind() {
        assert_eq!(
            twice(mkinitcpio, "# MODULES=(a)\nMODULES=(ext4) # mine\nHOOKS=(base)\n"),
            "# MODULES=(a)\nMODULES=(ext4 virtio_pci virtio_blk) # mine\nHOOKS=(base)\n"
        );
        assert_eq!(twice(mkinitcpio, "MODULES=()\n"), "MODULES=(virtio_pci virtio_blk)\n");
        assert_eq!(
            twice(mkinitrd, "INITRD_MODULES=\"mptspi\"\n"),
            "INITRD_MODULES=\"mptspi virtio_pci virtio_blk\"\n"
        );
        assert_eq!(twice(mkinitfs, "features=\"ata base ext4\"\n"), "features=\"ata base ext4 virtio\"\n");
    }

    #[test]
    fn a_list_over_several_lines_stays_as_it_is() {
        let text = "MODULES=(\n  ext4\n)\n";
        assert_eq!(twice(mkinitcpio, text), text);
    }

    #[test]
    fn booster_gets_one_list() {
        assert_eq!(twice(booster, ""), "modules: virtio_pci,virtio_blk\n");
        assert_eq!(
            twice(booster, "compression: zstd\nmodules: nvme\n"),
            "compression: zstd\nmodules: nvme,virtio_pci,virtio_blk\n"
        );
    }
}
