//! One VM, from its work order to its outcome.
//!
//! ```text
//!   prepare ─▶ lock ─▶ journal ─▶ load ▸ extraction ▸ inspect ▸ fix ▸ convert ▸ validate ─▶ publish ─▶ outcome
//!                        │                                                                    ▲
//!                        └── publishing had begun: finish it ─────────────────────────────────┘
//!  publish: names ─▶ libvirt (a stage, told of what has its final name) ─▶ texts
//! ```
//!
//! [`run`] is the library's form: synchronous, on the caller's thread, events through a closure.
//! [`process_main`] is the hidden subcommand around the same work. What is finished of a disk is in the
//! journal; how far a copy is that was cut, in one of its own. What is not here: what a stage does (see
//! [`super::stages`]), and whether a failed job is tried again.

mod asking;
mod begin;
mod leaving;
mod places;
mod process;
mod settling;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use begin::{Begun, begin, is_over};
use places::Cut;
pub use process::process_main;

use super::checkpoint::{Checkpoint, GuestRecord, Intent, hex_sha256};
use super::digests;
use super::giving_way;
use super::guest_child::GuestChild;
use super::handover;
use super::hooks::{self, Beside, Ledger};
use super::meter::Meter;
use super::publish::{self, Names, Publication};
use super::remote::snapshots::Watch;
use super::report::{self, StageResults, Written};
use super::stages;
use super::target;
use super::texts;
use super::workplace::Workplace;
use crate::disk::{Control, Engine, Fence, Interruption, Measure, Served, SourceDisk};
use crate::libvirt::xml::domain_xml;
use crate::model::error::{Error, Result};
use crate::model::job::Stage;
use crate::model::manifest::HookStage;
use crate::model::plan::Plan;
use crate::model::protocol::{Published, WorkOrder, WorkerEvent, WorkerOutcome};
use crate::model::report::{Notice, WrittenFile};
use crate::model::validation::{Finding, Findings, Severity, Validation};
use crate::sys::failpoint;
use crate::sys::kvm::{self, KvmProbe};
use crate::sys::process::Launcher;
use crate::sys::time::{now_epoch, rfc3339_utc};

/// The tools that a worker uses.
#[derive(Debug, Clone, Default)]
pub struct Bench {
    /// How children are started. Users of the library name a hyper2kvm binary here, because their
    /// own program cannot be the stub that every child starts as.
    pub launcher: Launcher,
}

/// Takes one VM from its source to its published result.
///
/// Tells everything through `emit` except the outcome, which it returns. The journal of a published
/// result stays until [`publish::forget`] is called, so that a caller that dies before it has
/// recorded the outcome gets the same one again.
pub fn run(
    order: &WorkOrder,
    bench: &Bench,
    control: &Control,
    emit: &mut dyn FnMut(WorkerEvent),
) -> WorkerOutcome {
    if order.limits.reading.is_some() {
        control.limit_reading(order.limits.reading);
    }
    match Workplace::prepare(order, &bench.launcher) {
        Ok(place) => {
            let outcome = work(&place, bench, order, control, emit);
            place.clear();
            outcome
        }
        Err(error) => failed(error),
    }
}

fn failed(error: Error) -> WorkerOutcome {
    WorkerOutcome::Failed { error }
}

/// The work in a prepared place. Whatever it came to: where another host works by now, that is why.
fn work(
    place: &Workplace,
    bench: &Bench,
    order: &WorkOrder,
    control: &Control,
    emit: &mut dyn FnMut(WorkerEvent),
) -> WorkerOutcome {
    if let Some(fence) = &place.fence {
        control.fence(Arc::clone(fence) as Arc<dyn Fence>);
    }
    let outcome = work_unless_lost(place, bench, order, control, emit);
    match (outcome, place.fence.as_ref().and_then(|fence| fence.lost())) {
        (WorkerOutcome::Succeeded(published), _) => WorkerOutcome::Succeeded(published),
        (_, Some(lost)) => failed(lost.clone()),
        (outcome, None) => outcome,
    }
}

