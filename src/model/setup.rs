//! What an administrator wants to be set up inside the guest: `configuration` of the manifest, checked and spelled out.
//!
//! Pure data, the same for the plan that is stored and for the repairs that carry it out. Names are safe as names of files, texts are
//! rendered, a password is only its hash (see `docs/adr/0015`). What is not here: how any of it is put into a guest.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// All of it; empty where nothing is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// The guest's own name.
    pub host: Option<HostName>,
    /// Names that the guest is to know: one address each.
    pub hosts: BTreeMap<IpAddr, Vec<String>>,
    /// Who may log in.
    pub accounts: Accounts,
    /// What starts.
    pub services: Services,
    /// What runs once.
    pub first_boot: Option<FirstBoot>,
    /// What cloud-init is told.
    pub cloud_init: Option<CloudInit>,
    /// Files of systemd-networkd.
    pub networkd: Vec<NamedText>,
    /// Files of NetworkManager.
    pub network_manager: Vec<NamedText>,
}

/// The guest's own name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostName {
    /// As in `/etc/hostname`.
    pub name: String,
    /// With its domain, if one is given.
    pub full: Option<String>,
}

/// Who may log in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accounts {
    /// Made or changed.
    pub wanted: Vec<Account>,
    /// Locked and expired.
    pub disabled: Vec<String>,
    /// Removed; their directories stay.
    pub deleted: Vec<String>,
}

impl Accounts {
    /// Puts something in the place of every hash that nobody can guess at.
    pub fn hide_passwords(&mut self) {
        for hash in self.wanted.iter_mut().filter_map(|account| account.password_hash.as_mut()) {
            hash.0 = "***".to_owned();
        }
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.disabled.is_empty() && self.deleted.is_empty()
    }
}

/// One account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Option<u32>,
    /// Its group's number.
    pub gid: Option<u32>,
    /// Further groups.
    pub groups: Vec<String>,
    /// For people.
    pub comment: Option<String>,
    /// Its shell.
    pub shell: Option<String>,
    /// Its directory.
    pub home: Option<String>,
    /// Whether that is made; where nothing is said, for a new account.
    pub create_home: Option<bool>,
    /// Its password, as crypt(3) makes it.
    pub password_hash: Option<PasswordHash>,
    /// Whether passwords are not taken; where nothing is said it stays as it is.
    pub lock: Option<bool>,
    /// Lines of `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// What follows its name in lines of sudoers.
    pub sudo: Vec<String>,
}

/// A password as crypt(3) makes it. What can be guessed at is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(***)")
    }
}

/// What starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Services {
    /// With the guest.
    pub enable: Vec<String>,
    /// Not by itself.
    pub disable: Vec<String>,
    /// Never.
    pub mask: Vec<String>,
}

impl Services {
    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.enable.is_empty() && self.disable.is_empty() && self.mask.is_empty()
    }
}

/// What runs once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstBoot {
    /// The unit: `hyper2kvm-firstboot.service`
    pub service: String,
    /// The scripts, in the order in which they run.
    pub scripts: Vec<NamedText>,
}

/// What cloud-init is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloudInit {
    /// Its own configuration.
    pub drop_in: serde_json::Map<String, serde_json::Value>,
    /// What it finds as a cloud's data.
    pub seed: Option<Seed>,
    /// Have a guest without it install it.
    pub install: bool,
}

/// A seed of the data source NoCloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Where it lies.
    pub directory: String,
    /// `user-data`
    pub user_data: String,
    /// `meta-data`
    pub meta_data: String,
    /// `network-config`
    pub network_config: Option<String>,
}

/// A file's name and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedText {
    /// The name, without a directory.
    pub name: String,
    /// The text.
    pub text: String,
}
