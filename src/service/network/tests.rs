//! The rule and the hold, without a kernel.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::hold::{Keeper, Moment, UP_HOLD};
use super::judge::{Opinion, holders, judge};
use super::table::{Link, LinkKind, Table};
use super::{NetworkState, Verdict};

/// A table from lines such as `eth0 plain up`, `br0 bridge up route`, `tap0 tap up in=br0`.
fn table(text: &str) -> Table {
    let mut made = Table::default();
    let index_of =
        |name: &str| text.lines().position(|line| line.trim().starts_with(name)).unwrap() as u32 + 1;
    for (position, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let index = position as u32 + 1;
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let kind = match words.next().unwrap() {
            "loopback" => LinkKind::Loopback,
            "bridge" => LinkKind::Bridge,
            "bond" => LinkKind::Bond,
            "tap" => LinkKind::Tap,
            "fallback" => LinkKind::Fallback,
            "plain" => LinkKind::Plain,
            other => panic!("no kind {other}"),
        };
        let mut link =
            Link { name, other_names: vec![], kind, enabled: true, carrier: false, controller: None };
        for word in words {
            match word.split_once('=') {
                Some(("in", controller)) => link.controller = Some(index_of(controller)),
                Some(("alt", name)) => link.other_names.push(name.to_owned()),
                _ => match word {
                    "up" => link.carrier = true,
                    "unplugged" => link.carrier = false,
                    "off" => link.enabled = false,
                    "address" => drop(made.addressed.insert(index)),
                    "route" => drop(made.default_routes.insert(index)),
                    other => panic!("no word {other}"),
                },
            }
        }
        made.links.insert(index, link);
    }
    made
}

/// What the rule says of the last table, after the others were seen.
fn opinion(required: &[&str], tables: &[&str]) -> Opinion {
    let required: Vec<String> = required.iter().map(ToString::to_string).collect();
    let mut last_holders = Vec::new();
    let mut found = None;
    for text in tables {
        let table = table(text);
        if let Some(now) = holders(&table) {
            last_holders = now;
        }
        found = Some(judge(&table, &required, &last_holders).opinion);
    }
    found.unwrap()
}

fn up(required: &[&str], tables: &[&str]) {
    assert_eq!(opinion(required, tables), Opinion::Up, "{tables:?}");
}

fn down(required: &[&str], tables: &[&str], expected: &str) {
    match opinion(required, tables) {
        Opinion::Down { why } => assert!(why.contains(expected), "said {why:?}, not {expected:?}"),
        other => panic!("{other:?} of {tables:?}"),
    }
}

fn unwatched(tables: &[&str]) {
    assert!(matches!(opinion(&[], tables), Opinion::Unwatched { .. }), "{tables:?}");
}

#[test]
fn every_required_interface_that_exists_must_be_up_with_carrier() {
    up(&["eth0", "eth1"], &["eth0 plain up\neth1 plain up\neth2 plain unplugged"]);
    down(&["eth0", "eth1"], &["eth0 plain up\neth1 plain unplugged"], "eth1 has no carrier");
    down(&["eth0", "eth1"], &["eth0 plain up\neth1 plain up off"], "eth1 is switched off");
}

#[test]
fn a_required_interface_that_does_not_exist_is_reported_and_does_not_count() {
    up(&["eth0", "ens192"], &["eth0 plain up"]);
    let judged = judge(&table("eth0 plain up"), &["eth0".to_owned(), "ens192".to_owned()], &[]);
    assert_eq!(judged.missing_required, ["ens192"]);
}

#[test]
fn if_no_required_interface_exists_the_network_is_down() {
    down(&["ens192", "ens224"], &["lo loopback up\neth0 plain up route"], "(ens192, ens224)");
}

#[test]
fn a_required_interface_may_be_called_by_its_other_name() {
    up(&["enp1s0"], &["eth0 plain up alt=enp1s0"]);
    down(&["enp1s0"], &["eth0 plain unplugged alt=enp1s0"], "eth0 has no carrier");
}

