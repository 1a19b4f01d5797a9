//! Whether a machine that libvirt knows uses a file: names it, under whatever path, or has a disk that stands on it.
//!
//! Files are told by device and inode, so links of both kinds and other spellings lead to the same one. What is not here: locks, which those
//! hold who have a file open; and what follows from the answer.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::disk::stands_on;
use crate::libvirt::{self, Defined, Machines};

/// What has not answered by then hangs.
pub(super) const WITHIN: Duration = Duration::from_secs(30);
/// No chain of snapshots is longer.
const MOST_BELOW: usize = 64;

/// Who uses a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum User {
    /// No machine.
    Nobody,
    /// A machine is defined with it.
    Names(String),
    /// A disk of a machine stands on it.
    StandsOn {
        /// The machine.
        machine: String,
        /// Its disk.
        disk: PathBuf,
    },
    /// That cannot be told.
    Unknown {
        /// Why.
        why: String,
    },
}

/// The machine of this host that uses a file, as things are now.
pub(super) fn user_of(file: &Path) -> User {
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            return User::Unknown { why: format!("{} cannot be looked at: {error}", file.display()) };
        }
    };
    let found = in_time(move || find(&metadata, &libvirt::machines()));
    found.unwrap_or_else(|| {
        let limit = WITHIN.as_secs();
        User::Unknown { why: format!("libvirt, or the storage of a machine, did not answer for {limit} s") }
    })
}

/// What comes of this, if it comes in time: libvirt may block for as long as it likes, and so may storage that is away. The thread then ends
/// with the program.
pub(super) fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || answer.send(look()));
    answered.recv_timeout(WITHIN).ok()
}

/// What whoever asks has to be able to read: what is written down of machines, their disks, and what those stand on.
pub(super) fn readable() -> Vec<PathBuf> {
    // Asked before a sandbox closes, which binds no thread that is there already: this one has ended by then, or hangs and does nothing more.
    in_time(all_readable).unwrap_or_default()
}

fn all_readable() -> Vec<PathBuf> {
    let machines = libvirt::machines();
    let mut paths = libvirt::readable();
    for disk in machines.defined.iter().flat_map(|machine| &machine.disks) {
        let (members, _) = chain(disk, &machines);
        paths.extend(members.into_iter().filter(|path| matches!(is_readable(path), Ok(true))));
    }
    paths
}

fn find(file: &Metadata, machines: &Machines) -> User {
    let is_it = |path: &Path| {
        path.metadata().is_ok_and(|other| (other.dev(), other.ino()) == (file.dev(), file.ino()))
    };
    let names = |machine: &&Defined| machine.files.iter().any(|path| is_it(path));
    if let Some(machine) = machines.defined.iter().find(names) {
        return User::Names(machine.name.clone());
    }
    let mut unknown =
        machines.silent.as_ref().map(|why| format!("libvirt does not tell all machines: {why}"));
    for machine in &machines.defined {
        for disk in &machine.disks {
            let (members, hidden) = chain(disk, machines);
            if members.iter().any(|member| is_it(member)) {
                return User::StandsOn { machine: machine.name.clone(), disk: disk.clone() };
            }
            if let Some(hidden) = hidden {
                let hidden = hidden.display();
                let name = &machine.name;
                unknown.get_or_insert(format!(
                    "what {hidden}, a disk of the machine {name}, stands on cannot be read"
                ));
            }
        }
    }
    unknown.map_or(User::Nobody, |why| User::Unknown { why })
}

/// A disk and what it stands on, from above; and the one that does not let itself be read, at which it ends.
fn chain(disk: &Path, machines: &Machines) -> (Vec<PathBuf>, Option<PathBuf>) {
    let mut members = vec![disk.to_owned()];
    loop {
        let last = &members[members.len() - 1];
        let below = match (machines.below.get(last), is_readable(last)) {
            (Some(told), _) => told.clone(),
            (None, Ok(true)) => stands_on(last),
            (None, Ok(false)) => None,
            (None, Err(_)) => {
                let hidden = Some(last.clone());
                return (members, hidden);
            }
        };
        match below {
            Some(path) if members.len() < MOST_BELOW => members.push(path),
            _ => return (members, None),
        }
    }
}

/// Whether this is a file that can stand on another; an error, where only a look into it would tell.
fn is_readable(path: &Path) -> io::Result<bool> {
    let found = path.metadata().and_then(|metadata| match metadata.is_file() {
        true => File::open(path).map(|_| true),
        false => Ok(false),
    });
    match found {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::process::Command;

    fn overlay(path: &Path, on: &Path) {
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([on, path])
            .status();
        assert!(made.unwrap().success());
    }

    #[test]
    fn a_file_is_used_under_every_name_and_below_a_chain() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(at("base")).arg("1M").status();
        assert!(made.unwrap().success());
        overlay(&at("middle"), &at("base"));
        overlay(&at("top"), &at("middle"));
        std::fs::write(at("other"), "").unwrap();
        std::os::unix::fs::symlink(at("base"), at("link")).unwrap();
        std::fs::hard_link(at("base"), at("hard")).unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        let with = |disk: PathBuf| {
            let set = BTreeSet::from([disk]);
            let web =
                Defined { name: "web".to_owned(), files: set.clone(), disks: set, ..Defined::default() };
            Machines { defined: vec![web], ..Machines::default() }
        };
        let base = at("base").metadata().unwrap();
        for name in ["base", "link", "hard", "sub/../base"] {
            assert_eq!(find(&base, &with(at(name))), User::Names("web".to_owned()), "{name}");
        }
        for name in ["middle", "top"] {
            let user = User::StandsOn { machine: "web".to_owned(), disk: at(name) };
            assert_eq!(find(&base, &with(at(name))), user);
        }
        for name in ["other", "missing", "sub", "other/x"] {
            assert_eq!(find(&base, &with(at(name))), User::Nobody, "{name}");
        }
        // One that cannot be read, with and without what libvirt says of it; a link onto itself is such a one for everybody.
        std::os::unix::fs::symlink(at("hidden"), at("hidden")).unwrap();
        let mut hidden = with(at("hidden"));
        assert!(matches!(find(&base, &hidden), User::Unknown { .. }));
        hidden.below.insert(at("hidden"), None);
        assert_eq!(find(&base, &hidden), User::Nobody);
        hidden.below.insert(at("hidden"), Some(at("top")));
        assert!(matches!(find(&base, &hidden), User::StandsOn { .. }));
        let silent = Machines { silent: Some("it is ill".to_owned()), ..Machines::default() };
        let User::Unknown { why } = find(&base, &silent) else { panic!() };
        assert!(why.contains("it is ill"), "{why}");
    }
}
