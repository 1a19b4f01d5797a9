//! From fragments to settings.

use std::path::PathBuf;

use super::file::{
    BandwidthFile, ConfigFile, CredentialsFile, IntakeFile, LimitsFile, NetworkFile, RetentionFile, RetryFile,
};
use super::{
    CredentialSettings, DEFAULT_STATE_DIR, LimitSettings, LogSettings, NetworkSettings, RetentionSettings,
    RetrySettings, Settings, later, libvirt, notifications, preflight, vcenter,
};
use crate::model::bandwidth::{Caps, Limit, Window};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::{AbsolutePath, Seconds, Whole};
use crate::model::parse::{Layer, Node, Tree, Value, merge, only_comments, parse};

/// One configuration file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Where it lies.
    pub path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What the command line and the environment say, stronger than every file. Paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
}

/// The settings that fragments come to, later ones over earlier ones, on a machine with this many cores.
pub fn resolve(fragments: &[Fragment], overrides: &Overrides, cores: u32) -> Result<Settings> {
    let mut merged = Node::made(Value::Map(Vec::new()));
    let mut layers = vec![Layer { file: None, below: String::new(), label: "default".to_owned() }];
    for fragment in fragments {
        let tree = read(fragment)?;
        let number = u16::try_from(layers.len())
            .map_err(|_| Error::new(Kind::Manifest, "there are too many configuration files"))?;
        layers.extend(tree.layers);
        let mut root = tree.root;
        root.set_layer(number);
        merge(&mut merged, root);
    }
    let tree = Tree { root: merged, layers };
    let file: ConfigFile = tree.decode()?;
    let state_dir = overrides
        .state_dir
        .clone()
        .or_else(|| file.state_dir.as_ref().map(AbsolutePath::to_path))
        .unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
    let mut settings = Settings::defaults(&state_dir, cores);
    apply(&file, &mut settings);
    if let Some(socket) = &overrides.socket {
        settings.control.socket = Some(socket.clone());
    }
    check(&settings, &tree)?;
    preflight::check(&settings.preflight, &tree)?;
    libvirt::check(&settings.libvirt, &tree)?;
    vcenter::check(&settings.vc_connection, &tree)?;
    if let Some(file) = &file.notifications {
        notifications::check(file, &tree)?;
    }
    Ok(settings)
}

/// All that is wrong with one file by itself as a configuration (for `validate`).
#[must_use]
pub fn check_fragment(fragment: &Fragment) -> Vec<Error> {
    let mut tree = match tree_of(fragment) {
        Ok(tree) => tree,
        Err(error) => return vec![error],
    };
    let mut found = later::take_out(&mut tree);
    found.extend(tree.complaints::<ConfigFile>());
    if found.is_empty() {
        found.extend(resolve(std::slice::from_ref(fragment), &Overrides::default(), 2).err());
    }
    found
}

fn read(fragment: &Fragment) -> Result<Tree> {
    let mut tree = tree_of(fragment)?;
    if let Some(error) = later::take_out(&mut tree).into_iter().next() {
        return Err(error);
    }
    // Each file by itself, so that a mistake that a later file would hide is found all the same.
    tree.decode::<ConfigFile>()?;
    Ok(tree)
}

fn tree_of(fragment: &Fragment) -> Result<Tree> {
    let file = fragment.path.display().to_string();
    let says_nothing = || Tree::of(Node::made(Value::Map(Vec::new())), &file);
    if fragment.bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(says_nothing());
    }
    match parse(&fragment.bytes, &file) {
        // A file whose every line is a comment says nothing, which is allowed here.
        Err(_) if only_comments(&fragment.bytes) => Ok(says_nothing()),
        parsed => parsed,
    }
}

