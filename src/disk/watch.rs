//! Children that take as long as they take, and are ended when they make no progress.
//!
//! Progress is any of: a line that the tool prints (its percentage), bytes that the kernel counts for it
//! (`/proc/<pid>/io`), processor time it used. A child that does none of these for the stall limit
//! hangs on storage that does not answer, or was stopped by somebody. While we let it stand still, so does time.
//!
//! One that reads a source keeps to the rate that is in force: it is stopped as soon as it has read more than its turn, and goes on when
//! that turn has come. So it reads in pulses, and obeys a rate that changes, which QEMU's own limit does not.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::failure::Call;
use crate::model::error::Result;
use crate::sys::process::{Capture, ChildSpec, Group, Output, Watch};

/// How often a child is looked at: rarely enough to cost nothing, often enough for short limits.
const TICK: Duration = Duration::from_millis(250);

/// How often it is looked at how much a child has read that keeps to a rate, and one for which there is none.
const PULSE: Duration = Duration::from_millis(5);
const NO_PULSE: Duration = Duration::from_millis(100);

/// Runs a call that prints its progress (`-p`); `on_progress` hears it as 0 to 1.
pub(crate) fn run(
    engine: &Engine,
    spec: &ChildSpec,
    call: &Call<'_>,
    control: &Control,
    on_progress: &mut dyn FnMut(f64),
) -> Result<Output> {
    run_lines(engine, spec, call, control, &mut |line| {
        if let Some(part) = progress_in(line) {
            on_progress(part);
        }
    })
}

/// The same for one that reads a source with so many bytes, at the rate that is in force.
pub(crate) fn run_at_rate(
    engine: &Engine,
    spec: &ChildSpec,
    call: &Call<'_>,
    control: &Control,
    (bytes, on_progress): (u64, &mut dyn FnMut(f64)),
) -> Result<Output> {
    let told = AtomicU64::new(0);
    let mut on_line = |line: &str| {
        if let Some(part) = progress_in(line) {
            told.store((bytes as f64 * part) as u64, Ordering::Relaxed);
            on_progress(part);
        }
    };
    supervise(engine, spec, call, control, &mut on_line, Some(&told))
}

/// Runs a call and hands over what it prints, line by line.
pub(crate) fn run_lines(
    engine: &Engine,
    spec: &ChildSpec,
    call: &Call<'_>,
    control: &Control,
    on_line: &mut dyn FnMut(&str),
) -> Result<Output> {
    supervise(engine, spec, call, control, on_line, None)
}

/// With `told`, what it says to have read, it keeps to the rate.
fn supervise(
    engine: &Engine,
    spec: &ChildSpec,
    call: &Call<'_>,
    control: &Control,
    on_line: &mut dyn FnMut(&str),
    told: Option<&AtomicU64>,
) -> Result<Output> {
    control.checkpoint()?;
    let mut child = engine.launcher.start(spec).map_err(|error| call.lost(&error))?;
    let group = child.group();
    let attached = control.attach(&group);
    let mut stall = Stall::new(engine.stall_timeout_s);
    let lines = Cell::new(0);
    let mut heard = |line: &str| {
        lines.set(lines.get() + 1);
        on_line(line);
    };
    let mut watch = || stall.look(&group, lines.get());
    let result = thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        if let Some(told) = told {
            let group = &group;
            scope.spawn(move || keep_to_rate(group, control, told, &end));
        }
        let result = child.supervise(Capture::Lines(&mut heard), TICK, &mut watch);
        drop(ended);
        result
    });
    drop(attached);
    control.ended()?;
    result.map_err(|error| call.lost(&error))
}

/// Lets a child stand still whenever it has read ahead of its turn, until it has ended.
fn keep_to_rate(group: &Group, control: &Control, told: &AtomicU64, end: &mpsc::Receiver<()>) {
    let mut seen = 0;
    loop {
        let pause = if control.reading_limit().is_some() { PULSE } else { NO_PULSE };
        if end.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        // Where the kernel does not count, what it tells has to do.
        let read = group.pid().map_or(0, bytes_read).max(told.load(Ordering::Relaxed));
        if let Some(place) = control.has_read_ahead(read.saturating_sub(seen)) {
            group.hold();
            // An end reaches the child by itself.
            let _ = control.await_reached(place, &|| end.try_recv() != Err(TryRecvError::Empty));
            group.let_go();
        }
        seen = read.max(seen);
    }
}

/// What changes while a child works.
#[derive(PartialEq)]
struct Signs {
    lines: u64,
    bytes_moved: u64,
    processor_ticks: u64,
}

/// Notices when a child does nothing.
pub(crate) struct Stall {
    limit: Duration,
    seen: Option<Signs>,
    since: Instant,
}

impl Stall {
    pub(crate) fn new(limit_s: f64) -> Stall {
        let limit = Duration::try_from_secs_f64(limit_s).unwrap_or(Duration::MAX);
        Stall { limit, seen: None, since: Instant::now() }
    }

    /// Looks once; `lines` is how many it has printed so far.
    pub(crate) fn look(&mut self, group: &Group, lines: u64) -> Watch {
        let now = group.pid().map(|pid| Signs {
            lines,
            bytes_moved: bytes_moved(pid),
            processor_ticks: processor_ticks(pid),
        });
        if now != self.seen || group.stands_still() {
            self.seen = now;
            self.since = Instant::now();
        }
        if self.since.elapsed() > self.limit {
            return Watch::End(format!("no progress for {:.0} s", self.limit.as_secs_f64()));
        }
        Watch::GoOn
    }
}

/// What it has read and written, caches included; 0 where the kernel does not count it.
fn bytes_moved(pid: u32) -> u64 {
    counted(pid, &["rchar", "wchar"])
}

fn bytes_read(pid: u32) -> u64 {
    counted(pid, &["rchar"])
}

fn counted(pid: u32, names: &[&str]) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let of = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        names.contains(&name).then(|| value.trim().parse::<u64>().ok())?
    };
    text.lines().filter_map(of).sum()
}

/// Processor time of all its threads; QEMU's workers count here even where their bytes do not.
fn processor_ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in parentheses and may hold anything; utime and stime are the 12th and 13th after it.
    let Some((_, rest)) = text.rsplit_once(") ") else { return 0 };
    rest.split(' ').skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// `    (12.34/100%)` → 0.1234
fn progress_in(line: &str) -> Option<f64> {
    let percent: f64 = line.trim().strip_prefix('(')?.split_once('/')?.0.parse().ok()?;
    percent.is_finite().then(|| (percent / 100.0).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_what_the_tool_prints() {
        assert_eq!(progress_in("    (12.50/100%)"), Some(0.125));
        assert_eq!(progress_in("    (100.00/100%)"), Some(1.0));
        for other in ["Images are identical.", "(nan/100%)", "", "(x/100%)"] {
            assert_eq!(progress_in(other), None, "{other}");
        }
    }

    #[test]
    fn a_working_process_is_seen_to_work() {
        let pid = std::process::id();
        let before = bytes_moved(pid);
        std::fs::read("/proc/self/maps").unwrap();
        assert!(bytes_moved(pid) > before);
        let started = Instant::now();
        let before = processor_ticks(pid);
        while processor_ticks(pid) == before {
            assert!(started.elapsed() < Duration::from_secs(60));
        }
    }
}
