//! Whether the network is up: follows the kernel's links, addresses and routes and keeps one verdict.
//!
//! ```text
//!  kernel ──events──▶ netlink ──dump──▶ table ──▶ judge ──▶ hold ──▶ watch channel ──▶ scheduler
//!                     (wake-up)        (truth)   (the rule) (2 s)
//! ```
//!
//! Everything from `table` to `hold` is pure and tested without a kernel. What is not here: what an
//! outage means for jobs (the scheduler's), and any probing of hosts: nothing is ever sent.

mod hold;
mod judge;
mod netlink;
mod table;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use crate::model::config::NetworkSettings;
use hold::{Keeper, Moment};
use netlink::Kernel;

/// Between two dumps at least this, and [`DUMP_REST`] times what the last one took, so that a storm of
/// events on a host with thousands of links cannot take a whole core.
const MIN_GAP: Duration = Duration::from_millis(20);
/// A dump may take one part in this many of the time.
const DUMP_REST: u32 = 20;
/// The longest gap: with it, down is still seen well within a second.
const MAX_GAP: Duration = Duration::from_millis(300);
/// After the first failure to ask the kernel; doubles up to [`MAX_BACKOFF`].
const BASE_BACKOFF: Duration = Duration::from_millis(500);
/// Failures come back no more often than this.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How long [`NetworkMonitor::start`] waits for a first verdict.
const FIRST_VERDICT: Duration = Duration::from_secs(3);

/// Whether this machine is connected.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is.
    Up,
    /// It is not: no job starts, transfers pause.
    Down {
        /// Epoch seconds.
        since: f64,
        /// What is wrong, for people.
        why: String,
    },
    /// It cannot be told, so nothing pauses.
    Unwatched {
        /// Why not, for people.
        why: String,
    },
}

/// The verdict and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkState {
    /// The verdict.
    pub verdict: Verdict,
    /// Names in `network_monitor.required_interfaces` that do not exist here.
    pub missing_required: Vec<String>,
    /// The interfaces that decide.
    pub watched: Vec<String>,
    /// What a person would want to know besides (an interface without an address, no default route).
    pub remarks: Vec<String>,
    /// Why the kernel cannot be asked at the moment; the verdict is then the last one that is safe.
    pub trouble: Option<String>,
}

impl NetworkState {
    /// Nothing is watched, for this reason.
    #[must_use]
    pub fn unwatched(why: impl Into<String>) -> NetworkState {
        NetworkState {
            verdict: Verdict::Unwatched { why: why.into() },
            missing_required: Vec::new(),
            watched: Vec::new(),
            remarks: Vec::new(),
            trouble: None,
        }
    }

    /// Whether jobs have to wait.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.verdict, Verdict::Down { .. })
    }

    /// Since when it has been down (epoch seconds).
    #[must_use]
    pub fn down_since(&self) -> Option<f64> {
        match self.verdict {
            Verdict::Down { since, .. } => Some(since),
            _ => None,
        }
    }

    /// As `status.json` calls it: `up`, `down`, `unwatched`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.verdict {
            Verdict::Up => "up",
            Verdict::Down { .. } => "down",
            Verdict::Unwatched { .. } => "unwatched",
        }
    }

    /// One line for people: the verdict, what it rests on, and what is odd.
    #[must_use]
    pub fn detail(&self) -> String {
        let mut text = match &self.verdict {
            Verdict::Up => format!("up ({})", self.watched.join(", ")),
            Verdict::Down { why, .. } => format!("down: {why}"),
            Verdict::Unwatched { why } => format!("not watched: {why}"),
        };
        let said = |text: &str, more: &str| text.contains(more);
        for more in self.remarks.iter().chain(&self.trouble) {
            if !said(&text, more) {
                text.push_str("; ");
                text.push_str(more);
            }
        }
        text
    }
}

/// The running monitor; it ends when this is dropped.
#[derive(Debug)]
pub struct NetworkMonitor {
    state: watch::Receiver<NetworkState>,
    settings: watch::Sender<NetworkSettings>,
    task: JoinHandle<()>,
}

