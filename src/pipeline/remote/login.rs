//! Who is asked for a VM and as whom, read from where a plan says that it is.
//!
//! The files are read when the work begins and what is in them is never stored. A stored credential is for one host: it is sent nowhere else,
//! whatever a manifest says. What is not here: logging in.

use std::path::PathBuf;

use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::VsphereTransport;
use crate::model::manifest::values::{HostName, Secret};
use crate::model::protocol::RemoteLimits;
use crate::model::remote::{PlannedLogin, PlannedRemote, SSH_PORT};
use crate::sys::secret;
use crate::vsphere::ssh::Account;
use crate::vsphere::vddk::Library;
use crate::vsphere::{Endpoint, Login, Trusted, stored};

/// What a process has to be able to read to find a server by its name, and to know who vouches for it.
const FOR_SERVERS: [&str; 9] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/run/systemd/resolve",
];

/// What `ssh` reads besides.
const FOR_SSH: [&str; 3] = ["/etc/passwd", "/etc/crypto-policies", "/var/lib/sss/pipes"];

/// What is needed to log in. It is read before a sandbox closes, which does not know its files.
#[derive(Debug)]
pub(in crate::pipeline) struct Access {
    pub(super) endpoint: Endpoint,
    /// Where a host's shell alone is asked, it has no password.
    pub(super) login: Login,
    /// For the shells of hosts. Only `ssh` reads the key.
    pub(super) key: Option<Account>,
    /// Where its credential says that VMware's library is.
    vddk_libdir: Option<PathBuf>,
}

impl Access {
    /// Reads what a plan names. From then on the process leaves no picture of its memory behind.
    pub(in crate::pipeline) fn read(remote: &PlannedRemote) -> Result<Access> {
        if let Err(error) = secret::leave_no_core() {
            tracing::debug!(%error, "a password may be in what is left of this process if it dies");
        }
        let key = key_of(remote)?;
        if let Some(account) = key.as_ref().filter(|_| remote.on_host().is_some()) {
            let trust = Trusted::System { ca_file: None };
            let endpoint = Endpoint { host: account.host.clone(), port: account.port, trust };
            let login = Login { username: account.username.clone(), password: Secret::made("") };
            return Ok(Access { endpoint, login, key, vddk_libdir: None });
        }
        let mut vddk_libdir = None;
        let of_account = |username: &str, password: Secret| -> Result<(Endpoint, Login)> {
            let Some(host) = remote.host.clone() else {
                return Err(Error::internal("a plan names neither a host nor a credential that does"));
            };
            let trust = Trusted::System { ca_file: None };
            let login = Login { username: username.to_owned(), password };
            Ok((Endpoint { host, port: remote.port, trust }, login))
        };
        let (mut endpoint, login) = match &remote.login {
            PlannedLogin::Credential(file) => {
                let read = stored::read_with_library(file, remote.host.as_deref(), remote.port);
                let (endpoint, login, libdir) =
                    read.map_err(|error| error.field("source.vsphere.credential"))?;
                vddk_libdir = libdir;
                (endpoint, login)
            }
            PlannedLogin::PasswordFile { username, file } => {
                let password = stored::password_in(file);
                of_account(username, password.map_err(|error| error.field("source.vsphere.password_file"))?)?
            }
            PlannedLogin::KeptPassword { username, file } => {
                if !file.try_exists().unwrap_or(true) {
                    return Err(not_kept(username));
                }
                of_account(username, stored::password_in(file)?)?
            }
            PlannedLogin::PasswordEnv { username, variable } => {
                let Some(password) = std::env::var(variable).ok().filter(|text| !text.is_empty()) else {
                    return Err(Error::new(Kind::Auth, format!("the variable {variable} holds no password"))
                        .field("source.vsphere.password_env")
                        .advice("set it in the environment of the service or of the command"));
                };
                of_account(username, Secret::made(&password))?
            }
        };
        if let Some(asked) = remote.thumbprint {
            if let Trusted::Pinned(own) = endpoint.trust
                && own != asked
            {
                return Err(Error::new(
                    Kind::Manifest,
                    format!("the stored credential expects the certificate {own}"),
                )
                .field("source.vsphere.thumbprint")
                .advice("leave it out, or see which of the two the server has"));
            }
            endpoint.trust = Trusted::Pinned(asked);
        }
        HostName::new(&endpoint.host).map_err(|refusal| {
            Error::new(Kind::Auth, format!("the stored credential names a host that is none: {refusal}"))
                .field("source.vsphere.credential")
                .advice(
                    "write the name or the address of the vCenter or ESXi host: `host: vcenter.example.com`",
                )
        })?;
        Ok(Access { endpoint, login, key, vddk_libdir })
    }

