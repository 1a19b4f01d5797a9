//! Logins that are stored: read when they are needed, and used for the host alone that they name.
//!
//! What is not here: which credential is meant, and logins that a person gives at once.

use std::io;
use std::path::{Path, PathBuf};

use super::endpoint::{Endpoint, Login, Trusted};
use crate::model::credential::Credential;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::{AbsolutePath, Line, Secret};
use crate::sys::secret;

/// Who is asked, and as whom, by a stored credential. `host`: who is meant, if somebody said so; it has to be the credential's own.
pub fn read(path: &Path, host: Option<&str>, port: u16) -> Result<(Endpoint, Login)> {
    login(path, &parsed(path)?, host, port)
}

/// The same, and where it says that VMware's library is.
pub fn read_with_library(
    path: &Path,
    host: Option<&str>,
    port: u16,
) -> Result<(Endpoint, Login, Option<PathBuf>)> {
    let credential = parsed(path)?;
    let (endpoint, login) = login(path, &credential, host, port)?;
    Ok((endpoint, login, credential.vddk_libdir.as_ref().map(AbsolutePath::to_path)))
}

fn parsed(path: &Path) -> Result<Credential> {
    let text = secret::read(path).map_err(|error| unread("read the stored credential", path, &error))?;
    Credential::parse(text.as_bytes(), &path.display().to_string())
}

fn login(path: &Path, credential: &Credential, host: Option<&str>, port: u16) -> Result<(Endpoint, Login)> {
    let shown = path.display();
    let file = shown.to_string();
    let unfit = |cause: String, advice: &str| {
        Error::new(Kind::Auth, format!("the stored credential {shown} {cause}")).advice(advice.to_owned())
    };
    let Some(own) = credential.host.as_ref().map(Line::as_str) else {
        return Err(unfit(
            "names no host".to_owned(),
            "write whose login it is: `host: vcenter.example.com`",
        ));
    };
    if host.is_some_and(|host| !host.eq_ignore_ascii_case(own)) {
        let cause = format!("is the login of {own}, and not of {}", host.unwrap_or_default());
        return Err(unfit(cause, "name the credential of that host, or leave out `host`"));
    }
    let Some(username) = &credential.username else {
        return Err(unfit(
            "names no account".to_owned(),
            "write whose it is: `username: user@vsphere.local`",
        ));
    };
    let password = match (&credential.password, &credential.password_file) {
        (Some(password), None) => password.clone(),
        (None, Some(file)) => password_in(&file.to_path())?,
        _ => {
            return Err(unfit(
                "has to have either `password` or `password_file`".to_owned(),
                "write one of them: `password: …`, or `password_file:` with the path of a file that holds nothing else",
            ));
        }
    };
    let trust = trusted(credential, &file)?;
    let endpoint = Endpoint { host: own.to_owned(), port, trust };
    Ok((endpoint, Login { username: username.as_str().to_owned(), password }))
}

fn trusted(credential: &Credential, file: &str) -> Result<Trusted> {
    let pinned = credential.pinned(file)?;
    let contradiction = |field: &str, advice: &str| {
        Error::new(Kind::Manifest, "the credential says in two ways how the certificate is trusted")
            .file(file)
            .field(field)
            .advice(advice.to_owned())
    };
    match (pinned, &credential.ca_file, credential.verify_ssl) {
        (Some(_), Some(_), _) => Err(contradiction("ca_file", "a thumbprint is enough: remove `ca_file`")),
        (Some(_), _, Some(false)) | (_, Some(_), Some(false)) => {
            Err(contradiction("verify_ssl", "remove `verify_ssl: false`: the certificate can be checked"))
        }
        (Some(pinned), None, _) => Ok(Trusted::Pinned(pinned)),
        (None, None, Some(false)) => Ok(Trusted::Anything),
        (None, ca_file, _) => Ok(Trusted::System { ca_file: ca_file.as_ref().map(AbsolutePath::to_path) }),
    }
}

/// The password that a file holds, and nothing else.
pub fn password_in(path: &Path) -> Result<Secret> {
    let text = secret::read(path).map_err(|error| unread("read the password in", path, &error))?;
    let password = secret::without_line_break(&text);
    match password.is_empty() {
        true => Err(Error::new(Kind::Auth, format!("{} is empty", path.display()))
            .advice("write the password into it")),
        false => Ok(Secret::made(password)),
    }
}

fn unread(what: &str, path: &Path, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "check the name; whoever administers this machine puts the file there",
        io::ErrorKind::InvalidData => "it has to be text",
        _ => {
            "it has to be a plain file, no symbolic link, that the user who asks may read and not everybody may write"
        }
    };
    Error::io(Kind::Auth, what, path, error).advice(advice)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::thumbprint::Thumbprint;

    fn stored(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("vc.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_credential_is_a_login_for_its_own_host_alone() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "geheim\n").unwrap();
        let text = format!("host: VC.example.com\nusername: u\npassword_file: {}\n", secret.display());
        let path = stored(dir.path(), &text);
        let (endpoint, login) = read(&path, Some("vc.example.com"), 443).unwrap();
        assert_eq!((endpoint.host.as_str(), login.username.as_str()), ("VC.example.com", "u"));
        assert_eq!(login.password.reveal(), "geheim");
        let error = read(&path, Some("evil.example.com"), 443).unwrap_err();
        assert_eq!(error.kind(), Kind::Auth);
        assert!(!format!("{error:?}").contains("geheim"));
    }

    #[test]
    fn how_a_certificate_is_trusted_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let thumbprint = "ab".repeat(32);
        let trust = |text: &str| {
            let path = stored(dir.path(), &format!("host: h\nusername: u\npassword: p\n{text}"));
            read(&path, None, 443).map(|(endpoint, _)| endpoint.trust)
        };
        assert_eq!(trust("").unwrap(), Trusted::System { ca_file: None });
        assert_eq!(trust("ca_file: /ca.pem\n").unwrap(), Trusted::System { ca_file: Some("/ca.pem".into()) });
        assert_eq!(trust("verify_ssl: false\n").unwrap(), Trusted::Anything);
        assert_eq!(
            trust(&format!("thumbprint: {thumbprint}\n")).unwrap(),
            Trusted::Pinned(Thumbprint([0xab; 32]))
        );
        for text in [
            "ca_file: /ca.pem\nverify_ssl: false\n".to_owned(),
            format!("thumbprint: {thumbprint}\nverify_ssl: false\n"),
            format!("thumbprint: {thumbprint}\nca_file: /ca.pem\n"),
            "thumbprint: abcd\n".to_owned(),
        ] {
            assert_eq!(trust(&text).unwrap_err().kind(), Kind::Manifest, "{text}");
        }
    }
}