impl Drop for NetworkMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NetworkMonitor {
    /// Starts to follow the kernel. Returns with a first verdict, so that no job starts into an outage
    /// that was there before the service was.
    pub async fn start(settings: &NetworkSettings) -> NetworkMonitor {
        let (settings_tx, settings_rx) = watch::channel(settings.clone());
        let (state_tx, mut state) =
            watch::channel(NetworkState::unwatched("the kernel has not answered yet"));
        let task = tokio::spawn(follow(settings_rx, state_tx));
        // A kernel that does not answer is told in the state, not here.
        let _ = tokio::time::timeout(FIRST_VERDICT, state.changed()).await;
        NetworkMonitor { state, settings: settings_tx, task }
    }

    /// The state now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<NetworkState> {
        self.state.clone()
    }

    /// Other settings are in force (a reload).
    pub fn reconfigure(&self, settings: &NetworkSettings) {
        self.settings.send_if_modified(|old| {
            let other = old != settings;
            old.clone_from(settings);
            other
        });
    }
}

/// The monitor's task: watches while enabled, begins again after failures.
async fn follow(mut settings: watch::Receiver<NetworkSettings>, state: watch::Sender<NetworkState>) {
    let mut keeper = Keeper::new(Vec::new());
    let mut backoff = BASE_BACKOFF;
    loop {
        let current = settings.borrow_and_update().clone();
        if !current.enabled {
            keeper.rest();
            publish(&state, &NetworkState::unwatched("network_monitor.enabled is false"));
            if settings.changed().await.is_err() {
                return;
            }
            continue;
        }
        keeper.require(current.required_interfaces);
        let trouble = match watch_kernel(&mut settings, &state, &mut keeper, &mut backoff).await {
            Ended::Reconfigured => continue,
            Ended::Dropped => return,
            Ended::Failed(trouble) => trouble,
        };
        keeper.blind(trouble);
        keeper.state().inspect(|known| publish(&state, known));
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Why the kernel is no longer watched.
enum Ended {
    Reconfigured,
    Dropped,
    Failed(String),
}

async fn watch_kernel(
    settings: &mut watch::Receiver<NetworkSettings>,
    state: &watch::Sender<NetworkState>,
    keeper: &mut Keeper,
    backoff: &mut Duration,
) -> Ended {
    let mut kernel = match Kernel::subscribe() {
        Ok(kernel) => kernel,
        Err(trouble) => return Ended::Failed(trouble),
    };
    loop {
        // What is queued happened before this dump, so the dump has it.
        kernel.drain();
        let asked = Instant::now();
        match kernel.dump().await {
            Ok(table) => keeper.observe(&table, now()),
            Err(trouble) => return Ended::Failed(trouble),
        }
        *backoff = BASE_BACKOFF;
        keeper.state().inspect(|known| publish(state, known));
        let gap = (asked.elapsed() * DUMP_REST).clamp(MIN_GAP, MAX_GAP);
        let quiet_until = asked + gap;
        loop {
            let deadline = keeper.deadline();
            tokio::select! {
                changed = kernel.changed() => match changed {
                    Ok(()) => break,
                    Err(trouble) => return Ended::Failed(trouble),
                },
                () = at(deadline) => {
                    keeper.tick(now());
                    keeper.state().inspect(|known| publish(state, known));
                }
                changed = settings.changed() => {
                    return if changed.is_err() { Ended::Dropped } else { Ended::Reconfigured };
                }
            }
        }
        sleep_until(quiet_until.into()).await;
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Moment {
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { steady: Instant::now(), epoch: epoch.as_secs_f64() }
}

/// Hands the state on if it differs, and logs what a person should know: each change of verdict once.
fn publish(channel: &watch::Sender<NetworkState>, known: &NetworkState) {
    channel.send_if_modified(|old| {
        if old == known {
            return false;
        }
        if old.name() != known.name() || old.trouble != known.trouble {
            let detail = known.detail();
            match (&known.verdict, &known.trouble) {
                (Verdict::Up, _) => tracing::info!("network: {detail}"),
                (Verdict::Unwatched { .. }, None) => {
                    tracing::info!("network: {detail}; jobs never wait for it");
                }
                _ => tracing::warn!("network: {detail}"),
            }
        }
        if old.missing_required != known.missing_required && !known.missing_required.is_empty() {
            let names = known.missing_required.join(", ");
            tracing::warn!("network: required interfaces that do not exist here: {names}");
        }
        old.clone_from(known);
        true
    });
}
