//! Results of one VM in several directories: each where its mapping says, none under a final name before all are finished.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::placement::{Home, Placement};
use hyper2kvm::model::plan::{OnExists, OutputFormat, PlannedGrowth, Preallocation};
use hyper2kvm::model::protocol::{WorkerCommand, WorkerOutcome};
use hyper2kvm::pipeline::publish;

use crate::commands::{second_disk_begins, slow};
use crate::crashes::armed;
use crate::site::{Site, drive, names};
use crate::support::disks;

/// A second directory for results, on another file system than the first: memory is one everywhere.
struct Elsewhere {
    directory: PathBuf,
    _temp: tempfile::TempDir,
}

/// A VM whose second disk goes to another file system.
fn site(formats: &[&str]) -> (Site, Elsewhere) {
    let temp = tempfile::Builder::new().prefix("h2k-mapped-").tempdir_in("/dev/shm").unwrap();
    let directory = temp.path().join("data");
    let mut site = Site::new(formats);
    place(&mut site, 1, &directory);
    (site, Elsewhere { directory, _temp: temp })
}

fn place(site: &mut Site, disk: usize, directory: &Path) {
    let disk = &mut site.order.plan.disks[disk];
    let home = Home { directory: directory.to_owned(), stem: format!("vm-{}", disk.id) };
    disk.placement = Placement { home: Some(home), ..disk.placement.clone() };
}

fn device(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().dev()
}

/// Everything that a repeated run may not find: names that begin with a dot.
fn hidden(directory: &Path) -> Vec<String> {
    names(directory).into_iter().filter(|name| name.starts_with('.')).collect()
}

#[test]
fn a_disk_lies_where_its_mapping_says_and_the_report_names_it_there() {
    let (site, elsewhere) = site(&["vmdk", "raw"]);
    let published = site.succeed();
    assert_ne!(device(&site.out()), device(&elsewhere.directory), "both are on one file system");
    site.assert_only(&["disk0.qcow2", "report.json"]);
    assert_eq!(names(&elsewhere.directory), ["vm-disk1.qcow2"]);
    site.assert_same_content();
    let there = elsewhere.directory.join("vm-disk1.qcow2");
    assert_eq!(published.outputs[&there].as_deref(), Some(disks::sha256(&there).as_str()));
    let report = std::fs::read_to_string(site.out().join("report.json")).unwrap();
    assert!(report.contains(&*there.to_string_lossy()), "{report}");
    assert_eq!(std::fs::metadata(&there).unwrap().mode() & 0o777, 0o640);
}

#[test]
fn each_disk_has_its_own_format_and_layout() {
    let (mut site, elsewhere) = site(&["raw", "raw"]);
    site.order.plan.disks[1].placement.format = Some(OutputFormat::Raw);
    site.order.plan.disks[1].placement.preallocation = Some(Preallocation::Falloc);
    let published = site.succeed();
    let there = std::fs::metadata(elsewhere.directory.join("vm-disk1.raw")).unwrap();
    assert!(there.len() == 64 << 20 && there.blocks() * 512 >= 64 << 20, "it is thick");
    let thin = std::fs::metadata(site.out().join("disk0.qcow2")).unwrap();
    assert!(thin.blocks() * 512 < 32 << 20, "it is thin");
    let content = |path: &Path, driver: &str| disks::content_sha256(path, driver);
    for (number, driver) in [(0, "qcow2"), (1, "raw")] {
        let disk = &site.order.plan.disks[number];
        assert_eq!(content(&site.order.plan.result_path(disk), driver), content(&disk.source, "raw"));
    }
    let formats: Vec<_> =
        published.content.unwrap().artifacts.iter().map(|artifact| artifact.format).collect();
    assert_eq!(formats, [OutputFormat::Qcow2, OutputFormat::Raw]);
}

#[test]
fn a_disk_grows_into_another_directory() {
    let (mut site, elsewhere) = site(&["raw", "raw"]);
    site.order.plan.disks[1].resize = Some(PlannedGrowth::By(32 << 20));
    site.order.plan.disks[1].placement.format = Some(OutputFormat::Raw);
    site.succeed();
    let grown = std::fs::read(elsewhere.directory.join("vm-disk1.raw")).unwrap();
    let (held, added) = grown.split_at(64 << 20);
    assert!(held == std::fs::read(site.source(1)).unwrap() && added.len() == 32 << 20);
    assert!(added.iter().all(|byte| *byte == 0));
    site.assert_only(&["disk0.qcow2", "report.json"]);
}

#[test]
fn a_format_that_is_written_as_a_stream_beside_one_that_is_not_is_right_too() {
    let (mut site, elsewhere) = site(&["raw", "vmdk"]);
    site.order.plan.disks[1].placement.format = Some(OutputFormat::Vdi);
    site.succeed();
    assert_eq!(names(&elsewhere.directory), ["vm-disk1.vdi"]);
    let disk = &site.order.plan.disks[1];
    assert_eq!(
        disks::content_sha256(&site.order.plan.result_path(disk), "vdi"),
        disks::content_sha256(&disk.source, "vmdk")
    );
}

