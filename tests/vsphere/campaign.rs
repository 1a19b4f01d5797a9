//! Everything that can go wrong, at ten random points of a transfer each: what arrives is what lies there, or it is told what is wrong, and
//! sessions do not pile up.
//!
//! `HYPER2KVM_FAULT_SEED` repeats a run; which seed it was is printed.

use std::thread;
use std::time::Duration;

use hyper2kvm::disk::{Control, SourceDisk};
use hyper2kvm::model::error::{Disposition, Kind, Result};
use serde_json::{Value, json};

use crate::folder::Site;
use crate::support::faults::{Fault, Relay};
use crate::support::vcenter::Options;
use crate::support::within;

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 3;
const POINTS: u32 = 10;

/// Where something goes wrong.
pub struct Dice(u64);

impl Dice {
    pub fn of(what: &str) -> Dice {
        let given = std::env::var("HYPER2KVM_FAULT_SEED").ok().map(|text| text.parse().unwrap());
        let now = || std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let seed: u32 = given.unwrap_or_else(now);
        println!("{what}: HYPER2KVM_FAULT_SEED={seed}");
        Dice(u64::from(seed))
    }

    /// One of so many numbers.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn small() -> Site {
    Site::sized(Options::vcenter(), json!({ "name": "web" }), DISK_MIB)
}

/// Its disk, for somebody who logs in.
fn source(site: &Site, address: &str) -> SourceDisk {
    site.source_at(address, &Control::new()).unwrap()
}

/// So long is waited for somebody who says nothing, and twice as long for somebody who says too little.
const HASTY: Duration = Duration::from_secs(1);

/// Nobody is logged in any more.
#[track_caller]
fn are_left(site: &Site, case: &str) {
    let gone = within(Duration::from_secs(10), || (site.vcenter.sessions() == 0).then_some(()));
    assert!(gone.is_some(), "{case}: {} are still logged in", site.vcenter.sessions());
}

/// Answers with this fault at random points; gives what the transfers ended with.
fn answers(fault: &Value, dice: &mut Dice) -> Vec<Result<()>> {
    let site = small();
    let drips = fault["kind"].as_str().unwrap().starts_with("dripping");
    let source = match drips {
        true => site.source_within(&site.vcenter.address(), HASTY).unwrap(),
        false => source(&site, &site.vcenter.address()),
    };
    let one = |_| {
        site.begin_anew();
        let mut fault = fault.clone();
        for (member, value) in [
            ("on", json!("folder")),
            ("named", json!("-flat.vmdk")),
            ("skip", json!(dice.below(DISK_MIB))),
            ("times", json!(1 + dice.below(2))),
        ] {
            fault[member] = value;
        }
        site.vcenter.fault(&fault);
        let ended = site.copy(&source, &Control::new());
        site.vcenter.calm();
        if ended.is_ok() {
            site.is_identical();
        }
        ended
    };
    let ended = (0..POINTS).map(one).collect();
    drop(source);
    are_left(&site, &fault.to_string());
    ended
}

#[test]
fn answers_that_go_wrong_anywhere_arrive_whole_or_are_told() {
    thread::scope(|scope| {
        for (kind, fault) in [
            ("truncated", json!({})),
            ("reset", json!({})),
            ("short", json!({})),
            ("stalled", json!({})),
            ("silent", json!({})),
            ("dripping", json!({})),
            ("dripping-head", json!({})),
            ("forget", json!({})),
            ("slow", json!({ "rate": 2 * MIB })),
            ("status", json!({ "status": 503 })),
            ("status", json!({ "status": 500 })),
            ("status", json!({ "status": 429 })),
        ] {
            scope.spawn(move || {
                let mut fault = fault;
                fault["kind"] = json!(kind);
                for ended in answers(&fault, &mut Dice::of(kind)) {
                    ended.unwrap_or_else(|error| panic!("{fault}: {error}"));
                }
            });
        }
        for (kind, fault, told) in [
            ("whole", json!({}), Kind::Source),
            ("elsewhere", json!({}), Kind::Source),
            ("status", json!({ "status": 404 }), Kind::Source),
            ("status", json!({ "status": 403 }), Kind::Auth),
        ] {
            scope.spawn(move || {
                let mut fault = fault;
                fault["kind"] = json!(kind);
                for ended in answers(&fault, &mut Dice::of(kind)) {
                    let error = ended.expect_err(kind);
                    assert_eq!(error.kind(), told, "{fault}: {error}");
                    assert_ne!(error.disposition(), Disposition::Transient, "{fault}: {error}");
                    assert!(error.details().advice.is_some(), "{fault}: {error}");
                }
            });
        }
    });
}

#[test]
fn connections_that_fail_anywhere_change_nothing() {
    let of = |fault: fn(u64) -> Fault| {
        move || {
            let site = small();
            let relay = Relay::to(&site.vcenter.address());
            let source = source(&site, &relay.address().to_string());
            let mut dice = Dice::of("connections");
            for _ in 0..POINTS {
                site.begin_anew();
                relay.cut();
                let fault = fault(dice.below(MIB));
                relay.fail_next([fault, fault]);
                let copied = site.copy(&source, &Control::new());
                copied.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
                site.is_identical();
            }
            relay.calm();
            drop(source);
            are_left(&site, "connections");
        }
    };
    thread::scope(|scope| {
        scope.spawn(of(Fault::CutAfter));
        scope.spawn(of(Fault::ResetAfter));
        scope.spawn(of(Fault::StallAfter));
        scope.spawn(of(Fault::DripAfter));
        scope.spawn(of(|_| Fault::Refuse));
    });
}

#[test]
fn a_certificate_that_changes_anywhere_ends_the_transfer_until_it_is_right_again() {
    thread::scope(|scope| {
        for kind in ["expired", "wrong-name", "own"] {
            scope.spawn(move || {
                let site = small();
                let relay = Relay::to(&site.vcenter.address());
                let source = source(&site, &relay.address().to_string());
                let mut dice = Dice::of(kind);
                let mut refused = 0;
                for _ in 0..POINTS {
                    site.begin_anew();
                    site.vcenter.throttle(2 * MIB);
                    let point = Duration::from_millis(dice.below(450));
                    let ended = thread::scope(|scope| {
                        let copy = scope.spawn(|| site.copy(&source, &Control::new()));
                        thread::sleep(point);
                        site.vcenter.certificate(kind);
                        relay.cut();
                        copy.join().unwrap()
                    });
                    site.vcenter.certificate("good");
                    site.vcenter.throttle(0);
                    if let Err(error) = ended {
                        let told = (error.kind(), error.disposition());
                        assert_eq!(told, (Kind::Network, Disposition::Permanent), "{kind}: {error}");
                        refused += 1;
                        site.copy(&source, &Control::new()).unwrap();
                    }
                    site.is_identical();
                }
                assert!(refused > 0, "{kind}: never in time");
                drop(source);
                are_left(&site, kind);
            });
        }
    });
}
