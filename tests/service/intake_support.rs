//! A real intake on a scratch state directory: real files, the real queue, no daemon around it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper2kvm::model::api::JobFilter;
use hyper2kvm::model::config::Settings;
use hyper2kvm::model::report::ErrorReport;
use hyper2kvm::service::admission::Results;
use hyper2kvm::service::intake::{Intake, IntakeParts};
use hyper2kvm::service::queue::{JobRow, QueueHandle};
use tokio::sync::{Notify, watch};

use crate::support::wait_for;

/// A state directory with a queue and, once started, intake.
pub(crate) struct Scene {
    pub(crate) state: tempfile::TempDir,
    pub(crate) settings: Arc<Settings>,
    pub(crate) queue: QueueHandle,
    pub(crate) draining: watch::Sender<bool>,
    brought_back: watch::Sender<u64>,
    pub(crate) accepted: Arc<Notify>,
    pub(crate) results: Results,
    runtime: tokio::runtime::Runtime,
    intake: Option<Intake>,
}

/// A file in `failed/`, and why it is there.
pub(crate) struct Refused {
    pub(crate) path: PathBuf,
    pub(crate) report: ErrorReport,
}

impl Scene {
    /// Nothing runs yet; a file without hints has to hold still for this long.
    pub(crate) fn new(settle_s: f64) -> Scene {
        let state = tempfile::tempdir().unwrap();
        Scene::in_directory(state, settle_s)
    }

    pub(crate) fn in_directory(state: tempfile::TempDir, settle_s: f64) -> Scene {
        let mut settings = Settings::defaults(state.path(), 2);
        settings.intake.settle_manifest_s = settle_s;
        fs::create_dir_all(&settings.intake.dir).unwrap();
        let queue = QueueHandle::open(&settings.layout().queue_db()).unwrap();
        Scene {
            state,
            settings: Arc::new(settings),
            queue,
            draining: watch::channel(false).0,
            brought_back: watch::channel(0).0,
            accepted: Arc::new(Notify::new()),
            results: Results::default(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            intake: None,
        }
    }

    /// A scene whose intake runs.
    pub(crate) fn started(settle_s: f64) -> Scene {
        let mut scene = Scene::new(settle_s);
        scene.start();
        scene
    }

    /// A scene whose intake takes disks: what was not renamed in has to hold still for this long, and companions may take that long.
    pub(crate) fn accepting_disks(settle_s: f64, companion_wait_s: f64) -> Scene {
        let mut scene = Scene::new(settle_s);
        let settings = Arc::make_mut(&mut scene.settings);
        settings.intake.accept_disks = true;
        settings.intake.profile = "none".to_owned();
        settings.intake.settle_disk_s = settle_s;
        settings.intake.companion_wait_s = companion_wait_s;
        scene.start();
        scene
    }

    /// Renames a file in that was made elsewhere.
    pub(crate) fn bring_in(&self, file: &Path) {
        fs::rename(file, self.incoming().join(file.file_name().unwrap())).unwrap();
    }

    pub(crate) fn start(&mut self) {
        let _inside = self.runtime.enter();
        let intake = Intake::start(IntakeParts {
            settings: watch::channel(Arc::clone(&self.settings)).1,
            queue: self.queue.clone(),
            draining: self.draining.subscribe(),
            brought_back: self.brought_back.subscribe(),
            accepted: Arc::clone(&self.accepted),
            results: self.results.clone(),
        });
        self.intake = Some(intake.unwrap());
    }

    pub(crate) fn intake(&self) -> &Intake {
        self.intake.as_ref().unwrap()
    }

    pub(crate) fn stop(&mut self) {
        if let Some(intake) = self.intake.take() {
            self.runtime.block_on(intake.stop());
        }
    }

    pub(crate) fn incoming(&self) -> &Path {
        &self.settings.intake.dir
    }

    /// Puts a file there under a name that is ignored, then renames it: the way a careful person drops.
    pub(crate) fn rename_in(&self, name: &str, content: &str) {
        let hidden = self.incoming().join(format!(".{name}.part"));
        fs::write(&hidden, content).unwrap();
        fs::rename(&hidden, self.incoming().join(name)).unwrap();
    }

    pub(crate) fn jobs(&self) -> Vec<JobRow> {
        self.queue.with_blocking(|db| db.jobs(&JobFilter::default())).unwrap()
    }

    /// Waits for this many jobs (and no more).
    #[track_caller]
    pub(crate) fn wait_for_jobs(&self, count: usize) -> Vec<JobRow> {
        wait_for(&format!("{count} jobs"), || {
            let jobs = self.jobs();
            assert!(jobs.len() <= count, "{} jobs where {count} were dropped", jobs.len());
            (jobs.len() == count).then_some(jobs)
        })
    }

    /// Names in a directory below the state directory, with their content.
    pub(crate) fn files(&self, directory: &str) -> BTreeMap<String, String> {
        let Ok(entries) = fs::read_dir(self.state.path().join(directory)) else { return BTreeMap::new() };
        entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|entry| {
                (
                    entry.file_name().to_string_lossy().into_owned(),
                    fs::read_to_string(entry.path()).unwrap_or_default(),
                )
            })
            .collect()
    }

    #[track_caller]
    pub(crate) fn wait_for_file(&self, directory: &str, name: &str) -> String {
        wait_for(&format!("{directory}/{name}"), || self.files(directory).remove(name))
    }

    /// What lies in `failed/`, by name, with the reasons.
    pub(crate) fn refused(&self) -> BTreeMap<String, Refused> {
        let mut found = BTreeMap::new();
        for day in fs::read_dir(self.state.path().join("failed")).into_iter().flatten().flatten() {
            for entry in fs::read_dir(day.path()).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".error.json") || name.starts_with('.') {
                    continue;
                }
                let reason = day.path().join(format!("{name}.error.json"));
                let report = serde_json::from_slice(&fs::read(reason).unwrap()).unwrap();
                found.insert(name, Refused { path: entry.path(), report });
            }
        }
        found
    }

    #[track_caller]
    pub(crate) fn wait_for_refusal(&self, name: &str) -> Refused {
        wait_for(&format!("{name} in failed/"), || self.refused().remove(name))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A small manifest of one VM; other names make other content.
pub(crate) fn manifest(name: &str) -> String {
    format!(
        "{{\"manifest_version\": \"1.0\", \"name\": \"{name}\", \"profile\": \"none\",\n \"disks\": [{{\"id\": \"boot\", \
         \"source_format\": \"raw\", \"local_path\": \"/images/{name}.img\", \"boot_order_hint\": 0}}]}}\n"
    )
}
