//! What is changed at a machine that has moved elsewhere, so that nobody takes it for the one that works: its cards lose their links, its notes
//! say where it went, its host does not start it any more, it is called otherwise. Each can be taken back.
//!
//! Each looks first how things are: what is so already is left alone. What is not here: who wants it, and what is remembered of it.

use roxmltree::Node;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::failure;
use super::inventory::VmRef;
use super::machine::{Machine, machine};
use super::privileges::host;
use super::property::{self, Wanted};
use super::soap::{self, Call, Failure, MoRef};
use super::task;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::model::vmware::name_encoded;

/// What every line of ours in notes begins with.
const NOTE: &str = "hyper2kvm: ";
/// No card says more of itself.
const MOST_NODES: usize = 200;
/// How deep what a card says of itself is.
const MOST_DEPTH: usize = 8;

/// Cards whose cable is in, or is as soon as the machine starts.
#[must_use]
pub fn linked(machine: &Machine) -> Vec<i32> {
    let is_linked = |nic: &&super::devices::VmNic| nic.connected || nic.starts_connected;
    machine.nics.iter().filter(is_linked).map(|nic| nic.key).collect()
}

/// Pulls the cables of these cards, or puts them back. Cards that are gone are no matter.
pub fn link(client: &Client, vm: &VmRef, keys: &[i32], is_in: bool) -> Result<()> {
    let what = format!("cannot change the network cards of {} of {}", vm.moref, client.host());
    let told = |failure| failure::told(&what, failure);
    const DEVICES: Wanted = Wanted { kind: "VirtualMachine", paths: &["config.hardware.device"] };
    let mut changes = Vec::new();
    property::of_objects(client, &[vm.object()], &[DEVICES], |found| {
        let devices = found.get("config.hardware.device").into_iter();
        for device in devices.flat_map(|devices| devices.children().filter(Node::is_element)) {
            let is_meant = soap::number::<i32>(device, "key").is_some_and(|key| keys.contains(&key));
            if is_meant && let Some(card) = card(device, is_in) {
                changes
                    .push(Element::new("deviceChange").child(Element::text("operation", "edit")).child(card));
            }
        }
        Ok(())
    })
    .map_err(told)?;
    match changes.is_empty() {
        true => Ok(()),
        false => reconfigure(client, vm, changes).map_err(told),
    }
}

/// A card as it is, but for its cable: whatever else were left out could be taken for a wish.
fn card(device: Node<'_, '_>, is_in: bool) -> Option<Element> {
    let mut left = MOST_NODES;
    let mut copied = copy(device, "device", MOST_DEPTH, &mut left)?;
    copied = copied.each_child(|child| (child.name() != "connectable").then_some(child));
    let plug = soap::child(device, "connectable");
    let guest_may = plug.is_none_or(|plug| soap::is_true(plug, "allowGuestControl"));
    let connectable = Element::new("connectable")
        .child(Element::text("startConnected", is_in))
        .child(Element::text("allowGuestControl", guest_may))
        .child(Element::text("connected", is_in));
    // In the order of the schema: behind `backing`, where servers look for it.
    let mut placed = Some(connectable);
    let mut ordered = Vec::new();
    copied = copied.each_child(|child| {
        ordered.push(child);
        None
    });
    let behind =
        ordered.iter().rposition(|child| ["key", "deviceInfo", "backing"].contains(&child.name()))?;
    for (number, child) in ordered.into_iter().enumerate() {
        copied = copied.child(child);
        if number == behind
            && let Some(connectable) = placed.take()
        {
            copied = copied.child(connectable);
        }
    }
    Some(copied)
}

/// An element of an answer as one of a call. Only what cards are known to say: names come from here, never from a server.
fn copy(node: Node<'_, '_>, name: &'static str, depth: usize, left: &mut usize) -> Option<Element> {
    const KNOWN: [&str; 29] = [
        "key",
        "deviceInfo",
        "label",
        "summary",
        "backing",
        "deviceName",
        "useAutoDetect",
        "network",
        "inPassthroughMode",
        "port",
        "switchUuid",
        "portgroupKey",
        "portKey",
        "connectionCookie",
        "opaqueNetworkId",
        "opaqueNetworkType",
        "connectable",
        "slotInfo",
        "pciSlotNumber",
        "controllerKey",
        "unitNumber",
        "addressType",
        "macAddress",
        "wakeOnLanEnabled",
        "resourceAllocation",
        "reservation",
        "share",
        "shares",
        "level",
    ];
    *left = left.checked_sub(1)?;
    let depth = depth.checked_sub(1)?;
    let element = match node.first_element_child() {
        None => {
            let text = Element::text(name, node.text().unwrap_or_default());
            let kind = node.attributes().find(|one| one.name() == "type" && one.namespace().is_none());
            match kind {
                Some(kind) => text.with("type", kind.value()),
                None => text,
            }
        }
        Some(_) => {
            let mut element = Element::new(name);
            for child in node.children().filter(Node::is_element) {
                if let Some(known) = KNOWN.iter().find(|known| child.tag_name().name() == **known) {
                    element = element.child(copy(child, known, depth, left)?);
                }
            }
            element
        }
    };
    Some(match soap::type_of(node) {
        Some(kind) => element.with("xsi:type", kind),
        None => element,
    })
}

