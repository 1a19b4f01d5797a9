//! Disks read over HTTPS by ranges: what arrives, over networks and from servers that fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hyper2kvm::disk::{Control, Engine, SourceDisk, Target};
use hyper2kvm::model::error::{Disposition, Error, Kind, Result};
use hyper2kvm::model::plan::{Compression, OutputFormat, Preallocation};
use hyper2kvm::sys::process::Launcher;
use hyper2kvm::vsphere::inventory::{self, Filters, Wanted};
use hyper2kvm::vsphere::machine::{self, Machine};
use hyper2kvm::vsphere::{Client, Endpoint, Login, Patience, Trusted, folder};
use serde_json::{Value, json};

use crate::support::disks;
use crate::support::faults::{Fault, Relay};
use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};

const MIB: u64 = 1 << 20;
/// What one thread of a copy reads at a time.
const PIECE: u64 = MIB;
const DISK_MIB: u64 = 24;

/// A vCenter with one machine, `web`, of one disk full of noise.
pub struct Site {
    pub vcenter: Vcenter,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        Site::of(Options::vcenter(), json!({ "name": "web" }))
    }

    fn of(options: Options, machine: Value) -> Site {
        Site::sized(options, machine, DISK_MIB)
    }

    pub fn sized(options: Options, mut machine: Value, mib: u64) -> Site {
        let dir = tempfile::tempdir().unwrap();
        disks::raw(&dir.path().join("original"), mib, mib, 7);
        machine["disks"] = json!([disk(&dir.path().join("original"))]);
        Site { vcenter: Vcenter::start(options.machine(machine)), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Somebody who is logged in at this address, and gives up soon.
    fn client(&self, address: &str, control: &Control) -> Client {
        connect(address, &self.vcenter, control).unwrap()
    }

    /// Its disk, over this address.
    pub fn source_at(&self, address: &str, control: &Control) -> Result<SourceDisk> {
        disk_of(&self.client(address, control))
    }

    /// The same for somebody who waits for nobody who is silent for so long.
    pub fn source_within(&self, address: &str, timeout: Duration) -> Result<SourceDisk> {
        disk_of(&connect_within(address, &self.vcenter, &Control::new(), timeout)?)
    }

    fn source(&self) -> SourceDisk {
        self.source_at(&self.vcenter.address(), &Control::new()).unwrap()
    }

    pub fn copy(&self, source: &SourceDisk, control: &Control) -> Result<()> {
        self.copy_watched(source, control, &AtomicU64::new(0))
    }

    /// The same; `done` shows how far it is.
    fn copy_watched(&self, source: &SourceDisk, control: &Control, done: &AtomicU64) -> Result<()> {
        static ENGINE: OnceLock<Engine> = OnceLock::new();
        let find = || Engine::find(Launcher::with_stub(env!("CARGO_BIN_EXE_hyper2kvm"))).unwrap();
        let engine = ENGINE.get_or_init(find);
        let target = Target {
            path: self.path("result"),
            format: OutputFormat::Raw,
            compress: Compression::None,
            level: None,
            preallocation: Preallocation::Off,
            journal: Some(self.path("journal")),
        };
        let measure = engine.measure(source, &target, control)?;
        let mut heard = |progress: hyper2kvm::disk::CopyProgress| {
            done.store(progress.bytes_done, Ordering::Relaxed);
        };
        engine.copy(source, &target, &measure, control, &mut heard).map(|_| ())
    }

    #[track_caller]
    pub fn is_identical(&self) {
        let same = fs::read(self.path("result")).unwrap() == fs::read(self.path("original")).unwrap();
        assert!(same, "the result is another one than what lies on the datastore");
    }

    pub fn begin_anew(&self) {
        for name in ["result", "journal"] {
            let _ = fs::remove_file(self.path(name));
        }
    }

    /// How many bytes of the disk have been sent.
    fn sent(&self) -> u64 {
        self.vcenter.sent_of("-flat.vmdk")
    }
}

fn disk_of(client: &Client) -> Result<SourceDisk> {
    let machine = machine_of(client);
    folder::source(client, &machine, &machine.disks[0], 4)
}

pub(super) fn connect(address: &str, vcenter: &Vcenter, control: &Control) -> Result<Client> {
    connect_within(address, vcenter, control, Duration::from_secs(2))
}

fn connect_within(address: &str, vcenter: &Vcenter, control: &Control, timeout: Duration) -> Result<Client> {
    let (host, port) = address.rsplit_once(':').unwrap();
    let endpoint = Endpoint {
        host: host.to_owned(),
        port: port.parse().unwrap(),
        trust: Trusted::System { ca_file: Some(vcenter.ca()) },
    };
    let login =
        Login { username: USER.to_owned(), password: serde_json::from_value(json!(PASSWORD)).unwrap() };
    let patience = Patience {
        base_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(1),
        timeout,
        ..Patience::default()
    };
    Client::connect(&endpoint, &login, &patience, control)
}

pub(super) fn machine_of(client: &Client) -> Machine {
    let wanted = Wanted::Name("web".to_owned());
    let found = inventory::find(client, &wanted, &Filters::default()).unwrap();
    machine::machine(client, &found.reference()).unwrap()
}

fn fault(kind: &str, skip: u32, times: u32) -> Value {
    json!({ "on": "folder", "named": "-flat.vmdk", "kind": kind, "skip": skip, "times": times })
}

#[test]
fn a_disk_of_a_vcenter_or_a_host_arrives_as_it_lies_there_over_few_connections() {
    for options in [Options::vcenter(), Options::esxi()] {
        let site = Site::of(options, json!({ "name": "web" }));
        let source = site.source();
        assert_eq!(source.facts.virtual_size, DISK_MIB * MIB);
        site.copy(&source, &Control::new()).unwrap();
        site.is_identical();
        source.check_unchanged(&Control::new()).unwrap();
        let requests = site.vcenter.requests();
        let of_disk = requests.iter().filter(|request| request.path.ends_with("-flat.vmdk"));
        let mut connections: Vec<_> = of_disk.map(|request| request.client.as_str()).collect();
        connections.sort_unstable();
        connections.dedup();
        assert!(connections.len() <= 4, "{connections:?}");
        assert!(site.sent() <= DISK_MIB * MIB + 16, "{}", site.sent());
    }
}

#[test]
fn names_that_mean_something_in_a_url_are_asked_for_as_they_are() {
    let options = Options::vcenter().with("datastores", json!(["dß 1&x"]));
    let site = Site::of(options, json!({ "name": "web", "directory": "a+b %2fc#ü?" }));
    site.copy(&site.source(), &Control::new()).unwrap();
    site.is_identical();
}

#[test]
fn what_passes_costs_only_what_had_not_come_yet() {
    let site = Site::new();
    for (case, fault) in [
        ("cut off", fault("truncated", 5, 3)),
        ("cut off before it began", fault("reset", 5, 3)),
        ("less than was asked for", fault("short", 5, 3)),
        ("silent in the middle", fault("stalled", 5, 1)),
        ("silent", fault("silent", 5, 1)),
        ("session forgotten", fault("forget", 5, 2)),
        (
            "too much to do",
            json!({ "on": "folder", "named": "-flat", "kind": "status", "status": 503, "retry_after": 1, "skip": 5, "times": 2 }),
        ),
        (
            "failed",
            json!({ "on": "folder", "named": "-flat", "kind": "status", "status": 500, "skip": 5, "times": 2 }),
        ),
        (
            "failed from the beginning",
            json!({ "on": "folder", "named": "", "kind": "status", "status": 502, "times": 3 }),
        ),
    ] {
        site.begin_anew();
        let before = site.sent();
        site.vcenter.fault(&fault);
        let copied = site.copy(&site.source(), &Control::new());
        copied.unwrap_or_else(|error| panic!("{case}: {error}"));
        site.vcenter.calm();
        site.is_identical();
        // Of an answer that is cut off, what was on the way is lost.
        let sent = site.sent() - before;
        assert!(sent <= DISK_MIB * MIB + 3 * PIECE, "{case}: {sent}");
    }
}

#[test]
fn what_stays_as_it_is_is_told_at_once() {
    let site = Site::new();
    for (kind, skip) in [("whole", 3), ("elsewhere", 3)] {
        let error = failure(&site, &fault(kind, skip, 1000));
        assert_eq!(error.kind(), Kind::Source, "{error}");
        assert!(error.details().advice.as_ref().unwrap().contains("proxy"), "{error}");
    }
    for (status, kind) in [(404, Kind::Source), (403, Kind::Auth), (418, Kind::Source)] {
        let fault = json!({ "on": "folder", "named": "-flat", "kind": "status", "status": status, "skip": 3, "times": 1000 });
        let error = failure(&site, &fault);
        assert_eq!(error.kind(), kind, "{error}");
        assert_ne!(error.disposition(), Disposition::Transient, "{error}");
    }
}

/// What a copy ends with; nobody asks more often than there are readers.
fn failure(site: &Site, fault: &Value) -> Error {
    site.begin_anew();
    site.vcenter.fault(fault);
    let asked = |site: &Site| site.vcenter.requests().len();
    let source = site.source();
    let before = asked(site);
    let error = site.copy(&source, &Control::new()).unwrap_err();
    site.vcenter.calm();
    assert!(asked(site) - before <= 3 + 8, "{error}: {}", asked(site) - before);
    error
}

#[test]
fn a_server_that_stays_away_is_given_up_after_as_many_tries_as_are_allowed() {
    let site = Site::new();
    let source = site.source();
    site.vcenter.fault(
        &json!({ "on": "folder", "named": "", "kind": "status", "status": 503, "skip": 3, "times": 1000 }),
    );
    let error = site.copy(&source, &Control::new()).unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (Kind::Network, Disposition::Transient), "{error}");
    // Each of at most eight readers asked four times.
    let refused = site.vcenter.requests().iter().filter(|request| request.status == 503).count();
    assert!((4..=32).contains(&refused), "{refused}");
    site.vcenter.calm();
    let before = site.sent();
    site.copy(&source, &Control::new()).unwrap();
    site.is_identical();
    assert!(site.sent() - before <= DISK_MIB * MIB, "what had arrived is not fetched again");
}

