//! A guest's files as inspection reads them: bounded, links followed only inside the guest, nothing written.
//!
//! What is absent is `None`; what cannot be read because the file system is damaged is an error, so that a damaged guest is not taken for
//! an empty one. What is not here: changes (see [`crate::guest::tree`]).

use crate::guest::appliance::Appliance;
use crate::guest::tree::shown;
use crate::model::error::{Error, Kind, Result};

/// Configuration is small; of what is larger, nothing is read.
const TEXT_LIMIT_BYTES: u64 = 2 * 1024 * 1024;
/// More names than this in one place are no configuration.
const MOST_NAMES: usize = 20_000;

/// A mounted guest, to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    appliance: &'a Appliance,
}

impl<'a> Files<'a> {
    pub(super) fn new(appliance: &'a Appliance) -> Files<'a> {
        Files { appliance }
    }

    /// A plain file's bytes; `None` where there is none, or one that is too large to be configuration.
    pub(super) fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let look = |path: &str| self.appliance.look(path).map_err(|why| damaged(path, &why));
        let Some(mut stat) = look(path)? else { return Ok(None) };
        let mut real = path.to_owned();
        if stat.is_link() {
            let target = self.appliance.real_path(path).map_err(|why| damaged(path, &why))?;
            let Some(target) = target else { return Ok(None) };
            let Some(found) = look(&target)? else { return Ok(None) };
            (real, stat) = (target, found);
        }
        // A pipe would never end, and a device is none of the guest's files.
        if !stat.is_file() || stat.size > TEXT_LIMIT_BYTES {
            return Ok(None);
        }
        self.appliance.read(&real, stat.size).map(Some).map_err(|why| damaged(path, &why))
    }

    /// A plain file's text; what is not UTF-8 in it is replaced.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>> {
        Ok(self.bytes(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Which of these are there, in the shell's words, with one question for all. Directories have no `/` at the end.
    pub(super) fn matching(&self, patterns: &[&str]) -> Result<Vec<String>> {
        // The library wants the first letter to be a slash, and a pattern of many begins with a brace.
        let relative: Vec<&str> = patterns.iter().map(|pattern| pattern.trim_start_matches('/')).collect();
        let all = format!("/{{{},}}", relative.join(","));
        let found = self.appliance.glob(&all).map_err(|why| damaged(&all, &why))?;
        Ok(found
            .into_iter()
            .take(MOST_NAMES)
            .filter(|path| path != "/")
            .map(|path| path.strip_suffix('/').map(str::to_owned).unwrap_or(path))
            .collect())
    }
}

fn damaged(path: &str, why: &str) -> Error {
    Error::new(Kind::Guest, format!("{} of the guest cannot be read: {}", shown(path), shown(why)))
        .advice("check the guest's file systems in the source machine (`fsck`), then try again")
}