/// What the notes of a machine say, but for our own lines.
#[must_use]
pub fn notes_before(machine: &Machine) -> String {
    let notes = machine.annotation.clone().unwrap_or_default();
    without_our_note(&notes, "").unwrap_or(notes)
}

/// Adds a line to the notes of a machine.
pub fn note(client: &Client, vm: &VmRef, text: &str) -> Result<()> {
    let before = machine(client, vm)?.annotation.unwrap_or_default();
    let line = format!("{NOTE}{text}");
    if before.lines().any(|known| known == line) {
        return Ok(());
    }
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    write_notes(client, vm, &format!("{before}{gap}{line}"))
}

/// Takes our last line out again, and leaves alone what others have written.
pub fn forget_note(client: &Client, vm: &VmRef, before: &str) -> Result<()> {
    let now = machine(client, vm)?.annotation.unwrap_or_default();
    match without_our_note(&now, before) {
        None => Ok(()),
        Some(notes) => write_notes(client, vm, &notes),
    }
}

fn without_our_note(now: &str, before: &str) -> Option<String> {
    if now == before {
        return None;
    }
    let lines: Vec<&str> = now.lines().collect();
    let ours = lines.iter().rposition(|line| line.starts_with(NOTE))?;
    if lines.len() == ours + 1
        && now.strip_prefix(before).is_some_and(|rest| rest.trim_start() == lines[ours])
    {
        return Some(before.to_owned());
    }
    let others = lines.iter().enumerate().filter(|(number, _)| *number != ours);
    Some(others.map(|(_, line)| *line).collect::<Vec<_>>().join("\n"))
}

fn write_notes(client: &Client, vm: &VmRef, notes: &str) -> Result<()> {
    reconfigure(client, vm, vec![Element::text("annotation", notes)]).map_err(|failure| {
        failure::told(&format!("cannot write the notes of {} of {}", vm.moref, client.host()), failure)
    })
}

/// Calls a machine otherwise.
pub fn rename(client: &Client, vm: &VmRef, name: &str) -> Result<()> {
    reconfigure(client, vm, vec![Element::text("name", name_encoded(name))]).map_err(|failure| {
        failure::told(&format!("cannot call {} of {} `{name}`", vm.moref, client.host()), failure)
    })
}

fn reconfigure(client: &Client, vm: &VmRef, what: Vec<Element>) -> Result<(), Failure> {
    let spec = Element::new("spec").children(what);
    let task =
        client.call(&Call::changes("ReconfigVM_Task", &vm.object(), vec![spec]), soap::returned_object)?;
    task::wait(client, &task, &mut |_| ()).map(drop)
}

/// How a host starts and stops a machine by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autostart {
    start_order: i32,
    start_delay: i32,
    wait_for_heartbeat: String,
    start_action: String,
    stop_delay: i32,
    stop_action: String,
}

impl Autostart {
    /// Not at all.
    fn off(&self) -> Autostart {
        Autostart { start_order: -1, start_action: "none".to_owned(), ..self.clone() }
    }

    fn starts(&self) -> bool {
        self.start_action.eq_ignore_ascii_case("powerOn")
    }

    fn read(info: Node<'_, '_>) -> Autostart {
        let number = |name: &str| soap::number(info, name).unwrap_or(-1);
        let text = |name: &str| soap::text(info, name).unwrap_or_default().to_owned();
        Autostart {
            start_order: number("startOrder"),
            start_delay: number("startDelay"),
            wait_for_heartbeat: text("waitForHeartbeat"),
            start_action: text("startAction"),
            stop_delay: number("stopDelay"),
            stop_action: text("stopAction"),
        }
    }

    fn element(&self, vm: &VmRef) -> Element {
        Element::new("powerInfo")
            .child(vm.object().element("key"))
            .child(Element::text("startOrder", self.start_order))
            .child(Element::text("startDelay", self.start_delay))
            .child(Element::text("waitForHeartbeat", &self.wait_for_heartbeat))
            .child(Element::text("startAction", &self.start_action))
            .child(Element::text("stopDelay", self.stop_delay))
            .child(Element::text("stopAction", &self.stop_action))
    }
}

