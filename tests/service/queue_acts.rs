//! What was done at sources outlives the jobs that did it, until it is undone.

use hyper2kvm::model::acts::{ActKind, Acts};
use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::service::queue::{Change, Db};

use crate::queue::claim;
use crate::queue_support::{accept, jobs_of, single};

fn snapshot() -> ActKind {
    ActKind::Snapshot { name: "hyper2kvm/h/b/web".to_owned(), moref: None, quiesced: None }
}

#[test]
fn what_an_ended_job_left_is_known_until_it_is_undone_and_keeps_its_batch_from_being_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let mut db = Db::open(&directory.path().join("queue.db")).unwrap();
    let job = jobs_of(&accept(&mut db, directory.path(), single("a", "1")))[0];
    let row = db.transition(job, claim(1), "started").unwrap();
    assert!(row.acts.is_empty() && db.oldest_snapshot_at().unwrap().is_none());
    let mut acts = Acts::default();
    let made = acts.intend(snapshot(), 100.0);
    let stopped = acts.intend(ActKind::ShutDown { forced: false }, 200.0);
    db.set_acts(job, &acts).unwrap();
    assert_eq!(db.oldest_snapshot_at().unwrap(), Some(100.0));
    assert!(db.jobs_to_settle().unwrap().is_empty(), "its worker is at it");
    db.transition(job, Change::Fail(Error::new(Kind::Source, "gone")), "failed").unwrap();
    let batch = db.job(job).unwrap().unwrap().batch_key;
    db.batch_settled(batch, db.batch_run(batch).unwrap().unwrap().ended_at.unwrap(), None).unwrap();
    assert_eq!(db.jobs_to_settle().unwrap()[0].job_id, job);
    assert!(db.prune(1e12, false).unwrap().is_empty());
    for number in [stopped, made] {
        acts.undone(number, 300.0).unwrap();
    }
    // Its journal says less, and is heard of later.
    let mut journal = Acts::default();
    journal.intend(snapshot(), 100.0);
    db.set_acts(job, &acts).unwrap();
    db.add_acts(job, &journal).unwrap();
    assert_eq!(db.job(job).unwrap().unwrap().acts, acts);
    assert!(db.jobs_to_settle().unwrap().is_empty() && db.oldest_snapshot_at().unwrap().is_none());
    assert_eq!(db.prune(1e12, false).unwrap().len(), 1);
}
