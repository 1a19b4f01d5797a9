//! What a name in the drop directory says: leave it alone, or look at it; and how it is shown.
//!
//! What is taken for what, by its ending, stands in `kind`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Names with these endings are unfinished, or ours, or companions of something else.
const IGNORED_ENDINGS: [&str; 9] =
    [".part", ".tmp", ".partial", "~", ".swp", ".error.json", ".report.json", ".mf", ".sha256"];

/// Whether intake leaves this name alone.
pub(super) fn is_ignored(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.first() == Some(&b'.')
        || bytes == b"lost+found"
        || IGNORED_ENDINGS.iter().any(|ending| bytes.ends_with(ending.as_bytes()))
}

/// The name, if it can be told to people and stored as it is; else why not.
pub(super) fn readable(name: &OsStr) -> Result<&str, &'static str> {
    let Some(text) = name.to_str() else { return Err("its name is not UTF-8") };
    if text.chars().any(char::is_control) {
        return Err("its name holds control characters");
    }
    Ok(text)
}

/// The name with everything that could trick a terminal or a script made visible: `a\nb` → `a%0Ab`.
pub(super) fn printable(name: &OsStr) -> String {
    if let Ok(text) = readable(name) {
        return text.to_owned();
    }
    let mut safe = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().for_each(|byte| safe.push_str(&format!("%{byte:02X}")));
            } else {
                safe.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| safe.push_str(&format!("%{byte:02X}")));
    }
    safe
}

/// A name for `failed/`: printable, and short enough that `-<number>` and `.error.json` still fit.
pub(super) fn for_failed(name: &OsStr) -> OsString {
    const ROOM_BYTES: usize = 255 - ".error.json".len() - "-99999".len();
    let mut safe = printable(name);
    if safe.len() > ROOM_BYTES {
        let extension = safe.rfind('.').filter(|dot| safe.len() - dot <= 16).map(|dot| safe.split_off(dot));
        let extension = extension.unwrap_or_default();
        let mut room = safe.len().min(ROOM_BYTES - extension.len());
        while !safe.is_char_boundary(room) {
            room -= 1;
        }
        safe.truncate(room);
        safe.push_str(&extension);
    }
    OsString::from(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_hidden_and_own_files_are_left_alone() {
        for name in [
            ".x.json",
            "x.json.part",
            "x.tmp",
            "x.json.partial",
            "x.json~",
            ".x.swp",
            "x.swp",
            "x.json.error.json",
            "x.report.json",
            "x.mf",
            "x.sha256",
            "lost+found",
        ] {
            assert!(is_ignored(OsStr::new(name)), "{name}");
        }
        for name in ["x.json", "-rf.json", "a b.yaml", "x", "part", "error.json", "x.part.json", "tmp"] {
            assert!(!is_ignored(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn strange_names_become_names_that_can_be_shown() {
        assert_eq!(printable(OsStr::new("-rf a.json")), "-rf a.json");
        assert_eq!(printable(OsStr::new("a\n\u{1b}[2J.json")), "a%0A%1B[2J.json");
        assert_eq!(printable(OsStr::from_bytes(b"a\xff.json")), "a%FF.json");
        assert_eq!(printable(OsStr::new("a\u{9b}b")), "a%C2%9Bb");
    }

    #[test]
    fn long_names_leave_room_for_what_is_added() {
        let long = format!("{}.json", "é".repeat(125));
        let name = for_failed(OsStr::new(&long));
        assert!(name.len() + ".error.json".len() + 6 <= 255);
        assert!(name.to_str().unwrap().ends_with(".json"));
    }
}
