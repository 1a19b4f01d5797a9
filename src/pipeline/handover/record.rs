//! How far a result is handed to libvirt: what the journal says of it, and the only place where it goes from one stand to the next.
//!
//! ```text
//!   Due ─▶ Begun(show) ─▶ Done(show) ─▶ Begun(import) ─▶ … ─▶ Done(start) ─▶ Begun(move) ─▶ … ─▶ Told
//!                │ failed, never started                               │
//!                ▼                                                     └ started: nothing is undone any more
//!            Undoing ─▶ Due
//! ```
//!
//! A stand is durable before libvirt is told anything, and after it has answered: whoever finds `Begun` looks what libvirt knows. What is not
//! here: what a step does.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::handover::{HandedOver, HandedVolume, PlannedLibvirt};

/// What libvirt is told, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It sees results that were made in its pools.
    Show,
    /// Disks go into pools.
    Import,
    /// The machine is defined.
    Define,
    /// A snapshot is made before it ever runs.
    Snapshot,
    /// It starts with the host.
    Autostart,
    /// It is started.
    Start,
    /// Results that went into pools are not kept beside them.
    Move,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 7] =
        [Step::Show, Step::Import, Step::Define, Step::Snapshot, Step::Autostart, Step::Start, Step::Move];
    /// The last that can be undone.
    pub const LAST_UNDONE: Step = Step::Autostart;

    /// What is done, for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Step::Show => "showing disks in their pools",
            Step::Import => "importing disks",
            Step::Define => "defining the machine",
            Step::Snapshot => "making a snapshot",
            Step::Autostart => "setting autostart",
            Step::Start => "starting the machine",
            Step::Move => "removing what went into pools",
        }
    }

    /// Whether it is part of this plan; `may_run`: whether the machine may be started, now or with the host.
    fn is_part_of(self, planned: &PlannedLibvirt, may_run: bool) -> bool {
        match self {
            Step::Show => !planned.made_in.is_empty(),
            Step::Import => !planned.pools.is_empty(),
            Step::Define => planned.define,
            Step::Snapshot => planned.snapshot.is_some(),
            Step::Autostart => planned.autostart && may_run,
            Step::Start => planned.start && may_run,
            Step::Move => !planned.pools.is_empty() && !planned.copy_disks,
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stand {
    /// libvirt knows nothing of it.
    #[default]
    Due,
    /// libvirt may have been told.
    Begun(Step),
    /// libvirt has done it, and all before it.
    Done(Step),
    /// It failed: this step and all before it are taken back.
    Undoing(Step),
    /// All is done, and the report says so.
    Told,
}

/// What is handed over, and how far that is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// What libvirt is to be told.
    pub planned: PlannedLibvirt,
    /// How far.
    pub stand: Stand,
    /// Why the machine may not run yet, though that is wanted.
    #[serde(default)]
    pub held_back: Option<String>,
    /// Volumes that this work made, or is about to: none of them was there before it.
    #[serde(default)]
    pub volumes: Vec<HandedVolume>,
    /// Results that were made in pools, once libvirt sees them: their names are given and taken back as those of all results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<HandedVolume>,
    /// The machine, once it is settled how it is defined.
    #[serde(default)]
    pub domain: Option<DefinedDomain>,
    /// What the snapshot has put over the disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlays: Vec<PathBuf>,
}

/// A machine as libvirt is told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinedDomain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its definition.
    pub xml: String,
    /// Where that is kept which gives way to it, or is defined anew: written down before libvirt is told.
    #[serde(default)]
    pub replaced: Option<PathBuf>,
}

impl Handover {
    /// Nothing is told yet.
    #[must_use]
    pub fn new(planned: PlannedLibvirt, held_back: Option<String>) -> Handover {
        Handover {
            planned,
            stand: Stand::Due,
            held_back,
            volumes: Vec::new(),
            made: Vec::new(),
            domain: None,
            overlays: Vec::new(),
        }
    }

    /// The step to take; none: there is nothing left to be told.
    #[must_use]
    pub fn next(&self) -> Option<Step> {
        let after = match self.stand {
            Stand::Due => None,
            Stand::Begun(step) => return Some(step),
            Stand::Done(step) => Some(step),
            Stand::Undoing(_) | Stand::Told => return None,
        };
        let may_run = self.held_back.is_none();
        Step::ALL.into_iter().find(|step| Some(*step) > after && step.is_part_of(&self.planned, may_run))
    }

    /// A step begins.
    pub fn begins(&mut self, step: Step) {
        self.stand = Stand::Begun(step);
    }

    /// A step has ended well.
    pub fn ends(&mut self, step: Step) {
        self.stand = Stand::Done(step);
    }

