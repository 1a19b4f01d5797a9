//! The timeline: each VM a row, each stage and each wait a bar over the time on the wall.
//!
//! Rows are rows of a table, so that they wrap and print as such and are read out one by one; the bars of a row are a picture.

use super::MOST_ROWS;
use super::markup::Markup;
use crate::model::job::{JobState, Stage};
use crate::model::report::{BatchReport, Span, VmResult};
use crate::model::units::human_duration;
use crate::report::moment;

/// The width of all pictures.
const WIDTH: f64 = 1000.0;
/// What is narrower than that is part of the bar before it, or is drawn as wide.
const NARROWEST: f64 = 1.0;
/// So many bars are drawn of all VMs together, about.
const MOST_BARS: usize = 60_000;
/// From so many VMs on rows are lower.
const MANY: usize = 40;

/// The class of a bar, which is its colour, and what it is called.
pub(super) fn kind(span: &Span) -> &'static str {
    match (span.state, span.stage) {
        (JobState::Waiting, _) => "waiting",
        (JobState::Queued, _) => "queued",
        (_, Some(stage)) => stage.name(),
        (_, None) => "running",
    }
}

/// `extraction`, `waiting (disk_space)`, `starting`
pub(super) fn title(span: &Span) -> String {
    match (kind(span), span.waiting_reason) {
        ("waiting", Some(reason)) => format!("waiting ({reason})"),
        ("running", _) => "starting".to_owned(),
        (kind, _) => kind.to_owned(),
    }
}

/// What a VM was in; of one of which only the ends are known, just that.
pub(super) fn spans(vm: &VmResult) -> Vec<Span> {
    if !vm.timeline.is_empty() {
        return vm.timeline.clone();
    }
    let whole = |(started_at, ended_at)| Span {
        state: JobState::Running,
        waiting_reason: None,
        stage: None,
        attempt: vm.attempts,
        started_at,
        ended_at,
    };
    vm.started_at.zip(vm.completed_at).map(whole).into_iter().collect()
}

/// From when until when anything is drawn.
fn bounds(vms: &[VmResult]) -> Option<(f64, f64)> {
    let spans = || vms.iter().flat_map(spans);
    let from = spans().map(|span| span.started_at).reduce(f64::min)?;
    let to = spans().map(|span| span.ended_at).reduce(f64::max)?;
    (from.is_finite() && to.is_finite()).then_some((from, to.max(from + 0.001)))
}

/// The section.
pub(super) fn timeline(out: &mut Markup, report: &BatchReport) {
    let vms = report.vm_results.get(..MOST_ROWS).unwrap_or(&report.vm_results);
    let Some((from, to)) = bounds(vms) else { return };
    out.lit("<section>\n<h2>Timeline</h2>\n").tagged("<p class=\"dim\">From ", &moment(from), "");
    out.tagged(" to ", &moment(to), ". Times below count from the first of these.</p>\n");
    legend(out);
    out.lit(if vms.len() > MANY { "<table class=\"time many\">\n" } else { "<table class=\"time\">\n" });
    out.lit("<thead><tr><th scope=\"col\">VM</th><th scope=\"col\"><span class=\"axis\">");
    for quarter in 0..=4 {
        let label = human_duration((to - from) * f64::from(quarter) / 4.0);
        out.tagged("<span>", &label, "</span>");
    }
    out.lit("</span></th></tr></thead>\n<tbody>\n");
    let most = (MOST_BARS / vms.len().max(1)).clamp(12, 400);
    for vm in vms {
        out.tagged("<tr><th scope=\"row\">", &vm.vm_id, "</th><td>");
        row(out, vm, (from, to), most);
        out.lit("</td></tr>\n");
    }
    out.lit("</tbody></table>\n");
    super::left_out(out, report.vm_results.len());
    out.lit("</section>\n");
}

