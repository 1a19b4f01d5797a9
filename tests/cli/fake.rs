//! A real control server with a small scheduler behind it: four jobs, and every command answered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper2kvm::libvirt::LibvirtHealth;
use hyper2kvm::model::acts::Acts;
use hyper2kvm::model::api::{
    Acted, JobDetails, JobEvent, JobFilter, JobList, JobView, Pruned, Refusal, RefusalCode, RolledBack,
};
use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::job::{BatchState, JobState, Stage, WaitReason};
use hyper2kvm::model::progress::{
    BatchProgress, Counts, FilesystemStatus, LibvirtStatus, PROGRESS_SCHEMA, ProfileStatus, Status,
    VmProgress, VmStatus,
};
use hyper2kvm::model::protocol::DiskProgress;
use hyper2kvm::service::command::{Command, SchedulerHandle};
use hyper2kvm::service::control::{ControlContext, ControlSocket, serve};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A group that nobody has.
pub const NO_GROUP: &str = "no-such-group-here";

/// A running control server.
pub struct Fake {
    dir: TempDir,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start() -> Fake {
        Fake::start_with(|_| {})
    }

    /// With settings of the test's choice.
    pub fn start_with(choose: impl FnOnce(&mut Settings)) -> Fake {
        let dir = tempfile::Builder::new().prefix("h2k-").tempdir().unwrap();
        let mut settings = Settings::defaults(dir.path(), 2);
        settings.control.group = NO_GROUP.to_owned();
        settings.control.admin_group = NO_GROUP.to_owned();
        choose(&mut settings);
        std::fs::create_dir_all(settings.layout().logs().join("web")).unwrap();
        std::fs::write(
            settings.layout().job_log("web", "vm1", 1),
            "INFO stage begins stage=load\nINFO looked\nINFO stage begins stage=extraction\nINFO copying\n",
        )
        .unwrap();
        let stop = CancellationToken::new();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || run(settings, stop, &ready)
        });
        is_ready.recv().expect("the control server starts");
        Fake { dir, stop, thread: Some(thread) }
    }

    pub fn state(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run(settings: Settings, stop: CancellationToken, ready: &std::sync::mpsc::Sender<()>) {
    let socket = ControlSocket::bind(&settings.socket(), &settings.control.group).unwrap();
    let (scheduler, commands) = SchedulerHandle::channel(64);
    let scheduling = tokio::spawn(schedule(commands, settings.clone(), stop.clone()));
    let (_keep, settings) = watch::channel(Arc::new(settings));
    ready.send(()).unwrap();
    let libvirt = LibvirtHealth::default();
    let metrics = Arc::new(|status: &Status| format!("hyper2kvm_ready {}\n", u8::from(status.ready)));
    serve(socket, ControlContext { scheduler, settings, libvirt, metrics, stop }).await;
    scheduling.abort();
}

pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn job(job_id: i64, batch_id: &str, vm_id: &str, state: JobState) -> JobView {
    let ended = state.is_final();
    JobView {
        job_id,
        batch_id: batch_id.to_owned(),
        vm_id: vm_id.to_owned(),
        state,
        waiting_reason: (state == JobState::Waiting).then_some(WaitReason::DiskSpace),
        waiting_detail: (state == JobState::Waiting).then(|| "need 2 GiB, free 1 GiB at /x".to_owned()),
        current_stage: (state == JobState::Running).then_some(Stage::Extraction),
        progress_percentage: if ended { 100.0 } else { 31.0 },
        attempt: 1,
        priority: 50,
        submitted_at: 1_700_000_000.0,
        started_at: Some(1_700_000_001.0),
        completed_at: ended.then_some(1_700_000_061.0),
        error: (state == JobState::Failed).then(|| "the source is cut off".to_owned()),
    }
}

struct Jobs {
    jobs: Vec<JobView>,
    paused: bool,
    draining: bool,
}

async fn schedule(mut commands: mpsc::Receiver<Command>, settings: Settings, stop: CancellationToken) {
    let mut all = Jobs {
        jobs: vec![
            job(1, "web", "vm1", JobState::Running),
            job(2, "web", "vm2", JobState::Waiting),
            job(3, "db", "db1", JobState::Failed),
            job(4, "mail", "mail", JobState::Succeeded),
        ],
        paused: false,
        draining: false,
    };
    while let Some(command) = commands.recv().await {
        all.answer(command, &settings, &stop);
    }
}

impl Jobs {
    fn answer(&mut self, command: Command, settings: &Settings, stop: &CancellationToken) {
        match command {
            Command::Status(reply) => drop(reply.send(Ok(self.status()))),
            Command::List(filter, reply) => drop(reply.send(Ok(self.list(&filter)))),
            Command::Show(target, reply) => drop(reply.send(self.show(&target, settings))),
            Command::Progress(target, reply) => drop(reply.send(self.progress(&target))),
            Command::Submit(request, reply) => drop(reply.send(if request.content.contains("bad") {
                let error = Error::new(Kind::Manifest, "unknown key `bad`").file(&request.filename).at(1, 1);
                Err(Refusal { code: RefusalCode::Invalid, error })
            } else {
                let id = 10 + self.jobs.len() as i64;
                self.jobs.push(job(id, &format!("batch-{id}"), "vm", JobState::Succeeded));
                Ok(JobList { jobs: self.jobs.last().cloned().into_iter().collect() })
            })),
            Command::Cancel { target, reply, .. } => {
                drop(reply.send(self.act(&target, JobState::Cancelled, "cancelled")));
            }
            Command::Release { target, reply } => {
                drop(reply.send(self.act(&target, JobState::Cancelled, "released")));
            }
            Command::Retry { target, reply, .. } => {
                drop(reply.send(match self.find(&target) {
                    Ok(index) if !self.jobs[index].state.is_final() => Err(wrong_state(&self.jobs[index])),
                    _ => self.set(&target, JobState::Queued, "queued again"),
                }));
            }
            Command::Priority { target, priority, reply } => {
                drop(reply.send(self.find(&target).map(|index| {
                    self.jobs[index].priority = priority;
                    Acted { message: "moved".to_owned(), jobs: vec![self.jobs[index].clone()] }
                })));
            }
            Command::Pause(Some(target), reply) => {
                drop(reply.send(self.act(&target, JobState::Waiting, "paused")));
            }
            Command::Resume(Some(target), reply) => {
                drop(reply.send(self.act(&target, JobState::Running, "goes on")));
            }
            Command::Cutover(target, reply) => {
                drop(reply.send(self.act(&target, JobState::Running, "the cutover is asked for")));
            }
            Command::Pause(None, reply) => drop(reply.send(self.mode(true, self.draining, "paused"))),
            Command::Resume(None, reply) => drop(reply.send(self.mode(false, self.draining, "goes on"))),
            Command::Drain(on, reply) => drop(reply.send(self.mode(self.paused, on, "draining"))),
            Command::Prune { dry_run, reply } => {
                drop(reply.send(Ok(Pruned { dry_run, batches: 1, logs: 2, partials: 3, bytes: 4096 })));
            }
            Command::Rollback { target, dry_run, reply } => {
                drop(reply.send(self.rollback(&target, dry_run)));
            }
            Command::Reload(reply) => drop(reply.send(Ok("nothing changed".to_owned()))),
            Command::Stop(reply) => {
                drop(reply.send(Ok("stopping".to_owned())));
                stop.cancel();
            }
        }
    }

    fn status(&self) -> Status {
        let mut counts = BTreeMap::new();
        for job in &self.jobs {
            *counts.entry(job.state.name().to_owned()).or_insert(0) += 1;
        }
        Status {
            version: "0.1.0".to_owned(),
            pid: std::process::id(),
            started_at: now() - 100.0,
            heartbeat_at: now(),
            ready: true,
            network: "up".to_owned(),
            network_missing: Vec::new(),
            servers_away: Vec::new(),
            paused: self.paused,
            draining: self.draining,
            counts,
            waiting: BTreeMap::from([("disk_space".to_owned(), 1)]),
            bytes_per_second: 412_000_000,
            estimated_time_remaining: Some(250.0),
            oldest_snapshot_at: None,
            notifications: None,
            profiles: ProfileStatus { kept: 2, hits: 40, misses: 3, invalidations: 1 },
            filesystems: vec![FilesystemStatus { path: "/x".to_owned(), free: 1 << 30, reserved: 1 << 20 }],
            libvirt: LibvirtStatus::default(),
            last_error: None,
        }
    }

    fn list(&self, filter: &JobFilter) -> JobList {
        let wanted = |job: &&JobView| {
            filter.state.is_none_or(|state| state == job.state)
                && filter.batch.as_ref().is_none_or(|batch| *batch == job.batch_id)
        };
        let limit = filter.limit.unwrap_or(u32::MAX) as usize;
        JobList { jobs: self.jobs.iter().filter(wanted).take(limit).cloned().collect() }
    }

    fn find(&self, target: &str) -> Result<usize, Refusal> {
        let named = |job: &JobView| {
            job.job_id.to_string() == target
                || job.vm_id == target
                || job.batch_id == target
                || format!("{}/{}", job.batch_id, job.vm_id) == target
        };
        self.jobs.iter().position(named).ok_or_else(|| Refusal {
            code: RefusalCode::NoSuchJob,
            error: Error::new(Kind::Manifest, format!("there is no job `{target}`"))
                .advice("see `hyper2kvm list`"),
        })
    }

    /// It takes one look.
    fn rollback(&self, target: &str, dry_run: bool) -> Result<RolledBack, Refusal> {
        let job = self.jobs[self.find(target)?].clone();
        let steps = if dry_run { vec!["the source is started".to_owned()] } else { Vec::new() };
        Ok(RolledBack { job, dry_run, done: !dry_run, steps, error: None })
    }

    fn show(&self, target: &str, settings: &Settings) -> Result<JobDetails, Refusal> {
        let job = self.jobs[self.find(target)?].clone();
        let log = settings.layout().job_log(&job.batch_id, &job.vm_id, job.attempt);
        Ok(JobDetails {
            batch_state: BatchState::of([job.state]),
            output_directory: format!("/out/{}/{}", job.batch_id, job.vm_id),
            outputs: Vec::new(),
            log: Some(log.to_string_lossy().into_owned()),
            failure: None,
            acts: Acts::default(),
            events: vec![JobEvent { at: job.submitted_at, attempt: 0, message: "accepted".to_owned() }],
            job,
        })
    }

    /// A copy that moves on at every look, and has ended at 100.
    fn progress(&mut self, target: &str) -> Result<BatchProgress, Refusal> {
        let index = self.find(target)?;
        if self.jobs[index].state == JobState::Running {
            self.jobs[index].progress_percentage += 23.0;
            if self.jobs[index].progress_percentage >= 100.0 {
                self.jobs[index] =
                    JobView { progress_percentage: 100.0, ..job(1, "web", "vm1", JobState::Succeeded) };
            }
        }
        let batch_id = self.jobs[index].batch_id.clone();
        let of_batch: Vec<&JobView> = self.jobs.iter().filter(|job| job.batch_id == batch_id).collect();
        let state = BatchState::of(of_batch.iter().map(|job| job.state));
        Ok(BatchProgress {
            schema: PROGRESS_SCHEMA.to_owned(),
            total_vms: of_batch.len() as u64,
            state,
            waiting_reason: None,
            started_at: Some(1_700_000_001.0),
            updated_at: 1_700_000_050.0,
            heartbeat_at: now(),
            completed_at: None,
            counts: Counts::default(),
            completion_percentage: 0.0,
            progress_percentage: 31.0,
            estimated_time_remaining: None,
            vms: of_batch.into_iter().map(|job| (job.vm_id.clone(), vm_progress(job))).collect(),
            batch_id,
        })
    }

    fn act(&mut self, target: &str, state: JobState, message: &str) -> Result<Acted, Refusal> {
        let index = self.find(target)?;
        if self.jobs[index].state.is_final() {
            return Err(wrong_state(&self.jobs[index]));
        }
        self.set(target, state, message)
    }

    fn set(&mut self, target: &str, state: JobState, message: &str) -> Result<Acted, Refusal> {
        let index = self.find(target)?;
        let JobView { job_id, batch_id, vm_id, .. } = self.jobs[index].clone();
        self.jobs[index] = job(job_id, &batch_id, &vm_id, state);
        Ok(Acted { message: message.to_owned(), jobs: vec![self.jobs[index].clone()] })
    }

    fn mode(&mut self, paused: bool, draining: bool, message: &str) -> Result<Acted, Refusal> {
        (self.paused, self.draining) = (paused, draining);
        Ok(Acted { message: message.to_owned(), jobs: Vec::new() })
    }
}

fn wrong_state(job: &JobView) -> Refusal {
    Refusal {
        code: RefusalCode::WrongState,
        error: Error::new(Kind::Manifest, format!("job {} is {}", job.job_id, job.state)),
    }
}

fn vm_progress(job: &JobView) -> VmProgress {
    let disk = DiskProgress {
        bytes_total: 1 << 30,
        bytes_done: 1 << 28,
        bytes_per_second: 412_000_000,
        virtual_size: 8 << 30,
    };
    VmProgress {
        vm_id: job.vm_id.clone(),
        job_id: job.job_id,
        status: VmStatus::of(job.state, job.started_at.is_some()),
        state: job.state,
        waiting_reason: job.waiting_reason,
        attempt: job.attempt,
        resumed: false,
        started_at: job.started_at,
        completed_at: job.completed_at,
        duration: job.completed_at.map(|_| 60.0),
        error: job.error.clone(),
        current_stage: job.current_stage,
        stage_detail: job.current_stage.map(|_| "disk 1/1".to_owned()),
        stage_started_at: None,
        stages_completed: vec![Stage::Load],
        progress_percentage: job.progress_percentage,
        disks: BTreeMap::from([("boot".to_owned(), disk)]),
        passes: Vec::new(),
        next_pass_at: None,
    }
}
