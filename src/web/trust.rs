//! Whom a connection is trusted to lead to: TLS, and what is wrong with a certificate that is not taken.
//!
//! TLS is rustls, its cryptography `ring`. A server is trusted because the machine's certificates or a file of them vouch for it, because its own
//! certificate is known (pinned), or blindly, where somebody said so. Whichever it is, the other end has to prove that the certificate is
//! its own. The thumbprint of a certificate that is refused is told, so that a person may compare it and pin it. What is not here: which of
//! them is meant, and connections.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::eager::Eager;
use super::{NoAnswer, Stream};
use crate::model::thumbprint::Thumbprint;

/// So much is taken from a connection at once, if it is there.
const READ_AT_ONCE: usize = 64 << 10;

/// How a server's certificate is trusted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// Those whom the machine trusts vouch for it, or who stands in this file.
    System {
        /// Certificates (PEM) that are trusted besides the machine's.
        ca_file: Option<&'a Path>,
    },
    /// It is this one, whoever signed it, whatever name and dates it has.
    Pinned(Thumbprint),
    /// It is the one with this SHA-1, as somebody said who is trusted: good against others that are shown in its place, and no more.
    Told([u8; 20]),
    /// Any. Only where a person said so.
    Anything,
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is for another name.
    WrongName,
    /// Nobody who is trusted vouches for it.
    UnknownIssuer,
    /// It is not the one that was pinned.
    NotPinned,
    /// Something else.
    Other,
}

/// A certificate that is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Untrusted {
    /// Whose.
    pub(crate) host: String,
    /// Why.
    pub(crate) flaw: Flaw,
    /// The same in words.
    pub(crate) why: String,
    /// The certificate that was shown.
    pub(crate) seen: Thumbprint,
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the certificate of {} is not trusted: {} (its SHA-256 thumbprint is {})",
            self.host, self.why, self.seen
        )
    }
}

/// What a handshake was refused for, on its way through rustls.
#[derive(Debug)]
struct Refused(Flaw, String, Thumbprint);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Refused {}

/// The SHA-1 of a certificate.
pub(crate) type Digest1 = [u8; 20];

/// TLS as it is spoken with servers that are trusted in one way. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    taken: Arc<Mutex<Option<Digest1>>>,
}

impl Tls {
    /// Reads certificates from files: not in between what must not wait.
    pub(crate) fn new(trust: Trust<'_>) -> Result<Tls, NoAnswer> {
        let provider = Arc::new(ring::default_provider());
        let unfit = |error: &dyn fmt::Display| NoAnswer::Refused(format!("TLS cannot be set up: {error}"));
        let how = match trust {
            Trust::Anything => How::Anything,
            Trust::Pinned(thumbprint) => How::Pinned(thumbprint),
            Trust::Told(digest) => How::Told(digest),
            Trust::System { ca_file } => {
                let roots = Arc::new(roots(ca_file)?);
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
                // A machine without any certificate trusts nobody.
                let vouched = (!roots.is_empty()).then(|| builder.build()).transpose();
                How::Vouched(vouched.map_err(|error| unfit(&error))?)
            }
        };
        let taken = Arc::default();
        let verifier = Verifier { how, provider: Arc::clone(&provider), taken: Arc::clone(&taken) };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(&error))?;
        let config =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        Ok(Tls { config: Arc::new(config), taken })
    }

    /// The SHA-1 of the certificate that was trusted last, for programs that know servers by no other; none: nobody was reached yet.
    pub(crate) fn taken(&self) -> Option<Digest1> {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays TLS over a connection; the other end has to be `host`.
    pub(crate) async fn over(&self, stream: TcpStream, host: &str) -> Result<Box<dyn Stream>, NoAnswer> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| NoAnswer::Refused(format!("{host} is no name that a certificate could be for")))?;
        // Of itself TLS reads 4 KiB at a time, a quarter of one of its records.
        let stream = BufReader::with_capacity(READ_AT_ONCE, stream);
        match TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await {
            Ok(encrypted) => Ok(Box::new(Eager::new(encrypted))),
            Err(error) => Err(match refused(&error) {
                Some(Refused(flaw, why, seen)) => NoAnswer::Untrusted(Untrusted {
                    host: host.to_owned(),
                    flaw: *flaw,
                    why: why.clone(),
                    seen: *seen,
                }),
                None => NoAnswer::Failed(format!("cannot speak TLS with {host}: {error}")),
            }),
        }
    }
}

