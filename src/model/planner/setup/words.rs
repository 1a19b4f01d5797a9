//! The grammars of names that end in a guest's files: what does not fit could mean more there than it says.
//!
//! Each is told with what is allowed. What is not here: whether what a name stands for exists, which only the guest knows.

use super::refused;
use crate::model::error::Result;
use crate::model::parse::Tree;

/// The longest name of an account that tools print and accept.
const MOST_ACCOUNT: usize = 32;
/// The longest name of a host that Linux keeps.
pub(super) const MOST_HOST: usize = 64;
const MOST_LABEL: usize = 63;
/// What stands before and behind it makes no name of a file too long.
const MOST_FILE: usize = 100;
const MOST_UNIT: usize = 200;
/// What units are, by the ends of their names.
const UNIT_TYPES: [&str; 7] = ["service", "socket", "timer", "path", "target", "mount", "swap"];

/// The name of an account or a group.
pub(super) fn account(tree: &Tree, field: &str, name: &str) -> Result<String> {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    let goes_on = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.len() <= MOST_ACCOUNT && name.starts_with(begins) && name.chars().all(goes_on) {
        return Ok(name.to_owned());
    }
    Err(refused(
        tree,
        field,
        format!("`{}` cannot be the name of an account", name.escape_debug()),
        "a letter or `_`, then letters, digits, `_`, `.` and `-`; at most 32",
        "write it as `getent passwd` or `getent group` would show it",
    ))
}

/// A host's name, with or without a domain.
pub(super) fn host(tree: &Tree, field: &str, name: &str) -> Result<String> {
    let label = |label: &str| {
        (1..=MOST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(name.to_owned());
    }
    Err(refused(
        tree,
        field,
        format!("`{}` is not the name of a host", name.escape_debug()),
        "labels of letters, digits and `-`, with dots between",
        "as web01 or web01.example.com",
    ))
}

/// A name without a directory.
pub(super) fn file(tree: &Tree, field: &str, name: &str) -> Result<String> {
    let begins = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let goes_on = |c: char| begins(c) || ".-".contains(c);
    if name.len() <= MOST_FILE && name.starts_with(begins) && name.chars().all(goes_on) {
        return Ok(name.to_owned());
    }
    Err(refused(
        tree,
        field,
        format!("`{}` cannot be part of a file's name here", name.escape_debug()),
        "letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`; at most 100",
        "it names a file inside the guest: choose a plain word",
    ))
}

/// The name of a unit; without an ending it is a service.
pub(super) fn unit(tree: &Tree, field: &str, name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.\\@:".contains(c);
    let full = match name.rsplit_once('.') {
        Some((stem, end)) if UNIT_TYPES.contains(&end) && !stem.is_empty() => name.to_owned(),
        _ => format!("{name}.service"),
    };
    let begins = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if full.len() <= MOST_UNIT && full.starts_with(begins) && full.chars().all(plain) {
        return Ok(full);
    }
    Err(refused(
        tree,
        field,
        format!("`{}` is not the name of a service", name.escape_debug()),
        "letters, digits and `-_.\\@:`, not beginning with a sign",
        "as `systemctl list-unit-files` shows it, for example chronyd or nginx.service",
    ))
}

/// An absolute path that may stand in a line of passwd.
pub(super) fn path(tree: &Tree, field: &str, path: &str) -> Result<String> {
    let parts = path.strip_prefix('/').map(|rest| rest.split('/').collect::<Vec<_>>());
    let good = parts.is_some_and(|parts| parts.iter().all(|part| !matches!(*part, "" | "." | "..")));
    if good && path.len() < 1024 && !path.contains([':', '\0', '\n', '\r', '\t']) {
        return Ok(path.to_owned());
    }
    Err(refused(
        tree,
        field,
        format!("`{}` is not an absolute path", path.escape_debug()),
        "from `/`, without `.`, `..`, `//` and `:`",
        "write it out as it is inside the guest",
    ))
}
