//! Jobs that wait for room on a file system, and when they are asked again. Part of the core, so pure.
//!
//! All of them are asked in rounds, as soon as somebody gives room back and every few seconds. One whose worker ran out of room although the file
//! system says that there is enough (a quota that it does not show) would begin, and make its snapshot of a machine that runs, in each round:
//! it rests ever longer, until it gets further than before, or the file system says itself that it is full. What is not here: how much
//! room a job needs, and who has reserved what.

use std::collections::BTreeSet;

use super::core::{Core, JobId, millis};
use super::policy::{SPACE_RECHECK_S, SPACE_REST_MAX_S};
use crate::model::error::Error;
use crate::model::job::WaitReason;

/// How often in a row a worker of a job ran out of room where there was to be some, and until when the job rests for that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rest {
    times: u32,
    until: u64,
}

impl Rest {
    /// Once more: it rests for a round at least. Says for how long, where it is not the first time.
    fn again(&mut self, now: f64) -> Option<f64> {
        let rest = (SPACE_RECHECK_S * 2_f64.powi(self.times.min(16) as i32)).min(SPACE_REST_MAX_S);
        self.times = self.times.saturating_add(1);
        self.until = millis(now + rest);
        (self.times > 1).then_some(rest)
    }
}

impl Core {
    /// A worker ran out of room. It costs no attempt.
    pub(super) fn ran_out_of_room(&mut self, now: f64, id: JobId, error: &Error) {
        let job = self.job(id);
        let (counters, details) = (&mut job.facts.counters, error.details());
        counters.take_back();
        counters.exact_need = details.need_bytes.or(counters.exact_need);
        job.lacked_at = details.output.clone().or(job.lacked_at.take());
        let mut detail = error.to_string();
        if let Some(rest) = job.rest.again(now) {
            detail = format!(
                "{detail}; again and again, though there is said to be room (a quota?): tried in {rest:.0} s"
            );
        }
        self.await_room(now, id, detail);
    }

    /// It waits for room, and is asked again with all others that do.
    pub(super) fn await_room(&mut self, now: f64, id: JobId, detail: String) {
        self.space_waiters.insert(id);
        self.next_space_check.get_or_insert(millis(now + SPACE_RECHECK_S));
        self.wait(now, id, WaitReason::DiskSpace, detail);
    }

    /// Begins a round, if it is time for one and all have had their turn in the last one.
    pub(super) fn ask_for_room(&mut self, now: f64) {
        let now_ms = millis(now);
        if self.next_space_check.is_none_or(|at| at > now_ms) {
            return;
        }
        let next = Some(millis(now + SPACE_RECHECK_S));
        if self.room_is_still_asked_for() {
            self.next_space_check = next;
            return;
        }
        let rests = |id: &JobId| self.jobs.get(id).is_some_and(|job| job.rest.until > now_ms);
        let (resting, asked): (BTreeSet<JobId>, BTreeSet<JobId>) =
            std::mem::take(&mut self.space_waiters).into_iter().partition(rests);
        self.space_waiters = resting;
        self.next_space_check = next.filter(|_| !self.space_waiters.is_empty());
        for id in asked {
            self.release(id);
        }
    }

    /// Whether some of those that wait for room have not been asked in this round, and could be.
    fn room_is_still_asked_for(&self) -> bool {
        self.ready.iter().any(|(_, id)| {
            self.jobs.get(id).is_some_and(|job| job.waits_for(WaitReason::DiskSpace))
                && !self.batch_is_full(*id)
                && self.network_blocks(*id).is_none()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_out_of_room_that_is_there_rests_twice_as_long_each_time_up_to_a_limit() {
        let mut rest = Rest::default();
        let rests: Vec<_> = (0..9).map(|_| rest.again(0.0)).collect();
        let told = [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0].map(Some);
        assert_eq!(rests, [&[None], &told[..]].concat());
        assert_eq!(rest.until, 300_000);
        rest.times = u32::MAX;
        assert_eq!(rest.again(0.0), Some(SPACE_REST_MAX_S));
    }
}
