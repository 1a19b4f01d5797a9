//! Warm migration: a VM is copied while it runs, what has changed meanwhile is copied after it, and only the last of that once it is off.
//!
//! What a plan says of it, what its passes came to, and what follows from both: when the next pass begins, and whether that is the last one. Whoever
//! decides hands in the time. What is not here: how a pass is made (`pipeline/warm`), and who waits (the scheduler).

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::units::{human_duration, human_size};

/// How little is left for the last pass, if nobody says so.
pub const MAX_DELTA_BYTES: u64 = 512 << 20;
/// Between passes, if nobody says so.
pub const INTERVAL_S: f64 = 3600.0;
/// A VM that is to be off by now is looked at this often.
const LOOK_AGAIN_S: f64 = 30.0;
/// So many passes are remembered, the first among them.
const MOST_PASSES: usize = 64;

/// Who says when the last pass is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cutover {
    /// A person.
    Manual,
    /// It is made when a pass has moved no more than so much.
    Auto {
        /// Bytes.
        max_delta_bytes: u64,
    },
    /// The clock.
    At {
        /// Epoch seconds.
        at: f64,
    },
}

/// How a VM is migrated while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlannedWarm {
    /// When the last pass is made.
    pub cutover: Cutover,
    /// Between passes.
    pub interval_s: f64,
}

/// What a pass copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PassKind {
    /// All that is in use, of one disk at least.
    Full,
    /// What has changed since the pass before.
    Changes,
    /// The same, of a VM that is off: nothing changes any more.
    Last,
}

impl PassKind {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PassKind::Full => "full",
            PassKind::Changes => "changes",
            PassKind::Last => "last",
        }
    }
}

/// A pass that is complete and durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pass {
    /// From 1.
    pub number: u32,
    /// What it copied.
    pub kind: PassKind,
    /// When it began, epoch seconds.
    pub started_at: f64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes that it moved.
    pub bytes: u64,
    /// The same by disk.
    pub disks: BTreeMap<String, u64>,
    /// It was to be the last one, and the VM still ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub still_runs: bool,
}

impl Pass {
    /// When it ended, epoch seconds.
    #[must_use]
    pub fn ended_at(&self) -> f64 {
        self.started_at + self.seconds
    }
}

/// A warm migration as the queue keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WarmJob {
    /// How it is done.
    pub planned: PlannedWarm,
    /// The passes so far, in order; of very many the first and the newest.
    #[serde(default)]
    pub passes: Vec<Pass>,
    /// When a person has asked for the last pass, epoch seconds.
    #[serde(default)]
    pub asked_at: Option<f64>,
}

impl WarmJob {
    /// Nothing is copied yet.
    #[must_use]
    pub fn new(planned: PlannedWarm) -> WarmJob {
        WarmJob { planned, passes: Vec::new(), asked_at: None }
    }

    /// Whether this very pass is known: a worker tells the newest again if it does not know whether that was heard.
    #[must_use]
    pub fn knows(&self, pass: &Pass) -> bool {
        self.passes.iter().any(|known| known == pass)
    }

    /// A pass has ended. One that was made again is there once.
    pub fn passed(&mut self, pass: Pass) {
        self.passes.retain(|known| known.number < pass.number);
        self.passes.push(pass);
        if self.passes.len() > MOST_PASSES {
            self.passes.remove(1);
        }
    }

    /// Whether the next pass is to be the last one, as far as this is decided here.
    #[must_use]
    pub fn is_to_end(&self, now: f64) -> bool {
        let is_small = |most: u64| {
            self.passes.last().is_some_and(|pass| pass.kind != PassKind::Full && pass.bytes <= most)
        };
        self.asked_at.is_some()
            || match self.planned.cutover {
                Cutover::Manual => false,
                Cutover::Auto { max_delta_bytes } => is_small(max_delta_bytes),
                Cutover::At { at } => now >= at,
            }
    }

    /// When the next pass is due; `may_end`: the last one may be made now, if it is due.
    #[must_use]
    pub fn next_at(&self, now: f64, may_end: bool) -> f64 {
        let Some(newest) = self.passes.last() else { return now };
        let regular = (newest.ended_at() + self.planned.interval_s).max(now);
        if self.is_to_end(now) && may_end {
            return if newest.still_runs { regular.min(now + LOOK_AGAIN_S) } else { now };
        }
        match self.planned.cutover {
            // As long as each moves much less than the one before, waiting only makes more of it.
            Cutover::Auto { .. } if !self.is_to_end(now) && self.gets_less() => now,
            Cutover::At { at } if at > now => regular.min(at),
            _ => regular,
        }
    }

    /// Whether the newest pass moved no more than half of what the one before it did.
    fn gets_less(&self) -> bool {
        match self.passes.as_slice() {
            [.., before, newest] => newest.bytes <= before.bytes / 2,
            passes => !passes.is_empty(),
        }
    }

    /// What it waits for, for people.
    #[must_use]
    pub fn in_words(&self, now: f64, next_at: f64) -> String {
        let Some(newest) = self.passes.last() else { return "nothing is copied yet".to_owned() };
        let moved = format!(
            "pass {} moved {} in {}",
            newest.number,
            human_size(newest.bytes),
            human_duration(newest.seconds)
        );
        let ends = match self.planned.cutover {
            _ if newest.still_runs => "the VM has to be off for the last one, and still runs".to_owned(),
            _ if self.is_to_end(now) => "the last one follows".to_owned(),
            Cutover::Manual => "`hyper2kvm cutover` asks for the last one".to_owned(),
            Cutover::Auto { max_delta_bytes } => {
                format!("the last one follows when one moves at most {}", human_size(max_delta_bytes))
            }
            Cutover::At { at } => format!("the last one is made at {}", clock(at)),
        };
        format!("{moved}; {ends}; the next begins at {}", clock(next_at))
    }
}

