//! Disks read by VMware's library through nbdkit: a real nbdkit, with a plugin of the suite's own (tests/support/vddk/plugin.c) in the place of the one
//! that loads the library, which nobody may pass on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const DISK_MIB: u64 = 48;
const NBDKIT: &str = "/usr/bin/nbdkit";

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn build(source: &Path, into: &Path) {
    run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-x", "c"]).arg(source).arg("-o").arg(into));
}

/// As the server's own console would tell it.
fn sha1(vcenter: &Vcenter) -> String {
    let script = format!(
        "openssl s_client -connect {} </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha1",
        vcenter.address()
    );
    let told = run(Command::new("sh").args(["-c", &script]));
    told.trim().split_once('=').unwrap().1.to_owned()
}

/// A machine with nbdkit and the library, which knows the disks of the VM `web`.
struct Site {
    daemon: Daemon,
    vcenter: Vcenter,
    content: [PathBuf; 2],
    libdir: PathBuf,
}

impl Site {
    fn new() -> Site {
        Site::with(&json!({}))
    }

    /// The same, of which something else is said, too.
    fn with(more: &Value) -> Site {
        let mut daemon = Daemon::prepare();
        let scratch = daemon.scratch().canonicalize().unwrap();
        let content = [("system", DISK_MIB, 1), ("data", 8, 2)]
            .map(|(name, mib, seed)| disks::disk(&scratch, name, "raw", mib, mib / 2, seed));
        let mut machine = json!({ "name": "web", "disks": content.each_ref().map(|content| disk(content)) });
        machine.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let vcenter = Vcenter::start(Options::vcenter().machine(machine));
        let (bin, libdir) = (scratch.join("bin"), scratch.join("vddk"));
        fs::create_dir(&bin).unwrap();
        fs::create_dir_all(libdir.join("lib64")).unwrap();
        build(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/vddk/plugin.c"),
            &bin.join("plugin.so"),
        );
        let library = scratch.join("library.c");
        fs::write(&library, "int VixDiskLib_InitEx;\n").unwrap();
        build(&library, &libdir.join("lib64/libvixDiskLib.so.7"));
        let mut map = String::new();
        for (name, content) in ["web.vmdk", "web_1.vmdk"].into_iter().zip(&content) {
            let here = libdir.join(name);
            fs::copy(content, &here).unwrap();
            let (shown, sha1) = (here.display(), sha1(&vcenter));
            map.push_str(&format!("[ds1] web/{name}|127.0.0.1|{USER}|{PASSWORD}|{sha1}|{shown}\n"));
        }
        fs::write(libdir.join("map"), map).unwrap();
        // The real program, with the suite's plugin by the name of the other.
        let wrapper = format!(
            "#!/bin/sh\nfor word; do\n  shift\n  [ \"$word\" != vddk ] || word={}\n  set -- \"$@\" \"$word\"\ndone\nexec {NBDKIT} \"$@\"\n",
            bin.join("plugin.so").display()
        );
        fs::write(bin.join("nbdkit"), wrapper).unwrap();
        fs::set_permissions(bin.join("nbdkit"), fs::Permissions::from_mode(0o755)).unwrap();
        daemon.env("PATH", &format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
        fs::create_dir(scratch.join("credentials")).unwrap();
        Site { daemon, vcenter, content, libdir }
    }

    /// With the library where the credential says; or else where the configuration does.
    fn configured(self, by_credential: bool) -> Site {
        let scratch = self.daemon.scratch().to_owned();
        let mut login = json!({
            "host": "127.0.0.1", "username": USER, "password": PASSWORD, "thumbprint": self.vcenter.thumbprint(),
        });
        let mut further = format!(
            "credentials: {{dir: {}}}\nvc_connection_base_backoff_s: 0.2\nvc_connection_max_retries: 5\n",
            scratch.join("credentials").display()
        );
        match by_credential {
            true => login["vddk_libdir"] = json!(self.libdir),
            false => further.push_str(&format!("vddk: {{libdir: {}}}\n", self.libdir.display())),
        }
        let file = scratch.join("credentials/vc.yaml");
        fs::write(&file, login.to_string()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        self.daemon.configure(&further);
        self
    }

    fn drop_manifest(&mut self) {
        self.drop_with("");
    }

    fn drop_with(&mut self, further: &str) {
        self.daemon.start();
        let port = self.vcenter.port();
        self.daemon.drop_file(
            "web.yaml",
            format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: web, transport: vddk{further}}}\n"),
        );
    }

    #[track_caller]
    fn is_done(&self) -> Value {
        let progress = self.daemon.wait_batch("web");
        assert_eq!(progress["state"], "completed", "{progress}\n{}", self.daemon.log());
        let results = self.daemon.state().join("output/web/web");
        for (number, content) in self.content.iter().enumerate() {
            let result = results.join(format!("disk-{number}.qcow2"));
            assert_eq!(disks::content_sha256(&result, "qcow2"), disks::sha256(content), "{number}");
        }
        let report: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
        assert!(
            report["pipeline"]["stages"]["load"].to_string().contains("\"transport\":\"vddk\""),
            "{report}"
        );
        assert_eq!(self.vcenter.sent_of("-flat"), 0, "not by its files");
        progress
    }

