//! Who has reserved how much on which file system. Pure arithmetic on numbers that others measured.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::core::JobId;
use super::policy::Policy;
use crate::model::units::human_size;

/// What was found out about the room for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceProbe {
    /// Which file system.
    pub file_system: u64,
    /// The directory that the results go to, or the nearest one above it that exists.
    pub path: PathBuf,
    /// Bytes that the job may write, by what its sources hold.
    pub need: u64,
    /// Bytes free now.
    pub free: u64,
    /// Bytes of the whole file system.
    pub total: u64,
}

/// One job's share of a file system.
#[derive(Debug, Clone)]
struct Reservation {
    file_system: u64,
    path: PathBuf,
    free: u64,
    need: u64,
    written: u64,
}

/// A file system on which jobs have reserved room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// Which.
    pub file_system: u64,
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes that were free when it was last looked at for a job.
    pub free: u64,
    /// Bytes that jobs may still write there.
    pub bytes: u64,
}

impl Reservation {
    /// What it may still write: what it has written no longer counts as free.
    fn open(&self) -> u64 {
        self.need.saturating_sub(self.written)
    }
}

/// All reservations.
#[derive(Debug, Default)]
pub struct Ledger {
    by_job: BTreeMap<JobId, Reservation>,
}

/// Whether there is room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is, and it is reserved.
    Fits {
        /// Bytes that other jobs may still write there.
        reserved_by_others: u64,
    },
    /// There is not, for the reason given.
    Full(String),
}

impl Ledger {
    /// Reserves `need` bytes for a job, if they are there.
    pub fn reserve(&mut self, job: JobId, probe: &SpaceProbe, need: u64, policy: &Policy) -> Verdict {
        self.release(job);
        let others = self.reserved(probe.file_system);
        let kept = policy.reserve(probe.total);
        let usable = probe.free.saturating_sub(kept);
        if usable.saturating_sub(others) < need {
            return Verdict::Full(format!(
                "needs {} at {}, {} free ({} reserved by others, {} kept free)",
                human_size(need),
                probe.path.display(),
                human_size(probe.free),
                human_size(others),
                human_size(kept),
            ));
        }
        let reservation = Reservation {
            file_system: probe.file_system,
            path: probe.path.clone(),
            free: probe.free,
            need,
            written: 0,
        };
        self.by_job.insert(job, reservation);
        Verdict::Fits { reserved_by_others: others }
    }

    /// Notes how much a job has written by now; it never takes anything back.
    pub fn wrote(&mut self, job: JobId, bytes: u64) {
        if let Some(reservation) = self.by_job.get_mut(&job) {
            reservation.written = reservation.written.max(bytes);
        }
    }

    /// What a job will still write, measured by its worker; tells whether that gives room back.
    pub fn measured(&mut self, job: JobId, still: u64) -> bool {
        let Some(reservation) = self.by_job.get_mut(&job) else { return false };
        let before = reservation.open();
        reservation.need = reservation.written.saturating_add(still);
        reservation.open() < before
    }

    /// Gives a job's share back; tells whether there was one.
    pub fn release(&mut self, job: JobId) -> bool {
        self.by_job.remove(&job).is_some()
    }

    /// Bytes that jobs may still write on a file system.
    #[must_use]
    pub fn reserved(&self, file_system: u64) -> u64 {
        self.by_job.values().filter(|r| r.file_system == file_system).map(Reservation::open).sum()
    }

    /// Every file system with a reservation.
    #[must_use]
    pub fn file_systems(&self) -> Vec<Reserved> {
        let mut found: BTreeMap<u64, Reserved> = BTreeMap::new();
        for reservation in self.by_job.values() {
            let entry = found.entry(reservation.file_system).or_insert_with(|| Reserved {
                file_system: reservation.file_system,
                path: reservation.path.clone(),
                free: reservation.free,
                bytes: 0,
            });
            entry.bytes += reservation.open();
        }
        found.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::config::Settings;

    const MIB: u64 = 1 << 20;

    fn policy() -> Policy {
        let mut policy = Policy::of(&Settings::defaults(Path::new("/s"), 2));
        policy.disk_reserve_bytes = Some(10 * MIB);
        policy
    }

    fn probe(free: u64) -> SpaceProbe {
        SpaceProbe { file_system: 1, path: "/out".into(), need: 0, free, total: 1000 * MIB }
    }

    #[test]
    fn what_others_may_still_write_is_not_given_twice() {
        let mut ledger = Ledger::default();
        assert_eq!(
            ledger.reserve(1, &probe(100 * MIB), 60 * MIB, &policy()),
            Verdict::Fits { reserved_by_others: 0 }
        );
        let Verdict::Full(detail) = ledger.reserve(2, &probe(100 * MIB), 40 * MIB, &policy()) else {
            panic!("40 MiB do not fit beside 60 reserved and 10 kept")
        };
        assert_eq!(
            detail,
            "needs 40.0 MiB at /out, 100.0 MiB free (60.0 MiB reserved by others, 10.0 MiB kept free)"
        );
        assert!(matches!(
            ledger.reserve(3, &probe(100 * MIB), 30 * MIB, &policy()),
            Verdict::Fits { reserved_by_others } if reserved_by_others == 60 * MIB
        ));
    }

    #[test]
    fn what_was_written_is_no_longer_reserved() {
        let mut ledger = Ledger::default();
        ledger.reserve(1, &probe(100 * MIB), 60 * MIB, &policy());
        ledger.wrote(1, 50 * MIB);
        ledger.wrote(1, 20 * MIB);
        assert_eq!(ledger.reserved(1), 10 * MIB);
        ledger.wrote(1, 90 * MIB);
        assert_eq!(ledger.reserved(1), 0);
        assert!(ledger.release(1));
        assert!(!ledger.release(1));
    }

    #[test]
    fn what_a_worker_measures_takes_the_place_of_the_estimate() {
        let mut ledger = Ledger::default();
        ledger.reserve(1, &probe(100 * MIB), 20 * MIB, &policy());
        ledger.wrote(1, 5 * MIB);
        assert!(!ledger.measured(1, 60 * MIB));
        assert_eq!(ledger.reserved(1), 60 * MIB);
        ledger.wrote(1, 25 * MIB);
        assert_eq!(ledger.reserved(1), 40 * MIB);
        assert!(ledger.measured(1, 10 * MIB));
        assert_eq!(ledger.reserved(1), 10 * MIB);
        assert!(!ledger.measured(2, MIB), "a job without a share");
    }

    #[test]
    fn file_systems_are_counted_apart() {
        let mut ledger = Ledger::default();
        ledger.reserve(1, &probe(100 * MIB), 60 * MIB, &policy());
        let other = SpaceProbe { file_system: 2, path: "/other".into(), ..probe(100 * MIB) };
        assert!(matches!(
            ledger.reserve(2, &other, 60 * MIB, &policy()),
            Verdict::Fits { reserved_by_others: 0 }
        ));
        assert_eq!(ledger.file_systems().len(), 2);
    }
}
