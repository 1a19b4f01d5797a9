//! Network cards as a guest's configuration knows them, and which card of the machine to come is which.
//!
//! A name like `ens192` is made from the place of the card in the old machine, so under KVM the same card gets another one, and all that
//! speaks of the old name (addresses, bonds, firewalls) is lost. Here it is decided how each card is told apart. Pure. What is not here:
//! where the knowledge comes from, and what is written.

use std::collections::BTreeSet;

use crate::guest::facts::WantedNic;

/// Drivers of the hardware that stayed behind: what names one of these means the card that virtio's driver runs now.
pub(super) const FOREIGN_DRIVERS: [&str; 9] =
    ["vmxnet3", "vmxnet", "pcnet32", "vlance", "e1000", "e1000e", "hv_netvsc", "xen_netfront", "xennet"];
/// virtio's driver.
pub(super) const DRIVER: &str = "virtio_net";
/// The longest name that the kernel takes.
const LONGEST_NAME: usize = 15;
/// More cards than any machine has; a hostile guest could configure a million.
const MOST_NICS: usize = 64;

/// What configuration says of one card. At least one of both is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: Option<String>,
    /// Lower case with colons.
    pub(super) mac: Option<String>,
}

#[cfg(test)]
impl Seen {
    pub(super) fn named(name: &str) -> Seen {
        Seen { name: Some(name.to_owned()), mac: None }
    }
}

/// What becomes of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Becomes {
    /// It has this MAC.
    Mac(String),
    /// It is the only one, whatever its MAC.
    Only,
    /// Nothing is known.
    Unknown,
}

/// One card, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) seen: Seen,
    pub(super) becomes: Becomes,
    /// Which of the wanted ones it is.
    pub(super) wanted: Option<usize>,
}

/// All cards, decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) cards: Vec<Card>,
    /// What could not be decided, for people.
    pub(super) warnings: Vec<String>,
}

impl Plan {
    /// Decides. `seen` in any order; `wanted` in the machine's.
    pub(super) fn new(seen: Vec<Seen>, wanted: &[WantedNic]) -> Plan {
        let mut seen = merged(seen);
        seen.sort_by_key(|nic| nic.name.as_deref().map(order));
        let macs: Vec<Option<&str>> = wanted.iter().map(|nic| nic.mac.as_deref()).collect();
        let of_mac = |nic: &Seen| {
            let mac = nic.mac.as_deref()?;
            let had = || wanted.iter().position(|wanted| wanted.was.as_deref() == Some(mac));
            macs.iter().position(|wanted| *wanted == Some(mac)).or_else(had)
        };
        let taken: BTreeSet<usize> = seen.iter().filter_map(of_mac).collect();
        let mut free = (0..wanted.len()).filter(|index| !taken.contains(index));
        let only = seen.len() == 1 && wanted.len() <= 1;
        let any_mac = macs.iter().any(Option::is_some);
        let mut plan = Plan::default();
        for nic in seen {
            let index = of_mac(&nic).or_else(|| free.next());
            let becomes = match (index.and_then(|index| macs[index]), &nic.mac) {
                (Some(mac), _) => Becomes::Mac(mac.to_owned()),
                _ if only => Becomes::Only,
                // Nobody says what the machine's MACs will be: then those that the guest knows itself by are the best guess.
                (None, Some(mac)) if !any_mac => Becomes::Mac(mac.clone()),
                _ => Becomes::Unknown,
            };
            plan.cards.push(Card { seen: nic, becomes, wanted: index });
        }
        plan.warn(any_mac);
        plan
    }

    fn warn(&mut self, any_mac: bool) {
        let names = |of: &dyn Fn(&Card) -> bool| {
            let names: Vec<&str> = self
                .cards
                .iter()
                .filter(|card| of(card))
                .filter_map(|card| card.seen.name.as_deref().or(card.seen.mac.as_deref()))
                .collect();
            names.join(", ")
        };
        let advice = "give `nics: [{mac: …}]` in the manifest, in the order of the machine's network cards";
        let unknown = names(&|card| card.becomes == Becomes::Unknown);
        let guessed =
            names(&|card| !any_mac && card.wanted.is_none() && matches!(card.becomes, Becomes::Mac(_)));
        if !unknown.is_empty() {
            self.warnings.push(format!(
                "nothing tells which network card will be {unknown}: the name may change; {advice}"
            ));
        }
        if !guessed.is_empty() {
            self.warnings.push(format!(
                "{guessed}: told apart by the MACs that the guest knows; if the machine gets others, {advice}"
            ));
        }
    }

    /// What becomes of the card that configuration calls by this MAC.
    pub(super) fn of_mac(&self, mac: &str) -> Option<&Card> {
        let new = |card: &&Card| matches!(&card.becomes, Becomes::Mac(new) if new == mac);
        self.cards
            .iter()
            .find(|card| card.seen.mac.as_deref() == Some(mac))
            .or_else(|| self.cards.iter().find(new))
    }

