//! What hostile reports become, and how large a page of many VMs is.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::model::report::VmResult;
use crate::report::{batch_page, batch_report, batch_summary};

/// Texts as nobody wants them.
const HOSTILE: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></style></svg><svg onload=alert(1)>",
    "\u{202e}gnp.exe\u{2066}\0\u{1b}[31m",
    "]]>--><!-- ${x} {{x}} &lt;script&gt;",
];

/// A VM that says `text` wherever anything from outside can stand.
fn vm(number: usize, text: &str, state: &str) -> VmResult {
    let at = 1_737_558_000.0 + number as f64;
    let span = |state: &str, stage: Value, from: f64, to: f64| json!({"state": state, "stage": stage, "attempt": 1, "started_at": at + from, "ended_at": at + to, "waiting_reason": if state == "waiting" { json!("disk_space") } else { Value::Null }});
    let report = json!({
        "version": "1.0", "timestamp": "2025-01-22T15:00:00.000Z", "hyper2kvm_version": text, "batch_id": text, "vm_id": text,
        "name": text, "attempt": 1,
        "pipeline": {"success": true, "duration_seconds": 12.5, "stages": {
            "load": {"success": true, "duration": 0.5, "result": {"disks": [{"id": text, "source": text, "format": text, "virtual_size_bytes": 1, "member": text}]}},
            "extraction": {"success": true, "duration": 9.0, "result": {"disks": [{"id": text, "bytes": 1_000_000_000, "seconds": 9.0}]}},
            "boot_test": {"success": true, "duration": 3.0, "result": {"verdict": "booted", "booted": true, "seconds": 3.0, "accel": text, "firmware": text, "evidence": text}},
        }},
        "artifacts": [{"type": "converted_disk", "path": format!("/out/{text}.qcow2"), "disk_id": text, "format": "qcow2", "size_bytes": 1, "size_human": text, "virtual_size_bytes": 1, "boot_order_hint": 1, "compressed": false, "sha256": text, "engine": text}],
        "domain": {"path": text, "sha256": text},
        "guest": null,
        "fixes": [{"name": text, "disk": text, "path": text, "action": text, "detail": text, "backup": text}],
        "hooks": [{"stage": "post_fix", "name": text, "type": "script", "success": false, "status": text, "attempts": 1, "seconds": 1.0, "exit_code": 1, "http_status": null}],
        "lacking_stages": [], "warnings": [{"stage": text, "message": text, "timestamp": text}], "errors": [],
        "input_manifest": {"path": text, "manifest_version": text, "source_provider": text, "source_vm_id": text, "source_vm_name": text},
        "summary": {"total_stages": 1, "successful_stages": 1, "failed_stages": 0, "total_warnings": 1, "total_errors": 0, "total_artifacts": 1, "input_disks": 1, "output_disks": 1},
    });
    let is_good = state == "succeeded";
    serde_json::from_value(json!({
        "vm_id": format!("{text}{number}"), "manifest": text, "success": is_good, "state": state, "attempts": 2,
        "duration_seconds": 12.5, "started_at": at, "completed_at": at + 12.5, "timestamp": text,
        "error": if is_good { Value::Null } else { json!(text) },
        "failure": if is_good { Value::Null } else { json!({"kind": "source", "stage": "load", "cause": text, "suggestion": text, "console_tail": format!("{text}\n{text}")}) },
        "outputs": {format!("/out/{text}.qcow2"): text, format!("/out/{text}-2.qcow2"): null},
        "timeline": [span("queued", Value::Null, -3.0, 0.0), span("running", json!("load"), 0.0, 0.5), span("waiting", json!("extraction"), 0.5, 3.0), span("running", json!("extraction"), 3.0, 12.5)],
        "warnings": [{"stage": text, "message": text, "timestamp": text}],
        "pipeline_report": report,
    }))
    .unwrap()
}

fn batch(vms: Vec<VmResult>, id: &str) -> BatchReport {
    batch_report(id, Some(id), vms, 1_737_559_000.0)
}

