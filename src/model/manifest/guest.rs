//! `configuration`: what is put into the guest.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::{Free, Line, PublicKey, Secret, Whole};

/// `configuration`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// For a guest that has cloud-init.
    pub cloud_init: Option<CloudInit>,
    /// Scripts for the first start.
    pub firstboot: Option<FirstBoot>,
    /// Accounts.
    pub users: Option<Users>,
    /// Services.
    pub services: Option<Services>,
    /// The guest's name.
    pub hostname: Option<Hostname>,
    /// Network files.
    pub network: Option<NetworkFiles>,
}

/// `configuration.cloud_init`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    /// Becomes a drop-in of cloud.cfg.d.
    pub dropin_cfg: Option<BTreeMap<String, Free>>,
    /// A NoCloud seed.
    pub nocloud: Option<NoCloud>,
    /// Install it where it is missing.
    pub install_if_missing: Option<bool>,
}

/// `configuration.cloud_init.nocloud`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoCloud {
    /// Where the seed lies in the guest.
    pub seed_dir: Option<Line>,
    /// `user-data`
    #[serde(rename = "user-data")]
    pub user_data: Option<Free>,
    /// `meta-data`
    #[serde(rename = "meta-data")]
    pub meta_data: Option<Free>,
    /// `network-config`
    #[serde(rename = "network-config")]
    pub network_config: Option<Free>,
}

/// `configuration.firstboot`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FirstBoot {
    /// The unit's name.
    pub service_name: Option<Line>,
    /// One script.
    pub script: Option<String>,
    /// Several.
    pub scripts: Option<Vec<FirstBootScript>>,
}

/// One of `configuration.firstboot.scripts`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FirstBootScript {
    /// Its name.
    pub name: Line,
    /// Its text.
    pub content: String,
    /// Lower runs first; default 50.
    pub order: Option<Whole<0, 999>>,
}

/// `configuration.users`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// Accounts to make or change.
    pub users: Option<Vec<GuestUser>>,
    /// Accounts to lock.
    pub disable_users: Option<Vec<Line>>,
    /// Accounts to remove.
    pub delete_users: Option<Vec<Line>>,
}

/// One account.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestUser {
    /// Its name.
    pub name: Line,
    /// Its number.
    pub uid: Option<Whole<0, 4_294_967_294>>,
    /// Its group's number.
    pub gid: Option<Whole<0, 4_294_967_294>>,
    /// Further groups.
    pub groups: Option<Vec<Line>>,
    /// For people.
    pub comment: Option<Line>,
    /// Its shell.
    pub shell: Option<Line>,
    /// Its directory.
    pub home: Option<Line>,
    /// Whether that is made.
    pub create_home: Option<bool>,
    /// In clear text.
    pub password: Option<Secret>,
    /// As crypt(3) makes it.
    pub password_hash: Option<Secret>,
    /// No password login.
    pub lock: Option<bool>,
    /// Public keys.
    pub ssh_keys: Option<Vec<PublicKey>>,
    /// The same as `ssh_keys`.
    pub ssh_authorized_keys: Option<Vec<PublicKey>>,
    /// What it may do as root.
    pub sudo: Option<Free>,
}

/// `configuration.services`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// Start them.
    pub enable: Option<Vec<Line>>,
    /// Do not.
    pub disable: Option<Vec<Line>>,
    /// Never.
    pub mask: Option<Vec<Line>>,
}

/// `configuration.hostname`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hostname {
    /// The name.
    pub hostname: Option<Line>,
    /// Its domain.
    pub domain: Option<Line>,
    /// Further lines of /etc/hosts: address to names.
    pub hosts: Option<BTreeMap<String, Line>>,
}

/// `configuration.network`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkFiles {
    /// For systemd-networkd.
    pub network_files: Option<Vec<NetworkFile>>,
    /// For NetworkManager.
    pub nm_connections: Option<Vec<NmConnection>>,
}

/// One file for systemd-networkd.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// Its name.
    pub name: Line,
    /// What it is.
    #[serde(rename = "type")]
    pub file_type: Option<NetworkFileType>,
    /// The number in front of its name; default 50.
    pub priority: Option<Whole<0, 99>>,
    /// Its text.
    pub content: String,
}

/// What a file for systemd-networkd is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkFileType {
    /// A network.
    Network,
    /// A device.
    Netdev,
}

/// One connection for NetworkManager.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NmConnection {
    /// Its name.
    pub name: Line,
    /// Its text.
    pub content: String,
}
