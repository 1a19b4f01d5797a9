//! The daemon's other end of the control socket.
//!
//! Commands call it as plain functions; it drives the connection itself, and an interrupt ends it at
//! any moment. When the daemon cannot be reached it says why and what to do, and the program ends
//! with exit code 4.

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use super::exit::{Exit, Failure};
use super::options::StateArgs;
use crate::model::api::Refusal;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind};
use crate::service::control::check_length;

/// An answer, or the next line of a stream, comes within this time (the service answers within 60 s).
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// The longest line of a stream.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// A way to the daemon.
pub(super) struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that the options, the environment or the configuration name.
    pub(super) fn new(state: &StateArgs) -> Result<Client, Failure> {
        let socket = state.settings_or_defaults()?.socket();
        check_length(&socket)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::internal(format!("cannot start the client: {error}")))?;
        let http = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .read_timeout(ANSWER_WITHIN)
            .build()
            .map_err(|error| Error::internal(format!("cannot make the client: {error}")))?;
        Ok(Client { runtime, http, socket })
    }

    /// Looks.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.interruptible(async {
            let answer = self.send(self.http.get(url(path))).await?;
            self.read(answer).await
        })
    }

    /// Acts.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.interruptible(async {
            let answer = self.send(self.http.post(url(path)).json(body)).await?;
            self.read(answer).await
        })
    }

    /// Reads a stream of lines until `on_line` has seen enough or the stream ends.
    pub(super) fn watch<T: DeserializeOwned>(
        &self,
        path: &str,
        mut on_line: impl FnMut(T) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        self.interruptible(async {
            let mut answer = self.send(self.http.get(url(path))).await?;
            let mut pending = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|error| self.broken(&error))? {
                pending.extend_from_slice(&chunk);
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    if on_line(understand(&line)?)?.is_break() {
                        return Ok(());
                    }
                }
                if pending.len() > MAX_LINE_BYTES {
                    return Err(Error::internal("the daemon sends a line without end").into());
                }
            }
            Ok(())
        })
    }

    /// The service ended while it was being watched.
    pub(super) fn ended_first(&self) -> Failure {
        let at = self.socket.display();
        let error = Error::new(Kind::Network, format!("the daemon at {at} has ended"))
            .advice("its jobs go on when it is started again; look again then");
        Failure::new(Exit::Unreachable, error)
    }

    /// Waits, as interruptibly as everything else.
    pub(super) fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        self.interruptible(async {
            tokio::time::sleep(duration).await;
            Ok(())
        })
    }

    fn interruptible<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.runtime.block_on(async {
            tokio::select! {
                done = work => done,
                _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
            }
        })
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let answer = request.send().await.map_err(|error| self.broken(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.broken(&error))?;
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) if refusal.error.kind() == Kind::Network => {
                Err(Failure::new(Exit::Unreachable, refusal.error))
            }
            Ok(refusal) => Err(refusal.into()),
            Err(_) => Err(Error::internal(format!("the daemon answers {status} without saying why")).into()),
        }
    }

    async fn read<T: DeserializeOwned>(&self, answer: reqwest::Response) -> Result<T, Failure> {
        understand(&answer.bytes().await.map_err(|error| self.broken(&error))?)
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        let error = if error.is_timeout() {
            Error::new(Kind::Network, format!("the daemon at {} does not answer", self.socket.display()))
                .advice("see its log; `systemctl restart hyper2kvm` loses no work")
        } else {
            unreachable(&self.socket, &innermost_io(error), &error.to_string())
        };
        Failure::new(Exit::Unreachable, error)
    }
}

/// Why nothing can be said to the daemon, and what to do about it.
fn unreachable(socket: &Path, io: &Option<io::ErrorKind>, words: &str) -> Error {
    let at = socket.display();
    match io {
        Some(io::ErrorKind::NotFound) => Error::new(Kind::Network, format!("there is no control socket at {at}"))
            .advice(
                "start the service (`systemctl start hyper2kvm`), or name its --state-dir or --socket if it runs elsewhere",
            ),
        Some(io::ErrorKind::ConnectionRefused) => {
            Error::new(Kind::Network, format!("nobody listens on {at}"))
                .advice("the service has ended without cleaning up: start it again (`systemctl start hyper2kvm`)")
        }
        Some(io::ErrorKind::PermissionDenied) => {
            Error::new(Kind::Network, format!("you may not connect to {at}"))
                .advice("use sudo, or join the group that owns the socket (`hyper2kvm`) and log in again")
        }
        _ => Error::new(Kind::Network, format!("the daemon at {at} broke off: {words}"))
            .advice("see whether it still runs, and try again"),
    }
}

/// What the operating system said, below all the layers.
fn innermost_io(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut found = None;
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            found = Some(io.kind());
        }
        cause = current.source();
    }
    found
}

fn understand<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Error::new(Kind::Internal, format!("the daemon's answer is not understood: {error}"))
            .advice("is it another version? compare `hyper2kvm --version` and `hyper2kvm status`")
            .into()
    })
}

fn url(path: &str) -> String {
    format!("http://hyper2kvm{path}")
}

/// A text as one segment of a path, or as a value of a query.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => encoded.push(char::from(byte)),
            // `.` alone would be taken as a step in the path.
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The route of one job, or of what can be done with it.
pub(super) fn job_path(target: &str, action: &str) -> String {
    let slash = if action.is_empty() { "" } else { "/" };
    format!("/v1/jobs/{}{slash}{action}", encode(target))
}

impl StateArgs {
    /// The settings, for a command that only looks for the daemon: a configuration that this user may not
    /// read, or that is wrong, is the daemon's trouble.
    pub(super) fn settings_or_defaults(&self) -> Result<Settings, Failure> {
        match self.source().load() {
            Ok(settings) => Ok(settings),
            Err(error) if self.config.is_some() => Err(error.into()),
            Err(_) => Ok(self.source().defaults()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_are_one_segment_whatever_they_hold() {
        assert_eq!(job_path("17", ""), "/v1/jobs/17");
        assert_eq!(job_path("batch/vm", "cancel"), "/v1/jobs/batch%2Fvm/cancel");
        assert_eq!(job_path("..", "retry"), "/v1/jobs/%2E%2E/retry");
        assert_eq!(encode("ä ?#"), "%C3%A4%20%3F%23");
    }

    #[test]
    fn each_way_of_not_reaching_the_daemon_has_its_own_advice() {
        let socket = Path::new("/run/x.sock");
        let told = |kind| unreachable(socket, &kind, "words").to_string();
        assert!(told(Some(io::ErrorKind::NotFound)).contains("start"));
        assert!(told(Some(io::ErrorKind::PermissionDenied)).contains("group"));
        assert!(told(None).contains("words"));
    }
}
