//! `libvirt_integration`: what libvirt is told.

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::{Line, PathText};

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
