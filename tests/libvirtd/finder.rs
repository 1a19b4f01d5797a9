//! What only a program that stays sees of addresses and networks: what is remembered, for how long, and how fast that is.

use hyper2kvm::libvirt::addresses::{Finder, Found, Method};
use hyper2kvm::libvirt::link::{Access, Link};
use hyper2kvm::libvirt::networks::{Missing, Why, missing};
use hyper2kvm::model::machine::NicLink;

use crate::addresses::{Firmware, IN_DEFAULT, machine};
use crate::support::libvirtd::Libvirtd;
use crate::support::wait::{PATIENCE, within};

/// The best of some: a loaded machine makes any single one slow.
fn best(mut find: impl FnMut() -> Found) -> Found {
    let found = (0..20).map(|_| find());
    found.min_by(|one, other| one.took_ms.total_cmp(&other.took_ms)).unwrap()
}

#[test]
fn an_address_is_found_by_lease_in_no_time_remembered_and_forgotten_when_the_machine_runs_anew() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("virsh -q net-start default");
    machine(&libvirtd, IN_DEFAULT, Firmware::Asks, "");
    libvirtd.sh("virsh -q start web");
    let link = Link::open(&libvirtd.uri(), Access::Changes).unwrap();
    let finder = Finder::new();
    finder.wait(&link, "web", &[Method::Lease], 0.9, PATIENCE * 2).unwrap();
    let by_lease = || finder.find(&link, "web", &[Method::Lease]).unwrap();
    let fresh = best(|| {
        finder.forget("web");
        by_lease()
    });
    assert!(!fresh.cached && fresh.took_ms <= 50.0, "{fresh:?}");
    assert_eq!(fresh.addresses.len(), 1);
    // The best of many, over a time in which others do not need this machine all the time.
    let at_once = || Some(by_lease()).filter(|found| found.cached && found.took_ms <= 1.0);
    let remembered = within(PATIENCE, at_once).expect("what is remembered is told within a millisecond");
    assert_eq!(remembered.addresses, fresh.addresses);

    for change in ["virsh -q suspend web", "virsh -q destroy web; virsh -q start web"] {
        // What is remembered may just have become too old.
        by_lease();
        assert!(by_lease().cached);
        libvirtd.sh(change);
        assert!(!by_lease().cached, "{change}");
    }
    // All methods at a time: each tells for itself, and what one lacks keeps no other from answering.
    finder.forget_all();
    let all = finder.find(&link, "web", &[]).unwrap();
    let told: Vec<(Method, bool)> =
        all.methods.iter().map(|used| (used.name, used.error.is_some())).collect();
    let expected = Method::ALL.map(|method| (method, method == Method::Agent));
    assert_eq!(told, expected, "{all:?}");
    let statistics = finder.statistics();
    let of_lease = &statistics.methods[&Method::Lease];
    assert!(
        statistics.hits >= 1 && of_lease.successes >= 20 && of_lease.answers == of_lease.attempts,
        "{statistics:?}"
    );
    assert!(of_lease.mean_ms > 0.0 && statistics.methods[&Method::Agent].failures == 1, "{statistics:?}");
}

#[test]
fn what_is_remembered_is_dropped_when_something_happens_to_the_machine_and_not_before() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh("virsh -q net-start default");
    machine(&libvirtd, IN_DEFAULT, Firmware::Asks, "");
    libvirtd.sh("virsh -q start web");
    let link = Link::open(&libvirtd.uri(), Access::Changes).unwrap();
    let finder = Finder::new();
    let following = finder.follow(&libvirtd.uri(), PATIENCE).unwrap();
    finder.wait(&link, "web", &[Method::Lease], 0.9, PATIENCE * 2).unwrap();
    let by_lease = |link: &Link| finder.find(link, "web", &[Method::Lease]).unwrap();
    // It runs as before, and yet something has happened to it.
    let stands_still = "virsh -q suspend web; virsh -q resume web";
    let is_dropped = |link: &Link| {
        let asked = || finder.statistics().methods[&Method::Lease].attempts;
        by_lease(link);
        let before = asked();
        libvirtd.sh(stands_still);
        within(PATIENCE, || {
            by_lease(link);
            (asked() > before).then_some(())
        })
        .is_some()
    };
    assert!(is_dropped(&link));
    // libvirt was away: nobody knows what happened, and then it is heard again.
    libvirtd.kill();
    libvirtd.await_up();
    let again = Link::open(&libvirtd.uri(), Access::Changes).unwrap();
    assert!(is_dropped(&again));
    drop(following);
    let remembered = within(PATIENCE, || {
        libvirtd.sh(stands_still);
        by_lease(&again).cached.then_some(())
    });
    assert!(remembered.is_some(), "nobody hears any more, and so it is remembered for its time");
}

#[test]
fn what_cards_cannot_be_plugged_into_is_told_before_anything_is_copied() {
    let libvirtd = Libvirtd::start();
    let link = Link::open(&libvirtd.uri(), Access::Reads).unwrap();
    libvirtd.sh("virsh -q net-define /dev/stdin <<'end'
<network><name>lan</name><forward mode='bridge'/><bridge name='h2k-none'/></network>
end
virsh -q net-start lan");
    let (network, bridge) =
        (|name: &str| NicLink::Network(name.to_owned()), |name: &str| NicLink::Bridge(name.to_owned()));
    let links = [
        network("default"),
        network("no <such>"),
        network("lan"),
        bridge("h2k-none"),
        bridge("lo"),
        NicLink::OpenVswitch("h2k-ovs".to_owned()),
        bridge("h2k-none"),
    ];
    let told = |name: &str, why| Missing { name: name.to_owned(), why };
    let expected = [
        told("default", Why::Inactive),
        told("no <such>", Why::NoNetwork),
        told("lan", Why::WithoutItsBridge { bridge: "h2k-none".to_owned() }),
        told("h2k-none", Why::NoBridge),
        told("lo", Why::NotABridge),
        told("h2k-ovs", Why::NoBridge),
    ];
    assert_eq!(missing(&link, &links).unwrap(), expected);
    for missing in &expected {
        let (cause, advice) = missing.told();
        assert!(cause.contains(&missing.name) && !advice.is_empty(), "{cause}");
    }
    libvirtd.sh("virsh -q net-start default");
    assert_eq!(missing(&link, &links[..1]).unwrap(), []);
    assert!(missing(&link, &[network("a\0b")]).is_err());
}
