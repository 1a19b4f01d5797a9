//! In what state a guest's disks are: what sleeps, what is locked, what was cut off. Asked before anything is mounted, and nothing is changed by it.
//!
//! What is not here: what follows from it (see `pipeline::preflight`).

use serde::{Deserialize, Serialize};

use super::choose::{BITLOCKER, Choice};
use super::mount::{NtfsState, SLEEPING, ntfs_state};
use super::storage::Storage;
use super::unlock;
use crate::guest::appliance::Appliance;
use crate::guest::tree::shown;

/// What was found, by the names that a person knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Where the memory of a sleeping system lies.
    pub asleep: Vec<String>,
    /// File systems of a Windows that was cut off.
    pub unclean: Vec<String>,
    /// LUKS volumes that no key opens.
    pub locked: Vec<String>,
    /// Volumes that BitLocker has encrypted.
    pub bitlocker: Vec<String>,
    /// File systems that cannot be opened, and why.
    pub unreadable: Vec<(String, String)>,
}

pub(super) fn of(appliance: &Appliance, storage: &Storage, choice: &Choice) -> Condition {
    let called = |content: &'static str| {
        storage.holding(content).map(|volume| shown(&volume.device)).collect::<Vec<_>>()
    };
    let mut condition = Condition {
        asleep: called(SLEEPING),
        locked: unlock::locked(storage).map(unlock::called).collect(),
        bitlocker: called(BITLOCKER),
        unreadable: choice.unreadable.iter().map(|(device, why)| (shown(device), shown(why))).collect(),
        ..Condition::default()
    };
    if choice.root.windows {
        for volume in storage.holding("ntfs") {
            match ntfs_state(appliance, storage.node(&volume.device)) {
                NtfsState::Hibernated => condition.asleep.push(shown(&volume.device)),
                NtfsState::Unclean => condition.unclean.push(shown(&volume.device)),
                NtfsState::Sound => {}
            }
        }
    }
    condition
}