fn legend(out: &mut Markup) {
    out.lit("<ul class=\"legend\" aria-label=\"Colours\">");
    let stages = Stage::ALL.map(Stage::name).into_iter();
    for (class, name) in stages.map(|name| (name, name)).chain([
        ("queued", "queued"),
        ("waiting", "waiting"),
        ("running", "starting, or not told"),
        ("end", "failed"),
    ]) {
        out.lit("<li><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"").lit(class);
        out.lit("\" width=\"10\" height=\"10\"/></svg>").lit(name).lit("</li>");
    }
    out.lit("</ul>\n");
}

/// A bar: what, from where, how wide.
struct Bar {
    span: Span,
    x: f64,
    width: f64,
}

fn bars(vm: &VmResult, (from, to): (f64, f64), most: usize) -> Vec<Bar> {
    let scale = WIDTH / (to - from);
    let mut bars: Vec<Bar> = Vec::new();
    for span in spans(vm) {
        let x = ((span.started_at - from) * scale).clamp(0.0, WIDTH);
        let end = ((span.ended_at - from) * scale).clamp(x, WIDTH);
        match bars.last_mut() {
            Some(last) if end - x < NARROWEST && (x + NARROWEST > WIDTH || last.x + last.width > x) => {
                last.width = last.width.max(end - last.x);
            }
            _ => {
                let x = x.min(WIDTH - NARROWEST);
                bars.push(Bar { span, x, width: (end - x).max(NARROWEST) });
            }
        }
    }
    bars.truncate(most);
    bars
}

/// The picture of one VM.
fn row(out: &mut Markup, vm: &VmResult, bounds: (f64, f64), most: usize) {
    out.lit("<svg viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" role=\"img\"><title>").say(&vm.vm_id);
    out.lit(", ").say(crate::report::verdict(vm.state)).lit(" in ").say(&human_duration(vm.duration_seconds));
    out.lit("</title><desc>").say(&in_words(vm, most)).lit("</desc>");
    for bar in bars(vm, bounds, most) {
        out.lit("<rect class=\"")
            .lit(kind(&bar.span))
            .lit("\" x=\"")
            .number(bar.x)
            .lit("\" width=\"")
            .number(bar.width);
        out.lit("\" height=\"10\"><title>").say(&told(&bar.span)).lit("</title></rect>");
    }
    if let (JobState::Failed, Some(at)) = (vm.state, vm.completed_at) {
        let x = ((at - bounds.0) * WIDTH / (bounds.1 - bounds.0)).clamp(0.0, WIDTH - 4.0);
        out.lit("<rect class=\"end\" x=\"")
            .number(x)
            .lit("\" width=\"4\" height=\"10\"><title>failed</title></rect>");
    }
    out.lit("</svg>");
}

fn told(span: &Span) -> String {
    format!("{} {}", title(span), human_duration(span.ended_at - span.started_at))
}

fn in_words(vm: &VmResult, most: usize) -> String {
    spans(vm).iter().take(most).map(told).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::WaitReason;

    fn span(state: JobState, stage: Option<Stage>, started_at: f64, ended_at: f64) -> Span {
        Span { state, waiting_reason: None, stage, attempt: 1, started_at, ended_at }
    }

    fn vm(timeline: &[Span]) -> VmResult {
        serde_json::from_value::<VmResult>(serde_json::json!({
            "vm_id": "web", "manifest": null, "success": true, "state": "succeeded", "duration_seconds": 100.0,
            "timestamp": null, "timeline": timeline,
        }))
        .unwrap()
    }

    #[test]
    fn bars_follow_each_other_and_none_leaves_the_picture() {
        let vm = vm(&[
            span(JobState::Queued, None, 0.0, 25.0),
            span(JobState::Running, None, 25.0, 25.001),
            span(JobState::Running, Some(Stage::Load), 25.001, 25.002),
            span(JobState::Running, Some(Stage::Extraction), 25.002, 100.0),
        ]);
        let bars = bars(&vm, (0.0, 100.0), 400);
        let seen: Vec<_> =
            bars.iter().map(|bar| (kind(&bar.span), bar.x.round(), bar.width.round())).collect();
        assert_eq!(seen, [("queued", 0.0, 250.0), ("running", 250.0, 1.0), ("extraction", 250.0, 750.0)]);
    }

    #[test]
    fn strange_times_stay_in_the_picture_and_many_bars_are_bounded() {
        let mut spans =
            vec![span(JobState::Running, None, 500.0, -500.0), span(JobState::Running, None, -1e300, 1e300)];
        spans
            .extend((0..100_000).map(|at| span(JobState::Waiting, None, f64::from(at), f64::from(at) + 1.0)));
        let bars = bars(&vm(&spans), (0.0, 100_000.0), 400);
        assert!(bars.len() <= 400, "{}", bars.len());
        assert!(bars.iter().all(|bar| bar.x >= 0.0 && bar.width > 0.0 && bar.x + bar.width <= WIDTH + 0.1));
    }

    #[test]
    fn a_wait_says_what_for() {
        let mut wait = span(JobState::Waiting, Some(Stage::Extraction), 0.0, 61.0);
        wait.waiting_reason = Some(WaitReason::DiskSpace);
        assert_eq!(told(&wait), "waiting (disk_space) 01:01");
    }
}