#[test]
fn connections_that_are_cut_reset_or_stall_anywhere_change_nothing() {
    let site = Site::new();
    let relay = Relay::to(&site.vcenter.address());
    let source = site.source_at(&relay.address().to_string(), &Control::new()).unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut somewhere = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % (3 * MIB)
    };
    for round in 0..10 {
        site.begin_anew();
        // What is open already is closed, so that the next ones are new.
        relay.cut();
        relay.fail_next([
            Fault::CutAfter(somewhere()),
            Fault::ResetAfter(somewhere()),
            Fault::StallAfter(somewhere()),
        ]);
        site.copy(&source, &Control::new()).unwrap_or_else(|error| panic!("{round}: {error}"));
        site.is_identical();
    }
}

#[test]
fn an_outage_that_ends_in_time_is_sat_out() {
    let site = Site::new();
    let relay = Relay::to(&site.vcenter.address());
    let source = site.source_at(&relay.address().to_string(), &Control::new()).unwrap();
    site.vcenter.throttle(4 * MIB);
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        let copy = scope.spawn(|| site.copy_watched(&source, &Control::new(), &done));
        wait_until(|| done.load(Ordering::Relaxed) > 4 * MIB);
        relay.down(true);
        // Whoever tries four times, 0.1 s apart at first, gives up after less than half a second at the soonest.
        thread::sleep(Duration::from_millis(100));
        relay.down(false);
        site.vcenter.throttle(0);
        copy.join().unwrap().unwrap();
    });
    site.is_identical();
    assert!(site.sent() <= DISK_MIB * MIB + 8 * PIECE, "{}", site.sent());
}

