//! A stored credential: what an administrator keeps for manifests to name, so that no manifest has to hold it.
//!
//! One file each in `credentials.dir`, read by whoever does the work. What is not here: reading it, and what it opens.

use serde::Deserialize;

use super::error::Result;
use super::manifest::values::{AbsolutePath, Line, Secret};
use super::parse;

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
}

impl Credential {
    /// From the text of a file of this name.
    pub fn parse(text: &[u8], file: &str) -> Result<Credential> {
        parse::parse(text, file)?.decode()
    }
}
