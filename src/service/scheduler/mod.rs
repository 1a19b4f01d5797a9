//! The scheduler: one task that owns every decision about jobs.
//!
//! ```text
//!  intake ──accepted──▶ ┌───────────────┐ ──actions──▶ apply: queue first, then workers
//!  network ───state───▶ │ core (pure)   │
//!  control ──commands─▶ │ decides       │ ──changes──▶ outlook: progress, status, metrics
//!  workers ──events───▶ └───────────────┘
//! ```
//!
//! The core decides, without IO. This task feeds it, and carries out what it says in order: each
//! change is durable in the queue before anything follows from it. While the queue cannot be
//! written, what was decided waits in line and nothing is lost. Nothing here blocks: what may hang
//! (a file system that is away) happens on other threads.

mod action;
mod answers;
mod apply;
mod bandwidth;
mod claim;
mod commands;
pub mod core;
mod discard;
mod expanding;
mod holding;
mod job;
mod ledger;
mod loading;
mod logins;
mod moves;
mod outcome;
mod outlook;
mod policy;
mod remote;
mod retry;
mod rollback;
mod servers;
mod settling;
mod sources;
mod space;
mod stall;
mod warm;
mod windows;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use self::apply::Ended;
use self::bandwidth::Bandwidth;
use self::commands::Pending;
use self::core::{Action, BatchKey, Core, JobId, Network, SpaceProbe, WorkerEnd};
use self::expanding::Expanded;
use self::outlook::Outlook;
pub(in crate::service) use self::policy::Policy;
use self::remote::{FileMark, LoginFiles};
use self::settling::Settling;
use self::sources::Sources;
use self::stall::StallWatch;
use super::admission::Results;
use super::command::{Command, Reply};
use super::configuration::ConfigurationSource;
use super::leftovers::Leftovers;
use super::logging::Logging;
use super::network::{NetworkMonitor, NetworkState, Verdict};
use super::queue::QueueHandle;
use super::supervisor::{Heard, Supervisor};
use super::view::live::{Live, Told};
use super::watchdog;
use crate::libvirt::LibvirtHealth;
use crate::model::api::{Acted, JobList, Refusal};
use crate::model::config::Settings;
use crate::model::error::{Error, Result};
use crate::model::job::Stage;
use crate::model::protocol::{WorkerEvent, WorkerOutcome};
use crate::model::remote::Description;
use crate::model::selection::SelectedVm;
use crate::pipeline::host_lock::Holds;
use crate::sys::fs::Space;
use crate::sys::random;
use crate::sys::time::now_epoch;

/// Flags in the queue that outlive the daemon.
const PAUSED_FLAG: &str = "paused";

/// How long a queue that failed is left alone.
const QUEUE_REST_S: f64 = 1.0;

/// How often workers are looked at for signs of life, and leases extended, while there are any.
const ROUND_S: f64 = 15.0;

/// How often old things are removed.
const RETENTION_S: f64 = 6.0 * 3600.0;

/// What the scheduler is given.
pub struct SchedulerParts {
    /// The queue.
    pub queue: QueueHandle,
    /// The settings in force; a reload sends new ones.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Where they come from.
    pub source: ConfigurationSource,
    /// What it is asked.
    pub commands: mpsc::Receiver<Command>,
    /// Told by intake whenever jobs were accepted.
    pub accepted: Arc<Notify>,
    /// Tells intake to leave drops where they are.
    pub draining: watch::Sender<bool>,
    /// Tells intake that a retry wants disks brought back: counts how often.
    pub brought_back: watch::Sender<u64>,
    /// The network.
    pub network: NetworkMonitor,
    /// What keeps intake from working.
    pub intake_error: watch::Receiver<Option<String>>,
    /// Looks at results of earlier runs.
    pub results: Results,
    /// The logs, to change them at a reload.
    pub logging: Option<Logging>,
    /// Names this daemon in the queue.
    pub owner: String,
    /// The locks of directories with results.
    pub holds: Holds,
    /// What an earlier daemon left: nothing touches results while that is in the way.
    pub leftovers: Leftovers,
    /// Told when there is something for those who deliver notifications.
    pub news: watch::Sender<()>,
    /// How libvirt stands.
    pub libvirt: LibvirtHealth,
}

