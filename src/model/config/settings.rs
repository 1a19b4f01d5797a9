//! The settings in force: what the configuration files come to, validated and with all defaults filled in.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LibvirtSettings, NotificationSettings, PreflightSettings, VcConnectionSettings};
use crate::model::bandwidth::Limit;
use crate::model::retry::{JITTER, Retries, backoff_s};

/// Everything that can be configured in this version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// State directory (a local file system).
    pub state_dir: PathBuf,
    /// Where batches without a directory of their own put results; default `<state>/output`.
    pub output_dir: PathBuf,
    /// Working files; default `<state>/work`.
    pub work_dir: PathBuf,
    /// Custom profiles.
    pub profiles_dir: PathBuf,
    /// How many jobs run at a time.
    pub max_concurrent_jobs: u32,
    /// No progress for this long fails a copy.
    pub stall_timeout_s: f64,
    /// Another host's lock that gives no sign of life for this long may be taken over.
    pub takeover_stale_s: f64,
    /// More words in the log (0 and 1 info, 2 debug, 3 trace).
    pub verbose: u8,
    /// Go on from partial results after a restart (the seed's key).
    pub enable_recovery: bool,
    /// The drop directory.
    pub intake: IntakeSettings,
    /// Which paths drops may name.
    pub paths: PathSettings,
    /// Which secrets drops may name.
    #[serde(default)]
    pub credentials: CredentialSettings,
    /// What drops may have done to their sources.
    #[serde(default)]
    pub sources: SourceSettings,
    /// What drops may have run.
    #[serde(default)]
    pub hooks: HookSettings,
    /// What is looked at before bytes move.
    #[serde(default)]
    pub preflight: PreflightSettings,
    /// When to try again.
    pub retry: RetrySettings,
    /// How long things are kept.
    pub retention: RetentionSettings,
    /// What stays free, and how fast sources are read.
    pub limits: LimitSettings,
    /// Which libvirt is asked.
    #[serde(default)]
    pub libvirt: LibvirtSettings,
    /// When a vCenter is asked again.
    #[serde(default)]
    pub vc_connection: VcConnectionSettings,
    /// Where VMware's own library is.
    #[serde(default)]
    pub vddk: VddkSettings,
    /// When to pause for the network.
    pub network_monitor: NetworkSettings,
    /// Who is told of what.
    #[serde(default)]
    pub notifications: NotificationSettings,
    /// The control socket.
    pub control: ControlSettings,
    /// Metrics.
    pub metrics: MetricsSettings,
    /// Logs.
    pub log: LogSettings,
}

/// `intake.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntakeSettings {
    /// Default `<state>/incoming`.
    pub dir: PathBuf,
    /// How long a manifest found by a listing has to hold still.
    pub settle_manifest_s: f64,
    /// How long a disk has to that was not renamed into place.
    pub settle_disk_s: f64,
    /// Whether disks are drops.
    pub accept_disks: bool,
    /// The profile of their manifests.
    pub profile: String,
    /// How long a disk waits for what belongs to it.
    pub companion_wait_s: f64,
}

/// `paths.*`: empty lists bind nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathSettings {
    /// Sources must lie below one of these.
    pub read: Vec<PathBuf>,
    /// Results must lie below one of these.
    pub write: Vec<PathBuf>,
}

/// `credentials.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSettings {
    /// Where stored credentials are, one file each.
    pub dir: PathBuf,
    /// Key files must lie below one of these.
    pub allowed_dirs: Vec<PathBuf>,
    /// Variables of the environment in which passwords may be; `*`: in any.
    #[serde(default)]
    pub allowed_env: Vec<String>,
    /// Whether a manifest may hold passwords in clear text.
    pub allow_inline: bool,
}

impl CredentialSettings {
    /// Where the stored credential of this name is.
    #[must_use]
    pub fn stored(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.yaml"))
    }
}

impl Default for CredentialSettings {
    fn default() -> CredentialSettings {
        CredentialSettings {
            dir: PathBuf::from("/etc/hyper2kvm/credentials.d"),
            allowed_dirs: Vec::new(),
            allowed_env: Vec::new(),
            allow_inline: false,
        }
    }
}

/// `vddk.*`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VddkSettings {
    /// Where VMware's library is unpacked; none: a credential says so, or it is not used.
    pub libdir: Option<PathBuf>,
}

/// `sources.*`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSettings {
    /// Whether a manifest may have its source shut down.
    pub allow_shutdown: bool,
}

/// `hooks.*`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSettings {
    /// Scripts and modules must lie below one of these; empty: none is run.
    pub allowed_dirs: Vec<PathBuf>,
}

