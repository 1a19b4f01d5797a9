//! VMs of a vCenter or an ESXi host that are handed to libvirt: never two of one at once, and the way back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::esxi::Esxi;
use crate::support::libvirtd::Libvirtd;
use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};
use crate::support::wait::PATIENCE;
use crate::support::{Daemon, disks, wait_for, within};

const MIB: u64 = 1 << 20;

/// A service with a libvirt that has no machine.
struct Host {
    libvirtd: Libvirtd,
    daemon: Daemon,
}

impl Host {
    fn new() -> Host {
        let (libvirtd, daemon) = (Libvirtd::start(), Daemon::prepare());
        let credentials = daemon.scratch().join("credentials");
        fs::create_dir(&credentials).unwrap();
        daemon.configure(&format!(
            "libvirt: {{uri: \"{}\"}}\ncredentials: {{dir: {}}}\nsources: {{allow_shutdown: true}}\nvc_connection_max_retries: 0\n",
            libvirtd.uri(),
            credentials.display(),
        ));
        Host { libvirtd, daemon }
    }

    fn store(&self, login: &Value) {
        let file = self.daemon.scratch().join("credentials/it.yaml");
        fs::write(&file, login.to_string()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn content(&self) -> PathBuf {
        disks::disk(self.daemon.scratch(), "system", "raw", 8, 4, 1)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.libvirtd.images().join(name)
    }

    /// Drops a machine as `name`, with what is said of its source, and of libvirt.
    fn drop_as(&self, name: &str, source: &str, libvirt: &str) {
        let manifest = format!(
            "manifest_version: \"1.0\"\nname: {name}\nprofile: none\nsource: {source}\n\
             output: {{directory: {}}}\npipeline: {{convert: {{enabled: true}}, validate: {{enabled: true}}}}\n\
             libvirt_integration: {{enabled: true, vm_name: {name}, {libvirt}}}\n",
            self.out(name).display(),
        );
        self.daemon.drop_file(&format!("{name}.yaml"), manifest);
    }

    /// Starts the service so that a worker stands still at a point, for as long as the file is there that comes back.
    fn start_held_at(&mut self, point: &str) -> PathBuf {
        let hold = self.daemon.scratch().join("hold");
        fs::write(&hold, "").unwrap();
        self.daemon.env("HYPER2KVM_FAILPOINT", point);
        self.daemon.env("HYPER2KVM_FAILPOINT_HOLD", hold.to_str().unwrap());
        self.daemon.start();
        hold
    }

    #[track_caller]
    fn wait_for_stand(&self, stand: &Value) {
        let journal = self.out("web").join(".web.journal.json");
        let stands = within(PATIENCE, || {
            let journal: Value = serde_json::from_slice(&fs::read(&journal).ok()?).ok()?;
            (journal["intent"]["handover"]["stand"] == *stand).then_some(())
        });
        assert!(stands.is_some(), "{:?}\n{}", self.daemon.progress("web"), self.daemon.log());
    }

    #[track_caller]
    fn completed(&self, name: &str) {
        let progress = self.daemon.wait_batch(name);
        assert_eq!(progress["state"], "completed", "{progress}\n{}", self.daemon.log());
    }

    #[track_caller]
    fn retried(&self) {
        self.daemon.client(&["retry", "web"]);
        wait_for("it to be tried again", || {
            (self.daemon.progress("web")?["state"] != "failed").then_some(())
        });
        self.completed("web");
    }

    #[track_caller]
    fn error(&self) -> Value {
        let error = self.daemon.wait_settled("failed", "web.yaml.error.json");
        serde_json::from_slice(&fs::read(error).unwrap()).unwrap()
    }

    fn virsh(&self, words: &str) -> String {
        self.libvirtd.sh(&format!("virsh -q {words}")).trim().to_owned()
    }
}

/// The same with a vCenter that has the machine `web`.
struct Site {
    host: Host,
    vcenter: Vcenter,
}

impl Site {
    fn new(machine: &Value) -> Site {
        let host = Host::new();
        let mut web = json!({
            "name": "web", "memory_mib": 64, "shutdown_ms": 200, "notes": "of the shop", "disks": [disk(&host.content())],
        });
        for (member, value) in machine.as_object().unwrap() {
            web[member] = value.clone();
        }
        let vcenter = Vcenter::start(Options::vcenter().machine(web));
        host.store(&json!({
            "host": "127.0.0.1", "username": USER, "password": PASSWORD, "thumbprint": vcenter.thumbprint(),
        }));
        Site { host, vcenter }
    }

    fn drop_as(&self, name: &str, source: &str, libvirt: &str) {
        let port = self.vcenter.port();
        let source = format!("{{vsphere: {{credential: it, port: {port}, vm_name: web{source}}}}}");
        self.host.drop_as(name, &source, libvirt);
    }

    fn asked(&self, call: &str) -> usize {
        self.vcenter.requests().iter().filter(|request| request.call == call).count()
    }

    fn runs(&self, vm: &str) -> bool {
        self.vcenter.look(vm)["power"] == "poweredOn"
    }

    /// The result, whose machine is off, and its source, which is called so by now.
    #[track_caller]
    fn holds_what_its_source_does(&self, vm: &str) {
        let now = self.host.daemon.scratch().join("now");
        fs::write(&now, self.vcenter.disk_now(vm, 0)).unwrap();
        let result = self.host.out("web").join("disk-0.qcow2");
        assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&now, "raw"));
    }
}

