//! What the outside is shown, and when: progress files at most once a second and at once at an end,
//! everything again after half a minute, nothing while nothing is there.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::core::{BatchKey, JobId};
use super::ledger::Reserved;
use super::loading::with_jobs;
use super::{Report, Scheduler};
use crate::model::config::Settings;
use crate::model::error::Result;
use crate::model::job::{JobState, WaitReason};
use crate::model::progress::{FilesystemStatus, Status};
use crate::service::network::NetworkState;
use crate::service::places;
use crate::service::queue::{BatchRow, Counts, JobRow, StageMark};
use crate::service::view::checkpoint::{batch_checkpoint, checkpoint_name};
use crate::service::view::progress::{Shown, batch_progress};
use crate::service::view::writer::{View, ViewWriter};
use crate::service::view::{metrics, status};
use crate::service::watchdog;
use crate::source;
use crate::sys::fs::Space;
use crate::sys::time::now_epoch;

/// A file is written at most this often.
const PACE_S: f64 = 1.0;

/// And at least this often while its batch has not ended.
const HEARTBEAT_S: f64 = 30.0;

/// So many progress files are made at a time, so that commands are answered in between.
const CHUNK: usize = 50;

/// How long the last files may take when the service ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The mean duration of jobs is taken over about so many.
const MEAN_OVER: f64 = 20.0;

struct Batch {
    written_at: f64,
    updated_at: f64,
    due: u64,
    /// It is other than it was shown.
    is_stale: bool,
    shown: Shown,
    /// Ended jobs at the last writing of the checkpoint.
    ended: usize,
}

/// What is shown and when it is due.
pub(super) struct Outlook {
    writer: ViewWriter,
    batches: HashMap<BatchKey, Batch>,
    due: BTreeSet<(u64, BatchKey)>,
    started_at: f64,
    status_written_at: f64,
    status_due: f64,
    mean_duration: Option<f64>,
    pub(super) ready: bool,
    pub(super) network: NetworkState,
    pub(super) last_error: Option<String>,
    pub(super) queue_error: Option<String>,
    /// Where results go by default, as last measured.
    pub(super) output_space: Option<Space>,
    measured_at: f64,
    /// A file system that does not answer is not asked by a second thread.
    pub(super) is_measuring: bool,
}

fn millis(at: f64) -> u64 {
    (at * 1000.0).max(0.0) as u64
}

impl Outlook {
    pub(super) fn new(settings: &Settings) -> Result<Outlook> {
        Ok(Outlook {
            writer: ViewWriter::start(settings.layout())?,
            batches: HashMap::new(),
            due: BTreeSet::new(),
            started_at: now_epoch(),
            status_written_at: 0.0,
            status_due: 0.0,
            mean_duration: None,
            ready: true,
            network: NetworkState::unwatched("not asked yet"),
            last_error: None,
            queue_error: None,
            output_space: crate::sys::fs::free_bytes(&settings.output_dir).ok(),
            measured_at: 0.0,
            is_measuring: false,
        })
    }

    /// Something of a batch is other than it was shown.
    pub(super) fn changed(&mut self, batch: BatchKey, now: f64) {
        let entry = self.batches.entry(batch).or_insert(Batch {
            written_at: 0.0,
            updated_at: now,
            due: u64::MAX,
            is_stale: true,
            shown: Shown::default(),
            ended: 0,
        });
        entry.updated_at = now;
        entry.is_stale = true;
        let due = millis(now.max(entry.written_at + PACE_S));
        self.set_due(batch, due);
        self.status_changed();
    }

    /// A batch has ended: it is shown now.
    pub(super) fn at_once(&mut self, batch: BatchKey, now: f64) {
        self.changed(batch, now);
        self.set_due(batch, millis(now));
    }

