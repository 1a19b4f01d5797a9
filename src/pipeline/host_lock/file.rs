//! What `.hyper2kvm-lock` says, as bytes: read as a stranger's file, written so that no kill leaves half of it.
//!
//! ```text
//!   {"heartbeat_at":  1764402123.123,      the first line, of one length: a sign of life is written over it, and over nothing else
//!   "version":1,"host":…,"token":…,…}      who holds it
//!   (blanks)                               up to a whole number of pages
//! ```
//!
//! Who has it changes it in place, through the open file: what was put in its place meanwhile is not touched by that. What is not
//! here: who may (see [`super::take`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::error::{Error, Kind, Result};
use crate::sys::dir::Dir;
use crate::sys::time::now_epoch;

/// Its name.
pub const LOCK_NAME: &str = ".hyper2kvm-lock";

/// The version of the format. One of a newer version is nobody's to judge.
const VERSION: u32 = 1;
/// No lock is larger: some hundred batches.
const LIMIT_BYTES: u64 = 64 * 1024;
/// Who shares the directory may read who holds it.
const MODE: u32 = 0o644;
/// One write of so much is there or not.
const PAGE: usize = 4096;
/// Between two halves of a write nobody waits longer.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Program {
    /// A service: it goes on with its batches when it is started again.
    Daemon,
    /// A conversion by hand: it is over with its process.
    Convert,
}

/// For whom it is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The batch.
    pub batch_id: String,
    /// Whose process.
    pub pid: u32,
    /// When that began (see [`crate::sys::host::process_began`]).
    pub began: u64,
    /// Given away: this host writes nothing for the batch any more.
    pub released: bool,
}

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lock {
    /// The newest sign of life, by the clock of the host: for people.
    pub heartbeat_at: f64,
    version: u32,
    /// What tells the host from every other: of a service, its machine and its queue.
    pub host: String,
    /// What people call it.
    pub host_name: String,
    /// What tells the machine from every other.
    pub machine: String,
    /// The run of its kernel.
    pub boot_id: Option<String>,
    /// What tells this holding from every other.
    pub token: String,
    /// What holds it.
    pub program: Program,
    /// Since when, by the clock of the host: for people.
    pub taken_at: f64,
    /// How often it gives a sign of life.
    pub heartbeat_every_s: f64,
    /// For what. Nobody: it is free.
    pub holders: Vec<Holder>,
}

impl Lock {
    pub(super) fn new(parts: (&str, &str, &str), program: Program, every_s: f64, token: String) -> Lock {
        let (host, host_name, machine) = parts;
        let now = now_epoch();
        Lock {
            heartbeat_at: now,
            version: VERSION,
            host: host.to_owned(),
            host_name: host_name.to_owned(),
            machine: machine.to_owned(),
            boot_id: crate::sys::boot::boot_id(),
            token,
            program,
            taken_at: now,
            heartbeat_every_s: every_s,
            holders: Vec::new(),
        }
    }

    /// Whether everything that it was held for has been given away.
    pub(super) fn is_released(&self) -> bool {
        self.holders.iter().all(|holder| holder.released)
    }

    /// The lock of a directory; none where there is no such name. Nothing is followed and nothing believed: what is no lock is an error.
    pub(super) fn read(dir: &Dir) -> Result<Option<Lock>> {
        let mut looks = 0;
        loop {
            let read = dir.read(LOCK_NAME, LIMIT_BYTES);
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(None),
                Err(error) if is_no_lock(&error) => return Err(no_lock(dir, &error.to_string())),
                Err(error) => {
                    return Err(Error::io(Kind::Output, "read", &dir.path().join(LOCK_NAME), &error)
                        .output(dir.path())
                        .advice(
                            "check the storage that the results lie on; nothing is written there meanwhile",
                        )
                        .transient());
                }
            };
            looks += 1;
            match serde_json::from_slice::<Lock>(&bytes) {
                Ok(lock) if lock.version == VERSION && lock.is_sound() => return Ok(Some(lock)),
                Ok(lock) if lock.version > VERSION => {
                    return Err(no_lock(dir, &format!("it is of a newer version ({})", lock.version)));
                }
                Ok(_) => return Err(no_lock(dir, "what it says makes no sense")),
                // It may be in the midst of being written.
                Err(_) if looks < LOOKS => thread::sleep(LOOK_AGAIN),
                Err(error) => return Err(no_lock(dir, &error.to_string())),
            }
        }
    }

    fn is_sound(&self) -> bool {
        let times = [self.heartbeat_at, self.taken_at, self.heartbeat_every_s];
        !self.token.is_empty() && !self.host.is_empty() && times.iter().all(|time| time.is_finite())
    }

    /// Puts it where none is; `AlreadyExists` where somebody else was first.
    pub(super) fn create(&self, dir: &Dir) -> io::Result<()> {
        let temporary = self.temporary();
        dir.write_fresh(&temporary, &self.encode()?, MODE)?;
        dir.rename_noreplace(&temporary, LOCK_NAME).inspect_err(|_| drop(dir.remove(&temporary)))?;
        dir.sync()
    }

    /// Puts it in the place of another host's.
    pub(super) fn replace(&self, dir: &Dir) -> io::Result<()> {
        let temporary = self.temporary();
        dir.write_fresh(&temporary, &self.encode()?, MODE)?;
        dir.rename_over(&temporary, LOCK_NAME).inspect_err(|_| drop(dir.remove(&temporary)))?;
        dir.sync()
    }

    /// Writes it over the file that holds the lock with this token; `false` if that is not there any more.
    pub(super) fn rewrite(&self, dir: &Dir, token: &str) -> io::Result<bool> {
        let Some(file) = opened(dir, token)? else { return Ok(false) };
        let bytes = self.encode()?;
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        Ok(true)
    }

    /// A name that no other host uses, so that this one removes what it left by it when it was killed.
    fn temporary(&self) -> String {
        beside(&self.host)
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        let Some((_, rest)) = text.split_once(',') else { return Err(io::ErrorKind::InvalidData.into()) };
        let mut bytes = first_line(self.heartbeat_at).into_bytes();
        bytes.extend(rest.as_bytes());
        let whole = bytes.len().div_ceil(PAGE) * PAGE;
        bytes.resize(whole, b' ');
        Ok(bytes)
    }
}