    /// The card of a name.
    pub(super) fn of_name(&self, name: &str) -> Option<&Card> {
        self.cards.iter().find(|card| card.seen.name.as_deref() == Some(name))
    }
}

/// The same card may be spoken of in many places: by name in one, by MAC in another, by both in a third.
fn merged(all: Vec<Seen>) -> Vec<Seen> {
    let mut cards: Vec<Seen> = Vec::new();
    // Those that know both come first, so that what knows one finds them.
    let (both, one): (Vec<Seen>, Vec<Seen>) =
        all.into_iter().partition(|seen| seen.name.is_some() && seen.mac.is_some());
    for seen in both.into_iter().chain(one) {
        let same = |card: &&mut Seen| {
            (seen.name.is_some() && card.name == seen.name) || (seen.mac.is_some() && card.mac == seen.mac)
        };
        if let Some(card) = cards.iter_mut().find(same) {
            card.name = card.name.take().or(seen.name);
            card.mac = card.mac.take().or(seen.mac);
        } else if cards.len() < MOST_NICS {
            cards.push(seen);
        }
    }
    cards
}

/// The order in which the old machine counted its cards.
///
/// VMware puts them into slots 160 (or 192), 224, 256, then 1184, 1216, …, which appear as ens160, ens224, ens256, ens161, ens193. Others
/// count upwards.
fn order(name: &str) -> (String, u64, u64) {
    let digits = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let (word, rest) = name.split_at(digits);
    let number: String = rest.chars().take_while(char::is_ascii_digit).take(9).collect();
    let after: String = rest[number.len()..].chars().filter(char::is_ascii_digit).take(9).collect();
    let (number, after) = (number.parse().unwrap_or(0), after.parse().unwrap_or(0));
    if word == "ens" && number >= 160 {
        return (word.to_owned(), number % 32, number / 32);
    }
    (word.to_owned(), number, after)
}

/// Whether a name is one that a card gets from the kernel or from its place in the machine; without a VLAN or an alias behind it.
pub(super) fn is_of_hardware(name: &str) -> bool {
    let numbered = |rest: &str| {
        rest.starts_with(|c: char| c.is_ascii_digit()) && rest.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let by_place = name.strip_prefix("en").is_some_and(|rest| {
        let scheme = rest.chars().next();
        match scheme {
            Some('o' | 's' | 'p' | 'P' | 'v' | 'c' | 'b' | 'u' | 'X' | 'a') => numbered(&rest[1..]),
            Some('x') => mac_in_name(name).is_some(),
            _ => false,
        }
    });
    let counted = ["eth", "em"].iter().any(|word| name.strip_prefix(word).is_some_and(numbered));
    // biosdevname: p2p1
    let in_slot = name.strip_prefix('p').is_some_and(|rest| {
        rest.split_once('p').is_some_and(|(slot, port)| numbered(slot) && numbered(port))
    });
    name.len() <= LONGEST_NAME && (by_place || counted || in_slot)
}

/// Whether the kernel would take it as a name and nothing else would take it for more than one: no pattern, no path, no quote.
pub(super) fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(fits)
}

/// The card below a VLAN or an alias: `ens192` of `ens192.100` and `ens192:1`.
pub(super) fn below(name: &str) -> &str {
    name.split(['.', ':', '@']).next().unwrap_or(name)
}

/// Cards that these words name.
pub(super) fn named_in<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Seen> {
    words
        .into_iter()
        .map(below)
        .filter(|name| is_of_hardware(name))
        .map(|name| Seen { name: Some(name.to_owned()), mac: mac_in_name(name) })
        .collect()
}

/// `enx005056010203` holds its MAC.
fn mac_in_name(name: &str) -> Option<String> {
    let digits = name.strip_prefix("enx")?;
    let pairs: Vec<&str> =
        digits.as_bytes().chunks(2).filter_map(|two| std::str::from_utf8(two).ok()).collect();
    mac(&pairs.join(":"))
}

