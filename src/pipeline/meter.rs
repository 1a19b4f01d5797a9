//! How far the work is: from the passes over each disk to events that are few, smooth and never go back.
//!
//! The work of a VM is a list of passes over its disks (copying, comparing, hashing; the guest work and the boot test are counted with the first), each with a
//! weight in bytes. The overall percentage is what is done of the sum; it never falls, even where a
//! pass starts over. What is not here: estimates of the time left, which whoever shows the events makes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::job::Stage;
use crate::model::protocol::{DiskProgress, WorkerEvent};

/// At most four events a second and disk.
const EVENT_INTERVAL: Duration = Duration::from_millis(250);
/// The rate is smoothed over about this long.
const RATE_WINDOW_S: f64 = 3.0;
/// What publishing counts, so that only a published result is at 100.
const PUBLISHING_SHARE: f64 = 0.01;

/// One way over one disk's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pass {
    /// Hashing the source against the manifest's checksum, beside the copy.
    Checksum,
    /// Bringing a disk elsewhere to this machine, before its result is written.
    Fetch,
    /// Looking at the guest and repairing it.
    Guest,
    /// Writing the result.
    Copy,
    /// Comparing the result with the source.
    Compare,
    /// Hashing the result.
    Hash,
    /// Starting the guest.
    Boot,
    /// Putting the result into a pool.
    Import,
}

impl Pass {
    /// What a byte of this pass costs, where copying one costs 1.
    fn weight(self) -> f64 {
        match self {
            Pass::Checksum => 0.4,
            Pass::Fetch | Pass::Guest | Pass::Copy | Pass::Boot | Pass::Import => 1.0,
            Pass::Compare => 0.6,
            Pass::Hash => 0.4,
        }
    }
}

/// Turns what the stages do into events.
pub(super) struct Meter<'a> {
    emit: &'a mut dyn FnMut(WorkerEvent),
    work: BTreeMap<(usize, Pass), Work>,
    disks: BTreeMap<String, DiskMeter>,
    told: f64,
    last_progress: Option<Instant>,
}

struct Work {
    weight: f64,
    fraction: f64,
}

