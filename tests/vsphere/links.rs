//! Links that go down in the middle of a transfer: the service and its vCenter are in networks of their own, with a cable between them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::store_for;
use crate::support::netns::{in_private_network, ip};
use crate::support::root::text_of;
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 32;
/// What may be asked for again after an outage: what was on its way.
const AGAIN: u64 = 8 * MIB;
/// The same where the service was killed besides: what was not yet written down comes to it.
const LOST: u64 = 12 * MIB;

/// Who is silent for so long has no answer left to write: each has 1 MiB, at 1 MiB/s.
const SILENT: Duration = Duration::from_secs(2);

/// A service that follows `eth0`, whose other end a vCenter has.
struct Site {
    daemon: Daemon,
    vcenter: Vcenter,
    content: PathBuf,
}

impl Site {
    fn new(further: &str) -> Site {
        let daemon = Daemon::prepare();
        let content = disks::disk(daemon.scratch(), "system", "raw", DISK_MIB, DISK_MIB, 1);
        let machine = json!({ "name": "web", "disks": [disk(&content)] });
        let vcenter = Vcenter::start(Options::vcenter().apart().machine(machine));
        let far = vcenter.pid();
        ip("link set lo up");
        ip("link add eth0 type veth peer name eth0-far");
        ip(&format!("link set eth0-far netns {far}"));
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("link set eth0 up");
        for line in ["addr add 192.0.2.2/24 dev eth0-far", "link set eth0-far up"] {
            let mut there = std::process::Command::new("nsenter");
            text_of(there.arg(format!("--net=/proc/{far}/ns/net")).arg("ip").args(line.split_whitespace()));
        }
        let credentials = daemon.scratch().join("credentials");
        fs::create_dir(&credentials).unwrap();
        daemon.configure(&format!(
            "credentials: {{dir: {}}}\nnetwork_monitor: {{required_interfaces: [eth0]{further}}}\n",
            credentials.display()
        ));
        store_for(&daemon, &vcenter, "192.0.2.2", PASSWORD);
        Site { daemon, vcenter, content }
    }

    /// Begins a transfer that takes some seconds, and waits until it is half done.
    fn half(&mut self) {
        self.vcenter.throttle(MIB);
        self.daemon.start();
        self.daemon.drop_file(
            "web.yaml",
            format!(
                "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: web}}\n",
                self.vcenter.port()
            ),
        );
        wait_for("half of the disk to be sent", || {
            (self.vcenter.sent_of("-flat") > DISK_MIB * MIB / 2).then_some(())
        });
    }

    fn job(&self) -> Value {
        self.daemon.client(&["list"])["jobs"][0].clone()
    }

    fn wait_waiting(&self) -> Value {
        wait_for("the job to wait for the network", || {
            let job = self.job();
            (job["state"] == "waiting" && job["waiting_reason"] == "network").then_some(job)
        })
    }

    /// What was asked and sent, and who logged in.
    fn asked(&self) -> (usize, u64, usize) {
        let requests = self.vcenter.requests();
        let logins = requests.iter().filter(|request| request.call == "Login").count();
        (requests.len(), self.vcenter.sent_of("-flat"), logins)
    }

    /// What was asked by the time when the server, whose link is down, has written into its own buffers what it was sending.
    fn settled(&self) -> (usize, u64, usize) {
        let mut last = (self.asked(), Instant::now());
        wait_for("the server to be silent", || {
            let asked = self.asked();
            if asked != last.0 {
                last = (asked, Instant::now());
            }
            (last.1.elapsed() >= SILENT).then_some(asked)
        })
    }

