//! By which way the bytes of a VM on a server come here: which ways there are, in which order, and why one is left for the next.
//!
//! ```text
//!   asked for by name ─▶ that one, whatever it comes to
//!   auto ─▶ https ─▶ nfc ─▶ ssh ─▶ vddk       the first that nothing speaks against
//! ```
//!
//! What speaks against one is found out by whoever asks the server, before the first byte; what a way turned out not to be able to do
//! later ([`TRANSPORT_RULE`]) is one more reason. A network that fails is none. What is not here: asking, and reading.

use serde::{Deserialize, Serialize};

use super::manifest::VsphereTransport;

/// What an error breaks that says that bytes do not come this way, and may come another.
pub const TRANSPORT_RULE: &str = "source.transport";

/// What an error breaks that says the same of one file.
const FILE_RULE: &str = "disk.missing";

/// In which order they are taken: what needs least first.
const ORDER: [VsphereTransport; 4] =
    [VsphereTransport::Https, VsphereTransport::Nfc, VsphereTransport::Ssh, VsphereTransport::Vddk];

impl VsphereTransport {
    /// As a manifest calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            VsphereTransport::Auto => "auto",
            VsphereTransport::Https => "https",
            VsphereTransport::Nfc => "nfc",
            VsphereTransport::Ssh => "ssh",
            VsphereTransport::Vddk => "vddk",
        }
    }

    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            VsphereTransport::Auto => "however they come",
            VsphereTransport::Https => "files over HTTPS",
            VsphereTransport::Nfc => "an export (NFC)",
            VsphereTransport::Ssh => "the host's shell (SSH)",
            VsphereTransport::Vddk => "VMware's library (VDDK)",
        }
    }

    /// Whether whoever reads for us knows what lies below a snapshot, or below a linked clone.
    #[must_use]
    pub fn reads_through_snapshots(self) -> bool {
        matches!(self, VsphereTransport::Nfc | VsphereTransport::Ssh | VsphereTransport::Vddk)
    }
}

/// What is known of a VM, of its server and of this machine before the first byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Why its files are not what its disks hold: snapshots, linked clones.
    pub not_flat: Option<String>,
    /// Privileges that the account lacks to read files, with the objects.
    pub lacks_to_read: Vec<String>,
    /// The same to have it exported.
    pub lacks_to_export: Vec<String>,
    /// Why it is not exported: it runs, for one.
    pub not_exported: Option<String>,
    /// Why no host's shell reads it.
    pub no_ssh: Option<String>,
    /// Why VMware's library does not read it.
    pub no_vddk: Option<String>,
    /// Those that were tried, and what came of it.
    pub failed: Vec<Candidate>,
}

/// A way, and whether it is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub transport: VsphereTransport,
    /// Why it is not taken; none: nothing speaks against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

impl Known {
    /// What speaks against a way.
    fn against(&self, transport: VsphereTransport) -> Option<String> {
        let tried = self.failed.iter().find(|failed| failed.transport == transport);
        let lacks = |privileges: &[String]| {
            (!privileges.is_empty()).then(|| format!("the account lacks {}", privileges.join(", ")))
        };
        let beforehand = match transport {
            VsphereTransport::Https => self.not_flat.clone().or_else(|| lacks(&self.lacks_to_read)),
            VsphereTransport::Nfc => self.not_exported.clone().or_else(|| lacks(&self.lacks_to_export)),
            VsphereTransport::Ssh => self.no_ssh.clone(),
            VsphereTransport::Vddk => self.no_vddk.clone(),
            VsphereTransport::Auto => None,
        };
        tried.and_then(|failed| failed.left.clone()).or(beforehand)
    }
}

/// All ways in their order, each with why it is left. One that was asked for by name is the only one, and never left.
#[must_use]
pub fn candidates(asked: VsphereTransport, known: &Known) -> Vec<Candidate> {
    match asked {
        VsphereTransport::Auto => ORDER
            .into_iter()
            .map(|transport| Candidate { transport, left: known.against(transport) })
            .collect(),
        named => vec![Candidate { transport: named, left: None }],
    }
}

/// The one that is taken; where all are left, the first, whose failure says best what is missing.
#[must_use]
pub fn chosen(candidates: &[Candidate]) -> VsphereTransport {
    let free = candidates.iter().find(|candidate| candidate.left.is_none());
    free.or(candidates.first()).map_or(VsphereTransport::Https, |candidate| candidate.transport)
}