#[test]
fn a_copy_that_was_stopped_goes_on_where_it_was() {
    let site = Site::new();
    let source = site.source();
    // Slow, so that little is on the way.
    site.vcenter.throttle(MIB);
    let (control, done) = (Control::new(), AtomicU64::new(0));
    let stopped = thread::scope(|scope| {
        let copy = scope.spawn(|| site.copy_watched(&source, &control, &done));
        wait_until(|| done.load(Ordering::Relaxed) > DISK_MIB * MIB / 2);
        control.stop();
        copy.join().unwrap()
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Cancelled);
    site.vcenter.throttle(0);
    // As another process would: it logs in anew.
    site.copy(&site.source(), &Control::new()).unwrap();
    site.is_identical();
    assert!(site.sent() <= (DISK_MIB + 8) * MIB + 16, "{}", site.sent());
}

#[test]
fn a_disk_that_is_written_to_meanwhile_is_not_taken_for_what_it_was() {
    let site = Site::new();
    let source = site.source();
    let flat = site.vcenter.datastore("ds1").join("web/web-flat.vmdk");
    later(&flat);
    let error = site.copy(&source, &Control::new()).unwrap_err();
    assert_eq!(
        (error.kind(), error.details().rule.as_deref()),
        (Kind::Source, Some("disk.changed")),
        "{error}"
    );
    assert_eq!(source.check_unchanged(&Control::new()).unwrap_err().kind(), Kind::Source);
    // A copy that was begun of what it was is not gone on with.
    assert_ne!(site.source(), source);
}

/// As if it had been written to an hour from now.
fn later(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + Duration::from_secs(3600)).unwrap();
}