fn apply(file: &ConfigFile, settings: &mut Settings) {
    put_path(&mut settings.output_dir, file.output_dir.as_ref());
    put_path(&mut settings.work_dir, file.work_dir.as_ref());
    put_path(&mut settings.profiles_dir, file.profiles_dir.as_ref());
    put_u32(&mut settings.max_concurrent_jobs, file.max_concurrent_jobs.map(|number| number.get()));
    put_seconds(&mut settings.stall_timeout_s, file.stall_timeout_s);
    put_seconds(&mut settings.takeover_stale_s, file.takeover_stale_s);
    if let Some(verbose) = file.verbose {
        settings.verbose = u8::try_from(verbose.get()).unwrap_or(u8::MAX);
    }
    put(&mut settings.enable_recovery, file.enable_recovery);
    if let Some(intake) = &file.intake {
        apply_intake(intake, settings);
    }
    if let Some(paths) = &file.paths {
        let list =
            |paths: &Option<Vec<AbsolutePath>>| paths.iter().flatten().map(AbsolutePath::to_path).collect();
        settings.paths.read = list(&paths.read);
        settings.paths.write = list(&paths.write);
    }
    if let Some(credentials) = &file.credentials {
        apply_credentials(credentials, &mut settings.credentials);
    }
    if let Some(sources) = &file.sources {
        put(&mut settings.sources.allow_shutdown, sources.allow_shutdown);
    }
    if let Some(hooks) = &file.hooks {
        settings.hooks.allowed_dirs =
            hooks.allowed_dirs.iter().flatten().map(AbsolutePath::to_path).collect();
    }
    if let Some(file) = &file.preflight {
        preflight::apply(file, &mut settings.preflight);
    }
    if let Some(retry) = &file.retry {
        apply_retry(retry, &mut settings.retry);
    }
    if let Some(retention) = &file.retention {
        apply_retention(retention, &mut settings.retention);
    }
    if let Some(limits) = &file.limits {
        apply_limits(limits, &mut settings.limits);
    }
    if let Some(file) = &file.libvirt {
        libvirt::apply(file, &mut settings.libvirt);
    }
    vcenter::apply(file, &mut settings.vc_connection);
    if let Some(vddk) = &file.vddk {
        settings.vddk.libdir = vddk.libdir.as_ref().map(AbsolutePath::to_path);
    }
    if let Some(network) = &file.network_monitor {
        apply_network(network, &mut settings.network_monitor);
    }
    if let Some(file) = &file.notifications {
        notifications::apply(file, &settings.credentials.dir, &mut settings.notifications);
    }
    if let Some(control) = &file.control {
        settings.control.socket = control.socket.as_ref().map(AbsolutePath::to_path);
        put(&mut settings.control.group, control.group.as_ref().map(ToString::to_string));
        put(&mut settings.control.admin_group, control.admin_group.as_ref().map(ToString::to_string));
    }
    if let Some(metrics) = &file.metrics {
        settings.metrics.textfile = metrics.textfile.as_ref().map(AbsolutePath::to_path);
    }
    if let Some(log) = &file.log {
        let LogSettings { format, file, journald } = &mut settings.log;
        put(format, log.format);
        *file = log.file.as_ref().map(AbsolutePath::to_path);
        put(journald, log.journald);
    }
}

fn apply_intake(intake: &IntakeFile, settings: &mut Settings) {
    put_path(&mut settings.intake.dir, intake.dir.as_ref());
    put(&mut settings.intake.accept_disks, intake.accept_disks);
    put(&mut settings.intake.profile, intake.profile.as_ref().map(|name| name.as_str().to_owned()));
    put_seconds(&mut settings.intake.companion_wait_s, intake.companion_wait_s);
    if let Some(settle) = &intake.settle_s {
        put_seconds(&mut settings.intake.settle_manifest_s, settle.manifest);
        put_seconds(&mut settings.intake.settle_disk_s, settle.disk);
    }
}

fn apply_credentials(file: &CredentialsFile, settings: &mut CredentialSettings) {
    if let Some(dir) = &file.dir {
        settings.dir = dir.to_path();
    }
    if let Some(allowed) = &file.allowed_dirs {
        settings.allowed_dirs = allowed.iter().map(AbsolutePath::to_path).collect();
    }
    if let Some(allowed) = &file.allowed_env {
        settings.allowed_env = allowed.iter().map(|name| name.as_str().to_owned()).collect();
    }
    put(&mut settings.allow_inline, file.allow_inline);
}

fn apply_retry(retry: &RetryFile, settings: &mut RetrySettings) {
    put_u32(&mut settings.max_attempts, retry.max_attempts.map(|number| number.get()));
    put_seconds(&mut settings.base_delay_s, retry.base_delay_s);
    put_seconds(&mut settings.max_delay_s, retry.max_delay_s);
    put(&mut settings.jitter, retry.jitter);
    put_seconds(&mut settings.give_up_after_s, retry.give_up_after_s);
    let operations = &mut settings.operations;
    for (file, policy) in [(&retry.network, &mut operations.network), (&retry.files, &mut operations.files)] {
        policy.jitter = settings.jitter;
        let Some(file) = file else { continue };
        put_u32(&mut policy.attempts, file.attempts.map(|number| number.get()));
        put_seconds(&mut policy.base_delay_s, file.base_delay_s);
        put_seconds(&mut policy.max_delay_s, file.max_delay_s);
    }
}

fn apply_retention(retention: &RetentionFile, settings: &mut RetentionSettings) {
    put_seconds(&mut settings.history_s, retention.history_s);
    put_seconds(&mut settings.logs_s, retention.logs_s);
    put_seconds(&mut settings.failed_partial_s, retention.failed_partial_s);
}