    pub(super) fn everything_changed(&mut self, now: f64) {
        self.due = self.batches.keys().map(|key| (millis(now), *key)).collect();
        for batch in self.batches.values_mut() {
            (batch.due, batch.is_stale) = (millis(now), true);
        }
        self.status_due = now;
    }

    /// Nothing more is to be shown of it: see [`Scheduler::show_last`].
    pub(super) fn forget(&mut self, batch: BatchKey) {
        if let Some(old) = self.batches.remove(&batch) {
            self.due.remove(&(old.due, batch));
        }
    }

    pub(super) fn status_changed(&mut self) {
        self.status_due = self.status_due.min(self.status_written_at + PACE_S);
    }

    pub(super) fn job_ended(&mut self, row: &JobRow) {
        if row.state == JobState::Failed {
            let error = row.error.as_ref().map(ToString::to_string).unwrap_or_default();
            self.last_error = Some(format!("job {} ({}/{}): {error}", row.job_id, row.batch_id, row.vm_id));
        }
        if let (JobState::Succeeded, Some(started), Some(completed)) =
            (row.state, row.started_at, row.completed_at)
        {
            let took = (completed - started).max(0.0);
            let mean = self.mean_duration.get_or_insert(took);
            *mean += (took - *mean) / MEAN_OVER;
        }
    }

    pub(super) fn next_due(&self) -> Option<f64> {
        let batch = self.due.first().map(|(at, _)| *at as f64 / 1000.0);
        [batch, Some(self.status_due)].into_iter().flatten().reduce(f64::min)
    }

    pub(super) async fn flush(&self) {
        self.writer.flush(FLUSH_LIMIT).await;
    }

    /// Who writes the files.
    pub(super) fn views(&self) -> ViewWriter {
        self.writer.clone()
    }

    fn set_due(&mut self, batch: BatchKey, due: u64) {
        let Some(entry) = self.batches.get_mut(&batch) else { return };
        if entry.due > due {
            self.due.remove(&(entry.due, batch));
            entry.due = due;
            self.due.insert((due, batch));
        }
    }

    fn take_due(&mut self, now: f64) -> Vec<BatchKey> {
        let mut keys = Vec::new();
        while let Some((at, key)) = self.due.first().copied() {
            if at > millis(now) || keys.len() == CHUNK {
                break;
            }
            self.due.remove(&(at, key));
            if let Some(entry) = self.batches.get_mut(&key) {
                entry.due = u64::MAX;
                entry.written_at = now;
            }
            self.set_due(key, millis(now + HEARTBEAT_S));
            keys.push(key);
        }
        keys
    }
}

impl Scheduler {
    /// Writes the files that are due.
    pub(super) async fn show(&mut self) {
        let now = now_epoch();
        let keys = self.outlook.take_due(now);
        self.show_these(keys, now).await;
        if self.outlook.status_due <= now {
            self.show_status(now).await;
        }
    }

    /// A batch that has ended is shown as it is, if it was not yet: many may end in one moment. Whether that is so now.
    pub(super) async fn show_last(&mut self, batch: BatchKey) -> bool {
        let is_stale = |batches: &HashMap<BatchKey, Batch>| batches.get(&batch).is_some_and(|b| b.is_stale);
        if is_stale(&self.outlook.batches) {
            self.show_these(vec![batch], now_epoch()).await;
        }
        !is_stale(&self.outlook.batches)
    }

    async fn show_these(&mut self, keys: Vec<BatchKey>, now: f64) {
        if !keys.is_empty() {
            let marks = self.marks_to_keep(&keys);
            let rows = self.parts.queue.with(move |db| {
                let kept =
                    db.lightly(|db| marks.iter().try_for_each(|(job, mark)| db.mark_stage(*job, mark)));
                if let Err(error) = kept {
                    tracing::debug!(%error, "how far jobs are was not recorded");
                }
                let runs: Result<Vec<Option<BatchRow>>> =
                    keys.into_iter().map(|key| db.batch_run(key)).collect();
                with_jobs(db, runs?.into_iter().flatten().collect())
            });
            match rows.await {
                Ok(batches) => {
                    for (batch, rows) in batches {
                        self.show_batch(&batch, rows, now);
                    }
                }
                Err(error) => self.queue_failed(&error),
            }
        }
    }

