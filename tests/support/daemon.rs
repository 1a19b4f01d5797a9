//! A real daemon, started from the built binary on a state directory of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::wait::{PATIENCE, wait_for, within};

/// Marks the environment of every process that a daemon of a test starts.
const MARK: &str = "HYPER2KVM_TEST_MARK";

/// A daemon under test.
pub struct Daemon {
    scratch: TempDir,
    state: PathBuf,
    child: Option<Child>,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
}

impl Daemon {
    /// A state directory with a quick configuration; nothing runs yet.
    pub fn prepare() -> Daemon {
        let scratch = tempfile::Builder::new().prefix("h2k-").tempdir().unwrap();
        let state = scratch.path().join("state");
        Daemon::prepare_in(scratch, state)
    }

    /// The same with the state directory somewhere else (a small file system, say).
    pub fn prepare_in(scratch: TempDir, state: PathBuf) -> Daemon {
        fs::create_dir_all(&state).unwrap();
        let daemon =
            Daemon { scratch, state, child: None, environment: BTreeMap::new(), arguments: Vec::new() };
        daemon.configure("");
        daemon
    }

    /// A running daemon.
    pub fn start_new() -> Daemon {
        let mut daemon = Daemon::prepare();
        daemon.start();
        daemon
    }

    /// Writes the configuration: quick retries and no network watching, plus these lines.
    pub fn configure(&self, further: &str) {
        let mut text = String::new();
        if !further.contains("network_monitor:") {
            text.push_str("network_monitor: {enabled: false}\n");
        }
        if !further.contains("retry:") {
            text.push_str("retry: {base_delay_s: 0.2, max_delay_s: 1}\n");
        }
        if !further.contains("limits:") {
            text.push_str("limits: {disk_reserve: 1MiB}\n");
        }
        text.push_str(further);
        fs::write(self.config(), text).unwrap();
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("hyper2kvm.yaml")
    }

    /// A directory for sources, beside the state directory.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Sets a variable of the daemon's environment for the next start.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Takes a variable out of the daemon's environment for the next start.
    pub fn no_env(&mut self, name: &str) {
        self.environment.remove(name);
    }

    /// One more argument on its command line, from the next start on.
    pub fn argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command
            .arg("--config")
            .arg(self.config())
            .arg("--state-dir")
            .arg(&self.state)
            .arg("daemon")
            .args(&self.arguments)
            .envs(&self.environment)
            .env(MARK, self.scratch.path())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM");
        command
    }

    /// Starts it without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        self.child = Some(child);
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        if !self.ready() {
            panic!("the daemon did not become ready:\n{}", self.log());
        }
    }

    /// Waits until it is ready; `false` if it ended before.
    pub fn ready(&mut self) -> bool {
        let pid = self.pid();
        wait_for("the daemon to be ready or to end", || {
            if self.ended().is_some() {
                return Some(false);
            }
            let status = self.status_file()?;
            (status["ready"] == true && status["pid"] == pid).then_some(true)
        })
    }

    /// `status.json` as it is now.
    pub fn status_file(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.state.join("status.json")).ok()?).ok()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let Some(status) = within(limit, || self.ended()) else {
            panic!("the daemon did not end within {limit:?}:\n{}", self.log());
        };
        self.child = None;
        status
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Kills it as a power cut would, and reaps it.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            let status = child.wait().unwrap();
            assert!(status.signal().is_some() || status.code().is_some());
        }
    }

    /// Asks it to end as systemd would, and waits.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_end(Duration::from_secs(30))
    }

    /// Where its output goes.
    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join("daemon.log")
    }

    /// What it printed so far (the end of it).
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Drops a file by renaming it in, as a careful person does.
    pub fn drop_file(&self, name: &str, content: impl AsRef<[u8]>) {
        let aside = self.state.join(format!(".dropping-{name}"));
        fs::write(&aside, content).unwrap();
        fs::rename(&aside, self.state.join("incoming").join(name)).unwrap();
    }

    /// Runs a client command against it and gives what it printed as JSON.
    #[track_caller]
    pub fn client(&self, arguments: &[&str]) -> Value {
        let done = self.run_client(arguments);
        assert!(
            done.status.success(),
            "{arguments:?}: {}\n{}",
            String::from_utf8_lossy(&done.stderr),
            self.log()
        );
        serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", String::from_utf8_lossy(&done.stdout)))
    }

    /// Runs a client command against it, whatever comes of it.
    pub fn run_client(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
            .args(arguments)
            .arg("--json")
            .env("HYPER2KVM_STATE_DIR", &self.state)
            .output()
            .unwrap()
    }

    /// The progress file of a batch, once it is there.
    pub fn progress(&self, batch: &str) -> Option<Value> {
        let path = self.state.join("progress").join(format!("{batch}.json"));
        let bytes = fs::read(path).ok()?;
        Some(serde_json::from_slice(&bytes).expect("a progress file is never half-written"))
    }

    /// Waits until a batch has ended and gives its progress file.
    #[track_caller]
    pub fn wait_batch(&self, batch: &str) -> Value {
        let last =
            |what: &str| panic!("{what} {batch} did not end; {:?}\n{}", self.progress(batch), self.log());
        within(Duration::from_secs(180), || {
            self.progress(batch)
                .filter(|p| matches!(p["state"].as_str(), Some("completed" | "failed" | "cancelled")))
        })
        .unwrap_or_else(|| last("batch"))
    }

    /// Waits until a file with this name is in `processed/` or `failed/`, and gives its path.
    #[track_caller]
    pub fn wait_settled(&self, area: &str, name: &str) -> PathBuf {
        let found = within(PATIENCE, || self.settled(area, name));
        found.unwrap_or_else(|| panic!("{name} did not arrive in {area}/\n{}", self.log()))
    }

    /// A file with this name in `processed/` or `failed/`.
    pub fn settled(&self, area: &str, name: &str) -> Option<PathBuf> {
        let dates = fs::read_dir(self.state.join(area)).ok()?;
        dates.flatten().map(|date| date.path().join(name)).find(|path| path.symlink_metadata().is_ok())
    }

    /// Every living process that belongs to this daemon, itself included.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = format!("{MARK}={}", self.scratch.path().display());
        let place = self.scratch.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            if pid == std::process::id() {
                continue;
            }
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            if command.is_empty() {
                continue;
            }
            let environment = read("environ");
            let ours =
                environment.split(|b| *b == 0).any(|v| v == mark.as_bytes()) || command.contains(&place);
            if ours {
                found.push((pid, command));
            }
        }
        found
    }

    /// Waits until none of its processes is left. One that is killed while it waits for a disk ends after that.
    #[track_caller]
    pub fn assert_no_orphans(&self) {
        let mut left = Vec::new();
        let gone = within(Duration::from_secs(30), || {
            left = self.processes();
            left.is_empty().then_some(())
        });
        assert!(gone.is_some(), "orphans after half a minute: {left:?}");
    }

    /// Names of files below a directory that a predicate picks.
    pub fn files_below(root: &Path, pick: impl Fn(&str) -> bool + Copy) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(Daemon::files_below(&path, pick));
            } else if pick(&entry.file_name().to_string_lossy()) {
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill9();
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
