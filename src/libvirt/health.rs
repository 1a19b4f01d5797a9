//! How the configured libvirt stands, for `status`: what was found when it was last asked.
//!
//! It is asked only when somebody wants to know, at most once a minute, on a thread of its own; one that was found to be away, more often. One that
//! hangs costs nobody more than a moment's patience, and that one thread until it answers. That it is back is told to whoever waits for that.
//! What is not here: what jobs ask of it, in processes of their own.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::{LibvirtPresence, LibvirtUri, presence};
use crate::model::progress::{LibvirtState, LibvirtStatus};
use crate::sys::time::now_epoch;

/// That it answers is good for so long, …
const EVERY: Duration = Duration::from_secs(60);
/// … and that it does not, for so long.
const AGAIN: Duration = Duration::from_secs(3);
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
    /// How often it was found to be back.
    returns: watch::Sender<u64>,
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

    /// Asks it again and again until it answers, for so long at most: somebody waits for that.
    pub async fn ask_until_it_answers(&self, uri: &str, within: Duration, for_long: Duration) {
        let begun = Instant::now();
        loop {
            self.ask(uri, within).await;
            if self.known(uri).state == LibvirtState::Answers || begun.elapsed() >= for_long {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Somebody found it to be away: that it answers, as was found before, is not good any more.
    pub fn doubt(&self) {
        let mut known = self.lock();
        known.asked = known.asked.filter(|_| known.is_under_way);
    }

    /// Changes whenever it is back after it was found to be away.
    #[must_use]
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.0.returns.subscribe()
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
        let good_for = if known.status.state == LibvirtState::Answers { EVERY } else { AGAIN };
        if known.asked.is_some_and(|(at, _)| at.elapsed() < good_for) {
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
        let is_late = known.asked.is_some_and(|(at, within)| at.elapsed() >= within);
        let was_away = is_late || matches!(known.status.state, LibvirtState::Silent | LibvirtState::Absent);
        let mut is_back = false;
        // Another one may have been configured meanwhile: this says nothing about that.
        if known.status.uri == uri {
            match found {
                LibvirtPresence::Answers { version, driver } => {
                    known.is_in(LibvirtState::Answers, Some(format!("{driver} {version}")));
                    is_back = was_away;
                }
                LibvirtPresence::Silent { why } => known.is_in(LibvirtState::Silent, Some(why)),
                LibvirtPresence::NotBuilt => {
                    let words = "this build knows nothing of libvirt".to_owned();
                    known.is_in(LibvirtState::Absent, Some(words));
                }
            }
        }
        if is_back {
            self.returns.send_modify(|returns| *returns += 1);
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
        let returns = health.returns();
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
        assert!(returns.has_changed().unwrap(), "it is back");
    }

    #[tokio::test]
    async fn one_that_is_away_is_asked_again_soon_and_that_it_is_back_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node.xml");
        let uri = format!("test://{}", node.display());
        let health = LibvirtHealth::default();
        let mut returns = health.returns();
        health.ask_until_it_answers(&uri, WITHIN, Duration::ZERO).await;
        let silent = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            health.known(&uri).state == LibvirtState::Silent
        });
        assert!(silent && !returns.has_changed().unwrap(), "{:?}", health.known(&uri));
        std::fs::write(&node, "<node><domain type='test'><name>a</name><memory>1</memory><os><type>hvm</type></os></domain></node>")
            .unwrap();
        health.ask_until_it_answers(&uri, WITHIN, WITHIN).await;
        assert_eq!(health.known(&uri).state, LibvirtState::Answers);
        assert_eq!(*returns.borrow_and_update(), 1);
        // Somebody doubts it, and it answers: nothing was found to be otherwise.
        health.doubt();
        assert!(health.begin(&uri, WITHIN));
        health.ask_until_it_answers(&uri, WITHIN, WITHIN).await;
        assert!(!returns.has_changed().unwrap());
    }
}
