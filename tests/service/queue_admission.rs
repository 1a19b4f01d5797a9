//! What a second drop means, through the real database: rows, skipped jobs, places of results.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use hyper2kvm::model::api::JobFilter;
use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::job::{BatchState, JobState};
use hyper2kvm::model::planner::{BatchName, Rerun, Submission};
use hyper2kvm::model::protocol::Published;
use hyper2kvm::service::admission::Known;
use hyper2kvm::service::queue::{Admission, Change, Db, JobRow, NewDrop};

use crate::queue::claim;
use crate::queue_support::{
    accept, accept_with, batch, drop_of, jobs_of, plan, plans_below, single, submission,
};

struct Scene {
    root: tempfile::TempDir,
    db: Db,
}

impl Scene {
    fn new() -> Scene {
        let root = tempfile::tempdir().unwrap();
        let db = Db::open(&root.path().join("queue.db")).unwrap();
        Scene { root, db }
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    fn drop(&mut self, submission: Submission) -> Admission {
        let root = self.root.path().to_owned();
        accept(&mut self.db, &root, submission)
    }

    fn accepted(&mut self, submission: Submission) -> Vec<JobRow> {
        let jobs = jobs_of(&self.drop(submission));
        jobs.into_iter().map(|job| self.db.job(job).unwrap().unwrap()).collect()
    }

    fn refused(&mut self, submission: Submission) -> Error {
        match self.drop(submission) {
            Admission::Refused(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// The job's worker puts a result where the plan says.
    fn succeed(&mut self, job: &JobRow) {
        self.db.transition(job.job_id, claim(1), "started").unwrap();
        let result = job.output_directory.join("disk-0.qcow2");
        fs::create_dir_all(&job.output_directory).unwrap();
        fs::write(&result, "result").unwrap();
        let published = Published {
            directory: job.output_directory.clone(),
            outputs: BTreeMap::from([(result, Some("sum".to_owned()))]),
            report: Some(job.output_directory.join("report.json")),
            ..Published::default()
        };
        self.db.transition(job.job_id, Change::Succeed(published), "published").unwrap();
    }

    fn fail(&mut self, job: &JobRow) {
        let error = Error::new(Kind::Source, "unreadable");
        self.db.transition(job.job_id, Change::Fail(error), "failed").unwrap();
    }
}

fn rerun(mut submission: Submission, rerun: Rerun) -> Submission {
    submission.rerun = rerun;
    submission
}

#[test]
fn the_same_content_is_refused_while_it_runs_whatever_its_name() {
    let mut scene = Scene::new();
    scene.accepted(single("web", "A"));
    let error = scene.refused(single("copy-of-web", "A"));
    assert_eq!(error.kind(), Kind::Duplicate);
    assert!(error.to_string().contains("`web`"), "{error}");
    assert_eq!(scene.db.unfinished_jobs().unwrap().len(), 1);
}

#[test]
fn content_that_succeeded_is_skipped_and_stands_for_the_earlier_result() {
    let mut scene = Scene::new();
    let first = scene.accepted(single("web", "A")).remove(0);
    scene.succeed(&first);
    let again = scene.accepted(single("web", "A")).remove(0);
    assert_eq!(again.state, JobState::Skipped);
    assert_eq!(again.outputs.len(), 1);
    assert_eq!(again.output_directory, first.output_directory);
    assert!(
        scene.db.events(again.job_id).unwrap().iter().any(|event| event.message.contains("already_done"))
    );
    let run = scene.db.batch("web").unwrap().unwrap();
    assert_eq!((run.run, run.outcome), (2, Some(BatchState::Completed)));
    // A third time it is the skipped job's turn to stand for it.
    assert_eq!(scene.accepted(single("web", "A"))[0].state, JobState::Skipped);
}

#[test]
fn a_batch_continues_where_it_failed() {
    let mut scene = Scene::new();
    let jobs = scene.accepted(batch("b", &[("one", "1"), ("two", "2"), ("three", "3")]));
    scene.succeed(&jobs[0]);
    scene.fail(&jobs[1]);
    scene.db.transition(jobs[2].job_id, Change::Cancel, "cancelled").unwrap();
    let again =
        scene.accepted(batch("b", &[("one", "1"), ("two", "2 mended"), ("three", "3"), ("four", "4")]));
    let states: Vec<JobState> = again.iter().map(|job| job.state).collect();
    assert_eq!(states, [JobState::Skipped, JobState::Queued, JobState::Queued, JobState::Queued]);
    assert_eq!(again[1].output_directory, jobs[1].output_directory, "it goes on from its partial results");
}

#[test]
fn a_vm_whose_result_is_gone_runs_again_when_its_batch_continues() {
    let mut scene = Scene::new();
    let jobs = scene.accepted(batch("b", &[("one", "1"), ("two", "2")]));
    scene.succeed(&jobs[0]);
    scene.fail(&jobs[1]);
    fs::remove_dir_all(&jobs[0].output_directory).unwrap();
    let again = scene.accepted(batch("b", &[("one", "1"), ("two", "2")]));
    assert_eq!(again[0].state, JobState::Queued);
    assert_eq!(again[0].output_directory, jobs[0].output_directory);
}

#[test]
fn a_changed_vm_that_succeeded_has_to_be_asked_for_and_its_result_lies_beside_the_old_one() {
    let mut scene = Scene::new();
    let first = scene.accepted(batch("b", &[("one", "1")])).remove(0);
    scene.succeed(&first);
    assert_eq!(scene.refused(batch("b", &[("one", "1 changed")])).kind(), Kind::Duplicate);
    assert_eq!(scene.db.batch("b").unwrap().unwrap().run, 1, "a refusal leaves no row");
    let second = scene.accepted(rerun(batch("b", &[("one", "1 changed")]), Rerun::Changed)).remove(0);
    assert_eq!(second.output_directory, scene.root().join("b/one-2"));
    scene.succeed(&second);
    let third = scene.accepted(rerun(batch("b", &[("one", "1 changed")]), Rerun::All)).remove(0);
    assert_eq!(third.output_directory, scene.root().join("b/one-3"));
    // A rerun that failed goes on in the place it had.
    scene.fail(&third);
    let fourth = scene.accepted(rerun(batch("b", &[("one", "1 changed")]), Rerun::All)).remove(0);
    assert_eq!(fourth.output_directory, scene.root().join("b/one-3"));
}

#[test]
fn a_result_that_was_replaced_stands_for_nothing_any_more() {
    let mut scene = Scene::new();
    let first = scene.accepted(single("web", "A")).remove(0);
    scene.succeed(&first);
    // As with `on_exists: replace`: the new result takes the old one's place.
    let directory = first.output_directory.clone();
    let in_its_place = move |submission: &Submission, _: &str, _: &str| {
        Ok(submission.vms.iter().map(|vm| plan(vm, directory.clone())).collect())
    };
    let changed = drop_of(rerun(single("web", "B"), Rerun::Changed));
    let second = jobs_of(&accept_with(&mut scene.db, &[changed], &in_its_place)[0])[0];
    let second = scene.db.job(second).unwrap().unwrap();
    scene.succeed(&second);
    let back = scene.accepted(rerun(single("web", "A"), Rerun::Changed)).remove(0);
    assert_eq!(back.state, JobState::Queued, "the result of A is not there any more");
}

#[test]
fn two_people_with_one_file_name_do_not_meet() {
    let mut scene = Scene::new();
    let mine = scene.accepted(single("web", "A")).remove(0);
    let yours = scene.accepted(single("web", "B")).remove(0);
    assert_eq!((mine.batch_id.as_str(), yours.batch_id.as_str()), ("web", "web-2"));
    scene.succeed(&mine);
    scene.fail(&yours);
    assert_eq!(scene.accepted(single("web", "B mended"))[0].batch_id, "web-2");
}

#[test]
fn no_two_jobs_write_to_one_place() {
    let mut scene = Scene::new();
    let directory = scene.root().join("same");
    let plans = move |submission: &Submission, _: &str, _: &str| {
        Ok(submission.vms.iter().map(|vm| plan(vm, directory.clone())).collect())
    };
    let both = drop_of(batch("b", &[("one", "1"), ("two", "2")]));
    match &accept_with(&mut scene.db, &[both], &plans)[0] {
        Admission::Refused(error) => assert_eq!(error.kind(), Kind::Manifest),
        accepted => panic!("{accepted:?}"),
    }
    let drops = [drop_of(single("a", "1")), drop_of(single("b", "2"))];
    let admissions = accept_with(&mut scene.db, &drops, &plans);
    assert_eq!(jobs_of(&admissions[0]).len(), 1);
    match &admissions[1] {
        Admission::Refused(error) => {
            assert_eq!(error.kind(), Kind::Exists);
            assert!(error.to_string().contains("a/vm"), "{error}");
        }
        accepted => panic!("{accepted:?}"),
    }
}

#[test]
fn an_earlier_run_is_not_retried_once_its_batch_went_on() {
    let mut scene = Scene::new();
    let first = scene.accepted(single("web", "A")).remove(0);
    scene.fail(&first);
    let second = scene.accepted(single("web", "A")).remove(0);
    let error = scene.db.transition(first.job_id, Change::Retry, "retry").unwrap_err();
    assert_eq!(error.kind(), Kind::Duplicate);
    scene.fail(&second);
    assert_eq!(scene.db.unsettled_batches().unwrap().len(), 2);
    scene.db.transition(second.job_id, Change::Retry, "retry").unwrap();
    assert_eq!(scene.db.unfinished_batches().unwrap().len(), 1, "a retry opens the batch again");
}

#[test]
fn a_batch_without_vms_has_ended_when_it_is_accepted() {
    let mut scene = Scene::new();
    assert!(scene.accepted(submission(BatchName::Named("b".to_owned()), Rerun::Failed, &[])).is_empty());
    assert_eq!(scene.db.batch("b").unwrap().unwrap().outcome, Some(BatchState::Completed));
}

#[test]
fn a_refused_drop_does_not_touch_the_others_of_its_transaction() {
    let mut scene = Scene::new();
    let root = scene.root().to_owned();
    let drops = [drop_of(single("a", "1")), drop_of(single("b", "1")), drop_of(single("c", "2"))];
    let admissions = accept_with(&mut scene.db, &drops, &plans_below(&root));
    assert!(matches!(admissions[1], Admission::Refused(_)));
    assert_eq!(scene.db.unfinished_jobs().unwrap().len(), 2);
}

#[test]
fn acceptance_asks_for_what_it_has_to_know_and_looks_at_no_file_itself() {
    let mut scene = Scene::new();
    let first = scene.accepted(batch("b", &[("one", "1"), ("two", "2")]));
    scene.succeed(&first[0]);
    scene.fail(&first[1]);
    let result = first[0].output_directory.join("disk-0.qcow2");
    let again = [drop_of(batch("b", &[("one", "1"), ("two", "2 mended")]))];
    let plans = plans_below(scene.root());
    let before = scene.db.jobs(&JobFilter::default()).unwrap().len();
    assert_eq!(
        scene.db.accept_with(&again, &plans, &Known::default()).unwrap(),
        [Admission::Asks(BTreeSet::from([result.clone()]))]
    );
    assert_eq!(scene.db.jobs(&JobFilter::default()).unwrap().len(), before, "a question writes nothing");
    // The file is there; what counts is what was told.
    let mut told = Known::default();
    told.learn(result.clone(), false);
    assert!(result.exists());
    let admissions = scene.db.accept_with(&again, &plans, &told).unwrap();
    let states: Vec<JobState> =
        jobs_of(&admissions[0]).into_iter().map(|job| scene.db.job(job).unwrap().unwrap().state).collect();
    assert_eq!(states, [JobState::Queued, JobState::Queued]);
}

#[test]
fn a_password_of_a_drop_is_nowhere_in_the_queue() {
    let mut scene = Scene::new();
    let text = "manifest_version: \"1.0\"\ndisks: [{id: boot, source_format: raw, local_path: /srv/boot.raw}]\n\
                configuration:\n  users:\n    users:\n      - name: root\n        password: correct-horse\n";
    let mut settings = Settings::defaults(scene.root(), 1);
    settings.credentials.allow_inline = true;
    let submission =
        Submission::read(text.as_bytes(), "web.yaml", Path::new("/incoming"), &settings).unwrap();
    let drop = NewDrop::new(text.as_bytes().to_vec(), None, submission);
    let admission = scene.db.accept(&[drop], &settings, &Known::default()).unwrap().remove(0);
    let Admission::Accepted { drop_id, jobs, .. } = admission else { panic!("{admission:?}") };
    assert_eq!(jobs.len(), 1);
    let kept = String::from_utf8(scene.db.drop_bytes(drop_id).unwrap()).unwrap();
    assert_eq!(kept, text.replace("correct-horse", "\"[redacted]\""));
    for entry in fs::read_dir(scene.root()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(13).any(|window| window == b"correct-horse"));
    }
}
