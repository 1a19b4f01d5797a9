//! Requests to the outside: one client for all who ask a server of somebody else's.
//!
//! ```text
//!   address ─▶ its host is looked up ─▶ what may not be asked is left out ─▶ connected ─▶ TLS ─▶ one request ─▶ its answer
//!      ▲                                                                                                          │
//!      └──────────────────────────── where it leads on, if the caller has that followed ◀─────────────────────────┘
//! ```
//!
//! Each step of a chain of redirects is looked at as the first one is. A connection serves one request: most who ask do so rarely, and what is not
//! kept costs nothing in between. Who asks one server again and again keeps a connection open ([`Kept`]); redirects are not followed there. No proxy of the environment is used, which would look up names elsewhere. Only reaching a host is tried again, as long as the
//! caller is patient: nothing is said by then. What is not here: who asks for what, how long it may take, and whether it is asked again.

mod address;
mod connection;
mod eager;
mod kept;
mod trust;

use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, LOCATION, USER_AGENT,
};
use hyper::http::request::Builder;
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

pub(crate) use self::address::address;
use self::address::leads_to;
pub(crate) use self::connection::{Patience, Reach, Stream, connect, encrypt, once};
pub(crate) use self::kept::{Kept, Said};
pub(crate) use self::trust::{Flaw, Tls, Trust, Untrusted};
use crate::model::web_address::WebAddress;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// It is not asked, now or ever, as long as its name leads where it does.
    #[error("{0}")]
    Refused(String),
    /// It did not get through.
    #[error("{0}")]
    Failed(String),
    /// Who answers there is not trusted.
    #[error("{0}")]
    Untrusted(Untrusted),
}

/// What is asked.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    /// `POST`
    pub(crate) method: Method,
    /// Of whom.
    pub(crate) address: WebAddress,
    /// Besides those that every request has.
    pub(crate) headers: HeaderMap,
    /// What is sent; empty is nothing.
    pub(crate) body: String,
    /// Certificates (PEM) that are trusted besides the machine's.
    pub(crate) ca_file: Option<&'a Path>,
    /// So often an answer may lead on; one that leads on beyond that is refused. `None`: it is an answer like any other.
    pub(crate) redirects: Option<u32>,
    /// How often it is tried to reach each host.
    pub(crate) patience: &'a Patience<'a>,
}

/// What came back. Its body is still on the way: who does not read it does not wait for it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// Drives the connection until the answer is dropped.
    _connection: JoinSet<()>,
}

impl Answer {
    /// The beginning of its body: what comes of it until it ends or breaks off, up to so many bytes.
    pub(crate) async fn beginning(mut self, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < most {
            let next = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            let Some(Ok(frame)) = next.await else { break };
            let data = frame.data_ref().map_or(&[][..], |data| data);
            bytes.extend_from_slice(&data[..data.len().min(most - bytes.len())]);
        }
        bytes
    }
}

/// Asks, and waits for the answer as long as the caller does.
pub(crate) async fn ask(mut request: Request<'_>) -> Result<Answer, NoAnswer> {
    let mut steps = 0;
    loop {
        let answer = exchange(&request).await?;
        let (Some(most), Some(to)) = (request.redirects, redirection(&answer)) else { return Ok(answer) };
        if steps >= most {
            return Err(NoAnswer::Refused(format!("{} leads on and on", request.address)));
        }
        steps += 1;
        let next = leads_to(&request.address, to)?;
        if request.address.is_https && !next.is_https {
            return Err(NoAnswer::Refused(format!("{} leads from https to http", request.address)));
        }
        lead_on(&mut request, next, answer.status);
    }
}

/// Where an answer leads on to.
fn redirection(answer: &Answer) -> Option<&str> {
    let leads = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    answer.headers.get(LOCATION).filter(|_| leads)?.to_str().ok()
}

/// The same request of somebody else, as RFC 9110 (15.4) has it: what was a POST becomes a GET, unless the answer says that it stays.
fn lead_on(request: &mut Request<'_>, next: WebAddress, status: StatusCode) {
    let becomes_get = match status {
        StatusCode::SEE_OTHER => request.method != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => request.method == Method::POST,
        _ => false,
    };
    if becomes_get {
        request.method = Method::GET;
        request.body.clear();
        request.headers.remove(CONTENT_TYPE);
    }
    if next.authority() != request.address.authority() {
        // They were for the first one alone.
        request.headers.remove(AUTHORIZATION);
        request.headers.remove(COOKIE);
    }
    request.address = next;
}

