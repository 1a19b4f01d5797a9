//! The kernel's side: a subscription that says *that* something changed, and a dump that says what is.
//!
//! Events are only a wake-up. The kernel does not tell every consequence of a change (IPv4 routes of a
//! link that is switched off vanish without a message) and drops messages when it is in a hurry, so a
//! table that is kept by events alone drifts; a fresh dump cannot.

use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt, pin_mut};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, Prop,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use tokio::task::JoinHandle;

use super::table::{Link, LinkKind, Table};

/// A dump that takes longer than this has lost its answer.
const DUMP_LIMIT: Duration = Duration::from_secs(10);

/// Tunnel devices that appear by themselves in every namespace once their module is loaded.
const FALLBACK_DEVICES: [&str; 9] =
    ["sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"];

/// The main routing table and the one for defaults that yield to it.
const TABLES: [u32; 2] = [RouteHeader::RT_TABLE_MAIN as u32, 253];

/// Both sockets. The events have one of their own, so that no storm of them can get into an answer.
pub(super) struct Kernel {
    events: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Sync + Unpin>,
    asker: Handle,
    sockets: [JoinHandle<()>; 2],
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.sockets.iter().for_each(JoinHandle::abort);
    }
}

impl Kernel {
    /// Subscribes. What happens from here on is told by [`Kernel::changed`], so a dump made afterwards
    /// misses nothing.
    pub(super) fn subscribe() -> Result<Kernel, String> {
        let failed = |error: std::io::Error| format!("cannot listen to the kernel's network events: {error}");
        let (listener, _, events) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(failed)?;
        let (asking, asker, _) = new_connection().map_err(failed)?;
        Ok(Kernel {
            events: Box::new(events.map(|(message, _)| message)),
            asker,
            sockets: [tokio::spawn(listener), tokio::spawn(asking)],
        })
    }

    /// Returns when something may have changed; an error if the kernel no longer tells.
    pub(super) async fn changed(&mut self) -> Result<(), String> {
        while let Some(message) = self.events.next().await {
            if matters(&message) {
                return Ok(());
            }
        }
        Err("the kernel's network events ended".to_owned())
    }

    /// Takes what else has queued up, without waiting.
    pub(super) fn drain(&mut self) {
        use futures_util::FutureExt;
        while let Some(Some(_)) = self.events.next().now_or_never() {}
    }

    /// How it is now.
    pub(super) async fn dump(&self) -> Result<Table, String> {
        match tokio::time::timeout(DUMP_LIMIT, self.dump_all()).await {
            Ok(Ok(table)) => Ok(table),
            Ok(Err(error)) => Err(format!("cannot ask the kernel for the network's state: {error}")),
            Err(_) => Err("the kernel does not answer for the network's state".to_owned()),
        }
    }

    async fn dump_all(&self) -> Result<Table, rtnetlink::Error> {
        let mut table = Table::default();
        let links = self.asker.link().get().execute();
        pin_mut!(links);
        while let Some(link) = links.try_next().await? {
            table.links.insert(link.header.index, read_link(&link));
        }
        let addresses = self.asker.address().get().execute();
        pin_mut!(addresses);
        while let Some(address) = addresses.try_next().await? {
            if address.header.scope == AddressScope::Universe || address.header.scope == AddressScope::Site {
                table.addressed.insert(address.header.index);
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let routes = self.asker.route().get(all).execute();
            pin_mut!(routes);
            while let Some(route) = routes.try_next().await? {
                if is_default(&route) {
                    table.default_routes.extend(interfaces(&route));
                }
            }
        }
        Ok(table)
    }
}

/// Whether a message can change the verdict. Routes that are not default routes cannot, and on a router
/// there are many of them.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => is_default(route),
        NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

fn is_default(route: &RouteMessage) -> bool {
    let table = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(u32::from(route.header.table));
    route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && TABLES.contains(&table)
}

fn interfaces(route: &RouteMessage) -> Vec<u32> {
    let mut found = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found.push(*index),
            RouteAttribute::MultiPath(hops) => found.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    found
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: format!("#{}", message.header.index),
        other_names: Vec::new(),
        kind: LinkKind::Plain,
        enabled: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        controller: None,
    };
    let mut info = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) if *index != 0 => link.controller = Some(*index),
            LinkAttribute::PropList(list) => {
                link.other_names.extend(list.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }));
            }
            LinkAttribute::LinkInfo(infos) => {
                info = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link.kind = kind_of(message, &link.name, info.as_ref());
    link
}

