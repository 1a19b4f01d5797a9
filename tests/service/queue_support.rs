//! Submissions and plans made by hand, so that the queue's tests do not hang on the manifest's grammar.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hyper2kvm::model::error::Result;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::placement::Placement;
use hyper2kvm::model::plan::{
    Compression, InputManifest, OnExists, OutputFormat, Plan, PlannedDisk, PlannedGuest, PlannedOutput,
    PlannedStage, Preallocation, Preflight, SourceFormat,
};
use hyper2kvm::model::planner::{BatchName, Rerun, Submission, VmSubmission};
use hyper2kvm::service::admission::{Known, Results};
use hyper2kvm::service::queue::{Admission, Db, FileIdentity, NewDrop, PlanFn};

/// A submission of these VMs (id and content).
pub(crate) fn submission(name: BatchName, rerun: Rerun, vms: &[(&str, &str)]) -> Submission {
    let content: Vec<String> = vms.iter().map(|(vm, content)| format!("{vm}={content}")).collect();
    Submission {
        filename: match &name {
            BatchName::Named(id) | BatchName::Stem(id) => format!("{id}.json"),
        },
        base_directory: PathBuf::from("/incoming"),
        name,
        content_sha256: content.join(","),
        rerun,
        vms: vms
            .iter()
            .map(|(vm, content)| VmSubmission {
                warnings: Vec::new(),
                notes: Vec::new(),
                vm_id: (*vm).to_owned(),
                content_sha256: (*content).to_owned(),
                manifest: serde_json::json!({ "name": vm }),
                setup: None,
                manifest_path: None,
                asked: None,
                password: None,
                rerun: None,
                profile_says: BTreeMap::new(),
                pool_directory: None,
            })
            .collect(),
        refused: Vec::new(),
        parallel_limit: None,
        fail_fast: false,
        output_directory: None,
        window: None,
    }
}

/// A single-VM manifest named after its file.
pub(crate) fn single(stem: &str, content: &str) -> Submission {
    submission(BatchName::Stem(stem.to_owned()), Rerun::Failed, &[("vm", content)])
}

/// A batch that names itself.
pub(crate) fn batch(id: &str, vms: &[(&str, &str)]) -> Submission {
    submission(BatchName::Named(id.to_owned()), Rerun::Failed, vms)
}

/// As if it had been read from a file.
pub(crate) fn drop_of(submission: Submission) -> NewDrop {
    NewDrop {
        bytes: submission.content_sha256.clone().into_bytes(),
        size: submission.content_sha256.len(),
        sha256: submission.content_sha256.clone(),
        identity: Some(FileIdentity { dev: 1, inode: 2, size: 3, mtime_ns: 4 }),
        submission,
        brought: None,
        claim: None,
    }
}

/// Plans whose results lie in `<root>/<batch-id>/<vm-id><suffix>/`.
pub(crate) fn plans_below(root: &Path) -> impl Fn(&Submission, &str, &str) -> Result<Vec<Plan>> + use<> {
    let root = root.to_owned();
    move |submission, batch_id, suffix| {
        Ok(submission
            .vms
            .iter()
            .map(|vm| plan(vm, root.join(batch_id).join(format!("{}{suffix}", vm.vm_id))))
            .collect())
    }
}

/// The plan of a VM with one disk.
pub(crate) fn plan(vm: &VmSubmission, directory: PathBuf) -> Plan {
    Plan {
        vm_id: vm.vm_id.clone(),
        name: format!("name of {}", vm.vm_id),
        profile: "none".to_owned(),
        hooks: Vec::new(),
        libvirt: None,
        stages: Stage::ALL
            .into_iter()
            .map(|stage| PlannedStage {
                stage,
                enabled: Stage::BUILT.contains(&stage),
                reason: "as the base has it".to_owned(),
            })
            .collect(),
        disks: vec![PlannedDisk {
            member: None,
            id: "disk-0".to_owned(),
            source: PathBuf::from("/images/disk.vmdk"),
            source_format: SourceFormat::Vmdk,
            checksum: None,
            packing: None,
            piece_checksums: Vec::new(),
            bytes: None,
            backing_chain: false,
            allowed_paths: Vec::new(),
            boot_order_hint: 0,
            resize: None,
            placement: Placement::default(),
        }],
        remote: None,
        machine: None,
        guest: PlannedGuest::default(),
        boot_test: hyper2kvm::model::boot::BootOptions::default(),
        output: PlannedOutput {
            directory,
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
        rules: std::collections::BTreeMap::new(),
        notes: Vec::new(),
        lacking: Vec::new(),
        warnings: Vec::new(),
        priority: 0,
        depends_on: Vec::new(),
        needs_network: false,
        content_sha256: vm.content_sha256.clone(),
        input: InputManifest::default(),
    }
}

/// Accepts one submission whose results lie below `root`.
pub(crate) fn accept(db: &mut Db, root: &Path, submission: Submission) -> Admission {
    accept_with(db, &[drop_of(submission)], &plans_below(root)).remove(0)
}

/// Accepts drops as the service does: what it asks about earlier results is looked up.
pub(crate) fn accept_with(db: &mut Db, drops: &[NewDrop], plans: &PlanFn<'_>) -> Vec<Admission> {
    let mut known = Known::default();
    loop {
        let admissions = db.accept_with(drops, plans, &known).unwrap();
        let asked: BTreeSet<PathBuf> = admissions
            .iter()
            .filter_map(|admission| match admission {
                Admission::Asks(paths) => Some(paths.clone()),
                Admission::Accepted { .. } | Admission::Refused(_) => None,
            })
            .flatten()
            .collect();
        if asked.is_empty() {
            return admissions;
        }
        assert_eq!(drops.len(), 1, "the others of several would be accepted twice");
        Results::default().find_out(&asked, &mut known).unwrap();
    }
}

/// Its jobs; it has to have been accepted.
pub(crate) fn jobs_of(admission: &Admission) -> Vec<i64> {
    match admission {
        Admission::Accepted { jobs, .. } => jobs.clone(),
        Admission::Refused(error) => panic!("refused: {error}"),
        Admission::Asks(paths) => panic!("asks for {paths:?}"),
    }
}
