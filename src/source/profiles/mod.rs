//! Profiles: found in a directory, remembered while nothing they were read from has changed.
//!
//! What a name comes to is decided by the planner ([`resolve_profile`]); here the files are read, and the outcome is kept with how every place was
//! found that was looked at: the files of the whole chain, and the places where there was none. All of them are looked at again
//! each time, so nobody is ever given what no longer holds, and whoever asks gets the same answer; that is why one memory serves the process.
//! Only the configured directory is remembered: how many others there are is up to those who name them.

mod directory;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use self::directory::{Directory, Seen, path_of};
use crate::model::config::Settings;
use crate::model::error::{Error, Result};
use crate::model::manifest::PROFILE_NAMES;
use crate::model::planner::{ProfileFile, ResolvedProfile, profile_complaints, resolve_profile};
use crate::model::progress::ProfileStatus;

/// Far more than there are profiles; then the memory begins anew.
const MAX_KEPT: usize = 256;

static MEMORY: LazyLock<Memory> = LazyLock::new(Memory::default);

/// What profiles came to.
#[derive(Debug, Default)]
struct Memory {
    /// By the file that the name stands for, whether that is there or not.
    kept: Mutex<HashMap<PathBuf, Arc<Kept>>>,
    hits: AtomicU64,
    misses: AtomicU64,
    invalidations: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    profile: Arc<ResolvedProfile>,
    seen: Vec<Seen>,
}

/// One profile of a list.
#[derive(Debug)]
pub struct ListedProfile {
    /// Its name.
    pub name: String,
    /// Its file; none: it is built in.
    pub file: Option<PathBuf>,
    /// Whether it stands in the place of a built-in one.
    pub shadows: bool,
    /// What it comes to, or what is wrong with it.
    pub profile: Result<Arc<ResolvedProfile>>,
}

/// The profile of this name, custom ones lying in this directory: remembered.
pub fn kept(name: &str, directory: &Path) -> Result<Arc<ResolvedProfile>> {
    MEMORY.get(name, directory)
}

/// The same, read anew.
pub(super) fn fresh(name: &str, directory: &Path) -> Result<Arc<ResolvedProfile>> {
    resolve_profile(name, &mut Directory::at(directory)).map(Arc::new)
}

/// How often remembering helped in this process.
#[must_use]
pub fn statistics() -> ProfileStatus {
    MEMORY.statistics()
}

/// All profiles: the built-in ones, those in whose place custom ones stand as these, then the other custom ones.
pub fn list(directory: &Path) -> Result<Vec<ListedProfile>> {
    let custom = Directory::at(directory).list()?;
    let of = |name: &str| {
        let file = custom.iter().any(|custom| custom == name).then(|| path_of(directory, name));
        let is_builtin = PROFILE_NAMES.contains(&name);
        ListedProfile {
            name: name.to_owned(),
            shadows: is_builtin && file.is_some(),
            file,
            profile: kept(name, directory),
        }
    };
    let others = custom.iter().map(String::as_str).filter(|name| !PROFILE_NAMES.contains(name));
    Ok(PROFILE_NAMES.into_iter().chain(others).map(of).collect())
}

/// All that is wrong with a profile's file, as it would be in the configured directory.
#[must_use]
pub fn complaints(path: &Path, bytes: &[u8], settings: &Settings) -> Vec<Error> {
    let file = ProfileFile { path: path.to_owned(), bytes: bytes.to_vec() };
    profile_complaints(&file, settings, &mut Directory::at(&settings.profiles_dir))
}

impl Memory {
    fn get(&self, name: &str, directory: &Path) -> Result<Arc<ResolvedProfile>> {
        let key = path_of(directory, name);
        // Nothing is looked at while others wait for the memory.
        let known = self.kept().get(&key).cloned();
        if let Some(known) = known {
            if known.seen.iter().all(Seen::is_as_it_was) {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(Arc::clone(&known.profile));
            }
            self.invalidations.fetch_add(1, Ordering::Relaxed);
            self.kept().remove(&key);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let mut files = Directory::at(directory);
        let profile = Arc::new(resolve_profile(name, &mut files)?);
        let now = SystemTime::now();
        if files.seen.iter().all(|seen| seen.has_rested(now)) {
            let mut kept = self.kept();
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(key, Arc::new(Kept { profile: Arc::clone(&profile), seen: files.seen }));
        }
        Ok(profile)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn statistics(&self) -> ProfileStatus {
        ProfileStatus {
            kept: self.kept().len() as u64,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            invalidations: self.invalidations.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
