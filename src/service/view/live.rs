//! What a running worker has told since it started: newer than the queue's rows, and lost with the daemon.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::job::Stage;
use crate::model::plan::Plan;
use crate::model::protocol::{DiskProgress, WorkerEvent};
use crate::service::queue::{JobRow, StageMark};

/// One job's worker as seen from here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Live {
    /// The run of the batch that the job belongs to.
    pub batch_key: i64,
    /// That batch's id, for the log.
    pub batch: String,
    /// The VM's id, for the log.
    pub vm: String,
    /// Whether it goes on from an earlier attempt's partial results.
    pub resumed: bool,
    /// The stage in which it copies.
    pub copying_stage: Option<Stage>,
    /// The stage it is at.
    pub stage: Option<Stage>,
    /// At what there.
    pub detail: Option<String>,
    /// Since when.
    pub stage_started_at: Option<f64>,
    /// Stages that ended well in this attempt.
    pub completed: Vec<Stage>,
    /// 0 to 100; never falls within an attempt.
    pub percentage: f64,
    /// Disks that take all of their room before their first byte is copied.
    pub laid_out: BTreeSet<String>,
    /// Bytes, by disk.
    pub disks: BTreeMap<String, DiskProgress>,
    /// The percentage that the queue knows.
    pub kept: f64,
    /// On how many connections it reads its source from a server.
    pub connections: u32,
}

/// What an event means for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing new.
    Nothing,
    /// Numbers moved.
    Numbers,
    /// A stage began or ended: worth keeping over a restart.
    Stage,
}

impl Live {
    /// A worker that starts now; within one attempt what was shown stays shown.
    #[must_use]
    pub fn starting(row: &JobRow, plan: &Plan) -> Live {
        Live {
            batch_key: row.batch_key,
            batch: row.batch_id.clone(),
            vm: row.vm_id.clone(),
            copying_stage: Some(plan.copying_stage()),
            percentage: row.progress_percentage,
            laid_out: plan
                .disks
                .iter()
                .filter(|disk| plan.preallocation_of(disk).lays_out())
                .map(|disk| disk.id.clone())
                .collect(),
            kept: row.progress_percentage,
            ..Live::default()
        }
    }

    /// Takes in an event.
    pub fn hear(&mut self, event: &WorkerEvent, now: f64) -> Told {
        match event {
            WorkerEvent::Started { resumed, .. } => {
                self.resumed = *resumed;
                Told::Stage
            }
            WorkerEvent::StageStarted { stage } => {
                self.stage = Some(*stage);
                self.detail = None;
                self.stage_started_at = Some(now);
                Told::Stage
            }
            WorkerEvent::StageDetail { stage, detail } => {
                self.stage = Some(*stage);
                self.detail = Some(detail.clone());
                Told::Numbers
            }
            WorkerEvent::StageFinished { stage, .. } => {
                if !self.completed.contains(stage) {
                    self.completed.push(*stage);
                }
                Told::Stage
            }
            WorkerEvent::Disk { disk, progress } => {
                self.disks.insert(disk.clone(), progress.clone());
                Told::Numbers
            }
            WorkerEvent::Progress { percentage } => {
                self.percentage = self.percentage.max(percentage.clamp(0.0, 100.0));
                Told::Numbers
            }
            WorkerEvent::Room { .. }
            | WorkerEvent::Described(_)
            | WorkerEvent::Selected { .. }
            | WorkerEvent::Acts { .. }
            | WorkerEvent::Passed(_)
            | WorkerEvent::Heartbeat
            | WorkerEvent::Warning { .. }
            | WorkerEvent::Paused
            | WorkerEvent::Resumed
            | WorkerEvent::Finished(_) => Told::Nothing,
        }
    }

    /// How far it is: something of this changes as long as it gets anywhere.
    #[must_use]
    pub fn place(&self) -> (Option<Stage>, Option<String>, usize, u64, u64) {
        let done = self.disks.values().map(|disk| disk.bytes_done).sum();
        (self.stage, self.detail.clone(), self.completed.len(), self.percentage.to_bits(), done)
    }

