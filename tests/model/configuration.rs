//! Configuration files and the settings they come to.

use std::path::{Path, PathBuf};

use hyper2kvm::model::config::{
    Fragment, MailSecurity, Overrides, PauseScope, SecretPlace, Settings, changes, check_fragment, resolve,
};
use hyper2kvm::model::error::{Error, Result};
use hyper2kvm::model::retry::{Retries, RetryPolicy};
use hyper2kvm::model::schema::{SchemaKind, schema};

use crate::golden;

fn fragment(path: &str, text: &str) -> Fragment {
    Fragment { path: PathBuf::from(path), bytes: text.as_bytes().to_vec() }
}

fn settings(text: &str) -> Result<Settings> {
    resolve(&[fragment("/etc/hyper2kvm/hyper2kvm.yaml", text)], &Overrides::default(), 8)
}

fn refused(text: &str) -> Error {
    settings(text).expect_err(text)
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn without_files_the_defaults_hold() {
    let settings = resolve(&[], &Overrides::default(), 8).unwrap();
    assert_eq!(settings, Settings::defaults(Path::new("/var/lib/hyper2kvm"), 8));
    assert_eq!(settings.socket(), Path::new("/run/hyper2kvm/control.sock"));
}

#[test]
fn the_shipped_file_says_nothing_but_the_defaults() {
    let bytes = std::fs::read(repository().join("config/hyper2kvm.yaml")).unwrap();
    let shipped = fragment("hyper2kvm.yaml", std::str::from_utf8(&bytes).unwrap());
    let settings = resolve(&[shipped], &Overrides::default(), 4).unwrap();
    assert_eq!(settings, Settings::defaults(Path::new("/var/lib/hyper2kvm"), 4));
}

/// The shipped file with every example line made real.
fn uncommented() -> String {
    let text = std::fs::read_to_string(repository().join("config/hyper2kvm.yaml")).unwrap();
    text.lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            match line.trim_start().strip_prefix('#') {
                Some(rest)
                    if !rest.starts_with(' ')
                        || rest.trim_start().starts_with(['m', 'd']) && rest.starts_with("  ") =>
                {
                    format!("{}{rest}\n", &line[..indent])
                }
                _ => format!("{line}\n"),
            }
        })
        .collect()
}

