//! Which databases are opened, which are refused, and how a long history costs nothing at the start.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper2kvm::model::api::JobFilter;
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::job::JobState;
use hyper2kvm::service::queue::{APPLICATION_ID, Db, Target, VERSION};
use rusqlite::Connection;

use crate::queue_support::{accept, jobs_of, single};

/// A queue as version 1 left it: two ended batches and one whose job waits.
const SAVED_V1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/saved/queue-v1.db");

#[test]
fn a_new_queue_is_private_and_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    drop(Db::open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let raw = Connection::open(&path).unwrap();
    let pragma = |name: &str| raw.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).unwrap();
    assert_eq!(pragma("application_id"), APPLICATION_ID);
    assert_eq!(pragma("user_version"), VERSION);
}

#[test]
fn a_queue_of_a_newer_version_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    drop(Db::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
    let before = fs::read(&path).unwrap();
    let error = Db::open(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_of_something_else_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&path).unwrap();
    let error = Db::open(&path).unwrap_err();
    assert!(error.to_string().contains("not a queue"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);

    fs::write(&path, "this is no database at all, but a text that is long enough to have a header").unwrap();
    assert!(Db::open(&path).unwrap_err().to_string().contains("damaged"));
}

#[test]
fn a_queue_that_another_process_has_open_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let _first = Db::open(&path).unwrap();
    let error = Db::open(&path).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn a_queue_that_version_1_saved_is_read_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    fs::copy(SAVED_V1, &path).unwrap();
    let mut db = Db::open(&path).unwrap();
    let states: Vec<(String, JobState)> = db
        .jobs(&JobFilter::default())
        .unwrap()
        .into_iter()
        .rev()
        .map(|job| (job.batch_id, job.state))
        .collect();
    assert_eq!(
        states,
        [
            ("done".to_owned(), JobState::Succeeded),
            ("broken".to_owned(), JobState::Failed),
            ("open".to_owned(), JobState::Waiting),
        ]
    );
    for job in db.jobs(&JobFilter::default()).unwrap() {
        assert_eq!(db.plan(job.job_id).unwrap().vm_id, "vm");
        assert!(!db.events(job.job_id).unwrap().is_empty());
        assert!(!db.drop_bytes(db.batch(&job.batch_id).unwrap().unwrap().drop_id).unwrap().is_empty());
    }
    assert_eq!(db.flag("paused").unwrap().as_deref(), Some("true"));
    jobs_of(&accept(&mut db, Path::new("/results"), single("new", "N")));
    assert_eq!(db.unfinished_jobs().unwrap().len(), 2);
}

#[test]
fn a_history_of_a_hundred_thousand_jobs_costs_nothing_at_the_start() {
    const JOBS: u32 = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let mut db = Db::open(&path).unwrap();
    let job = jobs_of(&accept(&mut db, directory.path(), single("first", "F")))[0];
    drop(db);
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch(&format!(
        "PRAGMA synchronous = OFF;
         BEGIN;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {JOBS})
         INSERT INTO batch (batch_id, run, content_sha256, submission, drop_id, accepted_at, ended_at, outcome, settled_at)
             SELECT 'old-' || i, 1, 'c' || i, submission, drop_id, 1, 2, 'completed', 3 FROM n, batch WHERE batch_key = 1;
         INSERT INTO job (batch_key, vm_id, vm_name, state, priority, submitted_at, completed_at, needs_network,
                          depends_on, content_sha256, output_directory, plan)
             SELECT batch.batch_key, 'vm', 'name', 'succeeded', 0, 1, 2, 0, '[]', 'c', '/out/' || batch.batch_key, job.plan
             FROM batch, job WHERE batch.batch_key > 1 AND job.job_id = {job};
         COMMIT;"
    ))
    .unwrap();
    drop(raw);

    let start = Instant::now();
    let mut db = Db::open(&path).unwrap();
    assert_eq!(db.unfinished_jobs().unwrap().len(), 1);
    assert_eq!(db.counts().unwrap().states["succeeded"], u64::from(JOBS));
    assert_eq!(db.unfinished_batches().unwrap().len(), 1);
    assert!(db.unsettled_batches().unwrap().is_empty());
    assert_eq!(db.drops_to_move().unwrap().len(), 1);
    assert_eq!(
        db.find("old-77777").unwrap(),
        Target::Batch { batch_id: "old-77777".to_owned(), jobs: vec![77_778] }
    );
    jobs_of(&accept(&mut db, directory.path(), single("second", "S")));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
