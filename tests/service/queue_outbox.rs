//! The outbox: what is told is as true and as durable as the change that it tells of, and each message has one id.

use std::path::Path;

use hyper2kvm::model::config::{Fragment, Overrides, Settings, resolve};
use hyper2kvm::model::error::{Error, Kind, Result};
use hyper2kvm::model::job::WaitReason;
use hyper2kvm::model::notice::Notice;
use hyper2kvm::model::protocol::Published;
use hyper2kvm::service::queue::{Change, Db, Parcel, Receiver, Telling};
use tokio::sync::watch;

use crate::queue::claim;
use crate::queue_support::{accept, batch, jobs_of, single};

fn settings(keys: &str) -> Settings {
    let text = format!("notifications: {{enabled: true, on_success: true, on_batch_end: true, {keys}}}\n");
    let fragment = Fragment { path: "c.yaml".into(), bytes: text.into_bytes() };
    resolve(&[fragment], &Overrides::default(), 2).unwrap()
}

const WEBHOOK: &str = "webhook_url: \"http://h/\"";
const BOTH: &str =
    "webhook_url: \"http://h/\", email_enabled: true, email_smtp_host: m, email_from: a@b.c, email_to: a@b.c";

fn open(directory: &Path, keys: &str) -> Db {
    let mut db = Db::open(&directory.join("queue.db")).unwrap();
    db.set_telling(Telling::by(&settings(keys), watch::channel(()).0)).unwrap();
    db
}

fn fail(db: &mut Db, job: i64, attempt: u32) -> Result<()> {
    db.transition(job, claim(attempt), "started")?;
    db.transition(job, Change::Fail(Error::new(Kind::Source, "no such disk")), "failed").map(drop)
}

/// The next message, made if there is none.
fn parcel(db: &mut Db, receiver: Receiver, all: bool) -> Parcel {
    if db.open_delivery(receiver).unwrap().is_none() {
        db.pack(receiver, all, 1.0).unwrap();
    }
    db.open_delivery(receiver).unwrap().unwrap()
}

/// The names of all that waits, delivered one after the other.
fn drained(db: &mut Db, receiver: Receiver) -> Vec<&'static str> {
    let mut names = Vec::new();
    while db.notices_to_pack(receiver).unwrap() > 0 {
        let parcel = parcel(db, receiver, false);
        names.push(parcel.notice.name());
        db.delivered(parcel.delivery_key).unwrap();
    }
    names
}

#[test]
fn a_notice_is_there_exactly_if_its_change_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), WEBHOOK);
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    let undone = db.atomically(|db| {
        fail(db, job, 1)?;
        Err::<(), Error>(Error::internal("undone"))
    });
    assert!(undone.is_err());
    assert_eq!(db.notices_to_pack(Receiver::Webhook).unwrap(), 0);
    fail(&mut db, job, 1).unwrap();
    drop(db);
    let mut db = open(directory.path(), WEBHOOK);
    assert_eq!(db.notices_to_pack(Receiver::Email).unwrap(), 0);
    assert_eq!(drained(&mut db, Receiver::Webhook), ["conversion_failure", "batch_ended"]);
}

#[test]
fn a_message_keeps_its_id_and_its_content_over_tries_and_restarts_and_another_has_another() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), BOTH);
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    fail(&mut db, job, 1).unwrap();
    let first = parcel(&mut db, Receiver::Webhook, false);
    db.delivery_failed(first.delivery_key, 5.0, 15.0, "away").unwrap();
    drop(db);
    let mut db = open(directory.path(), BOTH);
    let again = parcel(&mut db, Receiver::Webhook, false);
    assert_eq!((&again.delivery_id, &again.notice), (&first.delivery_id, &first.notice));
    assert_eq!((again.attempts, again.first_tried_at, again.due_at), (1, Some(5.0), 15.0));
    assert_ne!(parcel(&mut db, Receiver::Email, false).delivery_id, first.delivery_id);
    assert_eq!(db.outbox().unwrap().unwrap().last_error.as_deref(), Some("webhook: away"));

    db.delivered(again.delivery_key).unwrap();
    assert_eq!(drained(&mut db, Receiver::Webhook), ["batch_ended"]);
    db.transition(job, Change::Retry, "retried").unwrap();
    fail(&mut db, job, 2).unwrap();
    let second = parcel(&mut db, Receiver::Webhook, false);
    assert_ne!(second.delivery_id, first.delivery_id, "it has failed once more");
    let Notice::ConversionFailure { retry_count, job_id, .. } = second.notice else { panic!("{second:?}") };
    assert_eq!((retry_count, job_id), (1, Some(job)));

    let other = tempfile::tempdir().unwrap();
    let mut db = open(other.path(), BOTH);
    let job = jobs_of(&accept(&mut db, other.path(), single("a", "1")))[0];
    fail(&mut db, job, 1).unwrap();
    assert_ne!(parcel(&mut db, Receiver::Webhook, false).delivery_id, first.delivery_id, "another queue");
}