#[test]
fn a_source_that_was_started_again_has_no_machine_beside_it_and_is_copied_again() {
    let mut site = Site::new(&json!({ "on": true }));
    let hold = site.host.start_held_at("handover.begun:2");
    let after = ", power: shutdown, after: {annotate: true, rename_suffix: -migrated}";
    site.drop_as("web", after, "auto_start: true");
    site.host.wait_for_stand(&json!({ "begun": "start" }));
    assert!(!site.runs("web"));
    site.vcenter.power(&json!({ "vm": "web", "on": true }));
    site.vcenter.guest_writes("web", 0, 3 * MIB, &[7; 5000]);
    fs::remove_file(hold).unwrap();
    let error = site.host.error();
    let (cause, advice) = (error["error"].as_str().unwrap(), error["suggestion"].as_str().unwrap());
    assert!(error["kind"] == "source" && cause.contains("runs again"), "{error}");
    assert!(cause.contains("as of 2") && cause.contains("without what was written since"), "{error}");
    assert!(advice.contains("hyper2kvm retry") && advice.contains("auto_start: false"), "{error}");
    assert_eq!(site.host.virsh("list --all --name"), "", "{}", site.host.daemon.log());
    let source = site.vcenter.look("web");
    assert_eq!((&source["power"], &source["notes"]), (&json!("poweredOn"), &json!("of the shop")));
    assert_eq!((site.asked("ShutdownGuest"), site.asked("PowerOffVM_Task")), (1, 0));

    site.host.retried();
    assert_eq!((site.host.virsh("domstate web").as_str(), site.asked("ShutdownGuest")), ("running", 2));
    let moved = site.vcenter.look("web-migrated");
    assert!(moved["notes"].as_str().unwrap().contains("hyper2kvm: moved"), "{moved}");
    site.host.virsh("destroy web");
    site.holds_what_its_source_does("web-migrated");
}

#[test]
fn a_vm_that_was_migrated_warm_and_runs_again_is_migrated_once_more() {
    let mut site = Site::new(&json!({ "on": true }));
    let hold = site.host.start_held_at("handover.begun:2");
    let warm = ", mode: warm, power: shutdown, warm: {cutover: auto, max_delta_mb: 64, interval_s: 1}";
    site.drop_as("web", warm, "auto_start: true");
    site.host.wait_for_stand(&json!({ "begun": "start" }));
    assert!(!site.runs("web"));
    site.vcenter.power(&json!({ "vm": "web", "on": true }));
    site.vcenter.guest_writes("web", 0, 5 * MIB, &[9; 70_000]);
    fs::remove_file(hold).unwrap();
    let error = site.host.error();
    assert!(error["error"].as_str().unwrap().contains("runs again"), "{error}");
    assert_eq!(site.host.virsh("list --all --name"), "");
    assert!(site.runs("web") && site.asked("PowerOffVM_Task") == 0);

    // As it was switched on, so it is switched off: by somebody else.
    site.vcenter.power(&json!({ "vm": "web", "on": false }));
    site.host.retried();
    assert_eq!(site.host.virsh("domstate web"), "running");
    site.host.virsh("destroy web");
    site.holds_what_its_source_does("web");
}

