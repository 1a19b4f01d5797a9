//! Each card's addresses into what configures it: which files say what, before anything is written. Pure.
//!
//! Where several systems or several files speak of one card, all of them are made to say the same, because it is not known which of them
//! counts. What is not here: the language of any system.

use std::collections::BTreeMap;

use super::fresh::{Naming, fresh};
use super::request::{Version, Wanted};
use super::units::{Place, System, Unit, place, units};
use super::{Doc, RESOLV, SUSE_DIRECTORY, ifcfg, ifupdown, keyfile, netplan, networkd, resolv, suse};
use crate::guest::facts::WantedNic;
use crate::guest::linux::network::Format;
use crate::guest::linux::network::nic::{Plan, Seen};
use crate::guest::linux::text::{Rewritten, short};
use crate::model::error::Result;

const INTERFACES: &str = "/etc/network/interfaces";

/// What a guest has, besides its configuration.
#[derive(Debug, Clone)]
pub(super) struct Installed {
    /// Systems that could configure a card, the most likely first.
    pub(super) systems: Vec<System>,
    /// There is a udev that gives the names which it is told.
    pub(super) udev: bool,
    pub(super) resolver: Resolver,
}

/// Who makes `/etc/resolv.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolver {
    /// Nobody: it is a file of the administrator's.
    Plain,
    /// A program that asks what cards say.
    OfCards,
    /// Another.
    Other,
}

/// Where a card's addresses have to be found again.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) path: String,
    pub(super) wanted: Wanted,
}

/// What is to be.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) docs: BTreeMap<String, Doc>,
    pub(super) places: Vec<Placed>,
    pub(super) warnings: Vec<String>,
}

/// Decides.
pub(super) fn settle(
    docs: BTreeMap<String, Doc>,
    plan: &Plan,
    nics: &[WantedNic],
    installed: &Installed,
) -> Result<Settled> {
    let mut settled = Settled { docs, places: Vec::new(), warnings: Vec::new() };
    let mut taken: Vec<Unit> = Vec::new();
    // Name servers that hold for the whole guest.
    let mut of_all: Vec<(System, String)> = Vec::new();
    for (index, nic) in nics.iter().enumerate() {
        let Some(wanted) = Wanted::new(index, nic)? else { continue };
        let card = plan.cards.iter().find(|card| card.wanted == Some(index)).map(|card| card.seen.clone());
        let card = card.unwrap_or_else(|| Seen { name: None, mac: wanted.mac.clone() });
        let alone = nics.len() == 1 && plan.cards.len() <= 1;
        let found = match place(&units(settled.docs.iter()), &card, &wanted, alone)? {
            Place::Units(found) => found,
            Place::New(shared) => settled.begin(&card, &wanted, shared, alone, installed)?,
        };
        if let Some(unit) = found.iter().find(|unit| taken.contains(unit)) {
            let cause = format!("{} is meant by another of the manifest's cards, too", short(&unit.id));
            return Err(wanted.refused(cause, "give the addresses to one of these cards"));
        }
        for unit in &found {
            let servers = wanted.dns.iter().map(|ip| (unit.system, ip.to_string()));
            of_all.extend(servers.filter(|server| !of_all.contains(server)).collect::<Vec<_>>());
            settled.rewrite(unit, &wanted, is_main(unit, &found))?;
        }
        taken.extend(found);
    }
    settled.set_servers(&of_all, installed.resolver);
    Ok(settled)
}

/// Of several files that one system lays over each other, whether it is the one that is to have the addresses; of others, each is.
fn is_main(unit: &Unit, found: &[Unit]) -> bool {
    let mut of_system = found.iter().filter(|other| other.system == unit.system);
    let main = match unit.system {
        System::Ifupdown => found.iter().find(|unit| unit.path == INTERFACES).or_else(|| of_system.next()),
        // The last one counts.
        System::Netplan => of_system.next_back(),
        _ => Some(unit),
    };
    main == Some(unit)
}

