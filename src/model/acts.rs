//! What was done at a source: the ledger of acts, in the order in which they were intended.
//!
//! An act is written down before it is done, so that whoever comes later knows what to look for: a worker that died in between leaves an act that
//! is intended, and only the source can tell whether it was done. It lies in the VM's journal, in the queue's row, and in the report. All of it is
//! undone, but for what a result needs that has taken its source's place. What is not here: doing and undoing (`pipeline::remote::acts`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// Something that was done at a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Act {
    /// What.
    #[serde(flatten)]
    pub what: ActKind,
    /// How far it is.
    pub state: ActState,
    /// Since when it is written down, epoch seconds.
    pub intended_at: f64,
    /// When it was done, or was found to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<f64>,
    /// When it was undone, was found not to have happened, or to be gone with its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_at: Option<f64>,
    /// So many between the one before it and this one are not told any more: they belonged to the work, and are undone.
    #[serde(default, skip_serializing_if = "is_none")]
    pub left_out: usize,
}

/// So many that are undone and belonged to the work are told, the newest. A migration that waits for weeks makes a snapshot for each of its passes.
pub(super) const MOST_UNDONE: usize = 8;

fn is_none(left_out: &usize) -> bool {
    *left_out == 0
}

/// What can be done at a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum ActKind {
    /// Changes of its disks are tracked, which they were not before.
    ChangeTracking,
    /// A snapshot of it was made.
    Snapshot {
        /// What it is called: `hyper2kvm/<host>/<batch>/<vm>`.
        name: String,
        /// What the server calls it, once it is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moref: Option<String>,
        /// Whether the guest stood still, once it is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quiesced: Option<bool>,
    },
    /// It was shut down; undone, it runs again.
    ShutDown {
        /// Whether its power was cut.
        forced: bool,
    },
    /// Its cards have no link any more.
    NicsDisconnected {
        /// Which of them had one.
        keys: Vec<i32>,
    },
    /// Its notes say what became of it.
    Annotated {
        /// What they said before.
        before: String,
    },
    /// Its host does not start it any more.
    AutostartDisabled {
        /// How it did.
        before: String,
    },
    /// It is called otherwise.
    Renamed {
        /// What it was called.
        before: String,
        /// What it is called now.
        after: String,
    },
}

/// How far an act is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActState {
    /// It is written down; perhaps it was done.
    Intended,
    /// It was done.
    Done,
    /// The source is as if it had not been.
    Undone,
    /// The source is not there any more: nobody can undo it, and nothing is left of it there.
    Gone,
}

/// What can become of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Done,
    Undone,
    Gone,
}

impl ActState {
    /// The one place that says what may follow what.
    fn after(self, change: Change) -> Option<ActState> {
        match (self, change) {
            (ActState::Intended, Change::Done) => Some(ActState::Done),
            (ActState::Intended | ActState::Done, Change::Undone) => Some(ActState::Undone),
            (ActState::Intended | ActState::Done, Change::Gone) => Some(ActState::Gone),
            _ => None,
        }
    }

    /// Whether it may have to be undone.
    fn is_outstanding(self) -> bool {
        matches!(self, ActState::Intended | ActState::Done)
    }
}

impl ActKind {
    /// Whether it belongs to the work alone: it goes also where the result takes its source's place.
    #[must_use]
    pub fn is_for_the_work(&self) -> bool {
        matches!(self, ActKind::ChangeTracking | ActKind::Snapshot { .. })
    }

    /// Whether it goes also while the work only waits, and nobody knows for how long. Account of changes is kept on, for the work goes on from there.
    #[must_use]
    pub fn goes_meanwhile(&self) -> bool {
        !matches!(self, ActKind::ChangeTracking)
    }

    /// Whether it makes room for the result that has taken its source's place.
    #[must_use]
    pub fn is_for_the_result(&self) -> bool {
        !self.is_for_the_work() && !matches!(self, ActKind::ShutDown { .. })
    }

    /// Whether it is only wanted: what was there before was not looked at yet.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        match self {
            ActKind::NicsDisconnected { keys } => keys.is_empty(),
            ActKind::Annotated { before }
            | ActKind::AutostartDisabled { before }
            | ActKind::Renamed { before, .. } => before.is_empty(),
            ActKind::ChangeTracking | ActKind::Snapshot { .. } | ActKind::ShutDown { .. } => false,
        }
    }

    /// For people, as something that is still to be undone: `the snapshot hyper2kvm/h/b/web`.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            ActKind::ChangeTracking => "change tracking is on".to_owned(),
            ActKind::Snapshot { name, .. } => format!("the snapshot {name}"),
            ActKind::ShutDown { forced: false } => "it was shut down".to_owned(),
            ActKind::ShutDown { forced: true } => "its power was cut".to_owned(),
            ActKind::NicsDisconnected { keys } => format!("{} of its cards have no link", keys.len()),
            ActKind::Annotated { .. } => "its notes were changed".to_owned(),
            ActKind::AutostartDisabled { .. } => "it does not start with its host".to_owned(),
            ActKind::Renamed { before, after } => format!("it is called {after} and was {before}"),
        }
    }
}

