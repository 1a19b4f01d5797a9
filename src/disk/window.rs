//! The bytes of one image: a whole file, or a part of one that holds others too, as a member of an archive is.
//!
//! Whoever reads an image reads a window, counts from its beginning and cannot look beyond its end: nothing has to be unpacked to be read,
//! and what lies beside a member is as far away as another file. What a log changes of the image shows in the window too. What is not here:
//! which part of which archive it is, and which changes count.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::changes::{Changes, New, mend};

/// Where an image lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The part of it; none: all of it.
    pub part: Option<Part>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is called there.
    pub name: String,
    /// Where it begins.
    pub offset: u64,
    /// How much it is.
    pub bytes: u64,
}

impl Place {
    /// For people: the file, and what of it.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.part {
            None => self.path.display().to_string(),
            Some(part) => format!("{}:{}", self.path.display(), part.name),
        }
    }

    /// A window on it in the file, which is open.
    pub(crate) fn window(&self, file: File) -> io::Result<Window> {
        let size = file.metadata()?.len();
        match &self.part {
            None => Ok(Window { file, offset: 0, bytes: size, changed: None }),
            Some(part) if part.offset.checked_add(part.bytes).is_some_and(|end| end <= size) => {
                Ok(Window { file, offset: part.offset, bytes: part.bytes, changed: None })
            }
            Some(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")),
        }
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Place {
        Place { path, part: None }
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Place {
        Place::from(path.to_owned())
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Place {
        Place::from(path.clone())
    }
}

/// An open image. Offsets count from its beginning.
#[derive(Debug)]
pub(crate) struct Window {
    file: File,
    offset: u64,
    bytes: u64,
    changed: Option<Changed>,
}

/// What is seen of a file otherwise than it lies there.
#[derive(Debug)]
struct Changed {
    changes: Changes,
    /// How many bytes really lie there; what is shown beyond them are zeros.
    stored: u64,
}

impl Window {
    /// The same with these changes, and as long as it becomes by them.
    pub(crate) fn with(self, changes: Changes, bytes: u64) -> Window {
        let changed = Some(Changed { changes, stored: self.bytes });
        Window { bytes: bytes.max(self.bytes), changed, ..self }
    }

    /// How many bytes it shows.
    pub(crate) fn len(&self) -> u64 {
        self.bytes
    }

    /// The open file behind it: for locks, and to look at.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Up to `count` bytes at an offset; fewer at the end.
    pub(crate) fn read_up_to(&self, at: u64, count: usize) -> io::Result<Vec<u8>> {
        let there = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.min(there)];
        if self.changed.is_some() {
            self.read_exact_at(&mut bytes, at)?;
            return Ok(bytes);
        }
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], self.offset + at + filled as u64) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Fills the buffer from an offset.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        if at.checked_add(buffer.len() as u64).is_none_or(|end| end > self.bytes) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before"));
        }
        match &self.changed {
            None => self.file.read_exact_at(buffer, self.offset + at),
            Some(changed) => self.read_changed(changed, buffer, at),
        }
    }

    fn read_changed(&self, changed: &Changed, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let piece = changed.changes.at(at);
            let length = usize::try_from(piece.until - at).unwrap_or(usize::MAX).min(buffer.len());
            let (now, later) = buffer.split_at_mut(length);
            match piece.new {
                None => self.read_stored(changed.stored, now, at)?,
                Some(New::Zeros) => now.fill(0),
                Some(New::Page { lies_at, first, last }) => {
                    self.read_stored(changed.stored, now, lies_at + piece.within)?;
                    mend(now, piece.within, first, last);
                }
            }
            at += now.len() as u64;
            buffer = later;
        }
        Ok(())
    }

    fn read_stored(&self, stored: u64, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let there = usize::try_from(stored.saturating_sub(at)).unwrap_or(usize::MAX);
        let (there, beyond) = buffer.split_at_mut(there.min(buffer.len()));
        self.file.read_exact_at(there, self.offset + at)?;
        beyond.fill(0);
        Ok(())
    }

    /// Where the file system has something next, at an offset or behind it, and how far that goes at least; none: nothing but a hole up to
    /// the end. Where holes cannot be told, all of it is something.
    pub(crate) fn stored_from(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        if self.changed.is_some() {
            return Ok((at < self.bytes).then_some((at, self.bytes)));
        }
        let position = self.offset + at;
        let data = match seek(&self.file, SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that does not know its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, self.bytes))),
            Err(error) => return Err(error.into()),
        };
        let begin = data - self.offset;
        if begin >= self.bytes {
            return Ok(None);
        }
        let hole = seek(&self.file, SeekFrom::Hole(data))?;
        // A file that shrinks meanwhile has its hole where we are: reading then says that it is cut.
        Ok(Some((begin, (hole.max(data + 1) - self.offset).min(self.bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn part(offset: u64, bytes: u64) -> Place {
        let part = Part { name: "b".to_owned(), offset, bytes };
        Place { path: PathBuf::from("/a"), part: Some(part) }
    }

    #[test]
    fn a_part_ends_where_it_ends_whatever_follows() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before-inside-behind").unwrap();
        let window = part(7, 6).window(file).unwrap();
        assert_eq!(window.len(), 6);
        assert_eq!(window.read_up_to(0, 100).unwrap(), b"inside");
        assert_eq!(window.read_up_to(4, 100).unwrap(), b"de");
        assert_eq!(window.read_up_to(100, 1).unwrap(), b"");
        let mut buffer = [0; 3];
        window.read_exact_at(&mut buffer, 3).unwrap();
        assert_eq!(&buffer, b"ide");
        assert!(window.read_exact_at(&mut buffer, 4).is_err());
    }

    #[test]
    fn holes_are_told_from_the_beginning_of_the_part() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * MIB).unwrap();
        file.write_all_at(&[1; 4096], 4 * MIB).unwrap();
        let window = part(MIB, 6 * MIB).window(file).unwrap();
        assert_eq!(window.stored_from(0).unwrap(), Some((3 * MIB, 3 * MIB + 4096)));
        assert_eq!(window.stored_from(4 * MIB).unwrap(), None);
    }

    #[test]
    fn changes_are_seen_and_zeros_beyond_what_lies_there() {
        const PAGE: u64 = super::super::changes::PAGE_BYTES;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'.'; PAGE as usize]).unwrap();
        file.write_all(&vec![b'1'; PAGE as usize]).unwrap();
        file.write_all(&vec![b'2'; PAGE as usize]).unwrap();
        file.write_all(&vec![b'3'; PAGE as usize]).unwrap();
        let mut changes = Changes::default();
        changes.put(PAGE, 2 * PAGE, New::Page { lies_at: 2 * PAGE, first: *b"<<<<<<<<", last: *b">>>>" });
        changes.put(0, PAGE, New::Zeros);
        let window = part(PAGE, 3 * PAGE).window(file).unwrap().with(changes, 5 * PAGE);
        assert_eq!(window.len(), 5 * PAGE);
        let mut seen = vec![7; 5 * PAGE as usize];
        window.read_exact_at(&mut seen, 0).unwrap();
        let page = |number: usize| &seen[number * PAGE as usize..(number + 1) * PAGE as usize];
        assert!(page(0).iter().all(|byte| *byte == 0));
        assert!(page(1).starts_with(b"<<<<<<<<33") && page(1).ends_with(b"33>>>>"));
        assert!(page(2).iter().all(|byte| *byte == b'3'));
        assert!(page(3).iter().chain(page(4)).all(|byte| *byte == 0));
        assert_eq!(window.read_up_to(2 * PAGE - 5, 6).unwrap(), b"3>>>>3");
        assert!(window.read_exact_at(&mut seen, 1).is_err());
    }

    #[test]
    fn a_part_that_its_file_does_not_have_is_no_window() {
        assert!(part(0, 1).window(tempfile::tempfile().unwrap()).is_err());
        assert!(part(u64::MAX, 1).window(tempfile::tempfile().unwrap()).is_err());
    }
}
