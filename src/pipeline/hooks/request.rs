//! The request of an HTTP hook: what a manifest says, handed to the client for everything outside ([`crate::web`]), within its time.
//!
//! What is not here: where nothing is ever sent to, which the client looks at, and when a request is sent again.

use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};

use crate::model::retry::RetryPolicy;
use crate::sys::random;
use crate::web::{self, NoAnswer};

/// Answers lead on at most so often.
const MOST_REDIRECTS: u32 = 5;
/// Of an answer so much is read.
const ANSWER_BYTES: usize = 64 << 10;

/// What is sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// `POST`
    pub(super) method: String,
    /// Where to.
    pub(super) url: String,
    /// Further headers.
    pub(super) headers: Vec<(String, String)>,
    /// A body: JSON.
    pub(super) body: Option<String>,
    /// All together may take so long.
    pub(super) timeout: Duration,
    /// How often it is tried to reach a host.
    pub(super) policy: RetryPolicy,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status.
    pub(super) status: u16,
    /// The beginning of its body.
    pub(super) body: String,
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpError {
    /// It is not sent, now or ever.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// It did not get through.
    #[error("{0}")]
    Failed(String),
}

/// Sends a request and waits for the answer. `told`: that a host was not reached yet.
pub(super) async fn send(request: &Request, told: &(dyn Fn(&str) + Sync)) -> Result<Answer, HttpError> {
    let exchange = exchange(request, told);
    match tokio::time::timeout(request.timeout, exchange).await {
        Ok(answered) => answered,
        Err(_) => Err(HttpError::TimedOut(request.timeout)),
    }
}

async fn exchange(request: &Request, told: &(dyn Fn(&str) + Sync)) -> Result<Answer, HttpError> {
    let refused = |why: String| HttpError::Refused(why);
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| refused(format!("`{}` is not a method", request.method)))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let unfit = || refused(format!("`{name}` is not a header, or its value cannot be that of one"));
        let said = name.parse::<HeaderName>().map_err(|_| unfit())?;
        headers.append(said, value.parse().map_err(|_| unfit())?);
    }
    let mut body = String::new();
    if let Some(content) = &request.body {
        body.clone_from(content);
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    }
    let patience = |failures: u32, why: &str| {
        let wait = request.policy.wait_s(failures, random::spread())?;
        told(&format!("{why}: tried again in {wait:.1} s"));
        Some(Duration::from_secs_f64(wait))
    };
    let asked = web::Request {
        method,
        address: web::address(&request.url)?,
        headers,
        body,
        ca_file: None,
        redirects: Some(MOST_REDIRECTS),
        patience: &patience,
    };
    let answer = web::ask(asked).await?;
    let status = answer.status.as_u16();
    let body = answer.beginning(ANSWER_BYTES).await;
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

impl From<NoAnswer> for HttpError {
    fn from(none: NoAnswer) -> HttpError {
        match none {
            NoAnswer::Refused(why) => HttpError::Refused(why),
            NoAnswer::Failed(why) => HttpError::Failed(why),
            NoAnswer::Untrusted(whom) => HttpError::Failed(whom.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(url: &str) -> Result<Answer, HttpError> {
        let request = Request {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: None,
            timeout: Duration::from_secs(5),
            policy: RetryPolicy::network(),
        };
        send(&request, &|_| ()).await
    }

    #[tokio::test]
    async fn addresses_at_which_machines_tell_their_secrets_are_refused_however_they_are_written() {
        for host in [
            "169.254.169.254",
            "169.254.0.1",
            "0xA9FEA9FE",
            "2852039166",
            "0251.0376.0251.0376",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "0.0.0.0",
            "[::]",
        ] {
            for scheme in ["http", "https"] {
                let answer = sent(&format!("{scheme}://{host}/latest")).await;
                assert!(matches!(answer, Err(HttpError::Refused(_))), "{scheme} {host}: {answer:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_only_near_is_asked() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "0x7f000001"] {
            let answer = sent(&format!("http://{host}:{port}/")).await;
            assert!(matches!(answer, Err(HttpError::Failed(_))), "{host}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn a_url_that_may_not_be_asked_is_refused_before_anything_is_sent() {
        for url in ["file:///etc/passwd", "http://", "ftp://h/"] {
            assert!(matches!(sent(url).await, Err(HttpError::Refused(_))), "{url}");
        }
    }
}
