//! The request of an HTTP hook: over TLS, and never to where a machine tells its own secrets.
//!
//! Addresses to which nothing is sent (see [`crate::model::web_address`]) are refused as they stand in a URL, as a name resolves to them (the
//! address that was looked at is the one that is connected to), and where a redirect leads. No proxy of the environment is used, which would
//! resolve names elsewhere. What is not here: when a request is sent again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, Method, Url};

use crate::model::web_address::forbidden;
use crate::sys::tls;

/// Answers lead on at most so often.
const MOST_REDIRECTS: usize = 5;
/// Of an answer so much is read.
const ANSWER_BYTES: usize = 64 << 10;

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// `POST`
    pub(super) method: String,
    /// Where to.
    pub(super) url: String,
    /// Further headers.
    pub(super) headers: Vec<(String, String)>,
    /// A body, and of which type.
    pub(super) body: Option<(String, Vec<u8>)>,
    /// All together may take so long.
    pub(super) timeout: Duration,
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

/// Sends a request and waits for the answer.
pub(super) async fn send(request: &Request) -> Result<Answer, HttpError> {
    let exchange = exchange(request);
    match tokio::time::timeout(request.timeout, exchange).await {
        Ok(answered) => answered,
        Err(_) => Err(HttpError::TimedOut(request.timeout)),
    }
}

async fn exchange(request: &Request) -> Result<Answer, HttpError> {
    let url = Url::parse(&request.url)
        .map_err(|error| HttpError::Refused(format!("{} is not a URL: {error}", request.url)))?;
    check(&url).map_err(|refusal| HttpError::Refused(refusal.to_string()))?;
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| HttpError::Refused(format!("`{}` is not a method", request.method)))?;
    let plain = url.scheme() == "http";
    let made = client().build().or_else(|error| match plain {
        // Without TLS nobody has to be vouched for: a machine without any certificates can ask too.
        true => client().tls_certs_only([]).build(),
        false => Err(error),
    });
    let client = made.map_err(|error| HttpError::Failed(said(&error)))?;
    let mut builder = client.request(method, url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some((of_type, body)) = &request.body {
        let named = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !named {
            builder = builder.header("content-type", of_type);
        }
        builder = builder.body(body.clone());
    }
    let mut answer = builder.send().await.map_err(|error| failure(&error))?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        let room = ANSWER_BYTES - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if body.len() >= ANSWER_BYTES {
            break;
        }
    }
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn client() -> ClientBuilder {
    tls::set_up();
    Client::builder()
        .no_proxy()
        .dns_resolver(Arc::new(Resolver))
        .redirect(Policy::custom(follow))
        .user_agent(concat!("hyper2kvm/", env!("CARGO_PKG_VERSION")))
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let downgraded = attempt.url().scheme() == "http"
        && attempt.previous().last().is_some_and(|before| before.scheme() == "https");
    if attempt.previous().len() > MOST_REDIRECTS {
        return attempt.error(Refusal("it leads on and on".to_owned()));
    }
    if downgraded {
        return attempt.error(Refusal("it leads from https to http".to_owned()));
    }
    match check(attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(refusal) => attempt.error(refusal),
    }
}

/// Whether a URL may be asked at all, as far as its letters tell.
fn check(url: &Url) -> Result<(), Refusal> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal(format!("{} is not asked for anything", url.scheme())));
    }
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match literal {
        Ok(address) => forbidden(address).map_or(Ok(()), |why| Err(Refusal::of(address, why))),
        Err(_) => Ok(()),
    }
}

/// A request that the rules forbid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl Refusal {
    fn of(address: IpAddr, why: &str) -> Refusal {
        Refusal(format!("{address} is {why}: nothing is ever asked there"))
    }
}

/// The system's resolver, without addresses that may not be asked.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let all: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let asked: Vec<SocketAddr> =
                all.iter().copied().filter(|address| forbidden(address.ip()).is_none()).collect();
            match all.iter().find_map(|address| Some((address.ip(), forbidden(address.ip())?))) {
                Some((refused, why)) if asked.is_empty() => Err(Refusal::of(refused, why).into()),
                _ => Ok(Box::new(asked.into_iter()) as Addrs),
            }
        })
    }
}

fn failure(error: &reqwest::Error) -> HttpError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return HttpError::Refused(refusal.to_string());
        }
        source = cause.source();
    }
    HttpError::Failed(said(error))
}

/// What went wrong, to its first cause; without the URL, which its caller knows.
fn said(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = source {
        parts.push(cause.to_string());
        source = cause.source();
    }
    parts.dedup();
    if parts.is_empty() { error.to_string() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> Option<String> {
        check(&Url::parse(url).unwrap()).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn addresses_at_which_machines_tell_their_secrets_are_refused_however_they_are_written() {
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
            assert!(refusal(&format!("http://{host}/latest")).is_some(), "{host}");
        }
        for host in
            ["127.0.0.1", "10.0.0.1", "192.0.2.1", "[::1]", "[2001:db8::1]", "[fd00::1]", "example.com"]
        {
            assert_eq!(refusal(&format!("https://{host}/")), None, "{host}");
        }
    }

    #[tokio::test]
    async fn a_url_that_may_not_be_asked_is_refused_before_anything_is_sent() {
        let request = Request {
            method: "GET".to_owned(),
            url: "http://169.254.169.254/latest/meta-data".to_owned(),
            headers: Vec::new(),
            body: None,
            timeout: Duration::from_secs(5),
        };
        assert!(matches!(send(&request).await, Err(HttpError::Refused(_))));
        let other = Request { url: "file:///etc/passwd".to_owned(), ..request };
        assert!(matches!(send(&other).await, Err(HttpError::Refused(_))));
    }
}
