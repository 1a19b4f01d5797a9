//! A configuration file as written: every key of this version, all of them optional.
//!
//! Keys of features that this version lacks are in [`later`](super::later).

use schemars::JsonSchema;
use serde::Deserialize;

use super::{LibvirtFile, LogFormat, NotificationsFile, OnNetworkTimeout, PauseScope, PreflightFile};
use crate::model::bandwidth::Window;
use crate::model::manifest::values::{
    AbsolutePath, GroupName, Id, InterfaceName, Line, Rate, Seconds, Size, Whole,
};

/// A configuration file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// State directory, on a local file system. Default `/var/lib/hyper2kvm`.
    pub state_dir: Option<AbsolutePath>,
    /// Where batches without a directory of their own put results. Default `<state>/output`.
    pub output_dir: Option<AbsolutePath>,
    /// Working files. Default `<state>/work`.
    pub work_dir: Option<AbsolutePath>,
    /// Where custom profiles are, `<name>.yaml` each. Default /etc/hyper2kvm/profiles.
    pub profiles_dir: Option<AbsolutePath>,
    /// How many jobs run at a time. Default half the cores, 1 to 3.
    pub max_concurrent_jobs: Option<Whole<1, 1024>>,
    /// No progress for this long fails a copy. Default 600.
    pub stall_timeout_s: Option<Seconds>,
    /// Another host's lock on a directory with results that gives no sign of life for this long may be taken over. The same on all hosts
    /// that share directories. Default 300.
    pub takeover_stale_s: Option<Seconds>,
    /// How much is logged: 0 and 1 info, 2 debug, 3 trace. Default 0.
    pub verbose: Option<Whole<0, 3>>,
    /// Go on from partial results after a restart. Default true.
    pub enable_recovery: Option<bool>,
    /// The drop directory.
    pub intake: Option<IntakeFile>,
    /// Which paths drops may name.
    pub paths: Option<PathsFile>,
    /// Which secrets drops may name.
    pub credentials: Option<CredentialsFile>,
    /// What drops may have done to their sources.
    pub sources: Option<SourcesFile>,
    /// What drops may have run.
    pub hooks: Option<HooksFile>,
    /// What is looked at before bytes move.
    pub preflight: Option<PreflightFile>,
    /// When to try again.
    pub retry: Option<RetryFile>,
    /// How long things are kept.
    pub retention: Option<RetentionFile>,
    /// What stays free, and how fast sources are read.
    pub limits: Option<LimitsFile>,
    /// Which libvirt is asked.
    pub libvirt: Option<LibvirtFile>,
    /// How often a vCenter or ESXi host that does not answer is asked again. Default 3.
    pub vc_connection_max_retries: Option<Whole<0, 100>>,
    /// Before it is asked again for the first time; then it doubles. Default 2.
    pub vc_connection_base_backoff_s: Option<Seconds>,
    /// At most. Default 60.
    pub vc_connection_max_backoff_s: Option<Seconds>,
    /// What has not answered for this long does not. Default 30.
    pub vc_connection_timeout_s: Option<Seconds>,
    /// Whether a quarter is added to delays or taken from them, at random. Default true.
    pub vc_connection_enable_jitter: Option<bool>,
    /// Where VMware's own library is, for those who have it.
    pub vddk: Option<VddkFile>,
    /// When to pause for the network.
    pub network_monitor: Option<NetworkFile>,
    /// Who is told of what.
    pub notifications: Option<NotificationsFile>,
    /// The control socket.
    pub control: Option<ControlFile>,
    /// Metrics.
    pub metrics: Option<MetricsFile>,
    /// Logs.
    pub log: Option<LogFile>,
}

/// `intake`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntakeFile {
    /// The drop directory, on the state directory's file system. Default `<state>/incoming`.
    pub dir: Option<AbsolutePath>,
    /// Whether a disk in it is a drop too. Default false.
    pub accept_disks: Option<bool>,
    /// The profile by which dropped disks are converted. Default production.
    pub profile: Option<Id>,
    /// How long a dropped disk waits for files that belong to it. Default 300.
    pub companion_wait_s: Option<Seconds>,
    /// How long a file has to hold still before it is taken as complete.
    pub settle_s: Option<SettleFile>,
}

/// `intake.settle_s`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleFile {
    /// A manifest. Default 2.
    pub manifest: Option<Seconds>,
    /// A disk. Default 30.
    pub disk: Option<Seconds>,
}

/// `paths`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathsFile {
    /// Sources must lie below one of these. Default: anywhere that permissions allow.
    pub read: Option<Vec<AbsolutePath>>,
    /// Results must lie below one of these. Default: anywhere that permissions allow.
    pub write: Option<Vec<AbsolutePath>>,
}

/// `credentials`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialsFile {
    /// Where stored credentials are, `<name>.yaml` each. Default /etc/hyper2kvm/credentials.d.
    pub dir: Option<AbsolutePath>,
    /// Key files that drops name must lie below one of these. Default: none may be named.
    pub allowed_dirs: Option<Vec<AbsolutePath>>,
    /// Variables of the service's environment in which drops may say that a password is. Default: none may be named.
    pub allowed_env: Option<Vec<Line>>,
    /// Whether drops may hold passwords in clear text. Default false.
    pub allow_inline: Option<bool>,
}

