//! A daemon with sources beside it, and drops made of them.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::support::{Daemon, disks, within};

/// Settings with which copies last, however fast the machine is: 96 MiB take at least three seconds.
pub const HELD: &str = "limits: {disk_reserve: 1MiB, bandwidth: [{rate: 24MiB/s}]}\n";

/// A daemon whose copies last.
pub fn held_daemon() -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.configure(HELD);
    daemon.start();
    daemon
}

/// A noise disk of so many MiB beside the state directory.
pub fn source(daemon: &Daemon, stem: &str, format: &str, data_mib: u64) -> PathBuf {
    disks::disk(daemon.scratch(), stem, format, data_mib + 16, data_mib, data_mib)
}

/// Drops a manifest of one disk.
pub fn drop_disk(daemon: &Daemon, name: &str, source: &std::path::Path, format: &str, further: &str) {
    let manifest = disks::manifest(&[("boot", source, format)], further);
    daemon.drop_file(&format!("{name}.yaml"), manifest);
}

/// The only VM of a batch of one.
pub fn only_vm(progress: &Value) -> Value {
    progress["vms"].as_object().and_then(|vms| vms.values().next()).cloned().unwrap_or(Value::Null)
}

/// Waits until the only VM of a batch is as `is` wants it.
#[track_caller]
pub fn wait_vm(daemon: &Daemon, batch: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let found = within(Duration::from_secs(120), || {
        daemon.progress(batch).map(|progress| only_vm(&progress)).filter(|vm| is(vm))
    });
    found.unwrap_or_else(|| {
        panic!("{batch} did not become {what}: {:?}\n{}", daemon.progress(batch), daemon.log())
    })
}

/// Waits until a copy of this batch is really under way.
#[track_caller]
pub fn wait_copying(daemon: &Daemon, batch: &str) -> Value {
    wait_vm(daemon, batch, "copying", |vm| {
        vm["state"] == "running"
            && vm["disks"].as_object().is_some_and(|disks| disks.values().any(|d| d["bytes_done"] != 0))
    })
}
