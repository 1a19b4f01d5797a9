//! Who has reserved how much on which file system. Pure arithmetic on numbers that others measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// The same of other file systems that results of the job go to.
    pub beside: Vec<SpaceProbe>,
}

impl SpaceProbe {
    /// Takes in what results in another directory need: of one file system there is one share.
    pub fn add(&mut self, other: SpaceProbe) {
        let mut all = std::iter::once((self.file_system, &mut self.need))
            .chain(self.beside.iter_mut().map(|share| (share.file_system, &mut share.need)));
        match all.find(|(file_system, _)| *file_system == other.file_system) {
            Some((_, need)) => *need = need.saturating_add(other.need),
            None => self.beside.push(other),
        }
    }

    /// The file systems, that of most results first.
    pub(super) fn file_systems(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.file_system).chain(self.beside.iter().map(|share| share.file_system))
    }

    /// The share on each file system, and what is needed there: what a worker found where it lacked room takes the place of the estimate.
    fn shares(&self, exact: Option<(u64, Option<&Path>)>) -> Vec<(&SpaceProbe, u64)> {
        let all = std::iter::once(self).chain(&self.beside);
        let found_at = |share: &SpaceProbe| match (exact, self.beside.is_empty()) {
            (Some((need, _)), true) => Some(need),
            (Some((need, Some(at))), false) if at.starts_with(&share.path) && self.lies_at(at, share) => {
                Some(need)
            }
            _ => None,
        };
        all.map(|share| (share, found_at(share).unwrap_or(share.need))).collect()
    }

    /// Whether of all shares this one's path is the nearest above.
    fn lies_at(&self, at: &Path, share: &SpaceProbe) -> bool {
        let depth = |share: &SpaceProbe| share.path.components().count();
        let all = std::iter::once(self).chain(&self.beside).filter(|other| at.starts_with(&other.path));
        all.map(depth).max() == Some(depth(share))
    }
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
    by_job: BTreeMap<JobId, Vec<Reservation>>,
}

/// Whether there is room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is, and it is reserved.
    Fits {
        /// Bytes that other jobs may still write there.
        reserved_by_others: u64,
    },
    /// There is not.
    Full {
        /// Where it lacks.
        file_system: u64,
        /// For people.
        detail: String,
    },
}

fn needed(shares: &[Reservation]) -> u64 {
    shares.iter().fold(0, |sum, share| sum.saturating_add(share.need))
}

/// The part of some bytes that falls to a share. One that is alone has all.
fn part(bytes: u64, need: u64, all: u64) -> u64 {
    if need == all {
        return bytes;
    }
    u64::try_from(u128::from(bytes) * u128::from(need) / u128::from(all.max(1))).unwrap_or(u64::MAX)
}

impl Ledger {
    /// Reserves for a job what it needs on each file system, if that is there. `exact` is what a worker found to be needed, and where.
    pub fn reserve(
        &mut self,
        job: JobId,
        probe: &SpaceProbe,
        exact: Option<(u64, Option<&Path>)>,
        policy: &Policy,
    ) -> Verdict {
        self.release(job);
        let mut reservations = Vec::new();
        for (share, need) in probe.shares(exact) {
            let others = self.reserved(share.file_system);
            let kept = policy.reserve(share.total);
            let usable = share.free.saturating_sub(kept);
            if usable.saturating_sub(others) < need {
                return Verdict::Full {
                    file_system: share.file_system,
                    detail: format!(
                        "needs {} at {}, {} free ({} reserved by others, {} kept free)",
                        human_size(need),
                        share.path.display(),
                        human_size(share.free),
                        human_size(others),
                        human_size(kept),
                    ),
                };
            }
            let (file_system, path, free) = (share.file_system, share.path.clone(), share.free);
            reservations.push(Reservation { file_system, path, free, need, written: 0 });
        }
        let others = self.reserved(probe.file_system);
        self.by_job.insert(job, reservations);
        Verdict::Fits { reserved_by_others: others }
    }

    /// Notes how much a job has written by now; it never takes anything back. Of several file systems each has its part.
    pub fn wrote(&mut self, job: JobId, bytes: u64) {
        let Some(shares) = self.by_job.get_mut(&job) else { return };
        let all = needed(shares);
        for share in shares {
            share.written = share.written.max(part(bytes, share.need, all));
        }
    }

    /// What a job will still write, measured by its worker; tells whether that gives room back.
    pub fn measured(&mut self, job: JobId, still: u64) -> bool {
        let Some(shares) = self.by_job.get_mut(&job) else { return false };
        let open = |shares: &[Reservation]| shares.iter().map(Reservation::open).sum::<u64>();
        let (before, all) = (open(shares), needed(shares));
        for share in shares.iter_mut() {
            share.need = share.written.saturating_add(part(still, share.need, all));
        }
        open(shares) < before
    }

    /// Gives a job's share back; tells whether there was one.
    pub fn release(&mut self, job: JobId) -> bool {
        self.by_job.remove(&job).is_some()
    }

