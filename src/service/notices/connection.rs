//! Connections to receivers: names are looked up, addresses that nothing is sent to are left out, and TLS is laid over what remains.
//!
//! The address that was looked at is the one that is connected to, so a name that leads elsewhere a moment later changes nothing. TLS is
//! rustls with the machine's own certificates, read for each connection: a receiver is spoken to rarely, and what is not kept costs nothing
//! in between and is never out of date. What is not here: what is said over a connection.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::trouble::Trouble;
use crate::model::web_address::forbidden;
use crate::sys::tls;

/// One address has so long to answer, so that the others of a host have a turn.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// A connection, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Whom a connection may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Whoever may be spoken to at all.
    Anybody,
    /// Only this machine.
    ThisMachine,
}

/// Connects to the first address of a host that answers.
pub(super) async fn connect(host: &str, port: u16, reach: Reach) -> Result<TcpStream, Trouble> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| Trouble::again(format!("cannot look up {host}: {error}")))?
        .collect();
    let mut trouble = format!("{host} has no address");
    for address in found {
        if let Some(why) = forbidden(address.ip()) {
            trouble = format!("{host} is {}: {why}, nothing is sent there", address.ip());
            continue;
        }
        if reach == Reach::ThisMachine && !address.ip().is_loopback() {
            trouble =
                format!("{host} is {}: not this machine, and the connection is not encrypted", address.ip());
            continue;
        }
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Err(_) => trouble = format!("cannot connect to {host} ({address}): no answer"),
            Ok(Ok(stream)) => {
                // Small messages, each waited for.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => trouble = format!("cannot connect to {host} ({address}): {error}"),
        }
    }
    Err(Trouble::again(trouble))
}

/// Lays TLS over a connection; the other end has to be `host`.
pub(super) async fn encrypt(
    stream: TcpStream,
    host: &str,
    ca_file: Option<&Path>,
) -> Result<Box<dyn Stream>, Trouble> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Trouble::again(format!("{host} is no name that a certificate could be for")))?;
    let ca_file = ca_file.map(Path::to_path_buf);
    let trusted = tokio::task::spawn_blocking(move || trust(ca_file)).await;
    let config =
        trusted.unwrap_or_else(|_| Err(Trouble::again("reading certificates broke off".to_owned())))?;
    let encrypted = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let encrypted =
        encrypted.map_err(|error| Trouble::again(format!("cannot speak TLS with {host}: {error}")))?;
    Ok(Box::new(encrypted))
}

/// Whom we trust: those whom the machine does, and who stands in `ca_file`.
fn trust(ca_file: Option<PathBuf>) -> Result<ClientConfig, Trouble> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let unfit = |why: String| Trouble::again(format!("cannot use {}: {why}", path.display()));
        let read = CertificateDer::pem_file_iter(&path).map_err(|error| unfit(error.to_string()))?;
        let read: Vec<CertificateDer<'_>> =
            read.collect::<Result<_, _>>().map_err(|error| unfit(error.to_string()))?;
        if roots.add_parsable_certificates(read).0 == 0 {
            return Err(unfit("it holds no certificate".to_owned()));
        }
    }
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Trouble::again(format!("TLS cannot be set up: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn nothing_is_connected_to_that_is_not_to_be_spoken_to() {
        for host in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0"] {
            let trouble = run(connect(host, 80, Reach::Anybody)).err().unwrap();
            assert!(trouble.text.contains("nothing is sent there"), "{trouble:?}");
        }
        let trouble = run(connect("192.0.2.1", 25, Reach::ThisMachine)).err().unwrap();
        assert!(trouble.text.contains("not this machine"), "{trouble:?}");
    }

    #[test]
    fn a_file_of_certificates_has_to_hold_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        assert!(trust(Some(file.clone())).is_err());
        std::fs::write(&file, "nothing").unwrap();
        assert!(trust(Some(file)).unwrap_err().text.contains("no certificate"));
        trust(None).unwrap();
    }
}
