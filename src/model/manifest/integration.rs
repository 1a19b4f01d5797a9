//! `network_mapping`, `storage_mapping` and `libvirt_integration`: where the guest finds itself afterwards.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::{InterfaceName, Line, Mac, PathText};

/// `network_mapping`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkMapping {
    /// Source network to bridge.
    pub source_networks: Option<BTreeMap<String, InterfaceName>>,
    /// What becomes of MAC addresses; default preserve.
    pub mac_address_policy: Option<MacPolicy>,
    /// For `custom`: old to new. Keys are MAC addresses.
    pub mac_address_overrides: Option<BTreeMap<Mac, Mac>>,
    /// For networks that are not named.
    pub default_bridge: Option<InterfaceName>,
}

/// What becomes of MAC addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MacPolicy {
    /// They stay.
    Preserve,
    /// New ones.
    Regenerate,
    /// As `mac_address_overrides` says.
    Custom,
}

/// `storage_mapping`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageMapping {
    /// The pool for disks that are not named.
    pub default_pool: Option<Line>,
    /// Disk id or role to directory.
    pub disk_mappings: Option<BTreeMap<String, PathText>>,
    /// Format of every disk.
    pub format_override: Option<MappedFormat>,
    /// Lay results out beforehand.
    pub preallocate: Option<bool>,
}

/// The formats that a storage mapping knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MappedFormat {
    /// QEMU's own.
    Qcow2,
    /// Bytes as they are.
    Raw,
    /// VirtualBox.
    Vdi,
}

/// `libvirt_integration`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtIntegration {
    /// Whether libvirt is told; default false.
    pub enabled: Option<bool>,
    /// Define a domain; default true.
    pub define_domain: Option<bool>,
    /// Replace a domain that this program made and that is not running.
    pub overwrite_domain: Option<bool>,
    /// Snapshot before the first start.
    pub create_snapshot: Option<bool>,
    /// Its name.
    pub snapshot_name: Option<Line>,
    /// Start with the host.
    pub autostart: Option<bool>,
    /// Start now.
    pub auto_start: Option<bool>,
    /// Put the disks into this pool.
    pub import_to_pool: Option<Line>,
    /// Where that pool lies.
    pub pool_path: Option<PathText>,
    /// Copy disks into the pool, rather than move.
    pub copy_disks: Option<bool>,
    /// Replace volumes of that name.
    pub overwrite_volumes: Option<bool>,
    /// The domain's name; default the VM's.
    pub vm_name: Option<Line>,
}
