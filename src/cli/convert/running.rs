//! Running the workers, some at a time, showing how they get on, and obeying an interrupt.
//!
//! The first interrupt tells every worker to stop, which keeps what can be gone on from; the second ends them at once. What is not here: how it is told in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::ConvertArgs;
use super::inputs::{Understood, Work, cores};
use crate::cli::Ui;
use crate::cli::progress::ProgressView;
use crate::model::bandwidth::{Caps, Parts};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::{BatchState, JobState, Stage};
use crate::model::planner::RefusedVm;
use crate::model::progress::{BatchProgress, Counts, PROGRESS_SCHEMA, VmProgress, VmStatus};
use crate::model::protocol::{WorkerCommand, WorkerEvent, WorkerOutcome};
use crate::model::report::{Notice, Span};
use crate::pipeline::host_lock::{Holds, Who, directory_of};
use crate::pipeline::launch::{WorkerHandle, WorkerProcess};
use crate::pipeline::publish::DIRECTORY_MODE;
use crate::sys::dir::Dir;
use crate::sys::time::{now_epoch, rfc3339_utc};

/// How often the display changes at most; a stage's begin is shown at once.
const SHOW_INTERVAL: Duration = Duration::from_millis(100);

/// How one VM ended.
pub(super) struct Ended {
    /// Which.
    pub(super) work: Work,
    /// How; `None` if it was never begun.
    pub(super) outcome: Option<WorkerOutcome>,
    /// When it began and ended.
    pub(super) began_at: Option<f64>,
    /// When it ended.
    pub(super) ended_at: Option<f64>,
    /// What it was in until then.
    pub(super) timeline: Vec<Span>,
    /// What its worker warned of.
    pub(super) warnings: Vec<Notice>,
}

impl Ended {
    /// From now on it is in something else.
    fn turns(&mut self, state: JobState, stage: Option<Stage>, now: f64) {
        self.is_still_so(now);
        let attempt = u32::from(state != JobState::Queued);
        let span = Span { state, waiting_reason: None, stage, attempt, started_at: now, ended_at: now };
        self.timeline.push(span);
    }

    fn is_still_so(&mut self, now: f64) {
        if let Some(last) = self.timeline.last_mut() {
            last.ended_at = now;
        }
    }
}

/// How all ended.
pub(super) struct AllEnded {
    /// Each, the most urgent first.
    pub(super) vms: Vec<Ended>,
    /// VMs of batches that could not run as they are written.
    pub(super) refused: Vec<RefusedVm>,
    /// Whether the person interrupted it.
    pub(super) interrupted: bool,
}

/// Converts them all.
pub(super) fn convert(understood: Understood, args: &ConvertArgs, ui: &Ui) -> Result<AllEnded> {
    let Understood { mut works, refused, parallel_limit, fail_fast, .. } = understood;
    for work in &works {
        prepare(work)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("cannot start: {error}")))?;
    let holds = Holds::new(Who::convert(unconfigured().takeover_stale_s));
    let held = hold(&mut works, &holds);
    let usual = || usual_at_a_time().min(parallel_limit.unwrap_or(u32::MAX));
    let most = args.parallel.unwrap_or_else(usual);
    let caps = Caps { total: args.bandwidth.and_then(|rate| rate.0), per_job: None };
    let ids: BTreeSet<String> = works.iter().map(|work| work.order.batch_id.clone()).collect();
    let ended =
        held.and_then(|()| runtime.block_on(Party::new(works, (most as usize, caps), fail_fast, ui).go()));
    for batch_id in ids {
        if let Err(error) = holds.leave(&batch_id, false, holds.claims()) {
            ui.note(&format!("its lock stays: {error}"));
        }
    }
    ended.map(|all| AllEnded { refused, ..all })
}

/// How many VMs are converted at a time if nobody says so.
pub(in crate::cli) fn usual_at_a_time() -> u32 {
    unconfigured().max_concurrent_jobs
}

fn unconfigured() -> Settings {
    Settings::defaults(Path::new("/"), cores())
}

