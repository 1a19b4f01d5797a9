//! What a child's failure means: the words of QEMU's tools, or the signal that ended it, made into an error.
//!
//! They have one exit code for everything, so their words decide. They are stable (scripts of many
//! projects rely on them) and in English, because children run with `LC_ALL=C`. What is not recognised
//! keeps the kind that the caller expects.

use std::path::Path;

use crate::model::error::{Error, Kind};
use crate::sys::process::{Output, ProcessError};

const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// With less room than this left, a write that failed failed for lack of it.
const FULL_BELOW_BYTES: u64 = 4 << 20;

/// What a call was about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// `qemu-img convert`, `qemu-storage-daemon`, …
    pub(crate) tool: &'a str,
    /// What a failure is that says nothing else.
    pub(crate) kind: Kind,
    /// What is read.
    pub(crate) source: Option<&'a Path>,
    /// What is written, and how much of it there may be.
    pub(crate) target: Option<(&'a Path, u64)>,
}

impl Call<'_> {
    /// The error of a child that ended with a failure.
    pub(crate) fn failed(&self, output: &Output) -> Error {
        let complaint = output.complaint();
        let error = self.told(output, &complaint).console_tail(complaint.as_str());
        self.placed(error)
    }

    /// The error of a child that gave no result of its own.
    pub(crate) fn lost(&self, error: &ProcessError) -> Error {
        let cause = error.to_string();
        self.placed(match error {
            ProcessError::TimedOut { .. } => Error::new(self.kind, cause)
                .advice("the image asks for more work than any sound image does: check where it comes from"),
            ProcessError::Ended { .. } => Error::new(self.kind, cause)
                .advice("check the storage that is read from and written to; it is not answering")
                .transient(),
            ProcessError::Stub { detail, .. } if detail.contains("landlock") => {
                Error::new(Kind::Unsupported, cause).advice(
                    "enable landlock in the kernel (`lsm=landlock,…`) and allow its system calls in the unit",
                )
            }
            ProcessError::Start { .. } | ProcessError::Stub { .. } | ProcessError::Watch { .. } => {
                Error::new(Kind::Internal, cause)
                    .advice("it is tried again; if it repeats, see `hyper2kvm doctor`")
            }
        })
    }

    fn told(&self, output: &Output, complaint: &str) -> Error {
        use std::os::unix::process::ExitStatusExt;
        let says = |words: &str| complaint.contains(words);
        if says("No space left on device") || says("Disk quota exceeded") {
            return self.no_room();
        }
        if says("Is another process using the image") {
            return crate::disk::lock::open_elsewhere();
        }
        if says("File too large") || output.status.signal() == Some(SIGXFSZ) {
            return Error::new(Kind::Conversion, "the result grew beyond every size that was planned for it")
                .advice("the image is damaged or made to fill disks: check where it comes from");
        }
        match output.status.signal() {
            Some(SIGXCPU) => {
                return Error::new(
                    self.kind,
                    "looking at the image took more processor time than any sound image needs",
                )
                .advice("the image is damaged or made to stop services: check where it comes from");
            }
            Some(SIGKILL) => {
                return Error::new(Kind::Internal, format!("{} was killed", self.tool))
                    .advice("it is tried again; if it repeats, give the machine more memory or run fewer jobs at a time");
            }
            _ => {}
        }
        if says("Cannot allocate memory") || says("failed to allocate") || says("cannot allocate") {
            return Error::new(self.kind, "the image asks for more memory than it may have")
                .advice("the image is damaged or made to stop services: check where it comes from");
        }
        if says("while reading") && says("Input/output error") {
            return Error::new(Kind::Source, format!("the source cannot be read: {}", last_line(complaint)))
                .advice("check the storage that the source lies on");
        }
        if says("while writing") {
            return Error::new(
                Kind::Output,
                format!("the result cannot be written: {}", last_line(complaint)),
            )
            .advice("check the storage that the result lies on");
        }
        // Some of QEMU's writers fail on a full file system without saying so, or with a defect of their own.
        if self.target_is_full() {
            return self.no_room();
        }
        let ending = output.ending();
        Error::new(self.kind, format!("{} failed ({ending}): {}", self.tool, last_line(complaint)))
            .advice("see the job's log; check the image with `qemu-img check` where it comes from")
    }

    fn target_is_full(&self) -> bool {
        let free = |path| crate::sys::fs::free_bytes(path).map(|space| space.free);
        self.target
            .is_some_and(|(path, needed)| needed > 0 && free(path).is_ok_and(|free| free < FULL_BELOW_BYTES))
    }

    fn no_room(&self) -> Error {
        let error = Error::new(Kind::DiskSpace, "there is no room left for the result")
            .advice("free some space there; the work goes on by itself");
        let Some((path, needed)) = self.target else { return error };
        match crate::sys::fs::free_bytes(path) {
            Ok(space) => error.space(needed, space.free),
            Err(_) => error,
        }
    }

    fn placed(&self, mut error: Error) -> Error {
        if let Some(source) = self.source {
            error = error.source(source.display().to_string());
        }
        if let Some((target, _)) = self.target {
            error = error.output(target);
        }
        error
    }
}

fn last_line(complaint: &str) -> String {
    let line = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it gave no reason").trim();
    // Each begins with who says it.
    let said = ["qemu-img: ", "qemu-storage-daemon: "].iter().find_map(|name| line.strip_prefix(name));
    said.unwrap_or(line).to_owned()
}
