//! Where a file of a datastore is, and how a URL names it.
//!
//! ```text
//!   [ds 1] web+db/web.vmdk   ─▶   /folder/web%2Bdb/web.vmdk?dcPath=DC0&dsName=ds%201
//! ```
//!
//! Names are taken as they are: a `%2f` in one is three characters, as vSphere writes a slash in a name. What is not here: asking for it.

use std::fmt;

use crate::model::error::{Error, Kind, Result};

/// No path is longer.
const MOST_BYTES: usize = 4096;

/// A file, or a directory, of a datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatastorePath {
    pub(crate) datastore: String,
    /// Without a slash at either end; empty is the datastore itself.
    pub(crate) path: String,
}

impl fmt::Display for DatastorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.datastore, self.path)
    }
}

impl DatastorePath {
    /// `[datastore] directory/file`.
    pub(crate) fn parse(text: &str) -> Result<DatastorePath> {
        let unfit = |why: &str| {
            let shown: String = text.chars().take(200).collect();
            Error::new(Kind::Source, format!("`{shown}` is no path on a datastore: {why}"))
                .advice("paths are as vSphere shows them: `[datastore] directory/file.vmdk`")
        };
        if text.len() > MOST_BYTES {
            return Err(unfit("it is too long"));
        }
        let (datastore, path) = text
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .ok_or_else(|| unfit("it does not begin with `[datastore]`"))?;
        let path = path.trim_start_matches(' ').trim_end_matches('/');
        if datastore.is_empty() {
            return Err(unfit("the datastore has no name"));
        }
        if text.chars().any(char::is_control) {
            return Err(unfit("it has characters that no name has"));
        }
        if !path.is_empty() && !path.split('/').all(is_name) {
            return Err(unfit("a part of it is empty, `.` or `..`"));
        }
        Ok(DatastorePath { datastore: datastore.to_owned(), path: path.to_owned() })
    }

    /// A file beside this one.
    pub(crate) fn beside(&self, name: &str) -> Result<DatastorePath> {
        if !is_name(name) || name.contains(['/', '\\']) {
            return Err(Error::new(
                Kind::Source,
                format!("{self} names a file in another directory: `{name}`"),
            )
            .rule("disk.outside")
            .advice("have the disk moved into one directory: migrate the VM to another datastore and back"));
        }
        let directory =
            self.path.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
        DatastorePath::parse(&format!("[{}] {directory}{name}", self.datastore))
    }

    /// What a GET asks for.
    pub(crate) fn target(&self, datacenter: &str) -> String {
        let (path, datacenter, datastore) =
            (encoded(&self.path, true), encoded(datacenter, false), encoded(&self.datastore, false));
        format!("/folder/{path}?dcPath={datacenter}&dsName={datastore}")
    }
}

/// Whether something can be the name of a file.
pub(super) fn is_name(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
}

/// Everything that could mean something in a URL is written as its bytes.
fn encoded(text: &str, keeps_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain =
            byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keeps_slashes && byte == b'/');
        if is_plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_as_they_are() {
        for (text, datacenter, target) in [
            ("[ds1] web/web.vmdk", "DC0", "/folder/web/web.vmdk?dcPath=DC0&dsName=ds1"),
            ("[ds 1] a b+c/d.vmdk", "F0/DC 1", "/folder/a%20b%2Bc/d.vmdk?dcPath=F0%2FDC%201&dsName=ds%201"),
            (
                "[dß] a%2fb/ü?#&.vmdk",
                "x&y",
                "/folder/a%252fb/%C3%BC%3F%23%26.vmdk?dcPath=x%26y&dsName=d%C3%9F",
            ),
            ("[ds1]", "DC0", "/folder/?dcPath=DC0&dsName=ds1"),
        ] {
            assert_eq!(DatastorePath::parse(text).unwrap().target(datacenter), target, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("[ds1] {}", "a".repeat(5000));
        for text in [
            "",
            "ds1/web.vmdk",
            "[ds1",
            "[] a",
            "[ds1] ../a",
            "[ds1] a//b",
            "[ds1] /a",
            "[ds1] a\0b",
            "[ds1] a/./b",
            &long,
        ] {
            assert_eq!(DatastorePath::parse(text).unwrap_err().kind(), Kind::Source, "{text}");
        }
    }

    #[test]
    fn a_file_beside_another_is_in_its_directory_and_nowhere_else() {
        let disk = DatastorePath::parse("[ds1] web/web.vmdk").unwrap();
        assert_eq!(disk.beside("web-flat.vmdk").unwrap().to_string(), "[ds1] web/web-flat.vmdk");
        let top = DatastorePath::parse("[ds1] web.vmdk").unwrap();
        assert_eq!(top.beside("x").unwrap().to_string(), "[ds1] x");
        for name in ["../other/x.vmdk", "/vmfs/devices/disks/x", "..", "", "a\\b", "a\nb"] {
            assert!(disk.beside(name).is_err(), "{name}");
        }
    }
}