    /// Whether it is in the stage in which it copies.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.stage.is_some_and(|stage| Some(stage) == self.copying_stage && !self.completed.contains(&stage))
    }

    /// A worker that stands still copies nothing.
    pub fn stand_still(&mut self) {
        self.disks.values_mut().for_each(|disk| disk.bytes_per_second = 0);
    }

    /// Bytes that the results occupy so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        let written =
            |(id, disk): (&String, &DiskProgress)| match disk.bytes_done > 0 && self.laid_out.contains(id) {
                true => disk.virtual_size,
                false => disk.bytes_done,
            };
        self.disks.iter().map(written).sum()
    }

    /// Bytes still to be copied.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        self.disks.values().map(|disk| disk.bytes_total.saturating_sub(disk.bytes_done)).sum()
    }

    /// How fast it copies.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.disks.values().map(|disk| disk.bytes_per_second).sum()
    }

    /// As it is kept in the queue.
    #[must_use]
    pub fn mark(&self) -> StageMark {
        StageMark {
            stage: self.stage,
            detail: self.detail.clone(),
            started_at: self.stage_started_at,
            completed: self.completed.clone(),
            progress_percentage: self.percentage,
        }
    }

    /// The mark to be kept before this is shown, if it is further than what was kept.
    pub fn mark_to_keep(&mut self) -> Option<StageMark> {
        let is_further = self.percentage > self.kept;
        self.kept = self.percentage;
        is_further.then(|| self.mark())
    }

    /// Lays what was told over a row of the queue.
    pub fn lay_over(&self, row: &mut JobRow) {
        row.resumed = self.resumed;
        row.current_stage = self.stage;
        row.stage_detail.clone_from(&self.detail);
        row.stage_started_at = self.stage_started_at;
        row.stages_completed.clone_from(&self.completed);
        row.progress_percentage = row.progress_percentage.max(self.percentage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_falls_within_an_attempt() {
        let mut live = Live::default();
        for percentage in [10.0, 40.0, 20.0, 140.0] {
            live.hear(&WorkerEvent::Progress { percentage }, 0.0);
        }
        assert_eq!(live.percentage, 100.0);
    }

    #[test]
    fn a_disk_that_is_laid_out_beforehand_takes_all_of_its_room_at_its_first_byte() {
        let mut live = Live::default();
        for (disk, bytes_done) in [("boot", 1), ("data", 0)] {
            let progress =
                DiskProgress { bytes_total: 5, bytes_done, virtual_size: 100, ..DiskProgress::default() };
            live.hear(&WorkerEvent::Disk { disk: disk.to_owned(), progress }, 0.0);
        }
        assert_eq!(live.bytes_written(), 1);
        live.laid_out.insert("boot".to_owned());
        assert_eq!(live.bytes_written(), 100);
    }

    #[test]
    fn progress_is_kept_once() {
        let mut live = Live::default();
        assert_eq!(live.mark_to_keep(), None);
        live.hear(&WorkerEvent::Progress { percentage: 7.0 }, 0.0);
        assert_eq!(live.mark_to_keep().unwrap().progress_percentage, 7.0);
        assert_eq!(live.mark_to_keep(), None);
    }

    #[test]
    fn it_copies_from_the_begin_of_one_stage_to_its_end() {
        let mut live = Live { copying_stage: Some(Stage::Extraction), ..Live::default() };
        let mut copies = |event: WorkerEvent| {
            live.hear(&event, 0.0);
            live.is_copying()
        };
        let result = serde_json::Value::Null;
        assert!(!copies(WorkerEvent::StageStarted { stage: Stage::Load }));
        assert!(copies(WorkerEvent::StageStarted { stage: Stage::Extraction }));
        assert!(copies(WorkerEvent::Heartbeat));
        assert!(!copies(WorkerEvent::StageFinished { stage: Stage::Extraction, seconds: 1.0, result }));
    }

    #[test]
    fn a_stage_that_begins_and_ends_is_kept() {
        let mut live = Live::default();
        assert_eq!(live.hear(&WorkerEvent::StageStarted { stage: Stage::Load }, 5.0), Told::Stage);
        let ended =
            WorkerEvent::StageFinished { stage: Stage::Load, seconds: 1.0, result: serde_json::Value::Null };
        assert_eq!(live.hear(&ended, 6.0), Told::Stage);
        assert_eq!(live.mark().completed, [Stage::Load]);
        assert_eq!(live.mark().started_at, Some(5.0));
        assert_eq!(live.hear(&WorkerEvent::Heartbeat, 7.0), Told::Nothing);
    }
}
