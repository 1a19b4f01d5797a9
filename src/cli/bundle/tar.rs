//! Just enough of the tar format (POSIX ustar) to pack a few small texts.
//!
//! A crate for it would bring reading, links, owners and sparse files, none of which are wanted
//! here; compression is left to whoever sends the archive.

/// Tar's unit.
const BLOCK_BYTES: usize = 512;

/// What `name` holds in a header.
const MAX_NAME_BYTES: usize = 100;

/// An archive being made.
pub(super) struct Archive {
    bytes: Vec<u8>,
    names: Vec<String>,
    modified_at: u64,
}

impl Archive {
    /// An empty one, whose files have this time (epoch seconds).
    pub(super) fn new(modified_at: u64) -> Archive {
        Archive { bytes: Vec::new(), names: Vec::new(), modified_at }
    }

    /// Adds a file. A name that is too long loses its end.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) {
        let mut end = name.len().min(MAX_NAME_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let name = &name[..end];
        self.bytes.extend_from_slice(&header(name, content.len(), self.modified_at));
        self.bytes.extend_from_slice(content);
        let padded = self.bytes.len().next_multiple_of(BLOCK_BYTES);
        self.bytes.resize(padded, 0);
        self.names.push(name.to_owned());
    }

    /// What is in it.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The whole archive: two empty blocks end it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK_BYTES, 0);
        self.bytes
    }
}

fn header(name: &str, size: usize, modified_at: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, &format!("{modified_at:011o}\0"));
    // The checksum counts its own field as spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_fills_whole_blocks_and_two_empty_ones_end_it() {
        let mut archive = Archive::new(0);
        archive.add("a", b"");
        archive.add("b", &[b'x'; 513]);
        assert_eq!(archive.names(), ["a", "b"]);
        assert_eq!(archive.finish().len(), BLOCK_BYTES * (1 + 1 + 2 + 2));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let mut archive = Archive::new(0);
        archive.add(&"ä".repeat(60), b"");
        assert_eq!(archive.names()[0].len(), 100);
        archive.add(&format!("x{}", "ä".repeat(60)), b"");
        assert_eq!(archive.names()[1].len(), 99);
    }
}
