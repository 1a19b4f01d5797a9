//! vSphere: how fast a disk comes over several connections or as a stream beside `curl`, how little of one that is mostly empty, and how soon
//! thousands of machines are listed beside pyvmomi.
//!
//! The server is the simulator of the tests, whose TLS takes processors of this machine, too.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use hyper2kvm::disk::Control;
use hyper2kvm::vsphere::{Client, Endpoint, Filled, Login, Patience, Trusted};
use serde_json::json;
use tempfile::TempDir;

use crate::disks::programs;
use crate::figures::{Figures, median, ms};
use crate::published::{self, Waited};
use crate::support::disks;
use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};

const DISK_MIB: u64 = 2048;
/// What one connection of a host that has others to serve gives.
const RATE: u64 = 50_000_000;
const CONNECTIONS: u64 = 4;
/// What a copy asks for at once.
const PIECE: u64 = 1 << 20;
const MACHINES: u32 = 5000;
const ROUNDS: usize = 3;
/// What `vsphere list` asks of each machine, asked through pyvmomi.
const PYVMOMI: &str = r#"
import ssl, sys
from pyVim.connect import SmartConnect, Disconnect
from pyVmomi import vim, vmodl
host, port, user, number = sys.argv[1:5]
password = sys.stdin.readline().rstrip("\n")
server = SmartConnect(host=host, port=int(port), user=user, pwd=password, sslContext=ssl._create_unverified_context())
content = server.RetrieveContent()
view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
query = vmodl.query.PropertyCollector
step = query.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
wanted = query.FilterSpec(
    objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[step])],
    propSet=[query.PropertySpec(type=vim.VirtualMachine, pathSet=[
        "name", "parent", "runtime.powerState", "runtime.connectionState", "summary.config.uuid", "summary.config.instanceUuid",
        "summary.config.guestFullName", "summary.config.numCpu", "summary.config.memorySizeMB", "summary.config.numVirtualDisks",
        "summary.config.vmPathName", "summary.config.template", "summary.storage.committed"])])
found = content.propertyCollector.RetrieveContents([wanted])
assert len([{value.name: str(value.val) for value in machine.propSet} for machine in found]) >= int(number)
Disconnect(server)
"#;
/// Runs what follows, and prints how many KiB it had at most.
const PEAK: &str = "import resource, subprocess, sys\n\
    subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n\
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

/// All of it.
pub fn measure(figures: &mut Figures) {
    transfers(figures);
    holes(figures);
    streams(figures);
    inventory(figures);
}

/// A server, and somebody who has its login.
struct Site {
    at: TempDir,
    vcenter: Vcenter,
}