#[test]
fn a_worker_killed_around_the_renames_in_two_directories_is_gone_on_from_to_the_same_result() {
    let (undisturbed, elsewhere) = site(&["vmdk", "raw"]);
    undisturbed.succeed();
    let expected = (undisturbed.hashes(), disks::sha256(&elsewhere.directory.join("vm-disk1.qcow2")));
    for step in [
        "copy.after-journal:2",
        "partial.done:1",
        "partial.done:2",
        "validate.done:2",
        "publish.before-intent:1",
        "publish.after-intent:1",
        "publish.between-renames:1",
        "publish.after-renames:1",
        "publish.before-report:1",
        "publish.after-report:1",
        "worker.before-finished:1",
    ] {
        let (site, elsewhere) = site(&["vmdk", "raw"]);
        let told = drive(&armed(&site, step), &site.order, &site.log(), |_, _| {});
        assert!(matches!(&told.outcome, WorkerOutcome::Failed { .. }), "{step}: {:?}", told.outcome);
        if step.starts_with("publish.between") {
            assert!(site.names().contains(&"disk0.qcow2".to_owned()), "{:?}", site.names());
            assert_eq!(names(&elsewhere.directory).len(), 1);
            assert!(!site.names().contains(&"report.json".to_owned()));
        }
        site.assert_no_process();
        site.succeed();
        site.assert_only(&["disk0.qcow2", "report.json"]);
        assert_eq!(names(&elsewhere.directory), ["vm-disk1.qcow2"], "{step}");
        let there = disks::sha256(&elsewhere.directory.join("vm-disk1.qcow2"));
        assert_eq!((site.hashes(), there), expected, "{step}");
    }
}

#[test]
fn a_disk_that_is_finished_elsewhere_is_not_copied_again() {
    let (site, elsewhere) = site(&["vmdk", "raw"]);
    drive(&armed(&site, "partial.done:2"), &site.order, &site.log(), |_, _| {});
    let partial = names(&elsewhere.directory).into_iter().find(|name| name.ends_with(".partial")).unwrap();
    let partial = std::fs::metadata(elsewhere.directory.join(partial)).unwrap();
    site.succeed();
    let result = std::fs::metadata(elsewhere.directory.join("vm-disk1.qcow2")).unwrap();
    assert_eq!((partial.ino(), partial.mtime_nsec()), (result.ino(), result.mtime_nsec()));
}

#[test]
fn a_name_that_is_taken_elsewhere_is_told_before_anything_is_copied() {
    let (site, elsewhere) = site(&["raw", "raw"]);
    std::fs::create_dir_all(&elsewhere.directory).unwrap();
    std::fs::write(elsewhere.directory.join("vm-disk1.qcow2"), "somebody else's").unwrap();
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.to_string().contains("vm-disk1.qcow2"), "{error}");
    site.assert_only(&[]);
    assert_eq!(hidden(&elsewhere.directory), [""; 0]);
}

#[test]
fn a_name_that_is_taken_elsewhere_between_the_renames_takes_the_published_ones_back() {
    let (site, elsewhere) = site(&["raw", "raw"]);
    drive(&armed(&site, "publish.between-renames"), &site.order, &site.log(), |_, _| {});
    let taken = elsewhere.directory.join("vm-disk1.qcow2");
    std::fs::write(&taken, "somebody else's").unwrap();
    assert_eq!(site.fail().kind(), Kind::Exists);
    assert!(!site.names().contains(&"disk0.qcow2".to_owned()), "{:?}", site.names());
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "somebody else's");
    std::fs::remove_file(&taken).unwrap();
    site.succeed();
    site.assert_only(&["disk0.qcow2", "report.json"]);
    assert_eq!(names(&elsewhere.directory), ["vm-disk1.qcow2"]);
}

#[test]
fn a_suffix_is_the_same_in_all_directories_and_a_replacement_replaces_in_all() {
    let (mut site, elsewhere) = site(&["raw", "raw"]);
    site.succeed();
    site.order.job_id += 1;
    publish::forget(&site.order.plan, None).unwrap();
    site.order.plan.output.on_exists = OnExists::Suffix;
    std::fs::remove_file(site.out().join("disk0.qcow2")).unwrap();
    site.succeed();
    assert_eq!(names(&elsewhere.directory), ["vm-disk1-2.qcow2", "vm-disk1.qcow2"]);
    assert!(site.names().contains(&"disk0-2.qcow2".to_owned()), "{:?}", site.names());
    let before = std::fs::metadata(elsewhere.directory.join("vm-disk1.qcow2")).unwrap().ino();
    site.order.job_id += 1;
    publish::forget(&site.order.plan, None).unwrap();
    site.order.plan.output.on_exists = OnExists::Replace;
    site.succeed();
    assert_ne!(std::fs::metadata(elsewhere.directory.join("vm-disk1.qcow2")).unwrap().ino(), before);
    assert_eq!(hidden(&elsewhere.directory), [""; 0]);
}