impl PlannedWarm {
    /// For people: `copied while it runs, a pass each 1:00:00, the last one when somebody asks for it`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let last = match self.cutover {
            Cutover::Manual => "when `hyper2kvm cutover` asks for it".to_owned(),
            Cutover::Auto { max_delta_bytes } => {
                format!("when one has moved at most {}", human_size(max_delta_bytes))
            }
            Cutover::At { at } => format!("at {}", clock(at)),
        };
        format!("copied while it runs, a pass each {}, the last one {last}", human_duration(self.interval_s))
    }
}

impl Plan {
    /// How its VM is migrated while it runs, if it is.
    #[must_use]
    pub fn warm(&self) -> Option<&PlannedWarm> {
        self.remote.as_ref()?.warm.as_ref()
    }
}

/// `2026-11-20 22:15:00 UTC`
fn clock(epoch: f64) -> String {
    let moment = Timestamp::from_second(epoch as i64).unwrap_or(Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pass(number: u32, ended_at: f64, mib: u64) -> Pass {
        Pass {
            number,
            kind: if number == 1 { PassKind::Full } else { PassKind::Changes },
            started_at: ended_at - 10.0,
            seconds: 10.0,
            bytes: mib * MIB,
            disks: BTreeMap::new(),
            still_runs: false,
        }
    }

    fn job(cutover: Cutover, passes: &[Pass]) -> WarmJob {
        let mut job = WarmJob::new(PlannedWarm { cutover, interval_s: 100.0 });
        passes.iter().for_each(|one| job.passed(one.clone()));
        job
    }

    #[test]
    fn by_hand_passes_follow_each_other_until_somebody_asks() {
        let mut job = job(Cutover::Manual, &[]);
        assert_eq!((job.next_at(5.0, true), job.is_to_end(5.0)), (5.0, false));
        job.passed(pass(1, 20.0, 900));
        assert_eq!((job.next_at(21.0, true), job.is_to_end(21.0)), (120.0, false));
        job.passed(pass(2, 130.0, 0));
        assert!(!job.is_to_end(1e9));
        job.asked_at = Some(140.0);
        assert_eq!((job.next_at(141.0, true), job.is_to_end(141.0)), (141.0, true));
        assert_eq!(job.next_at(141.0, false), 230.0, "its window is closed");
        // It cannot be the last one while the VM runs: looked at again soon.
        job.passed(Pass { still_runs: true, ..pass(3, 150.0, 1) });
        assert_eq!((job.next_at(150.0, true), job.is_to_end(150.0)), (180.0, true));
    }

    #[test]
    fn by_itself_the_last_pass_follows_a_small_one_and_passes_hurry_while_they_shrink() {
        let auto = Cutover::Auto { max_delta_bytes: 8 * MIB };
        // What a full pass moved says nothing of what changes.
        let mut job = job(auto, &[pass(1, 20.0, 4)]);
        assert_eq!((job.next_at(20.0, true), job.is_to_end(20.0)), (20.0, false));
        job.passed(pass(2, 40.0, 300));
        assert_eq!(job.next_at(40.0, true), 140.0, "it did not get less");
        job.passed(pass(3, 150.0, 150));
        assert_eq!((job.next_at(150.0, true), job.is_to_end(150.0)), (150.0, false));
        job.passed(pass(4, 170.0, 8));
        assert_eq!((job.next_at(170.0, true), job.is_to_end(170.0)), (170.0, true));
        assert_eq!(job.next_at(170.0, false), 270.0, "its window is closed");
    }

    #[test]
    fn by_the_clock_the_last_pass_begins_then() {
        let job = job(Cutover::At { at: 150.0 }, &[pass(1, 20.0, 4)]);
        assert_eq!((job.next_at(20.0, true), job.is_to_end(20.0)), (120.0, false));
        assert_eq!(job.next_at(60.0, true), 120.0);
        let mut job = job;
        job.passed(pass(2, 130.0, 4));
        assert_eq!((job.next_at(130.0, true), job.is_to_end(130.0)), (150.0, false));
        assert_eq!((job.next_at(151.0, true), job.is_to_end(151.0)), (151.0, true));
    }

    #[test]
    fn passes_are_told_once_and_not_without_end() {
        let mut job = job(Cutover::Manual, &[pass(1, 20.0, 4), pass(2, 30.0, 2), pass(2, 40.0, 1)]);
        assert_eq!(job.passes.iter().map(|pass| pass.bytes / MIB).collect::<Vec<_>>(), [4, 1]);
        (3..500).for_each(|number| job.passed(pass(number, 20.0, 1)));
        assert_eq!((job.passes.len(), job.passes[0].number), (MOST_PASSES, 1));
        assert_eq!(job.passes.last().unwrap().number, 499);
        assert!(job.knows(&pass(499, 20.0, 1)) && !job.knows(&pass(500, 20.0, 1)));
    }

    #[test]
    fn what_it_waits_for_is_told_in_words() {
        let job = job(Cutover::Manual, &[pass(1, 20.0, 4)]);
        assert_eq!(
            job.in_words(20.0, 120.0),
            "pass 1 moved 4.0 MiB in 00:10; `hyper2kvm cutover` asks for the last one; the next begins at 1970-01-01 00:02:00 UTC"
        );
    }
}