    /// How far the workers of these batches are, as it is about to be shown: a daemon that is killed
    /// after that must not show less.
    fn marks_to_keep(&mut self, batches: &[BatchKey]) -> Vec<(JobId, StageMark)> {
        let shown = self.live.iter_mut().filter(|(_, live)| batches.contains(&live.batch_key));
        shown.filter_map(|(job, live)| Some((*job, live.mark_to_keep()?))).collect()
    }

    fn show_batch(&mut self, batch: &BatchRow, mut rows: Vec<JobRow>, now: f64) {
        self.lay_live_over(&mut rows);
        let Some(entry) = self.outlook.batches.get_mut(&batch.batch_key) else { return };
        entry.is_stale = false;
        let progress = batch_progress(
            (&batch.batch_id, batch.window.as_ref()),
            &rows,
            &self.live,
            &mut entry.shown,
            entry.updated_at,
            now,
        );
        let directory = self.output_directory(batch);
        let path = self.settings.layout().batch_progress(&batch.batch_id);
        let entry_ended = rows.iter().filter(|row| row.state.is_final()).count();
        let writer = &self.outlook.writer;
        if let Ok(bytes) = serde_json::to_vec(&progress) {
            writer.put(&path, View::File { bytes, mode: 0o644, make_directory: true });
        }
        // What lies beside results is written under their locks; settling writes it once more.
        let holds = &self.parts.holds;
        if let Some(lock) = holds.lock_of(&directory) {
            let link = directory.join(format!(".hyper2kvm-batch-progress-{}.json", batch.batch_id));
            writer.put(link, View::Link { to: path }.under(lock));
        }
        let Some(entry) = self.outlook.batches.get_mut(&batch.batch_key) else { return };
        if entry_ended != entry.ended {
            entry.ended = entry_ended;
            let host = (holds.who().id(), holds.who().name());
            let checkpoint = batch_checkpoint(&batch.batch_id, &rows, host, now);
            let Ok(bytes) = serde_json::to_vec_pretty(&checkpoint) else { return };
            let held = holds.directories_of(&batch.batch_id);
            for lock in held.iter().filter_map(|directory| holds.lock_of(directory)) {
                let path = lock.directory.join(checkpoint_name(&batch.batch_id));
                let file = View::File { bytes: bytes.clone(), mode: 0o644, make_directory: true };
                self.outlook.writer.put(path, file.under(lock));
            }
        }
    }

    /// The batch's output directory: its own, or one below the settings'.
    pub(super) fn output_directory(&self, batch: &BatchRow) -> std::path::PathBuf {
        places::batch_directory(&self.settings.output_dir, batch)
    }

    pub(super) fn lay_live_over(&self, rows: &mut [JobRow]) {
        for row in rows.iter_mut().filter(|row| !row.state.is_final()) {
            if let Some(live) = self.live.get(&row.job_id) {
                live.lay_over(row);
            }
        }
    }

    async fn show_status(&mut self, now: f64) {
        self.outlook.status_written_at = now;
        self.outlook.status_due = now + HEARTBEAT_S;
        let Ok(status) = self.status().await else { return };
        self.measure_output_space(now);
        if status.waiting.get(WaitReason::Libvirt.name()).is_some_and(|jobs| *jobs > 0) {
            self.ask_libvirt();
        }
        watchdog::status(&status::line(&status));
        if let Ok(mut bytes) = serde_json::to_vec_pretty(&status) {
            bytes.push(b'\n');
            let file = View::File { bytes, mode: 0o644, make_directory: false };
            self.outlook.writer.put(self.settings.layout().status_file(), file);
        }
        if let Some(path) = &self.settings.metrics.textfile {
            let bytes = metrics::text(&status).into_bytes();
            self.outlook.writer.put(path, View::File { bytes, mode: 0o644, make_directory: false });
        }
    }

