//! One message to a webhook: a POST with the event, its id and a signature.
//!
//! Redirects are not followed: a message goes to the address that was configured and to no other. What is not here: what the body looks
//! like (see `bodies`), and which addresses are not spoken to (`crate::web`).

use hyper::header::{CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use hyper::{HeaderMap, Method, StatusCode};
use sha2::{Digest, Sha256};

use super::bodies;
use super::secrets::reveal;
use super::trouble::{Fate, Trouble};
use crate::model::config::WebhookSettings;
use crate::model::notice::clean;
use crate::model::web_address::WebAddress;
use crate::service::queue::Parcel;
use crate::sys::time::now_epoch;
use crate::web::{self, Answer, Request};

/// Of what a receiver answers, so much is looked at.
const ANSWER_BYTES: usize = 200;

/// Sends it.
pub(super) async fn post(settings: &WebhookSettings, parcel: &Parcel) -> Result<(), Trouble> {
    let url = reveal(&settings.url, "").await?.secret;
    let address = WebAddress::parse(&url)
        .map_err(|why| Trouble::again(format!("what is configured is no address of a webhook: {why}")))?;
    let body = bodies::webhook(settings.webhook_type, parcel);
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &str| -> Result<(), Trouble> {
        let value = value.parse().map_err(|_| Trouble::never(format!("{name} cannot be said")))?;
        headers.insert(name, value);
        Ok(())
    };
    add(CONTENT_TYPE, "application/json")?;
    add(HeaderName::from_static("x-hyper2kvm-event"), parcel.notice.name())?;
    add(HeaderName::from_static("x-hyper2kvm-delivery"), &parcel.delivery_id)?;
    let attempt = parcel.attempts.saturating_add(1).to_string();
    add(HeaderName::from_static("x-hyper2kvm-attempt"), &attempt)?;
    if let Some(place) = &settings.signed_with {
        let secret = reveal(place, &address.host).await?.secret;
        let signature = signature(secret.as_bytes(), body.as_bytes());
        add(HeaderName::from_static("x-hyper2kvm-signature"), &signature)?;
    }
    let answer = web::ask(Request {
        method: Method::POST,
        address: address.clone(),
        headers,
        body,
        ca_file: settings.ca_file.as_deref(),
        redirects: None,
        // What does not arrive stays in the outbox, which has its own time.
        patience: &web::once,
    });
    judge(&address, answer.await?).await
}

/// What an answer means.
async fn judge(address: &WebAddress, answer: Answer) -> Result<(), Trouble> {
    let status = answer.status;
    if status.is_success() {
        return Ok(());
    }
    let header = |name: HeaderName| answer.headers.get(name).and_then(|value| value.to_str().ok());
    if status.is_redirection() {
        let to = header(LOCATION).and_then(|to| WebAddress::parse(to).ok());
        let to = to.map(|to| format!(" to {to}")).unwrap_or_default();
        return Err(Trouble::again(format!(
            "{address} redirects{to} ({status}), which is not followed: configure the address that it leads to"
        )));
    }
    let asked = header(RETRY_AFTER).and_then(|after| seconds_of(after, now_epoch()));
    let text = format!("{address} answers {status}{}", first_words(&answer.beginning(ANSWER_BYTES).await));
    Err(match (status, asked) {
        (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY, _) => {
            Trouble::never(text)
        }
        (_, Some(seconds)) => Trouble { text, fate: Fate::After(seconds) },
        _ => Trouble::again(text),
    })
}

/// `Retry-After`: seconds, or a date.
fn seconds_of(after: &str, now: f64) -> Option<f64> {
    let after = after.trim();
    if let Ok(seconds) = after.parse::<u32>() {
        return Some(f64::from(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(after).ok()?.timestamp().as_millisecond();
    Some((at as f64 / 1000.0 - now).max(0.0))
}

/// The beginning of an answer, as it may be told: `: invalid_payload`.
fn first_words(body: &[u8]) -> String {
    let text = clean(&String::from_utf8_lossy(body));
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { String::new() } else { format!(": {}", line.escape_debug()) }
}

/// `sha256=` and the HMAC-SHA256 of a body, in hex.
fn signature(secret: &[u8], body: &[u8]) -> String {
    let mac = hmac_sha256(secret, body);
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// RFC 2104 over SHA-256. Only made here and never compared, so its time tells nobody anything.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standard() {
        // RFC 4231, test cases 2 and 6.
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            signature(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "sha256=60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn a_receiver_asks_for_seconds_or_for_a_date() {
        assert_eq!(seconds_of("120", 0.0), Some(120.0));
        assert_eq!(seconds_of("Wed, 21 Oct 2015 07:28:00 GMT", 1_445_412_470.0), Some(10.0));
        assert_eq!(seconds_of("Wed, 21 Oct 2015 07:28:00 GMT", 2e9), Some(0.0));
        for none in ["", "soon", "-1", "1.5"] {
            assert_eq!(seconds_of(none, 0.0), None, "{none}");
        }
    }
}
