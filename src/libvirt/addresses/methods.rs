//! The ways in which a machine's address can be found, and what each is worth.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// One way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// The agent inside the guest says so: it looks at the guest's own interfaces.
    Agent,
    /// libvirt's DHCP server has leased it to the card.
    Lease,
    /// The host has seen the card answer for it: its neighbour table.
    Arp,
    /// The same leases, as the server has written them down on this host.
    LeaseFile,
    /// It was configured inside the guest when the guest was converted.
    Configured,
}

impl Method {
    /// All, the most certain first.
    pub const ALL: [Method; 5] =
        [Method::Agent, Method::Lease, Method::Arp, Method::LeaseFile, Method::Configured];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Method::Agent => "agent",
            Method::Lease => "lease",
            Method::Arp => "arp",
            Method::LeaseFile => "lease_file",
            Method::Configured => "configured",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }

    /// How sure one may be of an address that is found so: from 0 to 1.
    #[must_use]
    pub fn confidence(self) -> f64 {
        match self {
            Method::Agent => 1.0,
            Method::Lease => 0.9,
            Method::Arp => 0.8,
            Method::LeaseFile => 0.6,
            Method::Configured => 0.5,
        }
    }

    /// How long what was found is taken for true.
    #[must_use]
    pub fn lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Method::Agent | Method::Lease | Method::LeaseFile => 30,
            // The kernel forgets neighbours within a minute or so.
            Method::Arp => 15,
            Method::Configured => 300,
        })
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