/// A MAC in any way of writing, in ours; `None` for what is none.
pub(super) fn mac(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(['"', '\'']).to_ascii_lowercase().replace('-', ":");
    let pairs: Vec<&str> = text.split(':').collect();
    let is_pair = |pair: &&str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    (pairs.len() == 6 && pairs.iter().all(is_pair)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "00:50:56:01:02:03";
    const NEW: &str = "52:54:00:00:00:01";
    const OTHER: &str = "52:54:00:00:00:02";

    fn seen(name: &str, mac: &str) -> Seen {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Seen { name: some(name), mac: some(mac) }
    }

    fn wanted(macs: &[&str]) -> Vec<WantedNic> {
        let of = |mac: &&str| WantedNic { mac: Some((*mac).to_owned()), ..WantedNic::default() };
        macs.iter().map(of).collect()
    }

    fn becomes(seen: Vec<Seen>, wanted: &[WantedNic]) -> Vec<(String, Becomes)> {
        let plan = Plan::new(seen, wanted);
        plan.cards.into_iter().map(|card| (card.seen.name.unwrap_or_default(), card.becomes)).collect()
    }

    #[test]
    fn a_card_that_gets_a_new_mac_is_known_by_its_old_one_whatever_the_order() {
        let cards = vec![seen("ens192", "00:50:56:00:00:01"), seen("ens224", "00:50:56:00:00:02")];
        let nic = |was: &str, mac: &str| WantedNic {
            mac: Some(mac.to_owned()),
            was: Some(was.to_owned()),
            ..WantedNic::default()
        };
        let wanted = [nic("00:50:56:00:00:02", OTHER), nic("00:50:56:00:00:01", "52:54:00:00:00:01")];
        let told = [("ens192", "52:54:00:00:00:01"), ("ens224", OTHER)];
        let told = told.map(|(name, mac)| (name.to_owned(), Becomes::Mac(mac.to_owned())));
        assert_eq!(becomes(cards, &wanted), told);
    }

    #[test]
    fn cards_are_told_apart_by_the_macs_of_the_machine_in_the_order_of_its_slots() {
        let cards = vec![seen("ens161", ""), seen("ens256", ""), seen("ens192", ""), seen("ens224", "")];
        let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"];
        let told: Vec<(String, Becomes)> = ["ens192", "ens224", "ens256", "ens161"]
            .iter()
            .zip(macs)
            .map(|(name, mac)| ((*name).to_owned(), Becomes::Mac(mac.to_owned())))
            .collect();
        assert_eq!(becomes(cards, &wanted(&macs)), told);
    }

    #[test]
    fn a_card_whose_mac_the_machine_has_is_that_one_whatever_the_order() {
        let cards = vec![seen("ens192", OTHER), seen("ens224", "")];
        let told = becomes(cards, &wanted(&[NEW, OTHER]));
        assert_eq!(
            told,
            [
                ("ens192".to_owned(), Becomes::Mac(OTHER.to_owned())),
                ("ens224".to_owned(), Becomes::Mac(NEW.to_owned()))
            ]
        );
    }

    #[test]
    fn the_only_card_needs_no_mac() {
        for wanted in [vec![], vec![WantedNic::default()]] {
            let plan = Plan::new(vec![seen("ens192", OLD)], &wanted);
            assert_eq!(plan.cards[0].becomes, Becomes::Only);
            assert!(plan.warnings.is_empty());
        }
    }

    #[test]
    fn several_cards_of_which_nothing_is_known_are_a_warning_that_names_the_key() {
        let plan = Plan::new(vec![seen("ens192", ""), seen("ens224", "")], &[]);
        assert!(plan.cards.iter().all(|card| card.becomes == Becomes::Unknown));
        assert!(plan.warnings[0].contains("ens192, ens224") && plan.warnings[0].contains("`nics: [{mac"));
    }

    #[test]
    fn several_cards_are_told_apart_by_the_guests_own_macs_where_nobody_says_others() {
        let plan = Plan::new(vec![seen("ens192", OLD), seen("ens224", OTHER)], &[]);
        assert_eq!(plan.cards[1].becomes, Becomes::Mac(OTHER.to_owned()));
        assert_eq!(plan.warnings.len(), 1);
    }

    #[test]
    fn what_is_said_in_several_places_is_one_card() {
        let cards = vec![seen("ens192", ""), seen("", OLD), seen("ens192", OLD), seen("ens192", "")];
        assert_eq!(merged(cards), [seen("ens192", OLD)]);
    }

    #[test]
    fn names_of_hardware_are_known() {
        for name in [
            "ens192",
            "ens33",
            "eno1",
            "enp3s0f1",
            "enP2p1s0",
            "enp11s0np0",
            "eth0",
            "em1",
            "p2p1",
            "enx005056010203",
        ] {
            assert!(is_of_hardware(name), "{name}");
        }
        for name in [
            "lo",
            "bond0",
            "br0",
            "eth",
            "en",
            "e*",
            "en*",
            "enterprise0",
            "wlan0",
            "docker0",
            "team0",
            "ens192.5",
            "enxyz",
            "pp1",
            "ens192/../x",
        ] {
            assert!(!is_of_hardware(name), "{name}");
        }
        assert_eq!(below("ens192.100"), "ens192");
    }

    #[test]
    fn a_mac_is_known_in_every_way_of_writing() {
        for text in [OLD, "00-50-56-01-02-03", "\"00:50:56:01:02:03\"", " '00:50:56:01:02:03' "] {
            assert_eq!(mac(text).as_deref(), Some(OLD));
        }
        assert_eq!(mac("00:50:56:AA:bb:0C").as_deref(), Some("00:50:56:aa:bb:0c"));
        for text in ["", "00:50:56:01:02", "00:50:56:01:02:0g", "permanent", "00:50:56:01:02:03:04"] {
            assert_eq!(mac(text), None);
        }
        assert_eq!(mac_in_name("enx005056010203").as_deref(), Some(OLD));
    }
}
