//! What a message looks like to whoever receives it. Pure.
//!
//! The forms are part of the outside contract: `generic` for programs, Slack's attachments, Discord's embeds, and plain text for mail.

use serde_json::{Value, json};

use crate::model::config::WebhookType;
use crate::model::notice::{Level, Notice};
use crate::service::queue::Parcel;

/// Who sends, for people.
const SENDER: &str = "hyper2kvm daemon";

/// Discord refuses what is longer: of a description, and of one field.
const DISCORD_TEXT: usize = 4000;
const DISCORD_FIELD: usize = 1000;

/// Slack cuts what is longer.
const SLACK_TEXT: usize = 3000;

/// The body of a POST.
pub(super) fn webhook(webhook_type: WebhookType, parcel: &Parcel) -> String {
    let notice = &parcel.notice;
    let body = match webhook_type {
        WebhookType::Generic => generic(parcel),
        WebhookType::Slack => slack(notice),
        WebhookType::Discord => discord(notice),
    };
    body.to_string()
}

fn generic(parcel: &Parcel) -> Value {
    let notice = &parcel.notice;
    json!({
        "title": notice.title(),
        "message": notice.message(),
        "level": notice.level(),
        "details": notice,
        "source": "hyper2kvm-daemon",
        "timestamp": notice.timestamp(),
        "delivery_id": parcel.delivery_id,
    })
}

fn slack(notice: &Notice) -> Value {
    let color = match notice.level() {
        Level::Success => "#36a64f",
        Level::Warning => "#ff9900",
        Level::Error => "#ff0000",
    };
    let fields: Vec<Value> = notice
        .fields()
        .iter()
        .map(|(name, value)| json!({"title": name, "value": for_slack(value), "short": true}))
        .collect();
    json!({
        "attachments": [{
            "color": color,
            "title": notice.title(),
            "text": for_slack(&notice.message()),
            "fields": fields,
            "footer": SENDER,
            "ts": epoch(notice),
        }]
    })
}

fn discord(notice: &Notice) -> Value {
    let color = match notice.level() {
        Level::Success => 3_066_993,
        Level::Warning => 16_776_960,
        Level::Error => 15_158_332,
    };
    let fields: Vec<Value> = notice
        .fields()
        .iter()
        .map(
            |(name, value)| json!({"name": name, "value": for_discord(value, DISCORD_FIELD), "inline": true}),
        )
        .collect();
    json!({
        "embeds": [{
            "title": notice.title(),
            "description": for_discord(&notice.message(), DISCORD_TEXT),
            "color": color,
            "fields": fields,
            "footer": {"text": SENDER},
            "timestamp": notice.timestamp(),
        }]
    })
}

/// The text of a mail.
pub(super) fn text(notice: &Notice) -> String {
    let mut text = format!("{}\n", notice.message());
    let fields = notice.fields();
    if !fields.is_empty() {
        text.push('\n');
    }
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\n"));
    }
    text.push_str(&format!("\n{} at {}\n", notice.name(), notice.timestamp()));
    text
}

