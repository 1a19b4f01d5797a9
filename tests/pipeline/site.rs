//! A place for one VM: sources, a work order for them, and workers that carry it out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper2kvm::model::acts::Acts;
use hyper2kvm::model::boot::BootOptions;
use hyper2kvm::model::config::PreflightSettings;
use hyper2kvm::model::error::Error;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::placement::Placement;
use hyper2kvm::model::plan::{
    Compression, InputManifest, OnExists, OutputFormat, Plan, PlannedDisk, PlannedGuest, PlannedOutput,
    PlannedStage, Preallocation, Preflight, SourceFormat,
};
use hyper2kvm::model::protocol::{
    Published, RemoteLimits, WorkLimits, WorkOrder, WorkerEvent, WorkerOutcome,
};
use hyper2kvm::model::retry::Retries;
use hyper2kvm::pipeline::launch::{WorkerHandle, WorkerProcess};
use tempfile::TempDir;

use crate::support::{disks, within};

/// The stages of a VM whose guest nobody opens.
pub const BYTES: [Stage; 4] = [Stage::Load, Stage::Extraction, Stage::Convert, Stage::Validate];
/// No worker of these tests takes this long, however loaded the machine is.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Sources in `in/`, results in `out/`, working files in `work/`.
pub struct Site {
    temp: TempDir,
    pub order: WorkOrder,
}

/// What a worker told and how it ended.
pub struct Told {
    pub events: Vec<WorkerEvent>,
    pub outcome: WorkerOutcome,
}

impl Site {
    /// A VM with one small disk of each of these formats, named `disk0`, `disk1`, …
    pub fn new(formats: &[&str]) -> Site {
        Site::sized(formats, 64, 4)
    }

    /// The same with so much data on each disk.
    pub fn sized(formats: &[&str], size_mib: u64, data_mib: u64) -> Site {
        let temp = tempfile::Builder::new().prefix("h2k-pipeline-").tempdir().unwrap();
        std::fs::create_dir(temp.path().join("in")).unwrap();
        let mut planned = Vec::new();
        for (number, format) in formats.iter().enumerate() {
            let id = format!("disk{number}");
            let seed = number as u64 + 1;
            let source = disks::disk(&temp.path().join("in"), &id, format, size_mib, data_mib, seed);
            planned.push(planned_disk(&id, &source, format));
        }
        let plan = plan(planned, &temp.path().join("out"));
        let order = WorkOrder {
            job_id: 7,
            batch_id: "batch".to_owned(),
            attempt: 1,
            plan,
            limits: WorkLimits {
                work_dir: temp.path().join("work"),
                stall_timeout_s: 60.0,
                read_roots: Vec::new(),
                write_roots: Vec::new(),
                disk_reserve_bytes: 0,
                reserved_by_others_bytes: 0,
                reading: None,
                sandbox_required: true,
                child_memory_bytes: 4 << 30,
                keep_partial: false,
                hook_roots: Vec::new(),
                retries: Retries::default(),
                preflight: PreflightSettings::default(),
                gives_up: true,
                log: None,
                remote: RemoteLimits::default(),
                lock: None,
            },
            acts: Acts::default(),
            settle: None,
            cuts_over: false,
        };
        Site { temp, order }
    }

    pub fn root(&self) -> &Path {
        self.temp.path()
    }

    pub fn out(&self) -> PathBuf {
        self.order.plan.output.directory.clone()
    }

    pub fn source(&self, number: usize) -> &Path {
        &self.order.plan.disks[number].source
    }

    pub fn log(&self) -> PathBuf {
        self.root().join("log/vm.1.log")
    }

    /// Names in the result directory.
    pub fn names(&self) -> Vec<String> {
        names(&self.out())
    }

    /// Runs a worker to its end.
    pub fn run(&self) -> Told {
        self.run_with(|_, _| {})
    }

    /// Runs a worker to its end; `on_event` may command it.
    pub fn run_with(&self, on_event: impl FnMut(&WorkerEvent, &WorkerHandle)) -> Told {
        drive(Path::new(env!("CARGO_BIN_EXE_hyper2kvm")), &self.order, &self.log(), on_event)
    }

    /// Runs a worker that has to succeed.
    #[track_caller]
    pub fn succeed(&self) -> Published {
        let told = self.run();
        match told.outcome {
            WorkerOutcome::Succeeded(published) => published,
            other => panic!("{other:?}\n{}", self.log_text()),
        }
    }

    /// Runs a worker that has to fail.
    #[track_caller]
    pub fn fail(&self) -> Error {
        match self.run().outcome {
            WorkerOutcome::Failed { error } => error,
            other => panic!("{other:?}\n{}", self.log_text()),
        }
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Hashes of all results, by name.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.names()
            .into_iter()
            .filter(|name| !name.starts_with("report"))
            .map(|name| (name.clone(), disks::sha256(&self.out().join(&name))))
            .collect()
    }