    /// All is done, and told.
    pub fn is_told(&mut self) {
        self.stand = Stand::Told;
    }

    /// It failed, and all that was done is to be taken back: whether that may be.
    pub fn turns_back(&mut self) -> bool {
        match self.stand {
            Stand::Begun(step) | Stand::Done(step) if !self.is_past_undoing() => {
                self.stand = Stand::Undoing(step);
                true
            }
            Stand::Undoing(_) => true,
            Stand::Due | Stand::Begun(_) | Stand::Done(_) | Stand::Told => false,
        }
    }

    /// All was taken back.
    pub fn is_undone(&mut self) {
        self.stand = Stand::Due;
        self.volumes.clear();
        self.made.clear();
        self.overlays.clear();
        self.domain = None;
    }

    /// The steps that are to be taken back, the last first.
    pub fn to_undo(&self) -> impl Iterator<Item = Step> {
        let last = match self.stand {
            Stand::Undoing(step) => Some(step),
            Stand::Due | Stand::Begun(_) | Stand::Done(_) | Stand::Told => None,
        };
        Step::ALL.into_iter().rev().filter(move |step| Some(*step) <= last)
    }

    /// Whether libvirt was told anything that it still knows: then the files are its, and what they hold may change.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.stand != Stand::Due
    }

    /// Whether the machine was started, or what led there is given away.
    #[must_use]
    pub fn is_past_undoing(&self) -> bool {
        match self.stand {
            Stand::Begun(step) => step > Step::Start,
            Stand::Done(step) => step > Step::LAST_UNDONE,
            Stand::Told => true,
            Stand::Due | Stand::Undoing(_) => false,
        }
    }

    /// For the report.
    #[must_use]
    pub fn told(&self) -> HandedOver {
        let (planned, may_run) = (&self.planned, self.held_back.is_none());
        HandedOver {
            uri: planned.uri.clone(),
            domain: self.domain.as_ref().map(|domain| domain.name.clone()),
            uuid: self.domain.as_ref().map(|domain| domain.uuid.clone()),
            replaced: self.domain.as_ref().and_then(|domain| domain.replaced.clone()),
            volumes: self.made.iter().chain(&self.volumes).cloned().collect(),
            snapshot: planned.snapshot.clone(),
            autostart: planned.autostart && may_run,
            started: planned.start && may_run,
            held_back: self.held_back.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned() -> PlannedLibvirt {
        PlannedLibvirt {
            uri: "test:///default".to_owned(),
            name: "web".to_owned(),
            define: true,
            overwrite_domain: false,
            snapshot: Some("first".to_owned()),
            autostart: true,
            start: true,
            pools: [("boot".to_owned(), "images".to_owned())].into(),
            made_in: [("data".to_owned(), "images".to_owned())].into(),
            pool_path: None,
            copy_disks: false,
            overwrite_volumes: false,
            allow_live_clone: false,
        }
    }

    fn handover(planned: PlannedLibvirt, stand: Stand) -> Handover {
        Handover { stand, ..Handover::new(planned, None) }
    }

    fn taken(mut handover: Handover) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = handover.next() {
            handover.begins(step);
            assert_eq!(handover.next(), Some(step), "one that was begun is taken again");
            handover.ends(step);
            steps.push(step);
        }
        steps
    }

    #[test]
    fn all_that_is_planned_is_taken_in_order_and_nothing_else() {
        assert_eq!(taken(handover(planned(), Stand::Due)), Step::ALL);
        let held_back = Handover::new(planned(), Some("nobody knows".to_owned()));
        assert_eq!(taken(held_back), [Step::Show, Step::Import, Step::Define, Step::Snapshot, Step::Move]);
        let plain = PlannedLibvirt {
            pools: [].into(),
            made_in: [].into(),
            snapshot: None,
            autostart: false,
            ..planned()
        };
        assert_eq!(taken(handover(plain, Stand::Due)), [Step::Define, Step::Start]);
    }

    #[test]
    fn what_failed_is_taken_back_from_there_and_never_once_the_machine_was_started() {
        let at = |stand| handover(planned(), stand);
        let mut cut = at(Stand::Begun(Step::Snapshot));
        assert!(cut.turns_back() && cut.turns_back());
        assert_eq!(
            cut.to_undo().collect::<Vec<_>>(),
            [Step::Snapshot, Step::Define, Step::Import, Step::Show]
        );
        assert_eq!(cut.next(), None);
        assert!(at(Stand::Begun(Step::Start)).turns_back(), "it may not have started");
        for stand in [Stand::Done(Step::Start), Stand::Begun(Step::Move), Stand::Told, Stand::Due] {
            assert!(!at(stand).turns_back(), "{stand:?}");
        }
        cut.is_undone();
        assert!(!cut.has_begun());
    }
}
