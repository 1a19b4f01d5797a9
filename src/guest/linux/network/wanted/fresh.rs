//! Configuration for a card that the guest has none for, in the system that the guest uses. Pure.
//!
//! It says which card is meant, and nothing of addresses: those come as into a file that was there. Where a system knows cards by name
//! alone, the name is made of the MAC, and kept by the same files as the names of other cards. What is not here: those files.

use super::request::Wanted;
use super::units::System;
use super::yaml::word;
use crate::guest::linux::network::nic::Seen;
use crate::model::error::Result;

const INTERFACES: &str = "/etc/network/interfaces";
const LOOPBACK: &str = "auto lo\niface lo inet loopback\n";
/// Before whatever holds for every card: networkd takes the first file that fits.
const FIRST: &str = "00-hyper2kvm";

/// A file in which a card's configuration is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) path: String,
    /// Begins the file, if it is not there.
    pub(super) head: &'static str,
    /// Comes to its end.
    pub(super) text: String,
}

/// How the guest names cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Naming {
    /// The machine has no other card.
    pub(super) alone: bool,
    /// There is a udev that gives the names which it is told.
    pub(super) udev: bool,
    /// Others hold for every card, and this one has to come before them.
    pub(super) shared: bool,
}

/// Begins it.
pub(super) fn fresh(system: System, card: &Seen, wanted: &Wanted, naming: Naming) -> Result<Fresh> {
    let number = wanted.index + 1;
    let mac = wanted.mac.as_deref().or(card.mac.as_deref());
    let name = card.name.as_deref();
    if name.is_none() && mac.is_none() && !naming.alone {
        return Err(unknown(wanted, "nothing tells which card is meant"));
    }
    let own = |file: String, text: String| Ok(Fresh { path: file, head: "", text });
    match system {
        System::Networkd => {
            let which = match (name, mac) {
                (Some(name), _) => format!("Name={name}"),
                (None, Some(mac)) => format!("MACAddress={mac}"),
                (None, None) => "Name=en* eth*".to_owned(),
            };
            own(format!("/etc/systemd/network/{FIRST}-{number}.network"), format!("[Match]\n{which}\n"))
        }
        System::Keyfile => {
            let id = format!("hyper2kvm-{number}");
            let priority = if naming.shared { "autoconnect-priority=100\n" } else { "" };
            let (named, known) = match (name, mac) {
                (Some(name), _) => (format!("interface-name={name}\n"), String::new()),
                (None, Some(mac)) => {
                    (String::new(), format!("\n[ethernet]\nmac-address={}\n", mac.to_ascii_uppercase()))
                }
                (None, None) => Default::default(),
            };
            own(
                format!("/etc/NetworkManager/system-connections/{id}.nmconnection"),
                format!(
                    "[connection]\nid={id}\ntype=ethernet\n{priority}{named}{known}\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
                ),
            )
        }
        System::Netplan if naming.shared => Err(wanted.refused(
            "one entry of netplan holds for all of its cards",
            "give each card an entry of its own in the source machine, or remove the addresses",
        )),
        System::Netplan => {
            let (id, which) = match (name, mac) {
                (Some(name), _) => (word(name), " {}\n".to_owned()),
                (None, Some(mac)) => {
                    (format!("hyper2kvm-{number}"), format!("\n      match: {{macaddress: \"{mac}\"}}\n"))
                }
                (None, None) => (format!("hyper2kvm-{number}"), "\n      match: {name: \"e*\"}\n".to_owned()),
            };
            own(
                format!("/etc/netplan/90-hyper2kvm-{number}.yaml"),
                format!("network:\n  version: 2\n  ethernets:\n    {id}:{which}"),
            )
        }
        System::Ifupdown => {
            let name = name_for(name, mac, wanted, naming)?;
            Ok(Fresh {
                path: INTERFACES.to_owned(),
                head: LOOPBACK,
                text: format!("\nauto {name}\niface {name} inet manual\n"),
            })
        }
        System::RedHat => {
            let name = name_for(name, mac, wanted, naming)?;
            let hardware = mac.map(|mac| format!("HWADDR={mac}\n")).unwrap_or_default();
            own(
                format!("/etc/sysconfig/network-scripts/ifcfg-{name}"),
                format!("DEVICE={name}\n{hardware}TYPE=Ethernet\nBOOTPROTO=none\nONBOOT=yes\n"),
            )
        }
        System::Suse => {
            let name = name_for(name, mac, wanted, naming)?;
            own(
                format!("/etc/sysconfig/network/ifcfg-{name}"),
                "BOOTPROTO='static'\nSTARTMODE='auto'\n".to_owned(),
            )
        }
    }
}