impl ActKind {
    /// For people, what is done to undo it: `the source is started`.
    #[must_use]
    pub fn undoing(&self) -> String {
        match self {
            ActKind::ChangeTracking => "change tracking of the source is switched off".to_owned(),
            ActKind::Snapshot { name, .. } => format!("the snapshot {name} of the source is removed"),
            ActKind::ShutDown { .. } => "the source is started".to_owned(),
            ActKind::NicsDisconnected { keys } => {
                format!("{} cards of the source get their links back", keys.len())
            }
            ActKind::Annotated { .. } => {
                "the note that it has moved is taken out of the source's notes".to_owned()
            }
            ActKind::AutostartDisabled { .. } => {
                "the source is started with its host as it was before".to_owned()
            }
            ActKind::Renamed { before, after } => {
                format!("the source is called {before} again, and not {after}")
            }
        }
    }
}

/// All that was done at one source, in order. An act is spoken of by its number, which stays the same when older ones are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Acts(Vec<Act>);

impl Acts {
    /// Writes down what is about to be done; the number by which it is spoken of comes back.
    pub fn intend(&mut self, what: ActKind, at: f64) -> usize {
        self.leave_out();
        let number = self.next();
        let state = ActState::Intended;
        self.0.push(Act { what, state, intended_at: at, done_at: None, undone_at: None, left_out: 0 });
        number
    }

    /// Of what is undone and belonged to the work only the newest is told on. The newest act of all is never among what is left out.
    fn leave_out(&mut self) {
        let is_spent = |act: &Act| act.state == ActState::Undone && act.what.is_for_the_work();
        let mut spent = self.0.iter().filter(|act| is_spent(act)).count();
        let mut left_out: usize = 0;
        self.0.retain_mut(|act| {
            act.left_out = act.left_out.saturating_add(std::mem::take(&mut left_out));
            if spent <= MOST_UNDONE || !is_spent(act) {
                return true;
            }
            spent -= 1;
            left_out = act.left_out.saturating_add(1);
            false
        });
    }

    /// The number of the next one.
    fn next(&self) -> usize {
        self.all().next_back().map_or(0, |(newest, _)| newest.saturating_add(1))
    }

    /// It was done, and this is how it is known now.
    pub fn done(&mut self, number: usize, what: ActKind, at: f64) -> Result<()> {
        let act = self.change(number, Change::Done)?;
        act.what = what;
        act.done_at = Some(at);
        Ok(())
    }

    /// What it will change is known better, before it is done.
    pub fn specify(&mut self, number: usize, what: ActKind) -> Result<()> {
        let act = self.get_mut(number).filter(|act| act.state == ActState::Intended);
        act.ok_or_else(|| Error::internal(format!("act {number} of a source is not intended any more")))?
            .what = what;
        Ok(())
    }

    /// It was undone, or never done.
    pub fn undone(&mut self, number: usize, at: f64) -> Result<()> {
        self.change(number, Change::Undone)?.undone_at = Some(at);
        Ok(())
    }

    /// Its source is not there any more.
    pub fn gone(&mut self, number: usize, at: f64) -> Result<()> {
        self.change(number, Change::Gone)?.undone_at = Some(at);
        Ok(())
    }

    fn change(&mut self, number: usize, change: Change) -> Result<&mut Act> {
        let refused = || Error::internal(format!("act {number} of a source cannot become {change:?}"));
        let act = self.get_mut(number).ok_or_else(refused)?;
        act.state = act.state.after(change).ok_or_else(refused)?;
        Ok(act)
    }

    /// What is known by two who have heard of the same acts: of each, how far it is. Acts are only ever added, and what the one who has heard of more
    /// leaves out is undone.
    #[must_use]
    pub fn merged(&self, other: &Acts) -> Acts {
        let (longer, shorter) = if self.next() < other.next() { (other, self) } else { (self, other) };
        let heard: BTreeMap<usize, &Act> = shorter.all().collect();
        let mut all = longer.clone();
        for (known, (number, _)) in all.0.iter_mut().zip(longer.all()) {
            let Some(heard) = heard.get(&number) else { continue };
            let knows_more = heard.state > known.state
                || (heard.state == known.state && known.what.is_unseen() && !heard.what.is_unseen());
            if known.intended_at == heard.intended_at && knows_more {
                *known = Act { left_out: known.left_out, ..(*heard).clone() };
            }
        }
        all
    }

