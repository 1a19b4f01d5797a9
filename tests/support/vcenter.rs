//! A vCenter, or an ESXi host, of a test's own: govmomi's simulator with TLS, a login, an inventory as the test describes it, and datastores with
//! real files, which it serves over HTTPS as hosts do.
//!
//! The program that this starts is tests/support/vcsim; it is built once on a machine and kept. It ends with its [`Vcenter`], and all its
//! files lie in a directory that ends with it too.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Who may log in. Characters that XML and URLs take for their own are among them on purpose.
pub const USER: &str = "migrator@vsphere.local";
/// With what.
pub const PASSWORD: &str = "s&cret<'\"> %2f+é";

/// What there is to be.
#[derive(Debug, Clone)]
pub struct Options(Value, bool);

impl Options {
    /// A vCenter with one datacenter `DC0`, one datastore `ds1`, and no machine.
    pub fn vcenter() -> Options {
        let description = json!({
            "user": USER, "password": PASSWORD, "datacenters": 1, "datastores": ["ds1"], "machines": [],
        });
        Options(description, false)
    }

    /// An ESXi host with one datastore `ds1` and no machine.
    pub fn esxi() -> Options {
        Options::vcenter().with("esx", true)
    }

    /// Sets a member of `Description` in tests/support/vcsim/main.go.
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Options {
        self.0[member] = value.into();
        self
    }

    /// In a network of its own, which has nothing but a loopback until the test lays a cable to it ([`Vcenter::pid`]).
    pub fn apart(self) -> Options {
        Options(self.with("listen", "0.0.0.0:0").0, true)
    }

    /// Adds machines that have a name, a small empty disk and a network card.
    pub fn fillers(self, number: u32) -> Options {
        self.with("fillers", number)
    }

    /// Adds a machine: `Machine` in tests/support/vcsim/machines.go says what it may have. Without `datacenter` it is in the first one,
    /// without `datastore` on the first one, without `on` it is off.
    pub fn machine(mut self, machine: Value) -> Options {
        self.0["machines"].as_array_mut().unwrap().push(machine);
        self
    }
}

/// A disk of a machine, with the bytes of this file.
pub fn disk(content: &Path) -> Value {
    let size = fs::metadata(content).unwrap().len().next_multiple_of(1 << 20);
    json!({ "capacity": size, "content": content })
}

/// A request as the server has written it down.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// Decoded, without the query.
    pub path: String,
    /// Which call it was.
    #[serde(default)]
    pub call: String,
    /// The header of that name.
    #[serde(default)]
    pub range: String,
    /// What was answered; 0 when the connection was cut instead.
    pub status: u16,
    /// How many bytes of a body were sent.
    pub sent: u64,
    /// The other end of the connection.
    pub client: String,
}

impl Request {
    /// The bytes it was about: start and end.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let (start, last) = self.range.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, last.parse::<u64>().ok()? + 1))
    }
}

/// A running one.
#[derive(Debug)]
pub struct Vcenter {
    at: TempDir,
    server: Child,
    line: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    ready: Value,
}

