//! A machine with the package of the binary under test installed, and what one does with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::machine::{Kind, Machine};
use super::root::{run, said, text_of};
use crate::support::disks;

/// The version of packages that nothing is upgraded from.
pub const VERSION: &str = "0.1.0";

/// A machine with the service on it.
pub struct Installed {
    pub machine: Machine,
}

impl Installed {
    /// Boots a machine and installs the package.
    #[track_caller]
    pub fn new() -> Installed {
        Installed::on(Kind::Plain)
    }

    /// The same on a machine of this kind.
    #[track_caller]
    pub fn on(kind: Kind) -> Installed {
        let package = package(VERSION);
        let installed = Installed { machine: Machine::boot(kind) };
        installed.install(&package);
        // Quick retries, room for two jobs; and the machine's file system lies in memory, where little is free.
        installed.configure(
            "10-test",
            "max_concurrent_jobs: 2\nretry: {base_delay_s: 0.2, max_delay_s: 1}\nlimits: {disk_reserve: 1MiB}\n",
        );
        installed.machine.sh("systemctl restart hyper2kvm && useradd -G hyper2kvm-submit,hyper2kvm anna");
        installed
    }

    /// Installs a package, or upgrades to it; gives what dpkg and the maintainer scripts said.
    #[track_caller]
    pub fn install(&self, package: &Path) -> String {
        let name = package.file_name().unwrap().to_str().unwrap();
        fs::copy(package, self.machine.shared().join(name)).unwrap();
        self.machine.sh(&format!("DEBIAN_FRONTEND=noninteractive dpkg -i /srv/host/{name} 2>&1"))
    }

    /// Writes a fragment of configuration.
    #[track_caller]
    pub fn configure(&self, name: &str, text: &str) {
        fs::write(self.machine.shared().join("fragment"), text).unwrap();
        self.machine.sh(&format!("cp /srv/host/fragment /etc/hyper2kvm/conf.d/{name}.yaml"));
    }

    /// From now on so much is read of all sources in a second, so that a copy lasts as long as a test needs it; none: as much as there is.
    #[track_caller]
    pub fn limit_reading(&self, rate: Option<&str>) {
        match rate {
            Some(rate) => self.configure("30-rate", &format!("limits: {{bandwidth: [{{rate: {rate}}}]}}\n")),
            None => _ = self.machine.sh("rm /etc/hyper2kvm/conf.d/30-rate.yaml"),
        }
        self.machine.sh("systemctl reload hyper2kvm");
    }

    /// Drops, as an ordinary user, a manifest for a raw disk of `mib` MiB full of noise.
    #[track_caller]
    pub fn drop_disk(&self, name: &str, mib: u64, compress: &str) {
        let disk = self.machine.shared().join(format!("{name}.raw"));
        disks::raw(&disk, mib, mib, mib);
        let inside = PathBuf::from(format!("/srv/host/{name}.raw"));
        let manifest = disks::manifest(
            &[("boot", &inside, "raw")],
            &format!(
                "profile: none\npipeline: {{convert: {{enabled: true}}}}\noutput: {{compress: {compress}}}\n"
            ),
        );
        self.drop(name, &manifest);
    }

    /// Drops a manifest as an ordinary user.
    #[track_caller]
    pub fn drop(&self, name: &str, manifest: &str) {
        fs::write(self.machine.shared().join(format!("{name}.yaml")), manifest).unwrap();
        let incoming = "/var/lib/hyper2kvm/incoming";
        self.machine.sh(&format!(
            "runuser -u anna -- sh -c 'umask 002; cp /srv/host/{name}.yaml {incoming}/.{name}; mv {incoming}/.{name} {incoming}/{name}.yaml'"
        ));
    }

    /// The one VM of a batch, as its progress file has it.
    pub fn vm(&self, batch: &str) -> Value {
        let read = self.machine.try_sh(&format!("cat /var/lib/hyper2kvm/progress/{batch}.json"));
        let progress: Value = serde_json::from_slice(&read.stdout).unwrap_or_default();
        progress["vms"].as_object().and_then(|vms| vms.values().next()).cloned().unwrap_or_default()
    }

    /// Waits until bytes of the batch's disk have been copied.
    #[track_caller]
    pub fn wait_copying(&self, batch: &str) {
        let copying = crate::support::within(crate::support::wait::PATIENCE, || {
            let vm = self.vm(batch);
            (vm["disks"]["boot"]["bytes_done"].as_u64() > Some(0)).then_some(())
        });
        assert!(copying.is_some(), "{batch} does not copy: {}\n{}", self.vm(batch), self.machine.journal());
    }

    /// Waits until the batch has settled, in `processed/` or `failed/`.
    #[track_caller]
    pub fn wait_settled(&self, area: &str, batch: &str) {
        let limit = std::time::Duration::from_secs(180);
        self.machine.wait_sh_for(limit, &format!("ls /var/lib/hyper2kvm/{area}/*/{batch}.yaml"));
    }

    /// Compares the result with the source, bit by bit.
    #[track_caller]
    pub fn assert_result(&self, batch: &str) {
        let result = format!("/var/lib/hyper2kvm/output/{batch}/{batch}/boot.qcow2");
        self.machine.sh(&format!("qemu-img compare -f raw -F qcow2 /srv/host/{batch}.raw {result}"));
    }

    /// A property of the service's unit.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.machine.sh(&format!("systemctl show --value --property {name} hyper2kvm.service"))
    }

    /// What the journal has of the service.
    #[track_caller]
    pub fn journal(&self) -> String {
        self.machine.sh("journalctl --no-pager -o cat -u hyper2kvm.service")
    }
}

/// Builds the Debian package of the binary under test, once for each version asked for.
pub fn package(version: &str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    if built.insert(version.to_owned()) {
        let mut build = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build"));
        build.args(["--binary", env!("CARGO_BIN_EXE_hyper2kvm"), "--version", version, "--quick", "--out"]);
        let done = run(build.arg(&directory).arg("deb"));
        assert!(done.status.success(), "{}", said(&done));
    }
    let architecture = text_of(Command::new("dpkg").arg("--print-architecture"));
    directory.join(format!("hyper2kvm_{version}_{}.deb", architecture.trim()))
}
