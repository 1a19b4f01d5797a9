//! The files of a directory of profiles, and how each was found, so that it can be told later whether anything has changed.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::model::error::{Error, Kind, Result};
use crate::model::planner::{ProfileFile, ProfileFiles};
use crate::model::units::is_id;
use crate::source::plain::{self, NoFile};

/// The largest profile.
const MAX_PROFILE_BYTES: u64 = 256 << 10;

/// More names than these nobody reads.
const MAX_NAMES: usize = 1000;

/// A file that has not changed for so long shows its next change by its times; until then two changes may have the same.
const RESTED: Duration = Duration::from_millis(100);

/// A directory that profiles are looked for in.
#[derive(Debug)]
pub(super) struct Directory<'d> {
    path: &'d Path,
    /// What was looked at, and what was there.
    pub(super) seen: Vec<Seen>,
}

/// A place that was looked at.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    path: PathBuf,
    stamp: Option<Stamp>,
}

/// What differs between a file and any other that stands in its place later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether its last change is so long ago that another one has another time.
    fn has_rested(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let changed = Duration::new(
            u64::try_from(seconds).unwrap_or(u64::MAX),
            u32::try_from(nanoseconds).unwrap_or_default(),
        );
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(changed).is_some_and(|age| age >= RESTED)
    }
}

impl Seen {
    /// Whether what is there now is what was there then.
    pub(super) fn is_as_it_was(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(metadata) => self.stamp == Some(Stamp::of(&metadata)),
            Err(error) => self.stamp.is_none() && error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Whether the next change of it will be seen.
    pub(super) fn has_rested(&self, now: SystemTime) -> bool {
        self.stamp.is_none_or(|stamp| stamp.has_rested(now))
    }
}

impl<'d> Directory<'d> {
    pub(super) fn at(path: &'d Path) -> Directory<'d> {
        Directory { path, seen: Vec::new() }
    }

    /// The names of the profiles in it, in order; none if there is no such directory.
    pub(super) fn list(&self) -> Result<Vec<String>> {
        let failed = |error: io::Error| unreadable("list", self.path, &error);
        let entries = match fs::read_dir(self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".yaml"));
            names.extend(stem.filter(|stem| is_id(stem)).map(str::to_owned));
        }
        names.sort_unstable();
        names.truncate(MAX_NAMES);
        Ok(names)
    }
}

impl ProfileFiles for Directory<'_> {
    fn file(&mut self, name: &str) -> Result<Option<ProfileFile>> {
        let path = path_of(self.path, name);
        let bad = |why: &str, advice: &str| {
            Err(Error::new(Kind::Manifest, format!("{} {why}", path.display())).advice(advice))
        };
        let (file, metadata) = match plain::open(&path) {
            Ok(opened) => opened,
            Err(NoFile::Failed(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.seen.push(Seen { path, stamp: None });
                return Ok(None);
            }
            Err(NoFile::Failed(error)) => return Err(unreadable("read the profile", &path, &error)),
            Err(NoFile::Link) => return bad("is a symbolic link", "put the profile itself there"),
            Err(NoFile::NotPlain) => {
                return bad("is not a plain file", "put a profile there, as YAML or JSON");
            }
        };
        self.seen.push(Seen { path: path.clone(), stamp: Some(Stamp::of(&metadata)) });
        let mut bytes = Vec::new();
        file.take(MAX_PROFILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable("read the profile", &path, &error))?;
        if bytes.len() as u64 > MAX_PROFILE_BYTES {
            return bad("is larger than 256 KiB", "no profile needs that much: shorten it");
        }
        Ok(Some(ProfileFile { path, bytes }))
    }

    fn names(&mut self) -> Vec<String> {
        self.list().unwrap_or_default()
    }
}

/// Where the profile of this name lies in a directory of profiles.
pub(super) fn path_of(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.yaml"))
}

fn unreadable(what: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::io(Kind::Manifest, what, path, error).advice(
        "let whoever converts read it: a custom profile may stand in the place of a built-in one, so it is not passed over",
    )
}
