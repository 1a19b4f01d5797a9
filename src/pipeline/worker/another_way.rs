//! A way that turns out, in the middle of the work, not to bring a VM's disks: the work begins anew by the next one.
//!
//! That is written down first, so that no later attempt tries it again. Whatever has come by it is not gone on with: a disk's identity is another one by
//! another way, so each disk that is not finished by the new one starts over. What is not here: which failures count, and which way is next
//! (the model's `transports`).

use super::Job;
use crate::model::error::Error;
use crate::model::job::Stage;
use crate::sys::failpoint;

/// Whether the work goes on by another way after this failure.
pub(super) fn is_taken(job: &mut Job<'_>, error: &Error) -> bool {
    let is_over = job.control.interruption().is_some() || job.checkpoint.intent.is_some();
    let Some(left) = job.ways.as_ref().filter(|_| !is_over).and_then(|ways| ways.after(error)) else {
        return false;
    };
    let words = left.transport.words();
    let why = left.left.clone().unwrap_or_default();
    job.checkpoint.ways_left.push(left);
    // Whoever goes on after a death here says it, too.
    job.warn(Stage::Load, format!("the disks do not come over {words} ({why}): they are read another way"));
    if let Err(error) = job.save() {
        tracing::warn!(%error, "which way was left cannot be written down");
        return false;
    }
    failpoint::hit("ways.left");
    job.guest = None;
    job.engine = None;
    job.sources.clear();
    job.copied.clear();
    true
}
