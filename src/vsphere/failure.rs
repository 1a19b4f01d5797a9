//! What goes wrong with a server of vSphere's is to us: a kind, its own words, and what to do.
//!
//! What may be better a moment later is told apart from what stays as it is (see [`crate::model::error::Disposition`]): that is what decides about trying again.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::flow::{LEAST_RATE, Late};
use super::soap::{Failure, Fault};
use crate::model::error::{Error, Kind};
use crate::model::remote::LOGIN_RULE;
use crate::web::{Flaw, NoAnswer, Untrusted};

/// Nobody was reached, or who was is not trusted.
pub(super) fn unreached(host: &str, none: NoAnswer) -> Error {
    match none {
        NoAnswer::Refused(why) => Error::new(Kind::Network, why)
            .advice(format!("see that {host} is the name of the vCenter or ESXi host"))
            .permanent(),
        NoAnswer::Failed(why) => Error::new(Kind::Network, why)
            .advice(format!("see that {host} is up and can be reached from here at that port")),
        NoAnswer::Untrusted(whom) => untrusted(&whom),
    }
}

/// Nothing came for so long.
pub(super) fn silent(host: &str, limit: Duration) -> Error {
    late(host, Late::Silent, limit)
}

/// Nothing came for so long, or too little.
pub(super) fn late(host: &str, late: Late, limit: Duration) -> Error {
    let why = match late {
        Late::Silent => format!("{host} did not answer for {:.0} s", limit.as_secs_f64().ceil()),
        Late::Slow => format!("{host} sends less than {} KiB a second over a connection", LEAST_RATE >> 10),
    };
    Error::new(Kind::Network, why).advice("see what keeps it, or the network in between, busy")
}

/// What comes from a server cannot be kept here, for somebody who has said that it is to be.
pub(super) fn not_kept(what: &str, path: &Path, error: &io::Error) -> Error {
    let failed = Error::io(Kind::Output, what, path, error).output(path);
    match failed.kind() {
        Kind::DiskSpace => failed
            .advice("free some space there, then give the same command again: it goes on from what is there"),
        _ => failed.advice("see whether the directory can be written to, and what else works in it"),
    }
}

fn untrusted(whom: &Untrusted) -> Error {
    let compare = "compare it with what the server's own console or administrator says before it is trusted";
    let advice = match whom.flaw {
        Flaw::Expired => {
            format!("have the server's certificate renewed; or pin it by its thumbprint: {compare}")
        }
        Flaw::NotYetValid => "see that the clocks of both machines are right".to_owned(),
        Flaw::WrongName => {
            format!("name the server as its certificate does; or pin it by its thumbprint: {compare}")
        }
        Flaw::UnknownIssuer => format!(
            "name a file with the certificate of who signed it (`ca_file`; a vCenter offers it at https://{}/certs/download.zip); or pin it by its thumbprint: {compare}",
            whom.host
        ),
        Flaw::NotPinned => {
            format!(
                "either the server got a new certificate, or somebody else answers in its place: {compare}, then change `thumbprint`"
            )
        }
        Flaw::Other => format!("pin it by its thumbprint: {compare}"),
    };
    Error::new(Kind::Network, whom.to_string()).advice(advice).permanent()
}

/// A server failed at this: `cannot list the machines of vc.example.com`.
pub(super) fn told(what: &str, failure: Failure) -> Error {
    match failure {
        Failure::Fault(fault) => of_fault(what, &fault),
        Failure::Other(error) => error,
    }
}

/// The account may not do this, for want of these privileges.
pub(crate) fn forbidden(what: &str, privileges: &str) -> Error {
    Error::new(Kind::Auth, format!("{what}: the account lacks {privileges}")).advice(
        "give the account a role with that privilege; `hyper2kvm vsphere check` lists all that are missing",
    )
}