/// What stands between `<` and the end of each tag's name.
fn tags(html: &str) -> Vec<String> {
    let name =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "!/".contains(*c)).collect();
    html.match_indices('<').map(|(at, _)| name(&html[at + 1..])).collect()
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let harmless = batch_html(&batch(vec![vm(1, "web", "succeeded"), vm(2, "web", "failed")], "web"));
    for text in HOSTILE {
        let html = batch_html(&batch(vec![vm(1, text, "succeeded"), vm(2, text, "failed")], text));
        // The same tags in the same order, whatever is said: nothing was opened and nothing closed.
        assert_eq!(tags(&html), tags(&harmless), "{text}");
        for mark in
            ["<script", "<img", "onerror=alert(1)>", "onmouseover='", "\u{202e}", "\u{2066}", "\0", "\u{1b}"]
        {
            assert!(!html.contains(mark), "{text}: {mark}");
        }
    }
}

#[test]
fn nothing_from_outside_is_a_mark_in_the_other_pages() {
    let count = |text: &str, mark: &str| text.matches(mark).count();
    let harmless = batch(vec![vm(1, "web", "succeeded"), vm(2, "web", "failed")], "web");
    let lines = |report: &BatchReport| batch_page(report).markdown().lines().count();
    for text in HOSTILE.into_iter().chain(["a\nb | c\r\n| d |", "[x](http://x) `y` **z**", "# x"]) {
        let report = batch(vec![vm(1, text, "succeeded"), vm(2, text, "failed")], text);
        assert_eq!(lines(&report), lines(&harmless), "{text}");
        assert_eq!(batch_page(&report).text().lines().count(), batch_page(&harmless).text().lines().count());
        assert_eq!(batch_summary(&report).lines().count(), batch_summary(&harmless).lines().count());
        let markdown = batch_page(&report).markdown();
        let rows = |markdown: &str| -> Vec<usize> {
            let rows = markdown.lines().filter(|line| line.starts_with('|'));
            rows.map(|row| count(row, "|") - count(row, "\\|")).collect()
        };
        assert_eq!(rows(&markdown), rows(&batch_page(&harmless).markdown()), "{text}");
    }
}

#[test]
fn a_page_asks_for_nothing_and_runs_nothing() {
    let html = batch_html(&batch(vec![vm(1, "http://example.com/x.png", "failed")], "b"));
    assert!(html.contains("http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';"));
    for asks in [
        "<script", "<link", "<img", "<iframe", "<object", "<form", " src=", " href=", "url(", "@import",
        " on",
    ] {
        let found = tags_only(&html).into_iter().find(|tag| tag.contains(asks));
        assert_eq!(found, None, "{asks}");
    }
    assert!(!html.contains("@import") && !html.contains("url("));
}

/// Everything between `<` and `>`.
fn tags_only(html: &str) -> Vec<&str> {
    html.match_indices('<').filter_map(|(at, _)| html[at..].split('>').next()).collect()
}

#[test]
fn a_thousand_vms_are_a_matter_of_a_moment_and_a_few_mebibytes() {
    for (number, text) in [(1, "web"), (1_000, "web"), (1_000, &*"<&\">".repeat(1_000)), (3_000, "web")] {
        let states = ["succeeded", "failed", "succeeded", "cancelled"];
        let vms: Vec<VmResult> =
            (0..number).map(|at| vm(at, if at < 1_200 { text } else { "web" }, states[at % 4])).collect();
        let report = batch(vms, "fleet");
        let begun = Instant::now();
        let html = batch_html(&report);
        let took = begun.elapsed();
        let most = if text.len() > 3 { 24 << 20 } else { 4 << 20 };
        assert!(html.len() < most, "{number} VMs: {} bytes", html.len());
        // Unoptimised, on a machine that does something else, too.
        assert!(took < Duration::from_secs(30), "{number} VMs: {took:?}");
        assert!(html.matches("</tr>").count() > number.min(2_000));
        println!("{number} VMs, {} characters each: {} bytes, {took:?}", text.len(), html.len());
    }
}

#[test]
fn a_batch_of_nothing_has_a_page_too() {
    let html = batch_html(&batch(Vec::new(), "empty"));
    assert!(html.ends_with("</html>\n") && !html.contains("<h2>Timeline"), "{html}");
}