#[test]
fn required_interfaces_make_default_routes_irrelevant() {
    up(&["eth1"], &["eth0 plain unplugged route\neth1 plain up"]);
}

#[test]
fn one_of_the_interfaces_that_hold_a_default_route_is_enough() {
    up(&[], &["eth0 plain unplugged route\neth1 plain up route"]);
    down(&[], &["eth0 plain unplugged route\neth1 plain up"], "eth0 has no carrier");
}

#[test]
fn a_link_without_a_default_route_cannot_stand_in_for_one_that_has_it() {
    down(&[], &["eth0 plain unplugged route\nwlan0 plain up\ndocker0 bridge up"], "eth0");
}

#[test]
fn the_interface_that_last_held_the_default_route_decides_when_there_is_none() {
    up(&[], &["eth0 plain up route\neth1 plain unplugged", "eth0 plain up\neth1 plain unplugged"]);
    down(
        &[],
        &["eth0 plain up route\neth1 plain up", "eth0 plain off\neth1 plain up"],
        "eth0 is switched off",
    );
}

#[test]
fn a_default_route_that_moved_takes_the_watch_with_it() {
    let moved = "eth0 plain unplugged\neth1 plain up route";
    up(&[], &["eth0 plain up route\neth1 plain up", moved]);
    down(&[], &["eth0 plain up route\neth1 plain up", moved, "eth0 plain up\neth1 plain off"], "eth1");
}

#[test]
fn a_holder_that_was_removed_is_down_until_one_of_its_name_is_back() {
    down(&[], &["eth0 plain up route", "\nwlan0 plain up"], "eth0 is gone");
    // The driver was loaded again: same name, another index.
    up(&[], &["eth0 plain up route", "\nwlan0 plain up", "\nwlan0 plain up\neth0 plain up"]);
}

#[test]
fn a_holder_that_was_renamed_is_still_the_holder() {
    up(&[], &["eth0 plain up route", "uplink plain up"]);
    down(&[], &["eth0 plain up route", "uplink plain unplugged"], "uplink has no carrier");
}

#[test]
fn of_a_bridge_one_port_has_to_be_up() {
    up(&[], &["br0 bridge up route\neth0 plain up in=br0"]);
    down(&[], &["br0 bridge up route\neth0 plain unplugged in=br0"], "eth0 has no carrier");
    down(&[], &["br0 bridge up route"], "br0 has no port");
    down(&[], &["br0 bridge up off route\neth0 plain up in=br0"], "br0 is switched off");
}

#[test]
fn a_guest_that_runs_on_a_bridge_does_not_hide_that_the_cable_is_out() {
    down(&[], &["br0 bridge up route\neth0 plain unplugged in=br0\nvnet0 tap up in=br0"], "eth0");
    // Where guests are all there is on the bridge, one of them is the router.
    up(&[], &["br0 bridge up route\nvnet0 tap up in=br0"]);
}

#[test]
fn of_a_bond_one_port_has_to_be_up() {
    up(&[], &["bond0 bond up route\neth0 plain unplugged in=bond0\neth1 plain up in=bond0"]);
    down(&[], &["bond0 bond up route\neth0 plain unplugged in=bond0\neth1 plain off in=bond0"], "eth1");
}

#[test]
fn a_bridge_over_a_bond_is_followed_down_to_the_cards() {
    let text = "br0 bridge up route\nbond0 bond up in=br0\neth0 plain unplugged in=bond0";
    down(&[], &[text], "eth0 has no carrier");
    up(&[], &[&text.replace("unplugged", "up")]);
}

#[test]
fn where_there_never_was_a_default_route_any_real_interface_will_do() {
    up(&[], &["lo loopback up\neth0 plain unplugged\neth1 plain up"]);
    down(&[], &["lo loopback up\neth0 plain unplugged\ndocker0 bridge up\nvnet0 tap up"], "eth0");
    down(&[], &["eth1 plain unplugged\nbr0 bridge up\neth0 plain up in=br0"], "eth1");
}

