//! The session of a client: logged in, its cookie, and whether it may be logged in again.
//!
//! A server forgets a session that was not used for half an hour. One that it forgot is begun anew, once for all threads that notice. A login
//! that was refused is not tried again by the same client: a few more would lock the account. What is not here: the calls.

use std::time::{Duration, Instant};

use hyper::HeaderMap;
use hyper::header::{HeaderValue, SET_COOKIE};

use crate::model::error::Error;

/// The cookie that tells a session.
const NAME: &str = "vmware_soap_session";
/// No cookie is longer.
const MOST_BYTES: usize = 4096;
/// Well below the half an hour after which a server forgets.
const IDLE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    cookie: Option<HeaderValue>,
    /// By which the server's other objects know it. It opens nothing.
    key: Option<String>,
    /// How often it was begun.
    number: u64,
    used: Instant,
    refused: Option<Error>,
}

impl Session {
    /// Nobody is logged in.
    pub(super) fn new() -> Session {
        Session { cookie: None, key: None, number: 0, used: Instant::now(), refused: None }
    }

    /// What a request says.
    pub(super) fn cookie(&self) -> Option<HeaderValue> {
        self.cookie.clone()
    }

    /// Which one it is: another number is another session.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Takes the cookie of an answer, if it sets one.
    pub(super) fn hear(&mut self, headers: &HeaderMap) {
        self.used = Instant::now();
        let ours = |value: &HeaderValue| {
            let pair = value.to_str().ok()?.split(';').next()?.trim();
            let is_ours = pair.split('=').next() == Some(NAME) && pair.len() <= MOST_BYTES;
            is_ours.then(|| HeaderValue::from_str(pair).ok()).flatten()
        };
        if let Some(mut cookie) = headers.get_all(SET_COOKIE).iter().find_map(ours) {
            cookie.set_sensitive(true);
            self.cookie = Some(cookie);
        }
    }

    /// Before a login.
    pub(super) fn forget(&mut self) {
        self.cookie = None;
    }

    /// After one.
    pub(super) fn begun(&mut self, key: Option<String>) {
        self.number += 1;
        self.key = key;
    }

    /// By which the server's other objects know it.
    pub(super) fn key(&self) -> Option<String> {
        self.key.clone()
    }

    /// A login was refused: the next ones are, without asking.
    pub(super) fn refuse(&mut self, error: Error) {
        self.refused = Some(error);
    }

    /// Why it is not logged in again.
    pub(super) fn refused(&self) -> Option<&Error> {
        self.refused.as_ref()
    }

    /// Whether a server could forget it soon.
    pub(super) fn is_idle(&self) -> bool {
        self.used.elapsed() > IDLE_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cookie_of_a_session_is_taken_and_it_is_not_shown() {
        let mut session = Session::new();
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("other=1; Path=/"));
        session.hear(&headers);
        assert_eq!(session.cookie(), None);
        headers.append(SET_COOKIE, HeaderValue::from_static("vmware_soap_session=\"52-a\"; Path=/; Secure"));
        session.hear(&headers);
        assert_eq!(session.cookie().unwrap(), "vmware_soap_session=\"52-a\"");
        assert!(!format!("{session:?}").contains("52-a"));
        session.forget();
        headers.insert(SET_COOKIE, format!("{NAME}={}", "a".repeat(MOST_BYTES)).parse().unwrap());
        session.hear(&headers);
        assert_eq!(session.cookie(), None);
    }
}
