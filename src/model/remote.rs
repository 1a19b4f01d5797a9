//! A VM that only its vCenter knows: who is asked for it, by which login, and how its disks come here.
//!
//! A plan with such a source is made twice by the same rules: at acceptance, when nobody is asked and it has no disks; and when
//! the VM was found, by what was found ([`planner::describe`](super::planner::describe)). What is not here: asking.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::facts::{Facts, SourceNote};
use super::manifest::{SnapshotQuiesce, VsphereMode, VsphereTransport};
use super::plan::Plan;
use super::planner::Submission;
use super::selection::Selecting;
use super::thumbprint::Thumbprint;
use super::transports::{self, Candidate};
use super::warm::PlannedWarm;

/// Where `https` is spoken if nobody says otherwise.
pub const HTTPS_PORT: u16 = 443;
/// Where an ESXi host's shell is reached if nobody says otherwise.
pub const SSH_PORT: u16 = 22;
/// How many connections bring a VM's disks if nobody says otherwise.
pub const CONNECTIONS: u32 = 4;

/// What an error breaks that says that a login was refused.
pub const LOGIN_RULE: &str = "source.login";

/// What an error breaks that says that a snapshot of ours may not stay, or none be made: for lack of room, or because of its age.
pub const SNAPSHOT_RULE: &str = "source.snapshot";

/// What an error breaks that says that a VM has other disks than its plan was made for.
pub const CHANGED_RULE: &str = "source.changed";

/// What is told where nobody looked into a guest beforehand.
pub const NOT_OPENED_RULE: &str = "guest.not_opened";

/// What an error breaks that says that the window closed in which its source could have been shut down.
pub const WINDOW_RULE: &str = "source.window";

/// A VM of a vCenter or an ESXi host, as a manifest names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedRemote {
    /// Who is asked; none: whoever the stored credential is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// At which port.
    pub port: u16,
    /// By which login.
    pub login: PlannedLogin,
    /// The certificate that is expected there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbprint: Option<Thumbprint>,
    /// Which VM.
    pub vm: WantedVm,
    /// Only in this datacenter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Only one with a disk on this datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    /// Only in this folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Whether it runs meanwhile.
    pub mode: VsphereMode,
    /// How its bytes are to come.
    pub transport: VsphereTransport,
    /// How they can, as far as that is known since the VM was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<Candidate>,
    /// On how many connections, at most.
    pub connections: u32,
    /// Whether somebody has asked that its guest is looked into before a byte of it is copied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub looks_first: bool,
    /// How it is shut down when it runs; none: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<PlannedShutdown>,
    /// What is changed there once its result has taken its place.
    #[serde(default, skip_serializing_if = "PlannedAfter::is_nothing")]
    pub after: PlannedAfter,
    /// How snapshots of it are made, if it runs meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<PlannedSnapshot>,
    /// Whether the result's cards have no link, because its source runs on with the same addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// How it is migrated while it runs, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<PlannedWarm>,
    /// Which it is there, once it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundVm>,
    /// What the plan is made of again when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<Box<Draft>>,
}

/// How a source is shut down.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlannedShutdown {
    /// How long its guest may take.
    pub timeout_s: f64,
    /// Whether its power is cut when it does not shut down in time, or cannot be asked.
    pub force_off: bool,
}

/// What is changed at a source once its result has taken its place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedAfter {
    /// Its cards lose their links.
    pub disconnect_nics: bool,
    /// Its notes say where it went.
    pub annotate: bool,
    /// Its host does not start it any more.
    pub disable_autostart: bool,
    /// It is called so behind its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rename_suffix: Option<String>,
}

impl PlannedAfter {
    /// Whether it is left as it is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == PlannedAfter::default()
    }
}

/// How snapshots are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlannedSnapshot {
    /// Whether the guest stands still.
    pub quiesce: SnapshotQuiesce,
    /// None is made where less than so many hundredths of a datastore are free.
    pub min_free: u8,
    /// The copy is given up where it falls below so many.
    pub abort_free: u8,
    /// It is removed after so many seconds.
    pub max_age_s: f64,
}

