//! GRUB 2's `grub.cfg`: arguments of its entries, the menu that they make, and which of them starts.
//!
//! The file is made by the guest's own tools; it is edited where arguments stand, and nothing is made anew, so that the old and the new
//! text can be compared line by line. `set root=`, `search` and everything else of GRUB's language stays. What is not here: entries in
//! files of their own (see [`super::bls`]).

use super::arguments::{self, Wish};
use crate::guest::linux::text::{Rewritten, split_end};

/// Commands that load a kernel, then its arguments.
const LOAD_KERNEL: [&str; 4] = ["linux", "linux16", "linuxefi", "linux-rtk"];
/// Commands that load what a hypervisor starts: Xen's kernel, its initial RAM disk.
const LOAD_MODULE: [&str; 3] = ["module", "module2", "xen_module"];
/// Menus nest no deeper in a file that a tool has made.
const MOST_DEPTH: usize = 16;
/// Entries that are looked at: nobody could choose among more.
const MOST_ENTRIES: usize = 500;
/// Characters of a title or id.
const MOST_CHARACTERS: usize = 500;

/// An entry of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Titles of the menus that it lies in, and its own.
    pub(super) titles: Vec<String>,
    /// Ids likewise; empty where there is none.
    pub(super) ids: Vec<String>,
    /// Place in each of these menus, counted from 0.
    pub(super) places: Vec<usize>,
    /// The kernel that it loads, without directories.
    pub(super) kernel: Option<String>,
    /// Whether it is for mending the system.
    pub(super) recovery: bool,
}

impl Entry {
    /// What `set default=` calls it: by title at the top, as RHEL's tools expect, else by ids.
    #[must_use]
    pub(super) fn name(&self) -> Option<String> {
        let titles =
            || self.titles.iter().map(|title| title.replace('>', ">>")).collect::<Vec<_>>().join(">");
        let name = if self.titles.len() == 1 || self.ids.iter().any(String::is_empty) {
            titles()
        } else {
            self.ids.join(">")
        };
        let plain = !name.is_empty()
            && !name.contains(['"', '\'', '\\', '$', '`'])
            && !name.contains(char::is_control);
        plain.then_some(name)
    }
}

/// Renames devices in the arguments of every entry, and adds a console to those that start a system.
#[must_use]
pub(super) fn rewrite(text: &str, wish: Wish<'_>) -> Rewritten {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 1024);
    for (index, line) in lines.iter().enumerate() {
        let (body, end) = split_end(line);
        let Some((before, arguments, after)) = arguments_of(body) else {
            new.push_str(line);
            continue;
        };
        let is_kernel = is_load(body, &LOAD_KERNEL);
        let initramfs = !is_kernel || has_initramfs(&lines[index + 1..]);
        // What has no root is no system: a memory test.
        let console = wish.console && is_system(body, arguments);
        new.push_str(before);
        new.push_str(&arguments::rewrite(arguments, Wish { initramfs, console, ..wish }, &mut result));
        new.push_str(after);
        new.push_str(end);
    }
    result.text = new;
    result
}

/// A line taken apart where kernel arguments stand in it.
fn arguments_of(body: &str) -> Option<(&str, &str, &str)> {
    if is_load(body, &LOAD_KERNEL) || is_load(body, &LOAD_MODULE) {
        let mut words = arguments::words(body);
        let (command, file) = (words.next()?, words.next()?);
        let at = command.0.len() + command.1.len() + file.0.len() + file.1.len();
        return Some((&body[..at], &body[at..], ""));
    }
    let start = body.len() - body.trim_start().len();
    if body[start..].starts_with("set rootpartition=") {
        // Photon names the root once, for all its entries.
        let at = start + "set ".len();
        return Some((&body[..at], &body[at..], ""));
    }
    // RHEL 8 and later: the arguments of entries whose block has none.
    let rest = body[start..].strip_prefix("set kernelopts=\"")?;
    let length = rest.find('"')?;
    let at = body.len() - rest.len();
    Some((&body[..at], &body[at..at + length], &body[at + length..]))
}

fn is_system(body: &str, arguments: &str) -> bool {
    let is_kernel = is_load(body, &LOAD_KERNEL);
    (is_kernel || body.trim_start().starts_with("set kernelopts="))
        && arguments::value(arguments, "root").is_some()
}

fn is_load(body: &str, commands: &[&str]) -> bool {
    body.split_ascii_whitespace().next().is_some_and(|word| commands.contains(&word))
}

/// Whether an initial RAM disk is loaded before the next kernel or the entry's end.
fn has_initramfs(following: &[&str]) -> bool {
    for line in following {
        let word = line.split_ascii_whitespace().next().unwrap_or("");
        if word.starts_with("initrd") {
            return true;
        }
        if word == "}" || word == "menuentry" || LOAD_KERNEL.contains(&word) {
            return false;
        }
    }
    false
}

