//! Files that a person has reviewed, and the comparison with them.
//!
//! `UPDATE_GOLDEN=1 cargo test --test model` writes them anew; the difference is then reviewed as code.

use std::fs;
use std::path::{Path, PathBuf};

/// A path below `tests/model`.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model").join(relative)
}

/// Compares with a reviewed file, or writes it anew when asked to.
pub(crate) fn check(relative: &str, actual: &str) {
    let path = path(relative);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (number, (is, should)) in actual.lines().zip(expected.lines()).enumerate() {
        assert_eq!(is, should, "{relative}, line {} (review with UPDATE_GOLDEN=1)", number + 1);
    }
    assert_eq!(actual.lines().count(), expected.lines().count(), "{relative} (review with UPDATE_GOLDEN=1)");
}
