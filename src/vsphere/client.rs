//! The client: what a server is, a session on it, and calls.
//!
//! Cheap to clone, and used by many threads at once: each call takes an open connection that nobody uses, or opens one. Reaching a server is tried
//! again as the caller's [`Patience`] says; so is a call that only reads. A call that changes something is never said twice: it goes over a
//! connection of its own, and once it was said, what comes of it is told as it is. The last clone logs out. What is not here: which calls there are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use roxmltree::Node;

use super::connection::Connection;
use super::endpoint::{Endpoint, Login, Patience, Trusted};
use super::failure;
use super::service::{Service, service};
use super::session::Session;
use super::soap::{self, Call, Failure, MOST_BYTES, MoRef};
use super::wire::Wire;
use crate::disk::Control;
use crate::model::element::Element;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::web::Tls;

pub use super::service::About;

/// Where the API is.
const TARGET: &str = "/sdk";
/// The oldest version of the API that is spoken, and what is asked of a server of which nothing is known yet.
const OLDEST: &str = "6.5";
/// Connections that are kept open though nobody uses them.
const MOST_IDLE: usize = 4;
/// Nobody waits longer for being logged out.
const LOGOUT_LIMIT: Duration = Duration::from_secs(3);

/// Somebody who is logged in.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    channel: Channel,
    service: Service,
    login: Login,
    /// Held by who logs in.
    entry: Mutex<()>,
}

/// Calls to a server, whoever it is and whether or not one is logged in.
#[derive(Debug)]
struct Channel {
    endpoint: Endpoint,
    tls: Tls,
    patience: Patience,
    control: Control,
    /// What it is told that is spoken: `"urn:vim25/7.0"`.
    action: HeaderValue,
    session: Mutex<Session>,
    idle: Mutex<Vec<Wire>>,
}

/// Why an exchange came to nothing.
struct Broken {
    error: Error,
    /// The server may have heard the call.
    is_said: bool,
    /// It went over a connection that was open before.
    was_idle: bool,
}

impl Client {
    /// Reaches a server and logs in.
    pub fn connect(
        endpoint: &Endpoint,
        login: &Login,
        patience: &Patience,
        control: &Control,
    ) -> Result<Client> {
        if endpoint.trust == Trusted::Anything {
            tracing::warn!(
                host = endpoint.host,
                "the certificate is NOT checked: whoever answers in the server's place is given the password"
            );
        }
        let tls =
            Tls::new(endpoint.trust.as_web()).map_err(|none| failure::unreached(&endpoint.host, none))?;
        let mut channel = Channel {
            endpoint: endpoint.clone(),
            tls,
            patience: *patience,
            control: control.clone(),
            action: action(OLDEST),
            session: Mutex::new(Session::new()),
            idle: Mutex::new(Vec::new()),
        };
        let instance = MoRef::new("ServiceInstance", "ServiceInstance");
        let asked = channel.call(
            &Call::reads("RetrieveServiceContent", &instance, Vec::new()),
            patience.timeout,
            service,
        );
        let service = asked
            .map_err(|failure| failure::told(&format!("cannot ask {} what it is", endpoint.host), failure))?;
        channel.action = action(spoken(&service.about.api_version));
        let client =
            Client(Arc::new(Inner { channel, service, login: login.clone(), entry: Mutex::new(()) }));
        client.renew(0)?;
        Ok(client)
    }