/// `retry.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrySettings {
    /// Attempts without progress in between.
    pub max_attempts: u32,
    /// Before the second attempt.
    pub base_delay_s: f64,
    /// At most.
    pub max_delay_s: f64,
    /// ± this part, at random.
    pub jitter: f64,
    /// After this long since the first failure without progress, give up.
    pub give_up_after_s: f64,
    /// Operations within an attempt.
    #[serde(default)]
    pub operations: Retries,
}

impl RetrySettings {
    /// Seconds before the next attempt after so many failures in a row; `random` is in 0..1.
    #[must_use]
    pub fn backoff_s(&self, failures: u32, random: f64) -> f64 {
        backoff_s(failures, (self.base_delay_s, self.max_delay_s), self.jitter, random)
    }

    /// Seconds to wait once more for what has been away for so long: as long again, within the same bounds.
    #[must_use]
    pub fn wait_again_s(&self, away_s: f64, random: f64) -> f64 {
        let delay = away_s.max(self.base_delay_s).min(self.max_delay_s);
        backoff_s(1, (delay, delay), self.jitter, random)
    }
}

/// `retention.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetentionSettings {
    /// Ended batches in the queue, and their progress files.
    pub history_s: f64,
    /// Logs.
    pub logs_s: f64,
    /// Partial results of failed jobs.
    pub failed_partial_s: f64,
}

/// `limits.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitSettings {
    /// Stays free on every file system; `None`: the larger of 5 % and 20 GiB, at most a tenth of it.
    pub disk_reserve_bytes: Option<u64>,
    /// How fast sources are read; the first whose time it is holds, and none: as fast as it goes.
    pub bandwidth: Vec<Limit>,
    /// How many jobs have their source on one server; none: as many as run.
    pub per_vcenter: Option<u32>,
    /// How many have it on one ESXi host of such a server.
    pub per_esxi_host: u32,
    /// How many have disks on one datastore; none: as many as run.
    pub per_datastore: Option<u32>,
    /// How many write to one file system; none: as many as run.
    pub per_target_fs: Option<u32>,
    /// On how many connections all jobs together read from one server, as far as each has one.
    pub connections_per_host: u32,
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        LimitSettings {
            disk_reserve_bytes: None,
            bandwidth: Vec::new(),
            per_vcenter: None,
            per_esxi_host: 2,
            per_datastore: None,
            per_target_fs: None,
            connections_per_host: 4,
        }
    }
}

/// What pauses when the network is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PauseScope {
    /// Every job.
    All,
    /// Only jobs with remote inputs or outputs.
    NetworkJobs,
}

/// What happens when the network stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNetworkTimeout {
    /// Wait on, until `retry.give_up_after_s`.
    Wait,
    /// Fail waiting jobs as transient.
    Fail,
}

/// `network_monitor.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkSettings {
    /// Whether it runs at all.
    pub enabled: bool,
    /// All of these that exist have to be up.
    pub required_interfaces: Vec<String>,
    /// Then an outage is notified.
    pub max_network_wait_s: f64,
    /// Whether an outage pauses jobs.
    pub pause_on_network_down: bool,
    /// Which jobs.
    pub pause_scope: PauseScope,
    /// What then.
    pub on_network_timeout: OnNetworkTimeout,
}

/// `control.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlSettings {
    /// `None`: `/run/hyper2kvm/control.sock` for the default state directory, `<state>/control.sock` for others.
    pub socket: Option<PathBuf>,
    /// Members may read.
    pub group: String,
    /// Members may act.
    pub admin_group: String,
}

