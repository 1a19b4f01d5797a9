//! Named points at which a test may kill the process, compiled to nothing without the feature `failpoints`.
//!
//! `HYPER2KVM_FAILPOINT=name` makes the process SIGKILL itself when it gets there, `name:3` when it
//! gets there the third time. With `HYPER2KVM_FAILPOINT_ONCE=<file>` only the first process to get
//! there dies: it writes a byte into that file first, and where there is one the point is passed. The
//! file is opened by [`arm`], at the start of the process: later its sandbox would forbid it. A kill,
//! not a panic: nothing may clean up, just as in a power cut. With `HYPER2KVM_FAILPOINT_HOLD=<file>` it does not die, but stands still
//! there for as long as that file exists.

/// Every name that a job meets, in their order. A name that is hit but not listed is a defect
/// and panics in builds with the feature.
pub const ALL: &[&str] = &[
    "intake.before-accept",
    "intake.after-accept",
    "intake.after-move",
    "queue.before-commit",
    "queue.after-commit",
    "scheduler.before-spawn",
    "scheduler.after-spawn",
    "worker.started",
    "copy.target-made",
    "copy.before-journal",
    "copy.after-journal",
    "copy.before-sync",
    "copy.after-sync",
    "checkpoint.before-write",
    "checkpoint.after-write",
    "partial.done",
    "guest.started",
    "fix.before-mark",
    "fix.after-mark",
    "commit.before",
    "commit.after",
    "validate.done",
    "publish.before-intent",
    "publish.after-intent",
    "publish.between-renames",
    "publish.after-renames",
    "publish.after-text",
    "publish.before-report",
    "publish.after-report",
    "publish.before-digests",
    "publish.after-digests",
    "publish.between-reports",
    "worker.before-finished",
    "outcome.before-record",
    "outcome.after-record",
    "settle.before-move",
    "settle.after-move",
];

/// Those that no job meets, but a repair of disks in place.
pub const IN_PLACE: &[&str] =
    &["in-place.repaired", "in-place.recorded", "in-place.begun", "in-place.committed", "in-place.cleared"];

/// Those that only a job with hooks meets.
pub const HOOKS: &[&str] =
    &["hooks.before-start", "hooks.after-start", "hooks.before-end", "hooks.after-end"];

/// Those that only a job meets that tells libvirt of its result.
pub const HANDOVER: &[&str] = &[
    "handover.begun",
    "handover.settled",
    "handover.gave-way",
    "handover.answered",
    "handover.done",
    "handover.undoing",
    "handover.undone",
];

/// Those that only a file meets that becomes a volume.
pub const IMPORT: &[&str] =
    &["import.placing", "import.placed", "import.marked", "import.sending", "import.sent"];

/// Those that only a job meets that does something at its source, or undoes it.
pub const ACTS: &[&str] =
    &["acts.intended", "acts.did", "acts.done", "acts.undoing", "acts.undid", "acts.undone"];

/// Those that only a warm migration meets.
pub const WARM: &[&str] = &["warm.patched", "warm.passed", "warm.over"];

/// Those that only a job meets that leaves one way to its source for another.
pub const WAYS: &[&str] = &["ways.left"];

/// Those that only notifications meet.
pub const NOTICES: &[&str] = &["notice.before-send", "notice.after-send"];

/// Reads what a test asks for; to be called before anything else.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn arm() {}

/// Reads what a test asks for; to be called before anything else.
#[cfg(feature = "failpoints")]
pub fn arm() {
    armed::arm();
}

/// Dies here if a test asked for it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &'static str) {}

/// Dies here if a test asked for it.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) {
    armed::hit(name);
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::fs::FlockOperation;

    struct Armed {
        name: String,
        nth: u64,
        hits: AtomicU64,
        once: Option<File>,
        hold: Option<PathBuf>,
    }

    /// How often it is looked whether it may go on.
    const LOOK_EVERY: Duration = Duration::from_millis(20);

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    pub(super) fn arm() {
        ARMED.get_or_init(from_environment);
    }

    pub(super) fn hit(name: &'static str) {
        let further = [
            super::IN_PLACE,
            super::HOOKS,
            super::HANDOVER,
            super::IMPORT,
            super::ACTS,
            super::WARM,
            super::WAYS,
            super::NOTICES,
        ];
        let mut listed = super::ALL.iter().chain(further.into_iter().flatten());
        assert!(listed.any(|listed| *listed == name), "failpoint `{name}` is not listed in sys::failpoint");
        let Some(armed) = ARMED.get_or_init(from_environment) else { return };
        if armed.name != name || armed.hits.fetch_add(1, Ordering::SeqCst) + 1 != armed.nth {
            return;
        }
        if let Some(hold) = &armed.hold {
            while hold.exists() {
                std::thread::sleep(LOOK_EVERY);
            }
            return;
        }
        if armed.once.as_ref().is_none_or(is_first) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }

    /// Whether no process died here yet; if so, this one is about to.
    fn is_first(mut once: &File) -> bool {
        let locked = rustix::fs::flock(once, FlockOperation::LockExclusive).is_ok();
        locked && once.metadata().is_ok_and(|found| found.len() == 0) && once.write_all(b"x").is_ok()
    }

    fn from_environment() -> Option<Armed> {
        let asked = std::env::var("HYPER2KVM_FAILPOINT").ok()?;
        let (name, nth) = match asked.split_once(':') {
            Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
            None => (asked, 1),
        };
        let once = std::env::var_os("HYPER2KVM_FAILPOINT_ONCE")
            .and_then(|path| File::options().read(true).append(true).create(true).open(path).ok());
        let hold = std::env::var_os("HYPER2KVM_FAILPOINT_HOLD").map(PathBuf::from);
        Some(Armed { name, nth, hits: AtomicU64::new(0), once, hold })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_listed_once() {
        let mut names = [
            super::ALL,
            super::IN_PLACE,
            super::HOOKS,
            super::HANDOVER,
            super::IMPORT,
            super::ACTS,
            super::WARM,
            super::WAYS,
            super::NOTICES,
        ]
        .concat();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_point_nobody_asked_for_does_nothing() {
        super::hit("worker.started");
    }
}
