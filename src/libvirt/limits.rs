//! What disks and network cards may use, as libvirt is told it: in its units.

use crate::model::element::Element;
use crate::model::limits::{DiskLimits, FlowLimit, NicLimits};

/// libvirt hands rates of cards to the kernel's traffic control, whose kilobytes are thousands of bytes, …
const RATE_UNIT: u64 = 1000;
/// … and amounts, whose kilobytes are not.
const AMOUNT_UNIT: u64 = 1024;

/// `<iotune>`; nothing where nothing is limited.
pub(super) fn io_limits(limits: &DiskLimits) -> Option<Element> {
    let each = limits.each().into_iter().filter_map(|(name, limit)| Some(Element::text(name, limit?)));
    (!limits.is_none()).then(|| Element::new("iotune").children(each))
}

/// `<bandwidth>`; nothing where nothing is limited.
pub(super) fn bandwidth(limits: &NicLimits) -> Option<Element> {
    let way = |name, limit: Option<FlowLimit>| limit.map(|limit| flow(Element::new(name), limit));
    let inbound = way("inbound", limits.inbound);
    (!limits.is_none())
        .then(|| Element::new("bandwidth").children(inbound).children(way("outbound", limits.outbound)))
}

fn flow(element: Element, limit: FlowLimit) -> Element {
    // Rounded up: what is too small for one unit would be no limit at all.
    let element = element.with("average", limit.average.div_ceil(RATE_UNIT));
    let element = match limit.peak {
        Some(peak) => element.with("peak", peak.div_ceil(RATE_UNIT)),
        None => element,
    };
    match limit.burst {
        Some(burst) => element.with("burst", burst.div_ceil(AMOUNT_UNIT)),
        None => element,
    }
}
