//! Checksums of a source that are made while it is copied, so that it comes from its medium once.
//!
//! A thread reads the source's files in sequence, as they are stored, near to where the copy is: what one of the two has read the other finds
//! in the page cache. Where the copy is in the files is not known exactly, only how much of it is done; so the thread goes no further than
//! that part of them, and a little. Its reading is not counted against a limit: the copy waits for its turn, and the thread for the copy. A
//! thread that hangs on storage is left behind. What is not here: what a wrong checksum means.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::disk::control::Control;
use crate::disk::native::Stall;
use crate::disk::verify;
use crate::disk::window::Place;
use crate::model::checksum::Algorithm;
use crate::model::error::{Error, Kind, Result};

/// The thread is ahead of the copy by no more.
const AHEAD_BYTES: u64 = 32 << 20;
/// How often is looked whether it ended, and by the thread whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Checksums that are being made.
#[derive(Debug)]
pub struct Beside {
    bytes: u64,
    shared: Arc<Shared>,
    found: Receiver<Result<Vec<String>>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How far the thread may read, all in all.
    until: Mutex<u64>,
    moved: Condvar,
    done: AtomicU64,
    is_over: AtomicBool,
}

impl Beside {
    /// Begins with the checksums of these places, `bytes` in all.
    #[must_use]
    pub fn begin(places: Vec<(Place, Algorithm)>, bytes: u64, control: &Control) -> Beside {
        let shared = Arc::new(Shared { until: Mutex::new(AHEAD_BYTES), ..Shared::default() });
        let (tell, found) = mpsc::channel();
        thread::spawn({
            let (shared, control) = (Arc::clone(&shared), control.clone());
            move || {
                // Nobody listens to a copy that failed.
                let _ = tell.send(shared.read(&places, &control));
            }
        });
        Beside { bytes, shared, found }
    }

    /// So much of the copy is done, from 0 to 1.
    pub fn follow(&self, copied: f64) {
        let until = (self.bytes as f64 * copied.clamp(0.0, 1.0)) as u64;
        self.shared.let_until(until.saturating_add(AHEAD_BYTES));
    }

    /// How much of the reading is done, from 0 to 1.
    #[must_use]
    pub fn done(&self) -> f64 {
        self.shared.done.load(Ordering::Relaxed) as f64 / self.bytes.max(1) as f64
    }

    /// Reads what is left, and gives the checksums in the order of their places. `on_progress` hears how much is done.
    pub fn finish(
        self,
        stall_timeout_s: f64,
        control: &Control,
        on_progress: &mut dyn FnMut(f64),
    ) -> Result<Vec<String>> {
        self.shared.let_until(u64::MAX);
        let mut stall = Stall::new(stall_timeout_s);
        loop {
            match self.found.recv_timeout(LOOK_EVERY) {
                Ok(found) => return found,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("a thread that made checksums ended badly"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            on_progress(self.done());
            if stall.is_over(self.shared.done.load(Ordering::Relaxed), control) {
                let why = format!("no progress with its checksum for {stall_timeout_s:.0} s");
                return Err(Error::new(Kind::Source, why)
                    .advice("check the storage that the source lies on; it is not answering")
                    .transient());
            }
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.moved.notify_all();
    }
}

impl Shared {
    fn let_until(&self, until: u64) {
        let mut allowed = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *allowed = until.max(*allowed);
        self.moved.notify_all();
    }

    fn read(&self, places: &[(Place, Algorithm)], control: &Control) -> Result<Vec<String>> {
        let mut before = 0;
        let mut sums = Vec::with_capacity(places.len());
        for (place, algorithm) in places {
            let mut last = 0;
            sums.push(verify::digest_paced(place, *algorithm, control, &mut |done| {
                last = done;
                self.done.store(before + done, Ordering::Relaxed);
                self.wait_for_turn(before + done, control)
            })?);
            before += last;
        }
        Ok(sums)
    }

    /// Waits until what lies at an offset may be read.
    fn wait_for_turn(&self, at: u64, control: &Control) -> Result<()> {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        while *until < at {
            if self.is_over.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Cancelled, "nobody waits for the checksum any more"));
            }
            control.ended()?;
            (until, _) = self.moved.wait_timeout(until, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner);
        }
        match self.is_over.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Cancelled, "nobody waits for the checksum any more")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::{Path, PathBuf};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn site(mib: u64) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(mib * MIB).unwrap();
        (dir, path)
    }

    fn sum(path: &Path) -> String {
        verify::sha256_file(path, &Control::new(), &mut |_| ()).unwrap()
    }

    #[test]
    fn it_stays_near_the_copy_and_ends_with_the_checksums_in_order() {
        let ((_dir, path), (_other_dir, other)) = (site(100), site(3));
        let control = Control::new();
        let places = vec![(Place::from(&path), Algorithm::Sha256), (Place::from(&other), Algorithm::Sha256)];
        let beside = Beside::begin(places, 103 * MIB, &control);
        let read = || beside.shared.done.load(Ordering::Relaxed);
        for part in [0.0, 0.25, 0.5] {
            beside.follow(part);
            let allowed = (103.0 * MIB as f64 * part) as u64 + AHEAD_BYTES;
            while read() < allowed {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(50));
            assert!(read() <= allowed + MIB, "{} of {allowed}", read());
        }
        let found = beside.finish(60.0, &control, &mut |_| ()).unwrap();
        assert_eq!(found, [sum(&path), sum(&other)]);
    }

    #[test]
    fn a_stop_ends_it_and_so_does_the_end_of_the_copy() {
        let (_dir, path) = site(100);
        let control = Control::new();
        let places = || vec![(Place::from(&path), Algorithm::Sha256)];
        let stopped = Beside::begin(places(), 100 * MIB, &control);
        control.stop();
        assert_eq!(stopped.finish(60.0, &control, &mut |_| ()).unwrap_err().kind(), Kind::Cancelled);

        let left = Beside::begin(places(), 100 * MIB, &Control::new());
        let shared = Arc::downgrade(&left.shared);
        drop(left);
        while shared.strong_count() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_source_that_does_not_answer_is_given_up() {
        let (_dir, path) = site(1);
        // A thread that gets nothing is made by pausing it alone.
        let waiting = Control::new();
        waiting.pause();
        let beside = Beside::begin(vec![(Place::from(&path), Algorithm::Sha256)], MIB, &waiting);
        let error = beside.finish(0.3, &Control::new(), &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.to_string().contains("no progress"), "{error}");
        waiting.stop();
    }
}