    /// Each, with its number.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = (usize, &Act)> {
        let mut next: usize = 0;
        let numbered = self.0.iter().map(|act| {
            let number = next.saturating_add(act.left_out);
            next = number.saturating_add(1);
            (number, act)
        });
        numbered.collect::<Vec<_>>().into_iter()
    }

    /// One.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&Act> {
        self.all().find(|(other, _)| *other == number).map(|(_, act)| act)
    }

    fn get_mut(&mut self, number: usize) -> Option<&mut Act> {
        let at = self.all().position(|(other, _)| other == number)?;
        self.0.get_mut(at)
    }

    /// Whether nothing was ever done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may have to be undone, the newest first: in this order it is to be.
    pub fn outstanding(&self) -> impl Iterator<Item = (usize, &Act)> {
        self.all().rev().filter(|(_, act)| act.state.is_outstanding())
    }

    /// The same, of what must not stay when the work is over. Only where its result has taken the source's place, that stays which makes room for it.
    pub fn to_undo(&self, succeeded: bool) -> impl Iterator<Item = (usize, &Act)> {
        self.outstanding().filter(move |(_, act)| !succeeded || act.what.is_for_the_work())
    }

    /// The same, while the work waits for somebody and will go on; `stays`: its result has taken the source's place already.
    pub fn to_undo_meanwhile(&self, stays: bool) -> impl Iterator<Item = (usize, &Act)> {
        self.to_undo(stays).filter(|(_, act)| act.what.goes_meanwhile())
    }

    /// What was never undone, because its source is not there any more.
    pub fn lost(&self) -> impl Iterator<Item = &Act> {
        self.0.iter().filter(|act| act.state == ActState::Gone)
    }

    /// Whether what was to be changed for good is not changed yet: it is tried again though the work has succeeded.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.all().any(|(_, act)| act.state == ActState::Intended && act.what.is_for_the_result())
    }

    /// Whether it was shut down, or may have been, and nobody has started it since.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.shut_down().is_some()
    }

    /// The act by which it was shut down, if it was and nobody has started it since.
    #[must_use]
    pub fn shut_down(&self) -> Option<(usize, &Act)> {
        self.outstanding().find(|(_, act)| matches!(act.what, ActKind::ShutDown { .. }))
    }

    /// The oldest snapshot that may be there: since when.
    #[must_use]
    pub fn oldest_snapshot_at(&self) -> Option<f64> {
        let snapshots = self.outstanding().filter(|(_, act)| matches!(act.what, ActKind::Snapshot { .. }));
        snapshots.map(|(_, act)| act.intended_at).reduce(f64::min)
    }
}

/// What every name of a snapshot of ours begins with.
const OURS: &str = "hyper2kvm/";
/// So much of host, batch and VM is in a name: vSphere takes 80 characters, and may write each `/` as three.
const MOST_OF: [usize; 3] = [18, 20, 24];

/// What a snapshot is called by which it is found again from any host.
#[must_use]
pub fn snapshot_name(host: &str, batch: &str, vm: &str) -> String {
    let short = |(text, most): (&str, usize)| {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        text.chars().take(most).map(plain).collect::<String>()
    };
    let parts: Vec<String> = [host, batch, vm].into_iter().zip(MOST_OF).map(short).collect();
    format!("{OURS}{}", parts.join("/"))
}

