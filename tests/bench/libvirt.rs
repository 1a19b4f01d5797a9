//! libvirt: what a machine's life costs beside `virsh`, how soon a thousand are listed and an address is found, and how fast a file becomes a volume.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper2kvm::libvirt::addresses::{Finder, Method};
use hyper2kvm::libvirt::connections::{Connections, Limits};
use hyper2kvm::libvirt::domains::{self, Overwrite, State, Undefine};
use hyper2kvm::libvirt::import::{How, Import, import};
use hyper2kvm::libvirt::link::{Access, Link};
use hyper2kvm::libvirt::pools::{self, Wanted};
use hyper2kvm::libvirt::volumes;
use hyper2kvm::model::plan::OutputFormat;

use crate::figures::{Figures, median, ms};
use crate::support::libvirtd::Libvirtd;
use crate::support::{disks, within};

const WITHIN: Duration = Duration::from_secs(120);
const ROUNDS: usize = 15;
const UPLOADS: usize = 7;
const MACHINES: usize = 1000;
const IMPORTED_MIB: u64 = 1024;
/// What the driver for tests knows when it is asked: each call of `virsh` has machines of its own.
const NODE: &str = "<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>\
     <domain type='test'><name>on</name><memory>65536</memory><os><type>hvm</type></os></domain>\
     <domain type='test'><name>off</name><memory>65536</memory><os><type>hvm</type></os><test:runstate>5</test:runstate></domain></node>";

/// All of it.
pub fn measure(figures: &mut Figures) {
    overhead(figures);
    let libvirtd = Libvirtd::start();
    life(figures, &libvirtd);
    lookup(figures, &libvirtd);
    listing(figures, &libvirtd);
    importing(figures, &libvirtd);
}

fn machine(kind: &str, name: &str, devices: &str) -> String {
    format!(
        "<domain type='{kind}'><name>{name}</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type>\
         <boot dev='network'/></os><features><acpi/></features><devices>{devices}</devices></domain>"
    )
}

fn took(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn virsh(uri: &str, words: &[&str]) -> Duration {
    took(|| {
        let done = Command::new("virsh").args(["-q", "-c", uri]).args(words).stdout(Stdio::null()).status();
        assert!(done.unwrap().success(), "virsh {words:?}");
    })
}

/// Where nothing is done but asking: the driver that needs no daemon.
fn overhead(figures: &mut Figures) {
    const URI: &str = "test:///default";
    let dir = tempfile::tempdir().unwrap();
    let [file, node] = ["life.xml", "node.xml"].map(|name| dir.path().join(name));
    let xml = machine("test", "life", "");
    fs::write(&file, &xml).unwrap();
    fs::write(&node, NODE).unwrap();
    let (file, node) = (file.display().to_string(), format!("test://{}", node.display()));
    let connections = Connections::new(Limits::default());
    let ask = |work: fn(&Link, &str) -> hyper2kvm::model::error::Result<()>| {
        let xml = xml.clone();
        connections.with(URI, Access::Changes, WITHIN, move |link| work(link, &xml)).unwrap();
    };
    let steps: [&[&str]; 5] = [
        &["define", "--validate", &file],
        &["start", "off"],
        &["domstate", "on"],
        &["destroy", "on"],
        &["undefine", "off"],
    ];
    let at_once = format!("define --validate {file}; start life; domstate life; destroy life; undefine life");
    let (mut ours, mut scripts, mut one_call) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(ms(took(|| {
            ask(|link, xml| domains::define(link, xml, &Overwrite::Refuse).map(drop));
            ask(|link, _| domains::start(link, "life"));
            ask(|link, _| domains::state(link, "life").map(drop));
            ask(|link, _| domains::destroy(link, "life").map(drop));
            ask(|link, _| domains::undefine(link, "life", &Undefine::default()).map(drop));
        })));
        scripts.push(steps.iter().map(|words| ms(virsh(&node, words))).sum());
        one_call.push(ms(virsh(URI, &[&at_once])));
    }
    let [ours, scripts, one_call] = [ours, scripts, one_call].map(|times| median(&times));
    let what = "a machine's life where nothing is done: `virsh`'s time over ours, called once a step";
    figures.at_least(what, scripts / ours, 5.0, "times");
    figures.note("the same", format!("{scripts:.1} ms over {ours:.1} ms"));
    let once = format!("{:.1} times ({one_call:.1} ms)", one_call / ours);
    figures.note("the same, one call of `virsh` for all five steps", once);
}

