//! The bytes of one image: a whole file, a part of one that holds others too, as a member of an archive is, or several of these one behind
//! the other; as they are stored, or unpacked.
//!
//! Whoever reads an image reads a window, counts from its beginning and cannot look beyond its end: nothing has to be unpacked to be read,
//! and what lies beside a member is as far away as another file. What a log changes of the image shows in the window too. What is not here:
//! which part of which archive it is, which changes count, and how packed bytes are found again (see [`super::gunzip`]).

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use super::changes::{Changes, New, mend};
use crate::disk::gunzip::{Gzip, Unpacked};
use crate::sys::extents::stored_in;
use crate::sys::fs::parent_of;

/// Where an image lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file; of several the first.
    pub path: PathBuf,
    /// What is meant, where that is not all of the file as it is.
    pub member: Option<Member>,
}

/// An image that is not one file as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is called.
    pub name: String,
    /// Where its bytes are stored, one behind the other; one at least.
    pub pieces: Vec<Piece>,
    /// Whether what is stored has to be unpacked.
    pub packing: Option<Gzip>,
}

/// A stretch of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// In which file.
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
        match &self.member {
            None => self.path.display().to_string(),
            Some(member) if member.pieces.iter().any(|piece| piece.part.is_some()) => {
                format!("{}:{}", self.path.display(), member.name)
            }
            Some(member) => parent_of(&self.path).join(&member.name).display().to_string(),
        }
    }

    /// The same, to be unpacked: to no more than so many bytes.
    #[must_use]
    pub fn unpacked(self, most_bytes: u64) -> Place {
        let pieces = self.pieces();
        let name = match &self.member {
            Some(member) => member.name.clone(),
            None => self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let packing = Some(Gzip::new(most_bytes));
        Place { path: self.path, member: Some(Member { name, pieces, packing }) }
    }

    /// Where its bytes are stored, one behind the other.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        match &self.member {
            None => vec![Piece { path: self.path.clone(), part: None }],
            Some(member) => member.pieces.clone(),
        }
    }

    /// The same where its file really lies.
    pub(crate) fn at(&self, real: &Path) -> Place {
        let mut place = Place { path: real.to_owned(), member: self.member.clone() };
        for piece in place.member.iter_mut().flat_map(|member| &mut member.pieces) {
            if piece.path == self.path {
                piece.path = real.to_owned();
            }
        }
        place
    }

    /// How its bytes have to be unpacked, if they have to.
    pub(crate) fn packing(&self) -> Option<&Gzip> {
        self.member.as_ref()?.packing.as_ref()
    }

    /// The one stretch of a file that is the image, if it is one; the readers of this program alone see the others.
    pub(crate) fn only_piece(&self) -> Option<Piece> {
        let mut pieces = self.pieces();
        if pieces.len() == 1 && self.packing().is_none() { pieces.pop() } else { None }
    }

    /// A window on the image in its files, each of which is opened once. What is packed has to have been looked through before.
    pub(crate) fn window(&self, open: &mut dyn FnMut(&Path) -> io::Result<File>) -> io::Result<Window> {
        let stored = self.stored_window(open)?;
        match self.packing() {
            None => Ok(stored),
            Some(packing) => Ok(Window { view: View::Unpacked(Box::new(packing.open(stored)?)) }),
        }
    }

    /// A window on the bytes as they are stored.
    pub(crate) fn stored_window(
        &self,
        open: &mut dyn FnMut(&Path) -> io::Result<File>,
    ) -> io::Result<Window> {
        let mut stored = Stored { stretches: Vec::new(), bytes: 0 };
        let mut last: Option<(PathBuf, Arc<File>)> = None;
        for piece in self.pieces() {
            let file = match &last {
                Some((path, file)) if *path == piece.path => Arc::clone(file),
                _ => Arc::new(open(&piece.path)?),
            };
            let size = file.metadata()?.len();
            let (offset, bytes) = piece.part.map_or((0, size), |part| (part.offset, part.bytes));
            if offset.checked_add(bytes).is_none_or(|end| end > size) {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
            }
            last = Some((piece.path, Arc::clone(&file)));
            let start = stored.bytes;
            stored.bytes = start
                .checked_add(bytes)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is larger than any can be"))?;
            stored.stretches.push(Stretch { file, offset, start, bytes });
        }
        Ok(Window { view: View::Stored(stored) })
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Place {
        Place { path, member: None }
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
    view: View,
}

#[derive(Debug)]
enum View {
    Stored(Stored),
    Unpacked(Box<Unpacked>),
    Changed(Box<Changed>),
}

/// What is seen of an image otherwise than it lies there.
#[derive(Debug)]
struct Changed {
    /// What really lies there; what is shown beyond it are zeros.
    below: View,
    changes: Changes,
    bytes: u64,
}

/// Stretches one behind the other.
#[derive(Debug)]
struct Stored {
    stretches: Vec<Stretch>,
    bytes: u64,
}

#[derive(Debug)]
struct Stretch {
    file: Arc<File>,
    /// Where it begins in the file …
    offset: u64,
    /// … and in the image.
    start: u64,
    bytes: u64,
}

impl Window {
    /// The same with these changes, and as long as it becomes by them.
    pub(crate) fn with(self, changes: Changes, bytes: u64) -> Window {
        let bytes = bytes.max(self.len());
        Window { view: View::Changed(Box::new(Changed { below: self.view, changes, bytes })) }
    }

    /// How many bytes it shows.
    pub(crate) fn len(&self) -> u64 {
        self.view.len()
    }

    /// The open files behind it: for locks, and to give hints about.
    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        self.view.stretches().iter().map(|stretch| stretch.file.as_ref())
    }

    /// A number that no other open window has.
    pub(crate) fn number(&self) -> usize {
        self.files().next().map_or(0, |file| file.as_raw_fd().unsigned_abs() as usize)
    }

    /// Up to `count` bytes at an offset; fewer at the end.
    pub(crate) fn read_up_to(&self, at: u64, count: usize) -> io::Result<Vec<u8>> {
        let there = usize::try_from(self.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.min(there)];
        let filled = self.view.fill(&mut bytes, at)?;
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Fills the buffer from an offset.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let ends = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before");
        if at.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len()) {
            return Err(ends());
        }
        if self.view.fill(buffer, at)? == buffer.len() { Ok(()) } else { Err(ends()) }
    }

    /// Has the kernel begin to read a part, and waits for nothing. Only a hint: without it reading takes longer.
    pub(crate) fn will_need(&self, at: u64, length: u64) {
        let View::Stored(stored) = &self.view else { return };
        let Some(stretch) = stored.from(at).first() else { return };
        let within = at.saturating_sub(stretch.start);
        if let Some(length) = NonZeroU64::new(length.min(stretch.bytes.saturating_sub(within))) {
            let _ = fadvise(&*stretch.file, stretch.offset + within, Some(length), Advice::WillNeed);
        }
    }

    /// Where there is something next, at an offset or behind it, and how far that goes at least; none: nothing but a hole up to the end.
    /// Where holes cannot be told, all of it is something.
    pub(crate) fn stored_from(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        match &self.view {
            View::Stored(stored) => stored.stored_from(at),
            View::Unpacked(unpacked) => Ok(unpacked.stored_from(at)),
            View::Changed(changed) => Ok((at < changed.bytes).then_some((at, changed.bytes))),
        }
    }
}

