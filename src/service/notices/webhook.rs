//! One message to a webhook: a POST with the event, its id and a signature.
//!
//! Redirects are not followed: a message goes to the address that was configured and to no other. What is not here: what the body looks
//! like (see `bodies`), and which addresses are not spoken to (`connection`).

use std::future::poll_fn;
use std::pin::Pin;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};

use super::bodies;
use super::connection::{Reach, Stream, connect, encrypt};
use super::secrets::reveal;
use super::trouble::{Fate, Trouble};
use crate::model::config::WebhookSettings;
use crate::model::notice::clean;
use crate::model::web_address::WebAddress;
use crate::service::queue::Parcel;
use crate::sys::time::now_epoch;

/// Of what a receiver answers, so much is looked at.
const ANSWER_BYTES: usize = 200;

/// Sends it.
pub(super) async fn post(settings: &WebhookSettings, parcel: &Parcel) -> Result<(), Trouble> {
    let url = reveal(&settings.url, "").await?.secret;
    let address = WebAddress::parse(&url)
        .map_err(|why| Trouble::again(format!("what is configured is no address of a webhook: {why}")))?;
    let body = bodies::webhook(settings.webhook_type, parcel);
    let mut request = Request::post(&address.target)
        .header(HOST, address.authority())
        .header(USER_AGENT, concat!("hyper2kvm/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header("X-Hyper2kvm-Event", parcel.notice.name())
        .header("X-Hyper2kvm-Delivery", &parcel.delivery_id)
        .header("X-Hyper2kvm-Attempt", parcel.attempts.saturating_add(1));
    if let Some(place) = &settings.signed_with {
        let secret = reveal(place, &address.host).await?.secret;
        request = request.header("X-Hyper2kvm-Signature", signature(secret.as_bytes(), body.as_bytes()));
    }
    let request = request
        .body(body)
        .map_err(|_| Trouble::again("what is configured is no address of a webhook".to_owned()))?;
    let plain = connect(&address.host, address.port, Reach::Anybody).await?;
    let stream: Box<dyn Stream> = match address.is_https {
        true => encrypt(plain, &address.host, settings.ca_file.as_deref()).await?,
        false => Box::new(plain),
    };
    let broken = |error: hyper::Error| Trouble::again(format!("{address} broke off: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        judge(&address, response).await
    };
    let mut talk = std::pin::pin!(talk);
    // The connection is driven only as long as somebody waits for its answer; when it is closed, the answer may be there already.
    tokio::select! {
        judged = &mut talk => judged,
        ended = connection => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(broken(error)),
        },
    }
}

/// What an answer means.
async fn judge(address: &WebAddress, response: Response<Incoming>) -> Result<(), Trouble> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    if status.is_redirection() {
        let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let to =
            to.and_then(|to| WebAddress::parse(to).ok()).map(|to| format!(" to {to}")).unwrap_or_default();
        return Err(Trouble::again(format!(
            "{address} redirects{to} ({status}), which is not followed: configure the address that it leads to"
        )));
    }
    let asked = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok());
    let asked = asked.and_then(|after| seconds_of(after, now_epoch()));
    let said = first_words(response.into_body()).await;
    let text = format!("{address} answers {status}{said}");
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
async fn first_words(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES {
        match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) | None => break,
        }
    }
    bytes.truncate(ANSWER_BYTES);
    let text = clean(&String::from_utf8_lossy(&bytes));
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
