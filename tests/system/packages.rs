//! The package on a real systemd: installed, started, watched, upgraded, removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::machine::Machine;
use super::root::{run, said};

/// Builds the Debian package of the binary under test, once for each version asked for.
fn package(version: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _turn = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("packages-{}", std::process::id()));
    let made = directory.join(format!("hyper2kvm_{version}_{}.deb", architecture()));
    if !made.exists() {
        let mut build = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build"));
        build.args(["--binary", env!("CARGO_BIN_EXE_hyper2kvm"), "--version", version, "--out"]);
        let done = run(build.arg(&directory).arg("deb"));
        assert!(done.status.success(), "{}", said(&done));
    }
    made
}

fn architecture() -> String {
    super::root::text_of(Command::new("dpkg").arg("--print-architecture")).trim().to_owned()
}

/// A machine with the package of this version installed.
fn installed(version: &str) -> Machine {
    let package = package(version);
    let machine = Machine::boot();
    install(&machine, &package);
    machine
}

/// Installs a package, or upgrades to it; gives what dpkg and the maintainer scripts said.
#[track_caller]
fn install(machine: &Machine, package: &Path) -> String {
    let name = package.file_name().unwrap().to_str().unwrap();
    fs::copy(package, machine.shared().join(name)).unwrap();
    machine.sh(&format!("DEBIAN_FRONTEND=noninteractive dpkg -i /host/{name} 2>&1"))
}

#[test]
fn the_unit_is_valid_and_confined() {
    let machine = installed("0.1.0");
    assert_eq!(
        machine.sh("systemd-analyze verify hyper2kvm.service hyper2kvm-restart-when-idle.service 2>&1"),
        ""
    );
    let exposure = machine.sh("systemd-analyze security --no-pager hyper2kvm.service | tail -n 1");
    let level: f64 = exposure.split_whitespace().rev().find_map(|word| word.parse().ok()).expect(&exposure);
    assert!(level <= 3.0, "{exposure}");
}

#[test]
fn users_groups_and_directories_are_there_after_installing() {
    let machine = installed("0.1.0");
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
}