/// The entries, in order.
#[must_use]
pub(super) fn menu(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut open: Vec<Option<(String, String, usize)>> = Vec::new();
    let mut counts: Vec<usize> = vec![0];
    for line in text.lines() {
        let line = line.trim();
        let word = line.split_ascii_whitespace().next().unwrap_or("");
        let is_menu = word == "menuentry" || word == "submenu";
        if (is_menu || word == "function") && line.ends_with('{') && open.len() < MOST_DEPTH {
            if !is_menu {
                open.push(None);
                continue;
            }
            let place = counts.last().copied().unwrap_or(0);
            if let Some(count) = counts.last_mut() {
                *count += 1;
            }
            let (title, id) = title_and_id(line);
            open.push(Some((title, id, place)));
            counts.push(0);
            if word == "menuentry" {
                if entries.len() == MOST_ENTRIES {
                    break;
                }
                entries.push(entry(&open));
            }
        } else if word == "}" && open.pop().flatten().is_some() {
            counts.pop();
        } else if is_load(line, &LOAD_KERNEL) && open.last().is_some_and(Option::is_some) {
            let Some(entry) = entries.last_mut().filter(|entry| entry.kernel.is_none()) else { continue };
            let file = line.split_ascii_whitespace().nth(1).unwrap_or("").trim_matches(['"', '\'']);
            entry.kernel = file.rsplit('/').next().map(str::to_owned);
            entry.recovery |=
                line.split_ascii_whitespace().any(|word| ["single", "recovery", "rescue"].contains(&word));
        }
    }
    entries
}

fn entry(open: &[Option<(String, String, usize)>]) -> Entry {
    let path = || open.iter().flatten();
    let titles: Vec<String> = path().map(|(title, ..)| title.clone()).collect();
    let own = titles.last().map(|title| title.to_lowercase()).unwrap_or_default();
    Entry {
        recovery: ["recovery mode", "rescue", "failsafe"].iter().any(|word| own.contains(word)),
        titles,
        ids: path().map(|(_, id, _)| id.clone()).collect(),
        places: path().map(|(.., place)| *place).collect(),
        kernel: None,
    }
}

/// `menuentry 'title' … $menuentry_id_option 'id' {`
fn title_and_id(line: &str) -> (String, String) {
    let words = unquoted(line);
    let word = |at: usize| words.get(at).map(|word| word.chars().take(MOST_CHARACTERS).collect::<String>());
    let after = |name: &str| words.iter().position(|word| word == name).and_then(|at| word(at + 1));
    let id = after("$menuentry_id_option").or_else(|| after("--id")).unwrap_or_default();
    (word(1).unwrap_or_default(), id)
}

/// Words as GRUB's shell splits them.
fn unquoted(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The entry that a default means: `0`, `1>2`, a title, an id, or a path of these.
#[must_use]
pub(super) fn find<'m>(menu: &'m [Entry], default: &str) -> Option<&'m Entry> {
    let parts: Vec<String> =
        default.replace(">>", "\0").split('>').map(|part| part.replace('\0', ">")).collect();
    let is_part = |entry: &Entry, depth: usize, part: &str| {
        entry.places.get(depth).is_some_and(|place| part.parse() == Ok(*place))
            || entry.titles.get(depth).is_some_and(|title| title == part)
            || entry.ids.get(depth).is_some_and(|id| !id.is_empty() && id == part)
    };
    // Of a menu in the menu, its first entry starts.
    menu.iter().find(|entry| parts.iter().enumerate().all(|(depth, part)| is_part(entry, depth, part)))
}

/// The values that `set default=` gives, other than the one for a single start.
fn is_default(body: &str) -> Option<(&str, &str, &str)> {
    let start = body.len() - body.trim_start().len();
    let rest = body[start..].strip_prefix("set default=")?;
    let at = body.len() - rest.len();
    let quote = rest.chars().next().filter(|c| *c == '"' || *c == '\'');
    let from = at + usize::from(quote.is_some());
    let length = match quote {
        Some(quote) => body[from..].find(quote)?,
        None => body[from..].find(char::is_whitespace).unwrap_or(body.len() - from),
    };
    let value = &body[from..from + length];
    (!value.contains("next_entry")).then_some((&body[..from], value, &body[from + length..]))
}

/// What starts if nobody chooses, in this file's words: `0`, `${saved_entry}`.
#[must_use]
pub(super) fn default(text: &str) -> Option<&str> {
    text.lines().find_map(|line| is_default(line).map(|(_, value, _)| value))
}

/// Makes another entry the one that starts.
#[must_use]
pub(super) fn with_default(text: &str, name: &str) -> String {
    let mut new = String::with_capacity(text.len() + 128);
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        match is_default(body) {
            Some((before, _, after)) if before.ends_with(['"', '\'']) => {
                new.push_str(&format!("{before}{name}{after}{end}"));
            }
            Some((before, _, after)) => new.push_str(&format!("{before}\"{name}\"{after}{end}")),
            None => new.push_str(line),
        }
    }
    new
}

#[cfg(test)]
#[path = "grub_cfg_tests.rs"]
mod tests;
