//! How much a machine's disks and network cards may use: in bytes and requests, whatever libvirt counts in.

use serde::{Deserialize, Serialize};

/// What a disk may read and write in a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskLimits {
    /// Bytes, both ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes_sec: Option<u64>,
    /// Bytes read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes_sec: Option<u64>,
    /// Bytes written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes_sec: Option<u64>,
    /// Requests, both ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_iops_sec: Option<u64>,
    /// Requests to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_iops_sec: Option<u64>,
    /// Requests to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_iops_sec: Option<u64>,
}

impl DiskLimits {
    /// Each limit by its name in manifests, which is libvirt's.
    #[must_use]
    pub fn each(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("total_bytes_sec", self.total_bytes_sec),
            ("read_bytes_sec", self.read_bytes_sec),
            ("write_bytes_sec", self.write_bytes_sec),
            ("total_iops_sec", self.total_iops_sec),
            ("read_iops_sec", self.read_iops_sec),
            ("write_iops_sec", self.write_iops_sec),
        ]
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == DiskLimits::default()
    }
}

/// What a network card may receive and send.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicLimits {
    /// Receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<FlowLimit>,
    /// Send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<FlowLimit>,
}

impl NicLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == NicLimits::default()
    }
}

/// How much may flow one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLimit {
    /// Bytes in a second, in the long run.
    pub average: u64,
    /// Bytes in a second, for a moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// Bytes that may flow at the peak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}