#[test]
fn what_is_not_the_whole_of_a_disk_is_refused_with_what_to_do() {
    for (case, machine, kind, word) in [
        ("it runs", json!({ "name": "web", "on": true }), Kind::Source, "shut it down"),
        ("snapshot", json!({ "name": "web", "snapshots": ["one"] }), Kind::Unsupported, "Consolidate"),
        ("leavings", json!({ "name": "web", "needs_consolidation": true }), Kind::Unsupported, "Consolidate"),
    ] {
        let site = Site::of(Options::vcenter(), machine);
        refused(&site, case, kind, word);
    }
    let original = tempfile::NamedTempFile::new().unwrap();
    original.as_file().set_len(MIB).unwrap();
    for (case, member, value, word) in [
        ("LUN", "backing", "rdm", "storage"),
        ("grows", "backing", "sesparse", "Consolidate"),
        ("linked", "parent", "[ds1] base/base.vmdk", "Consolidate"),
        (
            "delta",
            "descriptor",
            "createType=\"vmfsSparse\"\nparentCID=12345678\nRW 2048 VMFSSPARSE \"x-delta.vmdk\"\n",
            "Consolidate",
        ),
        (
            "outside",
            "descriptor",
            "createType=\"vmfs\"\nparentCID=ffffffff\nRW 2048 VMFS \"../../x\"\n",
            "directory",
        ),
        (
            "too short",
            "descriptor",
            "createType=\"vmfs\"\nparentCID=ffffffff\nRW 4096 VMFS \"web-flat.vmdk\"\n",
            "datastore",
        ),
        ("no descriptor", "descriptor", "\u{1}\u{2}", "-flat"),
    ] {
        let mut of = disk(original.path());
        of[member] = value.into();
        let options = Options::vcenter().machine(json!({ "name": "web", "disks": [of] }));
        let site = Site { vcenter: Vcenter::start(options), dir: tempfile::tempdir().unwrap() };
        let kind = if matches!(case, "outside" | "too short" | "no descriptor") {
            Kind::Source
        } else {
            Kind::Unsupported
        };
        refused(&site, case, kind, word);
    }
}

fn refused(site: &Site, case: &str, kind: Kind, word: &str) {
    let error = site.source_at(&site.vcenter.address(), &Control::new()).unwrap_err();
    assert_eq!(error.kind(), kind, "{case}: {error}");
    assert!(error.details().advice.as_ref().unwrap().contains(word), "{case}: {error:?}");
}

#[test]
fn another_certificate_in_mid_transfer_is_not_trusted_because_the_first_one_was() {
    let site = Site::new();
    let relay = Relay::to(&site.vcenter.address());
    let source = site.source_at(&relay.address().to_string(), &Control::new()).unwrap();
    for kind in ["expired", "wrong-name", "own"] {
        site.vcenter.certificate(kind);
        relay.cut();
        let error = site.copy(&source, &Control::new()).unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition()),
            (Kind::Network, Disposition::Permanent),
            "{kind}: {error}"
        );
    }
    site.vcenter.certificate("good");
    site.copy(&source, &Control::new()).unwrap();
    site.is_identical();
}

fn wait_until(mut probe: impl FnMut() -> bool) {
    crate::support::wait_for("the copy to get on", || probe().then_some(()));
}