/// `vddk`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VddkFile {
    /// Where VMware's library is unpacked, owned by root: `vmware-vix-disklib-distrib`. Default: nowhere, it is not used.
    pub libdir: Option<AbsolutePath>,
}

/// `sources`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourcesFile {
    /// Whether a manifest may have its source shut down (`source.vsphere.power: shutdown`). Default false.
    pub allow_shutdown: Option<bool>,
}

/// `hooks`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HooksFile {
    /// Scripts and Python files that hooks name must lie below one of these, owned by root. Default: none may be named.
    pub allowed_dirs: Option<Vec<AbsolutePath>>,
}

/// `retry`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryFile {
    /// Attempts without progress in between. Default 5.
    pub max_attempts: Option<Whole<1, 1000>>,
    /// Before the second attempt; then it doubles. Default 10.
    pub base_delay_s: Option<Seconds>,
    /// At most. Default 600.
    pub max_delay_s: Option<Seconds>,
    /// ± this part of the delay, at random. Default 0.25.
    pub jitter: Option<f64>,
    /// This long after the first failure without progress, give up. Default 43200.
    pub give_up_after_s: Option<Seconds>,
    /// Reaching a server, within an attempt. Default 5 attempts, 2 s to 30 s.
    pub network: Option<RetryPolicyFile>,
    /// An operation in a directory with results, within an attempt. Default 3 attempts, 1 s.
    pub files: Option<RetryPolicyFile>,
}

/// `retry.network`, `retry.files`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicyFile {
    /// In all, the first one included.
    pub attempts: Option<Whole<1, 100>>,
    /// Before the second one; then it doubles.
    pub base_delay_s: Option<Seconds>,
    /// At most.
    pub max_delay_s: Option<Seconds>,
}

/// `retention`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionFile {
    /// Ended batches and their progress files. Default one year.
    pub history_s: Option<Seconds>,
    /// Logs. Default 90 days.
    pub logs_s: Option<Seconds>,
    /// Partial results of failed jobs. Default 72 hours.
    pub failed_partial_s: Option<Seconds>,
}

/// `limits`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsFile {
    /// Stays free on every file system. Default: the larger of 5 % and 20 GiB, at most a tenth of it.
    pub disk_reserve: Option<Size>,
    /// How fast sources are read while they are copied; the first entry whose time it is holds. Default: as fast as it goes.
    pub bandwidth: Option<Vec<BandwidthFile>>,
    /// How many jobs have their source on one vCenter or ESXi host at a time. Default: as many as run.
    pub per_vcenter: Option<Whole<1, 1024>>,
    /// How many jobs have their source on one ESXi host of such a server at a time. Default 2.
    pub per_esxi_host: Option<Whole<1, 1024>>,
    /// How many jobs have disks on one datastore at a time. Default: as many as run.
    pub per_datastore: Option<Whole<1, 1024>>,
    /// How many jobs write their results to one file system at a time. Default: as many as run.
    pub per_target_fs: Option<Whole<1, 1024>>,
    /// On how many connections all jobs together read from one such server; each job has at least one. Default 4.
    pub connections_per_host: Option<Whole<1, 64>>,
}

/// `limits.bandwidth[]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BandwidthFile {
    /// When it holds, by the clock of this machine. Default always.
    pub when: Option<Window>,
    /// What all jobs together read in a second, or `unlimited`.
    pub rate: Rate,
    /// What each of them reads at most, or `unlimited`. Default unlimited.
    pub per_job: Option<Rate>,
}

/// `network_monitor`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// Whether the network is watched. Default true.
    pub enabled: Option<bool>,
    /// All of these that exist have to be up. Default: whatever holds a default route.
    pub required_interfaces: Option<Vec<InterfaceName>>,
    /// After this long an outage is notified. Default 300.
    pub max_network_wait_s: Option<Seconds>,
    /// Whether an outage pauses jobs. Default true.
    pub pause_on_network_down: Option<bool>,
    /// Which jobs. Default all.
    pub pause_scope: Option<PauseScope>,
    /// What happens after `max_network_wait_s`. Default wait.
    pub on_network_timeout: Option<OnNetworkTimeout>,
}

/// `control`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlFile {
    /// The socket. Default `/run/hyper2kvm/control.sock`, or `<state>/control.sock` for another state directory.
    pub socket: Option<AbsolutePath>,
    /// Members may read. Default `hyper2kvm`.
    pub group: Option<GroupName>,
    /// Members may act. Default `hyper2kvm-admin`.
    pub admin_group: Option<GroupName>,
}

/// `metrics`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsFile {
    /// Prometheus text file for node_exporter's textfile collector. Default none.
    pub textfile: Option<AbsolutePath>,
}

/// `log`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogFile {
    /// How lines on stderr and in the file look. Default text.
    pub format: Option<LogFormat>,
    /// Also to this file. Default none.
    pub file: Option<AbsolutePath>,
    /// To the journal, where there is one. Default true.
    pub journald: Option<bool>,
}