#[test]
fn what_the_shipped_file_shows_as_defaults_are_the_defaults() {
    // Each says what the key before it says, and only one of them may be there.
    let others = ["webhook_url_file:", "webhook_credential:", "email_password_file:", "email_credential:"];
    let text: String = uncommented()
        .lines()
        .filter(|line| !others.iter().any(|key| line.trim_start().starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut settings = settings(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    // Shown as examples, because their defaults are nothing, or depend on the machine.
    let defaults = Settings::defaults(Path::new("/var/lib/hyper2kvm"), 8);
    assert_eq!(settings.limits.disk_reserve_bytes.take(), Some(20 << 30));
    assert_eq!(settings.limits.per_vcenter.take(), Some(2));
    assert_eq!(settings.limits.per_datastore.take(), Some(4));
    assert_eq!(settings.limits.per_target_fs.take(), Some(4));
    assert!(settings.metrics.textfile.take().is_some() && settings.log.file.take().is_some());
    assert!(settings.vddk.libdir.take().is_some());
    assert_eq!(settings.control.socket.take(), Some(defaults.socket()));
    settings.max_concurrent_jobs = defaults.max_concurrent_jobs;
    settings.notifications.webhook = None;
    assert_eq!(settings, defaults);
}

#[test]
fn the_shipped_file_shows_every_key_of_the_schema() {
    let schema = schema(SchemaKind::Config);
    let text = uncommented();
    let mut expected = Vec::new();
    for (key, property) in schema["properties"].as_object().unwrap() {
        expected.push(format!("{key}:"));
        let section = property["anyOf"][0]["$ref"].as_str().and_then(|name| name.rsplit('/').next());
        if let Some(keys) = section.and_then(|name| schema["$defs"][name]["properties"].as_object()) {
            expected.extend(keys.keys().map(|key| format!("  {key}:")));
        }
    }
    assert!(expected.len() > 40, "{expected:?}");
    for key in expected {
        assert!(text.lines().any(|line| line.starts_with(&key)), "`{}` is missing", key.trim());
    }
}

#[test]
fn the_example_fragment_is_accepted() {
    let text = std::fs::read_to_string(repository().join("config/conf.d/50-site.yaml.example")).unwrap();
    let settings = settings(&text).unwrap();
    assert_eq!(settings.network_monitor.required_interfaces, ["br-lan", "eth0.100"]);
    assert_eq!(settings.limits.disk_reserve_bytes, Some(50 << 30));
}

#[test]
fn later_fragments_win_key_by_key_and_lists_replace() {
    let fragments = [
        fragment(
            "/etc/hyper2kvm/hyper2kvm.yaml",
            "retry: {max_attempts: 3, jitter: 0.5}\npaths: {read: [/a, /b]}\n",
        ),
        fragment("/etc/hyper2kvm/conf.d/10.yaml", "# only a comment\n"),
        fragment(
            "/etc/hyper2kvm/conf.d/20.yaml",
            "retry: {max_attempts: 9}\npaths: {read: [/c]}\nverbose: 2\n",
        ),
        fragment("/etc/hyper2kvm/conf.d/30.json", r#"{"verbose": 3}"#),
        fragment("/etc/hyper2kvm/conf.d/40.yaml", ""),
    ];
    let settings = resolve(&fragments, &Overrides::default(), 8).unwrap();
    assert_eq!((settings.retry.max_attempts, settings.retry.jitter), (9, 0.5));
    assert_eq!(settings.paths.read, [PathBuf::from("/c")]);
    assert_eq!((settings.verbose, settings.verbosity()), (3, 2));
}

#[test]
fn the_command_line_is_stronger_than_files_and_directories_follow_the_state_directory() {
    let file = fragment("x.yaml", "state_dir: /srv/one\ncontrol: {socket: /srv/one.sock}\n");
    let from_file = resolve(std::slice::from_ref(&file), &Overrides::default(), 8).unwrap();
    assert_eq!(from_file.intake.dir, Path::new("/srv/one/incoming"));
    let overrides = Overrides { state_dir: Some("/srv/two".into()), socket: Some("/tmp/s".into()) };
    let settings = resolve(&[file], &overrides, 8).unwrap();
    assert_eq!(settings.intake.dir, Path::new("/srv/two/incoming"));
    assert_eq!(settings.socket(), Path::new("/tmp/s"));
}

#[test]
fn sizes_and_durations_are_read_as_people_write_them() {
    let settings = settings(
        "limits: {disk_reserve: 1.5GiB}\nstall_timeout_s: 5m\nretention: {logs_s: 2d, history_s: 3600}\nintake: {settle_s: {manifest: 0.5, disk: 1m}, companion_wait_s: 2m}\n",
    )
    .unwrap();
    assert_eq!(settings.limits.disk_reserve_bytes, Some(3 << 29));
    assert_eq!((settings.stall_timeout_s, settings.retention.logs_s), (300.0, 172_800.0));
    let intake = &settings.intake;
    assert_eq!((intake.settle_manifest_s, intake.settle_disk_s, intake.companion_wait_s), (0.5, 60.0, 120.0));
}

#[test]
fn rates_are_read_as_people_write_them_and_later_files_replace_the_list() {
    let read = |text: &str| settings(text).unwrap().limits.bandwidth;
    let limits = read(
        "limits:\n  bandwidth:\n    - {when: Mon-Fri 08:00-18:00, rate: 50MiB/s, per_job: 20MB/s}\n    - {when: \"Sat,Sun\", rate: unlimited}\n    - {rate: 104857600}\n",
    );
    let rates: Vec<_> = limits.iter().map(|limit| (limit.when.to_string(), limit.caps.to_string())).collect();
    assert_eq!(
        rates,
        [
            ("Mon-Fri 08:00-18:00", "at most 50.0 MiB/s, and 19.1 MiB/s for each job"),
            ("Sat,Sun", "as fast as it goes"),
            ("always", "at most 100.0 MiB/s"),
        ]
        .map(|(when, caps)| (when.to_owned(), caps.to_owned()))
    );
    assert!(read("limits: {disk_reserve: 1GiB}\n").is_empty());
    let files = [
        fragment(
            "/etc/one.yaml",
            "limits: {disk_reserve: 1GiB, bandwidth: [{when: Sat, rate: 1GiB/s}, {rate: 1MiB/s}]}\n",
        ),
        fragment("/etc/two.yaml", "limits: {bandwidth: [{rate: 64KiB/s}]}\n"),
    ];
    let merged = resolve(&files, &Overrides::default(), 8).unwrap().limits;
    assert_eq!((merged.bandwidth.len(), merged.disk_reserve_bytes), (1, Some(1 << 30)));
}

#[test]
fn policies_of_operations_are_configured_by_name_and_share_the_spread() {
    let read = settings(
        "retry: {jitter: 0.5, network: {attempts: 9}, files: {base_delay_s: 0.5, max_delay_s: 2}, max_attempts: 2}\n",
    )
    .unwrap();
    let Retries { network, files } = read.retry.operations;
    assert_eq!(network, RetryPolicy { attempts: 9, jitter: 0.5, ..RetryPolicy::network() });
    assert_eq!(files, RetryPolicy { attempts: 3, base_delay_s: 0.5, max_delay_s: 2.0, jitter: 0.5 });
    let defaults = settings("").unwrap();
    assert_eq!(defaults.retry.operations, Retries::default());
    assert_eq!(changes(&defaults, &read).applied, ["retry"], "a reload is enough");
}

#[test]
fn the_seeds_keys_keep_their_names() {
    let settings = settings(
        "enable_recovery: true\nverbose: 1\nnetwork_monitor: {enabled: true, required_interfaces: [eth0], max_network_wait_s: 60, pause_on_network_down: true, pause_scope: network_jobs}\n",
    )
    .unwrap();
    assert!(settings.enable_recovery);
    assert_eq!(settings.network_monitor.pause_scope, PauseScope::NetworkJobs);
    assert_eq!(settings.network_monitor.max_network_wait_s, 60.0);
    assert_eq!(refused("enable_recovery: false\n").kind().name(), "unsupported");
}

#[test]
fn the_seeds_keys_for_a_vcenter_keep_their_names() {
    let text = "vc_connection_max_retries: 10\nvc_connection_base_backoff_s: 5.0\nvc_connection_max_backoff_s: 60.0\n\
                limits: {per_vcenter: 2, per_esxi_host: 3, per_datastore: 4, connections_per_host: 8}\ncredentials: {allowed_env: [VC_PASSWORD]}\n";
    let settings = settings(text).unwrap();
    let connection = &settings.vc_connection;
    assert_eq!((connection.max_retries, connection.base_backoff_s, connection.timeout_s), (10, 5.0, 30.0));
    let limits = &settings.limits;
    assert_eq!((limits.per_vcenter, limits.connections_per_host), (Some(2), 8));
    assert_eq!((limits.per_esxi_host, limits.per_datastore), (3, Some(4)));
    assert_eq!(settings.credentials.allowed_env, ["VC_PASSWORD"]);
    let error = refused("vc_connection_base_backoff_s: 90\n");
    assert_eq!(error.details().place.field.as_deref(), Some("vc_connection_max_backoff_s"));
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_in_reviewed_words() {
    let bad = [
        "max_concurent_jobs: 2\n",
        "max_concurrent_jobs: 0\n",
        "max_concurrent_jobs: many\n",
        "state_dir: var/lib\n",
        "state_dir: ~/hyper2kvm\n",
        "stall_timeout_s: soon\n",
        "stall_timeout_s: 0\n",
        "stall_timeout_s: -5\n",
        "verbose: 4\n",
        "retry: {jitter: 1.5}\n",
        "retry: {base_delay_s: 60, max_delay_s: 30}\n",
        "retry:\n  attempts: 3\n",
        "retry: {files: {attempts: 0}}\n",
        "retry:\n  network: {max_delay_s: 1}\n",
        "retry: {vsphere: {attempts: 3}}\n",
        "limits: {disk_reserve: a lot}\n",
        "limits: {bandwidth: [{when: always, rate: 0}]}\n",
        "limits:\n  bandwidth:\n    - {when: 22:00-06:00, rate: fast}\n",
        "limits: {bandwidth: [{rate: 50}]}\n",
        "limits: {bandwidth: [{rate: 50MiB/s, per_job: 1.5}]}\n",
        "limits: {bandwidth: [{when: 8-18, rate: 50MiB/s}]}\n",
        "limits: {bandwidth: [{when: Mon 08:00-08:00, rate: 50MiB/s}]}\n",
        "limits: {bandwidth: [{when: Sat}]}\n",
        "limits: {bandwidth: [{rate: unlimited, tz: UTC}]}\n",
        "limits: {bandwidth: 50MiB/s}\n",
        "limits:\n  bandwidth:\n    - rate: 50MiB/s\n    - {when: Sat, rate: unlimited}\n",
        "network_monitor:\n  required_interfaces: eth0\n",
        "network_monitor:\n  required_interfaces: [an-interface-with-a-long-name]\n",
        "network_monitor: {pause_scope: some}\n",
        "network_monitor: true\n",
        "control: {group: \"a b\"}\n",
        "log: {format: xml}\n",
        "hooks:\n  allowed_dirs: [hooks]\n",
        "hooks: {allowed_dir: [/etc/hyper2kvm/hooks]}\n",
        "limits: {per_vcenter: 0}\n",
        "notifications: {enabled: true}\n",
        "notifications: {enable: true}\n",
        "notifications: {on_sucess: true}\n",
        "notifications: {webhook_type: teams}\n",
        "notifications: {webhook_type: slack}\n",
        "notifications: {webhook_url: \"ftp://h/\"}\n",
        "notifications: {webhook_url: \"https://anna:hunter2@h/\"}\n",
        "notifications: {webhook_url: \"http://169.254.169.254/\"}\n",
        "notifications:\n  webhook_url: https://h/\n  webhook_url_file: /etc/url\n",
        "notifications: {webhook_secret_file: secret, webhook_url: \"https://h/\"}\n",
        "notifications: {email_enabled: true}\n",
        "notifications: {email_enabled: true, email_smtp_host: mail, email_from: Anna <a@b.c>, email_to: a@b.c}\n",
        "notifications: {email_to: \"a@b.c; d@e.f\"}\n",
        "notifications: {email_smtp_host: mail, email_security: none}\n",
        "notifications: {email_smtp_port: 0}\n",
        "notifications: {email_password: hunter2}\n",
        "notifications: {email_username: anna}\n",
        "notifications:\n  email_username: anna\n  email_password: hunter2\n  email_credential: mail\n",
        "notifications: {waiting_after_s: 0}\n",
        "intake:\n  accept_disks: 1\n",
        "intake: {profile: ../windows}\n",
        "profiles_dir: profiles\n",
        "sources: {allow_shutdown: perhaps}\n",
        "sources: {allow_reboot: true}\n",
        "libvirt: {uri: \"lxc:///system\"}\n",
        "libvirt: {uri: \"qemu+ext:///system?command=/bin/x\"}\n",
        "libvirt: {allowed_uris: [\"qemu:///system\", \"qemu+unix:///system?socket=/x\"]}\n",
        "libvirt: {allowed_uris: qemu:///system}\n",
        "libvirt: {timeout_s: 0}\n",
        "libvirt: {url: \"qemu:///system\"}\n",
        "guest: {accel: tcg}\n",
        "vddk: {libdir: opt/vddk}\n",
        "vc_connection_timeout_s: 0.5\n",
        "watch_dir: /srv/drop\n",
        "cmd: daemon\n",
        "intake: {dir: /var/lib/hyper2kvm}\n",
        "work_dir: /var/lib/hyper2kvm/output\n",
        "verbose: 1\nverbose: 2\n",
        "- verbose\n",
    ];
    let mut said = String::new();
    for text in bad {
        let error = refused(text);
        said.push_str(&format!("{}\n    {}: {error}\n", text.trim_end().replace('\n', "\n| "), error.kind()));
    }
    golden::check("golden/bad-configuration.txt", &said);
}

#[test]
fn notifications_are_off_until_somebody_says_who_is_told_and_secrets_are_not_printed() {
    let quiet = settings("").unwrap().notifications;
    assert!(quiet.events().is_empty() && !quiet.enabled);
    assert!(!quiet.on_success && quiet.on_failure && quiet.on_stalled);
    let settings = settings(
        "notifications:\n  enabled: true\n  webhook_url: https://hooks.example.com/tokentoken\n  webhook_credential: hook\n  \
         email_enabled: true\n  email_smtp_host: mail.example.com\n  email_from: a@example.com\n  email_to: b@example.com, c@example.org\n  \
         email_username: anna\n  email_password: hunter2\ncredentials: {dir: /etc/creds}\n",
    )
    .unwrap();
    let email = settings.notifications.email.as_ref().unwrap();
    assert_eq!((email.port, email.security), (587, MailSecurity::Starttls));
    assert_eq!(email.to, ["b@example.com", "c@example.org"]);
    let webhook = settings.notifications.webhook.as_ref().unwrap();
    assert_eq!(webhook.signed_with, Some(SecretPlace::Credential("/etc/creds/hook.yaml".into())));
    for printed in [format!("{settings:?}"), serde_json::to_string(&settings).unwrap()] {
        assert!(!printed.contains("hunter2") && !printed.contains("tokentoken"), "{printed}");
    }
}

#[test]
fn switching_off_what_does_not_exist_is_true() {
    assert!(settings("intake: {accept_disks: false}\nhooks:\ncredentials: {}\n").is_ok());
}

#[test]
fn a_mistake_is_found_also_where_a_later_file_would_hide_it() {
    let fragments = [fragment("/etc/one.yaml", "verbose: loud\n"), fragment("/etc/two.yaml", "verbose: 1\n")];
    let error = resolve(&fragments, &Overrides::default(), 8).unwrap_err();
    assert!(error.to_string().starts_with("/etc/one.yaml:1:10: verbose: "), "{error}");
    assert!(!check_fragment(&fragments[0]).is_empty() && check_fragment(&fragments[1]).is_empty());
}

#[test]
fn a_contradiction_between_files_points_at_the_last_word() {
    let fragments = [
        fragment("/etc/one.yaml", "retry: {base_delay_s: 60}\n"),
        fragment("/etc/two.yaml", "verbose: 1\nretry:\n  max_delay_s: 30\n"),
    ];
    let error = resolve(&fragments, &Overrides::default(), 8).unwrap_err();
    assert!(error.to_string().starts_with("/etc/two.yaml:3:16: retry.max_delay_s: "), "{error}");
}

#[test]
fn a_reload_says_what_it_applied_and_what_waits_for_a_restart() {
    let old = settings("verbose: 0\n").unwrap();
    let new =
        settings("verbose: 2\nmax_concurrent_jobs: 7\nlog: {format: json}\nstate_dir: /srv/x\n").unwrap();
    let changes = changes(&old, &new);
    assert_eq!(changes.applied, ["output_dir", "max_concurrent_jobs", "verbose"]);
    assert_eq!(changes.restart, ["state_dir", "work_dir", "intake", "log"]);
    let reloaded = old.reloaded(&new);
    assert_eq!((reloaded.max_concurrent_jobs, &reloaded.state_dir), (7, &old.state_dir));
    assert_eq!(reloaded.log, old.log);
    assert!(hyper2kvm::model::config::changes(&old, &old).is_empty());
}