#[test]
fn where_nobody_can_say_that_a_source_is_off_its_machine_waits_to_be_started() {
    let mut site = Site::new(&json!({}));
    let hold = site.host.start_held_at("handover.begun:2");
    site.drop_as("web", "", "autostart: true, auto_start: true");
    site.host.wait_for_stand(&json!({ "begun": "autostart" }));
    site.vcenter
        .fault(&json!({ "on": "sdk", "named": "Login", "times": 1000, "kind": "status", "status": 503 }));
    fs::remove_file(hold).unwrap();
    wait_for("its server to be waited for", || {
        (site.host.daemon.progress("web")?["waiting_reason"] == "network").then_some(())
    });
    assert_eq!(site.host.virsh("domstate web"), "shut off");
    assert!(site.host.virsh("dominfo web").contains("Autostart:      disable"));
    site.vcenter.power(&json!({ "vm": "web", "on": true }));
    site.vcenter.calm();
    let error = site.host.error();
    assert!(error["error"].as_str().unwrap().contains("runs again"), "{error}");
    assert_eq!(site.host.virsh("list --all --name"), "");
    assert!(site.runs("web") && site.asked("ShutdownGuest") == 0);

    site.vcenter.power(&json!({ "vm": "web", "on": false }));
    site.host.retried();
    assert_eq!(site.host.virsh("domstate web"), "running");
    assert!(site.host.virsh("dominfo web").contains("Autostart:      enable"));
}

#[test]
fn a_rollback_stops_the_machine_before_its_source_is_started_and_never_starts_it_beside_that() {
    let mut site = Site::new(&json!({ "on": true }));
    site.host.daemon.start();
    let drop = |name: &str| site.drop_as(name, ", power: shutdown", "autostart: true, auto_start: true");
    let back = |name: &str| {
        let done = site.host.daemon.client(&["rollback", name, "--yes"]);
        assert_eq!(done["done"], true, "{done}\n{}", site.host.daemon.log());
        assert!(site.runs("web"));
    };
    drop("web");
    site.host.completed("web");
    // A guest that stands still hears nothing, so nobody waits for it.
    site.host.virsh("suspend web");
    site.host.libvirtd.hold(true);
    site.host.libvirtd.kill();
    let failed = site.host.daemon.run_client(&["rollback", "web", "--yes"]);
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(failed.status.code() == Some(1) && told.contains("not given back yet"), "{told}");
    assert!(!site.runs("web") && site.asked("PowerOnVM_Task") == 0);
    site.host.libvirtd.hold(false);
    site.host.libvirtd.await_up();
    assert_eq!(site.host.virsh("domstate web"), "paused");
    back("web");
    assert_eq!(site.host.virsh("domstate web"), "shut off");
    assert!(site.host.virsh("dominfo web").contains("Autostart:      disable"));
    site.host.virsh("undefine web --nvram");

    // One that is called otherwise by now is the same; one that is gone needs no stopping.
    for (name, meanwhile, left) in [
        ("again", "domrename again other && virsh -q start other && virsh -q suspend other", "other"),
        ("third", "undefine third --nvram", ""),
    ] {
        drop(name);
        site.host.completed(name);
        site.host.virsh(&format!("destroy {name} && virsh -q {meanwhile}"));
        back(name);
        assert_eq!(site.host.virsh("list --all --name"), left);
        assert_eq!(site.host.virsh("list --name"), "", "{name}");
        if !left.is_empty() {
            site.host.virsh(&format!("undefine {left} --nvram"));
        }
    }
}

#[test]
fn a_machine_is_not_started_while_the_host_that_it_comes_from_holds_its_disks() {
    let (mut host, esxi) = (Host::new(), Esxi::start());
    host.store(&esxi.credential(&[esxi.port()], "key"));
    let path = esxi.machine("web", &host.content());
    let hold = host.start_held_at("handover.begun:2");
    host.drop_as(
        "web",
        &format!("{{esxi: {{credential: it, port: {}, path: {path}}}}}", esxi.port()),
        "auto_start: true",
    );
    host.wait_for_stand(&json!({ "begun": "start" }));
    // As a host does it on NFS for a machine that runs.
    let lock = esxi.datastore().join("web/.lck-0000000000000000");
    fs::write(&lock, "").unwrap();
    fs::remove_file(hold).unwrap();
    let error = host.error();
    let cause = error["error"].as_str().unwrap();
    assert!(error["kind"] == "source" && cause.contains("seems to run"), "{error}");
    assert_eq!(host.virsh("list --all --name"), "");
    fs::remove_file(lock).unwrap();
    host.retried();
    assert_eq!(host.virsh("domstate web"), "running");
}
