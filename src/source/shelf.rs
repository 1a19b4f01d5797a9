//! Where the files of an appliance or a machine lie: as members of an archive, or in the directory of what describes it.
//!
//! Whoever asks names a file as the description does, and gets the place of its bytes. Nothing outside of the archive or the directory can be
//! named: links are not followed, not even in the middle of a path. What is not here: what the files hold.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::tar;
use crate::disk::{Member, Part, Piece, Place};
use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::open_nofollow;

/// Each piece of a file in a directory is a file that is kept open.
const MOST_PIECES: usize = 500;

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
                    let pieces = vec![Piece { path: path.clone(), part: Some(part) }];
                    Item { place: joined_place(name, pieces), bytes: member.bytes }
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

    /// A file that was cut into pieces: `name.000000000`, `name.000000001` and so on, each of so many bytes but the last. `None` if there
    /// is no piece at all.
    pub(super) fn joined(&self, name: &str, piece_bytes: Option<u64>) -> Result<Option<Item>> {
        let called = match self {
            Shelf::Archive { .. } => name,
            Shelf::Folder { .. } => name.rsplit('/').next().unwrap_or(name),
        };
        let (mut pieces, mut bytes, mut wanted) = (Vec::new(), 0_u64, piece_bytes);
        let mut last: Option<(String, u64)> = None;
        while let (piece, Some(item)) = {
            let piece = piece_name(name, pieces.len());
            let item = self.get(&piece)?;
            (piece, item)
        } {
            if let (Some((piece, has)), Some(wanted)) = (&last, wanted)
                && *has != wanted
            {
                return Err(self.refused(piece, &format!("has {has} bytes, and should have {wanted}")));
            }
            let wanted = *wanted.get_or_insert(item.bytes);
            if item.bytes == 0 || item.bytes > wanted {
                let has = item.bytes;
                return Err(self.refused(&piece, &format!("has {has} bytes, and should have {wanted}")));
            }
            if pieces.len() == MOST_PIECES {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("`{}` is cut into more than {MOST_PIECES} pieces", name.escape_debug()),
                )
                .advice("put them together with `cat`, and name the disk in a manifest"));
            }
            bytes = bytes.saturating_add(item.bytes);
            last = Some((piece, item.bytes));
            pieces.extend(item.place.pieces());
        }
        let missing = piece_name(name, pieces.len());
        if self.get(&piece_name(name, pieces.len() + 1))?.is_some() {
            return Err(self.refused(&missing, "is missing"));
        }
        let place = |pieces| joined_place(called, pieces);
        Ok((!pieces.is_empty()).then(|| Item { place: place(pieces), bytes }))
    }

    /// All of a small file.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(item) = self.get(name)? else { return Ok(None) };
        if item.bytes > most {
            return Err(self.refused(name, &format!("has more than {} MiB", most >> 20)));
        }
        let mut bytes = Vec::new();
        let read = match self {
            Shelf::Archive { file, members, .. } => {
                bytes.resize(usize::try_from(item.bytes).unwrap_or(0), 0);
                let offset =
                    members.iter().find(|member| member.name == name).map_or(0, |found| found.offset);
                std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, offset)
            }
            Shelf::Folder { path, .. } => {
                beneath(path, name).and_then(|file| file.take(most).read_to_end(&mut bytes)).map(drop)
            }
        };
        read.map_err(|error| unreadable(&item.place.path, &error))?;
        Ok(Some(bytes))
    }
}

/// What the pieces of a file are called.
pub(super) fn piece_name(name: &str, number: usize) -> String {
    format!("{name}.{number:09}")
}

fn joined_place(name: &str, pieces: Vec<Piece>) -> Place {
    let path = pieces.first().map(|piece| piece.path.clone()).unwrap_or_default();
    Place { path, member: Some(Member { name: name.to_owned(), pieces, packing: None }) }
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
