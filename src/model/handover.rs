//! What libvirt is told of a result: as it is planned, and as it was done.
//!
//! What is not here: what a person writes ([`super::manifest::LibvirtIntegration`]), and how libvirt is told (`pipeline::handover`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The snapshot before the first start, where nobody names it.
pub const SNAPSHOT: &str = "pre-first-boot";

/// What libvirt will be told of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLibvirt {
    /// Which libvirt.
    pub uri: String,
    /// What the machine is called there; names of volumes begin with it.
    pub name: String,
    /// Whether the machine is defined.
    pub define: bool,
    /// Whether one of that name gives way that this program made and that is off.
    #[serde(default)]
    pub overwrite_domain: bool,
    /// The snapshot that is made before its first start.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Whether it starts with the host.
    #[serde(default)]
    pub autostart: bool,
    /// Whether it is started.
    #[serde(default)]
    pub start: bool,
    /// Into which pool which disk goes, by its id; the others stay where their results lie.
    #[serde(default)]
    pub pools: BTreeMap<String, String>,
    /// In which pool which result is made, by the disk's id: it lies in that pool's directory from its first byte.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made_in: BTreeMap<String, String>,
    /// Where such a pool lies: it is made there if there is none.
    #[serde(default)]
    pub pool_path: Option<PathBuf>,
    /// Whether results stay beside what went into pools.
    #[serde(default)]
    pub copy_disks: bool,
    /// Whether volumes of those names give way that no machine uses.
    #[serde(default)]
    pub overwrite_volumes: bool,
    /// Whether it may run while its source could, with the same addresses.
    #[serde(default)]
    pub allow_live_clone: bool,
}

impl PlannedLibvirt {
    /// What a disk is called in its pool.
    #[must_use]
    pub fn volume(&self, disk: &str, format: &str) -> String {
        // A name of a machine may hold what no file can be called.
        format!("{}-{disk}.{format}", self.name.replace('/', "-"))
    }
}

/// What libvirt was told of one VM, for the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandedOver {
    /// Which libvirt.
    pub uri: String,
    /// What the machine is called there, if it was defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Its UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What the one that it took the place of was: where its definition is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<PathBuf>,
    /// The disks that went into pools.
    pub volumes: Vec<HandedVolume>,
    /// The snapshot from before its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether it was started.
    pub started: bool,
    /// Why it was not, though that was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<String>,
}

/// A disk in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandedVolume {
    /// Which disk.
    pub disk: String,
    /// In which pool.
    pub pool: String,
    /// What it is called there.
    pub volume: String,
    /// Where it lies.
    pub path: PathBuf,
}