/// How its host starts a machine by itself; none: it does not.
pub fn autostart(client: &Client, vm: &VmRef) -> Result<Option<Autostart>> {
    let what = format!("cannot ask whether {} of {} is started with its host", vm.moref, client.host());
    let told = |failure| failure::told(&what, failure);
    const CONFIG: Wanted = Wanted { kind: "HostAutoStartManager", paths: &["config"] };
    let Some(manager) = manager(client, vm).map_err(told)? else { return Ok(None) };
    let mut known = None;
    property::of_objects(client, &[manager], &[CONFIG], |found| {
        let config = found.get("config").into_iter();
        known = config
            .flat_map(|config| soap::children(config, "powerInfo"))
            .find(|info| soap::child(*info, "key").map(soap::moref).is_some_and(|key| key.value == vm.moref))
            .map(Autostart::read);
        Ok(())
    })
    .map_err(told)?;
    Ok(known.filter(Autostart::starts))
}

/// Has its host not start it any more, or start it as it did.
pub fn set_autostart(client: &Client, vm: &VmRef, before: &Autostart, is_on: bool) -> Result<()> {
    let what = format!("cannot change whether {} of {} is started with its host", vm.moref, client.host());
    let told = |failure| failure::told(&what, failure);
    let manager = manager(client, vm).map_err(told)?.ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("{what}: its host has no list of such machines"))
            .advice("see where the machine is registered")
    })?;
    let wanted = if is_on { before.clone() } else { before.off() };
    let spec = Element::new("spec").child(wanted.element(vm));
    client.call(&Call::changes("ReconfigureAutostart", &manager, vec![spec]), |_| Ok(())).map_err(told)
}

/// Of the host on which the machine is.
fn manager(client: &Client, vm: &VmRef) -> Result<Option<MoRef>, Failure> {
    const MANAGER: Wanted = Wanted { kind: "HostSystem", paths: &["configManager.autoStartManager"] };
    let mut manager = None;
    let Some(host) = host(client, vm)? else { return Ok(None) };
    property::of_objects(client, &[host], &[MANAGER], |found| {
        manager = found.object_at("configManager.autoStartManager");
        Ok(())
    })?;
    Ok(manager)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_sent_as_it_is_but_for_its_cable_and_only_with_what_is_known_of_cards() {
        let text = r#"<device xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="VirtualVmxnet3"><key>4000</key>
            <deviceInfo xsi:type="Description"><label>Network adapter 1</label><summary>VM Network</summary></deviceInfo>
            <backing xsi:type="VirtualEthernetCardNetworkBackingInfo"><deviceName>a&lt;b</deviceName>
            <network type="Network">network-7</network></backing>
            <connectable><startConnected>true</startConnected><allowGuestControl>false</allowGuestControl>
            <connected>true</connected><status>ok</status></connectable><controllerKey>100</controllerKey>
            <macAddress>00:50:56:aa:bb:01</macAddress><evil><key>1</key></evil></device>"#;
        let document = roxmltree::Document::parse(text).unwrap();
        let written = Element::new("r")
            .with("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
            .child(card(document.root_element(), false).unwrap())
            .to_string();
        let read = roxmltree::Document::parse(&written).unwrap();
        let device = soap::child(read.root_element(), "device").unwrap();
        assert_eq!(soap::type_of(device), Some("VirtualVmxnet3"));
        let names: Vec<&str> =
            device.children().filter(Node::is_element).map(|child| child.tag_name().name()).collect();
        assert_eq!(names, ["key", "deviceInfo", "backing", "connectable", "controllerKey", "macAddress"]);
        let backing = soap::child(device, "backing").unwrap();
        assert_eq!(soap::text(backing, "deviceName"), Some("a<b"));
        assert_eq!(
            soap::child(backing, "network").map(soap::moref),
            Some(MoRef::new("Network", "network-7"))
        );
        let plug = soap::child(device, "connectable").unwrap();
        assert_eq!(soap::text(plug, "connected"), Some("false"));
        assert_eq!(soap::text(plug, "allowGuestControl"), Some("false"));
    }

    #[test]
    fn our_note_is_taken_out_and_those_of_others_stay() {
        let ours = format!("{NOTE}moved");
        for (now, before, left) in [
            (format!("a\n{ours}"), "a", Some("a")),
            (format!("a\n\n{ours}"), "a\n\n", Some("a\n\n")),
            (ours.clone(), "", Some("")),
            (format!("a\n{ours}\nlater"), "a", Some("a\nlater")),
            ("a".to_owned(), "a", None),
            ("something else".to_owned(), "a", None),
        ] {
            assert_eq!(without_our_note(&now, before).as_deref(), left, "{now:?}");
        }
    }
}
