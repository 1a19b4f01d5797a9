//! Files of shell variables that hold kernel arguments: `/etc/default/grub`, SUSE's `/etc/sysconfig/bootloader`, Alpine's
//! `/etc/update-extlinux.conf`.
//!
//! Only a plain assignment on one line is understood; anything cleverer stays as it is. What is not here: running them.

use super::arguments::{self, Wish};
use crate::guest::linux::text::{Rewritten, split_end};

/// Variables that hold arguments.
const ARGUMENTS: [&str; 10] = [
    "GRUB_CMDLINE_LINUX",
    "GRUB_CMDLINE_LINUX_DEFAULT",
    "GRUB_CMDLINE_LINUX_RECOVERY",
    "GRUB_CMDLINE_LINUX_XEN_REPLACE",
    "GRUB_CMDLINE_LINUX_XEN_REPLACE_DEFAULT",
    "default_kernel_opts",
    "DEFAULT_APPEND",
    "FAILSAFE_APPEND",
    "XEN_APPEND",
    "IMAGE_APPEND",
];
/// Where a console goes: arguments of every entry.
const CONSOLE: [&str; 3] = ["GRUB_CMDLINE_LINUX", "default_kernel_opts", "DEFAULT_APPEND"];
/// Variables whose value is a root device: Alpine's.
const ROOT: &str = "root";

/// One assignment: `NAME=` and its quotes, what is between them, and the rest.
struct Assignment<'a> {
    name: &'a str,
    before: &'a str,
    value: &'a str,
    after: &'a str,
}

fn assignment(line: &str) -> Option<Assignment<'_>> {
    let (body, _) = split_end(line);
    let start = body.len() - body.trim_start().len();
    let equals = body.find('=')?;
    let name = body.get(start..equals)?;
    let name = name.strip_prefix("export ").unwrap_or(name);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let rest = &body[equals + 1..];
    let (open, length) = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => (1, closing(&rest[1..], quote)?),
        _ => (0, rest.find(|c: char| c.is_whitespace() || c == '#' || c == ';').unwrap_or(rest.len())),
    };
    let from = equals + 1 + open;
    Some(Assignment {
        name,
        before: &line[..from],
        value: &line[from..from + length],
        after: &line[from + length..],
    })
}

/// Where a quoted value ends; a backslash before a double quote keeps it open.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = quote == '"' && c == '\\' && !escaped;
        ends.then_some(at)
    })
}

/// Renames devices in all arguments, and adds a console where it belongs.
#[must_use]
pub(super) fn rewrite(text: &str, wish: Wish<'_>) -> Rewritten {
    let console = wish.console && !has_console(text);
    let mut added = false;
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 128);
    for line in text.split_inclusive('\n') {
        let Some(found) = assignment(line) else {
            new.push_str(line);
            continue;
        };
        let value = if ARGUMENTS.contains(&found.name) {
            let quoted = found.before.ends_with(['"', '\'']);
            let here = console && !added && quoted && CONSOLE.contains(&found.name);
            added |= here;
            arguments::rewrite(found.value, Wish { console: here, ..wish }, &mut result)
        } else if found.name == ROOT {
            let value = arguments::rewrite(
                &format!("root={}", found.value),
                Wish { console: false, ..wish },
                &mut result,
            );
            value.strip_prefix("root=").unwrap_or(found.value).to_owned()
        } else {
            found.value.to_owned()
        };
        new.push_str(found.before);
        new.push_str(&value);
        new.push_str(found.after);
    }
    result.text = new;
    result
}

/// Whether arguments in this file name a serial console.
#[must_use]
pub(super) fn has_console(text: &str) -> bool {
    let mut arguments = text.lines().filter_map(assignment).filter(|found| ARGUMENTS.contains(&found.name));
    arguments.any(|found| arguments::has_serial_console(found.value))
}

/// The value that a variable has at the end.
#[must_use]
pub(super) fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(assignment)
        .filter(|found| found.name == name)
        .map(|found| found.value)
        .next_back()
}

