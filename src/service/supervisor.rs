//! The workers that run: started, listened to, told, and killed when they do not listen.
//!
//! Each has a task that passes on what it tells; this keeps who is there and when each last gave a
//! sign of life. What is not here: what follows from any of it, which the scheduler decides.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::scheduler::core::{JobId, WorkerEnd};
use crate::model::error::{Error, Result};
use crate::model::protocol::{WorkOrder, WorkerCommand, WorkerEvent, WorkerOutcome};
use crate::pipeline::launch::{WorkerHandle, WorkerProcess};

/// A worker that is silent this long and stopped (by somebody's signal) is killed.
const SILENCE: Duration = Duration::from_secs(60);

/// A worker that is silent this long is killed, whatever it does.
const LONG_SILENCE: Duration = Duration::from_secs(300);

/// What is heard from a worker.
#[derive(Debug)]
pub enum Heard {
    /// It tells something.
    Event(WorkerEvent),
    /// It has ended. What follows is recorded before `recorded` is answered: only then does a worker
    /// that succeeded remove what proves it.
    Ended {
        /// How.
        outcome: WorkerOutcome,
        /// Tell when it is recorded.
        recorded: oneshot::Sender<()>,
    },
}

struct Worker {
    /// Distinguishes it from an earlier worker of the same job whose last words are still under way.
    number: u64,
    /// Whose it is, for the log.
    batch: String,
    vm: String,
    pid: u32,
    handle: WorkerHandle,
    last_sign: Instant,
    stands_still: bool,
    killed_for: Option<Error>,
}

/// All workers.
pub struct Supervisor {
    workers: HashMap<JobId, Worker>,
    started: u64,
    sender: mpsc::Sender<(JobId, u64, Heard)>,
    inbox: mpsc::Receiver<(JobId, u64, Heard)>,
}

impl Supervisor {
    /// Nobody works yet.
    #[must_use]
    pub fn new() -> Supervisor {
        let (sender, inbox) = mpsc::channel(256);
        Supervisor { workers: HashMap::new(), started: 0, sender, inbox }
    }

    /// Starts a worker; what it writes for people goes to `log`.
    pub async fn start(&mut self, order: &WorkOrder, log: &Path) -> Result<()> {
        let process = WorkerProcess::spawn(order, log).await?;
        self.started += 1;
        let worker = Worker {
            number: self.started,
            batch: order.batch_id.clone(),
            vm: order.plan.vm_id.clone(),
            pid: process.pid(),
            handle: process.handle(),
            last_sign: Instant::now(),
            stands_still: false,
            killed_for: None,
        };
        self.workers.insert(order.job_id, worker);
        tokio::spawn(listen(process, order.job_id, self.started, self.sender.clone()));
        Ok(())
    }

    /// The next thing that a worker tells. Never ends.
    pub async fn next(&mut self) -> (JobId, Heard) {
        loop {
            let Some((job, number, heard)) = self.inbox.recv().await else {
                // Not reached: this holds a sender itself.
                return std::future::pending().await;
            };
            let Some(worker) = self.workers.get_mut(&job).filter(|worker| worker.number == number) else {
                continue;
            };
            worker.last_sign = Instant::now();
            return (job, heard);
        }
    }

    /// A worker has ended: how that counts.
    pub fn ended(&mut self, job: JobId, outcome: WorkerOutcome) -> WorkerEnd {
        let killed_for = self.workers.remove(&job).and_then(|worker| worker.killed_for);
        match (killed_for, outcome) {
            (Some(error), WorkerOutcome::Stopped) => WorkerEnd::Crashed(error),
            (_, outcome) => WorkerEnd::Finished(outcome),
        }
    }

    /// Tells a worker; one that is gone does not hear it.
    pub fn tell(&mut self, job: JobId, command: WorkerCommand) {
        let Some(worker) = self.workers.get_mut(&job) else { return };
        match command {
            WorkerCommand::Pause => worker.stands_still = true,
            WorkerCommand::Resume => {
                worker.stands_still = false;
                worker.last_sign = Instant::now();
            }
            _ => {}
        }
        worker.handle.send(command);
    }

    /// Ends a worker and all it started, at once.
    pub fn kill(&mut self, job: JobId) {
        if let Some(worker) = self.workers.get(&job) {
            worker.handle.kill();
        }
    }

    /// Whose workers are there.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        self.workers.keys().copied()
    }

    /// Whether any worker is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Kills the workers that have given no sign of life for too long; they lose the attempt.
    pub fn kill_the_lifeless(&mut self) {
        for (job, worker) in &mut self.workers {
            let silent = worker.last_sign.elapsed();
            if worker.stands_still || worker.killed_for.is_some() || silent < SILENCE {
                continue;
            }
            if silent < LONG_SILENCE && !is_stopped(worker.pid) {
                continue;
            }
            let Worker { batch, vm, pid, .. } = &*worker;
            tracing::warn!(job, batch, vm, pid, "its worker gives no sign of life and is killed");
            let cause = format!("its worker gave no sign of life for {} s", silent.as_secs());
            worker.killed_for = Some(Error::internal(cause).transient());
            worker.handle.kill();
        }
    }
}

impl Default for Supervisor {
    fn default() -> Supervisor {
        Supervisor::new()
    }
}

/// Passes on what a worker tells until it is gone.
async fn listen(
    mut process: WorkerProcess,
    job: JobId,
    number: u64,
    sender: mpsc::Sender<(JobId, u64, Heard)>,
) {
    let mut told = None;
    while let Some(event) = process.next().await {
        match event {
            // Succeeded: recorded first, and only then may the worker remove its journal.
            WorkerEvent::Finished(outcome @ WorkerOutcome::Succeeded(_)) => {
                let (recorded, answer) = oneshot::channel();
                let _ = sender.send((job, number, Heard::Ended { outcome, recorded })).await;
                if answer.await.is_err() {
                    // The service ends without having recorded it: the journal has to stay.
                    process.handle().kill();
                }
            }
            // Anything else: the process is gone first, so that a next one finds nobody at its files.
            WorkerEvent::Finished(outcome) => told = Some(outcome),
            event => {
                let _ = sender.send((job, number, Heard::Event(event))).await;
            }
        }
    }
    if let Some(outcome) = told {
        let (recorded, _) = oneshot::channel();
        let _ = sender.send((job, number, Heard::Ended { outcome, recorded })).await;
    }
}

/// Whether a process stands still by a signal.
fn is_stopped(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything, so the state is looked for behind the last one.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_is_not_stopped() {
        assert!(!is_stopped(std::process::id()));
    }
}