struct DiskMeter {
    progress: DiskProgress,
    rate: f64,
    measured: Option<(Instant, u64)>,
    last_event: Option<Instant>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(emit: &'a mut dyn FnMut(WorkerEvent)) -> Meter<'a> {
        Meter { emit, work: BTreeMap::new(), disks: BTreeMap::new(), told: 0.0, last_progress: None }
    }

    /// Tells something that needs no thought.
    pub(super) fn tell(&mut self, event: WorkerEvent) {
        (self.emit)(event);
    }

    /// Tells a person something.
    pub(super) fn warn(&mut self, stage: Option<Stage>, message: impl Into<String>) {
        self.tell(WorkerEvent::Warning { stage, message: message.into() });
    }

    /// Says what a stage is at.
    pub(super) fn detail(&mut self, stage: Stage, detail: impl Into<String>) {
        self.tell(WorkerEvent::StageDetail { stage, detail: detail.into() });
    }

    /// Announces a pass over so many bytes. All are announced before the first begins.
    pub(super) fn expect(&mut self, disk: usize, pass: Pass, bytes: u64) {
        // An empty disk is work too: the pass counts a little.
        let weight = pass.weight() * bytes.max(1 << 20) as f64;
        self.work.insert((disk, pass), Work { weight, fraction: 0.0 });
    }

    /// Announces a disk's copy.
    pub(super) fn disk(&mut self, id: &str, bytes_total: u64, bytes_done: u64, virtual_size: u64) {
        let progress = DiskProgress { bytes_total, bytes_done, bytes_per_second: 0, virtual_size };
        self.tell(WorkerEvent::Disk { disk: id.to_owned(), progress: progress.clone() });
        let meter = DiskMeter { progress, rate: 0.0, measured: None, last_event: None };
        self.disks.insert(id.to_owned(), meter);
    }

    /// A disk's copy is so far.
    pub(super) fn copied(&mut self, disk: usize, id: &str, fraction: f64) {
        self.moved(disk, id, Pass::Copy, fraction);
    }

    /// The same of another pass that is shown as the disk's progress.
    pub(super) fn moved(&mut self, disk: usize, id: &str, pass: Pass, fraction: f64) {
        let now = Instant::now();
        let fraction = fraction.clamp(0.0, 1.0);
        let mut event = None;
        if let Some(meter) = self.disks.get_mut(id) {
            meter.advance(fraction, now);
            let due = meter.last_event.is_none_or(|last| now - last >= EVENT_INTERVAL);
            if due || fraction >= 1.0 {
                meter.last_event = Some(now);
                event = Some(WorkerEvent::Disk { disk: id.to_owned(), progress: meter.progress.clone() });
            }
        }
        if let Some(event) = event {
            self.tell(event);
        }
        self.passed(disk, pass, fraction);
    }

    /// A pass is so far.
    pub(super) fn passed(&mut self, disk: usize, pass: Pass, fraction: f64) {
        if let Some(work) = self.work.get_mut(&(disk, pass)) {
            work.fraction = fraction.clamp(0.0, 1.0);
        }
        let now = Instant::now();
        let due = self.last_progress.is_none_or(|last| now - last >= EVENT_INTERVAL);
        if due || fraction >= 1.0 {
            self.last_progress = Some(now);
            self.tell_progress(self.percentage());
        }
    }

    /// All is published.
    pub(super) fn complete(&mut self) {
        self.tell_progress(100.0);
    }

    fn tell_progress(&mut self, percentage: f64) {
        let rounded = (percentage * 10.0).floor() / 10.0;
        if rounded > self.told {
            self.told = rounded;
            self.tell(WorkerEvent::Progress { percentage: rounded });
        }
    }

    fn percentage(&self) -> f64 {
        let total: f64 = self.work.values().map(|work| work.weight).sum();
        let done: f64 = self.work.values().map(|work| work.weight * work.fraction).sum();
        if total > 0.0 { 100.0 * (1.0 - PUBLISHING_SHARE) * done / total } else { 0.0 }
    }
}

impl DiskMeter {
    fn advance(&mut self, fraction: f64, now: Instant) {
        let done = (self.progress.bytes_total as f64 * fraction) as u64;
        self.progress.bytes_done = if fraction >= 1.0 { self.progress.bytes_total } else { done };
        match self.measured {
            None => self.measured = Some((now, done)),
            Some((at, before)) => {
                let seconds = (now - at).as_secs_f64();
                if seconds < 0.05 && fraction < 1.0 {
                    return;
                }
                if seconds > 0.0 {
                    let current = done.saturating_sub(before) as f64 / seconds;
                    let share = if self.rate == 0.0 { 1.0 } else { 1.0 - (-seconds / RATE_WINDOW_S).exp() };
                    self.rate += share * (current - self.rate);
                }
                self.measured = Some((now, done));
            }
        }
        self.progress.bytes_per_second = if fraction >= 1.0 { 0 } else { self.rate as u64 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentage_never_falls_and_reaches_100_only_when_published() {
        let mut events = Vec::new();
        let mut emit = |event| events.push(event);
        let mut meter = Meter::new(&mut emit);
        for disk in 0..2 {
            meter.expect(disk, Pass::Copy, 100 << 20);
            meter.expect(disk, Pass::Compare, 100 << 20);
        }
        meter.passed(0, Pass::Copy, 1.0);
        meter.passed(0, Pass::Copy, 0.0);
        meter.passed(1, Pass::Copy, 1.0);
        meter.passed(0, Pass::Compare, 1.0);
        meter.passed(1, Pass::Compare, 1.0);
        meter.complete();
        let told: Vec<f64> = events
            .iter()
            .filter_map(|event| match event {
                WorkerEvent::Progress { percentage } => Some(*percentage),
                _ => None,
            })
            .collect();
        assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "{told:?}");
        assert_eq!(told.last(), Some(&100.0));
        assert!(told[told.len() - 2] <= 99.0, "{told:?}");
    }

    #[test]
    fn a_fast_copy_tells_at_most_a_few_events() {
        let mut disks = 0;
        let mut emit = |event| disks += usize::from(matches!(event, WorkerEvent::Disk { .. }));
        let mut meter = Meter::new(&mut emit);
        meter.expect(0, Pass::Copy, 1 << 30);
        meter.disk("boot", 1 << 30, 0, 1 << 31);
        let start = Instant::now();
        for step in 0..10_000 {
            meter.copied(0, "boot", f64::from(step) / 10_000.0);
        }
        meter.copied(0, "boot", 1.0);
        let allowed = 3 + (start.elapsed().as_secs_f64() * 4.0).ceil() as usize;
        assert!(disks <= allowed, "{disks} events, {allowed} allowed");
    }
}