    /// What the server is.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.0.service.about
    }

    /// By which name it was reached.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.channel.endpoint.host
    }

    /// Whether it is a clone of this one.
    pub(super) fn is(&self, other: &Client) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A connection of its own for GETs, with the session's cookie. It connects when it is first used.
    pub fn open_connection(&self) -> Result<Connection> {
        self.0.channel.control.ended()?;
        Ok(Connection::new(self.clone()))
    }

    pub(super) fn service(&self) -> &Service {
        &self.0.service
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.0.channel.patience
    }

    /// By which the server's other objects know the session.
    pub(super) fn session_key(&self) -> Option<String> {
        self.0.channel.session().key()
    }

    pub(super) fn control(&self) -> &Control {
        &self.0.channel.control
    }

    /// A connection of which nothing is said yet. It is tried once.
    pub(super) fn wire(&self) -> Result<Wire> {
        self.0.channel.wire()
    }

    /// The session as a request tells it, and which one that is. One that the server could forget soon is used first.
    pub(super) fn cookie(&self) -> Result<(Option<HeaderValue>, u64)> {
        if self.0.channel.session().is_idle() {
            let instance = MoRef::new("ServiceInstance", "ServiceInstance");
            self.call(&Call::reads("CurrentTime", &instance, Vec::new()), |_| Ok(()))
                .map_err(|failure| failure::told("cannot keep the session", failure))?;
        }
        let session = self.0.channel.session();
        Ok((session.cookie(), session.number()))
    }

    /// Asks, as long as it takes to log in again where the session was forgotten.
    pub(super) fn call<T>(
        &self,
        call: &Call,
        read: impl FnMut(Node<'_, '_>) -> Result<T>,
    ) -> Result<T, Failure> {
        self.call_within(call, self.patience().timeout, read)
    }

    /// The same for a call that may be silent so long.
    pub(super) fn call_within<T>(
        &self,
        call: &Call,
        limit: Duration,
        mut read: impl FnMut(Node<'_, '_>) -> Result<T>,
    ) -> Result<T, Failure> {
        let channel = &self.0.channel;
        let number = channel.session().number();
        match channel.call(call, limit, &mut read) {
            Err(Failure::Fault(fault)) if fault.kind == "NotAuthenticated" => {
                self.renew(number)?;
                channel.call(call, limit, &mut read)
            }
            done => done,
        }
    }

    /// Says something that has to be said though the work may have been ended, not waiting long for the answer. It has to be such that saying it twice does no harm.
    pub(super) fn last_word(&self, call: &Call, limit: Duration) -> Result<(), Failure> {
        let text = self.0.channel.last_word(call, limit)?;
        soap::answered(&text, self.host(), |_| Ok(()))
    }

    /// As whom it is asked.
    pub(super) fn login(&self) -> &Login {
        &self.0.login
    }

    /// Who is asked, and how.
    pub(super) fn channel(&self) -> (&Endpoint, &Tls) {
        (&self.0.channel.endpoint, &self.0.channel.tls)
    }

    /// Does something with objects that end with the session, and once more if it ended meanwhile.
    pub(super) fn in_one_session<T>(
        &self,
        mut work: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let number = self.0.channel.session().number();
        match work() {
            Err(Failure::Fault(fault)) if self.0.channel.session().number() != number => {
                tracing::debug!(fault.kind, "the session was another one in between: begun anew");
                work()
            }
            done => done,
        }
    }

    /// Logs in, if that did not happen since the session of this number.
    pub(super) fn renew(&self, number: u64) -> Result<()> {
        let channel = &self.0.channel;
        let _entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut session = channel.session();
            if session.number() != number {
                return Ok(());
            }
            if let Some(refused) = session.refused() {
                return Err(refused.clone());
            }
            session.forget();
        }
        let login = &self.0.login;
        let arguments = vec![
            Element::text("userName", &login.username),
            Element::text("password", login.password.reveal()),
        ];
        let call = Call::reads("Login", &self.0.service.session_manager, arguments);
        let done = channel.call(&call, channel.patience.timeout, |answer| {
            let session = soap::child(answer, "returnval");
            Ok(session.and_then(|session| soap::text(session, "key")).map(str::to_owned))
        });
        let done = done.map_err(|failure| {
            failure::told(
                &format!("cannot log in to {} as {}", channel.endpoint.host, login.username),
                failure,
            )
        });
        let mut session = channel.session();
        match done {
            Ok(key) => session.begun(key),
            Err(error) => {
                if error.kind() == Kind::Auth {
                    session.refuse(error.clone());
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Channel {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wire(&self) -> Result<Wire> {
        Wire::open(&self.endpoint, &self.tls, self.patience.timeout, &self.control)
    }

    fn call<T>(
        &self,
        call: &Call,
        limit: Duration,
        read: impl FnOnce(Node<'_, '_>) -> Result<T>,
    ) -> Result<T, Failure> {
        let text = self.exchange(call, limit)?;
        soap::answered(&text, &self.endpoint.host, read)
    }

    /// Says a call until it was answered, as often as that is allowed.
    fn exchange(&self, call: &Call, limit: Duration) -> Result<String> {
        let mut failures = 0;
        loop {
            let Broken { error, is_said, was_idle } = match self.exchange_once(call, limit) {
                Ok(text) => return Ok(text),
                Err(broken) => broken,
            };
            let may_again = call.is_harmless || !is_said;
            if error.disposition() != Disposition::Transient || !may_again {
                return Err(error);
            }
            if was_idle {
                // The server had hung up meanwhile, which says nothing about how it is now.
                self.idle().clear();
                continue;
            }
            failures += 1;
            let Some(wait) = self.patience.wait(failures) else { return Err(error) };
            tracing::warn!(%error, attempt = failures, "tried again in {:.1} s", wait.as_secs_f64());
            self.rest(wait)?;
        }
    }

    /// Waits so long, and as long as the work stands still, unless it is ended meanwhile.
    fn rest(&self, wait: Duration) -> Result<()> {
        const STEP: Duration = Duration::from_millis(100);
        let mut left = wait;
        while !left.is_zero() {
            self.control.checkpoint()?;
            let step = left.min(STEP);
            std::thread::sleep(step);
            left -= step;
        }
        Ok(())
    }

    fn exchange_once(&self, call: &Call, limit: Duration) -> Result<String, Broken> {
        let open = call.is_harmless.then(|| self.idle().pop()).flatten().filter(|wire| !wire.is_closed());
        let was_idle = open.is_some();
        let unsaid = |error| Broken { error, is_said: false, was_idle: false };
        let mut wire = match open {
            Some(wire) => wire,
            None => self.wire().map_err(unsaid)?,
        };
        let text = self.exchange_over(&mut wire, call, limit);
        let text = text.map_err(|error| Broken { error, is_said: true, was_idle })?;
        let mut idle = self.idle();
        if idle.len() < MOST_IDLE {
            idle.push(wire);
        }
        Ok(text)
    }

    /// Says something though the work may have been ended: over an open connection, and over a new one if that was dead and did not look it.
    fn last_word(&self, call: &Call, limit: Duration) -> Result<String> {
        let open = self.idle().pop().filter(|wire| !wire.is_closed());
        if let Some(mut wire) = open {
            wire.obey(Control::new());
            match self.exchange_over(&mut wire, call, limit) {
                Err(error) if error.kind() == Kind::Network => {}
                said => return said,
            }
        }
        let mut wire = Wire::open(&self.endpoint, &self.tls, limit, &Control::new())?;
        self.exchange_over(&mut wire, call, limit)
    }

    fn exchange_over(&self, wire: &mut Wire, call: &Call, limit: Duration) -> Result<String> {
        let host = &self.endpoint.host;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
        headers.insert(HeaderName::from_static("soapaction"), self.action.clone());
        if let Some(cookie) = self.session().cookie() {
            headers.insert(COOKIE, cookie);
        }
        let mut said = wire.ask(Method::POST, TARGET, headers, call.envelope(), limit)?;
        look_at_status(host, said.status, &said.headers)?;
        let length = said.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let too_long = || soap::odd(host, &format!("more than {} MiB", MOST_BYTES >> 20));
        if length.is_some_and(|length: usize| length > MOST_BYTES) {
            return Err(too_long());
        }
        let mut bytes = Vec::with_capacity(length.unwrap_or(0));
        while let Some(piece) = wire.next(&mut said)? {
            if bytes.len() + piece.len() > MOST_BYTES {
                return Err(too_long());
            }
            bytes.extend_from_slice(&piece);
        }
        self.session().hear(&said.headers);
        String::from_utf8(bytes).map_err(|_| soap::odd(host, "what is not UTF-8"))
    }
}

/// Answers to calls have one of two: anything else was said by somebody in between, or by a server that is not ready.
fn look_at_status(host: &str, status: StatusCode, headers: &HeaderMap) -> Result<()> {
    let is_xml =
        headers.get(CONTENT_TYPE).is_none_or(|kind| kind.to_str().is_ok_and(|kind| kind.contains("xml")));
    let error = |kind| Error::new(kind, format!("{host} answered {status}"));
    match status.as_u16() {
        200 => Ok(()),
        500 if is_xml => Ok(()),
        401 | 403 | 407 => Err(error(Kind::Auth)
            .advice("see whether a proxy stands between this machine and the server, and what it wants")),
        429 | 500 | 502 | 503 | 504 => {
            Err(error(Kind::Network).advice("its services start, or are overloaded: see its own health page"))
        }
        _ => Err(error(Kind::Source).advice(
            "see that this is the name and the port of a vCenter or an ESXi host: its API is at /sdk",
        )),
    }
}

impl Drop for Inner {
    /// Sessions that nobody ends count against what a server allows.
    fn drop(&mut self) {
        let in_async = tokio::runtime::Handle::try_current().is_ok();
        if in_async || self.channel.session().cookie().is_none() {
            return;
        }
        let call = Call::changes("Logout", &self.service.session_manager, Vec::new());
        if let Err(error) = self.channel.last_word(&call, LOGOUT_LIMIT) {
            tracing::debug!(%error, "not logged out: the server ends the session by itself");
        }
    }
}

/// What a request says that it speaks.
fn action(version: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"urn:vim25/{version}\""))
        .unwrap_or(HeaderValue::from_static("\"urn:vim25\""))
}

/// The version that both sides know: types that a version has not are told as older ones, a TPM for one.
fn spoken(api_version: &str) -> &'static str {
    let mut numbers = api_version.split('.').map(|number| number.parse().unwrap_or(0u32));
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        (7.., _) => "7.0",
        (6, 7..) => "6.7",
        _ => OLDEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_is_spoken_is_one_that_both_sides_know() {
        for (theirs, spoken_then) in [
            ("6.5", "6.5"),
            ("6.5.4", "6.5"),
            ("6.7.3", "6.7"),
            ("7.0.3.0", "7.0"),
            ("8.0.2.0", "7.0"),
            ("x", "6.5"),
        ] {
            assert_eq!(spoken(theirs), spoken_then, "{theirs}");
        }
    }

    #[test]
    fn what_is_no_answer_to_a_call_is_told_by_its_status() {
        let mut html = HeaderMap::new();
        html.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        let status = |code: u16| look_at_status("vc", StatusCode::from_u16(code).unwrap(), &html);
        assert!(status(200).is_ok());
        for (code, kind, disposition) in [
            (500, Kind::Network, Disposition::Transient),
            (503, Kind::Network, Disposition::Transient),
            (403, Kind::Auth, Disposition::NeedsOperator),
            (404, Kind::Source, Disposition::Permanent),
            (302, Kind::Source, Disposition::Permanent),
        ] {
            let error = status(code).unwrap_err();
            assert_eq!((error.kind(), error.disposition()), (kind, disposition), "{code}");
        }
    }
}
