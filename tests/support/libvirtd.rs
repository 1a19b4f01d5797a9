//! A libvirt of a test's own: libvirtd, its log daemon, its networks and its QEMUs in namespaces that end with the test.
//!
//! All of it is real: Debian's libvirtd with QEMU, on directories of its own in place of /etc/libvirt, /var/lib/libvirt and /run/libvirt, with
//! a network of its own. Its socket is reached from outside by [`Libvirtd::uri`]; what has to see the same networks and the same
//! `qemu:///system` is run inside ([`Libvirtd::inside`]). When it goes out of scope, everything in it is killed.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::wait::within;

/// The first process inside: makes the directories, starts both daemons as often as they end, and never ends by itself.
const INSIDE: &str = r#"
set -eu
mount -t tmpfs -o mode=755 h2k-run /run
mkdir -p /run/libvirt /var/log/libvirt /var/cache/libvirt
mount --bind "$1/run" /run/libvirt
for at in etc:/etc/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
  mount --bind "$1/${at%%:*}" "${at#*:}"
done
ip link set lo up
virtlogd -d
echo $$ >"$1/ready"
while :; do
  [ -e "$1/hold" ] || libvirtd $(cat "$1/arguments" 2>/dev/null || true) >>"$1/libvirtd.log" 2>&1 || true
  sleep 0.1
done
"#;
/// The first start asks QEMU for all that it can do, on a loaded machine.
const UP_WITHIN: Duration = Duration::from_secs(120);

/// A running libvirtd with all that belongs to it.
pub struct Libvirtd {
    at: TempDir,
    holder: Child,
}

impl Libvirtd {
    /// Starts one that has no machine, no pool, and libvirt's `default` network, which is not active.
    pub fn start() -> Libvirtd {
        let at = tempfile::Builder::new().prefix("h2k-lv-").tempdir().unwrap();
        // QEMU runs as a user of its own and has to get through.
        set_mode(at.path(), 0o755);
        for name in ["run", "log", "cache", "images"] {
            fs::create_dir(at.path().join(name)).unwrap();
        }
        for (from, name) in [("/etc/libvirt", "etc"), ("/var/lib/libvirt", "lib")] {
            let copied = Command::new("cp").args(["-a", from]).arg(at.path().join(name)).status().unwrap();
            assert!(copied.success(), "libvirt-daemon-system is installed by set-up");
        }
        let holder = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "sh", "-c", INSIDE, "sh"])
            .arg(at.path())
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let libvirtd = Libvirtd { at, holder };
        libvirtd.await_up();
        libvirtd
    }

    /// A directory that QEMU may read: for disks and pools.
    pub fn images(&self) -> PathBuf {
        self.at.path().join("images")
    }

    /// Its URI from outside, with the socket named.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.at.path().join("run/libvirt-sock").display())
    }

    /// A command that runs where its libvirt is `qemu:///system` and its networks are the host's.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--pid", "--target", &self.first().to_string(), "--"]).arg(program);
        command
    }

    /// The program under test, inside.
    pub fn hyper2kvm(&self) -> Command {
        self.inside(env!("CARGO_BIN_EXE_hyper2kvm"))
    }

    /// What a shell inside says to this; it has to go well.
    pub fn sh(&self, script: &str) -> String {
        let output = self.inside("sh").args(["-euc", script]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The process of libvirtd, as seen from outside.
    pub fn pid(&self) -> Option<u32> {
        let children =
            |of: u32| fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
        let first = self.first();
        let of_first: Vec<u32> =
            children(first).split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        of_first.into_iter().find(|pid| name_of(*pid) == "libvirtd")
    }

    /// Kills libvirtd at once; it comes back by itself unless it is [held down](Self::hold).
    pub fn kill(&self) {
        self.signal(rustix::process::Signal::KILL);
    }

    /// Sends libvirtd a signal: stopped, it hangs and does not answer.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.pid().expect("libvirtd runs");
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// While it is held down, a libvirtd that ended does not come back.
    pub fn hold(&self, down: bool) {
        let hold = self.at.path().join("hold");
        if down { fs::write(hold, "").unwrap() } else { fs::remove_file(hold).unwrap() }
    }

    /// Has it start again with these arguments, and what is added to its configuration.
    pub fn start_again(&self, arguments: &str, configuration: &str) {
        fs::write(self.at.path().join("arguments"), arguments).unwrap();
        let file = self.at.path().join("etc/libvirtd.conf");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{before}\n{configuration}")).unwrap();
        let first = self.pid();
        self.signal(rustix::process::Signal::TERM);
        let again = || self.pid().filter(|pid| Some(*pid) != first);
        assert!(within(UP_WITHIN, again).is_some(), "libvirtd did not come back: {}", self.log());
        self.await_up();
    }

    /// Waits until it answers.
    pub fn await_up(&self) {
        let answers = || {
            let mut command = Command::new("virsh");
            command.args(["-c", &self.uri(), "version"]).stdin(Stdio::null());
            command.output().is_ok_and(|output| output.status.success()).then_some(())
        };
        assert!(within(UP_WITHIN, answers).is_some(), "libvirtd did not come up: {}", self.log());
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.at.path().join("libvirtd.log")).unwrap_or_default()
    }

    /// The first process inside, as seen from outside.
    fn first(&self) -> u32 {
        let holder = self.holder.id();
        let of_holder = || {
            let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        };
        within(UP_WITHIN, of_holder).expect("unshare starts a process")
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        // With the first process inside all others end, and with the last one its namespaces.
        let children = format!("/proc/{0}/task/{0}/children", self.holder.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        let first: Option<u32> = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // They could still make files in what is removed next; whoever adopts the first one may not reap it.
        let is_over = |pid: u32| {
            fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
        };
        if let Some(first) = first {
            within(Duration::from_secs(20), || is_over(first).then_some(()));
        }
    }
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
