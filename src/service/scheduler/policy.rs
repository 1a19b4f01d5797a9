//! The part of the settings that decides about jobs, and the retry rule. Pure.

use crate::model::config::{OnNetworkTimeout, PauseScope, RetrySettings, Settings};

/// A worker that was told to cancel has this long to clean up before it is killed.
pub(super) const CANCEL_PATIENCE_S: f64 = 10.0;

/// One that tells libvirt of its result first waits for what it has asked, and then takes back what it was told. Killed in the midst of it, it would
/// leave a machine to whoever goes on.
pub(super) const HANDOVER_PATIENCE_S: f64 = 300.0;

/// A worker that is to give its work away has this long to make durable what it has copied.
pub(super) const RELEASE_PATIENCE_S: f64 = 50.0;

/// A worker that was told to stop has this long to checkpoint before it is killed: the service has to end within 10 s.
pub(super) const STOP_PATIENCE_S: f64 = 6.0;

/// Room on a file system is looked at again this often while a job waits for it.
pub(super) const SPACE_RECHECK_S: f64 = 5.0;

/// One that ran out of room again and again, where there is said to be some, is not begun more seldom than this.
pub(super) const SPACE_REST_MAX_S: f64 = 300.0;

/// So many jobs wait for room on one file system; those behind them stay queued.
pub(super) const SPACE_WAITERS_MAX: usize = 64;

/// What a change of the settings can change in the scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Jobs at a time.
    pub slots: usize,
    /// When to try again.
    pub retry: RetrySettings,
    /// Whether an outage pauses jobs at all.
    pub pause_on_network_down: bool,
    /// Which jobs it pauses.
    pub pause_scope: PauseScope,
    /// An outage this long is acted on.
    pub max_network_wait_s: f64,
    /// How it is acted on.
    pub on_network_timeout: OnNetworkTimeout,
    /// Jobs at a time whose source is on one server.
    pub per_vcenter: Option<usize>,
    /// Jobs at a time whose source runs on one ESXi host.
    pub per_esxi_host: Option<usize>,
    /// Jobs at a time with disks on one datastore.
    pub per_datastore: Option<usize>,
    /// Jobs at a time that write to one file system.
    pub per_target_fs: Option<usize>,
    /// Stays free; `None`: the default rule.
    pub disk_reserve_bytes: Option<u64>,
}

impl Policy {
    /// The policy that these settings ask for.
    #[must_use]
    pub fn of(settings: &Settings) -> Policy {
        let network = &settings.network_monitor;
        Policy {
            slots: settings.max_concurrent_jobs.max(1) as usize,
            retry: settings.retry.clone(),
            pause_on_network_down: network.enabled && network.pause_on_network_down,
            pause_scope: network.pause_scope,
            max_network_wait_s: network.max_network_wait_s,
            on_network_timeout: network.on_network_timeout,
            per_vcenter: settings.limits.per_vcenter.map(|limit| limit as usize),
            per_esxi_host: Some(settings.limits.per_esxi_host as usize),
            per_datastore: settings.limits.per_datastore.map(|limit| limit as usize),
            per_target_fs: settings.limits.per_target_fs.map(|limit| limit as usize),
            disk_reserve_bytes: settings.limits.disk_reserve_bytes,
        }
    }

    /// What stays free on a file system of this size.
    #[must_use]
    pub fn reserve(&self, total: u64) -> u64 {
        const DEFAULT_RESERVE_BYTES: u64 = 20 << 30;
        self.disk_reserve_bytes.unwrap_or_else(|| (total / 20).max(DEFAULT_RESERVE_BYTES).min(total / 10))
    }

    /// Whether there is nothing left to try after so many failures in a row, the first of them at `first`.
    #[must_use]
    pub fn gives_up(&self, failures: u32, first: f64, now: f64) -> bool {
        failures >= self.retry.max_attempts || now - first >= self.retry.give_up_after_s
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn policy() -> Policy {
        Policy::of(&Settings::defaults(Path::new("/s"), 2))
    }

    #[test]
    fn delays_double_up_to_the_maximum_and_are_spread_by_a_quarter() {
        let policy = policy();
        for (failures, random, seconds) in [
            (1, 0.5, 10.0),
            (2, 0.5, 20.0),
            (3, 0.5, 40.0),
            (30, 0.5, 600.0),
            (1, 0.0, 7.5),
            (1, 1.0, 12.5),
            (4_000_000_000, 1.0, 750.0),
        ] {
            assert!((policy.retry.backoff_s(failures, random) - seconds).abs() < 1e-9, "{failures} {random}");
        }
    }

    #[test]
    fn it_gives_up_after_so_many_attempts_or_so_long() {
        let policy = policy();
        assert!(!policy.gives_up(4, 0.0, 100.0));
        assert!(policy.gives_up(5, 0.0, 100.0));
        assert!(policy.gives_up(1, 0.0, 43_200.0));
    }

    #[test]
    fn the_default_reserve_never_locks_up_a_small_disk() {
        let policy = policy();
        assert_eq!(policy.reserve(10 << 30), 1 << 30);
        assert_eq!(policy.reserve(300 << 30), 20 << 30);
        assert_eq!(policy.reserve(1000 << 30), 50 << 30);
        assert_eq!(Policy { disk_reserve_bytes: Some(7), ..policy }.reserve(1 << 40), 7);
    }
}
