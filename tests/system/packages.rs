//! The packages: what they contain, what installing, upgrading and removing do to a machine with jobs on it.

use std::path::Path;
use std::process::Command;

use super::installed::{Installed, package};
use super::root::text_of;

#[test]
fn the_unit_is_valid_and_confined() {
    let installed = Installed::new();
    let machine = &installed.machine;
    assert_eq!(
        machine.sh("systemd-analyze verify hyper2kvm.service hyper2kvm-restart-when-idle.service 2>&1"),
        ""
    );
    let exposure = machine.sh("systemd-analyze security --no-pager hyper2kvm.service | tail -n 1");
    let level: f64 = exposure.split_whitespace().find_map(|word| word.parse().ok()).expect(&exposure);
    assert!(level <= 3.0, "{exposure}");
}

#[test]
fn users_groups_and_directories_are_there_after_installing() {
    let installed = Installed::new();
    let machine = &installed.machine;
    let groups = machine.sh("id -nG hyper2kvm");
    for group in ["hyper2kvm", "hyper2kvm-submit", "kvm"] {
        assert!(groups.split_whitespace().any(|found| found == group), "{group} is not in {groups}");
    }
    machine.sh("getent group hyper2kvm-admin");
    for (path, expected) in [
        ("/var/lib/hyper2kvm", "751 hyper2kvm hyper2kvm"),
        ("/var/lib/hyper2kvm/incoming", "2770 hyper2kvm hyper2kvm-submit"),
        ("/var/cache/hyper2kvm", "750 hyper2kvm hyper2kvm"),
        ("/etc/hyper2kvm/credentials.d", "750 root hyper2kvm"),
        ("/etc/hyper2kvm/hyper2kvm.yaml", "644 root root"),
    ] {
        assert_eq!(machine.sh(&format!("stat -c '%a %U %G' {path}")), expected, "{path}");
    }
    machine.sh(
        "man --where hyper2kvm hyper2kvm-submit && test -s /usr/share/bash-completion/completions/hyper2kvm",
    );
}

#[test]
fn the_service_runs_and_is_enabled_after_installing() {
    let installed = Installed::new();
    assert_eq!(
        installed.machine.sh("systemctl is-enabled hyper2kvm; systemctl is-active hyper2kvm"),
        "enabled\nactive"
    );
    assert_eq!(
        installed.machine.sh("ps -o user= -p $(systemctl show --value -p MainPID hyper2kvm)"),
        "hyper2kvm"
    );
}

#[test]
fn an_upgrade_waits_for_running_jobs_and_restarts_by_itself_when_none_is_left() {
    let installed = Installed::new();
    let machine = &installed.machine;
    let (newer, newest) = (package("0.1.1"), package("0.1.2"));
    let old = installed.property("MainPID");
    // However long the upgrade takes on this machine: the copy is not over before.
    installed.limit_reading(Some("1MiB/s"));
    installed.drop_disk("long", 200, "false");
    installed.wait_copying("long");

    let told = installed.install(&newer);
    assert!(told.contains("jobs are running, so the old version goes on"), "{told}");
    assert_eq!(installed.property("MainPID"), old, "the upgrade restarted the service over a running job");
    assert_eq!(machine.sh("systemctl is-active hyper2kvm-restart-when-idle.service"), "active");

    // The old service can still start workers, though its program file is gone.
    installed.drop_disk("short", 4, "false");
    installed.wait_settled("processed", "short");
    installed.limit_reading(None);
    installed.wait_settled("processed", "long");
    assert_eq!(installed.vm("long")["attempt"], 1, "the job was started again: {}", installed.vm("long"));
    installed.assert_result("long");
    installed.assert_result("short");

    machine.wait_sh(&format!(
        "new=$(systemctl show --value -p MainPID hyper2kvm); [ \"$new\" != 0 ] && [ \"$new\" != {old} ] && systemctl is-active hyper2kvm"
    ));
    machine.wait_sh("! systemctl is-active hyper2kvm-restart-when-idle.service");
    assert_eq!(
        machine.sh("readlink /proc/$(systemctl show --value -p MainPID hyper2kvm)/exe"),
        "/usr/bin/hyper2kvm"
    );

    // Nothing runs now: the next upgrade restarts at once.
    let old = installed.property("MainPID");
    let told = installed.install(&newest);
    assert!(!told.contains("jobs are running"), "{told}");
    assert_ne!(installed.property("MainPID"), old);
    assert_eq!(machine.sh("systemctl is-active hyper2kvm"), "active");
}

