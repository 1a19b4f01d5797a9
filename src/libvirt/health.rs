//! How the configured libvirt stands, for `status`: what was found when it was last asked.
//!
//! It is asked only when somebody wants to know, at most once a minute, on a thread of its own. One that hangs costs nobody more than a
//! moment's patience, and that one thread until it answers. What is not here: what jobs ask of it, in processes of their own.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{LibvirtPresence, LibvirtUri, presence};
use crate::model::progress::{LibvirtState, LibvirtStatus};
use crate::sys::time::now_epoch;

/// What was found is good for so long.
const EVERY: Duration = Duration::from_secs(60);
/// Who wants to know waits for so long; then he is told what was known before.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is known of it; a clone is the same.
#[derive(Clone, Default)]
pub struct LibvirtHealth(Arc<Shared>);

impl fmt::Debug for LibvirtHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LibvirtHealth")
    }
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    answered: Notify,
}

#[derive(Default)]
struct Known {
    status: LibvirtStatus,
    /// When the newest question was put, and how long its answer may take.
    asked: Option<(Instant, Duration)>,
    is_under_way: bool,
}

impl LibvirtHealth {
    /// What is known of this one. Nobody is asked.
    #[must_use]
    pub fn known(&self, uri: &str) -> LibvirtStatus {
        let mut known = self.lock();
        known.is_about(uri);
        if !LibvirtUri(uri).may_be_served() {
            known.is_in(LibvirtState::Absent, Some("nothing of libvirt listens on this host".to_owned()));
        } else if let Some((at, within)) = known.asked.filter(|_| known.is_under_way)
            && at.elapsed() >= within
        {
            let words = format!("it has not answered for {:.0} s", at.elapsed().as_secs_f64());
            known.is_in(LibvirtState::Silent, Some(words));
        }
        known.status.clone()
    }

    /// Asks it, unless it was asked just now or listens nowhere, and waits a moment for the answer.
    pub async fn ask(&self, uri: &str, within: Duration) {
        let answered = self.0.answered.notified();
        if self.begin(uri, within) {
            // In vain is no trouble: the answer is known to whoever asks next.
            let _ = tokio::time::timeout(PATIENCE, answered).await;
        }
    }

    /// Whether there is an answer to wait for.
    fn begin(&self, uri: &str, within: Duration) -> bool {
        if !LibvirtUri(uri).may_be_served() {
            return false;
        }
        let mut known = self.lock();
        known.is_about(uri);
        if known.is_under_way {
            return known.asked.is_some_and(|(at, within)| at.elapsed() < within);
        }
        if known.asked.is_some_and(|(at, _)| at.elapsed() < EVERY) {
            return false;
        }
        known.asked = Some((Instant::now(), within));
        let (shared, asked) = (self.0.clone(), uri.to_owned());
        let thread = thread::Builder::new().name("libvirt".to_owned());
        known.is_under_way = thread.spawn(move || shared.answer(&asked, presence(&asked))).is_ok();
        known.is_under_way
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, uri: &str, found: LibvirtPresence) {
        let mut known = self.lock();
        known.is_under_way = false;
        // Another one may have been configured meanwhile: this says nothing about that.
        if known.status.uri == uri {
            match found {
                LibvirtPresence::Answers { version, driver } => {
                    known.is_in(LibvirtState::Answers, Some(format!("{driver} {version}")));
                }
                LibvirtPresence::Silent { why } => known.is_in(LibvirtState::Silent, Some(why)),
                LibvirtPresence::NotBuilt => {
                    let words = "this build knows nothing of libvirt".to_owned();
                    known.is_in(LibvirtState::Absent, Some(words));
                }
            }
        }
        drop(known);
        self.answered.notify_waiters();
    }
}

impl Known {
    /// What was known of another one is forgotten.
    fn is_about(&mut self, uri: &str) {
        if self.status.uri != uri {
            self.status = LibvirtStatus { uri: uri.to_owned(), ..LibvirtStatus::default() };
            self.asked = self.asked.filter(|_| self.is_under_way);
        }
    }

    fn is_in(&mut self, state: LibvirtState, detail: Option<String>) {
        if self.status.state != state {
            self.status.state = state;
            self.status.since = Some(now_epoch());
        }
        self.status.detail = detail;
    }
}

#[cfg(all(test, feature = "libvirt"))]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn it_is_asked_only_when_somebody_wants_to_know_and_then_not_again_at_once() {
        let (health, uri) = (LibvirtHealth::default(), "test:///default");
        assert_eq!(health.known(uri).state, LibvirtState::NotAsked);
        health.ask(uri, WITHIN).await;
        let answers = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            health.known(uri).state == LibvirtState::Answers
        });
        assert!(answers, "{:?}", health.known(uri));
        let known = health.known(uri);
        assert!(known.detail.as_ref().is_some_and(|words| words.starts_with("TEST ")), "{known:?}");
        assert!(!health.begin(uri, WITHIN), "it was asked just now");
        assert_eq!(health.known(uri).since, known.since);
        let other = "qemu+unix:///system?socket=/nowhere";
        assert_eq!(health.known(other).state, LibvirtState::NotAsked);
        assert!(health.begin(other, WITHIN), "another one is asked at once");
    }

    #[test]
    fn one_that_hangs_is_silent_when_its_time_is_over_and_is_not_asked_beside_that() {
        let (health, uri) = (LibvirtHealth::default(), "test:///default");
        assert_eq!(health.known(uri).state, LibvirtState::NotAsked);
        {
            let mut known = health.lock();
            known.is_under_way = true;
            known.asked = Some((Instant::now(), Duration::from_millis(1)));
        }
        std::thread::sleep(Duration::from_millis(5));
        assert!(!health.begin(uri, WITHIN), "there is nothing to wait for");
        assert_eq!(health.known(uri).state, LibvirtState::Silent);
        health
            .0
            .answer(uri, LibvirtPresence::Answers { version: "9.0.0".to_owned(), driver: "QEMU".to_owned() });
        assert_eq!(health.known(uri).state, LibvirtState::Answers);
    }
}
