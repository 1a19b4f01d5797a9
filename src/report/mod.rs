//! What people read when all is over: the pages of one VM (Markdown, plain text), of a batch (Markdown, HTML, the short summary).
//!
//! ```text
//!   Report (one VM) ──▶ Page ──▶ report.md, report.txt
//!   VmResult… ──▶ BatchReport ──▶ batch_report.json
//!                     ├─▶ Page ──▶ batch_report.md
//!                     ├─▶ batch_summary.txt
//!                     └─▶ batch_report.html
//! ```
//!
//! Pure: reports of the model go in, texts come out, the same for the same. What stands in a report was said by guests, manifests and failed
//! programs, so nothing of it gets into a page but through [`escape`]. What is not here: how a report comes about, when and where its pages
//! are written (the pipeline for a VM, the service and the command line for a batch).

mod batch;
mod batch_page;
mod escape;
mod html;
mod page;
mod summary;
mod vm;

pub use batch::{batch_report, duration};
pub use batch_page::batch_page;
pub use html::batch_html;
pub use page::Page;
pub use summary::batch_summary;
pub use vm::vm_page;

use serde::Deserialize;

use crate::model::job::JobState;
use crate::model::report::{BatchReport, Report, VmResult};
use crate::sys::time::rfc3339_utc;

/// All pages of a batch, by the names that they have in its output directory.
#[must_use]
pub fn batch_pages(report: &BatchReport) -> [(&'static str, String); 3] {
    [
        ("batch_summary.txt", batch_summary(report)),
        ("batch_report.md", batch_page(report).markdown()),
        ("batch_report.html", batch_html(report)),
    ]
}

/// The machine's part of it; written last, so that whoever sees it finds the others.
pub const BATCH_REPORT: &str = "batch_report.json";

/// The report of a VM, if there is one that can be read.
fn report_of(vm: &VmResult) -> Option<Report> {
    Report::deserialize(vm.pipeline_report.as_ref()?).ok()
}

/// A moment for people: to the second, in UTC.
fn moment(epoch: f64) -> String {
    let text = rfc3339_utc(epoch);
    let seconds = text.split('.').next().unwrap_or_default();
    format!("{} UTC", seconds.replace('T', " "))
}

/// A time of an RFC 3339 text for people.
fn moment_of(timestamp: &str) -> String {
    let seconds = timestamp.split(['.', 'Z']).next().unwrap_or_default();
    format!("{} UTC", seconds.replace('T', " "))
}

/// How a VM ended, in a word.
fn verdict(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "succeeded",
        JobState::Skipped => "skipped (done before)",
        JobState::Cancelled => "cancelled",
        JobState::Failed => "failed",
        JobState::Queued | JobState::Running | JobState::Waiting => "not ended",
    }
}