impl Site {
    fn new(at: TempDir, options: Options) -> Site {
        let vcenter = Vcenter::start(options);
        let credentials = at.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        let login = json!({
            "host": "127.0.0.1", "username": USER, "password": PASSWORD, "thumbprint": vcenter.thumbprint(),
        });
        let file = credentials.join("lab.yaml");
        fs::write(&file, login.to_string()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let settings = json!({ "credentials": { "dir": credentials } });
        fs::write(at.path().join("config.yaml"), settings.to_string()).unwrap();
        Site { at, vcenter }
    }

    fn hyper2kvm(&self, words: &[&str]) -> Vec<String> {
        let config = self.at.path().join("config.yaml").display().to_string();
        let program = env!("CARGO_BIN_EXE_hyper2kvm").to_owned();
        let words = words.iter().map(|word| (*word).to_owned());
        std::iter::once(program).chain(words).chain(["--config".to_owned(), config]).collect()
    }

    fn list(&self) -> Vec<String> {
        let port = self.vcenter.port().to_string();
        self.hyper2kvm(&["vsphere", "--credential", "lab", "--port", &port, "list", "--json"])
    }

    /// Converts what is named; nothing of it stays.
    fn convert(&self, what: &str) -> Waited {
        let out = self.at.path().join("out");
        let words = self.hyper2kvm(&["convert", what, "--no-fix", "-o", out.to_str().unwrap()]);
        let waited = published::run(Command::new(&words[0]).args(&words[1..]), &out);
        fs::remove_dir_all(out).unwrap();
        waited
    }

    /// Converts the machine `web`.
    fn convert_by_ranges(&self) -> Waited {
        self.convert(&format!("vsphere://lab:{}/web", self.vcenter.port()))
    }

    /// Converts it by the stream of an export.
    fn convert_by_stream(&self) -> Waited {
        let manifest = self.at.path().join("web.yaml");
        let text = format!(
            "manifest_version: \"1.0\"\nsource:\n  vsphere: {{credential: lab, port: {}, vm_name: web, transport: nfc}}\n",
            self.vcenter.port()
        );
        fs::write(&manifest, text).unwrap();
        self.convert(manifest.to_str().unwrap())
    }

    /// Fetches the disk over as many connections as a copy has, in the pieces of a copy, and keeps nothing; in milliseconds.
    fn fetch(&self, target: &str) -> f64 {
        let begun = Instant::now();
        let port = self.vcenter.port();
        let trust = Trusted::System { ca_file: Some(self.vcenter.ca()) };
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port, trust };
        let password = serde_json::from_value(json!(PASSWORD)).unwrap();
        let login = Login { username: USER.to_owned(), password };
        let client = Client::connect(&endpoint, &login, &Patience::default(), &Control::new()).unwrap();
        let next = AtomicU64::new(0);
        let work = || {
            let mut connection = client.open_connection().unwrap();
            let mut piece = vec![0; PIECE as usize];
            loop {
                let at = next.fetch_add(PIECE, Ordering::Relaxed);
                if at >= DISK_MIB << 20 {
                    return;
                }
                let mut answer = connection.get(target, Some(at..at + PIECE)).unwrap();
                assert_eq!(answer.status.as_u16(), 206);
                assert_eq!(answer.body.fill(&mut piece, &mut |_| ()).unwrap(), Filled::Ended(PIECE as usize));
            }
        };
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(work);
            }
        });
        ms(begun.elapsed())
    }

    /// Says a call for `curl`, which is logged in; gives the answer.
    fn call(&self, jar: &str, call: &str) -> String {
        let envelope = format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body>{call}</soapenv:Body></soapenv:Envelope>"
        );
        let body = self.at.path().join("call.xml");
        fs::write(&body, envelope).unwrap();
        let url = format!("https://{}/sdk", self.vcenter.address());
        let output = Command::new("curl")
            .args(["-sfk", "-b", jar, "-d", &format!("@{}", body.display()), &url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{call}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Has the machine exported, takes its disk into a file with `curl`, and converts that with `qemu-img`, made durable.
    fn curl_and_convert(&self, jar: &str, moref: &str) -> f64 {
        let begun = Instant::now();
        let call = format!(
            "<ExportVm xmlns=\"urn:vim25\"><_this type=\"VirtualMachine\">{moref}</_this></ExportVm>"
        );
        let answer = self.call(jar, &call);
        let (_, rest) = answer.split_once("<returnval type=\"HttpNfcLease\">").unwrap();
        let lease = rest.split_once('<').unwrap().0;
        let (stream, result) = (self.at.path().join("disk.vmdk"), self.at.path().join("disk.qcow2"));
        let (stream_name, result_name) = (stream.to_str().unwrap(), result.to_str().unwrap());
        let url = format!("https://{}/nfc/{lease}/disk-0.vmdk", self.vcenter.address());
        run(&words(&["curl", "-sfkg", "--http1.1", "-b", jar, "-o", stream_name, &url]), None);
        let convert =
            ["qemu-img", "convert", "-W", "-m", "16", "-f", "vmdk", "-O", "qcow2", stream_name, result_name];
        run(&words(&convert), None);
        fs::File::open(&result).unwrap().sync_all().unwrap();
        let time = ms(begun.elapsed());
        let end = format!(
            "<HttpNfcLeaseComplete xmlns=\"urn:vim25\"><_this type=\"HttpNfcLease\">{lease}</_this></HttpNfcLeaseComplete>"
        );
        self.call(jar, &end);
        fs::remove_file(stream).unwrap();
        fs::remove_file(result).unwrap();
        time
    }

    /// What the server calls the machine `web`.
    fn moref(&self) -> String {
        let output = Command::new(&self.list()[0]).args(&self.list()[1..]).output().unwrap();
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let web = listed["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == "web");
        web.unwrap()["moref"].as_str().unwrap().to_owned()
    }

    /// Logs in for `curl`; gives the file of cookies.
    fn cookies(&self) -> PathBuf {
        let escaped = PASSWORD.replace('&', "&amp;").replace('<', "&lt;");
        let envelope = format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body><Login xmlns=\"urn:vim25\">\
             <_this type=\"SessionManager\">SessionManager</_this><userName>{USER}</userName><password>{escaped}</password>\
             </Login></soapenv:Body></soapenv:Envelope>"
        );
        let (body, jar) = (self.at.path().join("login.xml"), self.at.path().join("cookies"));
        fs::write(&body, envelope).unwrap();
        let body = format!("@{}", body.display());
        let url = format!("https://{}/sdk", self.vcenter.address());
        let jar_name = jar.display().to_string();
        run(&words(&["curl", "-sfk", "-c", &jar_name, "-d", &body, "-o", "/dev/null", &url]), None);
        jar
    }

    /// By which path the bytes of the machine's disk are asked for.
    fn target(&self) -> String {
        let directory = self.vcenter.datastore("ds1").join("web");
        let names =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let flat = names.into_iter().find(|name| name.ends_with("-flat.vmdk")).unwrap();
        format!("/folder/web/{flat}?dcPath=DC0&dsName=ds1")
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs it to its good end; in milliseconds.
fn run(command: &[String], input: Option<&str>) -> f64 {
    let begun = Instant::now();
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).stdout(Stdio::null());
    child.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = child.spawn().unwrap();
    if let Some(input) = input {
        use std::io::Write as _;
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    }
    assert!(child.wait().unwrap().success(), "{command:?}");
    ms(begun.elapsed())
}

fn transfers(figures: &mut Figures) {
    let at = tempfile::tempdir().unwrap();
    let content = disks::disk(at.path(), "system", "raw", DISK_MIB, DISK_MIB, 7);
    let machine = json!({ "name": "web", "disks": [disk(&content)] });
    let site = Site::new(at, Options::vcenter().machine(machine));
    let (jar, target) = (site.cookies().display().to_string(), site.target());
    let url = format!("https://{}{target}", site.vcenter.address());
    let curl = |range: Option<(u64, u64)>| {
        let mut command = words(&["curl", "-sfk", "--http1.1", "-b", &jar, "-o", "/dev/null"]);
        if let Some((start, end)) = range {
            command.extend(["-r".to_owned(), format!("{start}-{}", end - 1)]);
        }
        command.push(url.clone());
        command
    };
    site.vcenter.throttle(RATE);
    let (one, ours) = (run(&curl(None), None) / 1000.0, site.convert_by_ranges());
    figures.at_least(
        "a disk of 2 GiB, 50 MB/s a connection: the time of one `curl` over ours, until the result is published, proved and durable",
        one / ours.published_s,
        3.5,
        "times",
    );
    figures.note("the same", seconds(one, &ours));
    site.vcenter.throttle(0);
    let (mut theirs, mut fetched, mut converted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let part = (DISK_MIB << 20) / CONNECTIONS;
        let begun = Instant::now();
        thread::scope(|scope| {
            for number in 0..CONNECTIONS {
                let command = curl(Some((number * part, (number + 1) * part)));
                scope.spawn(move || run(&command, None));
            }
        });
        theirs.push(ms(begun.elapsed()));
        fetched.push(site.fetch(&target));
        converted.push(site.convert_by_ranges().published_s);
    }
    let (theirs, fetched, converted) =
        (median(&theirs) / 1000.0, median(&fetched) / 1000.0, median(&converted));
    figures.at_least(
        "the same without a limit, nothing kept on either side: the time of four `curl`s over that of four connections of ours",
        theirs / fetched,
        0.9,
        "times",
    );
    figures.note("the same", format!("{theirs:.2} s over {fetched:.2} s"));
    figures.note("until a result of it is published, proved and durable", format!("{converted:.2} s"));
}

/// A disk of which a fifth is in use, and its server knows which.
fn holes(figures: &mut Figures) {
    use std::os::unix::fs::MetadataExt as _;
    let at = tempfile::tempdir().unwrap();
    let content = disks::disk(at.path(), "system", "raw", DISK_MIB, DISK_MIB / 5, 7);
    let machine = json!({ "name": "web", "change_tracking": true, "disks": [disk(&content)] });
    let site = Site::new(at, Options::vcenter().machine(machine));
    let flat = site.vcenter.datastore("ds1").join("web/web-flat.vmdk");
    let allocated = (flat.metadata().unwrap().blocks() * 512) as f64;
    let waited = site.convert_by_ranges();
    let fetched = site.vcenter.sent_of("-flat.vmdk") as f64;
    figures.at_most(
        "a disk of 2 GiB, a fifth allocated: what is fetched, of that fifth",
        fetched / allocated * 100.0,
        105.0,
        "%",
    );
    figures
        .note("the same", format!("{:.0} MiB in {:.2} s", fetched / f64::from(1 << 20), waited.published_s));
}

/// A disk that its host exports as a stream, half of it in use. The stream was packed before: the simulator packs slowly, on a processor of ours.
fn streams(figures: &mut Figures) {
    let at = tempfile::tempdir().unwrap();
    let content = at.path().join("system.raw");
    programs(&content);
    let machine = json!({ "name": "web", "disks": [disk(&content)] });
    let site = Site::new(at, Options::vcenter().with("packed_before", true).machine(machine));
    let (jar, moref) = (site.cookies().display().to_string(), site.moref());
    site.curl_and_convert(&jar, &moref);
    let (mut theirs, mut published, mut digests) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(site.curl_and_convert(&jar, &moref));
        let ours = site.convert_by_stream();
        published.push(ours.published_s);
        digests.push(ours.digest_s);
    }
    let theirs = median(&theirs) / 1000.0;
    let ours = Waited { published_s: median(&published), digest_s: median(&digests) };
    figures.at_least(
        "an exported disk of 2 GiB, half of it in use, to qcow2: the time of `curl` into a file and `qemu-img convert` over ours",
        theirs / ours.published_s,
        2.5,
        "times",
    );
    figures.note("the same", seconds(theirs, &ours));
}

fn inventory(figures: &mut Figures) {
    let site = Site::new(tempfile::tempdir().unwrap(), Options::vcenter().fillers(MACHINES));
    let script = site.at.path().join("list.py");
    fs::write(&script, PYVMOMI).unwrap();
    let (port, number) = (site.vcenter.port().to_string(), MACHINES.to_string());
    let pyvmomi = words(&["/usr/bin/python3", script.to_str().unwrap(), "127.0.0.1", &port, USER, &number]);
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(run(&pyvmomi, Some(&format!("{PASSWORD}\n"))));
        ours.push(run(&site.list(), None));
    }
    let (theirs, ours) = (median(&theirs), median(&ours));
    figures.at_least("5,000 machines listed: pyvmomi's time over ours", theirs / ours, 3.0, "times");
    figures.note("the same", format!("{:.2} s over {:.2} s", theirs / 1000.0, ours / 1000.0));
    let output = Command::new("/usr/bin/python3").args(["-c", PEAK]).args(site.list()).output().unwrap();
    let kib: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    figures.at_most("memory for that", kib / 1024.0, 100.0, "MiB");
}

fn seconds(theirs: f64, ours: &Waited) -> String {
    format!("{theirs:.2} s over {:.2} s; the digest {:.2} s later", ours.published_s, ours.digest_s)
}