/// Whether a snapshot is ours, by its name.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix(OURS).is_some_and(|rest| rest.split('/').count() >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::protocol::WorkerEvent;

    fn snapshot(name: &str) -> ActKind {
        ActKind::Snapshot { name: name.to_owned(), moref: None, quiesced: None }
    }

    #[test]
    fn acts_are_undone_in_the_opposite_order_and_each_once() {
        let mut acts = Acts::default();
        let tracking = acts.intend(ActKind::ChangeTracking, 1.0);
        let made = acts.intend(snapshot("a"), 2.0);
        acts.done(made, snapshot("a"), 3.0).unwrap();
        assert_eq!(acts.outstanding().map(|(number, _)| number).collect::<Vec<_>>(), [made, tracking]);
        acts.undone(made, 4.0).unwrap();
        assert!(acts.undone(made, 5.0).is_err() && acts.done(made, snapshot("a"), 5.0).is_err());
        assert_eq!(acts.outstanding().map(|(number, _)| number).collect::<Vec<_>>(), [tracking]);
        acts.undone(tracking, 6.0).unwrap();
        assert_eq!(acts.get(tracking).map(|act| (act.done_at, act.undone_at)), Some((None, Some(6.0))));
        assert!(acts.undone(7, 6.0).is_err());
    }

    #[test]
    fn where_the_result_takes_its_place_a_source_stays_shut_down_and_has_no_snapshot() {
        let mut acts = Acts::default();
        let kinds = [
            snapshot("a"),
            ActKind::ShutDown { forced: false },
            ActKind::ChangeTracking,
            ActKind::NicsDisconnected { keys: vec![4000] },
            ActKind::Annotated { before: String::new() },
            ActKind::AutostartDisabled { before: String::new() },
            ActKind::Renamed { before: "web".to_owned(), after: "web-old".to_owned() },
        ];
        kinds.iter().for_each(|kind| _ = acts.intend(kind.clone(), 1.0));
        assert_eq!(acts.to_undo(true).map(|(number, _)| number).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(acts.to_undo(false).count(), kinds.len());
    }

    #[test]
    fn of_a_change_that_is_wanted_the_one_counts_who_has_seen_what_was_before() {
        let mut queue = Acts::default();
        let wanted = queue.intend(ActKind::NicsDisconnected { keys: Vec::new() }, 1.0);
        assert!(queue.is_unfinished());
        let mut journal = queue.clone();
        let seen = ActKind::NicsDisconnected { keys: vec![4000] };
        journal.specify(wanted, seen.clone()).unwrap();
        for merged in [journal.merged(&queue), queue.merged(&journal)] {
            assert_eq!(merged.get(wanted).map(|act| &act.what), Some(&seen));
        }
        journal.done(wanted, seen.clone(), 2.0).unwrap();
        assert!(!journal.is_unfinished() && journal.specify(wanted, seen).is_err());
    }

    #[test]
    fn of_what_two_have_heard_the_later_holds() {
        let mut journal = Acts::default();
        let made = journal.intend(snapshot("a"), 1.0);
        journal.done(made, snapshot("a"), 2.0).unwrap();
        let mut queue = journal.clone();
        queue.undone(made, 3.0).unwrap();
        journal.intend(snapshot("b"), 4.0);
        for merged in [journal.merged(&queue), queue.merged(&journal)] {
            let states: Vec<ActState> = merged.all().map(|(_, act)| act.state).collect();
            assert_eq!(states, [ActState::Undone, ActState::Intended]);
        }
        assert_eq!(Acts::default().merged(&journal), journal);
    }

    #[test]
    fn acts_read_as_they_were_written() {
        let mut acts = Acts::default();
        let made = acts.intend(snapshot("hyper2kvm/h/b/web"), 1.5);
        let text = serde_json::to_string(&acts).unwrap();
        assert_eq!(
            text,
            r#"[{"act":"snapshot","name":"hyper2kvm/h/b/web","state":"intended","intended_at":1.5}]"#
        );
        assert_eq!(serde_json::from_str::<Acts>(&text).unwrap(), acts);
        let known =
            ActKind::Snapshot { name: "n".to_owned(), moref: Some("s-1".to_owned()), quiesced: Some(true) };
        acts.done(made, known, 2.0).unwrap();
        let text = serde_json::to_string(&acts).unwrap();
        assert_eq!(serde_json::from_str::<Acts>(&text).unwrap(), acts);
    }

    #[test]
    fn acts_are_told_as_a_line() {
        let mut acts = Acts::default();
        acts.intend(snapshot("a"), 1.0);
        let told = WorkerEvent::Acts { acts };
        let line = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<WorkerEvent>(&line).unwrap(), told);
    }

    #[test]
    fn names_of_snapshots_of_ours_are_known_again() {
        let name = snapshot_name("host1", "weekend", "web");
        assert_eq!(name, "hyper2kvm/host1/weekend/web");
        assert!(is_ours(&name) && is_ours("hyper2kvm/host1/weekend/web/2"));
        let long = snapshot_name(&"h".repeat(200), &"b".repeat(200), &"v".repeat(200));
        assert!(long.replace('/', "%2f").len() <= 80 && is_ours(&long), "{long}");
        assert_eq!(snapshot_name("a/b", "c%2f", "ä"), "hyper2kvm/a-b/c-2f/-");
        for other in ["before the update", "hyper2kvm", "hyper2kvm/x", "my hyper2kvm/h/b/v"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