/// `metrics.*`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsSettings {
    /// Prometheus text file for node_exporter.
    pub textfile: Option<PathBuf>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `log.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogSettings {
    /// On stderr and in the file.
    pub format: LogFormat,
    /// Also to this file.
    pub file: Option<PathBuf>,
    /// To the journal, where there is one.
    pub journald: bool,
}

/// The state directory of an installed service.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/hyper2kvm";

/// The control socket of an installed service.
pub const DEFAULT_SOCKET: &str = "/run/hyper2kvm/control.sock";

impl Settings {
    /// The built-in defaults for a state directory on a machine with this many cores.
    #[must_use]
    pub fn defaults(state_dir: &Path, cores: u32) -> Settings {
        Settings {
            state_dir: state_dir.to_owned(),
            output_dir: state_dir.join("output"),
            work_dir: state_dir.join("work"),
            profiles_dir: PathBuf::from("/etc/hyper2kvm/profiles"),
            max_concurrent_jobs: (cores / 2).clamp(1, 3),
            stall_timeout_s: 600.0,
            takeover_stale_s: 300.0,
            verbose: 0,
            enable_recovery: true,
            intake: IntakeSettings {
                dir: state_dir.join("incoming"),
                settle_manifest_s: 2.0,
                settle_disk_s: 30.0,
                accept_disks: false,
                profile: "production".to_owned(),
                companion_wait_s: 300.0,
            },
            paths: PathSettings::default(),
            credentials: CredentialSettings::default(),
            sources: SourceSettings::default(),
            hooks: HookSettings::default(),
            preflight: PreflightSettings::default(),
            retry: RetrySettings {
                max_attempts: 5,
                base_delay_s: 10.0,
                max_delay_s: 600.0,
                jitter: JITTER,
                give_up_after_s: 43_200.0,
                operations: Retries::default(),
            },
            retention: RetentionSettings {
                history_s: 365.0 * 86_400.0,
                logs_s: 90.0 * 86_400.0,
                failed_partial_s: 72.0 * 3600.0,
            },
            limits: LimitSettings::default(),
            libvirt: LibvirtSettings::default(),
            vc_connection: VcConnectionSettings::default(),
            vddk: VddkSettings::default(),
            network_monitor: NetworkSettings {
                enabled: true,
                required_interfaces: Vec::new(),
                max_network_wait_s: 300.0,
                pause_on_network_down: true,
                pause_scope: PauseScope::All,
                on_network_timeout: OnNetworkTimeout::Wait,
            },
            notifications: NotificationSettings::default(),
            control: ControlSettings {
                socket: None,
                group: "hyper2kvm".to_owned(),
                admin_group: "hyper2kvm-admin".to_owned(),
            },
            metrics: MetricsSettings::default(),
            log: LogSettings { format: LogFormat::Text, file: None, journald: true },
        }
    }

    /// For what a person does on the command line: of what they name, only permissions bind.
    #[must_use]
    pub fn for_a_person(mut self) -> Settings {
        self.credentials.allowed_dirs = vec![PathBuf::from("/")];
        self.credentials.allowed_env = vec!["*".to_owned()];
        self.credentials.allow_inline = true;
        self
    }

    /// How many steps more than `info` the log says: `verbose` as the log's own steps.
    #[must_use]
    pub fn verbosity(&self) -> i8 {
        i8::try_from(self.verbose.saturating_sub(1)).unwrap_or(i8::MAX)
    }

    /// Where the control socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match &self.control.socket {
            Some(path) => path.clone(),
            None if self.state_dir == Path::new(DEFAULT_STATE_DIR) => PathBuf::from(DEFAULT_SOCKET),
            None => self.state_dir.join("control.sock"),
        }
    }

    /// Everything below the state directory, said once.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout { state_dir: self.state_dir.clone() }
    }
}

/// The names below the state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state_dir: PathBuf,
}

impl Layout {
    /// Accepted drops that are being worked on.
    #[must_use]
    pub fn processing(&self) -> PathBuf {
        self.state_dir.join("processing")
    }
    /// Drops whose VMs all succeeded or were skipped, by UTC date.
    #[must_use]
    pub fn processed(&self) -> PathBuf {
        self.state_dir.join("processed")
    }
    /// Drops that were refused or had a VM that failed, by UTC date.
    #[must_use]
    pub fn failed(&self) -> PathBuf {
        self.state_dir.join("failed")
    }
    /// Logs of jobs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.state_dir.join("logs")
    }
    /// The log of one attempt of one job.
    #[must_use]
    pub fn job_log(&self, batch_id: &str, vm_id: &str, attempt: u32) -> PathBuf {
        self.logs().join(batch_id).join(format!("{vm_id}.{attempt}.log"))
    }
    /// Passwords that manifests held, by batch, until it has ended.
    #[must_use]
    pub fn passwords(&self) -> PathBuf {
        self.state_dir.join("passwords")
    }
    /// The one of an account, by a name that is one for files.
    #[must_use]
    pub fn kept_password(&self, batch_id: &str, account: &str) -> PathBuf {
        self.passwords().join(batch_id).join(account)
    }
    /// Progress files.
    #[must_use]
    pub fn progress(&self) -> PathBuf {
        self.state_dir.join("progress")
    }
    /// The progress file of one batch.
    #[must_use]
    pub fn batch_progress(&self, batch_id: &str) -> PathBuf {
        self.progress().join(format!("{batch_id}.json"))
    }
    /// For monitors.
    #[must_use]
    pub fn status_file(&self) -> PathBuf {
        self.state_dir.join("status.json")
    }
    /// The queue.
    #[must_use]
    pub fn queue_db(&self) -> PathBuf {
        self.state_dir.join("queue.db")
    }
    /// Held by the daemon that owns the state directory.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state_dir.join("daemon.lock")
    }
}
