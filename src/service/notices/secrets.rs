//! Secrets of receivers, read when they are needed and kept nowhere: so a file that was replaced counts from the next message on.

use std::io::Read as _;
use std::path::Path;

use super::trouble::Trouble;
use crate::model::config::SecretPlace;
use crate::model::credential::Credential;
use crate::sys::fs::open_nofollow;

/// No secret is longer.
const MOST_BYTES: u64 = 64 << 10;

/// A secret, and the login that came with it, if one did.
#[derive(Default)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) secret: String,
}

/// The secret itself. `host`: for whom; a stored credential of another host is not used.
pub(super) async fn reveal(place: &SecretPlace, host: &str) -> Result<Login, Trouble> {
    let (place, host) = (place.clone(), host.to_owned());
    let read = tokio::task::spawn_blocking(move || read(&place, &host));
    read.await.unwrap_or_else(|_| Err(Trouble::again("reading a secret broke off".to_owned())))
}

fn read(place: &SecretPlace, host: &str) -> Result<Login, Trouble> {
    match place {
        SecretPlace::Written(secret) => Ok(Login { username: None, secret: secret.reveal().to_owned() }),
        SecretPlace::File(path) => Ok(Login { username: None, secret: text_of(path)? }),
        SecretPlace::Credential(path) => stored(path, host),
    }
}

fn stored(path: &Path, host: &str) -> Result<Login, Trouble> {
    let unfit = |why: &str| Trouble::again(format!("the stored credential {} {why}", path.display()));
    let text = whole(path)?;
    // Its own words may show what stands in it.
    let credential = Credential::parse(text.as_bytes(), &path.display().to_string())
        .map_err(|error| unfit(&format!("is malformed (kind {})", error.kind())))?;
    if credential.host.as_ref().is_some_and(|its| its.as_str() != host) {
        return Err(unfit("is the login of another host"));
    }
    if let Some(member) = credential.of_a_server() {
        return Err(unfit(&format!("has `{member}`, which is for a vCenter or an ESXi host")));
    }
    let secret = match (credential.password, credential.password_file) {
        (Some(password), None) => password.reveal().to_owned(),
        (None, Some(file)) => text_of(&file.to_path())?,
        _ => return Err(unfit("has to have either `password` or `password_file`")),
    };
    Ok(Login { username: credential.username.map(|name| name.as_str().to_owned()), secret })
}

/// What a file holds, without the line break that editors put at its end.
fn text_of(path: &Path) -> Result<String, Trouble> {
    let text = whole(path)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Trouble::again(format!("{} is empty", path.display())));
    }
    Ok(text.to_owned())
}

fn whole(path: &Path) -> Result<String, Trouble> {
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        open_nofollow(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| {
        Trouble::again(format!("cannot read {} (a plain file, no symbolic link): {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::manifest::values::Secret;

    #[test]
    fn a_secret_is_read_from_where_it_is_and_its_trouble_shows_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, "hunter2\n").unwrap();
        let stored = dir.path().join("mail.yaml");
        fs::write(&stored, format!("host: mail\nusername: bot\npassword_file: {}\n", file.display()))
            .unwrap();
        let secret = |place: &SecretPlace| read(place, "mail").map(|login| (login.username, login.secret));
        assert_eq!(secret(&SecretPlace::File(file.clone())), Ok((None, "hunter2".to_owned())));
        assert_eq!(
            secret(&SecretPlace::Credential(stored.clone())),
            Ok((Some("bot".to_owned()), "hunter2".to_owned()))
        );
        let error = read(&SecretPlace::Credential(stored.clone()), "other").err().unwrap();
        assert!(error.text.contains("another host"), "{error:?}");
        fs::write(&stored, "password: [hunter2\n").unwrap();
        let error = read(&SecretPlace::Credential(stored), "mail").err().unwrap();
        assert!(!error.text.contains("hunter2"), "{error:?}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(read(&SecretPlace::File(link), "mail").is_err());
        assert!(!format!("{:?}", SecretPlace::Written(Secret::made("hunter2"))).contains("hunter2"));
    }
}
