//! The tables: what failed and what to do about it, every VM, every warning.

use super::MOST_ROWS;
use super::chart::copied;
use super::markup::Markup;
use crate::model::job::JobState;
use crate::model::report::{BatchReport, Report, VmResult};
use crate::model::units::{human_duration, human_size};
use crate::report::vm::boot;
use crate::report::{report_of, verdict};

/// So many files are listed of all VMs together, about; and so many warnings.
const MOST_FILES: usize = 8_000;
const MOST_WARNINGS: usize = 4_000;

/// The class of a state, which is its colour.
fn class(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "<td class=\"good\">",
        JobState::Failed => "<td class=\"bad\">",
        JobState::Cancelled => "<td class=\"wait\">",
        _ => "<td class=\"dim\">",
    }
}

/// What failed, and what to do about it; nothing where all went well.
pub(super) fn failures(out: &mut Markup, report: &BatchReport) {
    let bad: Vec<&VmResult> = report.vm_results.iter().filter(|vm| vm.error.is_some()).collect();
    if bad.is_empty() {
        return;
    }
    out.lit("<section>\n<h2>What failed</h2>\n<table>\n").head(&[
        "VM",
        "Kind",
        "Stage",
        "Cause",
        "What to do",
    ]);
    out.lit("<tbody>\n");
    for vm in bad.iter().take(MOST_ROWS) {
        out.tagged("<tr><th scope=\"row\">", &vm.vm_id, "</th>");
        match &vm.failure {
            Some(failure) => {
                out.tagged("<td class=\"bad\">", failure.kind.name(), "</td>");
                out.tagged("<td>", failure.stage.map_or("", |stage| stage.name()), "</td>");
                out.tagged("<td class=\"any\">", &failure.cause, "");
                if let Some(tail) = &failure.console_tail {
                    out.lit("<details><summary>Its last lines</summary><pre>");
                    for line in tail.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev() {
                        out.tagged("", line, "\n");
                    }
                    out.lit("</pre></details>");
                }
                out.tagged(
                    "</td><td class=\"any\">",
                    failure.suggestion.as_deref().unwrap_or_default(),
                    "</td></tr>\n",
                );
            }
            None => {
                let error = vm.error.as_deref().unwrap_or_default();
                out.lit("<td></td><td></td>").tagged("<td class=\"any\">", error, "</td><td></td></tr>\n");
            }
        }
    }
    out.lit("</tbody></table>\n");
    super::left_out(out, bad.len());
    out.lit("</section>\n");
}

/// Every VM with its files.
pub(super) fn vms(out: &mut Markup, report: &BatchReport) {
    out.lit("<section>\n<h2>VMs</h2>\n<table>\n");
    out.head(&[
        "VM",
        "State",
        "Took",
        "Attempts",
        "Comes up",
        "Copied",
        "Changes",
        "Warnings",
        "Files and their SHA-256",
    ]);
    out.lit("<tbody>\n");
    let most = (MOST_FILES / report.vm_results.len().max(1)).clamp(2, 100);
    for vm in report.vm_results.iter().take(MOST_ROWS) {
        let told = report_of(vm);
        out.tagged("<tr><th scope=\"row\">", &vm.vm_id, "</th>").lit(class(vm.state)).say(verdict(vm.state));
        out.tagged("</td><td>", &human_duration(vm.duration_seconds), "</td><td>")
            .number(f64::from(vm.attempts));
        out.tagged("</td><td class=\"any\">", &told.as_ref().map(boot).unwrap_or_default(), "</td><td>");
        if let Some(told) = &told {
            out.say(&human_size(copied(told).0)).lit("</td><td>").number(told.fixes.len() as f64);
        } else {
            out.lit("</td><td>");
        }
        out.lit("</td><td>").number(vm.warnings.len() as f64).lit("</td><td>");
        files(out, vm, told.as_ref(), most);
        out.lit("</td></tr>\n");
    }
    out.lit("</tbody></table>\n");
    super::left_out(out, report.vm_results.len());
    out.lit("</section>\n");
}

fn files(out: &mut Markup, vm: &VmResult, told: Option<&Report>, most: usize) {
    if vm.outputs.is_empty() {
        return;
    }
    out.lit("<ul>");
    for (path, sha256) in vm.outputs.iter().take(most) {
        out.tagged("<li><code>", &path.to_string_lossy(), "</code>");
        let artifact = told.and_then(|told| told.artifacts.iter().find(|artifact| artifact.path == *path));
        if let Some(artifact) = artifact {
            let (size, seen) = (human_size(artifact.size_bytes), human_size(artifact.virtual_size_bytes));
            out.lit(" ").say(artifact.format.name()).lit(", ").say(&size).lit(", the guest sees ").say(&seen);
        }
        match sha256 {
            Some(sha256) => out.tagged("<br><code>", sha256, "</code></li>"),
            None => out.lit("<br><span class=\"dim\">no digest was made</span></li>"),
        };
    }
    if vm.outputs.len() > most {
        out.lit("<li>").number((vm.outputs.len() - most) as f64).lit(" more: see batch_report.json</li>");
    }
    out.lit("</ul>");
}

/// What a person should know; nothing where there is nothing.
pub(super) fn warnings(out: &mut Markup, report: &BatchReport) {
    if report.warnings.is_empty() {
        return;
    }
    out.lit("<section>\n<h2>Warnings</h2>\n<ul>\n");
    for notice in report.warnings.iter().take(MOST_WARNINGS) {
        out.tagged("<li>", &notice.stage, ": ").say(&notice.message).lit("</li>\n");
    }
    out.lit("</ul>\n");
    if report.warnings.len() > MOST_WARNINGS {
        out.lit("<p class=\"dim\">").number((report.warnings.len() - MOST_WARNINGS) as f64);
        out.lit(" more are in batch_report.json.</p>\n");
    }
    out.lit("</section>\n");
}
