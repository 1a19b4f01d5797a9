//! One message as a mail: head and text. How it is handed over is in `smtp`.
//!
//! Everything in the head is ASCII: the subject is encoded (RFC 2047), addresses were checked when the configuration was read, and the
//! text goes as base64, so that no line of it can mean anything to a server. The `Message-ID` is the delivery's id: who gets the mail a
//! second time sees that it is the same.

use super::bodies;
use super::secrets::{Login, reveal};
use super::smtp::{self, Envelope};
use super::trouble::Trouble;
use crate::model::base64::base64;
use crate::model::config::EmailSettings;
use crate::service::queue::Parcel;
use crate::sys::time::now_epoch;

/// Of an encoded word, which may have 75 letters in all.
const WORD_BYTES: usize = 42;

/// Of a line of base64.
const LINE_LETTERS: usize = 76;

/// Sends it.
pub(super) async fn send(settings: &EmailSettings, parcel: &Parcel) -> Result<(), Trouble> {
    let login = match &settings.proof {
        Some(place) => Some(reveal(place, &settings.host).await?),
        None => None,
    };
    let login = login.map(|Login { username, secret }| {
        (settings.username.clone().or(username).unwrap_or_default(), secret)
    });
    if login.as_ref().is_some_and(|(name, _)| name.is_empty()) {
        return Err(Trouble::again("there is no login: add `username` to the stored credential".to_owned()));
    }
    let message = message(settings, parcel, now_epoch());
    smtp::hand_over(settings, login, &Envelope { from: &settings.from, to: &settings.to, message: &message })
        .await
}

fn message(settings: &EmailSettings, parcel: &Parcel, now: f64) -> String {
    let notice = &parcel.notice;
    let domain = settings.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let date = jiff::Timestamp::from_second(now as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let date = jiff::fmt::rfc2822::to_string(&date.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default();
    let mut text = String::new();
    for (name, value) in [
        ("From", format!("hyper2kvm <{}>", settings.from)),
        ("To", settings.to.join(",\r\n ")),
        ("Subject", encoded(&format!("[hyper2kvm] {}", notice.title()))),
        ("Date", date),
        ("Message-ID", format!("<{}@{domain}>", parcel.delivery_id)),
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("X-Hyper2kvm-Event", notice.name().to_owned()),
        ("X-Hyper2kvm-Delivery", parcel.delivery_id.clone()),
        ("MIME-Version", "1.0".to_owned()),
        ("Content-Type", "text/plain; charset=utf-8".to_owned()),
        ("Content-Transfer-Encoding", "base64".to_owned()),
    ] {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let body = base64(bodies::text(notice).as_bytes());
    for line in body.as_bytes().chunks(LINE_LETTERS) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push_str("\r\n");
    }
    text
}

/// A text as encoded words, each with whole characters.
fn encoded(text: &str) -> String {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > WORD_BYTES {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let words: Vec<String> =
        words.iter().map(|word| format!("=?UTF-8?B?{}?=", base64(word.as_bytes()))).collect();
    words.join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::MailSecurity;
    use crate::model::notice::Notice;

    #[test]
    fn a_mail_is_ascii_in_short_lines_and_has_the_id_of_its_delivery() {
        let settings = EmailSettings {
            host: "mail.example.com".to_owned(),
            port: 587,
            security: MailSecurity::Starttls,
            from: "h2k@example.com".to_owned(),
            to: vec!["a@example.com".to_owned(), "b@example.org".to_owned()],
            username: None,
            proof: None,
            ca_file: None,
        };
        let parcel = Parcel {
            delivery_key: 1,
            delivery_id: "00ff".to_owned(),
            notice: Notice::NetworkOutage {
                missing: ".\r\nQUIT\r\n ünlesbar".repeat(20),
                down_seconds: 1.0,
                down_since: 0.0,
                timestamp: "2026-11-20T11:25:47.123Z".to_owned(),
            },
            attempts: 0,
            first_tried_at: None,
            due_at: 0.0,
        };
        let text = message(&settings, &parcel, 1_737_558_000.0);
        assert!(text.is_ascii() && text.ends_with("\r\n"));
        assert!(text.split("\r\n").all(|line| line.len() <= 78 && !line.contains(['\r', '\n'])), "{text}");
        assert!(text.contains("\r\nMessage-ID: <00ff@example.com>\r\n"), "{text}");
        assert!(text.contains("\r\nDate: Wed, 22 Jan 2025 15:00:00 +0000\r\n"), "{text}");
        assert!(text.contains("\r\nTo: a@example.com,\r\n b@example.org\r\n"), "{text}");
        assert!(!text.contains("QUIT"), "{text}");
    }
}
