//! A working directory that lies so deep that no socket can be made in it: QEMU is shown disks, and shows them, all the same.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::{Packing, PlannedGrowth, Preallocation, SourceFormat};
use hyper2kvm::model::protocol::WorkerEvent;

use crate::site::Site;
use crate::support::wait_for;

/// A site whose disk QEMU does not read, in a working directory that no socket's path reaches.
fn deep() -> Site {
    let mut site = Site::new(&["raw"]);
    let disk = &mut site.order.plan.disks[0];
    disk.bytes = Some(std::fs::metadata(&disk.source).unwrap().len());
    assert!(Command::new("gzip").arg("-1").arg(&disk.source).status().unwrap().success());
    disk.source = disk.source.with_extension("raw.gz");
    disk.packing = Some(Packing::Gzip);
    site.order.limits.work_dir =
        (0..8).fold(site.root().to_owned(), |path, _| path.join("a-name-of-thirty-and-some-bytes"));
    site
}

#[test]
fn a_disk_that_qemu_cannot_read_is_converted_however_deep_the_working_directory_lies() {
    let site = deep();
    site.succeed();
    site.assert_only(&["disk0.qcow2", "report.json"]);
    // One that QEMU lays out beforehand it has to be shown, and one that grows it sees through an overlay.
    for (preallocation, grown) in
        [(Preallocation::Metadata, None), (Preallocation::Off, Some(PlannedGrowth::By(8 << 20)))]
    {
        let mut site = deep();
        site.order.plan.output.preallocation = preallocation;
        site.order.plan.disks[0].resize = grown;
        site.succeed();
        site.assert_only(&["disk0.qcow2", "report.json"]);
    }
}

#[test]
fn a_disk_that_only_qemu_reads_is_converted_however_deep_the_working_directory_lies() {
    let mut site = Site::new(&["raw"]);
    let extended = site.root().join("in/extended.qcow2");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-O", "qcow2", "-o", "extended_l2=on"]).args([site.source(0), &extended]);
    assert!(convert.status().unwrap().success());
    site.order.plan.disks[0].source = extended;
    site.order.plan.disks[0].source_format = SourceFormat::Qcow2;
    site.order.limits.work_dir =
        deep().order.limits.work_dir.strip_prefix("/").map(|path| site.root().join(path)).unwrap();
    let published = site.succeed();
    let engine = &published.content.unwrap().artifacts[0].engine;
    assert!(engine.contains("qemu-storage-daemon"), "{engine}");
}

#[test]
fn a_killed_worker_leaves_no_socket_outside_of_its_working_directory() {
    let mut site = deep();
    site.order.plan.output.preallocation = Preallocation::Metadata;
    let sockets = || {
        let entries = std::fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
        let ours =
            entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("hyper2kvm-nbd-"));
        ours.map(|path| path.join("disk")).collect::<Vec<_>>()
    };
    let is_dead = |socket: &PathBuf| {
        let answer = UnixStream::connect(socket);
        answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    let mut seen = Vec::new();
    site.run_with(|event, worker| {
        if matches!(event, WorkerEvent::StageFinished { stage: Stage::Load, .. }) {
            seen = sockets();
            worker.kill();
        }
    });
    assert!(!seen.is_empty(), "it served its source from there");
    wait_for("the dead sockets' end", || (!seen.iter().any(is_dead)).then_some(()));
}
