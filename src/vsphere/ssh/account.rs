//! Who logs in on a host, by a stored credential: whose key, and whom the host has to be.
//!
//! What is not here: logging in.

use std::path::{Path, PathBuf};

use crate::model::credential::Credential;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::{AbsolutePath, HostName, Line};
use crate::sys::secret;

/// Who logs in on an ESXi host where nobody says.
const ROOT: &str = "root";
/// No account has a longer name.
const MOST_NAME: usize = 64;

/// An account on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whose.
    pub username: String,
    /// The key with which it logs in.
    pub identity: PathBuf,
    /// The file that says which keys hosts have.
    pub known_hosts: PathBuf,
}

impl Account {
    /// That of a stored credential. `host`: who is meant, if somebody said so; it has to be the credential's own.
    pub fn stored(path: &Path, host: Option<&str>, port: u16) -> Result<Account> {
        let shown = path.display();
        let unfit = |cause: String, advice: &str| {
            Error::new(Kind::Auth, format!("the stored credential {shown} {cause}")).advice(advice.to_owned())
        };
        let text = secret::read(path).map_err(|error| {
            Error::io(Kind::Auth, "read the stored credential", path, &error)
                .advice("check the name; whoever administers this machine puts the file there")
        })?;
        let credential = Credential::parse(text.as_bytes(), &shown.to_string())?;
        let Some(own) = credential.host.as_ref().map(Line::as_str) else {
            return Err(unfit(
                "names no host".to_owned(),
                "write whose login it is: `host: esxi-1.example.com`",
            ));
        };
        HostName::new(own).map_err(|refusal| {
            unfit(
                format!("names a host that is none: {refusal}"),
                "write the name or the address of the ESXi host",
            )
        })?;
        if host.is_some_and(|host| !host.eq_ignore_ascii_case(own)) {
            let cause = format!("is the login of {own}, and not of {}", host.unwrap_or_default());
            return Err(unfit(cause, "name the credential of that host, or leave out `host`"));
        }
        let file = |what: &str, named: &Option<AbsolutePath>, advice: &str| match named {
            None => Err(unfit(format!("names no {what}"), advice)),
            Some(named) => match plain(&named.to_path()) {
                true => Ok(named.to_path()),
                false => Err(unfit(
                    format!("has a `{what}` with characters that ssh would read as something else"),
                    "put the file where its path has letters, digits and `/._-+,@=:` alone",
                )),
            },
        };
        let identity = file(
            "identity",
            &credential.identity,
            "write the file of the key that may log in: `identity: /etc/hyper2kvm/credentials.d/esxi.key`; passwords are not used over SSH",
        )?;
        let known_hosts = file(
            "known_hosts",
            &credential.known_hosts,
            "write the file with the keys of hosts: `known_hosts: /etc/hyper2kvm/known_hosts`; `ssh-keyscan HOST` prints a line for it, to be compared with what the host's console says",
        )?;
        let username = credential.username.as_ref().map_or(ROOT, Line::as_str);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-@\\".contains(c);
        if username.starts_with('-') || username.len() > MOST_NAME || !username.chars().all(is_plain) {
            return Err(unfit(
                "names an account that cannot be one".to_owned(),
                "write its name alone: `username: root`",
            ));
        }
        Ok(Account { host: own.to_owned(), port, username: username.to_owned(), identity, known_hosts })
    }

    /// The same key on a host that a server named. An account of the server's own is none of the host's.
    #[must_use]
    pub(crate) fn at(&self, host: &str) -> Account {
        let username = if self.host.eq_ignore_ascii_case(host) { &self.username } else { ROOT };
        Account { host: host.to_owned(), username: username.to_owned(), ..self.clone() }
    }
}

/// Whether a path means itself in an option of ssh's.
fn plain(path: &Path) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@=:".contains(c);
    path.to_str().is_some_and(|text| text.chars().all(is_plain))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn stored(text: &str, host: Option<&str>) -> Result<Account> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("esxi.yaml");
        fs::write(&file, text).unwrap();
        Account::stored(&file, host, 22)
    }

    const KEYS: &str = "identity: /keys/id\nknown_hosts: /keys/known\n";

    #[test]
    fn a_key_is_used_for_the_host_of_its_credential_and_its_own_account() {
        let account =
            stored(&format!("host: esx.example.com\nusername: backup\n{KEYS}"), Some("ESX.example.com"));
        let account = account.unwrap();
        assert_eq!((account.host.as_str(), account.username.as_str()), ("esx.example.com", "backup"));
        assert_eq!(account.at("esx.example.com").username, "backup");
        assert_eq!(account.at("esx2.example.com").username, "root", "a vCenter's account is no host's");
        assert_eq!(stored(&format!("host: h\n{KEYS}"), None).unwrap().username, "root");
        assert_eq!(stored(&format!("host: h\n{KEYS}"), Some("other")).unwrap_err().kind(), Kind::Auth);
    }

    #[test]
    fn what_ssh_would_read_as_something_else_is_refused() {
        for text in [
            format!("host: -oProxyCommand=x\n{KEYS}"),
            format!("host: \"h -x\"\n{KEYS}"),
            format!("host: h\nusername: -oProxyCommand=x\n{KEYS}"),
            format!("host: h\nusername: \"a b\"\n{KEYS}"),
            "host: h\nidentity: /keys/%h\nknown_hosts: /keys/known\n".to_owned(),
            "host: h\nidentity: \"/keys/a b\"\nknown_hosts: /keys/known\n".to_owned(),
            "host: h\nidentity: /keys/id\n".to_owned(),
            "host: h\nknown_hosts: /keys/known\n".to_owned(),
            KEYS.to_owned(),
        ] {
            let error = stored(&text, None).unwrap_err();
            assert_eq!(error.kind(), Kind::Auth, "{text}");
            assert!(error.details().advice.is_some(), "{text}");
        }
    }
}
