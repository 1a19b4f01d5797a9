//! A checksum that lies beside a disk: `<disk>.sha256`, as `sha256sum` writes it or the digits alone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::file::{self, Content};

const ENDING: &str = ".sha256";

/// What lies beside a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Nothing.
    None,
    /// A file that holds no checksum of the disk (yet).
    Unreadable,
    /// Its SHA-256, in lower-case hex.
    Is(String),
}

/// The name of the file with a disk's checksum.
pub(super) fn name_for(disk: &str) -> String {
    format!("{disk}{ENDING}")
}

/// The file whose checksum a file of this name holds.
pub(super) fn subject(name: &OsStr) -> Option<OsString> {
    let stem = name.as_bytes().strip_suffix(ENDING.as_bytes())?;
    (!stem.is_empty()).then(|| OsString::from_vec(stem.to_vec()))
}

/// Looks beside a disk of the drop directory. Anything that cannot be read counts as a file without a checksum.
pub(super) fn beside(incoming: &Path, disk: &str) -> Checksum {
    match file::read(&incoming.join(name_for(disk))) {
        Ok(Content::Whole(bytes, _)) => {
            parse(&String::from_utf8_lossy(&bytes), disk).map_or(Checksum::Unreadable, Checksum::Is)
        }
        Ok(Content::TooLarge(_)) | Err(_) => Checksum::Unreadable,
        Ok(Content::Unsteady) => match std::fs::symlink_metadata(incoming.join(name_for(disk))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Checksum::None,
            _ => Checksum::Unreadable,
        },
    }
}

/// The checksum of a file of this name: the line with its name, or the only word there is.
fn parse(text: &str, disk: &str) -> Option<String> {
    let words = |line: &str| -> Option<(String, Option<String>)> {
        let line = line.trim();
        let (digits, name) = match line.split_once(char::is_whitespace) {
            // A star marks a file that was read as binary.
            Some((digits, name)) => (digits, Some(name.trim_start().trim_start_matches('*').to_owned())),
            None => (line, None),
        };
        let is_sum = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sum.then(|| (digits.to_ascii_lowercase(), name))
    };
    let lines: Vec<_> = text.lines().filter_map(words).collect();
    let is_it = |name: &str| Path::new(name).file_name() == Some(OsStr::new(disk));
    let by_name = lines.iter().find(|(_, name)| name.as_deref().is_some_and(is_it));
    let alone = || match lines.as_slice() {
        [only] if only.1.is_none() => Some(only),
        _ => None,
    };
    by_name.or_else(alone).map(|(digits, _)| digits.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_checksum_is_found_as_sha256sum_writes_it_or_alone() {
        for text in [
            format!("{SUM}  web.qcow2\n"),
            format!("{SUM} *web.qcow2\n"),
            format!("{SUM}  /srv/export/web.qcow2\n"),
            format!("{}\n", SUM.to_uppercase()),
            format!("{}  other.qcow2\n{SUM}  web.qcow2\n", "f".repeat(64)),
        ] {
            assert_eq!(parse(&text, "web.qcow2").as_deref(), Some(SUM), "{text}");
        }
    }

    #[test]
    fn a_checksum_of_something_else_is_none() {
        for text in [
            String::new(),
            format!("{SUM}  other.qcow2\n"),
            SUM[..63].to_owned(),
            format!("SHA256 (web.qcow2) = {SUM}"),
        ] {
            assert_eq!(parse(&text, "web.qcow2"), None, "{text}");
        }
    }

    #[test]
    fn the_name_tells_whose_it_is() {
        assert_eq!(subject(OsStr::new("web.qcow2.sha256")), Some("web.qcow2".into()));
        assert_eq!(subject(OsStr::new(".sha256")), None);
        assert_eq!(subject(OsStr::new("web.qcow2")), None);
    }
}