/// The name of what a host writes beside the lock for a moment.
pub(super) fn beside(host: &str) -> String {
    format!("{LOCK_NAME}.{host}.tmp")
}

/// Removes what hosts that are gone have left beside the lock.
pub(super) fn clear_beside(dir: &Dir) -> io::Result<()> {
    for name in dir.names()? {
        let is_left = |name: &&str| name.strip_prefix(LOCK_NAME).is_some_and(|rest| rest.ends_with(".tmp"));
        if let Some(name) = name.to_str().filter(is_left) {
            dir.remove(name)?;
        }
    }
    Ok(())
}

/// Writes a sign of life into the file that holds the lock with this token; `false` if that is not there any more.
pub(super) fn beat(dir: &Dir, token: &str) -> io::Result<bool> {
    let Some(file) = opened(dir, token)? else { return Ok(false) };
    file.write_all_at(first_line(now_epoch()).as_bytes(), 0)?;
    file.sync_data()?;
    Ok(true)
}

/// Of one length until the year 2286.
fn first_line(heartbeat_at: f64) -> String {
    format!("{{\"heartbeat_at\":{heartbeat_at:>15.3},\n")
}

/// The very file whose content was looked at: another one that takes its name is another file.
fn opened(dir: &Dir, token: &str) -> io::Result<Option<File>> {
    let file = match dir.open_to_change(LOCK_NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len().min(LIMIT_BYTES)).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0)?;
    let is_it = serde_json::from_slice::<Lock>(&bytes).is_ok_and(|lock| lock.token == token);
    Ok(is_it.then_some(file))
}

/// What a name that is no plain file of a bearable size says when it is opened; everything else may pass.
fn is_no_lock(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge)
        || matches!(code, Some(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO | rustix::io::Errno::ISDIR))
}

fn no_lock(dir: &Dir, why: &str) -> Error {
    let path = dir.path().join(LOCK_NAME);
    Error::new(Kind::Output, format!("{} is no lock of hyper2kvm: {why}", path.display()))
        .output(path)
        .advice("nothing was written there: find out who made it, and remove it if no other host works in that directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(batches: usize) -> Lock {
        let mut lock = Lock::new(("host", "a", "machine"), Program::Daemon, 10.0, "token".to_owned());
        lock.holders = (0..batches)
            .map(|number| Holder { batch_id: format!("batch-{number}"), pid: 7, began: 8, released: false })
            .collect();
        lock
    }

    #[test]
    fn a_lock_is_read_as_it_was_written_and_a_sign_of_life_changes_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        for batches in [1, 100, 2] {
            let _ = dir.remove(LOCK_NAME);
            let written = Lock { heartbeat_at: 12.5, ..lock(batches) };
            written.create(&dir).unwrap();
            assert_eq!(Lock::read(&dir).unwrap().unwrap(), written);
            assert!(beat(&dir, "token").unwrap());
            let read = Lock::read(&dir).unwrap().unwrap();
            assert!(read.heartbeat_at > 12.5);
            assert_eq!(Lock { heartbeat_at: 12.5, ..read }, written);
        }
        assert!(lock(1).rewrite(&dir, "token").unwrap());
        assert_eq!(Lock::read(&dir).unwrap().unwrap().holders.len(), 1);
        assert_eq!(dir.names().unwrap(), [LOCK_NAME], "nothing else is left");
    }

    #[test]
    fn only_the_file_that_holds_the_token_is_changed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        lock(1).create(&dir).unwrap();
        let before = std::fs::read(temp.path().join(LOCK_NAME)).unwrap();
        assert!(!beat(&dir, "another").unwrap() && !lock(2).rewrite(&dir, "another").unwrap());
        assert_eq!(std::fs::read(temp.path().join(LOCK_NAME)).unwrap(), before);
        assert_eq!(lock(1).create(&dir).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_is_no_lock_is_an_error_that_names_it_and_stays() {
        let newer = serde_json::to_string(&lock(1)).unwrap().replace("\"version\":1", "\"version\":2");
        let blank = serde_json::to_string(&Lock { token: String::new(), ..lock(1) }).unwrap();
        let large = "x".repeat(LIMIT_BYTES as usize + 1);
        for content in ["", "{", "[]", "null", &newer, &blank, &large] {
            let temp = tempfile::tempdir().unwrap();
            std::fs::write(temp.path().join(LOCK_NAME), content).unwrap();
            let error = Lock::read(&Dir::open(temp.path()).unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::Output, "{error}");
            assert!(error.to_string().contains(LOCK_NAME), "{error}");
        }
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", temp.path().join(LOCK_NAME)).unwrap();
        assert_eq!(Lock::read(&Dir::open(temp.path()).unwrap()).unwrap_err().kind(), Kind::Output);
    }
}