/// Gives a variable a value, in its last assignment or in a new line at the end.
#[must_use]
pub(super) fn set(text: &str, name: &str, value: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let last = lines.iter().rposition(|line| assignment(line).is_some_and(|found| found.name == name));
    let mut new = String::with_capacity(text.len() + 128);
    for (index, line) in lines.iter().enumerate() {
        match assignment(line).filter(|_| last == Some(index)) {
            Some(found) => {
                let quote = if found.before.ends_with(['"', '\'']) { "" } else { "\"" };
                new.push_str(&format!("{}{quote}{value}{quote}{}", found.before, found.after));
            }
            None => new.push_str(line),
        }
    }
    if last.is_none() {
        let gap = if new.is_empty() || new.ends_with('\n') { "" } else { "\n" };
        new.push_str(&format!("{gap}{name}=\"{value}\"\n"));
    }
    new
}

#[cfg(test)]
mod tests {
    use super::super::super::names::Names;
    use super::super::super::samples::facts;
    use super::*;

    const DEBIAN: &str = "\
# If you change this file, run 'update-grub' afterwards to update
GRUB_DEFAULT=0
GRUB_TIMEOUT=5
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT=\"quiet resume=/dev/sda5\"
GRUB_CMDLINE_LINUX=\"\"

#GRUB_DISABLE_LINUX_UUID=true
";

    fn done(text: &str, console: bool) -> Rewritten {
        let facts = facts();
        let names = Names::of(&facts);
        rewrite(text, Wish { names: &names, initramfs: true, console })
    }

    #[test]
    fn a_device_is_renamed_and_a_console_goes_where_it_serves_every_entry() {
        let expected = DEBIAN
            .replace("resume=/dev/sda5", "resume=UUID=swap-uuid")
            .replace("GRUB_CMDLINE_LINUX=\"\"", "GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200n8\"");
        let once = done(DEBIAN, true);
        assert_eq!(once.text, expected);
        assert_eq!(done(&once.text, true), Rewritten { text: expected, ..Rewritten::default() });
    }

    #[test]
    fn a_console_that_stands_elsewhere_is_enough() {
        let text = "GRUB_CMDLINE_LINUX_DEFAULT='quiet console=ttyS0'\nGRUB_CMDLINE_LINUX=''\n";
        assert_eq!(done(text, true).text, text);
    }

    #[test]
    fn alpines_root_and_options_are_renamed() {
        let text = "# configuration for extlinux\nroot=/dev/sda1\ndefault_kernel_opts=\"quiet rootfstype=ext4\"\nmodules=sd-mod,ext4\n";
        let expected = "# configuration for extlinux\nroot=UUID=root-uuid\ndefault_kernel_opts=\"quiet rootfstype=ext4 \
                        console=tty0 console=ttyS0,115200n8\"\nmodules=sd-mod,ext4\n";
        assert_eq!(done(text, true).text, expected);
    }

    #[test]
    fn what_is_no_plain_assignment_stays() {
        for text in [
            "",
            "GRUB_CMDLINE_LINUX=\"root=/dev/sda1",
            "GRUB_CMDLINE_LINUX=\"root=/dev/sda1\\\"",
            "GRUB_CMDLINE_LINUX+=\" root=/dev/sda1\"\n",
            "#GRUB_CMDLINE_LINUX=\"root=/dev/sda1\"\n",
            "if [ x = y ]; then\n",
            "=\n",
            "\0=\"\0\"\r\n",
        ] {
            assert_eq!(done(text, false).text, text, "{text:?}");
        }
    }

    #[test]
    fn a_variable_is_set_in_place_or_added() {
        assert_eq!(
            set(DEBIAN, "GRUB_DEFAULT", "a>b"),
            DEBIAN.replace("GRUB_DEFAULT=0", "GRUB_DEFAULT=\"a>b\"")
        );
        assert_eq!(set("A=\"x\" # y\nA='z'\n", "A", "n"), "A=\"x\" # y\nA='n'\n");
        assert_eq!(set("B=1", "A", "n"), "B=1\nA=\"n\"\n");
        assert_eq!(value("A=1\nA=\"2 3\" # x\n", "A"), Some("2 3"));
    }
}
