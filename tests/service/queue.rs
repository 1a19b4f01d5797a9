//! What the queue promises: durable or not at all, in order, and no state that the table does not know.

use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::job::{JobState, Stage, WaitReason};
use hyper2kvm::model::protocol::Published;
use hyper2kvm::service::admission::Known;
use hyper2kvm::service::queue::{Change, Db, QueueHandle, StageMark, Target};
use hyper2kvm::sys::time::now_epoch;

use crate::queue_support::{accept, batch, drop_of, jobs_of, plans_below, single};

pub(crate) fn claim(attempt: u32) -> Change {
    Change::Claim { owner: "daemon-1".to_owned(), lease_until: 1e10, attempt, need_bytes: Some(10) }
}

#[test]
fn a_job_goes_its_way_and_its_batch_ends_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = Db::open(&directory.path().join("queue.db")).unwrap();
    let jobs = jobs_of(&accept(&mut db, directory.path(), batch("b", &[("one", "1"), ("two", "2")])));
    assert_eq!(db.unfinished_jobs().unwrap().len(), 2);

    db.transition(jobs[0], claim(1), "started").unwrap();
    let waiting = Change::Wait {
        reason: WaitReason::Retry,
        detail: "in 10 s".to_owned(),
        not_before: Some(1e9),
        failure: Some(Error::new(Kind::Network, "gone")),
    };
    let row = db.transition(jobs[0], waiting, "failed, tried again").unwrap();
    assert_eq!((row.state, row.failures, row.attempt), (JobState::Waiting, 1, 1));
    assert_eq!(row.waiting.unwrap().reason, WaitReason::Retry);
    assert_eq!(row.owner, None);
    db.transition(jobs[0], claim(2), "started").unwrap();
    db.transition(jobs[0], Change::Succeed(Published::default()), "published").unwrap();
    assert!(db.unsettled_batches().unwrap().is_empty(), "the other job has not ended");

    db.transition(jobs[1], Change::Fail(Error::new(Kind::Source, "no such disk")), "failed").unwrap();
    let ended = db.unsettled_batches().unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].outcome.unwrap().name(), "failed");
    assert_eq!(db.counts().unwrap().states["succeeded"], 1);
    assert_eq!(db.events(jobs[0]).unwrap().len(), 5);
}

#[test]
fn what_a_job_is_in_is_kept_for_the_timeline_and_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = Db::open(&directory.path().join("queue.db")).unwrap();
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    let batch = db.job(job).unwrap().unwrap().batch_key;
    assert!(db.phases(batch).unwrap().is_empty());
    let before = now_epoch();
    db.transition(job, claim(1), "started").unwrap();
    for stage in [Stage::Load, Stage::Load, Stage::Extraction] {
        let mark = StageMark { stage: Some(stage), progress_percentage: before, ..StageMark::default() };
        db.mark_stage(job, &mark).unwrap();
    }
    let waiting = Change::Wait {
        reason: WaitReason::DiskSpace,
        detail: "1 GiB".to_owned(),
        not_before: None,
        failure: None,
    };
    db.transition(job, waiting, "waits").unwrap();
    db.transition(job, claim(1), "goes on").unwrap();
    db.transition(job, Change::Fail(Error::new(Kind::Source, "no such disk")), "failed").unwrap();
    let phases = db.phases(batch).unwrap().remove(&job).unwrap();
    let seen: Vec<_> = phases.iter().map(|phase| (phase.state, phase.stage, phase.waiting_reason)).collect();
    assert_eq!(
        seen,
        [
            (JobState::Running, None, None),
            (JobState::Running, Some(Stage::Load), None),
            (JobState::Running, Some(Stage::Extraction), None),
            (JobState::Waiting, Some(Stage::Extraction), Some(WaitReason::DiskSpace)),
            (JobState::Running, Some(Stage::Extraction), None),
            (JobState::Failed, Some(Stage::Extraction), None),
        ]
    );
    // The database's clock is the program's, to the millisecond.
    assert!(phases.is_sorted_by(|a, b| a.at <= b.at) && phases[0].at > before - 0.01, "{phases:?}");
    assert!(phases.iter().all(|phase| phase.at <= now_epoch() + 0.01), "{phases:?}");

    db.batch_settled(batch, db.batch_run(batch).unwrap().unwrap().ended_at.unwrap(), None).unwrap();
    assert_eq!(db.prune(1e12, false).unwrap().len(), 1);
    assert!(db.phases(batch).unwrap().is_empty());
}

#[test]
fn a_change_that_the_state_machine_does_not_know_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = Db::open(&directory.path().join("queue.db")).unwrap();
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    let before = (db.job(job).unwrap(), db.events(job).unwrap());
    assert!(db.transition(job, Change::Succeed(Published::default()), "no").is_err());
    assert!(db.transition(job, Change::Retry, "no").is_err());
    assert_eq!((db.job(job).unwrap(), db.events(job).unwrap()), before);
}

#[test]
fn an_end_that_was_retried_meanwhile_is_not_recorded_as_settled_only_where_its_drop_lies() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = Db::open(&directory.path().join("queue.db")).unwrap();
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    let end = |db: &mut Db| {
        db.transition(job, claim(1), "started").unwrap();
        db.transition(job, Change::Fail(Error::new(Kind::Source, "no such disk")), "failed").unwrap();
        db.unsettled_batches().unwrap().remove(0)
    };
    let first = end(&mut db);
    db.transition(job, Change::Retry, "retried").unwrap();
    let second = end(&mut db);
    let (first_end, second_end) = (first.ended_at.unwrap(), second.ended_at.unwrap());
    assert_ne!(first_end, second_end);

    let place = directory.path().join("failed/a.json");
    assert!(!db.batch_settled(first.batch_key, first_end, Some(&place)).unwrap());
    assert_eq!(db.unsettled_batches().unwrap().len(), 1);
    assert_eq!(db.dropped(first.drop_id).unwrap().unwrap().settled_path, Some(place.clone()));
    assert!(db.batch_settled(second.batch_key, second_end, None).unwrap());
    assert!(db.unsettled_batches().unwrap().is_empty());
    assert_eq!(db.dropped(first.drop_id).unwrap().unwrap().settled_path, Some(place));
}

#[tokio::test]
async fn the_handle_serves_in_order_and_survives_a_closure_that_panics() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let queue = QueueHandle::open(&path).unwrap();
    let root = directory.path().to_owned();
    let admissions = queue
        .with(move |db| db.accept_with(&[drop_of(single("a", "1"))], &plans_below(&root), &Known::default()))
        .await
        .unwrap();
    let job = jobs_of(&admissions[0])[0];
    let broken = queue
        .with(move |db| {
            db.atomically(|db| -> Result<(), Error> {
                db.set_priority(job, 7)?;
                panic!("on purpose")
            })
        })
        .await;
    assert!(broken.is_err());
    let row = queue.with(move |db| db.job(job)).await.unwrap().unwrap();
    assert_eq!(row.priority, 0, "what broke off was undone");
    assert_eq!(queue.with(|db| db.find("a/vm")).await.unwrap(), Target::Job(job));
    queue.close().await;
    assert!(queue.with(|db| db.counts()).await.is_err());
    assert_eq!(Db::open(&path).unwrap().counts().unwrap().states["queued"], 1);
}