    /// The transfer ends well, in this attempt, hardly anything was sent twice, and nobody stays logged in but whose worker was killed.
    #[track_caller]
    fn ends(&self, attempt: u32, again: u64, killed: usize) {
        self.vcenter.throttle(0);
        let progress = self.daemon.wait_batch("web");
        assert_eq!(progress["state"], "completed", "{progress}\n{}", self.daemon.log());
        assert_eq!(progress["vms"]["web"]["attempt"], attempt, "{progress}");
        let result = self.daemon.state().join("output/web/web/disk-0.qcow2");
        assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&self.content, "raw"));
        let sent = self.vcenter.sent_of("-flat");
        println!("sent again: {} KiB", sent.saturating_sub(DISK_MIB * MIB) >> 10);
        assert!(sent <= DISK_MIB * MIB + again, "{sent}");
        // A worker that was killed said no good-bye: the server forgets it by itself.
        wait_for("nobody else to be logged in", || (self.vcenter.sessions() <= killed).then_some(()));
    }
}

/// A transfer whose link is away for so long in its middle.
fn stands_still_and_goes_on(outage: Duration) {
    in_private_network(move || {
        let mut site = Site::new("");
        site.half();
        let began = Instant::now();
        ip("link set eth0 down");
        let job = site.wait_waiting();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(job["waiting_detail"].as_str().unwrap().contains("eth0"), "{job}");
        let before = site.settled();
        std::thread::sleep(outage.saturating_sub(began.elapsed()));
        assert_eq!(site.asked(), before);
        ip("link set eth0 up");
        let up = Instant::now();
        wait_for("the job to go on", || (site.job()["state"] == "running").then_some(()));
        wait_for("bytes to come", || (site.asked().1 > before.1).then_some(()));
        println!("went on after {:.1} s", up.elapsed().as_secs_f64());
        assert!(up.elapsed() < Duration::from_secs(20), "{:?}", up.elapsed());
        site.ends(1, AGAIN, 0);
        let (_, _, logins) = site.asked();
        assert_eq!(logins, before.2, "the session was kept");
        let log = fs::read_to_string(site.daemon.state().join("logs/web/web.1.log")).unwrap();
        let again = log.matches("asked again").count();
        assert!(again <= 8, "{log}");
    });
}

#[test]
fn a_link_that_is_down_for_a_while_lets_a_transfer_stand_still_and_go_on_at_its_last_byte() {
    stands_still_and_goes_on(Duration::from_secs(5));
}

#[test]
fn one_that_is_down_for_a_minute_changes_nothing_of_that() {
    stands_still_and_goes_on(Duration::from_secs(60));
}

#[test]
fn an_outage_beyond_the_limit_is_waited_for_on() {
    in_private_network(|| {
        let mut site = Site::new(", max_network_wait_s: 2");
        site.half();
        ip("link set eth0 down");
        site.wait_waiting();
        wait_for("the outage to be told", || {
            site.daemon.log().contains("the network has been down for").then_some(())
        });
        assert_eq!(site.job()["waiting_reason"], "network");
        ip("link set eth0 up");
        site.ends(1, AGAIN, 0);
    });
}

#[test]
fn an_outage_beyond_the_limit_costs_an_attempt_where_that_is_asked_for() {
    in_private_network(|| {
        let mut site = Site::new(", max_network_wait_s: 3, on_network_timeout: fail");
        site.half();
        ip("link set eth0 down");
        let id = site.wait_waiting()["job_id"].to_string();
        let events = || site.daemon.client(&["show", &id])["events"].to_string();
        wait_for("the wait to be over", || events().contains("stayed away for too long").then_some(()));
        ip("link set eth0 up");
        site.ends(2, LOST, 0);
    });
}

#[test]
fn a_service_that_is_killed_in_an_outage_waits_when_it_is_back_and_then_goes_on() {
    in_private_network(|| {
        let mut site = Site::new("");
        site.half();
        ip("link set eth0 down");
        site.wait_waiting();
        site.daemon.kill9();
        let before = site.settled();
        site.daemon.start();
        site.wait_waiting();
        assert_eq!(site.daemon.client(&["status"])["network"], "down");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(site.asked(), before);
        ip("link set eth0 up");
        site.ends(1, LOST, 1);
    });
}
