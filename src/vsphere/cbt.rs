//! Change tracking: switched on, and asked which areas of a disk have changed, or are in use at all.
//!
//! Areas are only believed if they lie where they were asked for, in order. What is not here: what is done with them.

use serde::Serialize;

use super::client::Client;
use super::failure;
use super::inventory::VmRef;
use super::machine::machine;
use super::soap::{self, Call, MoRef};
use super::task;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

/// Which areas are in use, whatever changed them.
pub const ALL_IN_USE: &str = "*";
/// No disk has more areas that are worth being told apart.
const MOST_AREAS: usize = 4_000_000;

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Area {
    /// Its first byte.
    pub start: u64,
    /// How many there are.
    pub length: u64,
}

/// Switches change tracking on, and looks whether it is. True: it was on before.
pub fn enable(client: &Client, vm: &VmRef, told: &mut dyn FnMut(u8)) -> Result<bool> {
    let what = format!("cannot switch on change tracking of {} of {}", vm.moref, client.host());
    let before = machine(client, vm)?;
    if before.change_tracking {
        return Ok(true);
    }
    let unable = |why: &str, advice: &str| {
        Error::new(Kind::Unsupported, format!("{what}: {why}")).advice(advice.to_owned())
    };
    if before.change_tracking_supported == Some(false) {
        return Err(unable(
            "the server says that it cannot be tracked",
            "its hardware has to be of version 7 or later",
        ));
    }
    if !before.snapshots.is_empty() {
        return Err(unable(
            "it has snapshots, and their changes would not be known",
            "remove its snapshots first",
        ));
    }
    let spec = Element::new("spec").child(Element::text("changeTrackingEnabled", true));
    client
        .call(&Call::changes("ReconfigVM_Task", &vm.object(), vec![spec]), soap::returned_object)
        .and_then(|task| task::wait(client, &task, told))
        .map_err(|failure| failure::told(&what, failure))?;
    match machine(client, vm)?.change_tracking {
        true => Ok(false),
        false => {
            Err(Error::new(Kind::Source, format!("{what}: the server said that it is on, and it is not"))
                .advice("see the machine's events in vSphere"))
        }
    }
}

/// Switches change tracking off.
pub fn disable(client: &Client, vm: &VmRef, told: &mut dyn FnMut(u8)) -> Result<()> {
    let what = format!("cannot switch off change tracking of {} of {}", vm.moref, client.host());
    if !machine(client, vm)?.change_tracking {
        return Ok(());
    }
    let spec = Element::new("spec").child(Element::text("changeTrackingEnabled", false));
    client
        .call(&Call::changes("ReconfigVM_Task", &vm.object(), vec![spec]), soap::returned_object)
        .and_then(|task| task::wait(client, &task, told))
        .map(drop)
        .map_err(|failure| failure::told(&what, failure))
}

/// The areas of a disk that have changed since `change_id`, as of a snapshot; [`ALL_IN_USE`]: those that are in use.
pub fn changed(
    client: &Client,
    vm: &VmRef,
    snapshot: Option<&str>,
    (key, capacity): (i32, u64),
    change_id: &str,
) -> Result<Vec<Area>> {
    let what = format!("cannot ask {} which areas of disk {key} of {} have changed", client.host(), vm.moref);
    let mut areas: Vec<Area> = Vec::new();
    let mut at = 0;
    while at < capacity {
        let mut arguments = Vec::new();
        arguments.extend(
            snapshot.map(|snapshot| MoRef::new("VirtualMachineSnapshot", snapshot).element("snapshot")),
        );
        arguments.extend([
            Element::text("deviceKey", key),
            Element::text("startOffset", at),
            Element::text("changeId", change_id),
        ]);
        let call = Call::reads("QueryChangedDiskAreas", &vm.object(), arguments);
        let end = client.call(&call, |answer| take(client.host(), answer, at, capacity, &mut areas));
        at = end.map_err(|failure| failure::told(&what, failure))?;
    }
    Ok(areas)
}

/// Takes the areas of one answer; up to where it tells them.
fn take(
    host: &str,
    answer: roxmltree::Node<'_, '_>,
    from: u64,
    capacity: u64,
    areas: &mut Vec<Area>,
) -> Result<u64> {
    let odd = |what: &str| soap::odd(host, what);
    let info = soap::child(answer, "returnval").ok_or_else(|| odd("no areas"))?;
    let number = |node, name: &str| soap::number::<u64>(node, name);
    let (start, length) = (number(info, "startOffset"), number(info, "length"));
    let end = start
        .filter(|start| *start == from)
        .zip(length)
        .and_then(|(start, length)| start.checked_add(length));
    let end = end.filter(|end| *end > from && *end <= capacity);
    let end = end.ok_or_else(|| odd("areas of another part of the disk than was asked for"))?;
    let mut least = from;
    for node in soap::children(info, "changedArea") {
        let area = number(node, "start").zip(number(node, "length"));
        let area = area.map(|(start, length)| Area { start, length }).filter(|area| {
            area.start >= least
                && area.length > 0
                && area.start.checked_add(area.length).is_some_and(|after| after <= end)
        });
        let area = area.ok_or_else(|| odd("areas that lie beyond the disk, or over each other"))?;
        least = area.start + area.length;
        if areas.len() == MOST_AREAS {
            return Err(odd(&format!("more than {MOST_AREAS} areas")));
        }
        areas.push(area);
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str, from: u64) -> Result<(u64, Vec<Area>)> {
        let mut areas = Vec::new();
        let document = roxmltree::Document::parse(text).unwrap();
        take("vc", document.root_element(), from, 1000, &mut areas).map(|end| (end, areas))
    }

    fn answer(start: u64, length: u64, areas: &[(u64, u64)]) -> String {
        let area = |(start, length): &(u64, u64)| {
            format!("<changedArea><start>{start}</start><length>{length}</length></changedArea>")
        };
        let areas: String = areas.iter().map(area).collect();
        format!(
            "<r><returnval><startOffset>{start}</startOffset><length>{length}</length>{areas}</returnval></r>"
        )
    }

    #[test]
    fn areas_are_taken_in_order_and_up_to_where_they_are_told() {
        let (end, areas) = taken(&answer(0, 600, &[(0, 100), (100, 1), (500, 100)]), 0).unwrap();
        assert_eq!((end, areas.len(), areas[2]), (600, 3, Area { start: 500, length: 100 }));
        assert_eq!(taken(&answer(600, 400, &[]), 600).unwrap(), (1000, Vec::new()));
    }

    #[test]
    fn areas_that_cannot_be_are_not_believed() {
        for (text, from) in [
            (answer(0, 600, &[(100, 100), (150, 10)]), 0),
            (answer(0, 600, &[(590, 11)]), 0),
            (answer(0, 600, &[(u64::MAX, 2)]), 0),
            (answer(0, 600, &[(10, 0)]), 0),
            (answer(0, 1001, &[]), 0),
            (answer(0, 0, &[]), 0),
            (answer(0, 600, &[]), 100),
            ("<r/>".to_owned(), 0),
        ] {
            assert_eq!(taken(&text, from).unwrap_err().kind(), Kind::Source, "{text}");
        }
    }
}