/// Takes the locks of all directories that results go to, and has each worker write under its own.
fn hold(works: &mut [Work], holds: &Holds) -> Result<()> {
    for work in works {
        let directory = work.order.plan.output.directory.clone();
        let beside = work.scratch.parent().unwrap_or(&directory);
        let place = directory_of(beside, &directory).to_owned();
        let (batch_id, places) = (&work.order.batch_id, std::slice::from_ref(&place));
        let elsewhere = work.order.plan.directories_elsewhere();
        for directory in std::iter::once(&*directory).chain(elsewhere) {
            holds.look_around(batch_id, directory, places, false)?;
        }
        holds.claim(batch_id, places, false)?;
        work.order.limits.lock = holds.lock_of(&place);
    }
    Ok(())
}

/// Makes the scratch directory, and the one it lies in as a worker would.
fn prepare(work: &Work) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::io(Kind::Output, "make the directory", &work.scratch, &error)
            .output(&work.scratch)
            .advice("name a directory that may be written to with `-o`")
    };
    if let Some(beside) = work.scratch.parent() {
        Dir::create_all(beside, DIRECTORY_MODE).map_err(failed)?;
    }
    Dir::create_all(&work.scratch, 0o700).map_err(failed)?;
    Ok(())
}

enum News {
    Began(usize, WorkerHandle),
    Event(usize, WorkerEvent),
    Over(usize, Box<WorkerOutcome>),
}

/// The workers of one command.
struct Party {
    vms: Vec<Ended>,
    waiting: VecDeque<usize>,
    running: BTreeMap<usize, Option<WorkerHandle>>,
    most: usize,
    /// How fast all may read together, and who knows its part.
    caps: Caps,
    parts: Parts<usize>,
    fail_fast: bool,
    interrupted: bool,
    view: ProgressView,
    progress: BatchProgress,
    shown: Option<Instant>,
    ui: Ui,
    tell: mpsc::UnboundedSender<News>,
    news: mpsc::UnboundedReceiver<News>,
}

impl Party {
    /// `(most, caps)`: how many may run at a time, and how fast they may read.
    fn new(works: Vec<Work>, (most, caps): (usize, Caps), fail_fast: bool, ui: &Ui) -> Party {
        let (tell, news) = mpsc::unbounded_channel();
        let progress = begin_progress(&works);
        let mut vms: Vec<Ended> = works
            .into_iter()
            .map(|work| Ended {
                work,
                outcome: None,
                began_at: None,
                ended_at: None,
                timeline: Vec::new(),
                warnings: Vec::new(),
            })
            .collect();
        vms.iter_mut().for_each(|vm| vm.turns(JobState::Queued, None, now_epoch()));
        Party {
            waiting: (0..vms.len()).collect(),
            vms,
            running: BTreeMap::new(),
            most,
            caps,
            parts: Parts::default(),
            fail_fast,
            interrupted: false,
            view: ProgressView::beside_the_result(ui),
            progress,
            shown: None,
            ui: ui.clone(),
            tell,
            news,
        }
    }

