//! What the file of a disk may be: a format, and what may be packed around it. What is not here: how that is told and read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a disk's file is packed, around its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// gzip.
    Gzip,
}

/// The formats of disks that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// VMware.
    Vmdk,
    /// QEMU.
    Qcow2,
    /// Bytes as they are.
    Raw,
    /// Virtual PC, Azure.
    Vhd,
    /// Hyper-V.
    Vhdx,
    /// VirtualBox.
    Vdi,
}

impl SourceFormat {
    /// Every format.
    pub const ALL: [SourceFormat; 6] = [
        SourceFormat::Vmdk,
        SourceFormat::Qcow2,
        SourceFormat::Raw,
        SourceFormat::Vhd,
        SourceFormat::Vhdx,
        SourceFormat::Vdi,
    ];

    /// The name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SourceFormat::Vmdk => "vmdk",
            SourceFormat::Qcow2 => "qcow2",
            SourceFormat::Raw => "raw",
            SourceFormat::Vhd => "vhd",
            SourceFormat::Vhdx => "vhdx",
            SourceFormat::Vdi => "vdi",
        }
    }
}