fn work_unless_lost(
    place: &Workplace,
    bench: &Bench,
    order: &WorkOrder,
    control: &Control,
    emit: &mut dyn FnMut(WorkerEvent),
) -> WorkerOutcome {
    failpoint::hit("worker.started");
    let vm_id = &order.plan.vm_id;
    let _lock = match place.lock(vm_id) {
        Ok(lock) => lock,
        Err(error) => return failed(error),
    };
    let ledger = match Ledger::open(&place.results, &order.plan) {
        Ok(ledger) => ledger,
        Err(error) => return failed(error),
    };
    let begun = match begin(place, order, &ledger, emit) {
        Ok(Begun::Published(published)) => return WorkerOutcome::Succeeded(*published),
        Ok(Begun::At(checkpoint)) => *checkpoint,
        Err(error) => return failed(error),
    };
    let mut job = Job {
        order,
        plan: &order.plan,
        place,
        control,
        bench,
        engine: None,
        meter: Meter::new(emit),
        checkpoint: begun,
        sources: Vec::new(),
        guest: None,
        copied: BTreeSet::new(),
        early: digests::Early::default(),
        ledger,
        beside: Vec::new(),
        reached: None,
        findings: Vec::new(),
        watch: None,
        kvm: OnceCell::new(),
        results: StageResults::new(),
    };
    job.tell_acts();
    match stages::warm::run(&mut job) {
        Ok(stages::warm::Run::GoesOn) => {}
        Ok(stages::warm::Run::Waits) => return WorkerOutcome::Stopped,
        Err(error) => return job.end(error),
    }
    match job.all_stages().and_then(|()| job.publish()) {
        Ok(published) => WorkerOutcome::Succeeded(published),
        Err(error) => job.end(error),
    }
}

/// A source that `load` has opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// What is read.
    pub(super) source: SourceDisk,
    /// What that was fetched from, if it had to be: a disk elsewhere, read no more.
    pub(super) fetched_from: Option<SourceDisk>,
    /// What lets QEMU read it where it cannot by itself: for the guest work, for formats that it writes, to be compared.
    pub(super) _served: Option<Served>,
    /// The same disk with room behind it, if its result is to be larger.
    pub(super) grown: Option<SourceDisk>,
    /// What copying it takes.
    pub(super) measure: Measure,
}

impl Opened {
    /// What its result has to hold where nothing is repaired.
    pub(super) fn content(&self) -> &SourceDisk {
        self.grown.as_ref().unwrap_or(&self.source)
    }

    /// The source itself: what has to stay as it is.
    pub(super) fn origin(&self) -> &SourceDisk {
        self.fetched_from.as_ref().unwrap_or(&self.source)
    }
}

/// Guest work that goes on beside the copy.
#[derive(Debug)]
pub(super) struct GuestWork {
    /// Who does it.
    pub(super) child: GuestChild,
    /// By disk, in the plan's order: the size of an overlay that nothing was written to.
    pub(super) fresh: Vec<u64>,
    /// What is known of it so far.
    pub(super) record: GuestRecord,
}

/// A VM that is being worked on: what the stages share.
pub(super) struct Job<'a> {
    pub(super) order: &'a WorkOrder,
    pub(super) plan: &'a Plan,
    pub(super) place: &'a Workplace,
    pub(super) control: &'a Control,
    pub(super) bench: &'a Bench,
    pub(super) engine: Option<Engine>,
    pub(super) meter: Meter<'a>,
    pub(super) checkpoint: Checkpoint,
    /// Opened by `load`, in the plan's order.
    pub(super) sources: Vec<Opened>,
    /// While it goes on.
    pub(super) guest: Option<GuestWork>,
    /// Disks that this very run has copied from their beginning to their end.
    pub(super) copied: BTreeSet<String>,
    /// Digests of files that are finished.
    pub(super) early: digests::Early,
    /// Which hooks have run.
    pub(super) ledger: Ledger,
    /// Hooks that run while the next stage does.
    pub(super) beside: Vec<Beside>,
    /// The stage that began last.
    pub(super) reached: Option<Stage>,
    /// What the pre-flight has found, but for the guest.
    pub(super) findings: Vec<Finding>,
    /// While the source is read as of a snapshot.
    pub(super) watch: Option<Watch>,
    kvm: OnceCell<KvmProbe>,
    results: StageResults,
}

