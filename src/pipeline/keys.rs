//! Keys of encrypted volumes, read from where a plan or a person says they are.
//!
//! A key file holds nothing but the key; a stored credential names it, or the file that does. They are read when the work begins and
//! never stored. What is not here: who may name which file (see the planner), and what is opened with a key.

use std::io;
use std::path::Path;

use crate::model::credential::Credential;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::KeySource;
use crate::sys::secret;

/// The key that a plan names.
pub(super) fn planned(source: &KeySource) -> Result<String> {
    match source {
        KeySource::KeyFile(path) => key_file(path).map_err(|error| error.field("luks.key_file")),
        KeySource::Credential(path) => credential(path).map_err(|error| error.field("luks.credential")),
    }
}

/// What a key file holds, without the line break that editors put at its end.
pub fn key_file(path: &Path) -> Result<String> {
    let text = read(path, "read the key file")?;
    Ok(secret::without_line_break(&text).to_owned())
}

/// The password of a stored credential.
fn credential(path: &Path) -> Result<String> {
    let text = read(path, "read the stored credential")?;
    let credential = Credential::parse(text.as_bytes(), &path.display().to_string())?;
    let unfit = |cause: &str, advice: &str| {
        let path = path.display();
        Error::new(Kind::Source, format!("the stored credential {path} {cause}")).advice(advice)
    };
    if credential.host.is_some() || credential.username.is_some() || credential.of_a_server().is_some() {
        return Err(unfit(
            "is the login of a host, and a guest that is given it could keep it",
            "store the volume's key in a credential of its own, without `host` and `username`",
        ));
    }
    match (credential.password, credential.password_file) {
        (Some(password), None) => Ok(password.reveal().to_owned()),
        (None, Some(file)) => key_file(&file.to_path()),
        _ => Err(unfit(
            "has to have either `password` or `password_file`",
            "write one of them: `password: …`, or `password_file:` with the path of a file that holds nothing else",
        )),
    }
}

fn read(path: &Path, what: &str) -> Result<String> {
    secret::read(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "check the name; whoever administers this machine puts the file there",
            io::ErrorKind::InvalidData => "a key has to be text: passphrases are, random bytes are not",
            _ => {
                "it has to be a plain file, no symbolic link, that the user who converts may read and not everybody may write"
            }
        };
        Error::io(Kind::Source, what, path, &error).advice(advice)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn written(dir: &Path, name: &str, text: &[u8]) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_key_file_is_its_content_without_the_last_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let file = written(dir.path(), "key", b" two words \r\n");
        assert_eq!(key_file(&file).unwrap(), " two words ");
        assert_eq!(planned(&KeySource::KeyFile(file)).unwrap(), " two words ");
    }

    #[test]
    fn a_credential_holds_the_key_or_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let key = written(dir.path(), "key", b"geheim\n");
        let inline = written(dir.path(), "a.yaml", b"password: geheim\n");
        let named = written(dir.path(), "b.yaml", format!("password_file: {}\n", key.display()).as_bytes());
        for file in [inline, named] {
            assert_eq!(planned(&KeySource::Credential(file)).unwrap(), "geheim");
        }
    }

    #[test]
    fn what_is_no_key_is_told_to_be_none_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = written(dir.path(), "bytes", &[0xff, 0xfe, 0]);
        let both = written(dir.path(), "both.yaml", b"password: geheim\npassword_file: /etc/key\n");
        let neither = written(dir.path(), "neither.yaml", b"{}\n");
        let other = written(dir.path(), "other.yaml", b"pass: geheim\n");
        let login = written(dir.path(), "login.yaml", b"host: vc.example.com\npassword: geheim\n");
        for (source, says) in [
            (KeySource::KeyFile(bytes), "cannot read the key file"),
            (KeySource::KeyFile(dir.path().join("nothing")), "cannot read the key file"),
            (KeySource::KeyFile(dir.path().to_owned()), "not a plain file"),
            (KeySource::Credential(both), "either `password` or `password_file`"),
            (KeySource::Credential(neither), "either `password` or `password_file`"),
            (KeySource::Credential(other), "unknown key `pass`"),
            (KeySource::Credential(login), "the login of a host"),
        ] {
            let error = planned(&source).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.details().advice.is_some(), "{error}");
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
    }
}
