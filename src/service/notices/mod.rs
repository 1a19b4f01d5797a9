//! Notifications on their way out: one task for each receiver, which sends what the queue holds for it, and sleeps.
//!
//! ```text
//!  a change in the queue ──same transaction──▶ notice ──pace──▶ delivery ──▶ webhook, email
//!                                                                  ▲            │
//!                                                                  └─ again ◀───┴─▶ delivered, or given up
//! ```
//!
//! A receiver that is slow or away holds up only what waits for it: nobody waits for these tasks. Nothing is asked in a loop: they wake
//! when the queue has news, when a time is due that they know, and at a reload. What is not here: which events there are (see
//! `queue::outbox`), and what a delivery goes through there (`queue::deliveries`).

mod bodies;
mod mail;
mod pace;
mod secrets;
mod smtp;
mod trouble;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::pace::{Pace, Pack};
use self::trouble::{Fate, Trouble};
use super::queue::{Db, Parcel, QueueHandle, Receiver};
use crate::model::config::{NotificationSettings, Settings};
use crate::model::error::Result;
use crate::sys::time::now_epoch;
use crate::sys::{failpoint, random};

/// One try, from looking up the name to the receiver's answer.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// What a receiver asks for with `Retry-After` is heeded up to this.
const LONGEST_ASKED_S: f64 = 3600.0;

/// A queue that fails is left alone for so long.
const QUEUE_REST: Duration = Duration::from_secs(5);

/// How long a try that is under way may take when the service ends; afterwards it is made again.
const FAREWELL: Duration = Duration::from_secs(1);

/// The running tasks.
#[derive(Debug)]
pub struct Notifier {
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// What each task has.
#[derive(Debug, Clone)]
struct Parts {
    queue: QueueHandle,
    settings: watch::Receiver<Arc<Settings>>,
    /// Others came while the task slept.
    is_reloaded: bool,
    news: watch::Receiver<()>,
    stop: CancellationToken,
}

impl Notifier {
    /// Starts to deliver. `news` tells whenever the queue has something new for somebody.
    #[must_use]
    pub fn start(
        queue: QueueHandle,
        settings: watch::Receiver<Arc<Settings>>,
        news: watch::Receiver<()>,
    ) -> Notifier {
        let stop = CancellationToken::new();
        let parts = Parts { queue, settings, is_reloaded: false, news, stop: stop.clone() };
        let tasks = vec![
            tokio::spawn(serve(Receiver::Webhook, parts.clone())),
            tokio::spawn(serve(Receiver::Email, parts.clone())),
            tokio::spawn(look_at_waits(parts)),
        ];
        Notifier { tasks, stop }
    }

