//! Archives as they are written: a header, data filled up to whole blocks, and two blocks of zeros at the end (ustar).
//!
//! Files beyond 8 GiB have their size in binary, as every tar reads it. What is not here: reading archives.

use std::time::{SystemTime, UNIX_EPOCH};

/// Everything lies at a multiple of this.
pub(super) const BLOCK: u64 = 512;
/// Behind the last file.
pub(super) const END: u64 = 2 * BLOCK;
/// What eleven octal digits can tell.
const MOST_OCTAL: u64 = 0o777_7777_7777;

/// The header of a plain file.
pub(super) fn header(name: &str, bytes: u64) -> [u8; BLOCK as usize] {
    let mut header = [0; BLOCK as usize];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(99)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if bytes <= MOST_OCTAL {
        put(124, format!("{bytes:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &bytes.to_be_bytes());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    put(136, format!("{:011o}\0", now.min(MOST_OCTAL)).as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_what_is_written_here_also_where_it_is_large() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar");
        let mut file = std::fs::File::create(&archive).unwrap();
        let large = 9 << 30;
        file.write_all(&header("web.ovf", 3)).unwrap();
        file.write_all(b"abc").unwrap();
        file.set_len(2 * BLOCK).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &header("web-disk1.vmdk", large), 2 * BLOCK).unwrap();
        file.set_len(3 * BLOCK + large + END).unwrap();
        let listed = Command::new("tar").args(["-tvf"]).arg(&archive).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((lines[0][2], lines[0][5]), ("3", "web.ovf"));
        assert_eq!((lines[1][2], lines[1][5]), (large.to_string().as_str(), "web-disk1.vmdk"));
    }
}