    async fn go(mut self) -> Result<AllEnded> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::internal(format!("cannot listen to signals: {error}")))
        };
        let (mut interrupt, mut terminate) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        self.begin_more();
        while !self.running.is_empty() {
            tokio::select! {
                Some(news) = self.news.recv() => self.hear(news),
                () = either(&mut interrupt, &mut terminate) => self.interrupt(),
            }
        }
        self.show(true);
        self.view.finish();
        Ok(AllEnded { vms: self.vms, refused: Vec::new(), interrupted: self.interrupted })
    }

    fn begin_more(&mut self) {
        while self.running.len() < self.most
            && !self.interrupted
            && let Some(index) = self.next()
        {
            let now = now_epoch();
            self.vms[index].began_at = Some(now);
            self.vms[index].turns(JobState::Running, None, now);
            self.vm(index, |vm| {
                vm.state = JobState::Running;
                vm.started_at = Some(now);
            });
            let copying = self.readers().values().filter(|copies| **copies).count();
            self.running.insert(index, None);
            let work = &self.vms[index].work;
            let mut order = work.order.clone();
            order.limits.reading = self.parts.of_newcomer(index, self.caps, copying);
            tokio::spawn(work_on(index, order, work.log(), self.tell.clone()));
        }
    }

    /// The first of those that wait whose turn it is; one that waits for what has failed is not begun at all.
    fn next(&mut self) -> Option<usize> {
        let mut place = 0;
        while let Some(&index) = self.waiting.get(place) {
            let order = &self.vms[index].work.order;
            let waits_for = |id: &&String| {
                let is_it = |other: &&Ended| {
                    other.work.order.batch_id == order.batch_id && other.work.order.plan.vm_id == **id
                };
                let other = self.vms.iter().find(is_it);
                match other.and_then(|other| other.outcome.as_ref()) {
                    Some(WorkerOutcome::Succeeded(_)) => None,
                    Some(_) => Some(true),
                    // One that was refused is not among them.
                    None => Some(other.is_none()),
                }
            };
            let waits: Vec<(&String, bool)> =
                order.plan.depends_on.iter().filter_map(|id| Some((id, waits_for(&id)?))).collect();
            let lost = waits.iter().find(|(_, is_lost)| *is_lost).map(|(id, _)| (*id).clone());
            match (lost, waits.is_empty()) {
                (None, true) => return self.waiting.remove(place),
                (None, false) => place += 1,
                (Some(lost), _) => {
                    self.waiting.remove(place);
                    self.lose(index, &lost);
                    // Others may wait for this one.
                    place = 0;
                }
            }
        }
        None
    }

    /// It ends without having begun.
    fn lose(&mut self, index: usize, lost: &str) {
        let error = Error::new(Kind::Cancelled, format!("`{lost}`, which it depends on, did not succeed"))
            .advice("mend that one, then convert both again");
        self.vms[index].outcome = Some(WorkerOutcome::Failed { error });
        self.vm(index, |vm| vm.state = JobState::Failed);
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Began(index, handle) => {
                if self.interrupted {
                    handle.send(WorkerCommand::Stop);
                }
                self.running.insert(index, Some(handle));
            }
            News::Event(index, event) => self.note(index, event),
            News::Over(index, outcome) => {
                self.running.remove(&index);
                let now = now_epoch();
                self.vms[index].ended_at = Some(now);
                self.vms[index].is_still_so(now);
                let state = state_of(&outcome);
                self.vm(index, |vm| {
                    vm.state = state;
                    vm.completed_at = Some(now);
                    vm.duration = vm.started_at.map(|began| now - began);
                });
                if matches!(*outcome, WorkerOutcome::Failed { .. }) && self.fail_fast {
                    self.waiting.clear();
                }
                self.vms[index].outcome = Some(*outcome);
                self.begin_more();
                self.show(true);
            }
        }
        self.share();
    }

    /// Tells every worker whose part of what may be read is another one.
    fn share(&mut self) {
        for (index, bytes) in self.parts.changes(self.caps, &self.readers()) {
            if let Some(Some(handle)) = self.running.get(&index) {
                handle.send(WorkerCommand::Read { bytes });
            }
        }
    }

    /// Every worker that can be told, and whether it copies now.
    fn readers(&self) -> BTreeMap<usize, bool> {
        let copies = |index: usize| {
            let plan = &self.vms[index].work.order.plan;
            let stage = plan.copying_stage();
            let vm = self.progress.vms.get(&plan.vm_id);
            vm.is_some_and(|vm| vm.current_stage == Some(stage) && !vm.stages_completed.contains(&stage))
        };
        let told = self.running.iter().filter(|(_, handle)| handle.is_some());
        told.map(|(index, _)| (*index, copies(*index))).collect()
    }

    fn note(&mut self, index: usize, event: WorkerEvent) {
        let mut at_once = false;
        match event {
            WorkerEvent::Started { resumed, .. } => self.vm(index, |vm| vm.resumed = resumed),
            WorkerEvent::StageStarted { stage } => {
                at_once = true;
                let now = now_epoch();
                self.vms[index].turns(JobState::Running, Some(stage), now);
                self.vm(index, |vm| {
                    vm.current_stage = Some(stage);
                    vm.stage_detail = None;
                    vm.stage_started_at = Some(now);
                });
            }
            WorkerEvent::StageDetail { detail, .. } => {
                self.vm(index, |vm| vm.stage_detail = Some(detail));
            }
            WorkerEvent::StageFinished { stage, .. } => {
                self.vm(index, |vm| vm.stages_completed.push(stage));
            }
            WorkerEvent::Disk { disk, progress } => {
                self.vm(index, |vm| {
                    vm.disks.insert(disk, progress);
                });
            }
            WorkerEvent::Progress { percentage } => {
                self.vm(index, |vm| vm.progress_percentage = percentage);
            }
            WorkerEvent::Warning { stage, message } => {
                let vm_id = &self.vms[index].work.order.plan.vm_id;
                self.ui.note(&format!("{vm_id}: {message}"));
                self.vms[index].warnings.push(Notice {
                    stage: stage.map_or("plan", |stage| stage.name()).to_owned(),
                    message,
                    timestamp: rfc3339_utc(now_epoch()),
                });
            }
            WorkerEvent::Room { .. }
            | WorkerEvent::Described(_)
            | WorkerEvent::Selected { .. }
            | WorkerEvent::Acts { .. }
            | WorkerEvent::Passed(_)
            | WorkerEvent::Heartbeat
            | WorkerEvent::Paused
            | WorkerEvent::Resumed
            | WorkerEvent::Finished(_) => {}
        }
        self.show(at_once);
    }

    fn interrupt(&mut self) {
        let again = std::mem::replace(&mut self.interrupted, true);
        self.waiting.clear();
        for handle in self.running.values().flatten() {
            match again {
                false => handle.send(WorkerCommand::Stop),
                true => handle.kill(),
            }
        }
    }

    fn vm(&mut self, index: usize, change: impl FnOnce(&mut VmProgress)) {
        let vm_id = &self.vms[index].work.order.plan.vm_id;
        if let Some(vm) = self.progress.vms.get_mut(vm_id) {
            change(vm);
            vm.status = VmStatus::of(vm.state, vm.started_at.is_some());
        }
    }

    fn show(&mut self, at_once: bool) {
        let now = Instant::now();
        if !at_once && self.shown.is_some_and(|shown| now - shown < SHOW_INTERVAL) {
            return;
        }
        self.shown = Some(now);
        // A display that cannot be written to is no reason to stop the work.
        let _ = self.view.show(&self.progress);
    }
}

