//! What the scheduler itself has to tell people: that nothing moves though something could, and that the network stays away.
//!
//! A scheduler that hangs cannot tell that it does; for that there is the watchdog of the service manager.

use super::Scheduler;
use super::core::Network;
use crate::model::error::Result;
use crate::model::job::JobState;
use crate::model::notice::{Event, Notice, clean};
use crate::service::notices;
use crate::service::queue::Telling;
use crate::sys::time::{now_epoch, rfc3339_utc};

/// When something last moved. Pure.
#[derive(Debug)]
pub(super) struct StallWatch {
    moved_at: f64,
    is_told: bool,
}

impl StallWatch {
    pub(super) fn since(now: f64) -> StallWatch {
        StallWatch { moved_at: now, is_told: false }
    }

    /// A job or a byte moved, or nothing is to be moved.
    pub(super) fn moved(&mut self, now: f64) {
        *self = StallWatch::since(now);
    }

    /// When it will have been too long.
    fn due(&self, after_s: f64) -> Option<f64> {
        (!self.is_told).then_some(self.moved_at + after_s)
    }
}

impl Scheduler {
    /// When to look whether anything has moved; never while nobody wants to know.
    pub(super) fn stall_due(&self) -> Option<f64> {
        let said = &self.settings.notifications;
        let is_wanted = said.events().contains(&Event::Stalled) && self.stopping.is_none();
        self.stall.due(said.stalled_after_s).filter(|_| is_wanted)
    }

    /// Tells people, once, that nothing has moved for too long.
    pub(super) async fn tell_stall(&mut self) {
        let now = now_epoch();
        if self.stall_due().is_none_or(|due| due > now) {
            return;
        }
        // What stands still because somebody or the network wants it to is no stall.
        let is_held = self.core.is_paused() || self.core.is_draining() || self.core.network != Network::Up;
        let (moved_at, timestamp) = (self.stall.moved_at, rfc3339_utc(now));
        let told = self.parts.queue.with(move |db| {
            let states = db.counts()?.states;
            let could_move = [JobState::Running, JobState::Queued];
            let queue_depth: u64 = could_move.iter().filter_map(|state| states.get(state.name())).sum();
            if queue_depth == 0 || is_held {
                return Ok(false);
            }
            let notice = Notice::DaemonStalled {
                queue_depth,
                idle_minutes: (now - moved_at) / 60.0,
                last_activity: rfc3339_utc(moved_at),
                timestamp,
            };
            db.tell(&format!("stalled/{moved_at}"), &notice)?;
            Ok(true)
        });
        match told.await {
            Ok(true) => {
                tracing::error!("nothing has moved for {:.0} s, though jobs could", now - moved_at);
                self.stall.is_told = true;
            }
            Ok(false) => self.stall.moved(now),
            Err(error) => self.queue_failed(&error),
        }
    }

    /// Tells people that the network has been away for so long.
    pub(super) async fn tell_outage(&mut self, seconds: f64) -> Result<()> {
        let now = now_epoch();
        let down_since = self.outlook.network.down_since().unwrap_or(now - seconds);
        let notice = Notice::NetworkOutage {
            missing: clean(&self.outlook.network.detail()),
            down_seconds: seconds,
            down_since,
            timestamp: rfc3339_utc(now),
        };
        self.parts.queue.with(move |db| db.tell(&format!("outage/{down_since}"), &notice)).await
    }

    /// Other settings: other events, other receivers.
    pub(super) async fn tell_by_settings(&mut self) {
        let telling = Telling::by(&self.settings, self.parts.news.clone());
        match self.parts.queue.with(move |db| db.set_telling(telling)).await {
            Ok(left) => notices::thrown_away(left),
            Err(error) => self.queue_failed(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_once_until_something_moves() {
        let mut watch = StallWatch::since(100.0);
        assert_eq!(watch.due(60.0), Some(160.0));
        watch.is_told = true;
        assert_eq!(watch.due(60.0), None);
        watch.moved(500.0);
        assert_eq!(watch.due(60.0), Some(560.0));
    }
}
