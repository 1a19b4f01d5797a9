//! A booted systemd in a container: Debian, no network, gone without a trace when it goes out of scope.
//!
//! The tree comes from `build-root` and is never written to: each machine gets an overlay in memory.
//! One machine runs at a time (nspawn locks its tree, and two cores are enough for one systemd).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::root::{as_root, run, said, text_of};
use crate::support::guests::Guest;
use crate::support::wait::{PATIENCE, wait_for, within};

/// systemd 252's nspawn does not let these through by itself.
const LANDLOCK_CALLS: &str = "landlock_create_ruleset landlock_add_rule landlock_restrict_self";

static TURN: Mutex<()> = Mutex::new(());

/// What there is on the machine.
#[derive(Clone, Copy)]
pub enum Kind {
    /// What the package depends on.
    Plain,
    /// And what it recommends: libguestfs with a kernel, and QEMU. State and cache lie on the disk instead of in memory, and the
    /// disks of this test guest are seen in `/srv/guest`.
    WithGuest(&'static str),
}

/// A running machine.
pub struct Machine {
    nspawn: Child,
    leader: u32,
    /// Seen inside as `/srv/host`.
    shared: TempDir,
    _turn: MutexGuard<'static, ()>,
    _turn_of_all: fs::File,
}

impl Machine {
    /// Boots one and waits until it is up.
    #[track_caller]
    pub fn boot(kind: Kind) -> Machine {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/build-root");
        let mut script = Command::new(script);
        if matches!(kind, Kind::WithGuest(_)) {
            script.arg("guests");
        }
        let tree = PathBuf::from(text_of(&mut script).trim());
        // Another checkout's tests may be at it.
        let turn_of_all = fs::File::create(tree.with_file_name(".turn")).unwrap();
        turn_of_all.lock().unwrap();

        let shared = tempfile::Builder::new().prefix("h2k-host-").tempdir().unwrap();
        open_to_all(shared.path());
        let log = fs::File::create(shared.path().join("boot.log")).unwrap();
        let mut nspawn = as_root("systemd-nspawn");
        if let Kind::WithGuest(name) = kind {
            for (name, inside) in [("state", "/var/lib/hyper2kvm"), ("cache", "/var/cache/hyper2kvm")] {
                let outside = shared.path().join(name);
                fs::create_dir(&outside).unwrap();
                nspawn.arg(format!("--bind={}:{inside}", outside.display()));
            }
            let disks = Guest::build(name).disks;
            nspawn.arg(format!("--bind-ro={}:/srv/guest", disks[0].parent().unwrap().display()));
        }
        let nspawn = nspawn
            .arg("-D")
            .arg(&tree)
            .args(["--volatile=overlay", "--boot", "--register=no", "--keep-unit", "--private-network"])
            .args(["--console=pipe", "--quiet"])
            .arg(format!("--machine=h2k-{}", std::process::id()))
            .arg(format!("--system-call-filter={LANDLOCK_CALLS}"))
            .arg(format!("--bind={}:/srv/host", shared.path().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("systemd-container is installed by set-up");
        let mut machine = Machine { nspawn, leader: 0, shared, _turn: turn, _turn_of_all: turn_of_all };
        machine.leader = machine.wait_for_leader();
        let state = wait_for("the machine to boot", || {
            let said = said(&machine.try_sh("systemctl is-system-running"));
            matches!(said.trim(), "running" | "degraded").then_some(said)
        });
        assert_eq!(state.trim(), "running", "{}", machine.sh("systemctl --failed --no-pager"));
        machine
    }

    /// A directory that the machine sees as `/srv/host`.
    pub fn shared(&self) -> &Path {
        self.shared.path()
    }

    /// Runs a shell line inside, expects success, gives what it printed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let done = self.try_sh(line);
        assert!(done.status.success(), "{line}: {}\n{}\n{}", done.status, said(&done), self.journal());
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// Runs a shell line inside, whatever comes of it.
    #[track_caller]
    pub fn try_sh(&self, line: &str) -> Output {
        let mut command = as_root("nsenter");
        command.args(["--target", &self.leader.to_string(), "--all", "--"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "sh", "-ec", line]);
        run(command.stdin(Stdio::null()))
    }

    /// Polls a shell line until it succeeds, and gives what it printed then.
    #[track_caller]
    pub fn wait_sh(&self, line: &str) -> String {
        self.wait_sh_for(PATIENCE, line)
    }

    /// The same with another deadline.
    #[track_caller]
    pub fn wait_sh_for(&self, limit: Duration, line: &str) -> String {
        let found = within(limit, || {
            let done = self.try_sh(line);
            done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
        });
        found.unwrap_or_else(|| panic!("waited {limit:?} in vain for: {line}\n{}", self.journal()))
    }

    /// The end of the service's journal.
    pub fn journal(&self) -> String {
        said(&self.try_sh(
            "journalctl --no-pager -n 60 -u hyper2kvm.service -u hyper2kvm-restart-when-idle.service",
        ))
    }

    /// nspawn's child is the machine's first process.
    fn wait_for_leader(&mut self) -> u32 {
        wait_for("the container's first process", || {
            if let Some(status) = self.nspawn.try_wait().unwrap() {
                let log = fs::read_to_string(self.shared.path().join("boot.log")).unwrap_or_default();
                panic!("systemd-nspawn ended: {status}\n{log}");
            }
            descendants(self.nspawn.id()).into_iter().find(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.trim() == "systemd"
            })
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An orderly power-off takes a second and leaves no control groups; what does not obey is killed.
        let nspawn = descendants(self.nspawn.id())
            .into_iter()
            .find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim() == "systemd-nspawn"
            })
            .unwrap_or(self.nspawn.id());
        as_root("kill").args(["-TERM", &nspawn.to_string()]).status().ok();
        if within(Duration::from_secs(20), || self.nspawn.try_wait().unwrap()).is_none() {
            as_root("kill").args(["-KILL", &nspawn.to_string(), &self.leader.to_string()]).status().ok();
            self.nspawn.wait().ok();
        }
        // Root of the machine may have written here.
        as_root("find").arg(self.shared.path()).args(["-mindepth", "1", "-delete"]).status().ok();
    }
}

/// Whoever the machine's users are, they may come in here.
fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

/// All processes below this one.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|word| word.parse().ok()) {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}
