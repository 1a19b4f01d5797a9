//! The device that a hibernated Debian is woken from, as its initial RAM disk is told.
//!
//! A name that no longer exists makes the guest wait for it at every start. The kernel's own `resume=` is the boot loader's (see
//! [`super::bootloader`]). What is not here: making the initial RAM disk read it; it is told the UUID that the device has anyway.

use super::names::{Meaning, Names, Want};
use super::text::{self, Rewritten, short, split_end};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::model::error::Result;

const RESUME: &str = "/etc/initramfs-tools/conf.d/resume";

/// The repair.
#[derive(Debug)]
pub struct Resume;

impl Fix for Resume {
    fn name(&self) -> &'static str {
        "resume"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        options.boot_loader.then_some("the initial RAM disk finds swap by its UUID")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let names = Names::of(&guest.facts);
        text::edit(&mut guest.tree, &mut guest.warnings, RESUME, |text| rewrite(text, &names))
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let names = Names::of(&guest.facts);
        text::is_settled(&guest.tree, &guest.warnings, RESUME, |text| rewrite(text, &names))
    }
}

/// Gives `RESUME=` its stable name.
#[must_use]
pub fn rewrite(text: &str, names: &Names<'_>) -> Rewritten {
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        match renamed(line, names, &mut result) {
            Some(line) => new.push_str(&line),
            None => new.push_str(line),
        }
    }
    result.text = new;
    result
}

fn renamed(line: &str, names: &Names<'_>, result: &mut Rewritten) -> Option<String> {
    let (body, end) = split_end(line);
    let value = body.strip_prefix("RESUME=")?;
    let trimmed = value.trim_end();
    let name = trimmed.trim_matches(['"', '\'']);
    let volume = match names.meaning(name, Want::FileSystem("swap")) {
        Meaning::Stable => return None,
        Meaning::Volume(volume) => Some(volume),
        Meaning::Lost => None,
    };
    let Some(stable) = volume.and_then(|volume| names.stable(volume)) else {
        result.lost(name);
        return None;
    };
    result.changed(format!("{} is {stable}", short(name)));
    let at = trimmed.find(name)?;
    Some(format!("RESUME={}{stable}{}{end}", &value[..at], &value[at + name.len()..]))
}

#[cfg(test)]
mod tests {
    use super::super::samples::facts;
    use super::*;

    fn stabilized(text: &str) -> Rewritten {
        let facts = facts();
        rewrite(text, &Names::of(&facts))
    }

    #[test]
    fn the_name_becomes_a_uuid_quotes_and_ends_stay() {
        assert_eq!(stabilized("RESUME=/dev/sda5\n").text, "RESUME=UUID=swap-uuid\n");
        assert_eq!(stabilized("# x\nRESUME=\"/dev/sda5\" \r\n").text, "# x\nRESUME=\"UUID=swap-uuid\" \r\n");
    }

    #[test]
    fn what_needs_no_change_gets_none() {
        for text in [
            "",
            "RESUME=none\n",
            "RESUME=auto",
            "RESUME=UUID=x\n",
            "RESUME=/dev/mapper/vg-swap\n",
            "#RESUME=/dev/sda5\n",
            "RESUME=\n",
        ] {
            assert_eq!(stabilized(text), Rewritten { text: text.to_owned(), ..Rewritten::default() });
        }
    }

    #[test]
    fn a_device_that_is_no_swap_is_told_and_left() {
        assert_eq!(stabilized("RESUME=/dev/sda1\n").lost, ["/dev/sda1"]);
    }
}