    /// How many have a disk open, each over a connection of its own.
    fn readers(&self) -> usize {
        let ours = self.daemon.processes();
        let nbdkits = ours.iter().filter(|(_, command)| command.starts_with(NBDKIT));
        let open = nbdkits.flat_map(|(pid, _)| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten());
        open.flatten()
            .filter(|file| {
                fs::read_link(file.path())
                    .is_ok_and(|to| to.starts_with(&self.libdir) && to.extension() == Some("vmdk".as_ref()))
            })
            .count()
    }

    fn nbdkit(&self) -> Option<u32> {
        let ours = self.daemon.processes();
        ours.iter().find(|(_, command)| command.starts_with(NBDKIT)).map(|(pid, _)| *pid)
    }
}

#[test]
fn a_disk_comes_through_vmwares_library_and_its_password_is_shown_nowhere() {
    let mut site = Site::new().configured(true);
    // It is asked at each request.
    fs::write(site.libdir.join("pace"), "200000").unwrap();
    site.drop_manifest();
    wait_for("nbdkit to read", || site.nbdkit());
    for (pid, command) in site.daemon.processes() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        for shown in [command.as_bytes(), environment.as_slice()] {
            assert!(!shown.windows(PASSWORD.len()).any(|here| here == PASSWORD.as_bytes()), "{command}");
        }
    }
    fs::remove_file(site.libdir.join("pace")).unwrap();
    let progress = site.is_done();
    assert_eq!(progress["vms"]["web"]["attempt"], 1, "{progress}");
    let none = |_: &str| true;
    for file in Daemon::files_below(site.daemon.state(), none) {
        let bytes = fs::read(&file).unwrap_or_default();
        let is_in = bytes.windows(PASSWORD.len()).any(|here| here == PASSWORD.as_bytes());
        assert!(!is_in, "{} holds the password", file.display());
    }
    wait_for("nbdkit to end", || site.nbdkit().is_none().then_some(()));
}

#[test]
fn no_more_read_at_a_time_than_there_may_be_connections() {
    let mut site = Site::new().configured(true);
    fs::write(site.libdir.join("pace"), "150000").unwrap();
    site.drop_with(", connections: 3");
    let mut most = 0;
    wait_for("the batch to end", || {
        most = most.max(site.readers());
        site.daemon.progress("web").filter(|progress| progress["state"] == "completed")
    });
    assert_eq!(most, 3);
    site.is_done();
}

#[test]
fn an_nbdkit_that_is_killed_in_mid_transfer_is_started_again() {
    let mut site = Site::new().configured(false);
    fs::write(site.libdir.join("pace"), "400000").unwrap();
    site.drop_manifest();
    let mut killed = 0;
    while killed < 2 {
        let pid = wait_for("nbdkit to read", || site.nbdkit());
        thread::sleep(Duration::from_millis(500));
        // The one that told what is in use has ended by itself by then.
        let victim = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        killed += u32::from(kill_process(victim, Signal::KILL).is_ok());
        wait_for("another nbdkit", || site.nbdkit().filter(|now| *now != pid));
    }
    fs::remove_file(site.libdir.join("pace")).unwrap();
    let progress = site.is_done();
    assert_eq!(progress["vms"]["web"]["attempt"], 1, "{progress}");
}

#[test]
fn a_vm_that_runs_is_read_by_the_library_as_of_its_snapshot() {
    let mut site = Site::with(&json!({ "on": true })).configured(false);
    // The stand-in reads no disk of a machine that runs then.
    fs::write(site.libdir.join("running"), "").unwrap();
    site.drop_with(", mode: clone");
    site.is_done();
    let calls = |call: &str| site.vcenter.requests().iter().filter(|request| request.call == call).count();
    assert_eq!((calls("CreateSnapshot_Task"), calls("RemoveSnapshot_Task")), (1, 1));
}

#[test]
fn a_library_that_is_missing_or_not_roots_is_told_before_anybody_is_asked() {
    let site = Site::new().configured(false);
    let logins =
        |vcenter: &Vcenter| vcenter.requests().iter().filter(|request| request.call == "Login").count();
    let refused = || {
        let manifest = site.daemon.scratch().join("vddk.yaml");
        let port = site.vcenter.port();
        let text = format!(
            "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: web, transport: vddk}}\n"
        );
        fs::write(&manifest, text).unwrap();
        let out = site.daemon.scratch().join("out");
        let (config, out) = (site.daemon.config(), out.to_str().unwrap().to_owned());
        let arguments =
            ["convert", manifest.to_str().unwrap(), "-o", &out, "--config", config.to_str().unwrap()];
        let output = site.daemon.run_client(&arguments);
        let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let told = String::from_utf8_lossy(text).into_owned();
        let error: Value =
            serde_json::from_str(&told[told.find('{').unwrap_or_else(|| panic!("{told}"))..]).unwrap();
        assert_eq!((output.status.code(), &error["kind"]), (Some(3), &json!("unsupported")), "{error}");
        assert!(error["suggestion"].as_str().is_some_and(|advice| !advice.is_empty()), "{error}");
        error["error"].as_str().unwrap_or_default().to_owned()
    };
    fs::set_permissions(&site.libdir, fs::Permissions::from_mode(0o777)).unwrap();
    let told = refused();
    assert!(told.contains("may be changed by others"), "{told}");
    fs::set_permissions(&site.libdir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(site.libdir.join("lib64")).unwrap();
    let told = refused();
    assert!(told.contains("libvixDiskLib"), "{told}");
    assert_eq!(logins(&site.vcenter), 0);
}
