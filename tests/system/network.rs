//! The network monitor on a real kernel, in a private network namespace.

use std::time::{Duration, Instant};

use hyper2kvm::model::config::{NetworkSettings, Settings};
use hyper2kvm::service::network::{NetworkMonitor, NetworkState};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;

use super::netns::{cable, in_private_network, ip, plug, unplug};
use crate::support::wait::PATIENCE;

/// The monitor and what it says.
struct Watched {
    runtime: Runtime,
    monitor: NetworkMonitor,
    state: watch::Receiver<NetworkState>,
}

fn settings(required: &[&str]) -> NetworkSettings {
    let mut settings = Settings::defaults(std::path::Path::new("/nowhere"), 1).network_monitor;
    settings.required_interfaces = required.iter().map(ToString::to_string).collect();
    settings
}

impl Watched {
    fn start(required: &[&str]) -> Watched {
        let runtime = Runtime::new().unwrap();
        let monitor = runtime.block_on(NetworkMonitor::start(&settings(required)));
        let state = monitor.state();
        Watched { runtime, monitor, state }
    }

    fn now(&self) -> NetworkState {
        self.state.borrow().clone()
    }

    /// Waits until the state is called this, and says how long that took.
    #[track_caller]
    fn becomes(&mut self, name: &str) -> Duration {
        let asked = Instant::now();
        let state = &mut self.state;
        let arrived = self.runtime.block_on(async {
            timeout(PATIENCE, state.wait_for(|state| state.name() == name)).await.is_ok()
        });
        assert!(arrived, "never became {name}, but {:?}", self.now());
        asked.elapsed()
    }

    /// Waits until the one-line detail contains this.
    #[track_caller]
    fn says(&mut self, part: &str) {
        let state = &mut self.state;
        let found = self.runtime.block_on(async {
            timeout(PATIENCE, state.wait_for(|state| state.detail().contains(part))).await.is_ok()
        });
        assert!(found, "never said {part:?}, but {:?}", self.now().detail());
    }

    /// Whether the state keeps this name for a while.
    #[track_caller]
    fn stays(&mut self, name: &str, time: Duration) {
        let state = &mut self.state;
        let changed = self
            .runtime
            .block_on(async { timeout(time, state.wait_for(|state| state.name() != name)).await.is_ok() });
        assert!(!changed, "became {:?}", self.now());
    }
}

const HOLD: Duration = Duration::from_secs(2);

#[test]
fn a_cable_that_is_pulled_out_counts_at_once_and_one_plugged_in_after_two_seconds() {
    in_private_network(|| {
        cable("eth0");
        let mut watched = Watched::start(&["eth0"]);
        assert_eq!(watched.now().name(), "up");

        unplug("eth0");
        let took = watched.becomes("down");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(watched.now().detail().contains("eth0 has no carrier"), "{:?}", watched.now());

        // The kernel tells of it before `ip` has ended.
        let before = Instant::now();
        plug("eth0");
        watched.becomes("up");
        let took = before.elapsed();
        assert!(took >= HOLD - Duration::from_millis(50), "{took:?}");
    });
}

#[test]
fn an_outage_from_before_the_start_is_known_when_the_start_returns() {
    in_private_network(|| {
        cable("eth0");
        unplug("eth0");
        assert!(Watched::start(&["eth0"]).now().is_down());
    });
}

#[test]
fn an_interface_that_is_switched_off_or_removed_is_down() {
    in_private_network(|| {
        cable("eth0");
        let mut watched = Watched::start(&["eth0"]);
        ip("link set eth0 down");
        watched.becomes("down");
        assert!(watched.now().detail().contains("eth0 is switched off"), "{:?}", watched.now());
        ip("link set eth0 up");
        watched.becomes("up");
        ip("link del eth0");
        watched.becomes("down");
        assert_eq!(watched.now().missing_required, ["eth0"]);
        cable("eth0");
        watched.becomes("up");
    });
}

#[test]
fn a_hundred_flaps_in_ten_seconds_leave_one_consistent_state() {
    in_private_network(|| {
        for (last, expected) in [("down", "down"), ("up", "up")] {
            ip("link add eth0 type veth peer name eth0-far");
            ip("link set eth0 up");
            let mut watched = Watched::start(&["eth0"]);
            let began = Instant::now();
            for flap in 0..100_u32 {
                plug("eth0");
                unplug("eth0");
                let due = Duration::from_millis(100) * (flap + 1);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                assert!(watched.now().is_down(), "flap {flap}: up though it never held for two seconds");
            }
            ip(&format!("link set eth0-far {last}"));
            watched.becomes(expected);
            watched.stays(expected, HOLD + Duration::from_secs(1));
            drop(watched);
            ip("link del eth0");
        }
    });
}