/// The name by which the card will be known.
fn name_for(name: Option<&str>, mac: Option<&str>, wanted: &Wanted, naming: Naming) -> Result<String> {
    match (name, mac) {
        (Some(name), _) => Ok(name.to_owned()),
        // Without udev the kernel's own names are all there is.
        _ if !naming.udev => Ok(format!("eth{}", wanted.index)),
        (None, Some(mac)) => Ok(format!("enx{}", mac.replace(':', ""))),
        (None, None) => {
            Err(unknown(wanted, "the guest knows cards by their names, and this one has none yet"))
        }
    }
}

fn unknown(wanted: &Wanted, cause: &str) -> crate::model::error::Error {
    let advice = format!("give `nics[{}].mac`, and the machine the same", wanted.index);
    wanted.refused(cause, &advice)
}

#[cfg(test)]
mod tests {
    use super::super::request::testing::wanted;
    use super::*;

    const ALONE: Naming = Naming { alone: true, udev: true, shared: false };
    const ALL: [System; 6] =
        [System::Netplan, System::Suse, System::RedHat, System::Ifupdown, System::Networkd, System::Keyfile];

    fn begun(system: System, mac: Option<&str>, naming: Naming) -> Result<Fresh> {
        let mut wanted = wanted("192.0.2.10/24");
        wanted.mac = mac.map(str::to_owned);
        fresh(system, &Seen::default(), &wanted, naming)
    }

    #[test]
    fn a_new_card_is_known_by_its_mac_in_every_system() {
        let all = ALL.map(|system| {
            let fresh = begun(system, Some("52:54:00:00:00:01"), ALONE).unwrap();
            format!("== {}\n{}", fresh.path, fresh.text)
        });
        insta::assert_snapshot!(all.concat(), @r#"
        == /etc/netplan/90-hyper2kvm-1.yaml
        network:
          version: 2
          ethernets:
            hyper2kvm-1:
              match: {macaddress: "52:54:00:00:00:01"}
        == /etc/sysconfig/network/ifcfg-enx525400000001
        BOOTPROTO='static'
        STARTMODE='auto'
        == /etc/sysconfig/network-scripts/ifcfg-enx525400000001
        DEVICE=enx525400000001
        HWADDR=52:54:00:00:00:01
        TYPE=Ethernet
        BOOTPROTO=none
        ONBOOT=yes
        == /etc/network/interfaces

        auto enx525400000001
        iface enx525400000001 inet manual
        == /etc/systemd/network/00-hyper2kvm-1.network
        [Match]
        MACAddress=52:54:00:00:00:01
        == /etc/NetworkManager/system-connections/hyper2kvm-1.nmconnection
        [connection]
        id=hyper2kvm-1
        type=ethernet

        [ethernet]
        mac-address=52:54:00:00:00:01

        [ipv4]
        method=auto

        [ipv6]
        method=auto
        "#);
    }

    #[test]
    fn the_only_card_needs_no_mac_where_a_pattern_can_name_it() {
        for system in [System::Netplan, System::Networkd, System::Keyfile] {
            assert!(begun(system, None, ALONE).is_ok());
            let error = begun(system, None, Naming { alone: false, ..ALONE }).unwrap_err();
            assert!(error.to_string().contains("nics[0].mac"), "{error}");
        }
        for system in [System::Ifupdown, System::RedHat, System::Suse] {
            assert!(begun(system, None, ALONE).is_err());
        }
        let kernel = begun(System::Ifupdown, None, Naming { udev: false, ..ALONE }).unwrap();
        assert_eq!(kernel.text, "\nauto eth0\niface eth0 inet manual\n");
    }

    #[test]
    fn what_holds_for_every_card_does_not_take_this_one() {
        let several = Naming { shared: true, ..ALONE };
        let profile = begun(System::Keyfile, Some("52:54:00:00:00:01"), several).unwrap();
        assert!(profile.text.contains("autoconnect-priority=100\n"));
        assert!(begun(System::Netplan, Some("52:54:00:00:00:01"), several).is_err());
    }
}
