//! cpio archives in the `newc` form, which is what the kernel unpacks: a reader for the whole of a foreign archive, a writer for ours.
//!
//! What is read comes from a guest: names and sizes are bounded, and nothing is ever written to where a name points. What is not here:
//! how archives are packed and strung together (see [`super::image`]).

use std::io::{self, Read};

/// An entry's header.
const HEADER_BYTES: usize = 110;
/// `newc`, and `newc` with checksums.
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
const LAST_NAME: &str = "TRAILER!!!";
/// The longest name that Linux knows.
const NAME_LIMIT: usize = 4096;
/// More files than any initial RAM disk has.
const ENTRIES_LIMIT: usize = 1_000_000;

/// Where in a header its numbers stand, eight hexadecimal digits each.
const MODE_AT: usize = 14;
const SIZE_AT: usize = 54;
const NAME_SIZE_AT: usize = 94;

const DIRECTORY: u32 = 0o040_000;
const TYPE_MASK: u32 = 0o170_000;

/// One entry of an archive, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path, without a leading `/` or `./`.
    pub(super) name: String,
    /// Type and permissions.
    pub(super) mode: u32,
    /// Bytes of its content.
    pub(super) size: u64,
}

impl Entry {
    /// Whether it is a directory.
    #[must_use]
    pub(super) fn is_directory(&self) -> bool {
        self.mode & TYPE_MASK == DIRECTORY
    }
}

/// Reads one archive to its trailer; hands every entry to `each`, with its content.
///
/// Returns how many bytes the archive had. What is behind it stays unread.
pub(super) fn read(source: &mut dyn Read, each: &mut dyn FnMut(&Entry, &mut dyn Read)) -> io::Result<u64> {
    let mut position: u64 = 0;
    for _ in 0..ENTRIES_LIMIT {
        let mut header = [0_u8; HEADER_BYTES];
        source.read_exact(&mut header)?;
        if !MAGICS.contains(&&header[..6]) {
            return Err(bad("an entry does not begin as one"));
        }
        let name_size =
            usize::try_from(number(&header, NAME_SIZE_AT)?).map_err(|_| bad("a name is too long"))?;
        if name_size == 0 || name_size > NAME_LIMIT {
            return Err(bad("a name is too long"));
        }
        let size = u64::from(number(&header, SIZE_AT)?);
        let mut name = vec![0_u8; name_size];
        source.read_exact(&mut name)?;
        name.pop();
        position += (HEADER_BYTES + name_size) as u64;
        position += skip(source, padding(position))?;
        let name = String::from_utf8_lossy(&name).into_owned();
        let entry = Entry {
            name: name.trim_start_matches("./").trim_start_matches('/').to_owned(),
            mode: number(&header, MODE_AT)?,
            size,
        };
        if name == LAST_NAME {
            return Ok(position);
        }
        let mut content = source.take(size);
        each(&entry, &mut content);
        let left = content.limit();
        skip(source, left)?;
        position += size;
        position += skip(source, padding(position))?;
    }
    Err(bad("it has too many entries"))
}

fn number(header: &[u8; HEADER_BYTES], at: usize) -> io::Result<u32> {
    let digits = std::str::from_utf8(&header[at..at + 8]).map_err(|_| bad("a number is none"))?;
    u32::from_str_radix(digits, 16).map_err(|_| bad("a number is none"))
}

fn skip(source: &mut dyn Read, count: u64) -> io::Result<u64> {
    let skipped = io::copy(&mut source.take(count), &mut io::sink())?;
    if skipped == count { Ok(count) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Entries and contents begin at multiples of four.
fn padding(position: u64) -> u64 {
    position.wrapping_neg() % 4
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Makes an archive. Everything in it is root's and from the beginning of time, so that the same files make the same bytes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    inode: u32,
}

impl Writer {
    /// Adds a directory.
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, &[]);
    }

    /// Adds a plain file.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_644, content);
    }

    /// Ends it; the length is a multiple of 512, so that something else may follow.
    #[must_use]
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry(LAST_NAME, 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        use std::io::Write;
        let links = if mode & TYPE_MASK == DIRECTORY { 2 } else { 1 };
        let (inode, size, name_size) = (self.inode, content.len(), name.len() + 1);
        // Writing into a vector does not fail.
        let _ = write!(
            self.bytes,
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            0, 0, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        self.inode = self.inode.wrapping_add(1);
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        read(&mut &bytes[..], &mut |entry, _| found.push((entry.name.clone(), entry.size)))?;
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut writer = Writer::default();
        writer.directory("lib/modules");
        writer.file("lib/modules/x.ko", b"12345");
        let bytes = writer.finish();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(
            names(&bytes).unwrap(),
            [("lib/modules".to_owned(), 0), ("lib/modules/x.ko".to_owned(), 5)]
        );
    }

    #[test]
    fn cpio_itself_reads_what_is_written() {
        let mut writer = Writer::default();
        writer.directory("a");
        writer.file("a/b", b"content\n");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cpio");
        std::fs::write(&path, writer.finish()).unwrap();
        let output = std::process::Command::new("cpio")
            .args(["-i", "--quiet", "--to-stdout", "-F"])
            .arg(&path)
            .arg("a/b")
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"content\n");
    }

    #[test]
    fn a_damaged_archive_is_refused_wherever_it_is_damaged() {
        let mut writer = Writer::default();
        writer.file("file", b"some content");
        let whole = writer.finish();
        assert!(names(&whole[..60]).is_err());
        for (at, byte) in [(0, b'x'), (NAME_SIZE_AT, b'f'), (SIZE_AT, b'f'), (SIZE_AT, b'-')] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            assert!(names(&bytes).is_err(), "{at}");
        }
    }
}