impl Settled {
    /// Begins configuration for a card that has none, and gives back what it is now.
    fn begin(
        &mut self,
        card: &Seen,
        wanted: &Wanted,
        shared: Option<System>,
        alone: bool,
        installed: &Installed,
    ) -> Result<Vec<Unit>> {
        let used = units(self.docs.iter());
        let in_use = |system: &System| used.iter().any(|unit| unit.system == *system);
        let order = [
            System::Netplan,
            System::Suse,
            System::RedHat,
            System::Ifupdown,
            System::Networkd,
            System::Keyfile,
        ];
        let system = shared
            .or_else(|| order.into_iter().find(in_use))
            .or_else(|| installed.systems.first().copied())
            .ok_or_else(|| {
                wanted.refused(
                    "nothing is known that configures its network",
                    "remove the addresses, and set them in the guest yourself once it runs",
                )
            })?;
        let naming = Naming { alone, udev: installed.udev, shared: shared.is_some() };
        let begun = fresh(system, card, wanted, naming)?;
        let format = match system {
            System::Netplan => Format::Netplan,
            System::Suse | System::RedHat => Format::Ifcfg,
            System::Ifupdown => Format::Ifupdown,
            System::Networkd => Format::Networkd,
            System::Keyfile => Format::Keyfile,
        };
        let doc = self.docs.entry(begun.path.clone()).or_insert_with(|| Doc::read(Some(format), None));
        let text = match (&doc.now, system) {
            (Some(text), System::Ifupdown) => {
                let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
                format!("{text}{end}{}", begun.text)
            }
            _ => format!("{}{}", begun.head, begun.text),
        };
        doc.set(Some(text), ["a network card that had no configuration".to_owned()]);
        let known: Vec<Unit> =
            units(self.docs.iter()).into_iter().filter(|unit| !used.contains(unit)).collect();
        Ok(known)
    }

    fn rewrite(&mut self, unit: &Unit, wanted: &Wanted, main: bool) -> Result<()> {
        let Some(doc) = self.docs.get_mut(&unit.path) else { return Ok(()) };
        let Some(text) = doc.now.clone() else { return Ok(()) };
        let mut told = Rewritten::default();
        let new = match unit.system {
            System::Netplan => netplan::rewrite(&text, unit.kind, &unit.id, wanted, main, &mut told)
                .map_err(|why| {
                    let cause = format!("{why}: {}", short(&unit.path));
                    wanted.refused(
                        cause,
                        "write it in block style in the source machine, or remove the addresses",
                    )
                })?,
            System::Ifupdown => ifupdown::rewrite(&text, &unit.id, wanted, main, &mut told),
            System::Networkd => networkd::rewrite(&text, wanted, &mut told),
            System::Keyfile => keyfile::rewrite(&text, wanted, &mut told),
            System::RedHat => ifcfg::rewrite(&text, wanted, &mut told),
            System::Suse => suse::rewrite(&text, wanted),
        };
        let why =
            if main { wanted.told(&unit.id) } else { format!("{} is configured elsewhere", short(&unit.id)) };
        self.warnings.extend(told.lost.iter().map(|lost| format!("{}: {lost}", short(&unit.path))));
        doc.set(Some(new), std::iter::once(why).chain(told.changes));
        match unit.system {
            System::RedHat if wanted.sets(Version::V4) => self.remove_aliases(unit),
            System::Suse => self.set_routes(unit, wanted),
            _ => {}
        }
        if main {
            self.places.push(Placed { path: unit.path.clone(), wanted: wanted.clone() });
        }
        Ok(())
    }

    /// Files of further addresses in the old form: `ifcfg-ens192:1`.
    fn remove_aliases(&mut self, unit: &Unit) {
        let start = format!("{}:", unit.path);
        for (_, doc) in self.docs.iter_mut().filter(|(path, _)| path.starts_with(&start)) {
            doc.set(None, [format!("{} has other addresses", short(&unit.id))]);
        }
    }