    /// Results hold what the sources hold.
    #[track_caller]
    pub fn assert_same_content(&self) {
        for disk in &self.order.plan.disks {
            let result = self.order.plan.result_path(disk);
            let driver = match self.order.plan.output.format {
                OutputFormat::Vhd => "vpc",
                other => other.name(),
            };
            assert_eq!(
                disks::content_sha256(&result, driver),
                disks::content_sha256(&disk.source, driver_of(disk.source_format)),
                "{}",
                result.display()
            );
        }
    }

    /// Nothing but these names is in the result directory. Where a report is, its pages are.
    #[track_caller]
    pub fn assert_only(&self, expected: &[&str]) {
        assert_eq!(self.names(), with_pages(expected));
    }

    /// No process works in here any more.
    #[track_caller]
    pub fn assert_no_process(&self) {
        let marker = self.root().as_os_str().as_encoded_bytes();
        let gone = within(Duration::from_secs(20), || {
            let alive = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|pid| pid != std::process::id())
                    && std::fs::read(entry.path().join("cmdline"))
                        .is_ok_and(|line| line.windows(marker.len()).any(|part| part == marker))
            });
            (!alive).then_some(())
        });
        assert!(gone.is_some(), "a process of {} is left", self.root().display());
    }
}

/// These names and those of each report's pages, sorted.
pub fn with_pages(names: &[&str]) -> Vec<String> {
    let is_report = |name: &&&str| name.starts_with("report") && name.ends_with(".json");
    let pages = names
        .iter()
        .filter(is_report)
        .flat_map(|name| ["md", "txt"].map(|end| name.replace(".json", &format!(".{end}"))));
    let mut all: Vec<String> = names.iter().map(|name| (*name).to_owned()).chain(pages).collect();
    all.sort();
    all
}

/// Names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

pub fn planned_disk(id: &str, source: &Path, format: &str) -> PlannedDisk {
    PlannedDisk {
        member: None,
        id: id.to_owned(),
        source: source.to_owned(),
        source_format: SourceFormat::ALL.into_iter().find(|known| known.name() == format).unwrap(),
        checksum: None,
        packing: None,
        piece_checksums: Vec::new(),
        bytes: None,
        backing_chain: false,
        allowed_paths: Vec::new(),
        boot_order_hint: 999,
        resize: None,
        placement: Placement::default(),
    }
}

fn plan(disks: Vec<PlannedDisk>, out: &Path) -> Plan {
    Plan {
        vm_id: "vm".to_owned(),
        name: "vm".to_owned(),
        profile: "none".to_owned(),
        stages: Stage::ALL
            .into_iter()
            .map(|stage| PlannedStage { stage, enabled: BYTES.contains(&stage), reason: "test".to_owned() })
            .collect(),
        disks,
        remote: None,
        machine: None,
        guest: PlannedGuest::default(),
        boot_test: BootOptions::default(),
        hooks: Vec::new(),
        libvirt: None,
        output: PlannedOutput {
            directory: out.to_owned(),
            format: OutputFormat::Qcow2,
            compress: Compression::None,
            compress_level: None,
            preallocation: Preallocation::Off,
            group: None,
            mode: None,
            on_exists: OnExists::Refuse,
            report: true,
            domain: false,
            read_back: false,
            check_image_integrity: true,
        },
        preflight: Preflight::Full,
        rules: BTreeMap::new(),
        notes: Vec::new(),
        lacking: Vec::new(),
        warnings: Vec::new(),
        priority: 0,
        depends_on: Vec::new(),
        needs_network: false,
        content_sha256: "0".repeat(64),
        input: InputManifest::default(),
    }
}

fn driver_of(format: SourceFormat) -> &'static str {
    match format {
        SourceFormat::Vhd => "vpc",
        other => other.name(),
    }
}

/// Runs a worker process to its end.
pub fn drive(
    program: &Path,
    order: &WorkOrder,
    log: &Path,
    mut on_event: impl FnMut(&WorkerEvent, &WorkerHandle),
) -> Told {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let work = async {
            let mut worker = WorkerProcess::spawn_program(program, order, log).await.unwrap();
            let handle = worker.handle();
            let mut events = Vec::new();
            while let Some(event) = worker.next().await {
                on_event(&event, &handle);
                events.push(event);
            }
            match events.pop() {
                Some(WorkerEvent::Finished(outcome)) => Told { events, outcome },
                other => panic!("the last event was {other:?}"),
            }
        };
        tokio::time::timeout(PATIENCE, work).await.expect("the worker ends in time")
    })
}
