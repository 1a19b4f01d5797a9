//! Processes that a child left behind by leaving its group: found by who their parents are, and ended.
//!
//! A process that has called [`adopt`] becomes the parent of all that is orphaned below it, however often that forked and whatever session it made
//! itself. What is not here: processes that somebody else starts for a child (systemd, cron, a container service): they are nobody's children here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// What dies slowly (storage that is away) is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Makes this process the parent of all orphans below it.
pub fn adopt() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Ends everything below this process, and says how many processes that were. Nothing may run below it that is still wanted.
pub fn end_all() -> usize {
    let begun = Instant::now();
    let mut ended = std::collections::BTreeSet::new();
    // First all stand still, also those that are born meanwhile: what stands still has no children any more.
    loop {
        let fresh: Vec<Process> =
            below_us().into_iter().filter(|found| ended.insert((found.pid, found.start))).collect();
        if fresh.is_empty() || begun.elapsed() > PATIENCE {
            break;
        }
        fresh.iter().for_each(|process| process.signal(Signal::STOP));
    }
    loop {
        let left = below_us();
        if left.is_empty() || begun.elapsed() > PATIENCE {
            return ended.len();
        }
        for process in left {
            process.signal(Signal::KILL);
            process.reap();
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// When a process began, in the kernel's ticks: with its number, it tells a process from all others of this run of the kernel. None: there is none.
#[must_use]
pub fn begun_at(pid: i32) -> Option<u64> {
    Process::of(pid).map(|process| process.start)
}

#[derive(Debug, Clone, Copy)]
struct Process {
    pid: i32,
    parent: i32,
    /// With its number, it tells a process from all others.
    start: u64,
}

impl Process {
    /// Reads it from `/proc/<pid>/stat`.
    fn of(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Its name stands in parentheses and may hold any.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        Some(Process { pid, parent: fields.get(1)?.parse().ok()?, start: fields.get(19)?.parse().ok()? })
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The number may have been given to another one before the handle was taken.
        if Process::of(self.pid).is_some_and(|now| now.start == self.start) {
            let _ = rustix::process::pidfd_send_signal(&handle, signal);
        }
    }

    /// Takes its end, if it is a child of ours that has ended.
    fn reap(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

fn below_us() -> Vec<Process> {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let all: BTreeMap<i32, Process> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
        .map(|process| (process.pid, process))
        .collect();
    let is_below = |process: &&Process| {
        let mut at = process.parent;
        // A list that was read while processes came and went may hold a circle.
        for _ in 0..all.len() {
            match all.get(&at) {
                _ if at == me => return true,
                Some(parent) => at = parent.parent,
                None => return false,
            }
        }
        false
    };
    all.values().filter(is_below).copied().collect()
}
