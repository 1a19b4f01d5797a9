//! The project's files: everything in the checkout that is not built and not version control's own.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold nothing a person wrote.
const NOT_OURS: [&str; 3] = ["target", ".git", "dist"];

/// A text file of the project.
pub(crate) struct Text {
    /// Relative to the checkout, with `/`.
    pub(crate) path: String,
    pub(crate) content: String,
}

impl Text {
    /// Whether it lies below this directory (relative to the checkout).
    pub(crate) fn is_below(&self, directory: &str) -> bool {
        self.path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// The checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One file that has to be there.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every text file; what is not UTF-8 is a sample, not a text.
pub(crate) fn all() -> Vec<Text> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = vec![root().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory that was listed").flatten() {
            let name = entry.file_name();
            if NOT_OURS.iter().any(|skipped| name == *skipped) {
                continue;
            }
            let kind = entry.file_type().expect("what an entry is");
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file()
                && let Ok(content) = fs::read_to_string(entry.path())
            {
                let path = entry
                    .path()
                    .strip_prefix(root())
                    .expect("below the checkout")
                    .to_string_lossy()
                    .into_owned();
                found.push(Text { path, content });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().any(|file| file.path == "Cargo.toml"), "the walk found no Cargo.toml");
    found
}

/// Every Rust file below `src/`.
pub(crate) fn sources() -> Vec<Text> {
    all().into_iter().filter(|file| file.is_rust() && file.is_below("src")).collect()
}

/// The rows of the first table below this heading: cells, trimmed, without the head and its line.
pub(crate) fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let below = document
        .lines()
        .skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'))
        .skip(1);
    let rows: Vec<Vec<String>> = below
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "there is no table below the heading `{heading}`");
    rows
}

/// What stands between backticks in a cell.
pub(crate) fn code_words(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Fails with all of them at once, so that one run tells everything there is to mend.
pub(crate) fn expect_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}
