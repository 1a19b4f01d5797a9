//! What the service tells its service manager: ready, how it stands, alive, reloading, stopping.
//!
//! Without `NOTIFY_SOCKET` all of it does nothing. The only user of sd-notify. What is not here: when to
//! ping. The scheduler's loop does that, and only while it makes progress; a timer that pings for itself
//! would prove nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The queue is open, the drop directory watched, the control socket listening.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// How the work stands, in one line; `systemctl status` shows it.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
}

/// Alive. Call it at [`watchdog_interval`].
pub fn ping() {
    send(&[NotifyState::Watchdog]);
}

/// The configuration is being read again. Must be followed by [`reloaded`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // The time lets a manager that knows `Type=notify-reload` tell this reload from an earlier one.
        Ok(time) => send(&[NotifyState::Reloading, time]),
        Err(error) => tracing::warn!("cannot tell the service manager of the reload: {error}"),
    }
}

/// The reload is over, whether the new configuration is in force or the old one stays.
pub fn reloaded(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The service is stopping.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// Starting, reloading or stopping takes longer: at least this much more time is needed.
pub fn extend_timeout(by: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// How often to [`ping`]: half of what the service manager allows; `None` if it does not ask for it.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|allowed| allowed / 2).filter(|interval| !interval.is_zero())
}

/// Whether a service manager listens.
#[must_use]
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// A line break in a status would begin another assignment of the protocol.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot reach the service manager: {error}");
    }
}
