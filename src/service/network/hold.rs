//! How opinions become a state: down counts at once, up only after it has held for [`UP_HOLD`].
//!
//! A cable that is being plugged in, or a switch port that negotiates, bounces; jobs that were resumed
//! at the first sign of life would stall in the next moment. Pure: the clock is an argument.

use std::time::{Duration, Instant};

use super::judge::{Holder, Judgement, Opinion, holders, judge};
use super::table::Table;
use super::{NetworkState, Verdict};

/// How long an interface has to be up again before that is believed.
pub(super) const UP_HOLD: Duration = Duration::from_secs(2);

/// A moment on both clocks: one to measure with, one to tell people.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// For intervals.
    pub(super) steady: Instant,
    /// Epoch seconds, for people.
    pub(super) epoch: f64,
}

/// Keeps the state and what it depends on.
#[derive(Debug)]
pub(super) struct Keeper {
    required: Vec<String>,
    last_holders: Vec<Holder>,
    state: Option<NetworkState>,
    held_since: Option<Instant>,
    latest: Option<Judgement>,
}

impl Keeper {
    /// Knows nothing yet.
    pub(super) fn new(required: Vec<String>) -> Keeper {
        Keeper { required, last_holders: Vec::new(), state: None, held_since: None, latest: None }
    }

    /// Other interfaces are required from now on; the next table is judged by them.
    pub(super) fn require(&mut self, required: Vec<String>) {
        self.required = required;
    }

    /// Nobody looks any more; what comes next is judged without what was before, but for the routes.
    pub(super) fn rest(&mut self) {
        self.state = None;
        self.latest = None;
        self.held_since = None;
    }

    /// Takes in what the kernel says now.
    pub(super) fn observe(&mut self, table: &Table, now: Moment) {
        if let Some(holders) = holders(table) {
            self.last_holders = holders;
        }
        self.latest = Some(judge(table, &self.required, &self.last_holders));
        self.settle(now);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Moment) {
        self.settle(now);
    }

    /// The kernel cannot be asked. What was down stays down; what was up is no longer known to be.
    pub(super) fn blind(&mut self, trouble: String) {
        self.latest = None;
        self.held_since = None;
        let old = self.state.take();
        let (missing_required, watched) =
            old.as_ref().map(|s| (s.missing_required.clone(), s.watched.clone())).unwrap_or_default();
        let verdict = match old.map(|state| state.verdict) {
            Some(down @ Verdict::Down { .. }) => down,
            _ => Verdict::Unwatched { why: trouble.clone() },
        };
        self.state = Some(NetworkState {
            verdict,
            missing_required,
            watched,
            remarks: Vec::new(),
            trouble: Some(trouble),
        });
    }

    /// When to call [`Keeper::tick`], if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held_since.map(|since| since + UP_HOLD)
    }

    /// The state, once something is known.
    pub(super) fn state(&self) -> Option<&NetworkState> {
        self.state.as_ref()
    }

    fn settle(&mut self, now: Moment) {
        let Some(latest) = self.latest.clone() else { return };
        let down_since = match self.state.as_ref().map(|state| &state.verdict) {
            Some(Verdict::Down { since, .. }) => Some(*since),
            _ => None,
        };
        let verdict = match (latest.opinion, down_since) {
            (Opinion::Down { why }, since) => {
                self.held_since = None;
                Verdict::Down { since: since.unwrap_or(now.epoch), why }
            }
            (Opinion::Up, None) => Verdict::Up,
            (Opinion::Unwatched { why }, None) => Verdict::Unwatched { why },
            (better, Some(since)) => {
                let held_since = *self.held_since.get_or_insert(now.steady);
                if now.steady.saturating_duration_since(held_since) < UP_HOLD {
                    Verdict::Down { since, why: "just came back; waiting whether it holds".to_owned() }
                } else {
                    self.held_since = None;
                    match better {
                        Opinion::Unwatched { why } => Verdict::Unwatched { why },
                        _ => Verdict::Up,
                    }
                }
            }
        };
        self.state = Some(NetworkState {
            verdict,
            missing_required: latest.missing_required,
            watched: latest.watched,
            remarks: latest.remarks,
            trouble: None,
        });
    }
}
