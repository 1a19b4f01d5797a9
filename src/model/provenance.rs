//! Who made a domain: what this program writes into the domains that it defines, and by which it knows them again.
//!
//! What is not here: how it is written and read (`libvirt/provenance.rs`).

use serde::{Deserialize, Serialize};

/// Where a domain comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The version of hyper2kvm that made it.
    pub version: String,
    /// The batch.
    pub batch_id: String,
    /// The VM in it.
    pub vm_id: String,
    /// When, RFC 3339 in UTC.
    pub made_at: String,
    /// Which machine it was, in the source's words.
    pub source: Option<String>,
    /// The addresses that were configured inside the guest.
    pub addresses: Vec<ConfiguredAddress>,
}

/// An address that was configured inside the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredAddress {
    /// Of the card with this MAC address.
    pub mac: Option<String>,
    /// Without the length of its prefix.
    pub address: String,
}
