//! Directories of hooks as an administrator makes them: of root, and nobody else may write there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A directory of root's that hooks may be run from, and one of the test's own that they may write to. Both go with it.
pub struct Hooks {
    scratch: TempDir,
    root: PathBuf,
}

impl Hooks {
    /// Empty ones.
    pub fn new() -> Hooks {
        let scratch = tempfile::Builder::new().prefix("h2k-hooks-").tempdir().unwrap();
        // Beside it: what belongs to the test's user is not root's.
        let root = scratch.path().with_extension("root");
        as_root(&["install", "-d", "-m", "755", "-o", "root", "-g", "root"], &[&root]);
        Hooks { scratch, root }
    }

    /// What `hooks.allowed_dirs` names.
    pub fn allowed(&self) -> PathBuf {
        self.root.clone()
    }

    /// Installs a file with this content.
    pub fn install(&self, name: &str, mode: &str, content: &str) -> PathBuf {
        let written = self.scratch.path().join("to-be-installed");
        fs::write(&written, content).unwrap();
        let path = self.root.join(name);
        as_root(&["install", "-D", "-m", mode, "-o", "root", "-g", "root"], &[&written, &path]);
        path
    }

    /// Installs a shell script.
    pub fn script(&self, name: &str, lines: &str) -> PathBuf {
        self.install(name, "755", &format!("#!/bin/sh\n{lines}\n"))
    }

    /// A file that hooks may write to.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// What such a file holds, line by line.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        as_root(&["rm", "-rf"], &[&self.root]);
    }
}

/// Runs a command as root, through sudo where the tests run as somebody else.
#[track_caller]
pub fn as_root(words: &[&str], paths: &[&Path]) {
    let root = rustix::process::geteuid().is_root();
    let mut words = words.iter();
    let mut command = match root {
        true => Command::new(words.next().unwrap()),
        false => Command::new("sudo"),
    };
    if !root {
        command.arg("-n");
    }
    let done = command.args(words).args(paths).status().unwrap();
    assert!(done.success(), "{command:?}: {done}");
}