/// Without what Slack would take for a link or a call to everybody.
fn for_slack(text: &str) -> String {
    cut(text, SLACK_TEXT).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A value of Discord's may not be empty, and what a name does to its text is taken back.
fn for_discord(text: &str, most: usize) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in cut(text, most / 2).chars() {
        if matches!(c, '*' | '_' | '`' | '~' | '|' | '\\' | '<' | '@' | '[') {
            plain.push('\\');
        }
        plain.push(c);
    }
    if plain.is_empty() { "-".to_owned() } else { plain }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// When it happened, for those who count seconds.
fn epoch(notice: &Notice) -> i64 {
    notice.timestamp().parse::<jiff::Timestamp>().map_or(0, |at| at.as_second())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::error::{Error, Kind};
    use crate::model::job::{BatchState, Stage, WaitReason};

    fn timestamp() -> String {
        "2026-11-20T11:25:47.123Z".to_owned()
    }

    fn failed() -> Notice {
        let error = Error::new(Kind::Source, "/srv/<web>.vmdk is cut off & \"bad\"")
            .advice("copy it again")
            .stage(Stage::Load);
        let mut notice = Notice::failure("web.yaml", &error, timestamp());
        if let Notice::ConversionFailure { retry_count, batch_id, vm_id, job_id, log_path, .. } = &mut notice
        {
            *retry_count = 2;
            *batch_id = Some("web".to_owned());
            *vm_id = Some("web01".to_owned());
            *job_id = Some(17);
            *log_path = Some("/var/lib/hyper2kvm/logs/web/web01.3.log".to_owned());
        }
        notice
    }

    fn all() -> Vec<Notice> {
        let one = |event: &str, n| (event.to_owned(), n);
        vec![
            Notice::ConversionSuccess {
                filename: "web.yaml".to_owned(),
                duration_seconds: Some(169.0),
                output_path: "/srv/out/web/web01".to_owned(),
                timestamp: timestamp(),
                batch_id: "web".to_owned(),
                vm_id: "web01".to_owned(),
                job_id: 17,
                report_path: Some("/srv/out/web/web01/report.json".to_owned()),
            },
            failed(),
            Notice::DaemonStalled {
                queue_depth: 3,
                idle_minutes: 30.0,
                last_activity: "2026-11-20T10:55:47.123Z".to_owned(),
                timestamp: timestamp(),
            },
            Notice::JobWaiting {
                reason: WaitReason::DiskSpace,
                detail: "needs 40.0 GiB at /srv/out, 1.0 GiB free".to_owned(),
                waiting_seconds: 600.0,
                waiting_since: 1_795_173_347.0,
                timestamp: timestamp(),
                batch_id: "web".to_owned(),
                vm_id: "web01".to_owned(),
                job_id: 17,
            },
            Notice::NetworkOutage {
                missing: "br0 has no carrier".to_owned(),
                down_seconds: 300.0,
                down_since: 1_795_173_647.0,
                timestamp: timestamp(),
            },
            Notice::BatchEnded {
                batch_id: "web".to_owned(),
                outcome: BatchState::Failed,
                counts: BTreeMap::from([one("failed", 1), one("succeeded", 2)]),
                duration_seconds: 3725.0,
                report_path: "/srv/out/web/batch_report.json".to_owned(),
                timestamp: timestamp(),
            },
            Notice::DaemonRestarted {
                previous: "4711@host".to_owned(),
                previous_started_at: 1_795_100_000.0,
                interrupted_jobs: 2,
                timestamp: timestamp(),
            },
            Notice::summary(BTreeMap::from([one("conversion_failure", 25)]), &[failed()], timestamp()),
        ]
    }

    fn shown(webhook_type: WebhookType) -> String {
        let body = |notice| {
            let parcel = Parcel {
                delivery_key: 1,
                delivery_id: "00112233445566778899aabbccddeeff".to_owned(),
                notice,
                attempts: 0,
                first_tried_at: None,
                due_at: 0.0,
            };
            let body: Value = serde_json::from_str(&webhook(webhook_type, &parcel)).unwrap();
            format!("{body:#}\n")
        };
        all().into_iter().map(body).collect()
    }

    #[test]
    fn generic_bodies_look_like_this() {
        insta::assert_snapshot!(shown(WebhookType::Generic));
    }

    #[test]
    fn slack_bodies_look_like_this() {
        insta::assert_snapshot!(shown(WebhookType::Slack));
    }

    #[test]
    fn discord_bodies_look_like_this() {
        insta::assert_snapshot!(shown(WebhookType::Discord));
    }

    #[test]
    fn mails_look_like_this() {
        let mails: Vec<String> =
            all().iter().map(|notice| format!("{}\n\n{}", notice.title(), text(notice))).collect();
        insta::assert_snapshot!(mails.join("----\n"));
    }

    #[test]
    fn what_discord_would_refuse_is_cut() {
        let long = "x*".repeat(10_000);
        assert!(for_discord(&long, DISCORD_FIELD).chars().count() <= 1024);
        assert!(for_discord(&long, DISCORD_TEXT).chars().count() <= 4096);
        assert_eq!(for_discord("", DISCORD_FIELD), "-");
    }
}