/// Where QEMU really starts.
fn life(figures: &mut Figures, libvirtd: &Libvirtd) {
    let (uri, link) = (libvirtd.uri(), Link::open(&libvirtd.uri(), Access::Changes).unwrap());
    let xml = machine("qemu", "life", "");
    let mut times: [Vec<f64>; 5] = Default::default();
    let [mut starts, mut destroys] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let steps: [&dyn Fn(); 5] = [
            &|| drop(domains::define(&link, &xml, &Overwrite::Refuse).unwrap()),
            &|| domains::start(&link, "life").unwrap(),
            &|| assert_eq!(domains::state(&link, "life").unwrap().state, State::Running),
            &|| assert!(domains::destroy(&link, "life").unwrap()),
            &|| assert!(domains::undefine(&link, "life", &Undefine::default()).unwrap()),
        ];
        for (step, times) in steps.iter().zip(&mut times) {
            times.push(ms(took(step)));
        }
        domains::define(&link, &xml, &Overwrite::Refuse).unwrap();
        starts.push(ms(virsh(&uri, &["start", "life"])));
        destroys.push(ms(virsh(&uri, &["destroy", "life"])));
        domains::undefine(&link, "life", &Undefine::default()).unwrap();
    }
    let [define, start, state, destroy, undefine] = times.map(|times| median(&times));
    for (what, time) in [("define", define), ("state", state), ("destroy", destroy), ("undefine", undefine)] {
        figures.at_most(&format!("{what}, real libvirtd"), time, 100.0, "ms");
    }
    figures.note("destroy, over `virsh destroy`", format!("{:.2} times", destroy / median(&destroys)));
    figures.at_most("start, over `virsh start`", start / median(&starts), 1.05, "times");
}

/// An address that libvirt's own network has leased: the firmware of a card without a guest asks for one.
fn lookup(figures: &mut Figures, libvirtd: &Libvirtd) {
    libvirtd.sh("virsh -q net-start default");
    let link = Link::open(&libvirtd.uri(), Access::Changes).unwrap();
    let card = "<interface type='network'><source network='default'/><model type='virtio'/></interface>";
    domains::define(&link, &machine("qemu", "asks", card), &Overwrite::Refuse).unwrap();
    domains::start(&link, "asks").unwrap();
    let by_lease = || Finder::new().find(&link, "asks", &[Method::Lease]).unwrap();
    let leased = within(WITHIN, || (!by_lease().addresses.is_empty()).then_some(()));
    assert!(leased.is_some(), "nothing was leased");
    let fresh: Vec<f64> = (0..ROUNDS).map(|_| ms(took(|| drop(by_lease())))).collect();
    figures.at_most("an address by lease, asked", median(&fresh), 50.0, "ms");
    let finder = Finder::new();
    let look = || assert!(!finder.find(&link, "asks", &[Method::Lease]).unwrap().addresses.is_empty());
    look();
    let kept: Vec<f64> = (0..ROUNDS).map(|_| ms(took(look))).collect();
    figures.at_most("an address by lease, remembered", median(&kept), 1.0, "ms");
    domains::destroy(&link, "asks").unwrap();
}

fn listing(figures: &mut Figures, libvirtd: &Libvirtd) {
    let link = Link::open(&libvirtd.uri(), Access::Changes).unwrap();
    for number in 0..MACHINES {
        let xml = machine("qemu", &format!("machine-{number}"), "");
        domains::define(&link, &xml, &Overwrite::Refuse).unwrap();
    }
    let times: Vec<f64> =
        (0..ROUNDS).map(|_| ms(took(|| assert!(domains::list(&link).unwrap().len() >= MACHINES)))).collect();
    figures.at_most("a thousand machines listed with their states", median(&times), 200.0, "ms");
}

/// A file on another file system, so that its bytes have to go through libvirt.
fn importing(figures: &mut Figures, libvirtd: &Libvirtd) {
    let link = Link::open(&libvirtd.uri(), Access::Changes).unwrap();
    let pool = Wanted { name: "bench".to_owned(), path: Some(libvirtd.images()), start: true };
    pools::ensure(&link, &pool).unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = disks::disk(elsewhere.path(), "big", "raw", IMPORTED_MIB, IMPORTED_MIB, 5);
    let (mut ours, mut theirs, mut durable) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..UPLOADS {
        ours.push(ms(took(|| assert_eq!(imported(&link, &file), IMPORTED_MIB << 20))));
        volumes::remove(&link, "bench", "big.raw").unwrap();
        libvirtd
            .sh(&format!("virsh -q vol-create-as bench big.raw {IMPORTED_MIB}M --allocation 0 --format raw"));
        let uploaded = ms(virsh(
            &libvirtd.uri(),
            &["vol-upload", "big.raw", &file.display().to_string(), "--pool", "bench"],
        ));
        let volume = fs::File::open(libvirtd.images().join("big.raw")).unwrap();
        theirs.push(uploaded);
        durable.push(uploaded + ms(took(|| volume.sync_all().unwrap())));
        volumes::remove(&link, "bench", "big.raw").unwrap();
    }
    let [ours, theirs, durable] = [ours, theirs, durable].map(|times| median(&times));
    figures.at_least(
        "a file becomes a volume: `virsh vol-upload`'s time over ours",
        theirs / ours,
        0.9,
        "times",
    );
    figures.note("the same, 1 GiB", format!("{:.2} s over {:.2} s", theirs / 1000.0, ours / 1000.0));
    // Ours is durable when it is over.
    let synced = format!("{:.1} times ({:.2} s)", durable / ours, durable / 1000.0);
    figures.note("the same, what `virsh` has uploaded made durable, too", synced);
}

fn imported(link: &Link, file: &Path) -> u64 {
    let order = Import {
        pool: "bench",
        volume: "big.raw",
        file,
        format: OutputFormat::Raw,
        how: How::Copy,
        overwrite: false,
    };
    let imported = import(link, &order, &|| Ok(()), &mut |_| ()).unwrap();
    assert_eq!(imported.how, "uploaded");
    imported.bytes
}
