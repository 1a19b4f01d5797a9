//! What becomes of a MAC by which configuration knows a card.
//!
//! The same in every format; what is not here is how a format writes it.

use super::nic::{Becomes, Plan};

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MacLine<'a> {
    Keep,
    New(&'a str),
    /// It goes; the only card is known by its name, if it has one.
    ByName(Option<&'a str>),
}

/// Decides.
pub(super) fn mac_line<'a>(plan: &'a Plan, mac: &str) -> MacLine<'a> {
    let Some(card) = plan.of_mac(mac) else { return MacLine::Keep };
    match &card.becomes {
        Becomes::Mac(new) if new == mac => MacLine::Keep,
        Becomes::Mac(new) => MacLine::New(new),
        Becomes::Only => MacLine::ByName(card.seen.name.as_deref()),
        Becomes::Unknown => MacLine::Keep,
    }
}
