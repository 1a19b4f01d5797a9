//! Where the files of an appliance or a machine lie: as members of an archive, or in the directory of what describes it.
//!
//! Whoever asks names a file as the description does, and gets the place of its bytes. Nothing outside of the archive or the directory can be
//! named: links are not followed, not even in the middle of a path. What is not here: what the files hold.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::tar;
use crate::disk::{Part, Place};
use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::open_nofollow;

/// The files of one appliance or machine.
#[derive(Debug)]
pub(super) enum Shelf {
    Archive { path: PathBuf, file: File, members: Vec<tar::Member> },
    Folder { path: PathBuf, whole: Whole },
}

/// What the files belong to, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Appliance,
    /// A machine whose directory was copied.
    Machine,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) bytes: u64,
}

impl Shelf {
    pub(super) fn of_archive(path: &Path) -> Result<Shelf> {
        let (file, size) = open(path)?;
        let members = tar::members(&file, size).map_err(|error| error.source(path.display().to_string()))?;
        Ok(Shelf::Archive { path: path.to_owned(), file, members })
    }

    /// Of the directory that holds this file.
    pub(super) fn of_folder(descriptor: &Path, whole: Whole) -> Shelf {
        Shelf::Folder { path: crate::sys::fs::parent_of(descriptor).to_owned(), whole }
    }

    fn refused(&self, name: &str, why: &str) -> Error {
        let (whole, advice) = match self {
            Shelf::Archive { .. } | Shelf::Folder { whole: Whole::Appliance, .. } => {
                ("appliance", "export the appliance again; its files are plain ones beside the descriptor")
            }
            Shelf::Folder { whole: Whole::Machine, .. } => {
                ("machine", "copy its directory again; the files in it are plain ones, and no links")
            }
        };
        Error::new(Kind::Source, format!("the file `{}` of the {whole} {why}", name.escape_debug()))
            .advice(advice)
            .permanent()
    }

    /// The names of an archive's members; a folder may hold anything, and is not listed.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let members = match self {
            Shelf::Archive { members, .. } => members.as_slice(),
            Shelf::Folder { .. } => &[],
        };
        members.iter().map(|member| member.name.as_str())
    }

    /// A file by its name; `None` if there is none.
    pub(super) fn get(&self, name: &str) -> Result<Option<Item>> {
        match self {
            Shelf::Archive { path, members, .. } => {
                Ok(members.iter().find(|member| member.name == name).map(|member| {
                    let part = Part { name: name.to_owned(), offset: member.offset, bytes: member.bytes };
                    Item { place: Place { path: path.clone(), part: Some(part) }, bytes: member.bytes }
                }))
            }
            Shelf::Folder { path, .. } => match beneath(path, name) {
                Ok(file) => {
                    let metadata = file.metadata().map_err(|error| unreadable(&path.join(name), &error))?;
                    if !metadata.is_file() {
                        return Err(self.refused(name, "is not a plain file"));
                    }
                    Ok(Some(Item { place: path.join(name).into(), bytes: metadata.len() }))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) if is_link(&error) => {
                    Err(self.refused(name, "is a symbolic link, or lies behind one"))
                }
                Err(error) => Err(unreadable(&path.join(name), &error)),
            },
        }
    }

    /// All of a small file.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(item) = self.get(name)? else { return Ok(None) };
        if item.bytes > most {
            return Err(self.refused(name, &format!("has more than {} MiB", most >> 20)));
        }
        let mut bytes = Vec::new();
        let read = match (self, &item.place.part) {
            (Shelf::Archive { file, .. }, Some(part)) => {
                bytes.resize(usize::try_from(part.bytes).unwrap_or(0), 0);
                std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, part.offset)
            }
            (Shelf::Archive { .. }, None) => Ok(()),
            (Shelf::Folder { path, .. }, _) => {
                beneath(path, name).and_then(|file| file.take(most).read_to_end(&mut bytes)).map(drop)
            }
        };
        read.map_err(|error| unreadable(&item.place.path, &error))?;
        Ok(Some(bytes))
    }
}

/// A file below a directory, without links on the way. Opening it waits for nobody.
fn beneath(directory: &Path, name: &str) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(File::from(rustix::fs::openat2(directory, name, flags, Mode::empty(), within)?))
}

fn is_link(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::LOOP, Errno::XDEV].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A plain file, and how large it is.
pub(super) fn open(path: &Path) -> Result<(File, u64)> {
    let file = open_nofollow(path).map_err(|error| unreadable(path, &error))?;
    let size = file.metadata().map_err(|error| unreadable(path, &error))?.len();
    Ok((file, size))
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    let made = Error::io(Kind::Source, "open", path, error).source(path.display().to_string());
    match error.kind() {
        io::ErrorKind::NotFound => {
            made.advice("check the path; relative ones count from the manifest's directory")
        }
        io::ErrorKind::InvalidInput => {
            made.advice("name a plain file: directories, pipes and devices are not read")
        }
        _ => made.advice("let the service's user read it, and check the storage it lies on"),
    }
}
