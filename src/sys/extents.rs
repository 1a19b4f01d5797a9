//! Which bytes of a file are stored, and which are holes.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// The first stored bytes in a range of a file, as far as they reach there; none if all of it is a hole. Moves the file's own position.
pub fn stored_in(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    let begin = match seek(file, SeekFrom::Data(range.start)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that does not know its holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(range)),
        Err(error) => return Err(error.into()),
    };
    if begin >= range.end {
        return Ok(None);
    }
    let hole = seek(file, SeekFrom::Hole(begin))?;
    // A file that shrinks meanwhile has its hole where we are: reading then says that it is cut.
    Ok(Some(begin..hole.max(begin + 1).min(range.end)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_stored_is_told_and_holes_are_left_out() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        assert_eq!(stored_in(&file, 0..4 << 20).unwrap(), None);
        file.write_all_at(&[7; 1 << 20], 1 << 20).unwrap();
        let stored = 1 << 20..2 << 20;
        assert_eq!(stored_in(&file, 0..4 << 20).unwrap(), Some(stored.clone()));
        assert_eq!(stored_in(&file, 0..3 << 19).unwrap(), Some(1 << 20..3 << 19));
        assert_eq!(stored_in(&file, 0..1 << 20).unwrap(), None);
        assert_eq!(stored_in(&file, stored.end..4 << 20).unwrap(), None);
    }
}