    /// Whether a job has reserved room on a file system.
    pub(super) fn is_on(&self, job: JobId, file_system: u64) -> bool {
        self.by_job
            .get(&job)
            .is_some_and(|shares| shares.iter().any(|share| share.file_system == file_system))
    }

    /// Bytes that jobs may still write on a file system.
    #[must_use]
    pub fn reserved(&self, file_system: u64) -> u64 {
        let all = self.by_job.values().flatten().filter(|share| share.file_system == file_system);
        all.map(Reservation::open).sum()
    }

    /// Every file system with a reservation.
    #[must_use]
    pub fn file_systems(&self) -> Vec<Reserved> {
        let mut found: BTreeMap<u64, Reserved> = BTreeMap::new();
        for reservation in self.by_job.values().flatten() {
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
    use super::*;
    use crate::model::config::Settings;

    const MIB: u64 = 1 << 20;

    fn policy() -> Policy {
        let mut policy = Policy::of(&Settings::defaults(Path::new("/s"), 2));
        policy.disk_reserve_bytes = Some(10 * MIB);
        policy
    }

    fn probe(free: u64) -> SpaceProbe {
        SpaceProbe {
            file_system: 1,
            path: "/out".into(),
            need: 0,
            free,
            total: 1000 * MIB,
            beside: Vec::new(),
        }
    }

    #[test]
    fn what_others_may_still_write_is_not_given_twice() {
        let mut ledger = Ledger::default();
        assert_eq!(
            ledger.reserve(1, &probe(100 * MIB), Some((60 * MIB, None)), &policy()),
            Verdict::Fits { reserved_by_others: 0 }
        );
        let Verdict::Full { detail, .. } =
            ledger.reserve(2, &probe(100 * MIB), Some((40 * MIB, None)), &policy())
        else {
            panic!("40 MiB do not fit beside 60 reserved and 10 kept")
        };
        assert_eq!(
            detail,
            "needs 40.0 MiB at /out, 100.0 MiB free (60.0 MiB reserved by others, 10.0 MiB kept free)"
        );
        assert!(matches!(
            ledger.reserve(3, &probe(100 * MIB), Some((30 * MIB, None)), &policy()),
            Verdict::Fits { reserved_by_others } if reserved_by_others == 60 * MIB
        ));
    }

    #[test]
    fn what_was_written_is_no_longer_reserved() {
        let mut ledger = Ledger::default();
        ledger.reserve(1, &probe(100 * MIB), Some((60 * MIB, None)), &policy());
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
        ledger.reserve(1, &probe(100 * MIB), Some((20 * MIB, None)), &policy());
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
        ledger.reserve(1, &probe(100 * MIB), Some((60 * MIB, None)), &policy());
        let other = SpaceProbe { file_system: 2, path: "/other".into(), ..probe(100 * MIB) };
        assert!(matches!(
            ledger.reserve(2, &other, Some((60 * MIB, None)), &policy()),
            Verdict::Fits { reserved_by_others: 0 }
        ));
        assert_eq!(ledger.file_systems().len(), 2);
    }
    #[test]
    fn a_job_with_results_on_two_file_systems_needs_room_on_both() {
        let mut both = SpaceProbe { need: 60 * MIB, ..probe(100 * MIB) };
        let other = SpaceProbe { file_system: 2, path: "/other".into(), need: 20 * MIB, ..probe(50 * MIB) };
        both.add(other.clone());
        both.add(other);
        assert_eq!((both.need, both.beside.len(), both.beside[0].need), (60 * MIB, 1, 40 * MIB));
        let mut ledger = Ledger::default();
        assert!(matches!(ledger.reserve(1, &both, None, &policy()), Verdict::Fits { .. }));
        assert_eq!((ledger.reserved(1), ledger.reserved(2)), (60 * MIB, 40 * MIB));
        ledger.wrote(1, 50 * MIB);
        assert_eq!((ledger.reserved(1), ledger.reserved(2)), (30 * MIB, 20 * MIB));
        assert!(ledger.measured(1, 10 * MIB));
        assert_eq!((ledger.reserved(1), ledger.reserved(2)), (6 * MIB, 4 * MIB));
        let Verdict::Full { file_system, .. } = ledger.reserve(2, &both, None, &policy()) else {
            panic!("the second file system has 50 MiB, 4 are reserved and 10 kept")
        };
        assert_eq!(file_system, 2);
        assert_eq!(ledger.reserved(1), 6 * MIB, "nothing is reserved on the first");
    }

    #[test]
    fn what_a_worker_lacked_counts_on_the_file_system_where_it_did() {
        let mut both = SpaceProbe { need: MIB, ..probe(100 * MIB) };
        both.add(SpaceProbe { file_system: 2, path: "/out/slow".into(), need: MIB, ..probe(500 * MIB) });
        let needs = |at: Option<&str>| -> Vec<u64> {
            both.shares(Some((300 * MIB, at.map(Path::new)))).into_iter().map(|(_, need)| need).collect()
        };
        assert_eq!(needs(Some("/out/slow/a")), [MIB, 300 * MIB]);
        assert_eq!(needs(Some("/out/web")), [300 * MIB, MIB]);
        assert_eq!(needs(None), [MIB, MIB], "nobody knows where");
    }
}
