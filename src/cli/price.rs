//! What a batch will take, before anything of it is done: bytes to read, room for the results, and time.
//!
//! The time is told from what was converted here before, as the progress files of the state directory say; without any there is none. Nothing is
//! promised: sources may lie elsewhere, and guests that boot slowly do so again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::convert::usual_at_a_time;
use super::table::printable;
use crate::model::config::Settings;
use crate::model::job::JobState;
use crate::model::plan::Plan;
use crate::model::progress::BatchProgress;
use crate::model::units::{human_duration, human_size};
use crate::service::space;

/// So many of the newest progress files are looked into.
const MOST_FILES: usize = 200;
/// A progress file that is larger is left out.
const MOST_BYTES: u64 = 64 << 20;

/// What all of it takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Price {
    /// How many VMs.
    vms: u64,
    /// What has to be read of their disks, as far as that is known.
    bytes: u64,
    /// VMs of which it is not known: their disks cannot be looked at.
    unknown: Vec<String>,
    /// Where the results go.
    filesystems: Vec<Room>,
    /// How long it may take, from what was converted here before.
    seconds: Option<f64>,
    /// How many VMs that is told from.
    from_vms: u64,
}

/// One file system.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Room {
    path: String,
    need: u64,
    free: u64,
    fits: bool,
}

impl Price {
    /// The price of several plans, `at_a_time` of them at a time.
    pub(super) fn of(plans: &[Plan], at_a_time: Option<u32>, settings: &Settings) -> Price {
        let mut rooms: BTreeMap<u64, Room> = BTreeMap::new();
        let (mut bytes, mut unknown) = (0_u64, Vec::new());
        for plan in plans {
            let (Some(read), Some(probe)) = (space::source_bytes(plan), space::probe(plan)) else {
                unknown.push(plan.vm_id.clone());
                continue;
            };
            bytes = bytes.saturating_add(read);
            for share in std::iter::once(&probe).chain(&probe.beside) {
                let room = rooms.entry(share.file_system).or_insert_with(|| Room {
                    path: share.path.to_string_lossy().into_owned(),
                    need: 0,
                    free: share.free,
                    fits: true,
                });
                room.need = room.need.saturating_add(share.need);
                room.fits = room.need <= room.free;
            }
        }
        let past = Past::of(&settings.layout().progress());
        let at_a_time = f64::from(at_a_time.unwrap_or_else(usual_at_a_time).max(1));
        let lanes = at_a_time.min(plans.len().max(1) as f64);
        let seconds = past.seconds_of(plans.len() as f64, bytes as f64).map(|all| all / lanes);
        Price {
            vms: plans.len() as u64,
            bytes,
            unknown,
            filesystems: rooms.into_values().collect(),
            seconds,
            from_vms: past.vms,
        }
    }

    /// For a person.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{} VMs, {} to read\n", self.vms, human_size(self.bytes));
        for room in &self.filesystems {
            let verdict = if room.fits { "" } else { ": it does not fit, and some will wait for room" };
            text += &printable(&format!(
                "  {}: needs {}, {} are free{verdict}",
                room.path,
                human_size(room.need),
                human_size(room.free)
            ));
            text.push('\n');
        }
        if !self.unknown.is_empty() {
            text += &printable(&format!(
                "  not known of {}: their disks cannot be looked at",
                self.unknown.join(", ")
            ));
            text.push('\n');
        }
        text + &match self.seconds {
            Some(seconds) => {
                format!("  about {}, as the last {} VMs here went\n", human_duration(seconds), self.from_vms)
            }
            None => "  how long it takes is not known: nothing was converted here before\n".to_owned(),
        }
    }
}

/// What conversions here took.
#[derive(Debug, Default)]
struct Past {
    vms: u64,
    bytes: f64,
    seconds: f64,
}

impl Past {
    fn of(directory: &Path) -> Past {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
            .filter(|(metadata, path)| {
                metadata.is_file()
                    && metadata.len() <= MOST_BYTES
                    && path.extension().is_some_and(|end| end == "json")
            })
            .filter_map(|(metadata, path)| Some((metadata.modified().ok()?, path)))
            .collect();
        files.sort_by(|one, other| other.cmp(one));
        let mut past = Past::default();
        for (_, path) in files.into_iter().take(MOST_FILES) {
            let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            // One that cannot be read tells nothing.
            let Some(progress): Option<BatchProgress> = read else { continue };
            for vm in progress.vms.values().filter(|vm| vm.state == JobState::Succeeded) {
                let Some(seconds) = vm.duration.filter(|seconds| seconds.is_finite() && *seconds > 0.0)
                else {
                    continue;
                };
                past.vms += 1;
                past.seconds += seconds;
                past.bytes += vm.disks.values().map(|disk| disk.bytes_total as f64).sum::<f64>();
            }
        }
        past
    }

    /// The larger of what so many VMs and so many bytes took: a boot test takes its time however small the disk is.
    fn seconds_of(&self, vms: f64, bytes: f64) -> Option<f64> {
        if self.vms == 0 {
            return None;
        }
        let by_vms = self.seconds / self.vms as f64 * vms;
        let by_bytes = if self.bytes > 0.0 { self.seconds / self.bytes * bytes } else { 0.0 };
        Some(by_vms.max(by_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_told_from_what_went_before_and_not_at_all_without_it() {
        let past = Past { vms: 4, bytes: 400.0, seconds: 40.0 };
        assert_eq!(past.seconds_of(2.0, 10.0), Some(20.0), "two small ones take as long as two");
        assert_eq!(past.seconds_of(2.0, 1000.0), Some(100.0), "large ones as long as their bytes");
        assert_eq!(Past::default().seconds_of(2.0, 10.0), None);
    }

    #[test]
    fn files_that_are_no_progress_tell_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.json"), "{").unwrap();
        std::fs::write(dir.path().join("b.txt"), "{}").unwrap();
        assert_eq!(Past::of(dir.path()).vms, 0);
        assert_eq!(Past::of(&dir.path().join("none")).vms, 0);
    }
}