/// One worker, from its start to its end.
async fn work_on(
    index: usize,
    order: crate::model::protocol::WorkOrder,
    log: std::path::PathBuf,
    tell: mpsc::UnboundedSender<News>,
) {
    let mut worker = match WorkerProcess::spawn(&order, &log).await {
        Ok(worker) => worker,
        Err(error) => {
            let _ = tell.send(News::Over(index, Box::new(WorkerOutcome::Failed { error })));
            return;
        }
    };
    let _ = tell.send(News::Began(index, worker.handle()));
    let mut outcome = WorkerOutcome::Stopped;
    while let Some(event) = worker.next().await {
        match event {
            // Nothing has to be recorded anywhere: the result itself is the record.
            WorkerEvent::Finished(ended) => outcome = ended,
            event => drop(tell.send(News::Event(index, event))),
        }
    }
    let _ = tell.send(News::Over(index, Box::new(outcome)));
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

pub(super) fn state_of(outcome: &WorkerOutcome) -> JobState {
    match outcome {
        WorkerOutcome::Succeeded(_) => JobState::Succeeded,
        WorkerOutcome::Failed { .. } => JobState::Failed,
        WorkerOutcome::Cancelled | WorkerOutcome::Stopped => JobState::Cancelled,
    }
}

fn begin_progress(works: &[Work]) -> BatchProgress {
    let now = now_epoch();
    let vms = works
        .iter()
        .map(|work| {
            let vm = VmProgress {
                vm_id: work.order.plan.vm_id.clone(),
                job_id: 0,
                status: VmStatus::Pending,
                state: JobState::Queued,
                waiting_reason: None,
                attempt: 1,
                resumed: false,
                started_at: None,
                completed_at: None,
                duration: None,
                error: None,
                current_stage: None,
                stage_detail: None,
                stage_started_at: None,
                stages_completed: Vec::new(),
                progress_percentage: 0.0,
                disks: BTreeMap::new(),
                passes: Vec::new(),
                next_pass_at: None,
            };
            (vm.vm_id.clone(), vm)
        })
        .collect();
    BatchProgress {
        schema: PROGRESS_SCHEMA.to_owned(),
        batch_id: "convert".to_owned(),
        total_vms: works.len() as u64,
        state: BatchState::Running,
        waiting_reason: None,
        started_at: Some(now),
        updated_at: now,
        heartbeat_at: now,
        completed_at: None,
        counts: Counts::default(),
        completion_percentage: 0.0,
        progress_percentage: 0.0,
        estimated_time_remaining: None,
        vms,
    }
}