#[test]
fn a_machine_without_an_interface_to_watch_is_not_watched() {
    unwatched(&["lo loopback up"]);
    unwatched(&[
        "lo loopback up\ndocker0 bridge unplugged\nvnet0 tap up\nbr0 bridge up\neth0 plain up in=br0",
    ]);
    unwatched(&["lo loopback up\nsit0 fallback off"]);
}

#[test]
fn a_default_route_over_the_loopback_is_none() {
    unwatched(&["lo loopback up route"]);
}

#[test]
fn an_interface_without_an_address_is_remarked_on_but_up() {
    let judged = judge(&table("eth0 plain up route"), &[], &holders(&table("eth0 plain up route")).unwrap());
    assert_eq!(judged.opinion, Opinion::Up);
    assert!(judged.remarks[0].contains("no address"), "{:?}", judged.remarks);
}

const CABLE_IN: &str = "eth0 plain up address route";
const CABLE_OUT: &str = "eth0 plain unplugged address route";

/// A keeper and a clock that is set by hand.
struct Bench {
    keeper: Keeper,
    start: Instant,
    now: Duration,
}

impl Bench {
    fn new() -> Bench {
        Bench { keeper: Keeper::new(Vec::new()), start: Instant::now(), now: Duration::ZERO }
    }

    fn moment(&self) -> Moment {
        Moment { steady: self.start + self.now, epoch: 1_000.0 + self.now.as_secs_f64() }
    }

    fn see(&mut self, text: &str) -> &NetworkState {
        let now = self.moment();
        self.keeper.observe(&table(text), now);
        self.keeper.state().unwrap()
    }

    /// Lets time pass, with the ticks that the monitor would have made.
    fn pass(&mut self, seconds: f64) -> &NetworkState {
        let end = self.now + Duration::from_secs_f64(seconds);
        while let Some(deadline) = self.keeper.deadline().filter(|at| *at <= self.start + end) {
            self.now = deadline - self.start;
            let now = self.moment();
            self.keeper.tick(now);
        }
        self.now = end;
        self.keeper.state().unwrap()
    }
}

#[test]
fn the_first_verdict_is_there_at_once() {
    assert_eq!(Bench::new().see(CABLE_IN).verdict, Verdict::Up);
    assert!(Bench::new().see(CABLE_OUT).is_down());
}

#[test]
fn down_counts_at_once_and_up_after_two_seconds() {
    let mut bench = Bench::new();
    bench.see(CABLE_IN);
    bench.pass(10.0);
    assert_eq!(bench.see(CABLE_OUT).down_since(), Some(1_010.0));
    bench.pass(5.0);
    assert!(bench.see(CABLE_IN).is_down());
    assert!(bench.pass(1.9).is_down());
    assert_eq!(bench.pass(0.2).verdict, Verdict::Up);
}

#[test]
fn a_flap_within_the_hold_starts_it_anew_and_keeps_the_beginning_of_the_outage() {
    let mut bench = Bench::new();
    bench.see(CABLE_IN);
    bench.see(CABLE_OUT);
    for _ in 0..5 {
        bench.see(CABLE_IN);
        assert!(bench.pass(1.5).is_down());
        bench.see(CABLE_OUT);
    }
    bench.see(CABLE_IN);
    assert_eq!(bench.pass(1.9).down_since(), Some(1_000.0));
    assert_eq!(bench.pass(0.2).verdict, Verdict::Up);
}

#[test]
fn events_that_change_nothing_do_not_prolong_the_hold() {
    let mut bench = Bench::new();
    bench.see(CABLE_OUT);
    bench.see(CABLE_IN);
    for _ in 0..19 {
        bench.pass(0.1);
        assert!(bench.see(CABLE_IN).is_down());
    }
    assert_eq!(bench.pass(0.15).verdict, Verdict::Up);
}

#[test]
fn an_interface_that_is_taken_away_does_not_end_an_outage_at_once() {
    let mut bench = Bench::new();
    bench.see("eth0 plain unplugged");
    assert!(bench.see("lo loopback up").is_down());
    assert_eq!(bench.pass(2.1).name(), "unwatched");
}

