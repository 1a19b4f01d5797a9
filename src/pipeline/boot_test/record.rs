//! The console as it is kept for people, in a file that cannot grow for ever.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::model::error::{Error, Kind, Result};

/// A guest may write for ever; nobody reads more than this.
const MOST_BYTES: usize = 4 << 20;

/// Where the lines of a console go.
#[derive(Debug)]
pub(super) struct Record {
    file: Option<BufWriter<File>>,
    written: usize,
}

impl Record {
    /// Begins the file anew; without a path nothing is kept.
    pub(super) fn begin(path: Option<&Path>) -> Result<Record> {
        let create = |path: &Path| {
            File::create(path)
                .map_err(|error| Error::io(Kind::Output, "write the console to", path, &error).output(path))
        };
        let file = path.map(create).transpose()?.map(BufWriter::new);
        Ok(Record { file, written: 0 })
    }

    /// Keeps a line.
    pub(super) fn line(&mut self, line: &str) {
        let Some(file) = &mut self.file else { return };
        if line.is_empty() {
            return;
        }
        self.written += line.len() + 1;
        let over = self.written > MOST_BYTES;
        let text = if over { "(the console says more than is kept)" } else { line };
        // That it cannot be kept is no reason to stop the test.
        let kept = writeln!(file, "{text}").and_then(|()| file.flush());
        if over || kept.is_err() {
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_without_end_fills_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.txt");
        let mut record = Record::begin(Some(&path)).unwrap();
        let line = "x".repeat(1000);
        for _ in 0..10_000 {
            record.line(&line);
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept.len() < MOST_BYTES + 100);
        assert!(kept.ends_with("more than is kept)\n"));
    }
}