#[test]
fn an_upgrade_leaves_a_stopped_service_stopped_and_a_changed_configuration_changed() {
    let installed = Installed::new();
    let machine = &installed.machine;
    machine.sh("echo '# mine' >>/etc/hyper2kvm/hyper2kvm.yaml; systemctl stop hyper2kvm");
    installed.install(&package("0.1.1"));
    assert_eq!(machine.sh("systemctl is-active hyper2kvm || true"), "inactive");
    assert_eq!(machine.sh("tail -n 1 /etc/hyper2kvm/hyper2kvm.yaml"), "# mine");
}

#[test]
fn removing_and_purging_leave_results_drops_and_the_queue() {
    let installed = Installed::new();
    let machine = &installed.machine;
    installed.drop_disk("done", 4, "false");
    installed.wait_settled("processed", "done");
    machine.sh("hyper2kvm drain && echo kept >/var/lib/hyper2kvm/incoming/later.yaml");

    machine.sh("dpkg --remove hyper2kvm 2>&1");
    assert_eq!(machine.sh("pgrep -u hyper2kvm || true"), "");
    let told = machine.sh("dpkg --purge hyper2kvm 2>&1");
    assert!(told.contains("stay in /var/lib/hyper2kvm"), "{told}");
    machine.sh("! test -e /usr/bin/hyper2kvm && ! test -e /etc/hyper2kvm/hyper2kvm.yaml && ! test -e /var/cache/hyper2kvm");
    installed.assert_result("done");
    machine.sh("cd /var/lib/hyper2kvm && test -s queue.db && test -e output/done/done/report.json && ls processed/*/done.yaml");
    assert_eq!(machine.sh("cat /var/lib/hyper2kvm/incoming/later.yaml"), "kept");
    assert_eq!(machine.sh("stat -c %U /var/lib/hyper2kvm"), "hyper2kvm");

    // Installed again, it knows its history.
    installed.install(&package("0.1.0"));
    machine.wait_sh("hyper2kvm list --json | grep -q '\"done\"'");
}

#[test]
fn the_rpm_has_the_same_files_and_never_removes_state() {
    let out = tempfile::tempdir().unwrap();
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build");
    let made = text_of(
        Command::new(build)
            .args(["--binary", env!("CARGO_BIN_EXE_hyper2kvm"), "--version", "0.1.0", "--quick", "--out"])
            .arg(out.path())
            .arg("rpm"),
    );
    let rpm = |query: &str| text_of(Command::new("rpm").arg("-qp").args(query.split(' ')).arg(made.trim()));

    let files = rpm("-l");
    for file in [
        "/usr/bin/hyper2kvm",
        "/usr/lib/systemd/system/hyper2kvm.service",
        "/usr/lib/systemd/system-generators/hyper2kvm-paths",
        "/usr/lib/sysusers.d/hyper2kvm.conf",
        "/usr/share/man/man1/hyper2kvm.1.gz",
        "/usr/share/licenses/hyper2kvm/LICENSE",
    ] {
        assert!(files.lines().any(|line| line == file), "{file} is not in the rpm:\n{files}");
    }
    assert!(!files.contains("/var/lib"), "state belongs to no package:\n{files}");
    assert_eq!(rpm("-c").lines().next(), Some("/etc/hyper2kvm/hyper2kvm.yaml"));
    assert!(rpm("--requires").lines().any(|line| line == "qemu-img"));

    let scripts = rpm("--scripts");
    assert!(!scripts.contains("rm -rf /var/lib"), "{scripts}");
    assert!(scripts.contains("/usr/lib/hyper2kvm/after-upgrade"), "{scripts}");
}
