//! Entries of a batch that stand for VMs of a server, in the queue: their VMs and their own end are there together, once, or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::job::JobState;
use hyper2kvm::model::planner::{Nowhere, Submission};
use hyper2kvm::model::protocol::Published;
use hyper2kvm::model::selection::SelectedVm;
use hyper2kvm::service::admission::Known;
use hyper2kvm::service::queue::{Admission, Change, Db, Expansion, JobRow};

use crate::queue::claim;
use crate::queue_support::{drop_of, jobs_of};

struct Scene {
    root: tempfile::TempDir,
    settings: Settings,
    db: Db,
}

impl Scene {
    fn new() -> Scene {
        let root = tempfile::tempdir().unwrap();
        let db = Db::open(&root.path().join("queue.db")).unwrap();
        Scene { settings: Settings::defaults(root.path(), 2), root, db }
    }

    /// A batch that names a machine `db` and selects others; its jobs.
    fn accepted(&mut self, select: &str) -> Vec<i64> {
        let text = format!(
            "batch_version: \"1.0\"\nbatch_metadata: {{batch_id: weekend}}\nvms:\n  - {{id: db, manifest: {{source: {{vsphere: {{credential: prod, vm_name: db}}}}}}}}\n  - {{select: {{{select}}}, priority: 7, manifest: {{source: {{vsphere: {{credential: prod}}}}}}}}\n"
        );
        let read =
            Submission::read_with(text.as_bytes(), "w.yaml", Path::new("/in"), &self.settings, &mut Nowhere);
        let admitted = self.db.accept(&[drop_of(read.unwrap())], &self.settings, &Known::default());
        match admitted.unwrap().remove(0) {
            accepted @ Admission::Accepted { .. } => jobs_of(&accepted),
            other => panic!("{other:?}"),
        }
    }

    fn expand(&mut self, job: i64, machines: &[(&str, &str)]) -> Expansion {
        let vm = |(name, moref): &(&str, &str)| SelectedVm {
            name: (*name).to_owned(),
            moref: (*moref).to_owned(),
        };
        let selected: Vec<SelectedVm> = machines.iter().map(vm).collect();
        let mut known = Known::default();
        loop {
            match self.db.expand(job, &selected, &self.settings, &known).unwrap() {
                Expansion::Asks(paths) => paths.into_iter().for_each(|path| known.learn(path, true)),
                expansion => return expansion,
            }
        }
    }

    fn jobs(&mut self) -> Vec<JobRow> {
        self.db.batch_jobs("weekend").unwrap()
    }

    fn states(&mut self) -> Vec<(String, JobState)> {
        self.jobs().into_iter().map(|row| (row.vm_id, row.state)).collect()
    }

    fn succeed(&mut self, job: &JobRow) {
        self.db.transition(job.job_id, claim(1), "started").unwrap();
        let outputs = BTreeMap::from([(job.output_directory.join("disk-0.qcow2"), None)]);
        let published =
            Published { outputs, directory: job.output_directory.clone(), ..Published::default() };
        self.db.transition(job.job_id, Change::Succeed(published), "published").unwrap();
    }
}

fn of(states: &[(&str, JobState)]) -> Vec<(String, JobState)> {
    states.iter().map(|(vm, state)| ((*vm).to_owned(), *state)).collect()
}

#[test]
fn an_entry_ends_with_the_transaction_that_makes_its_vms_jobs_of_the_same_batch() {
    let mut scene = Scene::new();
    let jobs = scene.accepted("names: [\"*\"]");
    scene.db.transition(jobs[1], claim(1), "started").unwrap();
    let machines = [("db", "vm-1"), ("web 1", "vm-2"), ("web-2", "vm-3"), ("bad\nname", "vm-4")];
    assert!(matches!(scene.expand(jobs[1], &machines), Expansion::Done(_)));
    let expected = of(&[
        ("db", JobState::Queued),
        ("select_1", JobState::Skipped),
        ("web-1", JobState::Queued),
        ("web-2", JobState::Queued),
        ("bad-name", JobState::Failed),
    ]);
    assert_eq!(scene.states(), expected, "what the batch names itself goes before");
    let rows = scene.jobs();
    assert_eq!((rows[2].priority, rows[0].batch_key), (7, rows[2].batch_key));
    assert_eq!(rows[2].output_directory, scene.root.path().join("output/weekend/web-1"));
    assert!(scene.db.plan(rows[2].job_id).unwrap().is_to_be_described());
    // The answer of a worker that was heard twice, and a service that died in between.
    assert!(matches!(scene.expand(jobs[1], &machines), Expansion::Done(_)));
    let path = scene.root.path().join("queue.db");
    let Scene { root, settings, db } = scene;
    drop(db);
    let mut scene = Scene { db: Db::open(&path).unwrap(), root, settings };
    assert_eq!(scene.states(), expected);
}

#[test]
fn a_batch_ends_with_its_last_vm_and_when_all_were_made_before_with_the_entry() {
    let mut scene = Scene::new();
    let jobs = scene.accepted("names: [\"*\"]");
    scene.db.transition(jobs[1], claim(1), "started").unwrap();
    scene.expand(jobs[1], &[("web", "vm-2")]);
    for row in scene.jobs() {
        match row.vm_id.as_str() {
            "web" => scene.succeed(&row),
            "db" => _ = scene.db.transition(row.job_id, Change::Cancel, "cancelled").unwrap(),
            _ => {}
        }
    }
    assert_eq!(scene.db.unsettled_batches().unwrap().len(), 1);

    // Dropped again: it asks again; what succeeded is not made again, what is new is.
    let jobs = scene.accepted("names: [w*]");
    assert_eq!(scene.states(), of(&[("db", JobState::Queued), ("select_1", JobState::Queued)]));
    scene.db.transition(jobs[0], Change::Cancel, "cancelled").unwrap();
    scene.db.transition(jobs[1], claim(1), "started").unwrap();
    scene.expand(jobs[1], &[("web", "vm-2")]);
    let expected =
        of(&[("db", JobState::Cancelled), ("select_1", JobState::Skipped), ("web", JobState::Skipped)]);
    assert_eq!(scene.states(), expected);
    assert_eq!(scene.db.unsettled_batches().unwrap().len(), 2, "and with that it has ended");
}

#[test]
fn vms_that_are_refused_together_leave_nothing_and_the_entry_as_it_was() {
    let mut scene = Scene::new();
    let jobs = scene.accepted("names: [\"*\"]");
    scene.db.transition(jobs[1], claim(1), "started").unwrap();
    let long = "x".repeat(200);
    let twice = [(long.as_str(), "vm-1"), (long.as_str(), "vm-1")];
    match scene.expand(jobs[1], &twice) {
        Expansion::Refused(error) => assert_eq!(error.kind(), Kind::Source, "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(scene.states(), of(&[("db", JobState::Queued), ("select_1", JobState::Running)]));
}