fn of_fault(what: &str, fault: &Fault) -> Error {
    let words = if fault.words.is_empty() { &fault.kind } else { &fault.words };
    let about = fault
        .object
        .as_ref()
        .map(|object| format!(" ({} {})", object.kind, object.value))
        .unwrap_or_default();
    let failure = |kind: Kind| Error::new(kind, format!("{what}: {words}"));
    match fault.kind.as_str() {
        "InvalidLogin" => failure(Kind::Auth)
            .rule(LOGIN_RULE)
            .advice("check the user (with its domain: `user@vsphere.local`) and the password; it is not tried again, lest the account is locked"),
        "NotAuthenticated" => failure(Kind::Network).advice("the session ended: try again").transient(),
        "PasswordExpired" | "InvalidLocale" | "NoClientCertificate" | "SSPIChallenge" => {
            failure(Kind::Auth)
                .rule(LOGIN_RULE)
                .advice("log in with the server's own client once, and see what it asks for")
        }
        "NoPermission" => {
            let privilege = fault.privilege.as_deref().unwrap_or("a privilege");
            forbidden(what, &format!("{privilege}{about}"))
        }
        "ManagedObjectNotFound" => Error::new(Kind::Source, format!("{what}: it is gone{about}"))
            .advice("see which there are: `hyper2kvm vsphere list`"),
        "TaskInProgress" => failure(Kind::Source)
            .advice("another task works on the machine: try again when it has ended")
            .transient(),
        "InvalidPowerState" | "InvalidState" | "VmConfigIncompatibleForRecordReplay" => {
            failure(Kind::Source).advice(format!("bring the machine into the state that this needs{}", state_in(fault)))
        }
        "InvalidName" | "DuplicateName" => failure(Kind::Source).advice("choose another name"),
        "FileLocked" | "VirtualDiskModeNotSupported" => {
            failure(Kind::Source).advice("see who has the machine's disks open, a backup for one, and try again")
        }
        "ApplicationQuiesceFault" | "FilesystemQuiesceFault" | "QuiesceDatastoreIOForHAFailed" => failure(Kind::Source)
            .advice("the guest could not be made to stand still: see that VMware's tools run in it, or do without (`--quiesce no`)"),
        "TooManySnapshotLevels" | "SnapshotNoChange" | "SnapshotDisabled" | "MultipleSnapshotsNotSupported" => {
            failure(Kind::Source).advice("see which snapshots there are: `hyper2kvm vsphere snapshot list`")
        }
        "InsufficientStorageSpace" | "NoDiskSpace" => {
            failure(Kind::Source).advice("free some space on the machine's datastore")
        }
        "NotSupported" | "NotImplemented" | "MethodNotFound" | "InvalidRequest" => {
            failure(Kind::Unsupported).advice("this server, or this machine on it, cannot do that")
        }
        "RestrictedVersion" | "LicenseRestricted" | "InsufficientLicense" => failure(Kind::Unsupported)
            .advice("the server's licence allows only reading; a vCenter that manages the host allows the rest"),
        "HostNotConnected" | "HostCommunication" | "HostNotReachable" | "HostConnectFault" | "Timedout" => {
            failure(Kind::Network).advice("see that the host on which the machine lies is connected to its vCenter")
        }
        "RequestCanceled" => failure(Kind::Cancelled).advice("somebody cancelled the task in vSphere"),
        "ConcurrentAccess" => failure(Kind::Source).advice("try again").transient(),
        _ => failure(Kind::Source)
            .advice(format!("it is a fault of type `{}`; the server's own events and logs say more", fault.kind)),
    }
}

fn state_in(fault: &Fault) -> String {
    let value =
        |name: &str| fault.details.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    match (value("requestedState"), value("existingState")) {
        (Some(wanted), Some(is)) => format!(": it is `{is}`, and `{wanted}` is needed"),
        (None, Some(is)) => format!(": it is `{is}`"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Disposition;
    use crate::model::thumbprint::Thumbprint;
    use crate::vsphere::soap::MoRef;

    fn fault(kind: &str) -> Fault {
        Fault { kind: kind.to_owned(), words: "no".to_owned(), ..Fault::default() }
    }

    #[test]
    fn each_fault_has_a_kind_and_advice_and_says_whether_it_may_pass() {
        for (name, kind, disposition) in [
            ("InvalidLogin", Kind::Auth, Disposition::NeedsOperator),
            ("NoPermission", Kind::Auth, Disposition::NeedsOperator),
            ("ManagedObjectNotFound", Kind::Source, Disposition::Permanent),
            ("TaskInProgress", Kind::Source, Disposition::Transient),
            ("InvalidPowerState", Kind::Source, Disposition::Permanent),
            ("HostNotConnected", Kind::Network, Disposition::Transient),
            ("RestrictedVersion", Kind::Unsupported, Disposition::Permanent),
            ("SomethingNew", Kind::Source, Disposition::Permanent),
        ] {
            let error = of_fault("cannot do it", &fault(name));
            assert_eq!((error.kind(), error.disposition()), (kind, disposition), "{name}");
            assert!(
                error.details().advice.is_some() && error.to_string().starts_with("cannot do it: "),
                "{error}"
            );
        }
    }

    #[test]
    fn a_missing_privilege_is_named_with_its_object() {
        let fault = Fault {
            privilege: Some("Datastore.Browse".to_owned()),
            object: Some(MoRef::new("Datastore", "datastore-7")),
            ..fault("NoPermission")
        };
        let text = of_fault("cannot look", &fault).to_string();
        assert!(text.contains("lacks Datastore.Browse (Datastore datastore-7)"), "{text}");
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_for_good_and_told_with_its_thumbprint() {
        for flaw in [Flaw::Expired, Flaw::WrongName, Flaw::UnknownIssuer, Flaw::NotPinned, Flaw::NotYetValid]
        {
            let seen = Thumbprint([0xab; 32]);
            let whom = Untrusted { host: "vc".to_owned(), flaw, why: "why".to_owned(), seen };
            let error = unreached("vc", NoAnswer::Untrusted(whom));
            assert_eq!((error.kind(), error.disposition()), (Kind::Network, Disposition::Permanent));
            assert!(error.to_string().contains(&seen.to_string()), "{error}");
        }
    }
}