#[test]
fn many_notices_become_one_message_that_stays_as_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), WEBHOOK);
    let jobs = jobs_of(&accept(
        &mut db,
        directory.path(),
        batch("b", &[("one", "1"), ("two", "2"), ("three", "3")]),
    ));
    fail(&mut db, jobs[0], 1).unwrap();
    fail(&mut db, jobs[1], 1).unwrap();
    let made = parcel(&mut db, Receiver::Webhook, true);
    fail(&mut db, jobs[2], 1).unwrap();
    assert_eq!(parcel(&mut db, Receiver::Webhook, true), made);
    let Notice::Summary { counts, lines, more, .. } = &made.notice else { panic!("{made:?}") };
    assert_eq!((counts["conversion_failure"], lines.len(), *more), (2, 2, 0));
    db.delivered(made.delivery_key).unwrap();
    assert_eq!(drained(&mut db, Receiver::Webhook), ["conversion_failure", "batch_ended"]);
}

#[test]
fn what_was_given_up_is_told_until_its_history_is_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), WEBHOOK);
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    fail(&mut db, job, 1).unwrap();
    let made = parcel(&mut db, Receiver::Webhook, true);
    db.delivery_given_up(made.delivery_key, 100.0, "never").unwrap();
    let outbox = db.outbox().unwrap().unwrap();
    assert_eq!(
        (outbox.pending, outbox.given_up, outbox.last_error.as_deref()),
        (0, 1, Some("webhook: never"))
    );
    assert!(db.open_delivery(Receiver::Webhook).unwrap().is_none());
    db.prune(200.0, false).unwrap();
    assert_eq!(db.outbox().unwrap().unwrap().given_up, 0);
}

#[test]
fn a_batch_that_is_done_already_has_ended_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), WEBHOOK);
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    db.transition(job, claim(1), "started").unwrap();
    db.transition(job, Change::Succeed(Published::default()), "published").unwrap();
    assert_eq!(drained(&mut db, Receiver::Webhook), ["conversion_success", "batch_ended"]);
    jobs_of(&accept(&mut db, directory.path(), single("a", "1")));
    assert_eq!(drained(&mut db, Receiver::Webhook), ["batch_ended"]);
}

#[test]
fn nobody_is_told_what_nobody_wants_to_know() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), &format!("{WEBHOOK}, on_failure: false"));
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    fail(&mut db, job, 1).unwrap();
    assert_eq!(drained(&mut db, Receiver::Webhook), ["batch_ended"]);
    let silent = Settings::defaults(directory.path(), 2);
    db.set_telling(Telling::by(&silent, watch::channel(()).0)).unwrap();
    db.transition(job, Change::Retry, "retried").unwrap();
    fail(&mut db, job, 2).unwrap();
    assert!(db.outbox().unwrap().is_none());
    assert_eq!(db.notices_to_pack(Receiver::Webhook).unwrap(), 0);
}

#[test]
fn a_receiver_that_is_taken_out_takes_with_it_only_what_was_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), BOTH);
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    fail(&mut db, job, 1).unwrap();
    parcel(&mut db, Receiver::Email, true);
    let gone = db.set_telling(Telling::by(&settings(WEBHOOK), watch::channel(()).0)).unwrap();
    assert_eq!(gone, 2);
    assert!(db.open_delivery(Receiver::Email).unwrap().is_none());
    assert_eq!(drained(&mut db, Receiver::Webhook).len(), 2);
}

#[test]
fn each_long_wait_for_somebody_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), WEBHOOK);
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    let wait = |reason| Change::Wait { reason, detail: "for it".to_owned(), not_before: None, failure: None };
    db.transition(job, wait(WaitReason::Paused), "waits").unwrap();
    assert_eq!(db.tell_long_waits(60.0, 1e12).unwrap(), None, "who paused it knows that it waits");
    db.transition(job, wait(WaitReason::Auth), "waits").unwrap();
    let since = db.job(job).unwrap().unwrap().waiting.unwrap().since;
    assert_eq!(db.tell_long_waits(60.0, since + 59.0).unwrap(), Some(since + 60.0));
    assert_eq!(db.tell_long_waits(60.0, since + 60.0).unwrap(), None);
    assert_eq!(db.tell_long_waits(60.0, since + 1e6).unwrap(), None);
    assert_eq!(drained(&mut db, Receiver::Webhook), ["job_waiting"]);
    db.transition(job, Change::Requeue, "goes on").unwrap();
    db.transition(job, wait(WaitReason::Auth), "waits").unwrap();
    assert_eq!(db.tell_long_waits(60.0, 1e12).unwrap(), None);
    assert_eq!(drained(&mut db, Receiver::Webhook), ["job_waiting"]);
}

#[test]
fn a_daemon_that_was_not_stopped_is_told_of_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = open(directory.path(), WEBHOOK);
    db.begin_service("1@host").unwrap();
    db.end_service().unwrap();
    db.begin_service("2@host").unwrap();
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    db.transition(job, claim(1), "started").unwrap();
    assert_eq!(db.notices_to_pack(Receiver::Webhook).unwrap(), 0);
    drop(db);
    let mut db = open(directory.path(), WEBHOOK);
    db.begin_service("3@host").unwrap();
    let told = parcel(&mut db, Receiver::Webhook, true);
    let Notice::DaemonRestarted { previous, interrupted_jobs, .. } = &told.notice else { panic!("{told:?}") };
    assert_eq!((previous.as_str(), *interrupted_jobs), ("2@host", 1));
}
