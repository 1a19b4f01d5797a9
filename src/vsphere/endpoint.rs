//! Who is asked, as whom, and how patiently.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::config::VcConnectionSettings;
use crate::model::manifest::values::Secret;
use crate::model::retry::{JITTER, RetryPolicy};
use crate::model::thumbprint::Thumbprint;
use crate::model::web_address::WebAddress;
use crate::sys::random;
use crate::web::Trust;

/// The port of vCenter and ESXi.
pub const PORT: u16 = 443;

/// A vCenter, or a host alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How its certificate is trusted.
    pub trust: Trusted,
}

/// How a server's certificate is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trusted {
    /// Those whom the machine trusts vouch for it.
    System {
        /// Or who stands in this file (PEM).
        ca_file: Option<PathBuf>,
    },
    /// It is this one.
    Pinned(Thumbprint),
    /// Any: whoever answers is given the password. Said loudly at each connection.
    Anything,
}

impl Trusted {
    pub(super) fn as_web(&self) -> Trust<'_> {
        match self {
            Trusted::System { ca_file } => Trust::System { ca_file: ca_file.as_deref() },
            Trusted::Pinned(thumbprint) => Trust::Pinned(*thumbprint),
            Trusted::Anything => Trust::Anything,
        }
    }
}

impl Endpoint {
    pub(super) fn address(&self) -> WebAddress {
        WebAddress { is_https: true, host: self.host.clone(), port: self.port, target: "/sdk".to_owned() }
    }
}

/// An account there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// `administrator@vsphere.local`
    pub username: String,
    /// Its password.
    pub password: Secret,
}

/// How often a server is tried to be reached, and how long it may be silent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// So often after the first time.
    pub max_retries: u32,
    /// Before the first of them; it doubles from there.
    pub base_backoff: Duration,
    /// At most.
    pub max_backoff: Duration,
    /// ± this part of each wait, at random.
    pub jitter: f64,
    /// So long nothing at all may come.
    pub timeout: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience::of(&VcConnectionSettings::default())
    }
}

impl Patience {
    /// As it is configured.
    #[must_use]
    pub fn of(configured: &VcConnectionSettings) -> Patience {
        Patience {
            max_retries: configured.max_retries,
            base_backoff: Duration::from_secs_f64(configured.base_backoff_s),
            max_backoff: Duration::from_secs_f64(configured.max_backoff_s),
            jitter: if configured.enable_jitter { JITTER } else { 0.0 },
            timeout: Duration::from_secs_f64(configured.timeout_s),
        }
    }

    /// How long to wait after so many failures; none: it is given up.
    pub(super) fn wait(&self, failures: u32) -> Option<Duration> {
        let policy = RetryPolicy {
            attempts: self.max_retries.saturating_add(1),
            base_delay_s: self.base_backoff.as_secs_f64(),
            max_delay_s: self.max_backoff.as_secs_f64(),
            jitter: self.jitter,
        };
        policy.wait_s(failures, random::spread()).and_then(|wait| Duration::try_from_secs_f64(wait).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_spread_by_a_quarter() {
        let patience = Patience::default();
        for (failures, plain) in [(1, 2.0), (2, 4.0), (3, 8.0)] {
            let wait = patience.wait(failures).unwrap().as_secs_f64();
            assert!((plain * 0.75..=plain * 1.25).contains(&wait), "{failures}: {wait}");
        }
        assert_eq!(patience.wait(4), None);
    }

    #[test]
    fn a_password_is_not_shown_with_its_login() {
        let login = Login { username: "root".to_owned(), password: Secret::made("hunter2") };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
