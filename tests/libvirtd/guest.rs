//! A whole guest in a network of libvirt's: it asks for its address, its agent tells it, it answers on its console.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper2kvm::libvirt::addresses::{Finder, Found, Method, Scope};
use hyper2kvm::libvirt::link::{Access, Link};
use serde_json::{Value, json};

use crate::support::guests::Guest;
use crate::support::libvirtd::Libvirtd;
use crate::support::wait::{PATIENCE, within};

const MAC: &str = "52:54:00:00:00:09";
/// Under emulation, on a machine that does other things, too.
const BOOTED_WITHIN: Duration = Duration::from_secs(1200);

/// What is typed and what is seen.
struct Console {
    stream: UnixStream,
    seen: Arc<Mutex<String>>,
}

impl Console {
    /// Reads all the time: a guest whose console nobody reads stands still.
    fn connect(path: &Path) -> Console {
        let stream = UnixStream::connect(path).unwrap();
        let (mut reader, seen) = (stream.try_clone().unwrap(), Arc::new(Mutex::new(String::new())));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Console { stream, seen }
    }

    /// Types a line until an answer is seen: what else comes over a console may have swallowed it.
    fn ask(&mut self, line: &str, answer: &str) {
        let deadline = Instant::now() + BOOTED_WITHIN;
        while Instant::now() < deadline {
            self.seen.lock().unwrap().clear();
            self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
            if within(PATIENCE / 4, || self.seen.lock().unwrap().contains(answer).then_some(())).is_some() {
                return;
            }
        }
        panic!("no `{answer}` on the console: {}", self.seen.lock().unwrap());
    }
}

fn error_of(found: &Found, method: Method) -> &str {
    let used = found.methods.iter().find(|used| used.name == method).unwrap();
    used.error.as_deref().unwrap_or_default()
}

#[test]
fn a_debian_is_found_by_agent_lease_and_arp_and_when_its_agent_hangs_nobody_waits_for_it() {
    let libvirtd = Libvirtd::start();
    let disk = libvirtd.images().join("web.qcow2");
    let console = libvirtd.images().join("console");
    let guest = Guest::build("debian");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "vmdk", "-O", "qcow2"]).args([&guest.disks[0], &disk]);
    assert!(convert.status().unwrap().success());
    libvirtd.sh(&format!(
        "virsh -q net-start default; chmod 777 {images}; virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
<interface type='network'><mac address='{MAC}'/><source network='default'/><model type='virtio'/></interface>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<serial type='unix'><source mode='bind' path='{console}'/></serial>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
</devices></domain>
end
virsh -q start web",
        images = libvirtd.images().display(),
        disk = disk.display(),
        console = console.display(),
    ));
    let mut console = Console::connect(&console);

    let (link, finder) = (Link::open(&libvirtd.uri(), Access::Changes).unwrap(), Finder::new());
    let found = finder.wait(&link, "web", &[], 1.0, BOOTED_WITHIN).unwrap();
    let (address, card) = (found.addresses[0].address, &found.addresses[0]);
    assert_eq!(
        (card.scope, card.mac.as_deref(), card.prefix),
        (Scope::Card, Some(MAC), Some(24)),
        "{found:?}"
    );
    assert!(card.guest_interface.is_some() && card.interface.is_some(), "{card:?}");
    // The guest tells of itself what nobody else can reach.
    assert!(found.addresses.iter().any(|address| address.scope == Scope::Loopback), "{found:?}");
    libvirtd.sh(&format!(
        "until ip neighbour show {address} | grep -q lladdr; do bash -c 'echo >/dev/udp/{address}/9'; sleep 0.2; done"
    ));
    // Its neighbours are seen from inside, by an agent that has little time to answer a command that others have answered.
    let all = json!(["agent", "lease", "arp", "lease_file"]);
    let seen = within(BOOTED_WITHIN, || {
        let seen = libvirtd.hyper2kvm().args(["libvirt", "addresses", "web", "--json"]).output().unwrap();
        let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
        assert_eq!(seen["addresses"][0]["address"], address.to_string());
        (seen["addresses"][0]["methods"] == all).then_some(seen)
    });
    assert!(seen.is_some(), "not all methods have found it");

    console.ask("root", "# ");
    console.ask("echo answer-$((6 * 7))", "answer-42");

    // Something in the guest has the agent's port open and never answers.
    let silent = "systemctl stop qemu-guest-agent; exec 3<>/dev/virtio-ports/org.qemu.guest_agent.0; echo silent-$((6 * 7))";
    console.ask(silent, "silent-42");
    let both = [Method::Agent, Method::Lease];
    let hangs = within(BOOTED_WITHIN, || {
        finder.forget("web");
        let found = finder.find(&link, "web", &both).unwrap();
        error_of(&found, Method::Agent).starts_with("no answer").then_some(found)
    });
    let hangs = hangs.unwrap();
    assert_eq!(hangs.addresses[0].address, address);
    assert_eq!(hangs.addresses[0].methods[0], Method::Lease);
    assert!(hangs.took_ms < 4000.0, "{hangs:?}");
    // It is not asked a second time meanwhile, and not waited for.
    let again = finder.find(&link, "web", &both).unwrap();
    assert!(again.cached && error_of(&again, Method::Agent).starts_with("no answer"), "{again:?}");
}
