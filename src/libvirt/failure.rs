//! What libvirt's errors are to us: a kind, the words of libvirt, and what to do.

use std::io;
use std::time::Duration;

use virt::error::{Error as Told, ErrorDomain, ErrorNumber};

use crate::model::error::{Error, Kind};

/// libvirt failed at this: `cannot start web`.
pub(super) fn told(what: &str, error: &Told) -> Error {
    // Its messages come from drivers and programs that they ran: one line is enough for a cause.
    let words = error.message().lines().next().unwrap_or_default().trim_end_matches('.');
    let cause = format!("{what}: {words}");
    if let Some(advice) = distrust(error, words) {
        return Error::new(Kind::Auth, cause).advice(advice);
    }
    let failure = Error::new(kind(error.code()), cause);
    match error.code() {
        _ if is_broken(error) => failure
            .advice("see that libvirtd (or virtqemud) runs and answers: `hyper2kvm doctor`")
            .transient(),
        ErrorNumber::OperationTimeout => {
            failure.advice("see what keeps libvirt or the guest busy, then try again").transient()
        }
        ErrorNumber::NoDomain => failure.advice("see which there are: `hyper2kvm libvirt list`"),
        ErrorNumber::NoStoragePool | ErrorNumber::NoStorageVolume => {
            failure.advice("see which there are: `hyper2kvm libvirt pools`")
        }
        ErrorNumber::NoNetwork => failure.advice("see which there are: `hyper2kvm libvirt networks`"),
        ErrorNumber::AuthFailed
        | ErrorNumber::AuthUnavailable
        | ErrorNumber::AccessDenied
        | ErrorNumber::OperationDenied => {
            failure.advice("run it as root or as a member of the group `libvirt`; docs/libvirt.md says how the service is let in")
        }
        ErrorNumber::NoSupport | ErrorNumber::ConfigUnsupported | ErrorNumber::OperationUnsupported => {
            failure.advice("this libvirt or its QEMU lacks that: `hyper2kvm doctor` tells their versions")
        }
        _ => failure.advice("libvirt's own log says more: `journalctl -u libvirtd -u virtqemud`"),
    }
}

/// Nothing came for so long.
pub(crate) fn silent(uri: &str, within: Duration) -> Error {
    Error::new(Kind::Libvirt, format!("{uri} did not answer for {:.0} s", within.as_secs_f64().ceil()))
        .advice("see what keeps libvirtd (or virtqemud) busy; restart it if it hangs")
        .transient()
}

/// The thread that would wait for libvirt could not be started.
pub(super) fn no_thread(error: &io::Error) -> Error {
    Error::new(Kind::Libvirt, format!("cannot start a thread for libvirt: {error}"))
        .advice("see how many processes and threads this user may have (`ulimit -u`)")
        .transient()
}

/// Whether the connection is of no use any more, or there never was one. A driver has the same codes for its own trouble (a disk that cannot
/// be opened): that of a connection comes from what carries it.
pub(super) fn is_broken(error: &Told) -> bool {
    match error.code() {
        ErrorNumber::InvalidConn | ErrorNumber::Rpc | ErrorNumber::GnutlsError => true,
        ErrorNumber::SystemError | ErrorNumber::InternalError => {
            matches!(error.domain(), ErrorDomain::Rpc | ErrorDomain::Remote)
        }
        _ => false,
    }
}

/// What to do where one of the two hosts does not believe the other. Only words tell that: what carries the connection has one code for all that it meets.
fn distrust(error: &Told, words: &str) -> Option<&'static str> {
    let is_of_carrier = is_broken(error) || error.code() == ErrorNumber::AuthFailed;
    let words = words.to_lowercase();
    let says = |part: &str| is_of_carrier && words.contains(part);
    if says("host key") {
        Some(
            "see that it is the right host, and make its key known to the user that asks: `ssh <host>` once, or its `known_hosts`",
        )
    } else if says("permission denied (") {
        Some("let the user that asks in by a key: `ssh <user>@<host>` has to work without a password")
    } else if says("certificate") {
        Some(
            "see that the certificate is of an authority in `cacert.pem`, is in force and names the host as the URI does",
        )
    } else {
        None
    }
}

fn kind(code: ErrorNumber) -> Kind {
    match code {
        ErrorNumber::AuthFailed | ErrorNumber::AccessDenied | ErrorNumber::AuthUnavailable => Kind::Auth,
        ErrorNumber::DomExist | ErrorNumber::StorageVolExist | ErrorNumber::NetworkExist => Kind::Exists,
        _ => Kind::Libvirt,
    }
}