impl Job<'_> {
    fn all_stages(&mut self) -> Result<()> {
        handover::settle(self)?;
        if self.checkpoint.intent.is_some() {
            // All stages had ended when publishing began.
            return Ok(());
        }
        hooks::ready(self)?;
        // libvirt is told of what has its final name.
        for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::Libvirt) {
            if !self.plan.runs(stage) {
                continue;
            }
            self.control.checkpoint()?;
            if let Some(point) = HookStage::before(stage) {
                hooks::reached(self, point).map_err(|error| error.stage(stage))?;
            }
            hooks::begins(self, stage)?;
            self.one_stage(stage).map_err(|error| error.stage(stage))?;
            if let Some(point) = HookStage::after(stage) {
                hooks::reached(self, point).map_err(|error| error.stage(stage))?;
            }
        }
        hooks::collect(self)
    }

    pub(super) fn one_stage(&mut self, stage: Stage) -> Result<()> {
        tracing::info!(%stage, "stage begins");
        self.reached = Some(stage);
        self.meter.tell(WorkerEvent::StageStarted { stage });
        let (start, began_at) = (Instant::now(), now_epoch());
        let result = stages::run(stage, self);
        let seconds = start.elapsed().as_secs_f64();
        *self.checkpoint.stage_seconds.entry(stage).or_default() += seconds;
        self.checkpoint.stage_times.entry(stage).or_insert((began_at, began_at)).1 = now_epoch();
        let result = result?;
        tracing::info!(%stage, seconds, "stage ended");
        self.results.insert(stage, result.clone());
        self.meter.tell(WorkerEvent::StageFinished { stage, seconds, result });
        Ok(())
    }

    fn publish(&mut self) -> Result<Published> {
        let (dir, dirs) = (&self.place.results, self.place.dirs());
        if self.checkpoint.intent.is_none() {
            self.control.checkpoint()?;
            let publication = Publication { plan: self.plan, dirs, group: self.place.group };
            stages::clear(self)?;
            publication.settle_files(&self.checkpoint)?;
            let names = Names::choose(self.plan, dirs)?;
            let paths: Vec<_> = names.disks.iter().map(|named| self.final_path(named)).collect();
            let domain = target::machine(self.plan, &self.checkpoint, &paths).as_ref().map(domain_xml);
            let described = names.domain.as_ref().zip(domain.as_ref()).map(|(name, text)| WrittenFile {
                path: dir.path().join(name),
                sha256: hex_sha256(text.as_bytes()),
            });
            let report = report::compose(
                self.plan,
                self.order.attempt,
                &self.checkpoint,
                report::Found {
                    results: std::mem::take(&mut self.results),
                    hooks: hooks::runs(self),
                    validation: self.validation(),
                },
                (&paths, described),
                now_epoch(),
            );
            let written = Written::of(&report)?;
            let hashes = report.artifacts.iter().map(|artifact| artifact.sha256.clone());
            let outcome = Published {
                directory: dir.path().to_owned(),
                outputs: paths.into_iter().zip(hashes).collect(),
                report: names.report.as_ref().map(|name| dir.path().join(name)),
                content: Some(Box::new(report)),
            };
            let due = outcome.content.as_deref().and_then(|report| handover::due(self.plan, report));
            publication.declare(&mut self.checkpoint, names, domain, written, outcome, due)?;
        }
        self.leave_a_success()?;
        let intent = self.intent()?;
        if is_over(publish::progress(dirs, &intent)?, &intent) {
            return hooks::succeeded(self, intent.outcome);
        }
        publish::give_names(dirs, &intent).map_err(|error| self.not_published(&intent, error))?;
        if intent.handover.is_some() {
            self.read_again(&intent, digests::before_handover)?;
            handover::hand_over(self)?;
        }
        giving_way::give_way(self)?;
        let intent = self.intent()?;
        texts::put(dirs, &intent).map_err(|error| self.not_published(&intent, error))?;
        let published = self.read_again(&intent, digests::finish)?;
        hooks::succeeded(self, published)
    }

    fn intent(&self) -> Result<Intent> {
        let intent = self.checkpoint.intent.clone();
        intent.ok_or_else(|| Error::internal("nothing was declared for publishing"))
    }

    /// While a file has its final name, the intent is the only proof that it is ours: the next attempt finishes it.
    fn not_published(&mut self, intent: &Intent, error: Error) -> Error {
        if publish::is_undone(self.place.dirs(), intent, &error) {
            self.checkpoint.intent = None;
            self.save_quietly();
        }
        error
    }

    /// Reads what has its final name; what cannot be read is withdrawn.
    fn read_again<T>(
        &mut self,
        intent: &Intent,
        read: impl FnOnce(&mut Self, Intent) -> Result<T>,
    ) -> Result<T> {
        match read(self, intent.clone()) {
            Err(error) if self.control.interruption().is_none() => {
                self.withdraw(intent)?;
                Err(error)
            }
            read => read,
        }
    }

    /// What was published cannot be read: it is to be looked at anew, if there is a next attempt.
    fn withdraw(&mut self, intent: &Intent) -> Result<()> {
        publish::withdraw(self.place.dirs(), intent)?;
        self.checkpoint.intent = None;
        self.checkpoint.disks.values_mut().for_each(|disk| disk.validated = false);
        self.ledger.forget(&[HookStage::PostValidate])?;
        self.save()
    }

    /// Whether guests run under KVM: asked once, because it takes a while.
    pub(super) fn kvm(&self) -> &KvmProbe {
        self.kvm.get_or_init(|| kvm::probe(&self.bench.launcher))
    }

    /// Tells what the pre-flight has found; an error if the work may not go on.
    pub(super) fn tell(&mut self, stage: Stage, findings: &Findings) -> Result<()> {
        for Finding { rule, severity, message, about, .. } in findings.told() {
            let about = about.as_deref();
            match severity {
                Severity::Info => tracing::info!(rule, about, "{message}"),
                // The plan's own are in the report already.
                Severity::Warning if rule == "manifest.note" => {}
                Severity::Warning => self.warn(stage, with_subject(rule, about, message)),
                Severity::Error | Severity::Critical => {
                    tracing::error!(rule, about, severity = severity.name(), "{message}");
                }
            }
        }
        findings.failure().map_or(Ok(()), Err)
    }

    /// What the pre-flight came to.
    fn validation(&self) -> Validation {
        let guest = self.checkpoint.guest.iter().flat_map(|guest| &guest.findings);
        let all = self.findings.iter().chain(guest).cloned().collect();
        Validation::of(self.plan.preflight, all)
    }

    /// Remembers a warning for the report, and tells it.
    pub(super) fn warn(&mut self, stage: Stage, message: String) {
        let known = self.checkpoint.warnings.iter().any(|notice| notice.message == message);
        if !known {
            let timestamp = rfc3339_utc(now_epoch());
            self.checkpoint.warnings.push(Notice {
                stage: stage.name().to_owned(),
                message: message.clone(),
                timestamp,
            });
        }
        self.meter.warn(Some(stage), message);
    }

    /// Makes the journal durable.
    pub(super) fn save(&self) -> Result<()> {
        self.checkpoint.write(&self.place.results, &self.plan.vm_id)
    }

    /// Where the journal only saves work and something else has failed already.
    fn save_quietly(&self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "the journal could not be written");
        }
    }

    /// The work ended early: cleans up as far as what ended it asks for.
    fn end(mut self, error: Error) -> WorkerOutcome {
        // Nothing may be written any more while it is decided what stays.
        self.guest = None;
        // What runs beside is over before anything is removed: a hook that was cut says nothing more.
        if let Err(error) = hooks::collect(&mut self) {
            tracing::warn!(%error, "what ran beside the stages");
        }
        if self.place.fence.as_ref().is_some_and(|fence| fence.check().is_err()) {
            // What lies there is another host's.
            return failed(error);
        }
        match self.control.interruption() {
            Some(Interruption::Stop) => {
                self.leave_for_now();
                self.save_quietly();
                WorkerOutcome::Stopped
            }
            Some(Interruption::Cancel { keep_partial }) => {
                match keep_partial {
                    // Perhaps for another host.
                    true => self.leave_for_now(),
                    false => self.leave_source(false),
                }
                if keep_partial || self.order.limits.keep_partial {
                    self.keep(Cut::Stays);
                } else if let Err(error) = self.remove_everything() {
                    tracing::warn!(%error, "not everything could be removed");
                }
                WorkerOutcome::Cancelled
            }
            None => {
                tracing::error!(kind = %error.kind(), %error, "failed");
                hooks::failed(&mut self, &error);
                self.leave_a_failure(&error);
                self.keep(Cut::after(&error));
                failed(error)
            }
        }
    }
}

/// `disk boot: its footer is damaged`
fn with_subject(rule: &str, about: Option<&str>, message: &str) -> String {
    let is_of_disk = ["disk.", "target."].iter().any(|group| rule.starts_with(group));
    match about {
        Some(about) if is_of_disk => format!("disk {about}: {message}"),
        Some(about) if rule.starts_with("network.") => format!("{about}: {message}"),
        _ => message.to_owned(),
    }
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("vm_id", &self.plan.vm_id).finish_non_exhaustive()
    }
}