    /// How it stands.
    pub(super) async fn status(&self) -> Result<Status> {
        let asked = self.parts.queue.with(|db| Ok((db.counts()?, db.outbox()?, db.oldest_snapshot_at()?)));
        let (Counts { states, waiting }, notifications, oldest_snapshot_at) = asked.await?;
        let outlook = &self.outlook;
        let bytes_per_second = self.live.values().map(|live| live.bytes_per_second()).sum();
        let bytes_left = self.live.values().map(|live| live.bytes_left()).sum();
        let slots = self.settings.max_concurrent_jobs as usize;
        let trouble = || self.parts.intake_error.borrow().clone();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: outlook.started_at,
            heartbeat_at: now_epoch(),
            ready: outlook.ready,
            network: outlook.network.name().to_owned(),
            network_missing: outlook.network.missing_required.clone(),
            servers_away: self.core.servers_away(),
            paused: self.core.is_paused(),
            draining: self.core.is_draining(),
            estimated_time_remaining: status::estimate(
                &states,
                bytes_left,
                bytes_per_second,
                outlook.mean_duration,
                slots,
            ),
            counts: states,
            waiting,
            bytes_per_second,
            oldest_snapshot_at,
            filesystems: self.file_systems(),
            notifications,
            profiles: source::profiles::statistics(),
            libvirt: self.parts.libvirt.known(&self.settings.libvirt.uri),
            last_error: outlook
                .queue_error
                .clone()
                .or_else(trouble)
                .or_else(|| outlook.writer.trouble())
                .or_else(|| outlook.last_error.clone()),
        })
    }

    /// Asks libvirt, elsewhere, until it answers: a job waits for it. Who asks for the status has it asked besides.
    fn ask_libvirt(&self) {
        let (libvirt, settings) = (self.parts.libvirt.clone(), self.settings.libvirt.clone());
        let (within, for_long) =
            (Duration::from_secs_f64(settings.timeout_s), Duration::from_secs_f64(HEARTBEAT_S));
        tokio::spawn(async move { libvirt.ask_until_it_answers(&settings.uri, within, for_long).await });
    }

    /// A job found libvirt to be away, whatever was found before.
    pub(super) fn libvirt_is_away(&self) {
        self.parts.libvirt.doubt();
        self.ask_libvirt();
    }

    /// Where results go by default, and every other file system that jobs write to.
    fn file_systems(&self) -> Vec<FilesystemStatus> {
        let measured = self.outlook.output_space;
        let mut all = vec![FilesystemStatus {
            path: self.settings.output_dir.to_string_lossy().into_owned(),
            free: measured.map_or(0, |space| space.free),
            reserved: 0,
        }];
        for Reserved { file_system, path, free, bytes } in self.core.ledger().file_systems() {
            if measured.is_some_and(|space| space.fs_id == file_system) {
                all[0].reserved += bytes;
            } else {
                all.push(FilesystemStatus {
                    path: path.to_string_lossy().into_owned(),
                    free,
                    reserved: bytes,
                });
            }
        }
        all
    }

    /// Asks the file system, elsewhere: one that is away may take for ever to answer.
    fn measure_output_space(&mut self, now: f64) {
        const EVERY_S: f64 = 5.0;
        if self.outlook.is_measuring || now - self.outlook.measured_at < EVERY_S {
            return;
        }
        self.outlook.measured_at = now;
        self.outlook.is_measuring = true;
        let path = self.settings.output_dir.clone();
        let reports = self.reports.0.clone();
        tokio::task::spawn_blocking(move || {
            let space = crate::sys::fs::free_bytes(&path).ok();
            let _ = reports.blocking_send(Report::OutputSpace(space));
        });
    }
}