impl PlannedSnapshot {
    /// As it holds where nobody says otherwise.
    pub const USUAL: PlannedSnapshot =
        PlannedSnapshot { quiesce: SnapshotQuiesce::Try, min_free: 20, abort_free: 10, max_age_s: 43_200.0 };
}

/// Which VM is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedVm {
    /// The one of this name.
    Name(String),
    /// The one with this UUID.
    Uuid(String),
    /// The one at this place of the inventory.
    Path(String),
    /// This managed object.
    Moref(String),
    /// The one of this VMX, or this disk, on the host itself: its shell is asked, and no API.
    File(String),
    /// None yet: it stands for those that are selected.
    Selected(Box<Selecting>),
}

impl WantedVm {
    /// For people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            WantedVm::Name(text)
            | WantedVm::Uuid(text)
            | WantedVm::Path(text)
            | WantedVm::Moref(text)
            | WantedVm::File(text) => text.clone(),
            WantedVm::Selected(selecting) => selecting.shown(),
        }
    }
}

/// Where the login is; never the password itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedLogin {
    /// In this stored credential (absolute).
    Credential(PathBuf),
    /// With the password in a file that holds nothing else (absolute).
    PasswordFile {
        /// Whose account.
        username: String,
        /// The file.
        file: PathBuf,
    },
    /// With the password that its manifest held, which the service keeps in a file (absolute) until the batch has ended.
    KeptPassword {
        /// Whose account.
        username: String,
        /// The file.
        file: PathBuf,
    },
    /// With the password in a variable of the environment.
    PasswordEnv {
        /// Whose account.
        username: String,
        /// The variable.
        variable: String,
    },
}

impl PlannedLogin {
    /// The file that it is in, if it is in one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            PlannedLogin::Credential(file)
            | PlannedLogin::PasswordFile { file, .. }
            | PlannedLogin::KeptPassword { file, .. } => Some(file),
            PlannedLogin::PasswordEnv { .. } => None,
        }
    }
}

/// What is told of a guest that was to be looked into first, and whose disks are read once.
#[must_use]
pub fn streams_note() -> SourceNote {
    SourceNote {
        rule: NOT_OPENED_RULE.to_owned(),
        about: None,
        message: "the guest is not looked at before the copy: its disks come as streams, which are read once"
            .to_owned(),
        advice: "it is looked at when they are here; `transport: https` lets it be looked at before"
            .to_owned(),
    }
}

/// A VM that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundVm {
    /// Who knows it.
    pub host: String,
    /// By which it is known there: `vm-42`.
    pub moref: String,
    /// The UUID that its server gave it, by which it is known again wherever it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_uuid: Option<String>,
    /// On which ESXi host it was when it was found, as its server calls that: `host-9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub esxi_host: Option<String>,
    /// On which datastores its disks are: `DC0/ds1`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub datastores: BTreeSet<String>,
}

/// What a plan is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// The submission, with this VM alone; where its results go is settled.
    pub submission: Submission,
    /// In the batch of this id.
    pub batch_id: String,
    /// What a rerun's results are told by.
    pub suffix: String,
}

/// What a submission says of a VM that is elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Entries of mappings that are meant for this very machine: mapping and key. When it is known they have to be for something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_entries: Vec<(String, String)>,
    /// Which it is, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundVm>,
    /// Whether its guest is to be looked into before it is copied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub looks_first: bool,
    /// The VMs that it stands for, where it is an entry of a batch that selects some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selecting: Option<Box<Selecting>>,
}

/// What was found out of a VM by asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Which it is.
    pub vm: FoundVm,
    /// What it is.
    pub facts: Facts,
    /// By which ways its bytes can come.
    #[serde(default)]
    pub ways: Vec<Candidate>,
}

/// How a remote source binds the scheduler: of which server it is and where there, and who logs in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteNeed {
    /// The server; jobs of one server are counted together.
    pub server: String,
    /// The login; what is refused to one job is refused to all that have it.
    pub login: String,
    /// Whoever mends it changes this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_file: Option<PathBuf>,
    /// The ESXi host, once it is known; jobs of one are counted together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub esxi_host: Option<String>,
    /// Its datastores, likewise.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub datastores: BTreeSet<String>,
    /// Whether its source is shut down.
    #[serde(default)]
    pub shuts_down: bool,
}