/// What arrives from threads that looked something up or wrote something.
enum Report {
    Probed { job: JobId, batch: (BatchKey, String), outcome: Result<Option<SpaceProbe>> },
    Settled { batch: BatchKey, ended_at: f64, outcome: Result<Option<PathBuf>> },
    Discarded { job: JobId, batch: BatchKey, error: Option<Error> },
    Rewound { jobs: Vec<JobId>, stage: Stage, reply: Option<Reply<Acted>> },
    OutputSpace(Option<Space>),
    Logins(Vec<(String, Option<FileMark>)>),
    Expanded(Expanded),
    Submitted { reply: Reply<JobList>, outcome: Result<Vec<JobId>, Refusal> },
}

/// The task.
pub struct Scheduler {
    parts: SchedulerParts,
    settings: Arc<Settings>,
    core: Core,
    supervisor: Supervisor,
    live: HashMap<JobId, Live>,
    outlook: Outlook,
    /// What was decided and is not carried out yet.
    line: VecDeque<Action>,
    /// How often the queue has refused what stands first in line.
    refusals: u32,
    /// Cancelled jobs whose partial results are being removed.
    discarding: HashSet<JobId>,
    /// Ended jobs whose results a retry throws away.
    rewinding: HashSet<JobId>,
    /// Outcomes that workers wait to hear are recorded.
    ended: HashMap<JobId, Ended>,
    /// Commands whose answer waits for jobs to end.
    pending: Vec<Pending>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    loaded_up_to: BatchKey,
    /// Runs whose disk is on its way to `processing/`.
    awaiting_disks: BTreeSet<BatchKey>,
    more_rows: bool,
    queue_rests_until: Option<f64>,
    unsettled: Settling,
    bandwidth: Bandwidth,
    logins: LoginFiles,
    sources: Sources,
    /// What workers that are about to end have found.
    described: HashMap<JobId, Box<Description>>,
    selected: HashMap<JobId, Vec<SelectedVm>>,
    stall: StallWatch,
    next_round: f64,
    next_retention: f64,
    next_ping: Option<Instant>,
    network: watch::Receiver<NetworkState>,
    libvirt_returns: watch::Receiver<u64>,
    stopping: Option<Vec<Reply<String>>>,
}

impl Scheduler {
    /// Takes over what an earlier daemon left.
    pub async fn start(parts: SchedulerParts) -> Result<Scheduler> {
        let settings = Arc::clone(&parts.settings.borrow());
        let mut core = Core::new(Policy::of(&settings), random::spread);
        let paused = parts.queue.with(|db| db.flag(PAUSED_FLAG)).await?.is_some();
        core.pause_all(now_epoch(), paused);
        let outlook = Outlook::new(&settings)?;
        let network = parts.network.state();
        let libvirt_returns = parts.libvirt.returns();
        let mut scheduler = Scheduler {
            settings,
            core,
            supervisor: Supervisor::new(),
            live: HashMap::new(),
            outlook,
            line: VecDeque::new(),
            refusals: 0,
            discarding: HashSet::new(),
            rewinding: HashSet::new(),
            ended: HashMap::new(),
            pending: Vec::new(),
            reports: mpsc::channel(64),
            loaded_up_to: 0,
            awaiting_disks: BTreeSet::new(),
            more_rows: true,
            queue_rests_until: None,
            unsettled: Settling::default(),
            bandwidth: Bandwidth::default(),
            logins: LoginFiles::default(),
            sources: Sources::default(),
            described: HashMap::new(),
            selected: HashMap::new(),
            stall: StallWatch::since(now_epoch()),
            next_round: 0.0,
            next_retention: now_epoch() + 60.0,
            next_ping: watchdog::watchdog_interval().map(|interval| Instant::now() + interval),
            network,
            libvirt_returns,
            stopping: None,
            parts,
        };
        scheduler.take_network();
        Ok(scheduler)
    }