#[test]
fn a_kernel_that_cannot_be_asked_is_never_up() {
    let mut bench = Bench::new();
    bench.see(CABLE_IN);
    bench.keeper.blind("the socket broke".to_owned());
    let blind = bench.keeper.state().unwrap();
    assert_eq!(blind.name(), "unwatched");
    assert_eq!(blind.trouble.as_deref(), Some("the socket broke"));
    assert_eq!(bench.see(CABLE_IN).verdict, Verdict::Up);

    bench.see(CABLE_OUT);
    bench.keeper.blind("the socket broke".to_owned());
    assert!(bench.keeper.state().unwrap().is_down());
    assert_eq!(bench.keeper.deadline(), None);
}

#[test]
fn the_detail_reads_as_one_line() {
    let mut bench = Bench::new();
    assert_eq!(bench.see(CABLE_IN).detail(), "up (eth0)");
    assert_eq!(
        bench.see("eth0 plain up").detail(),
        "up (eth0); eth0 is up but has no address; there is no default route now; the last went over eth0"
    );
    assert_eq!(
        bench.see("eth0 plain off").detail(),
        "down: eth0 is switched off; there is no default route now; the last went over eth0"
    );
}

/// Tables of one machine at different times: two cards, a bridge with a guest, a default route somewhere.
fn any_table() -> impl Strategy<Value = Table> {
    let link = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    proptest::collection::vec(link, 4).prop_map(|states| {
        let mut made = table("eth0 plain\neth1 plain\nbr0 bridge\nvnet0 tap");
        for (index, (there, enabled, carrier, route)) in (1..).zip(states) {
            if !there {
                made.links.remove(&index);
                continue;
            }
            let link = made.links.get_mut(&index).unwrap();
            (link.enabled, link.carrier) = (enabled, carrier);
            link.controller = (index == 4).then_some(3);
            if route {
                made.default_routes.insert(index);
            }
        }
        made
    })
}

proptest! {
    /// Whatever happened before, and however often and whenever the kernel was asked: once things have
    /// stood still, the verdict is what a fresh look at the last table says.
    #[test]
    fn any_history_settles_at_what_a_fresh_dump_says(
        history in proptest::collection::vec((any_table(), 0.0..4.0_f64, any::<bool>()), 1..30),
    ) {
        let mut bench = Bench::new();
        let mut last_holders = Vec::new();
        for (table, seconds, blind) in &history {
            let now = bench.moment();
            if *blind {
                bench.keeper.blind("lost".to_owned());
            }
            bench.keeper.observe(table, now);
            if let Some(now) = holders(table) {
                last_holders = now;
            }
            bench.pass(*seconds);
        }
        let settled = bench.pass(UP_HOLD.as_secs_f64()).clone();
        let fresh = judge(&history.last().unwrap().0, &[], &last_holders);
        prop_assert_eq!(settled.name(), match fresh.opinion {
            Opinion::Up => "up",
            Opinion::Down { .. } => "down",
            Opinion::Unwatched { .. } => "unwatched",
        });
        prop_assert_eq!(bench.keeper.deadline(), None);
    }

    /// Dumps that are left out, as long as the last one of each default route is seen, change nothing in the end.
    #[test]
    fn dumps_that_were_missed_do_not_matter_in_the_end(
        tables in proptest::collection::vec(any_table(), 1..20),
        skipped in proptest::collection::vec(any::<bool>(), 20),
    ) {
        let (mut all, mut some) = (Bench::new(), Bench::new());
        let last = tables.len() - 1;
        let last_route = tables.iter().rposition(|table| holders(table).is_some());
        for (position, table) in tables.iter().enumerate() {
            let now = all.moment();
            all.keeper.observe(table, now);
            if position == last || Some(position) == last_route || !skipped[position] {
                some.keeper.observe(table, now);
            }
        }
        prop_assert_eq!(all.pass(5.0).name(), some.pass(5.0).name());
    }
}