/// One request on a connection of its own, and its answer.
async fn exchange(request: &Request<'_>) -> Result<Answer, NoAnswer> {
    let address = &request.address;
    let plain = connect(&address.host, address.port, Reach::Anybody, request.patience).await?;
    let stream: Box<dyn Stream> = match address.is_https {
        true => encrypt(plain, &address.host, request.ca_file).await?,
        false => Box::new(plain),
    };
    let broken = |error: hyper::Error| NoAnswer::Failed(format!("{address} broke off: {}", said(&error)));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // What is wrong with it is told to who waits for the answer.
        let _ = connection.await;
    });
    let response = sender.send_request(message(request)?).await.map_err(broken)?;
    let (head, body) = response.into_parts();
    Ok(Answer { status: head.status, headers: head.headers, body, _connection: driver })
}

fn message(request: &Request<'_>) -> Result<hyper::Request<String>, NoAnswer> {
    let head = hyper::Request::builder()
        .method(&request.method)
        .uri(&request.address.target)
        .header(HOST, request.address.authority());
    complete(head, request.body.clone(), request.headers.clone())
}

/// A request with the headers that each of them has, and those that its caller wants: his word is the last one.
fn complete(head: Builder, body: String, headers: HeaderMap) -> Result<hyper::Request<String>, NoAnswer> {
    let is_empty = body.is_empty();
    let mut message = head
        .header(ACCEPT, "*/*")
        .header(USER_AGENT, concat!("hyper2kvm/", env!("CARGO_PKG_VERSION")))
        .body(body)
        .map_err(|error| NoAnswer::Refused(format!("this cannot be asked: {error}")))?;
    let expects_body = matches!(*message.method(), Method::POST | Method::PUT | Method::PATCH);
    if is_empty && expects_body {
        // Some servers refuse what does not say so.
        message.headers_mut().insert(CONTENT_LENGTH, 0.into());
    }
    message.headers_mut().extend(headers);
    Ok(message)
}

/// What went wrong, to its first cause.
fn said(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method) -> Request<'static> {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [(CONTENT_TYPE, "application/json"), (AUTHORIZATION, "x"), (ACCEPT, "text/plain")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        Request {
            method,
            address: address("https://h/a").unwrap(),
            headers,
            body: "{}".to_owned(),
            ca_file: None,
            redirects: Some(5),
            patience: &once,
        }
    }

    #[test]
    fn what_is_led_on_stays_what_it_is_unless_the_answer_makes_it_a_get() {
        for (method, status, becomes) in [
            (Method::POST, StatusCode::FOUND, Method::GET),
            (Method::POST, StatusCode::MOVED_PERMANENTLY, Method::GET),
            (Method::PUT, StatusCode::FOUND, Method::PUT),
            (Method::PUT, StatusCode::SEE_OTHER, Method::GET),
            (Method::HEAD, StatusCode::SEE_OTHER, Method::HEAD),
            (Method::POST, StatusCode::TEMPORARY_REDIRECT, Method::POST),
            (Method::POST, StatusCode::PERMANENT_REDIRECT, Method::POST),
        ] {
            let mut asked = request(method.clone());
            lead_on(&mut asked, address("https://h/b").unwrap(), status);
            assert_eq!((&asked.method, asked.address.target.as_str()), (&becomes, "/b"), "{method} {status}");
            let is_same = method == becomes;
            assert_eq!(
                (asked.body.is_empty(), asked.headers.contains_key(CONTENT_TYPE)),
                (!is_same, is_same)
            );
            assert!(asked.headers.contains_key(AUTHORIZATION), "the same host is told the same");
        }
    }

    #[test]
    fn another_host_is_not_told_what_was_for_the_first_alone() {
        for other in ["https://other/b", "https://h:8443/b"] {
            let mut asked = request(Method::GET);
            lead_on(&mut asked, address(other).unwrap(), StatusCode::FOUND);
            assert!(!asked.headers.contains_key(AUTHORIZATION), "{other}");
        }
    }

    #[test]
    fn a_caller_has_the_last_word_about_headers_and_an_empty_post_says_that_it_is_empty() {
        let message = message(&Request { body: String::new(), ..request(Method::POST) }).unwrap();
        assert_eq!(message.headers()[ACCEPT], "text/plain");
        assert_eq!(message.headers()[CONTENT_LENGTH], "0");
        assert_eq!(message.headers()[HOST], "h");
        assert_eq!(message.headers().get_all(ACCEPT).iter().count(), 1);
    }
}