    /// Works until it is told to stop and every worker has checkpointed.
    pub async fn run(mut self) {
        loop {
            self.take_in_rows().await;
            self.carry_out().await;
            self.share_bandwidth();
            self.look_at_logins(now_epoch());
            self.settle_sources(now_epoch()).await;
            self.tell_stall().await;
            self.settle_due().await;
            self.answer_pending().await;
            self.show().await;
            self.ping().await;
            if self.is_over() {
                break;
            }
            let pause = self.until_next();
            // In no fixed order: whoever keeps asking must not keep the workers from being heard.
            tokio::select! {
                command = self.parts.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    // Everybody who could ask is gone: the daemon is ending.
                    None => self.begin_stop(None),
                },
                (job, heard) = self.supervisor.next() => self.hear(job, heard).await,
                (job, heard) = self.sources.next() => self.hear_settler(job, heard).await,
                Some(report) = self.reports.1.recv() => self.take_report(report).await,
                () = self.parts.accepted.notified() => self.more_rows = true,
                changed = self.network.changed() => {
                    if changed.is_ok() {
                        self.take_network();
                    }
                }
                // Its sender lives as long as this does.
                Ok(()) = self.libvirt_returns.changed() => self.core.libvirt_is_back(),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.end().await;
    }

    /// Whether it was told to stop and nothing is under way any more.
    fn is_over(&self) -> bool {
        self.stopping.is_some()
            && self.supervisor.is_empty()
            && self.discarding.is_empty()
            && (self.line.is_empty() || self.queue_rests_until.is_some())
    }

    /// What a worker tells.
    async fn hear(&mut self, job: JobId, heard: Heard) {
        let now = now_epoch();
        let event = match heard {
            Heard::Ended { outcome, recorded } => {
                let end = self.supervisor.ended(job, outcome);
                let selected = self.selected.remove(&job);
                if let (Some(vms), WorkerEnd::Finished(WorkerOutcome::Stopped)) = (selected, &end) {
                    return self.expand(job, vms, recorded);
                }
                let end = self.planned(job, end).await;
                self.ended.insert(job, Ended { recorded });
                return self.core.worker_ended(now, job, end);
            }
            Heard::Event(event) => event,
        };
        let Some(live) = self.live.get_mut(&job) else { return };
        let before = live.place();
        let told = live.hear(&event, now);
        if live.place() != before {
            self.stall.moved(now);
        }
        match told {
            Told::Nothing => {}
            Told::Numbers => self.outlook.changed(live.batch_key, now),
            Told::Stage => {
                log_stage(job, live, &event);
                self.outlook.changed(live.batch_key, now);
                let (mark, resumed) = (live.mark(), live.resumed);
                // Only for people after a restart: a queue that cannot be written now may miss it.
                let kept = self.parts.queue.with(move |db| {
                    db.atomically(|db| {
                        db.mark_stage(job, &mark)?;
                        db.mark_worker(job, resumed)
                    })
                });
                if let Err(error) = kept.await {
                    tracing::debug!(job, %error, "where it is was not recorded");
                }
            }
        }
        self.core.progressed(job, live.percentage, live.bytes_written());
        self.core.left_to_copy(job, live.bytes_left());
        if let WorkerEvent::Warning { message, .. } = &event {
            let (batch, vm) = (&live.batch, &live.vm);
            tracing::warn!(job, batch, vm, "warning: {message}");
            let message = message.clone();
            if let Err(error) = self.parts.queue.with(move |db| db.append_warning(job, &message)).await {
                tracing::debug!(job, %error, "a warning was not recorded");
            }
        }
        match event {
            WorkerEvent::StageStarted { stage } => self.core.stage_began(job, stage),
            WorkerEvent::Room { bytes } => self.core.measured(now, job, bytes),
            WorkerEvent::StageFinished { stage: Stage::Load, .. } => self.core.let_in(job),
            WorkerEvent::Acts { acts } => self.acts_told(job, acts).await,
            WorkerEvent::Passed(pass) => self.pass_told(job, pass).await,
            WorkerEvent::Described(description) => _ = self.described.insert(job, description),
            WorkerEvent::Selected { vms } => _ = self.selected.insert(job, vms),
            _ => {}
        }
    }

    async fn take_report(&mut self, report: Report) {
        match report {
            Report::Probed { job, batch, outcome } => self.admitted(job, batch, outcome),
            Report::Settled { batch, ended_at, outcome } => self.settled(batch, ended_at, outcome).await,
            Report::Logins(marks) => self.logins_seen(marks),
            Report::Expanded(expanded) => self.expanded(expanded),
            Report::Discarded { job, batch, error } => self.discarded(job, batch, error),
            Report::Rewound { jobs, stage, reply } => self.rewound(jobs, stage, reply).await,
            Report::Submitted { reply, outcome } => drop(reply.send(self.submitted(outcome).await)),
            Report::OutputSpace(space) => {
                self.outlook.is_measuring = false;
                self.outlook.output_space = space;
            }
        }
    }

    /// The network as it is now.
    fn take_network(&mut self) {
        let state = self.network.borrow_and_update().clone();
        let network = match &state.verdict {
            Verdict::Down { why, .. } => Network::Down { why: why.clone() },
            Verdict::Up | Verdict::Unwatched { .. } => Network::Up,
        };
        self.outlook.network = state;
        self.outlook.status_changed();
        self.core.set_network(now_epoch(), network);
    }

    /// Tells the service manager that this loop works, after the queue has really answered.
    async fn ping(&mut self) {
        let now = Instant::now();
        if self.next_ping.is_some_and(|at| at <= now) {
            match self.parts.queue.with(|db| db.counts()).await {
                Ok(_) => watchdog::ping(),
                Err(error) => self.queue_failed(&error),
            }
            self.next_ping = watchdog::watchdog_interval().map(|interval| now + interval);
        }
        let now = now_epoch();
        if !self.supervisor.is_empty() && self.next_round <= now {
            self.next_round = now + ROUND_S;
            self.supervisor.kill_the_lifeless();
            let owner = self.parts.owner.clone();
            let until = now + apply::LEASE_S;
            if let Err(error) = self.parts.queue.with(move |db| db.extend_leases(&owner, until)).await {
                self.queue_failed(&error);
            }
        }
        if self.next_retention <= now {
            self.next_retention = now + RETENTION_S;
            self.prune_in_background();
        }
    }

    /// How long nothing is due.
    fn until_next(&self) -> Duration {
        const LONG: Duration = Duration::from_secs(3600);
        if self.more_rows && self.queue_rests_until.is_none() && self.stopping.is_none() {
            return Duration::ZERO;
        }
        let now = now_epoch();
        let line = self.queue_rests_until.filter(|_| !self.line.is_empty() || self.more_rows);
        let round = (!self.supervisor.is_empty()).then_some(self.next_round);
        let settle = self.unsettled.next_due();
        let due = [
            self.core.next_deadline(),
            line,
            round,
            settle,
            self.outlook.next_due(),
            Some(self.next_retention),
            Some(self.bandwidth.next_due()),
            self.stall_due(),
            self.logins_due(),
            self.sources.next_due(),
        ];
        let due = due.into_iter().flatten().reduce(f64::min).map_or(LONG, |at| {
            Duration::from_secs_f64((at - now).clamp(0.0, 3600.0)).max(Duration::from_millis(1))
        });
        match self.next_ping {
            Some(at) => due.min(at.saturating_duration_since(Instant::now())),
            None => due,
        }
    }

    fn queue_rests(&mut self, now: f64) -> bool {
        if self.queue_rests_until.is_some_and(|until| until <= now) {
            self.queue_rests_until = None;
        }
        self.queue_rests_until.is_some()
    }

    /// The queue cannot be written (a full disk): everything decided waits in line.
    fn queue_failed(&mut self, error: &Error) {
        if self.outlook.queue_error.is_none() {
            tracing::error!(%error, "the queue fails; what was decided waits until it works again");
        }
        self.outlook.queue_error = Some(error.to_string());
        self.outlook.status_changed();
        self.queue_rests_until = Some(now_epoch() + QUEUE_REST_S);
    }

    fn queue_works(&mut self) {
        if self.outlook.queue_error.take().is_some() {
            tracing::info!("the queue works again");
            self.outlook.status_changed();
        }
    }

    fn begin_stop(&mut self, reply: Option<Reply<String>>) {
        let first = self.stopping.is_none();
        self.stopping.get_or_insert_default().extend(reply);
        if first {
            tracing::info!("stopping: running jobs are checkpointed and go on after the next start");
            self.outlook.ready = false;
            self.sources.stop_all();
            self.core.stop(now_epoch());
        }
    }

    async fn end(mut self) {
        self.outlook.everything_changed(now_epoch());
        self.show().await;
        self.outlook.flush().await;
        for reply in self.stopping.take().unwrap_or_default() {
            let _ = reply.send(Ok("stopped".to_owned()));
        }
    }
}

/// A failure of the daemon itself, as `status.json` tells it.
fn outlook_error(what: &str, error: &Error) -> Option<String> {
    Some(format!("{what}: {error}"))
}

/// For the log: that a stage ended (that it began only for those who want to know more).
fn log_stage(job: JobId, live: &Live, event: &WorkerEvent) {
    let (batch, vm) = (&live.batch, &live.vm);
    match event {
        WorkerEvent::StageStarted { stage } => tracing::debug!(job, batch, vm, %stage, "begins"),
        WorkerEvent::StageFinished { stage, seconds, .. } => {
            tracing::info!(job, batch, vm, %stage, "took {seconds:.1} s");
        }
        _ => {}
    }
}
