//! Which libvirt is asked: the forms of URIs that are supported, and which of them manifests may name. Pure.
//!
//! ```text
//!  qemu:///system                 the machines of this host
//!  qemu:///session                those of this user
//!  qemu+unix:///system            the same by a socket (`?socket=/path`)
//!  qemu+ssh://user@host/system    of another host, through ssh
//!  qemu+tls://host/system         of another host, by certificates
//!  test:///default                libvirt's own driver for tests, in the process that asks
//! ```
//!
//! A query is trusted only where it stands in the configuration or on the command line: `?command=` has libvirt run a program. What manifests
//! may name are whole URIs, as `libvirt.allowed_uris` has them.

use super::config::LibvirtSettings;
use super::error::{Error, Kind, Result};

/// What is told of the forms.
pub const FORMS: [&str; 6] = [
    "qemu:///system",
    "qemu:///session",
    "qemu+unix:///system",
    "qemu+ssh://user@host/system",
    "qemu+tls://host/system",
    "test:///default",
];
/// The machines of the system.
pub const SYSTEM: &str = "qemu:///system";

/// Where the one behind a URI runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On this host, or in this process.
    Local,
    /// On another host: what lies between may go away without a word.
    Remote,
}

/// Whether a manifest may name this URI.
#[must_use]
pub fn is_allowed(uri: &str, settings: &LibvirtSettings) -> bool {
    !uri.contains(['?', '#']) && settings.allowed_uris.iter().any(|allowed| allowed == uri)
}

/// The same, with what is to be done about it.
pub fn check_named(uri: &str, settings: &LibvirtSettings) -> Result<()> {
    if is_allowed(uri, settings) {
        return Ok(());
    }
    let error = match uri.contains(['?', '#']) {
        true => Error::new(Kind::Manifest, format!("a manifest may not name `{uri}`: it has a query"))
            .advice("remove what follows the `?`"),
        false => Error::new(Kind::Manifest, format!("a manifest may not name the libvirt `{uri}`"))
            .advice("leave it out, or have it added to `libvirt.allowed_uris` of the configuration"),
    };
    Err(error.allowed(&settings.allowed_uris))
}

/// Whether a URI of somebody who is trusted has one of the supported forms, and how far it reaches.
pub fn check_form(uri: &str) -> Result<Reach> {
    form(uri).ok_or_else(|| {
        Error::new(Kind::Manifest, format!("`{uri}` is no URI of a libvirt that is supported"))
            .allowed(FORMS)
            .advice("write it as qemu:///system")
    })
}

fn form(uri: &str) -> Option<Reach> {
    if uri.contains(|letter: char| letter.is_control() || letter.is_whitespace() || letter == '#') {
        return None;
    }
    let (scheme, rest) = uri.split_once("://")?;
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    let (host, path) = rest.split_once('/')?;
    let is_qemu_path = matches!(path, "system" | "session");
    match scheme {
        "qemu" | "qemu+unix" if host.is_empty() && is_qemu_path => Some(Reach::Local),
        "qemu+ssh" | "qemu+tls" if is_host(host) && is_qemu_path => Some(Reach::Remote),
        "test" if host.is_empty() && !path.is_empty() => Some(Reach::Local),
        _ => None,
    }
}

/// `user@host:port`, of which ssh takes no part for an option.
fn is_host(text: &str) -> bool {
    let (user, rest) = text.split_once('@').map_or((None, text), |(user, rest)| (Some(user), rest));
    let (host, port) = match rest.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, port.strip_prefix(':').or(Some(""))),
            None => return false,
        },
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let is_word = |word: &str, others: &[char]| {
        !word.is_empty()
            && !word.starts_with('-')
            && word.chars().all(|letter| letter.is_ascii_alphanumeric() || others.contains(&letter))
    };
    let host_letters: &[char] = if rest.starts_with('[') { &[':', '.'] } else { &['.', '-'] };
    user.is_none_or(|user| is_word(user, &['.', '_', '-']))
        && is_word(host, host_letters)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_supported_form_is_taken_and_others_are_told_what_is_allowed() {
        for local in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///session",
            "qemu+unix:///system?socket=/run/x",
            "test:///default",
            "test:///srv/node.xml",
        ] {
            assert_eq!(check_form(local).unwrap(), Reach::Local, "{local}");
        }
        for remote in [
            "qemu+ssh://root@kvm1.example.com/system",
            "qemu+ssh://kvm1:2222/system?keyfile=/etc/key",
            "qemu+tls://192.0.2.7/system",
            "qemu+tls://[2001:db8::7]:16514/session",
        ] {
            assert_eq!(check_form(remote).unwrap(), Reach::Remote, "{remote}");
        }
        for refused in [
            "",
            "qemu",
            "qemu:///",
            "qemu://host/system",
            "qemu:///system/x",
            "qemu+tcp://host/system",
            "qemu+ext:///system?command=/bin/x",
            "qemu+ssh:///system",
            "qemu+ssh://-oProxyCommand=x/system",
            "qemu+ssh://root@-x/system",
            "qemu+ssh://host:0/system",
            "qemu+ssh://[::1/system",
            "qemu+tls://[::1]x/system",
            "test:///",
            "lxc:///system",
            "qemu:///system#x",
            "qemu:///system\0",
            "qemu:///sys tem",
        ] {
            let error = check_form(refused).unwrap_err();
            assert_eq!(error.details().place.allowed, FORMS, "{refused}");
        }
    }

    #[test]
    fn a_manifest_names_what_is_allowed_to_the_letter_and_never_a_query() {
        let settings = LibvirtSettings {
            allowed_uris: vec!["qemu:///system".to_owned(), "qemu+unix:///system?socket=/x".to_owned()],
            ..LibvirtSettings::default()
        };
        assert!(is_allowed("qemu:///system", &settings));
        assert!(check_named("qemu:///system", &settings).is_ok());
        for refused in ["qemu:///session", "qemu:///system/", "QEMU:///system", "qemu:///system?", ""] {
            let error = check_named(refused, &settings).unwrap_err();
            assert!(error.kind() == Kind::Manifest && error.details().advice.is_some(), "{refused}");
        }
        // The query is trusted where it stands, and not who repeats it.
        assert!(!is_allowed("qemu+unix:///system?socket=/x", &settings));
    }
}
