//! `batch_report.html`: a batch as one file that opens anywhere, asks no network for anything and runs nothing.
//!
//! Its style and its pictures are in it; there is no script, and its own policy forbids every request. However many VMs there are and
//! whatever they say, its size is bounded: texts, bars and rows beyond a number are left out, and it says so. What is not here: anything
//! that `batch_report.json` does not hold.

mod chart;
mod markup;
mod tables;
mod timeline;

use self::markup::Markup;
use super::moment_of;
use crate::model::job::JobState;
use crate::model::report::BatchReport;
use crate::model::units::{human_duration, human_size};

/// So many VMs have rows; the others are in `batch_report.json`.
const MOST_ROWS: usize = 2_000;
/// So many characters of texts from outside, about, for each column of the tables.
const MOST_CHARACTERS: usize = 600_000;

const HEAD: &str = concat!(
    "<!DOCTYPE html>\n<html lang=\"en\" dir=\"ltr\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; ",
    "base-uri 'none'; form-action 'none'\">\n",
    "<meta name=\"referrer\" content=\"no-referrer\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<style>\n",
    include_str!("style.css"),
    "</style>\n<title>",
);

/// The report of a batch for a browser.
#[must_use]
pub fn batch_html(report: &BatchReport) -> String {
    let most = (MOST_CHARACTERS / report.vm_results.len().max(1)).clamp(200, 2_000);
    let mut out = Markup::new(most);
    out.lit(HEAD).tagged("Batch ", &report.batch.batch_id, "</title>\n</head>\n<body>\n<main>\n");
    head(&mut out, report);
    tables::failures(&mut out, report);
    timeline::timeline(&mut out, report);
    chart::charts(&mut out, report);
    tables::vms(&mut out, report);
    tables::warnings(&mut out, report);
    out.lit("</main>\n</body>\n</html>\n");
    out.finish()
}

fn head(out: &mut Markup, report: &BatchReport) {
    let (head, stats) = (&report.batch, &report.aggregate_stats);
    out.tagged("<header>\n<h1>Batch ", &head.batch_id, "</h1>\n<p class=\"dim\">");
    if let Some(manifest) = &head.manifest_path {
        out.tagged("Manifest <code>", manifest, "</code>. ");
    }
    out.tagged("Report of ", &moment_of(&report.timestamp), ".</p>\n<dl class=\"sum\">\n");
    let with = |state: JobState| report.vm_results.iter().filter(|vm| vm.state == state).count().to_string();
    let bytes: u64 = report.vm_results.iter().map(super::batch_page::size).sum();
    for (what, open, value) in [
        ("VMs", "<dd>", head.total_vms.to_string()),
        ("succeeded", "<dd class=\"good\">", with(JobState::Succeeded)),
        ("skipped", "<dd>", with(JobState::Skipped)),
        ("failed", "<dd class=\"bad\">", with(JobState::Failed)),
        ("cancelled", "<dd class=\"wait\">", with(JobState::Cancelled)),
        ("on the wall", "<dd>", human_duration(head.duration_seconds)),
        ("work of all VMs", "<dd>", human_duration(stats.total_duration)),
        ("results", "<dd>", human_size(bytes)),
        ("warnings", "<dd>", report.warnings.len().to_string()),
    ] {
        out.lit("<div><dt>").lit(what).lit("</dt>").tagged(open, &value, "</dd></div>\n");
    }
    out.lit("</dl>\n</header>\n");
}

/// Says how many rows are not there.
fn left_out(out: &mut Markup, rows: usize) {
    if rows > MOST_ROWS {
        out.lit("<p class=\"dim\">")
            .number((rows - MOST_ROWS) as f64)
            .lit(" more are in batch_report.json.</p>\n");
    }
}

#[cfg(test)]
mod tests;