impl View {
    fn len(&self) -> u64 {
        match self {
            View::Stored(stored) => stored.bytes,
            View::Unpacked(unpacked) => unpacked.len(),
            View::Changed(changed) => changed.bytes,
        }
    }

    fn stretches(&self) -> &[Stretch] {
        match self {
            View::Stored(stored) => &stored.stretches,
            View::Unpacked(unpacked) => unpacked.stored().view.stretches(),
            View::Changed(changed) => changed.below.stretches(),
        }
    }

    /// Reads until the buffer is full or nothing more comes.
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let (rest, from) = (&mut buffer[filled..], at + filled as u64);
            let read = match self {
                View::Stored(stored) => stored.read(rest, from),
                View::Unpacked(unpacked) => unpacked.read(rest, from),
                View::Changed(changed) => changed.read(rest, from),
            };
            match read {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Changed {
    /// Some bytes at an offset, as far as one change or none goes.
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(at);
        let piece = self.changes.at(at);
        let length = usize::try_from((piece.until - at).min(left)).unwrap_or(usize::MAX).min(buffer.len());
        let now = &mut buffer[..length];
        match piece.new {
            None => self.read_below(now, at)?,
            Some(New::Zeros) => now.fill(0),
            Some(New::Page { lies_at, first, last }) => {
                self.read_below(now, lies_at + piece.within)?;
                mend(now, piece.within, first, last);
            }
        }
        Ok(length)
    }

    fn read_below(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let there = usize::try_from(self.below.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let (there, beyond) = buffer.split_at_mut(there.min(buffer.len()));
        if self.below.fill(there, at)? < there.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before"));
        }
        beyond.fill(0);
        Ok(())
    }
}

impl Stored {
    /// Those from the one on in which an offset lies.
    fn from(&self, at: u64) -> &[Stretch] {
        let first = self.stretches.partition_point(|stretch| stretch.start + stretch.bytes <= at);
        self.stretches.get(first..).unwrap_or(&[])
    }

