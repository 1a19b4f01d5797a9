//! Where each disk's result lies, in which format and layout: as for the VM, where no storage mapping says otherwise.
//!
//! A directory of a mapping holds results of many VMs, so the name of a result there begins with its VM's id. What is not here: how a mapping
//! is read (the planner does that), and how results get there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::job::Stage;
use super::plan::{Compression, OutputFormat, Plan, PlannedDisk, PlannedOutput, Preallocation};

/// What a storage mapping says of one disk's result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// Where it lies instead of the VM's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// Its format, instead of the VM's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<OutputFormat>,
    /// Its layout, instead of the VM's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<Preallocation>,
}

/// A place that a mapping gives to a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The directory (absolute).
    pub directory: PathBuf,
    /// The result's name without its suffix: `<vm-id>-<disk-id>`.
    pub stem: String,
}

impl Placement {
    /// Whether all is as for the VM.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Placement::default()
    }
}

impl PlannedDisk {
    /// The directory of its result, where that is not the VM's.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Path> {
        self.placement.home.as_ref().map(|home| home.directory.as_path())
    }

    /// The name of its result without suffix.
    #[must_use]
    pub fn stem(&self) -> &str {
        self.placement.home.as_ref().map_or(&self.id, |home| &home.stem)
    }

    /// The format of its result, of a VM whose results are to look so.
    #[must_use]
    pub fn format_in(&self, output: &PlannedOutput) -> OutputFormat {
        self.placement.format.unwrap_or(output.format)
    }

    /// The final path of its result.
    #[must_use]
    pub fn result_in(&self, output: &PlannedOutput) -> PathBuf {
        let directory = self.elsewhere().unwrap_or(&output.directory);
        directory.join(format!("{}.{}", self.stem(), self.format_in(output).name()))
    }
}

impl Plan {
    /// The format of a disk's result.
    #[must_use]
    pub fn format_of(&self, disk: &PlannedDisk) -> OutputFormat {
        disk.format_in(&self.output)
    }

    /// The layout of a disk's result.
    #[must_use]
    pub fn preallocation_of(&self, disk: &PlannedDisk) -> Preallocation {
        disk.placement.preallocation.unwrap_or(self.output.preallocation)
    }

    /// The storage pool of libvirt's that a disk's result is made in, if that is what its directory is.
    #[must_use]
    pub fn made_in(&self, disk: &PlannedDisk) -> Option<&str> {
        self.libvirt.as_ref()?.made_in.get(&disk.id).map(String::as_str)
    }

    /// The directories besides the VM's in which results lie, each once.
    #[must_use]
    pub fn directories_elsewhere(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = self.disks.iter().filter_map(PlannedDisk::elsewhere).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The final path of a disk's result.
    #[must_use]
    pub fn result_path(&self, disk: &PlannedDisk) -> PathBuf {
        disk.result_in(&self.output)
    }

    /// The stage in which its bytes move: as soon as possible where all results may be changed later, else at the end.
    #[must_use]
    pub fn copying_stage(&self) -> Stage {
        let any_offset = |disk: &PlannedDisk| match self.format_of(disk) {
            OutputFormat::Raw => true,
            OutputFormat::Qcow2 => self.output.compress == Compression::None,
            OutputFormat::Vmdk | OutputFormat::Vhd | OutputFormat::Vdi => false,
        };
        match self.disks.iter().all(any_offset) || !self.runs(Stage::Convert) {
            true => Stage::Extraction,
            false => Stage::Convert,
        }
    }
}