#[test]
fn the_interface_of_the_default_route_is_the_one_that_counts() {
    in_private_network(|| {
        cable("eth0");
        cable("eth1");
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("addr add 198.51.100.1/24 dev eth1");
        ip("route add default via 192.0.2.254");
        let mut watched = Watched::start(&[]);
        assert_eq!(watched.now().watched, ["eth0"]);

        unplug("eth1");
        watched.stays("up", Duration::from_millis(500));
        unplug("eth0");
        watched.becomes("down");
        plug("eth0");
        watched.becomes("up");

        // The route moves, and the watch with it.
        plug("eth1");
        ip("route replace default via 198.51.100.254");
        watched.says("up (eth1)");
        unplug("eth0");
        watched.stays("up", Duration::from_millis(500));
        unplug("eth1");
        watched.becomes("down");
    });
}

#[test]
fn losing_an_address_or_the_route_is_remarked_on_and_only_losing_the_carrier_is_an_outage() {
    in_private_network(|| {
        cable("eth0");
        cable("eth1");
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("route add default via 192.0.2.254");
        let mut watched = Watched::start(&[]);

        ip("route del default");
        watched.says("there is no default route now; the last went over eth0");
        assert_eq!(watched.now().name(), "up");
        ip("route add default via 192.0.2.254");
        watched.says("up (eth0)");

        // The kernel takes the routes away with the address, and tells of neither route.
        ip("addr del 192.0.2.1/24 dev eth0");
        watched.says("eth0 is up but has no address");
        assert_eq!(watched.now().name(), "up");

        // Switching off takes the routes as well; eth1 never held one and cannot stand in.
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("route add default via 192.0.2.254");
        watched.says("up (eth0)");
        ip("link set eth0 down");
        watched.becomes("down");
        assert_eq!(watched.now().watched, ["eth0"]);
    });
}

#[test]
fn a_default_route_of_ipv6_counts_as_well() {
    in_private_network(|| {
        cable("eth0");
        cable("eth1");
        ip("-6 addr add 2001:db8::1/64 dev eth0 nodad");
        ip("-6 route add default via 2001:db8::ff dev eth0");
        let mut watched = Watched::start(&[]);
        assert_eq!(watched.now().watched, ["eth0"]);
        unplug("eth0");
        watched.becomes("down");
    });
}

#[test]
fn of_a_bridge_with_the_default_route_the_cable_decides_not_the_guest() {
    in_private_network(|| {
        cable("eth0");
        ip("link add br0 type bridge");
        ip("link set eth0 master br0");
        ip("tuntap add mode tap name vnet0");
        ip("link set vnet0 master br0");
        ip("link set vnet0 up");
        ip("link set br0 up");
        ip("addr add 192.0.2.1/24 dev br0");
        ip("route add default via 192.0.2.254");
        let mut watched = Watched::start(&[]);
        assert_eq!(watched.now().name(), "up", "{:?}", watched.now());
        unplug("eth0");
        watched.becomes("down");
        assert!(watched.now().detail().contains("eth0 has no carrier"), "{:?}", watched.now());
        plug("eth0");
        watched.becomes("up");
    });
}

#[test]
fn a_machine_without_interfaces_is_not_watched_until_one_appears() {
    in_private_network(|| {
        ip("link add br0 type bridge");
        let mut watched = Watched::start(&[]);
        assert_eq!(watched.now().name(), "unwatched");
        cable("eth0");
        // Between being made and being switched on it is an interface that is down.
        watched.says("up (eth0");
    });
}

#[test]
fn other_settings_count_at_once() {
    in_private_network(|| {
        cable("eth0");
        let mut watched = Watched::start(&["eth7"]);
        assert!(watched.now().is_down());
        assert_eq!(watched.now().missing_required, ["eth7"]);
        watched.monitor.reconfigure(&settings(&["eth0"]));
        watched.becomes("up");
        watched.monitor.reconfigure(&NetworkSettings { enabled: false, ..settings(&["eth0"]) });
        watched.becomes("unwatched");
        unplug("eth0");
        watched.stays("unwatched", Duration::from_millis(500));
        watched.monitor.reconfigure(&settings(&["eth0"]));
        watched.becomes("down");
    });
}