fn refused(error: &std::io::Error) -> Option<&Refused> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            other.as_ref().downcast_ref::<Refused>()
        }
        _ => None,
    }
}

/// Whom the machine trusts, and who stands in this file.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, NoAnswer> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let unfit = |why: String| NoAnswer::Refused(format!("cannot use {}: {why}", path.display()));
        let read = CertificateDer::pem_file_iter(path).map_err(|error| unfit(error.to_string()))?;
        let read: Vec<CertificateDer<'_>> =
            read.collect::<Result<_, _>>().map_err(|error| unfit(error.to_string()))?;
        if roots.add_parsable_certificates(read).0 == 0 {
            return Err(unfit("it holds no certificate".to_owned()));
        }
    }
    Ok(roots)
}

#[derive(Debug)]
enum How {
    Vouched(Option<Arc<WebPkiServerVerifier>>),
    Pinned(Thumbprint),
    Told([u8; 20]),
    Anything,
}

#[derive(Debug)]
struct Verifier {
    how: How,
    provider: Arc<CryptoProvider>,
    taken: Arc<Mutex<Option<Digest1>>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Thumbprint(Sha256::digest(end_entity).into());
        let refuse = |flaw, why: String| {
            let refused = Refused(flaw, why, seen);
            Err(CertificateError::Other(OtherError(Arc::new(refused))).into())
        };
        let trusted = match &self.how {
            How::Anything => Ok(ServerCertVerified::assertion()),
            How::Pinned(pinned) if *pinned == seen => Ok(ServerCertVerified::assertion()),
            How::Pinned(pinned) => {
                refuse(Flaw::NotPinned, format!("it is not the one with the thumbprint {pinned}"))
            }
            How::Told(told) if Sha1::digest(end_entity)[..] == told[..] => {
                Ok(ServerCertVerified::assertion())
            }
            How::Told(_) => refuse(Flaw::NotPinned, "it is not the one that it was said to have".to_owned()),
            How::Vouched(None) => refuse(Flaw::UnknownIssuer, "this machine trusts nobody".to_owned()),
            How::Vouched(Some(verifier)) => verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .or_else(|error| refuse(flaw(&error), words(&error))),
        };
        if trusted.is_ok() {
            let digest = Sha1::digest(end_entity).into();
            *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
        }
        trusted
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn flaw(error: &rustls::Error) -> Flaw {
    use CertificateError as C;
    let rustls::Error::InvalidCertificate(certificate) = error else { return Flaw::Other };
    match certificate {
        C::Expired | C::ExpiredContext { .. } => Flaw::Expired,
        C::NotValidYet | C::NotValidYetContext { .. } => Flaw::NotYetValid,
        C::NotValidForName | C::NotValidForNameContext { .. } => Flaw::WrongName,
        C::UnknownIssuer => Flaw::UnknownIssuer,
        _ => Flaw::Other,
    }
}

fn words(error: &rustls::Error) -> String {
    match flaw(error) {
        Flaw::Expired => "it has expired".to_owned(),
        Flaw::NotYetValid => "it is not valid yet".to_owned(),
        Flaw::WrongName => "it is for another name".to_owned(),
        Flaw::UnknownIssuer => "nobody whom this machine trusts has signed it".to_owned(),
        Flaw::NotPinned | Flaw::Other => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_has_to_hold_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let tls = |ca_file| Tls::new(Trust::System { ca_file });
        assert!(tls(Some(&file)).is_err());
        std::fs::write(&file, "nothing").unwrap();
        assert!(tls(Some(&file)).unwrap_err().to_string().contains("no certificate"));
        tls(None).unwrap();
    }
}
