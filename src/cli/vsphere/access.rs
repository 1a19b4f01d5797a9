//! Who is asked, and as whom: a stored credential, or what a person says.
//!
//! A password is never an argument, which everybody on the machine could read. What is not here: what is asked.

use std::path::{Path, PathBuf};

use crate::cli::interrupt;
use crate::disk::Control;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Secret;
use crate::model::thumbprint::Thumbprint;
use crate::model::units::is_id;
use crate::sys::{prompt, secret};
use crate::vsphere::endpoint::PORT;
use crate::vsphere::{Client, Endpoint, Login, Patience, Trusted, stored};

/// Where systemd puts the credentials of a unit.
const SYSTEMD: &str = "CREDENTIALS_DIRECTORY";

/// Which server, as whom, and how it is trusted.
#[derive(Debug, clap::Args)]
pub(super) struct AccessArgs {
    /// A stored credential: host, account, password and how the host is trusted
    #[arg(long, value_name = "NAME", global = true, conflicts_with_all = ["username", "password_file", "password_env", "password_credential", "ca_file", "thumbprint", "insecure"])]
    credential: Option<String>,
    /// The vCenter or ESXi host [default: that of the credential]
    #[arg(long, value_name = "HOST", global = true)]
    host: Option<String>,
    /// Its port [default: 443]
    #[arg(long, value_name = "PORT", global = true)]
    port: Option<u16>,
    /// The account
    #[arg(long, value_name = "USER", global = true)]
    username: Option<String>,
    /// The file that holds its password and nothing else [default: it is asked for]
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<PathBuf>,
    /// The variable that holds its password
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "password_file")]
    password_env: Option<String>,
    /// The credential of systemd's that holds its password
    #[arg(long, value_name = "NAME", global = true, conflicts_with_all = ["password_file", "password_env"])]
    password_credential: Option<String>,
    /// Trust who stands in this file (PEM), besides those whom this machine does
    #[arg(long, value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// Trust the certificate with this SHA-256, and no other
    #[arg(long, value_name = "SHA256", global = true, conflicts_with = "ca_file", value_parser = thumbprint)]
    thumbprint: Option<Thumbprint>,
    /// Trust whoever answers, and give them the password
    #[arg(long, global = true, conflicts_with_all = ["ca_file", "thumbprint"])]
    insecure: bool,
}

fn thumbprint(text: &str) -> std::result::Result<Thumbprint, String> {
    Thumbprint::parse(text).map_err(str::to_owned)
}

impl AccessArgs {
    /// Logs in. An interrupt ends whatever is waited for.
    pub(super) fn connect(&self, settings: &Settings) -> Result<Client> {
        if let Err(error) = secret::keep_out_of_dumps() {
            tracing::debug!(%error, "a password may be in what is left of this process if it dies");
        }
        let (endpoint, login) = match &self.credential {
            Some(name) => self.stored(name, settings)?,
            None => (self.endpoint()?, self.login()?),
        };
        let control = Control::new();
        interrupt::ends(&control);
        Client::connect(&endpoint, &login, &Patience::of(&settings.vc_connection), &control)
    }

    fn stored(&self, name: &str, settings: &Settings) -> Result<(Endpoint, Login)> {
        if !is_id(name) {
            return Err(Error::new(Kind::Manifest, format!("`{name}` is no name of a credential"))
                .advice("a name is letters, digits, dots, underscores and hyphens"));
        }
        let path = settings.credentials.dir.join(format!("{name}.yaml"));
        stored::read(&path, self.host.as_deref(), self.port.unwrap_or(PORT))
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let Some(host) = self.host.clone() else {
            return Err(Error::new(Kind::Manifest, "it is not said who is asked")
                .advice("name a stored credential (`--credential NAME`), or a host and an account (`--host HOST --username USER`)"));
        };
        let trust = match (self.thumbprint, self.insecure) {
            (Some(thumbprint), _) => Trusted::Pinned(thumbprint),
            (None, true) => Trusted::Anything,
            (None, false) => Trusted::System { ca_file: self.ca_file.clone() },
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Endpoint { host, port: self.port.unwrap_or(PORT), trust })
    }

    fn login(&self) -> Result<Login> {
        let Some(username) = self.username.clone() else {
            return Err(Error::new(Kind::Manifest, "it is not said as whom is asked").advice(
                "name an account (`--username USER`), or a stored credential (`--credential NAME`)",
            ));
        };
        Ok(Login { password: self.password(&username)?, username })
    }

    fn password(&self, username: &str) -> Result<Secret> {
        if let Some(path) = &self.password_file {
            return stored::password_in(path);
        }
        if let Some(name) = &self.password_env {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            return value.map(|value| Secret::made(&value)).ok_or_else(|| {
                Error::new(Kind::Auth, format!("the variable {name} holds no password"))
                    .advice("set it, or use `--password-file`")
            });
        }
        if let Some(name) = &self.password_credential {
            let directory = std::env::var_os(SYSTEMD).ok_or_else(|| {
                Error::new(Kind::Auth, "systemd gave this process no credentials")
                    .advice(format!("run it in a unit with `LoadCredential={name}:FILE`"))
            })?;
            if !is_id(name) {
                return Err(Error::new(
                    Kind::Manifest,
                    format!("`{name}` is no name of a credential of systemd's"),
                )
                .advice("a name is letters, digits, dots, underscores and hyphens"));
            }
            return stored::password_in(&Path::new(&directory).join(name));
        }
        let host = self.host.as_deref().unwrap_or_default();
        let asked = prompt::hidden(&format!("Password of {username} at {host}: "));
        match asked {
            Ok(Some(password)) => Ok(Secret::made(&password)),
            Ok(None) => Err(Error::new(Kind::Cancelled, "no password was given")),
            Err(error) => {
                Err(Error::new(Kind::Auth, format!("a password cannot be asked for here: {error}")).advice(
                    "use `--password-file`, `--password-env`, `--password-credential` or a stored credential",
                ))
            }
        }
    }
}