fn kind_of(message: &LinkMessage, name: &str, info: Option<&InfoKind>) -> LinkKind {
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    match info {
        _ if message.header.flags.contains(LinkFlags::Loopback) => LinkKind::Loopback,
        Some(InfoKind::Bridge) => LinkKind::Bridge,
        Some(InfoKind::Bond | InfoKind::Team) => LinkKind::Bond,
        // A tun device of a VPN carries IP packets, one of a guest carries Ethernet frames.
        Some(InfoKind::Tun) if ethernet => LinkKind::Tap,
        Some(InfoKind::MacVtap) => LinkKind::Tap,
        _ if FALLBACK_DEVICES.contains(&name) => LinkKind::Fallback,
        _ => LinkKind::Plain,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NetlinkHeader;
    use rtnetlink::packet_route::route::RouteNextHop;

    use super::*;

    fn said(payload: NetlinkPayload<RouteNetlinkMessage>) -> bool {
        matters(&NetlinkMessage::new(NetlinkHeader::default(), payload))
    }

    fn route(prefix_length: u8, table: u8, kind: RouteType) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = prefix_length;
        route.header.table = table;
        route.header.kind = kind;
        route
    }

    #[test]
    fn lost_events_lead_to_a_fresh_look() {
        assert!(said(NetlinkPayload::Overrun(Vec::new())));
    }

    #[test]
    fn of_routes_only_default_routes_of_the_main_table_matter() {
        let told = |route| said(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)));
        assert!(told(route(0, 254, RouteType::Unicast)));
        assert!(!told(route(24, 254, RouteType::Unicast)));
        assert!(!told(route(0, 52, RouteType::Unicast)));
        // The kernel keeps an "unreachable" default of its own for IPv6.
        assert!(!told(route(0, 254, RouteType::Unreachable)));
        // A number that does not fit the header is told as an attribute, and that one counts.
        let mut policy = route(0, 254, RouteType::Unicast);
        policy.attributes.push(RouteAttribute::Table(51820));
        assert!(!told(policy));
    }

    #[test]
    fn of_several_next_hops_each_interface_holds_the_route() {
        let mut several = route(0, 254, RouteType::Unicast);
        let hops = [7, 9].map(|index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        });
        several.attributes.push(RouteAttribute::MultiPath(hops.to_vec()));
        assert_eq!(interfaces(&several), [7, 9]);
    }

    #[test]
    fn links_are_told_apart_by_what_the_kernel_says_of_them() {
        let kind = |name: &str, layer, flags, info: Option<InfoKind>| {
            let mut message = LinkMessage::default();
            message.header.link_layer_type = layer;
            message.header.flags = flags;
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
            message.attributes.extend(info.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
            read_link(&message).kind
        };
        let (ether, none, up) = (LinkLayerType::Ether, LinkLayerType::None, LinkFlags::Up);
        assert_eq!(kind("lo", ether, up | LinkFlags::Loopback, None), LinkKind::Loopback);
        assert_eq!(kind("vnet0", ether, up, Some(InfoKind::Tun)), LinkKind::Tap);
        assert_eq!(kind("tun0", none, up, Some(InfoKind::Tun)), LinkKind::Plain);
        assert_eq!(kind("team0", ether, up, Some(InfoKind::Team)), LinkKind::Bond);
        assert_eq!(kind("sit0", none, up, None), LinkKind::Fallback);
        assert_eq!(kind("eth0.100", ether, up, Some(InfoKind::Vlan)), LinkKind::Plain);
    }
}