    /// Some bytes at an offset, of one stretch.
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let Some(stretch) = self.from(at).first() else { return Ok(0) };
        let within = at - stretch.start;
        let most = usize::try_from(stretch.bytes - within).unwrap_or(usize::MAX).min(buffer.len());
        stretch.file.read_at(&mut buffer[..most], stretch.offset + within)
    }

    fn stored_from(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        for stretch in self.from(at) {
            if let Some(found) = stretch.stored_from(at.max(stretch.start))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl Stretch {
    /// The same within it; offsets are the image's.
    fn stored_from(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        let begin = self.offset + (at - self.start);
        let found = stored_in(&self.file, begin..self.offset + self.bytes)?;
        let of_image = |offset: u64| self.start + (offset - self.offset);
        Ok(found.map(|stored| (of_image(stored.start), of_image(stored.end))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn joined(parts: &[(u64, u64)]) -> Place {
        let piece = |(offset, bytes): &(u64, u64)| {
            let part = Part { name: "b".to_owned(), offset: *offset, bytes: *bytes };
            Piece { path: PathBuf::from("/a"), part: Some(part) }
        };
        let pieces = parts.iter().map(piece).collect();
        let member = Member { name: "b".to_owned(), pieces, packing: None };
        Place { path: PathBuf::from("/a"), member: Some(member) }
    }

    fn window(parts: &[(u64, u64)], file: &File) -> io::Result<Window> {
        joined(parts).window(&mut |_| file.try_clone())
    }

    #[test]
    fn a_part_ends_where_it_ends_whatever_follows() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before-inside-behind").unwrap();
        let window = window(&[(7, 6)], &file).unwrap();
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
        let window = window(&[(MIB, 6 * MIB)], &file).unwrap();
        assert_eq!(window.stored_from(0).unwrap(), Some((3 * MIB, 3 * MIB + 4096)));
        assert_eq!(window.stored_from(4 * MIB).unwrap(), None);
    }

    #[test]
    fn changes_are_seen_and_zeros_beyond_what_lies_there() {
        const PAGE: u64 = super::super::changes::PAGE_BYTES;
        let mut file = tempfile::tempfile().unwrap();
        for byte in *b".123" {
            file.write_all(&vec![byte; PAGE as usize]).unwrap();
        }
        let mut changes = Changes::default();
        changes.put(PAGE, 2 * PAGE, New::Page { lies_at: 2 * PAGE, first: *b"<<<<<<<<", last: *b">>>>" });
        changes.put(0, PAGE, New::Zeros);
        let window = window(&[(PAGE, 3 * PAGE)], &file).unwrap().with(changes, 5 * PAGE);
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
        let empty = tempfile::tempfile().unwrap();
        assert!(window(&[(0, 1)], &empty).is_err());
        assert!(window(&[(u64::MAX, 1)], &empty).is_err());
    }

    #[test]
    fn pieces_are_one_image_whatever_lies_between_them() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"--second--first-----third").unwrap();
        let window = window(&[(10, 5), (2, 6), (0, 0), (20, 5)], &file).unwrap();
        assert_eq!(window.len(), 16);
        assert_eq!(window.read_up_to(0, 100).unwrap(), b"firstsecondthird");
        for at in 0..16 {
            let mut buffer = vec![0; 16 - at];
            window.read_exact_at(&mut buffer, at as u64).unwrap();
            assert_eq!(buffer, b"firstsecondthird"[at..]);
        }
        assert!(window.read_exact_at(&mut [0; 2], 15).is_err());
    }

    #[test]
    fn holes_are_told_across_pieces() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * MIB).unwrap();
        file.write_all_at(&[1; 4096], 5 * MIB).unwrap();
        // The second piece lies before the first in the file.
        let window = window(&[(6 * MIB, 2 * MIB), (0, 6 * MIB)], &file).unwrap();
        assert_eq!(window.stored_from(0).unwrap(), Some((7 * MIB, 7 * MIB + 4096)));
        assert_eq!(window.stored_from(7 * MIB + 4096).unwrap(), None);
    }
}