    /// Whether another program is run to get there.
    pub(in crate::pipeline) fn runs_ssh(&self) -> bool {
        self.key.is_some()
    }

    /// VMware's library, where the credential says that it is, or else the configuration; why there is none, if there is none.
    pub(in crate::pipeline) fn library(&self, limits: &RemoteLimits) -> Result<Library> {
        Library::look(self.vddk_libdir.as_deref().or(limits.vddk_libdir.as_deref()))
    }

    /// What has to be readable to get there.
    pub(in crate::pipeline) fn readable(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = FOR_SERVERS.iter().map(PathBuf::from).collect();
        if let Trusted::System { ca_file: Some(file) } = &self.endpoint.trust {
            paths.push(file.clone());
        }
        if let Some(key) = &self.key {
            paths.extend(FOR_SSH.map(PathBuf::from));
            paths.extend([key.identity.clone(), key.known_hosts.clone()]);
        }
        paths.retain(|path| path.exists());
        paths
    }
}

/// It is not waited for: nobody puts it there by itself.
fn not_kept(username: &str) -> Error {
    Error::new(
        Kind::Manifest,
        format!("the password of {username}, which the manifest held, is not kept here: only the service does that, until the batch has ended"),
    )
    .field("source.vsphere.password")
    .advice("drop the manifest again; for a command, or to try again what has failed, name a stored credential, a `password_file` or a `password_env`")
}