impl Vcenter {
    /// Starts it; it listens when this returns.
    pub fn start(options: Options) -> Vcenter {
        let Options(wanted, apart) = options;
        let at = tempfile::Builder::new().prefix("h2k-vc-").tempdir().unwrap();
        let mut command = match apart {
            false => Command::new(program()),
            true => {
                let mut command = Command::new("unshare");
                command.args(["--net", "sh", "-c", "ip link set lo up; exec \"$0\""]).arg(program());
                command
            }
        };
        let mut server = command
            .env("TMPDIR", at.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(at.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut orders = server.stdin.take().unwrap();
        let mut answers = BufReader::new(server.stdout.take().unwrap());
        writeln!(orders, "{wanted}").unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("vcsim did not start: {}", fs::read_to_string(at.path().join("log")).unwrap_or_default())
        });
        Vcenter { at, server, line: Mutex::new((orders, answers)), ready }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.ready["address"].as_str().unwrap().to_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address().rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// The certificate that has signed its own.
    pub fn ca(&self) -> PathBuf {
        self.ready["ca"].as_str().unwrap().into()
    }

    /// The SHA-256 of its certificate, in hexadecimal.
    pub fn thumbprint(&self) -> String {
        self.order(&json!({ "thumbprint": true }))
    }

    /// The directory behind a datastore of the first datacenter.
    pub fn datastore(&self, name: &str) -> PathBuf {
        let datacenter = if self.ready["datastores"]["DC0"].is_object() { "DC0" } else { "ha-datacenter" };
        self.datastore_in(datacenter, name)
    }

    /// The directory behind a datastore of this datacenter.
    pub fn datastore_in(&self, datacenter: &str, name: &str) -> PathBuf {
        self.ready["datastores"][datacenter][name].as_str().unwrap().into()
    }

    /// Something goes wrong from now on: `Fault` in tests/support/vcsim/faults.go.
    pub fn fault(&self, fault: &Value) {
        self.done(&json!({ "fault": fault }));
    }

    /// Nothing goes wrong any more.
    pub fn calm(&self) {
        self.done(&json!({ "calm": true }));
    }

    /// All sessions are over, as after a restart of the server.
    pub fn forget_sessions(&self) {
        self.done(&json!({ "forget": true }));
    }

    /// How many are logged in.
    pub fn sessions(&self) -> usize {
        self.order(&json!({ "sessions": true })).parse().unwrap()
    }

    /// How many exports are under way.
    pub fn leases(&self) -> usize {
        self.order(&json!({ "leases": true })).parse().unwrap()
    }

    /// From now on the account lacks these privileges, and no others.
    pub fn lacks(&self, privileges: &[&str]) {
        self.done(&json!({ "lacks": privileges }));
    }

    /// From now on it shows another certificate: `good` (a new one), `expired`, `wrong-name` or `own`.
    pub fn certificate(&self, kind: &str) {
        self.done(&json!({ "certificate": kind }));
    }

    /// How many bytes each second a file is sent with; 0 is no limit.
    pub fn throttle(&self, rate: u64) {
        self.done(&json!({ "throttle": rate }));
    }

    /// The guest of a machine that runs writes to one of its disks, counted from 0.
    pub fn guest_writes(&self, vm: &str, disk: usize, offset: u64, bytes: &[u8]) {
        let mut data = tempfile::NamedTempFile::new_in(self.at.path()).unwrap();
        data.write_all(bytes).unwrap();
        self.done(&json!({ "write": { "vm": vm, "disk": disk, "offset": offset, "file": data.path() } }));
    }

    /// What the guest sees of one of its disks now.
    pub fn disk_now(&self, vm: &str, disk: usize) -> Vec<u8> {
        self.disk_as_of(vm, disk, "")
    }

    /// What it saw when this snapshot was made: `snapshot-42`.
    pub fn disk_as_of(&self, vm: &str, disk: usize, snapshot: &str) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new_in(self.at.path()).unwrap();
        self.done(&json!({ "now": { "vm": vm, "disk": disk, "file": file.path(), "snapshot": snapshot } }));
        fs::read(file.path()).unwrap()
    }

    /// What is known of the changes of a machine's disks is lost, as after a crash of its host.
    pub fn reset_tracking(&self, vm: &str) {
        self.done(&json!({ "reset_tracking": vm }));
    }

    /// Which areas of a disk are in use is told from now on as it is (``), as of a disk on NFS (`whole`: all of it), or not at all (`refused`).
    pub fn areas(&self, answers: &str) {
        self.done(&json!({ "areas": answers }));
    }

    /// A guest behaves otherwise, or its machine's power is switched: `PowerOrder` in tests/support/vcsim/power.go.
    pub fn power(&self, order: &Value) {
        self.done(&json!({ "power": order }));
    }

    /// A machine that is off is taken out of the inventory.
    pub fn gone(&self, vm: &str) {
        self.done(&json!({ "gone": vm }));
    }

    /// How a machine is now, asked beside everything that is written down: power, notes, cards, autostart.
    #[track_caller]
    pub fn look(&self, vm: &str) -> Value {
        let told = self.order(&json!({ "look": vm }));
        serde_json::from_str(&told).unwrap_or_else(|_| panic!("{vm}: {told}"))
    }

    /// So many hundredths of a datastore are free from now on.
    pub fn free(&self, datastore: &str, percent: u8) {
        self.done(&json!({ "room": { "datastore": datastore, "percent": percent } }));
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        let text = fs::read_to_string(self.ready["log"].as_str().unwrap()).unwrap();
        // The last line may be in the making.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many bytes were sent of files whose path has this in it.
    pub fn sent_of(&self, name: &str) -> u64 {
        let files = self.requests().into_iter().filter(|request| request.path.starts_with("/folder/"));
        files.filter(|request| request.path.contains(name)).map(|request| request.sent).sum()
    }

    fn done(&self, order: &Value) {
        assert_eq!(self.order(order), "done", "{order}");
    }

    fn order(&self, order: &Value) -> String {
        let mut line = self.line.lock().unwrap();
        writeln!(line.0, "{order}").unwrap();
        let mut answer = String::new();
        line.1.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Vcenter {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The program, built if it has to be.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/vcsim/build");
        let output = Command::new("bash").arg(build).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    })
}
