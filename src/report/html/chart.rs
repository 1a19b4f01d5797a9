//! Two charts: where the time went, over all VMs; and how much was copied of the largest ones, how fast.

use std::collections::BTreeMap;

use super::markup::Markup;
use super::timeline::{kind, spans, title};
use crate::model::job::{JobState, Stage};
use crate::model::report::{BatchReport, Report, VmResult};
use crate::model::units::{human_duration, human_size};
use crate::report::report_of;
use crate::report::vm::disks_of;

/// So many VMs are in the second chart.
const MOST: usize = 20;
/// A row of a chart, and how much of it is its bar.
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
/// Where bars begin, and how long the longest is; behind it there is room for words.
const LEFT: f64 = 190.0;
const LONGEST: f64 = 400.0;

/// A bar with its words.
struct Row {
    class: &'static str,
    name: String,
    value: f64,
    words: String,
}

/// The section; nothing where nothing ran.
pub(super) fn charts(out: &mut Markup, report: &BatchReport) {
    let (time, size) = (by_stage(report), by_size(report));
    if time.is_empty() && size.is_empty() {
        return;
    }
    out.lit("<section>\n<h2>Where the time went, and how much was copied</h2>\n");
    let what = "Time of all VMs by stage";
    draw(
        out,
        what,
        "A bar for each stage and each reason to wait, as long as all VMs together were in it.",
        &time,
    );
    let what = "Bytes copied, and how fast";
    draw(out, what, "A bar for each of the VMs of which most was copied, as long as that is.", &size);
    out.lit("</section>\n");
}

fn by_stage(report: &BatchReport) -> Vec<Row> {
    let mut sums: BTreeMap<(usize, String), (&'static str, f64)> = BTreeMap::new();
    for span in report.vm_results.iter().flat_map(spans).filter(|span| span.state != JobState::Queued) {
        let order =
            span.stage.filter(|_| span.state == JobState::Running).map_or(Stage::ALL.len(), |s| s as usize);
        let sum = sums.entry((order, title(&span))).or_insert((kind(&span), 0.0));
        sum.1 += (span.ended_at - span.started_at).max(0.0);
    }
    let row = |((_, name), (class, value)): ((usize, String), (&'static str, f64))| Row {
        class,
        name,
        value,
        words: human_duration(value),
    };
    sums.into_iter().map(row).collect()
}

fn by_size(report: &BatchReport) -> Vec<Row> {
    let row = |vm: &VmResult| {
        let (bytes, seconds) = copied(&report_of(vm)?);
        let rate = if seconds > 0.0 {
            format!(", {}/s", human_size((bytes as f64 / seconds) as u64))
        } else {
            String::new()
        };
        let words = human_size(bytes) + &rate;
        (bytes > 0).then(|| Row { class: "extraction", name: vm.vm_id.clone(), value: bytes as f64, words })
    };
    let mut rows: Vec<Row> = report.vm_results.iter().filter_map(row).collect();
    rows.sort_by(|a, b| b.value.total_cmp(&a.value));
    rows.truncate(MOST);
    rows
}

/// Bytes that a VM's copies read, and in how many seconds.
pub(super) fn copied(report: &Report) -> (u64, f64) {
    let disks = [Stage::Extraction, Stage::Convert].map(|stage| disks_of(report, stage)).concat();
    let bytes = disks.iter().filter_map(|disk| disk["bytes"].as_u64()).fold(0, u64::saturating_add);
    (bytes, disks.iter().filter_map(|disk| disk["seconds"].as_f64()).sum())
}

fn draw(out: &mut Markup, what: &'static str, how: &'static str, rows: &[Row]) {
    let longest = rows.iter().map(|row| row.value).fold(0.0, f64::max);
    if longest <= 0.0 {
        return;
    }
    out.lit("<p class=\"dim\">").lit(what).lit("</p>\n<svg class=\"chart\" role=\"img\" viewBox=\"0 0 800 ");
    out.number(ROW * rows.len() as f64).lit("\"><title>").lit(what).lit("</title><desc>").lit(how);
    for row in rows {
        out.lit(" ").say(&row.name).lit(": ").say(&row.words).lit(".");
    }
    out.lit("</desc>\n");
    for (number, row) in rows.iter().enumerate() {
        let top = ROW * number as f64;
        out.lit("<text x=\"")
            .number(LEFT - 8.0)
            .lit("\" y=\"")
            .number(top + BAR)
            .lit("\" text-anchor=\"end\">");
        out.say(&short(&row.name)).lit("</text><rect class=\"").lit(row.class).lit("\" x=\"").number(LEFT);
        let width = (row.value / longest * LONGEST).max(1.0);
        out.lit("\" y=\"").number(top + 2.0).lit("\" width=\"").number(width).lit("\" height=\"").number(BAR);
        out.lit("\"/><text x=\"").number(LEFT + width + 8.0).lit("\" y=\"").number(top + BAR).lit("\">");
        out.say(&row.words).lit("</text>\n");
    }
    out.lit("</svg>\n");
}

/// As much of a name as there is room for.
fn short(name: &str) -> String {
    const MOST: usize = 26;
    if name.chars().count() <= MOST {
        name.to_owned()
    } else {
        name.chars().take(MOST - 1).chain(['…']).collect()
    }
}