    /// Ends all of them. What is cut off here is sent again after the next start.
    pub async fn stop(self) {
        self.stop.cancel();
        for mut task in self.tasks {
            if tokio::time::timeout(FAREWELL, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Says how many events nobody is told of, because their receiver was taken out of the configuration.
pub(super) fn thrown_away(events: usize) {
    if events > 0 {
        tracing::warn!(events, "notifications are thrown away: their receiver is no longer configured");
    }
}

/// What there is to do for a receiver.
enum Next {
    Nothing,
    Later(f64),
    Send(Box<Parcel>),
}

/// Sends what the queue holds for a receiver, one message after the other.
async fn serve(receiver: Receiver, mut parts: Parts) {
    let mut pace = Pace::default();
    loop {
        parts.news.borrow_and_update();
        // After a reload what failed is tried at once: perhaps that was what the reload mended.
        let is_reloaded =
            std::mem::take(&mut parts.is_reloaded) || parts.settings.has_changed().unwrap_or_default();
        let settings = Arc::clone(&parts.settings.borrow_and_update());
        let now = now_epoch();
        let up_to = if is_reloaded { f64::INFINITY } else { now };
        let due = match parts.next(receiver, &settings, &mut pace, (now, up_to)).await {
            Ok(Next::Send(parcel)) => match deliver(receiver, &settings, &parcel, &parts).await {
                Some(()) => continue,
                None => return,
            },
            Ok(Next::Later(at)) => Some(at),
            Ok(Next::Nothing) => None,
            Err(error) => {
                tracing::debug!(%error, receiver = receiver.name(), "the queue tells of no notifications now");
                Some(now + QUEUE_REST.as_secs_f64())
            }
        };
        if parts.pause(due).await.is_none() {
            return;
        }
    }
}

fn has(receiver: Receiver, settings: &NotificationSettings) -> bool {
    settings.enabled
        && match receiver {
            Receiver::Webhook => settings.webhook.is_some(),
            Receiver::Email => settings.email.is_some(),
        }
}

/// The message that is under way, if it is due up to then, or a new one if it is time for one.
fn next(db: &mut Db, receiver: Receiver, pace: &mut Pace, (now, up_to): (f64, f64)) -> Result<Next> {
    let send = |db: &Db| -> Result<Next> {
        Ok(db.open_delivery(receiver)?.map_or(Next::Nothing, |parcel| Next::Send(Box::new(parcel))))
    };
    match db.delivery_due(receiver)? {
        Some(due) if due > up_to => return Ok(Next::Later(due)),
        Some(_) => return send(db),
        None => {}
    }
    let all = match pace.next(now, db.notices_to_pack(receiver)?) {
        Pack::Nothing => return Ok(Next::Nothing),
        Pack::Later(at) => return Ok(Next::Later(at)),
        Pack::One => false,
        Pack::All => true,
    };
    db.pack(receiver, all, now)?;
    send(db)
}

/// One try, and what comes of it in the queue. `None`: the service ends.
async fn deliver(receiver: Receiver, settings: &Settings, parcel: &Parcel, parts: &Parts) -> Option<()> {
    failpoint::hit("notice.before-send");
    let tried_at = now_epoch();
    let try_it = tokio::time::timeout(TRY_LIMIT, send(receiver, &settings.notifications, parcel));
    let outcome = tokio::select! {
        tried = try_it => tried.unwrap_or_else(|_| {
            Err(Trouble::again(format!("no answer within {} s", TRY_LIMIT.as_secs())))
        }),
        () = parts.stop.cancelled() => return None,
    };
    failpoint::hit("notice.after-send");
    let key = parcel.delivery_key;
    let (receiver, event, delivery) = (receiver.name(), parcel.notice.name(), parcel.delivery_id.as_str());
    let Err(trouble) = outcome else {
        tracing::info!(receiver, event, delivery, tries = parcel.attempts + 1, "notified");
        return record(parts, move |db| db.delivered(key)).await;
    };
    let (now, retry) = (now_epoch(), &settings.retry);
    let first = parcel.first_tried_at.unwrap_or(tried_at);
    let is_over = now - first >= retry.give_up_after_s || trouble.fate == Fate::Never;
    let text = trouble.text;
    if is_over {
        tracing::error!(receiver, event, delivery, error = text, "a notification is given up");
        return record(parts, move |db| db.delivery_given_up(key, now, &text)).await;
    }
    let backoff = retry.backoff_s(parcel.attempts.saturating_add(1), random::spread());
    let wait = match trouble.fate {
        Fate::After(asked) => asked.clamp(0.0, LONGEST_ASKED_S).max(retry.base_delay_s),
        Fate::Again | Fate::Never => backoff,
    };
    // Said aloud once; how it goes on stands in `status`.
    if parcel.attempts == 0 {
        tracing::warn!(
            receiver,
            event,
            delivery,
            error = text,
            "a notification did not arrive; it is sent again"
        );
    } else {
        tracing::debug!(receiver, event, delivery, error = text, "a notification did not arrive again");
    }
    record(parts, move |db| db.delivery_failed(key, tried_at, now + wait, &text)).await
}

/// Writes down what came of a try, as often as it takes: what was sent must not be sent again for want of a note.
async fn record(parts: &Parts, note: impl Fn(&mut Db) -> Result<()> + Clone + Send + 'static) -> Option<()> {
    while let Err(error) = parts.queue.with(note.clone()).await {
        tracing::debug!(%error, "the outcome of a notification is not recorded yet");
        tokio::select! {
            () = tokio::time::sleep(QUEUE_REST) => {}
            () = parts.stop.cancelled() => return None,
        }
    }
    Some(())
}

async fn send(
    receiver: Receiver,
    settings: &NotificationSettings,
    parcel: &Parcel,
) -> std::result::Result<(), Trouble> {
    match (receiver, &settings.webhook, &settings.email) {
        (Receiver::Webhook, Some(webhook), _) => webhook::post(webhook, parcel).await,
        (Receiver::Email, _, Some(email)) => mail::send(email, parcel).await,
        _ => Err(Trouble::again("the receiver is not configured".to_owned())),
    }
}

/// Tells of jobs that have waited for somebody for too long.
async fn look_at_waits(mut parts: Parts) {
    loop {
        parts.news.borrow_and_update();
        let after_s = parts.settings.borrow_and_update().notifications.waiting_after_s;
        let now = now_epoch();
        let due = match parts.queue.with(move |db| db.tell_long_waits(after_s, now)).await {
            Ok(due) => due,
            Err(error) => {
                tracing::debug!(%error, "long waits were not looked at");
                Some(now + QUEUE_REST.as_secs_f64())
            }
        };
        if parts.pause(due).await.is_none() {
            return;
        }
    }
}

impl Parts {
    /// What there is to do for a receiver. `times`: now, and up to when what is due counts.
    async fn next(
        &self,
        receiver: Receiver,
        settings: &Settings,
        pace: &mut Pace,
        times: (f64, f64),
    ) -> Result<Next> {
        if !has(receiver, &settings.notifications) {
            return Ok(Next::Nothing);
        }
        let mut kept = *pace;
        let (found, kept) =
            self.queue.with(move |db| Ok((next(db, receiver, &mut kept, times)?, kept))).await?;
        *pace = kept;
        Ok(found)
    }

    /// Sleeps until something is due, new or otherwise configured. `None`: the service ends.
    async fn pause(&mut self, due: Option<f64>) -> Option<()> {
        const LONGEST_S: f64 = 3600.0;
        let sleep = async {
            match due {
                Some(at) => {
                    let seconds = (at - now_epoch()).clamp(0.001, LONGEST_S);
                    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => None,
            changed = self.news.changed() => changed.ok(),
            changed = self.settings.changed() => {
                self.is_reloaded = true;
                changed.ok()
            }
            () = sleep => Some(()),
        }
    }
}
