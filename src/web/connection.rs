//! Connections: names are looked up, addresses that nothing is sent to are left out, and TLS is laid over what remains.
//!
//! The address that was looked at is the one that is connected to, so a name that leads elsewhere a moment later changes nothing. Whom
//! [`encrypt`] trusts is read for each connection: what is not kept is never out of date. What is not here: TLS itself, and what is said over
//! a connection.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::NoAnswer;
use super::trust::{Tls, Trust};
use crate::model::web_address::forbidden;

/// One address has so long to answer, so that the others of a host have a turn.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// What keeps a connection from being made and may be gone a moment later. A port at which nobody listens is an answer.
const PASSING: [ErrorKind; 6] = [
    ErrorKind::TimedOut,
    ErrorKind::HostUnreachable,
    ErrorKind::NetworkUnreachable,
    ErrorKind::NetworkDown,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
];

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Whom a connection may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Whoever may be spoken to at all.
    Anybody,
    /// Only this machine.
    ThisMachine,
}

/// Asked after so many times that nobody was reached, and why: how long to wait before the next one; none: it is given up.
pub(crate) type Patience<'a> = dyn Fn(u32, &str) -> Option<Duration> + Send + Sync + 'a;

/// For who comes back later by himself.
pub(crate) fn once(_: u32, _: &str) -> Option<Duration> {
    None
}

/// Why nobody was reached.
struct Unreached {
    why: NoAnswer,
    /// The same may get through a moment later: nobody has said no.
    passes: bool,
}

/// Connects to the first address of a host that answers. Nothing is said yet, so nothing happens twice where it is tried again.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    reach: Reach,
    patience: &Patience<'_>,
) -> Result<TcpStream, NoAnswer> {
    let mut failures = 0;
    loop {
        let unreached = match connect_once(host, port, reach).await {
            Ok(stream) => return Ok(stream),
            Err(unreached) => unreached,
        };
        failures += 1;
        let wait = unreached.passes.then(|| patience(failures, &unreached.why.to_string())).flatten();
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(unreached.why),
        }
    }
}

async fn connect_once(host: &str, port: u16, reach: Reach) -> Result<TcpStream, Unreached> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| Unreached {
        why: NoAnswer::Failed(format!("cannot look up {host}: {error}")),
        passes: true,
    })?;
    let (mut trouble, mut refusal, mut passes) = (None, None, true);
    for address in found {
        let ip = address.ip();
        if let Some(why) = forbidden(ip) {
            refusal = Some(format!("{host} is {ip}: {why}, nothing is sent there"));
            continue;
        }
        if reach == Reach::ThisMachine && !ip.is_loopback() {
            refusal = Some(format!("{host} is {ip}: not this machine, and the connection is not encrypted"));
            continue;
        }
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Err(_) => trouble = Some(format!("cannot connect to {host} ({address}): no answer")),
            Ok(Ok(stream)) => {
                // Small messages, each waited for.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => {
                passes &= PASSING.contains(&error.kind());
                trouble = Some(format!("cannot connect to {host} ({address}): {error}"));
            }
        }
    }
    // Only where none of its addresses could be asked is it a matter of where its name leads.
    Err(match (trouble, refusal) {
        (Some(trouble), _) => Unreached { why: NoAnswer::Failed(trouble), passes },
        (None, Some(refusal)) => Unreached { why: NoAnswer::Refused(refusal), passes: false },
        (None, None) => Unreached { why: NoAnswer::Failed(format!("{host} has no address")), passes },
    })
}

/// Lays TLS over a connection; the other end has to be `host`, and somebody whom the machine or `ca_file` trusts has to vouch for it.
pub(crate) async fn encrypt(
    stream: TcpStream,
    host: &str,
    ca_file: Option<&Path>,
) -> Result<Box<dyn Stream>, NoAnswer> {
    let ca_file = ca_file.map(Path::to_path_buf);
    let read = move || Tls::new(Trust::System { ca_file: ca_file.as_deref() });
    let tls = tokio::task::spawn_blocking(read).await;
    let tls = tls.unwrap_or_else(|_| Err(NoAnswer::Failed("reading certificates broke off".to_owned())))?;
    tls.over(stream, host).await
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn nothing_is_connected_to_that_is_not_to_be_spoken_to() {
        for host in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0"] {
            match run(connect(host, 80, Reach::Anybody, &once)) {
                Err(NoAnswer::Refused(why)) => assert!(why.contains("nothing is sent there"), "{why}"),
                other => panic!("{host}: {other:?}"),
            }
        }
        let refused = run(connect("192.0.2.1", 25, Reach::ThisMachine, &once)).unwrap_err();
        assert!(refused.to_string().contains("not this machine"), "{refused}");
    }

    /// Whether somebody was reached, and how often it was waited.
    fn tried(host: &str, port: u16, between: impl Fn() + Send + Sync) -> (bool, u32) {
        let waits = AtomicU32::new(0);
        let patience = |failures: u32, _: &str| {
            between();
            waits.store(failures, Ordering::Relaxed);
            (failures < 4).then_some(Duration::from_millis(20))
        };
        let reached = run(connect(host, port, Reach::Anybody, &patience));
        (reached.is_ok(), waits.into_inner())
    }

    #[test]
    fn a_host_that_cannot_be_reached_is_tried_again_and_one_that_says_no_is_not() {
        assert_eq!(tried("no-such-host.invalid", 80, || ()), (false, 4));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(tried("127.0.0.1", closed, || ()), (false, 0));
        assert_eq!(tried("169.254.169.254", 80, || ()), (false, 0));
    }

    #[test]
    fn a_host_that_answers_at_last_is_reached() {
        // Whoever does not take what waits before its door answers no more knocks.
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let door = TcpListener::from(socket);
        let address = door.local_addr().unwrap();
        let _waiting = std::net::TcpStream::connect(address).unwrap();
        let take = || drop(door.accept());
        assert_eq!(tried("127.0.0.1", address.port(), take), (true, 1));
    }
}
