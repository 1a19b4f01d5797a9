//! What of the configuration concerns the systemd unit: the directories that its sandbox has to open.
//!
//! The packaged unit may write only below its own directories. What the configuration names beyond them
//! becomes a drop-in; a generator asks for it at every `systemctl daemon-reload`, so that paths are
//! configured in one place only. Pure: settings in, text out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::model::config::Settings;

/// What the packaged unit opens by itself.
const OPEN_ALREADY: [&str; 3] = ["/var/lib/hyper2kvm", "/run/hyper2kvm", "/var/cache/hyper2kvm"];
/// Where `ProtectHome=yes` shows nothing.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// What `PrivateTmp=yes` replaces by empty directories.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// The drop-in that these settings need.
#[must_use]
pub fn drop_in(settings: &Settings) -> String {
    let written = written(settings);
    let read: Vec<PathBuf> =
        settings.paths.read.iter().filter(|path| !covers(&written, path)).cloned().collect();
    let shown: Vec<&PathBuf> = written.iter().chain(&read).chain([&settings.profiles_dir]).collect();
    let below = |roots: &[&str]| shown.iter().any(|path| roots.iter().any(|root| path.starts_with(root)));

    let mut text =
        "# Made by `hyper2kvm unit-settings` from the configuration; not kept if edited.\n".to_owned();
    let mounts: Vec<&Path> =
        [&settings.state_dir, &settings.output_dir, &settings.work_dir, &settings.intake.dir]
            .into_iter()
            .map(PathBuf::as_path)
            .filter(|path| !is_open_already(path))
            .collect();
    if !mounts.is_empty() {
        text.push_str("[Unit]\n");
        lines(&mut text, "RequiresMountsFor=", mounts.iter().copied());
    }
    text.push_str("[Service]\n");
    // A directory that is not there (yet) must not keep the service from starting.
    lines(&mut text, "ReadWritePaths=-", written.iter().map(PathBuf::as_path));
    lines(&mut text, "ReadOnlyPaths=-", read.iter().map(PathBuf::as_path));
    if below(&HOMES) {
        text.push_str("ProtectHome=read-only\n");
    }
    if below(&TEMPORARY) {
        text.push_str("PrivateTmp=no\n");
    }
    if read.iter().any(|path| path.starts_with("/dev")) {
        text.push_str("DeviceAllow=block-* r\n");
    }
    text
}

/// Everything that is written outside the unit's own directories, each path once, outer ones only.
fn written(settings: &Settings) -> Vec<PathBuf> {
    let parents = [&settings.metrics.textfile, &settings.log.file, &settings.control.socket]
        .into_iter()
        .flatten()
        .filter_map(|file| file.parent().map(Path::to_owned));
    let mut all: Vec<PathBuf> =
        [&settings.state_dir, &settings.output_dir, &settings.work_dir, &settings.intake.dir]
            .into_iter()
            .cloned()
            .chain(settings.paths.write.iter().cloned())
            .chain(parents)
            .filter(|path| !is_open_already(path))
            .collect();
    all.sort();
    let mut outer: Vec<PathBuf> = Vec::new();
    for path in all {
        if !covers(&outer, &path) {
            outer.push(path);
        }
    }
    outer
}

fn is_open_already(path: &Path) -> bool {
    OPEN_ALREADY.iter().any(|open| path.starts_with(open))
}

fn covers(roots: &[PathBuf], path: &Path) -> bool {
    is_open_already(path) || roots.iter().any(|root| path.starts_with(root))
}

fn lines<'a>(text: &mut String, key: &str, paths: impl Iterator<Item = &'a Path>) {
    for path in paths {
        let path = escape(&path.to_string_lossy());
        let _ = match key.split_once("=-") {
            Some((key, _)) => writeln!(text, "{key}=\"-{path}\""),
            None => writeln!(text, "{key}\"{path}\""),
        };
    }
}

/// For systemd's double quotes: its own specifiers, quotes and backslashes lose their meaning.
fn escape(path: &str) -> String {
    path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::defaults(Path::new("/var/lib/hyper2kvm"), 4);
        change(&mut settings);
        settings
    }

    fn service_lines(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let text = drop_in(&settings(change));
        let service = text.split("[Service]\n").nth(1).unwrap();
        service.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_default_configuration_needs_nothing() {
        assert!(service_lines(|_| ()).is_empty());
        assert!(!drop_in(&settings(|_| ())).contains("[Unit]"));
    }

    #[test]
    fn what_drops_may_write_is_opened_and_what_they_may_read_is_closed_for_writing() {
        let lines = service_lines(|settings| {
            settings.paths.write = vec!["/srv/images".into(), "/var/lib/hyper2kvm".into()];
            settings.paths.read = vec!["/srv/exports".into(), "/srv/images/old".into()];
        });
        assert_eq!(lines, ["ReadWritePaths=\"-/srv/images\"", "ReadOnlyPaths=\"-/srv/exports\""]);
    }

    #[test]
    fn directories_of_the_configuration_itself_are_opened() {
        let lines = service_lines(|settings| {
            settings.output_dir = "/data/out".into();
            settings.paths.write = vec!["/data".into()];
            settings.metrics.textfile = Some("/var/lib/node_exporter/h2k.prom".into());
        });
        assert_eq!(lines, ["ReadWritePaths=\"-/data\"", "ReadWritePaths=\"-/var/lib/node_exporter\""]);
    }

    #[test]
    fn the_service_waits_for_the_file_systems_it_lives_on() {
        let text = drop_in(&settings(|settings| settings.output_dir = "/data/out".into()));
        assert!(text.contains("[Unit]\nRequiresMountsFor=\"/data/out\"\n"), "{text}");
    }

    #[test]
    fn home_and_temporary_directories_are_shown_only_when_named() {
        let lines = service_lines(|settings| settings.paths.read = vec!["/home/anna/vms".into()]);
        assert_eq!(lines, ["ReadOnlyPaths=\"-/home/anna/vms\"", "ProtectHome=read-only"]);
        let lines = service_lines(|settings| settings.profiles_dir = "/home/anna/profiles".into());
        assert_eq!(lines, ["ProtectHome=read-only"]);
        let lines = service_lines(|settings| settings.paths.read = vec!["/var/tmp/vms".into()]);
        assert_eq!(lines, ["ReadOnlyPaths=\"-/var/tmp/vms\"", "PrivateTmp=no"]);
    }

    #[test]
    fn disks_that_are_devices_may_be_read() {
        let lines = service_lines(|settings| settings.paths.read = vec!["/dev/vg0".into()]);
        assert_eq!(lines, ["ReadOnlyPaths=\"-/dev/vg0\"", "DeviceAllow=block-* r"]);
    }

    #[test]
    fn a_path_with_odd_characters_stays_one_path() {
        let lines = service_lines(|settings| settings.paths.write = vec!["/srv/100% \"new\" disks".into()]);
        assert_eq!(lines, [r#"ReadWritePaths="-/srv/100%% \"new\" disks""#]);
    }
}