fn apply_limits(file: &LimitsFile, settings: &mut LimitSettings) {
    settings.disk_reserve_bytes = file.disk_reserve.map(|reserve| reserve.0);
    let limit = |entry: &BandwidthFile| Limit {
        when: entry.when.clone().unwrap_or_else(Window::always),
        caps: Caps { total: entry.rate.0, per_job: entry.per_job.and_then(|rate| rate.0) },
    };
    let some = |number: Option<Whole<1, 1024>>| number.and_then(|number| u32::try_from(number.get()).ok());
    settings.per_vcenter = some(file.per_vcenter);
    put_u32(&mut settings.per_esxi_host, file.per_esxi_host.map(|number| number.get()));
    settings.per_datastore = some(file.per_datastore);
    settings.per_target_fs = some(file.per_target_fs);
    put_u32(&mut settings.connections_per_host, file.connections_per_host.map(|number| number.get()));
    settings.bandwidth = file.bandwidth.iter().flatten().map(limit).collect();
}

fn apply_network(network: &NetworkFile, settings: &mut NetworkSettings) {
    put(&mut settings.enabled, network.enabled);
    let names = network.required_interfaces.as_ref();
    put(
        &mut settings.required_interfaces,
        names.map(|names| names.iter().map(ToString::to_string).collect()),
    );
    put_seconds(&mut settings.max_network_wait_s, network.max_network_wait_s);
    put(&mut settings.pause_on_network_down, network.pause_on_network_down);
    put(&mut settings.pause_scope, network.pause_scope);
    put(&mut settings.on_network_timeout, network.on_network_timeout);
}

pub(super) fn put<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn put_path(target: &mut PathBuf, value: Option<&AbsolutePath>) {
    put(target, value.map(AbsolutePath::to_path));
}

pub(super) fn put_seconds(target: &mut f64, value: Option<Seconds>) {
    put(target, value.map(|seconds| seconds.0));
}

pub(super) fn put_u32(target: &mut u32, value: Option<i64>) {
    put(target, value.and_then(|number| u32::try_from(number).ok()));
}

/// What a single value cannot know.
fn check(settings: &Settings, tree: &Tree) -> Result<()> {
    let refuse = |field: &str, cause: String, advice: &str| {
        Err(tree.error(Kind::Manifest, field, cause).advice(advice))
    };
    let retry = &settings.retry;
    if !(0.0..=1.0).contains(&retry.jitter) {
        return Err(tree
            .error(Kind::Manifest, "retry.jitter", format!("{} is out of range", retry.jitter))
            .allowed(["0 to 1"]));
    }
    let (network, files) = (&retry.operations.network, &retry.operations.files);
    for (place, first, longest) in [
        ("retry", retry.base_delay_s, retry.max_delay_s),
        ("retry.network", network.base_delay_s, network.max_delay_s),
        ("retry.files", files.base_delay_s, files.max_delay_s),
    ] {
        if longest < first {
            return refuse(
                &format!("{place}.max_delay_s"),
                format!("the longest delay, {longest} s, is shorter than the first, {first} s"),
                &format!("raise it, or lower `{place}.base_delay_s`"),
            );
        }
    }
    if settings.stall_timeout_s < 1.0 {
        return refuse(
            "stall_timeout_s",
            "every copy would be given up at once".to_owned(),
            "allow at least a second; 600 is the default",
        );
    }
    if settings.takeover_stale_s < 1.0 {
        return refuse(
            "takeover_stale_s",
            "hosts that live would be taken for gone".to_owned(),
            "allow at least a second; 300 is the default",
        );
    }
    let bandwidth = &settings.limits.bandwidth;
    if let Some(always) = bandwidth.iter().position(|limit| limit.when.is_always())
        && always + 1 < bandwidth.len()
    {
        return refuse(
            &format!("limits.bandwidth[{}]", always + 1),
            format!("it never holds: `limits.bandwidth[{always}]` before it always does"),
            "the first entry whose time it is holds: put the one for all other times last",
        );
    }
    let clash = [("intake.dir", &settings.intake.dir), ("work_dir", &settings.work_dir)]
        .into_iter()
        .find(|(_, dir)| **dir == settings.output_dir || **dir == settings.state_dir);
    if let Some((field, dir)) = clash {
        return refuse(
            field,
            format!("{} is the output or state directory too", dir.display()),
            "give each its own directory",
        );
    }
    if settings.intake.dir == settings.work_dir {
        return refuse(
            "work_dir",
            format!("{} is the drop directory too", settings.work_dir.display()),
            "give each its own directory",
        );
    }
    Ok(())
}