#[test]
fn a_cancel_and_a_failure_remove_what_is_partial_elsewhere() {
    let (temp, mut cancelled) = (tempfile::tempdir_in("/dev/shm").unwrap(), slow());
    place(&mut cancelled, 1, temp.path());
    let told = cancelled.run_with(|event, worker| {
        if second_disk_begins(event) {
            worker.send(WorkerCommand::Cancel { keep_partial: false });
        }
    });
    assert_eq!(told.outcome, WorkerOutcome::Cancelled);
    cancelled.assert_only(&[]);
    assert_eq!(names(temp.path()), [""; 0]);
    let (mut site, elsewhere) = site(&["raw", "raw"]);
    site.order.plan.disks[1].checksum = Some("0".repeat(64));
    assert_eq!(site.fail().kind(), Kind::Source);
    assert_eq!(hidden(&elsewhere.directory), [""; 0], "{:?}", names(&elsewhere.directory));
}

#[test]
fn what_a_killed_worker_left_elsewhere_goes_when_its_job_is_given_up() {
    let (site, elsewhere) = site(&["raw", "raw"]);
    drive(&armed(&site, "partial.done:2"), &site.order, &site.log(), |_, _| {});
    let left = publish::partials(&site.order.plan);
    assert!(left.iter().all(|path| path.exists()), "{left:?}");
    publish::abandon(&site.order.plan, None).unwrap();
    assert_eq!(names(&elsewhere.directory), [""; 0]);
    site.assert_only(&[]);
}

#[test]
fn a_plan_that_maps_a_disk_elsewhere_than_before_leaves_nothing_in_the_old_place() {
    let (mut site, elsewhere) = site(&["raw", "raw"]);
    drive(&armed(&site, "publish.between-renames"), &site.order, &site.log(), |_, _| {});
    let other = site.root().join("other");
    place(&mut site, 1, &other);
    site.succeed();
    assert_eq!(names(&elsewhere.directory), [""; 0]);
    assert_eq!(names(&other), ["vm-disk1.qcow2"]);
    site.assert_only(&["disk0.qcow2", "report.json"]);
    site.assert_same_content();
}

#[test]
fn two_vms_of_the_same_names_share_a_directory_and_neither_touches_what_is_partial_of_the_other() {
    let (first, elsewhere) = site(&["raw", "raw"]);
    drive(&armed(&first, "partial.done:2"), &first.order, &first.log(), |_, _| {});
    let theirs = hidden(&elsewhere.directory);
    assert!(!theirs.is_empty());
    let mut second = Site::new(&["raw", "raw"]);
    place(&mut second, 1, &elsewhere.directory);
    second.succeed();
    assert_eq!(hidden(&elsewhere.directory), theirs);
    assert_eq!(first.fail().kind(), Kind::Exists, "the name is the second one's");
    second.assert_same_content();
}

#[test]
fn a_directory_that_is_not_below_the_roots_is_refused_and_not_made() {
    let (mut site, elsewhere) = site(&["raw", "raw"]);
    site.order.limits.write_roots = vec![site.root().to_owned()];
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Output);
    assert!(!elsewhere.directory.exists(), "{error}");
    std::os::unix::fs::symlink("/dev/shm", site.root().join("link")).unwrap();
    let through = site.root().join("link/h2k-mapped-through-a-link");
    place(&mut site, 1, &through);
    assert_eq!(site.fail().kind(), Kind::Output);
    assert!(!through.exists());
}

#[test]
fn a_journal_that_others_may_have_written_moves_nothing_in_other_directories() {
    for (mode, is_believed) in [(0o600, true), (0o666, false)] {
        let (mut site, elsewhere) = site(&["raw", "raw"]);
        drive(&armed(&site, "publish.between-renames"), &site.order, &site.log(), |_, _| {});
        let [partial] = names(&elsewhere.directory).try_into().unwrap();
        std::fs::remove_file(elsewhere.directory.join(partial)).unwrap();
        let victim = elsewhere.directory.join("other-vm.qcow2");
        std::fs::write(&victim, "somebody else's").unwrap();
        let journal = site.out().join(".vm.journal.json");
        let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&journal).unwrap()).unwrap();
        let file = std::fs::metadata(&victim).unwrap();
        let rename = &mut text["intent"]["renames"][1];
        rename["to"] = "other-vm.qcow2".into();
        rename["file"]["inode"] = file.ino().into();
        rename["file"]["size"] = file.len().into();
        rename["file"]["mtime_ns"] = (file.mtime() * 1_000_000_000 + file.mtime_nsec()).into();
        std::fs::write(&journal, text.to_string()).unwrap();
        std::fs::set_permissions(&journal, std::fs::Permissions::from_mode(mode)).unwrap();
        // Another plan: what that journal had published is taken back.
        site.order.plan.output.compress = hyper2kvm::model::plan::Compression::Zlib;
        site.run();
        assert_eq!(!victim.exists(), is_believed, "{mode:o}");
    }
}