/// Whether anything is left to be taken.
#[must_use]
pub fn is_any_left(candidates: &[Candidate]) -> bool {
    candidates.iter().any(|candidate| candidate.left.is_none())
}

/// Whether a failure is one of the way, and not of the disk, the login or the network.
#[must_use]
pub fn is_of_the_way(error: &super::error::Error) -> bool {
    use super::error::Kind;
    let is_rule = matches!(error.details().rule.as_deref(), Some(TRANSPORT_RULE | FILE_RULE));
    is_rule && matches!(error.kind(), Kind::Source | Kind::Unsupported | Kind::Auth)
}

#[cfg(test)]
mod tests {
    use super::VsphereTransport::{Auto, Https, Nfc, Ssh, Vddk};
    use super::*;
    use crate::model::error::{Error, Kind};

    fn nothing_else() -> Known {
        Known {
            no_ssh: Some("it is no ESXi host".to_owned()),
            no_vddk: Some("no library is configured".to_owned()),
            ..Known::default()
        }
    }

    #[test]
    fn the_first_way_that_nothing_speaks_against_is_taken() {
        let some = |text: &str| Some(text.to_owned());
        let one = |text: &str| vec![text.to_owned()];
        let failed = |transport| vec![Candidate { transport, left: some("405") }];
        for (what, known, expected) in [
            ("all is well", nothing_else(), Https),
            ("snapshots", Known { not_flat: some("snapshots"), ..nothing_else() }, Nfc),
            ("no files", Known { lacks_to_read: one("Datastore.Browse"), ..nothing_else() }, Nfc),
            ("files were refused", Known { failed: failed(Https), ..nothing_else() }, Nfc),
            (
                "neither files nor exports, but the library",
                Known {
                    not_flat: some("snapshots"),
                    lacks_to_export: one("VApp.Export"),
                    no_vddk: None,
                    ..nothing_else()
                },
                Vddk,
            ),
            (
                "a host alone with its shell",
                Known {
                    failed: failed(Https),
                    not_exported: some("it runs"),
                    no_ssh: None,
                    ..nothing_else()
                },
                Ssh,
            ),
            (
                "nothing at all",
                Known { not_flat: some("snapshots"), not_exported: some("it runs"), ..nothing_else() },
                Https,
            ),
        ] {
            let all = candidates(Auto, &known);
            assert_eq!(all.iter().map(|one| one.transport).collect::<Vec<_>>(), ORDER, "{what}");
            assert_eq!(chosen(&all), expected, "{what}: {all:?}");
            assert_eq!(is_any_left(&all), what != "nothing at all", "{what}");
        }
    }

    #[test]
    fn a_way_that_is_asked_for_is_never_left() {
        let known = Known { not_flat: Some("snapshots".to_owned()), ..nothing_else() };
        for named in ORDER {
            assert_eq!(candidates(named, &known), [Candidate { transport: named, left: None }]);
            assert_eq!(chosen(&candidates(named, &known)), named);
        }
    }

    #[test]
    fn networks_logins_and_changed_disks_are_no_reason_for_another_way() {
        let error = |kind, rule: &str| Error::new(kind, "x").rule(rule);
        assert!(is_of_the_way(&error(Kind::Source, TRANSPORT_RULE)));
        assert!(is_of_the_way(&error(Kind::Auth, TRANSPORT_RULE)));
        assert!(is_of_the_way(&error(Kind::Unsupported, TRANSPORT_RULE)));
        assert!(is_of_the_way(&error(Kind::Source, FILE_RULE)));
        assert!(!is_of_the_way(&error(Kind::Network, TRANSPORT_RULE)));
        assert!(!is_of_the_way(&error(Kind::Auth, "source.login")));
        assert!(!is_of_the_way(&error(Kind::Source, "disk.changed")));
        assert!(!is_of_the_way(&error(Kind::Output, FILE_RULE)));
        assert!(!is_of_the_way(&Error::new(Kind::Source, "x")));
    }

    #[test]
    fn each_way_has_the_name_that_a_manifest_calls_it_by() {
        for transport in ORDER.into_iter().chain([Auto]) {
            assert_eq!(serde_json::to_value(transport).unwrap(), transport.name());
        }
    }
}