/// The key for the shells of hosts, where one is needed.
fn key_of(remote: &PlannedRemote) -> Result<Option<Account>> {
    let Some(file) = remote.login.file() else { return Ok(None) };
    let has_to = match remote.transport {
        VsphereTransport::Ssh => true,
        VsphereTransport::Auto => false,
        VsphereTransport::Https | VsphereTransport::Nfc | VsphereTransport::Vddk => return Ok(None),
    };
    let port = if remote.on_host().is_some() { remote.port } else { SSH_PORT };
    let provider = if remote.on_host().is_some() { "esxi" } else { "vsphere" };
    let account = Account::stored(file, remote.host.as_deref(), port);
    if !has_to {
        return Ok(account.ok());
    }
    account.map(Some).map_err(|error| error.field(format!("source.{provider}.credential")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::error::Disposition;
    use crate::model::manifest::VsphereMode;
    use crate::model::remote::{PlannedAfter, WantedVm};
    use crate::model::thumbprint::Thumbprint;

    const PRINT: &str = "abababababababababababababababababababababababababababababababab";

    fn planned(login: PlannedLogin, host: Option<&str>, thumbprint: Option<&str>) -> PlannedRemote {
        PlannedRemote {
            host: host.map(str::to_owned),
            port: 8443,
            login,
            thumbprint: thumbprint.map(|text| Thumbprint::parse(text).unwrap()),
            vm: WantedVm::Name("web".to_owned()),
            datacenter: None,
            datastore: None,
            folder: None,
            mode: VsphereMode::Cold,
            transport: VsphereTransport::Https,
            ways: Vec::new(),
            looks_first: false,
            connections: 4,
            shutdown: None,
            after: PlannedAfter::default(),
            snapshot: None,
            isolated: false,
            warm: None,
            found: None,
            draft: None,
        }
    }

    fn read(text: &str, host: Option<&str>, thumbprint: Option<&str>) -> Result<Access> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vc.yaml");
        fs::write(&file, text).unwrap();
        Access::read(&planned(PlannedLogin::Credential(file), host, thumbprint))
    }

    #[test]
    fn a_credential_goes_to_its_own_host_and_to_no_other() {
        let text = "host: vc.example.com\nusername: root\npassword: geheim\n";
        for host in [None, Some("VC.example.com")] {
            let access = read(text, host, None).unwrap();
            assert_eq!((access.endpoint.host.as_str(), access.endpoint.port), ("vc.example.com", 8443));
            assert_eq!(access.login.password.reveal(), "geheim");
            assert_eq!(access.endpoint.trust, Trusted::System { ca_file: None });
        }
        let error = read(text, Some("evil.example.com"), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Auth);
        assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
    }

    #[test]
    fn what_is_no_login_of_a_host_is_told_to_be_none() {
        for text in [
            "password: geheim\n",
            "host: vc.example.com\npassword: geheim\n",
            "host: vc.example.com\nusername: root\n",
            "host: https://vc.example.com/sdk\nusername: root\npassword: geheim\n",
            "host: vc.example.com\nusername: root\npassword: geheim\npassword_file: /etc/x\n",
        ] {
            let error = read(text, None, None).unwrap_err();
            assert!(error.details().advice.is_some() && !format!("{error:?}").contains("geheim"), "{text}");
        }
    }

    #[test]
    fn only_the_credential_may_say_that_any_certificate_will_do() {
        let head = "host: vc.example.com\nusername: root\npassword: geheim\n";
        let trust = |text: &str, asked| {
            read(&format!("{head}{text}"), None, asked).map(|access| access.endpoint.trust)
        };
        let pinned = Trusted::Pinned(Thumbprint::parse(PRINT).unwrap());
        assert_eq!(trust("verify_ssl: false\n", None).unwrap(), Trusted::Anything);
        assert_eq!(trust("verify_ssl: false\n", Some(PRINT)).unwrap(), pinned);
        assert_eq!(trust(&format!("thumbprint: {PRINT}\n"), None).unwrap(), pinned);
        let other = PRINT.replace("ab", "cd");
        assert!(trust(&format!("thumbprint: {PRINT}\n"), Some(&other)).is_err());
        let file = trust("ca_file: /etc/vc.pem\n", None).unwrap();
        assert_eq!(file, Trusted::System { ca_file: Some("/etc/vc.pem".into()) });
    }

    #[test]
    fn a_password_may_be_in_a_file_that_holds_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "geheim\n").unwrap();
        let login = PlannedLogin::PasswordFile { username: "root".to_owned(), file };
        let access = Access::read(&planned(login, Some("vc.example.com"), None)).unwrap();
        assert_eq!((access.login.username.as_str(), access.login.password.reveal()), ("root", "geheim"));
        let login =
            PlannedLogin::PasswordEnv { username: "root".to_owned(), variable: "H2K_NO_SUCH".to_owned() };
        assert!(Access::read(&planned(login, Some("vc.example.com"), None)).is_err());
    }

    #[test]
    fn one_that_a_manifest_held_is_where_the_service_keeps_it_or_lost_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("account");
        let read = || {
            let login = PlannedLogin::KeptPassword { username: "root".to_owned(), file: file.clone() };
            Access::read(&planned(login, Some("vc.example.com"), None))
        };
        let error = read().unwrap_err();
        // An error of a login would be waited for.
        assert_eq!(error.disposition(), Disposition::Permanent, "{error}");
        fs::write(&file, "geheim\n").unwrap();
        assert_eq!(read().unwrap().login.password.reveal(), "geheim");
    }
}