    fn set_routes(&mut self, unit: &Unit, wanted: &Wanted) {
        let (own, all) = (unit.path.replacen("/ifcfg-", "/ifroute-", 1), format!("{SUSE_DIRECTORY}/routes"));
        let text = |path: &str| self.docs.get(path).and_then(|doc| doc.now.clone()).unwrap_or_default();
        let routes = suse::Routes { own: text(&own), all: text(&all) };
        let mut told = Rewritten::default();
        let new = suse::rewrite_routes(&routes, &unit.id, wanted, &mut told);
        for (path, old, new) in [(own, routes.own, new.own), (all, routes.all, new.all)] {
            if old != new {
                let why = std::iter::once(wanted.told(&unit.id)).chain(told.changes.iter().cloned());
                self.docs.entry(path).or_default().set(Some(new), why);
            }
        }
    }

    /// Name servers of systems that have them for all cards together.
    fn set_servers(&mut self, servers: &[(System, String)], resolver: Resolver) {
        let of = |system: System| -> Vec<String> {
            servers.iter().filter(|(of, _)| *of == system).map(|(_, server)| server.clone()).collect()
        };
        let why = |servers: &[String]| [format!("name servers are {}", servers.join(", "))];
        let (suse, ifupdown) = (of(System::Suse), of(System::Ifupdown));
        if !suse.is_empty() {
            let doc = self.docs.entry(format!("{SUSE_DIRECTORY}/config")).or_default();
            let new = resolv::rewrite_suse(doc.now.as_deref().unwrap_or_default(), &suse);
            doc.set(Some(new), why(&suse));
        }
        match resolver {
            Resolver::Plain if !ifupdown.is_empty() => {
                let doc = self.docs.entry(RESOLV.to_owned()).or_default();
                let new = resolv::rewrite(doc.now.as_deref().unwrap_or_default(), &ifupdown);
                doc.set(Some(new), why(&ifupdown));
            }
            Resolver::Other if !ifupdown.is_empty() => self.warnings.push(format!(
                "{RESOLV} is a link to what another program makes: see to it that this guest asks the name servers {}",
                ifupdown.join(", ")
            )),
            Resolver::Plain | Resolver::OfCards | Resolver::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::linux::network::{Piece, cards};

    const INSTALLED: Installed = Installed { systems: Vec::new(), udev: true, resolver: Resolver::OfCards };
    const MAC: &str = "52:54:00:00:00:02";

    fn docs(files: &[(Format, &str, &str)]) -> BTreeMap<String, Doc> {
        let doc = |(format, path, text): &(Format, &str, &str)| {
            ((*path).to_owned(), Doc::read(Some(*format), Some((*text).to_owned())))
        };
        files.iter().map(doc).collect()
    }

    fn nic(mac: Option<&str>, addresses: &[&str]) -> WantedNic {
        WantedNic {
            mac: mac.map(str::to_owned),
            was: None,
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            gateway: addresses.first().map(|_| "192.0.2.1".to_owned()),
            dns: addresses.first().map(|_| "192.0.2.53".to_owned()).into_iter().collect(),
        }
    }

    fn settle_all(docs: BTreeMap<String, Doc>, nics: &[WantedNic], installed: &Installed) -> Result<Settled> {
        let configured = docs.iter().filter_map(|(path, doc)| {
            Some(Piece { format: doc.format?, path: path.clone(), text: doc.now.clone()? })
        });
        let plan = Plan::new(cards(&configured.collect::<Vec<_>>()), nics);
        settle(docs, &plan, nics, installed)
    }

    /// The files that change, after it was seen that a second time changes nothing.
    fn changed(files: &[(Format, &str, &str)], nics: &[WantedNic], installed: &Installed) -> String {
        let settled = settle_all(docs(files), nics, installed).unwrap();
        let read_again =
            settled.docs.iter().map(|(path, doc)| (path.clone(), Doc::read(doc.format, doc.now.clone())));
        let again = settle_all(read_again.collect(), nics, installed).unwrap();
        for (path, doc) in &again.docs {
            assert_eq!(doc.before, doc.now, "{path} changes a second time");
        }
        let differs = settled.docs.iter().filter(|(_, doc)| doc.now != doc.before);
        let text =
            differs.map(|(path, doc)| format!("== {path}\n{}", doc.now.as_deref().unwrap_or("(removed)\n")));
        text.chain(settled.warnings.iter().map(|warning| format!("!! {warning}\n"))).collect()
    }

    #[test]
    fn a_second_card_that_is_not_configured_yet_comes_into_the_system_that_configures_the_first() {
        let guests: [(Format, &str, &str); 6] = [
            (Format::Ifupdown, "/etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n"),
            (Format::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nBOOTPROTO=dhcp\n"),
            (Format::Ifcfg, "/etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO='dhcp'\n"),
            (
                Format::Keyfile,
                "/etc/NetworkManager/system-connections/a",
                "[connection]\ntype=ethernet\ninterface-name=eth0\n",
            ),
            (Format::Netplan, "/etc/netplan/a.yaml", "network: {ethernets: {eth0: {dhcp4: true}}}\n"),
            (Format::Networkd, "/etc/systemd/network/a.network", "[Match]\nName=eth0\n[Network]\nDHCP=yes\n"),
        ];
        let nics = [nic(Some("52:54:00:00:00:01"), &[]), nic(Some(MAC), &["192.0.2.10/24"])];
        let all = guests.map(|guest| changed(&[guest], &nics, &INSTALLED));
        insta::assert_snapshot!(all.concat(), @r#"
        == /etc/network/interfaces
        auto eth0
        iface eth0 inet dhcp

        auto enx525400000002
        iface enx525400000002 inet static
        	address 192.0.2.10/24
        	gateway 192.0.2.1
        	dns-nameservers 192.0.2.53
        == /etc/sysconfig/network-scripts/ifcfg-enx525400000002
        DEVICE=enx525400000002
        HWADDR=52:54:00:00:00:02
        TYPE=Ethernet
        BOOTPROTO=none
        ONBOOT=yes
        IPADDR=192.0.2.10
        PREFIX=24
        GATEWAY=192.0.2.1
        DNS1=192.0.2.53
        == /etc/sysconfig/network/config
        NETCONFIG_DNS_STATIC_SERVERS="192.0.2.53"
        == /etc/sysconfig/network/ifcfg-enx525400000002
        BOOTPROTO='static'
        STARTMODE='auto'
        IPADDR='192.0.2.10/24'
        == /etc/sysconfig/network/ifroute-enx525400000002
        default 192.0.2.1 - enx525400000002
        == /etc/NetworkManager/system-connections/hyper2kvm-2.nmconnection
        [connection]
        id=hyper2kvm-2
        type=ethernet

        [ethernet]
        mac-address=52:54:00:00:00:02

        [ipv4]
        method=manual
        address1=192.0.2.10/24,192.0.2.1
        dns=192.0.2.53;

        [ipv6]
        method=auto
        == /etc/netplan/90-hyper2kvm-2.yaml
        network:
          version: 2
          ethernets:
            hyper2kvm-2:
              match: {macaddress: "52:54:00:00:00:02"}
              addresses:
              - 192.0.2.10/24
              routes:
              - {to: 0.0.0.0/0, via: 192.0.2.1}
              nameservers:
                addresses:
                - 192.0.2.53
        == /etc/systemd/network/00-hyper2kvm-2.network
        [Match]
        MACAddress=52:54:00:00:00:02

        [Network]
        Address=192.0.2.10/24
        Gateway=192.0.2.1
        DNS=192.0.2.53
        "#);
    }

    #[test]
    fn every_system_that_speaks_of_a_card_says_the_same() {
        let files = [
            (Format::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-ens192", "DEVICE=ens192\nBOOTPROTO=dhcp\n"),
            (
                Format::Ifcfg,
                "/etc/sysconfig/network-scripts/ifcfg-ens192:1",
                "DEVICE=ens192:1\nIPADDR=198.51.100.7\n",
            ),
            (
                Format::Keyfile,
                "/etc/NetworkManager/system-connections/ens192.nmconnection",
                "[connection]\ntype=ethernet\ninterface-name=ens192\n\n[ipv4]\nmethod=auto\n",
            ),
        ];
        insta::assert_snapshot!(changed(&files, &[nic(None, &["192.0.2.10/24"])], &INSTALLED), @r"
        == /etc/NetworkManager/system-connections/ens192.nmconnection
        [connection]
        type=ethernet
        interface-name=ens192

        [ipv4]
        method=manual
        address1=192.0.2.10/24,192.0.2.1
        dns=192.0.2.53;
        == /etc/sysconfig/network-scripts/ifcfg-ens192
        DEVICE=ens192
        BOOTPROTO=none
        IPADDR=192.0.2.10
        PREFIX=24
        GATEWAY=192.0.2.1
        DNS1=192.0.2.53
        == /etc/sysconfig/network-scripts/ifcfg-ens192:1
        (removed)
        ");
    }

    #[test]
    fn of_files_that_are_laid_over_each_other_one_has_the_addresses() {
        let files = [
            (
                Format::Netplan,
                "/etc/netplan/00-a.yaml",
                "network:\n  ethernets:\n    ens192:\n      addresses: [198.51.100.7/24]\n",
            ),
            (
                Format::Netplan,
                "/etc/netplan/50-b.yaml",
                "network:\n  ethernets:\n    ens192:\n      mtu: 9000\n",
            ),
            (Format::Ifupdown, "/etc/network/interfaces", "iface ens192 inet dhcp\n"),
            (
                Format::Ifupdown,
                "/etc/network/interfaces.d/a",
                "iface ens192 inet static\n  address 198.51.100.7/24\n",
            ),
        ];
        insta::assert_snapshot!(changed(&files, &[nic(None, &["192.0.2.10/24"])], &INSTALLED), @r"
        == /etc/netplan/00-a.yaml
        network:
          ethernets:
            ens192:
        == /etc/netplan/50-b.yaml
        network:
          ethernets:
            ens192:
              mtu: 9000
              addresses:
              - 192.0.2.10/24
              routes:
              - {to: 0.0.0.0/0, via: 192.0.2.1}
              nameservers:
                addresses:
                - 192.0.2.53
        == /etc/network/interfaces
        iface ens192 inet static
        	address 192.0.2.10/24
        	gateway 192.0.2.1
        	dns-nameservers 192.0.2.53
        == /etc/network/interfaces.d/a
        ");
    }

    #[test]
    fn name_servers_without_a_program_that_collects_them_stand_in_resolv_conf() {
        let files = [(Format::Ifupdown, "/etc/network/interfaces", "iface ens192 inet dhcp\n")];
        let nics = [nic(None, &["192.0.2.10/24"])];
        let plain = changed(&files, &nics, &Installed { resolver: Resolver::Plain, ..INSTALLED });
        assert!(plain.contains("== /etc/resolv.conf\nnameserver 192.0.2.53\n"), "{plain}");
        let linked = changed(&files, &nics, &Installed { resolver: Resolver::Other, ..INSTALLED });
        assert!(linked.contains("!! /etc/resolv.conf is a link"), "{linked}");
    }

    #[test]
    fn a_guest_whose_network_nothing_known_configures_is_refused() {
        let nics = [nic(Some(MAC), &["192.0.2.10/24"])];
        let error = settle_all(BTreeMap::new(), &nics, &INSTALLED).unwrap_err();
        assert_eq!(error.kind(), crate::model::error::Kind::Unsupported);
        assert_eq!(error.details().place.field.as_deref(), Some("nics[0].addresses"));
        let networkd = Installed { systems: vec![System::Networkd], ..INSTALLED };
        let new = changed(&[], &nics, &networkd);
        assert!(
            new.starts_with("== /etc/systemd/network/00-hyper2kvm-1.network\n[Match]\nMACAddress=52:54"),
            "{new}"
        );
    }

    #[test]
    fn two_cards_that_mean_one_bond_are_refused() {
        let bond = "iface bond0 inet manual\n bond-slaves ens192 ens224\n";
        let nics = [nic(None, &["192.0.2.10/24"]), nic(None, &["192.0.2.11/24"])];
        let files = docs(&[(Format::Ifupdown, "/etc/network/interfaces", bond)]);
        let error = settle_all(files, &nics, &INSTALLED).unwrap_err();
        assert!(error.to_string().contains("bond0 is meant by another"), "{error}");
    }
}
