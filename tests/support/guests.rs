//! A built guest, and what its sidecar says of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A script of the builder's.
pub fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name));
    command
}

/// All that a command said.
pub fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A guest as VMware would have it.
pub struct Guest {
    /// Its disks, the first boots.
    pub disks: Vec<PathBuf>,
    facts: Value,
}

impl Guest {
    /// Builds it, if this machine does not have it yet.
    #[track_caller]
    pub fn build(name: &str) -> Guest {
        let built = script("build").arg(name).output().unwrap();
        assert!(built.status.success(), "{}", told(&built));
        let disks: Vec<PathBuf> =
            String::from_utf8(built.stdout).unwrap().lines().map(PathBuf::from).collect();
        let sidecar = disks[0].parent().unwrap().join(format!("{name}.json"));
        let facts = serde_json::from_slice(&std::fs::read(sidecar).unwrap()).unwrap();
        Guest { disks, facts }
    }

    /// What the sidecar says at a place, as text; empty if nothing.
    pub fn fact(&self, place: &str) -> &str {
        self.facts.pointer(place).and_then(Value::as_str).unwrap_or_default()
    }

    /// What it lists at a place.
    pub fn list(&self, place: &str) -> Vec<&str> {
        self.facts
            .pointer(place)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// Whether it says yes at a place.
    pub fn is(&self, place: &str) -> bool {
        self.facts.pointer(place).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The passphrase of its encrypted disk.
    pub fn passphrase(&self) -> Option<&str> {
        Some(self.fact("/luks/passphrase")).filter(|passphrase| !passphrase.is_empty())
    }
}