impl PlannedRemote {
    /// The VMX or the disk on a host that is reached by its shell alone.
    #[must_use]
    pub fn on_host(&self) -> Option<&str> {
        match &self.vm {
            WantedVm::File(path) => Some(path),
            _ => None,
        }
    }

    /// How it binds the scheduler. Until the VM was found, a server that only a credential names is called by that.
    #[must_use]
    pub fn need(&self) -> RemoteNeed {
        let file = self.login.file().map(Path::to_owned);
        let named = self.found.as_ref().map(|found| &found.host).or(self.host.as_ref());
        let server =
            named.cloned().or_else(|| Some(file.as_ref()?.display().to_string())).unwrap_or_default();
        let server = format!("{server}:{}", self.port);
        let login = match &self.login {
            // Its key is not its password: one may be refused where the other is taken.
            PlannedLogin::Credential(file) if self.on_host().is_some() => {
                format!("{} over SSH", file.display())
            }
            PlannedLogin::Credential(file) => file.display().to_string(),
            PlannedLogin::PasswordFile { username, .. } | PlannedLogin::PasswordEnv { username, .. } => {
                format!("{username}@{server}")
            }
            // Each batch has its own: what is wrong in one is mended in that one.
            PlannedLogin::KeptPassword { username, file } => {
                format!("{username}@{server} by {}", file.display())
            }
        };
        let (esxi_host, datastores) = self
            .found
            .as_ref()
            .map(|found| (found.esxi_host.clone(), found.datastores.clone()))
            .unwrap_or_default();
        RemoteNeed {
            server,
            login,
            login_file: file,
            esxi_host,
            datastores,
            shuts_down: self.shutdown.is_some(),
        }
    }

    /// For people: how its bytes come, and why not by the ways before that; one sentence each.
    #[must_use]
    pub fn ways_shown(&self) -> Vec<String> {
        let up_to = self.connections;
        if self.ways.is_empty() {
            return vec![match self.transport {
                VsphereTransport::Auto => "how its bytes come is settled when it was asked for".to_owned(),
                named => format!("over {}, on up to {up_to} connections", named.words()),
            }];
        }
        let chosen = transports::chosen(&self.ways);
        let left = self.ways.iter().take_while(|way| way.transport != chosen);
        let left = left
            .filter_map(|way| Some(format!("not over {}: {}", way.transport.words(), way.left.as_ref()?)));
        let taken = format!("over {}, on up to {up_to} connections", chosen.words());
        std::iter::once(taken).chain(left).collect()
    }

    /// For people: `web on vc.example`.
    #[must_use]
    pub fn shown(&self) -> String {
        let host = self.found.as_ref().map(|found| found.host.as_str()).or(self.host.as_deref());
        let at = host.map_or_else(
            || self.login.file().map(|file| format!("the server of {}", file.display())).unwrap_or_default(),
            str::to_owned,
        );
        format!("{} on {at}", self.vm.shown())
    }
}

impl Plan {
    /// Whether it is still to be asked which disks there are.
    #[must_use]
    pub fn is_to_be_described(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.found.is_none())
    }

    /// Whether it is an entry of a batch that stands for VMs of a server.
    #[must_use]
    pub fn stands_for_others(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| matches!(remote.vm, WantedVm::Selected(_)))
    }

    /// The same, for whoever makes no plan of it any more.
    #[must_use]
    pub fn without_draft(mut self) -> Plan {
        if let Some(remote) = &mut self.remote {
            remote.draft = None;
        }
        self
    }

    /// Whether these are the very disks that it was made for.
    #[must_use]
    pub fn has_the_disks_of(&self, facts: &Facts) -> bool {
        let found =
            facts.disks.iter().enumerate().map(|(number, disk)| (number, &disk.path, disk.capacity_bytes));
        let mut planned: Vec<_> =
            self.disks.iter().map(|disk| (disk.boot_order_hint, &disk.source, disk.bytes)).collect();
        planned.sort_unstable();
        found
            .map(|(number, path, bytes)| (u32::try_from(number).unwrap_or(u32::MAX), path, bytes))
            .eq(planned)
    }
}
