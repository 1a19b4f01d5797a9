//! Names of machines and of their snapshots, as far as libvirt's and QEMU's files can carry them.

use std::path::Path;

use crate::model::error::{Error, Kind, Result};

/// libvirt makes names of files of it, with endings of its own, and a name of a file has 255 bytes.
const MOST_BYTES: usize = 220;

/// The name, if one can be called that. `of` says what: `a machine`.
pub(in crate::libvirt) fn checked<'n>(of: &str, name: &'n str) -> Result<&'n str> {
    let trouble = match name {
        _ if name.trim().is_empty() => "is empty",
        _ if name.chars().any(char::is_control) => "holds control characters",
        _ if name.contains('/') => "holds a slash",
        // Directories are called so.
        "." | ".." => "is that of a directory",
        _ if name.len() > MOST_BYTES => "is too long",
        _ => return Ok(name),
    };
    let shown: String = name.chars().take(64).collect();
    Err(Error::new(Kind::Manifest, format!("{of} cannot be called `{shown}`: that name {trouble}"))
        .advice(format!("use up to {MOST_BYTES} bytes on one line, without slashes and control characters")))
}

/// A path that libvirt is to use, on the host on which it runs.
pub(in crate::libvirt) fn checked_path(path: &Path) -> Result<&Path> {
    let is_plain = path.to_str().is_some_and(|text| !text.chars().any(char::is_control));
    match path.is_absolute() && is_plain {
        true => Ok(path),
        false => {
            Err(Error::new(Kind::Manifest, format!("libvirt cannot be told the path {}", path.display()))
                .advice("write it from / on, in UTF-8 and without control characters"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_file_can_carry_is_refused_and_strange_ones_are_not() {
        for bad in ["", " ", "a\0b", "a/b", "a\nb", ".", "..", &"x".repeat(221)] {
            let error = checked("a machine", bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Manifest);
            assert!(error.details().advice.is_some(), "{error}");
        }
        for good in ["web", "my web 1", "a.b", "日本", "it's \"x\" <&>", &"x".repeat(220), "-rf"] {
            assert_eq!(checked("a machine", good), Ok(good));
        }
    }

    #[test]
    fn a_path_is_whole_and_text() {
        assert!(checked_path(Path::new("/srv/a b's.qcow2")).is_ok());
        for bad in ["", "a", "../a", "/a\0b", "/a\nb"] {
            assert_eq!(checked_path(Path::new(bad)).unwrap_err().kind(), Kind::Manifest, "{bad}");
        }
    }
}
