//! A stored credential: what an administrator keeps for manifests to name, so that no manifest has to hold it.
//!
//! One file each in `credentials.dir`, read by whoever does the work. What is not here: reading it, and what it opens.

use serde::Deserialize;

use super::error::{Error, Kind, Result};
use super::manifest::values::{AbsolutePath, Line, Secret};
use super::parse;
use super::thumbprint::Thumbprint;

/// `<name>.yaml`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Whose login it is; it is used for nothing else.
    pub host: Option<Line>,
    /// Whose account.
    pub username: Option<Line>,
    /// The password or passphrase itself; or `password_file`.
    pub password: Option<Secret>,
    /// A file that holds nothing else; or `password`.
    pub password_file: Option<AbsolutePath>,
    /// SHA-256 of the certificate that the host has: it alone is trusted.
    pub thumbprint: Option<Line>,
    /// Whether the host's certificate is looked at; default true.
    pub verify_ssl: Option<bool>,
    /// Certificates (PEM) that are trusted besides the machine's.
    pub ca_file: Option<AbsolutePath>,
    /// Where VMware's own library lies: a directory that only root may change.
    pub vddk_libdir: Option<AbsolutePath>,
    /// The key with which its account logs in on ESXi hosts over SSH.
    pub identity: Option<AbsolutePath>,
    /// Which keys hosts have: `known_hosts` of OpenSSH.
    pub known_hosts: Option<AbsolutePath>,
}

impl Credential {
    /// From the text of a file of this name.
    pub fn parse(text: &[u8], file: &str) -> Result<Credential> {
        parse::parse(text, file)?.decode()
    }

    /// The first of its members that only the login of a vCenter or an ESXi host has a use for.
    #[must_use]
    pub fn of_a_server(&self) -> Option<&'static str> {
        let members = [
            ("thumbprint", self.thumbprint.is_some()),
            ("verify_ssl", self.verify_ssl.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("identity", self.identity.is_some()),
            ("known_hosts", self.known_hosts.is_some()),
            ("vddk_libdir", self.vddk_libdir.is_some()),
        ];
        members.into_iter().find_map(|(name, is_there)| is_there.then_some(name))
    }

    /// The certificate that alone is trusted.
    pub fn pinned(&self, file: &str) -> Result<Option<Thumbprint>> {
        let parsed = self.thumbprint.as_ref().map(|text| Thumbprint::parse(text.as_str())).transpose();
        parsed.map_err(|why| {
            Error::new(Kind::Manifest, why).file(file).field("thumbprint").advice(
                "write the SHA-256 of the server's certificate: `openssl x509 -noout -fingerprint -sha256`",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_of_a_server_has_what_the_contract_says_and_nothing_that_is_not_built() {
        let text = format!(
            "host: vc\nusername: u\npassword: p\nthumbprint: {}\nverify_ssl: true\nca_file: /ca.pem\n",
            "ab".repeat(32)
        );
        let credential = Credential::parse(text.as_bytes(), "vc.yaml").unwrap();
        assert_eq!(credential.of_a_server(), Some("thumbprint"));
        assert_eq!(credential.pinned("vc.yaml").unwrap(), Some(Thumbprint([0xab; 32])));
        assert!(!format!("{credential:?}").contains("\"p\""));
        for (text, kind) in [
            ("vddk_libdir: opt/vddk\n", Kind::Manifest),
            ("identity: id\n", Kind::Manifest),
            ("verify_tls: false\n", Kind::Manifest),
            ("ca_file: ca.pem\n", Kind::Manifest),
        ] {
            assert_eq!(Credential::parse(text.as_bytes(), "vc.yaml").unwrap_err().kind(), kind, "{text}");
        }
        let short = Credential::parse(b"thumbprint: abcd\n", "vc.yaml").unwrap();
        assert_eq!(short.pinned("vc.yaml").unwrap_err().details().place.field.as_deref(), Some("thumbprint"));
    }
}
