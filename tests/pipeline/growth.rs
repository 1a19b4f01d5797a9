//! Disks whose results are larger than their sources: with what is in them, and without.

use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::manifest::OnNoOs;
use hyper2kvm::model::plan::{OutputFormat, PlannedGrowth, Preallocation, SourceFormat};
use hyper2kvm::model::report::Report;

use crate::site::Site;
use crate::support::vhdx::{Block, Vhdx};
use crate::support::{disks, trees};

const MIB: u64 = 1 << 20;
const UUID: &str = "6c0f3c52-51d1-4b5e-8a6f-7d8a1f3f9a01";

/// One disk of 64 MiB that grows by as much.
fn growing(format: &str) -> Site {
    let mut site = Site::new(&[format]);
    site.order.plan.disks[0].resize = Some(PlannedGrowth::By(64 * MIB));
    site
}

fn opens_guest(site: &mut Site) {
    for planned in &mut site.order.plan.stages {
        planned.enabled |= matches!(planned.stage, Stage::Inspect | Stage::Fix);
    }
}

/// A guest on one ext4, whose disk grows.
fn guest() -> Site {
    let mut site = growing("raw");
    let files = [
        ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
        ("etc/fstab", "/dev/sda / ext4 errors=remount-ro 0 1\n"),
        ("etc/hostname", "web\n"),
        ("usr/bin/apt-get", ""),
    ];
    trees::ext4(site.source(0), 64, &trees::tree(site.root(), &files), &["-U", UUID]);
    opens_guest(&mut site);
    site
}

/// The result as it is seen by a machine.
fn seen(site: &Site) -> PathBuf {
    let (raw, result) =
        (site.root().join("seen.raw"), site.order.plan.result_path(&site.order.plan.disks[0]));
    let driver = match site.order.plan.output.format {
        OutputFormat::Vhd => "vpc",
        other => other.name(),
    };
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", driver, "-O", "raw"]).arg(result).arg(&raw);
    assert!(convert.status().unwrap().success());
    raw
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

/// Size of the file system in an image, of which all is read.
#[track_caller]
fn sound_ext4(image: &Path) -> u64 {
    let checked = Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(image).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let told = Command::new("/sbin/dumpe2fs").arg("-h").arg(image).output().unwrap().stdout;
    let told = String::from_utf8(told).unwrap();
    let number = |key: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    number("Block count:") * number("Block size:")
}

#[track_caller]
fn assert_grown(site: &Site, report: &Report, before: &str) {
    let image = seen(site);
    assert_eq!(size(&image), 128 * MIB);
    assert_eq!(sound_ext4(&image), 128 * MIB);
    assert_eq!(trees::file_in(&image, "/etc/fstab"), format!("UUID={UUID} / ext4 errors=remount-ro 0 1\n"));
    let fixes: Vec<String> = report.fixes.iter().map(|fix| format!("{} {}", fix.name, fix.path)).collect();
    assert_eq!(fixes, ["resize /dev/sda", "fstab /etc/fstab"]);
    assert_eq!(report.artifacts[0].virtual_size_bytes, 128 * MIB);
    assert_eq!(disks::sha256(site.source(0)), before, "the source was written to");
    let result = format!("disk0.{}", site.order.plan.output.format.name());
    site.assert_only(&[&result, "report.json"]);
    site.assert_no_process();
}

#[test]
fn a_source_that_only_we_read_grows_with_its_guest() {
    let mut site = guest();
    let raw = std::fs::read(site.source(0)).unwrap();
    let root = site.root().join("in");
    let at = |name: &str| root.join(name);
    // The parent has other bytes where the child has the guest's.
    let block = |number: usize| raw[number << 20..][..1 << 20].to_vec();
    let full = |bytes: Vec<u8>| Block::Full(vec![(0, bytes)]);
    let of_child = [0, 1, 33];
    let blocks = (0..64).map(|number| match of_child.contains(&number) {
        true => (number as u64, full(vec![0xee; 1 << 20])),
        false => (number as u64, full(block(number))),
    });
    let base = Vhdx::new(64 * MIB, 1, blocks.collect());
    base.write(&at("base.vhdx"));
    let changes = of_child.map(|number| (number as u64, full(block(number))));
    base.on("base.vhdx", 2, changes.to_vec()).write(&at("child.avhdx"));
    let disk = &mut site.order.plan.disks[0];
    (disk.source, disk.source_format, disk.backing_chain) = (at("child.avhdx"), SourceFormat::Vhdx, true);
    let before = [at("base.vhdx"), at("child.avhdx")].map(|path| disks::sha256(&path));
    let report = *site.succeed().content.unwrap();
    assert_grown(&site, &report, &before[1]);
    assert_eq!(disks::sha256(&at("base.vhdx")), before[0], "the parent was written to");
}

#[test]
fn every_format_holds_the_source_and_then_zeros_up_to_the_wanted_size() {
    for format in OutputFormat::ALL {
        let mut site = growing("vmdk");
        site.order.plan.output.format = format;
        let before = disks::sha256(site.source(0));
        site.succeed();
        let mut expected = Command::new("qemu-img");
        let raw = site.root().join("expected.raw");
        expected.args(["convert", "-f", "vmdk", "-O", "raw"]).arg(site.source(0)).arg(&raw);
        assert!(expected.status().unwrap().success());
        std::fs::File::options().write(true).open(&raw).unwrap().set_len(128 * MIB).unwrap();
        assert_eq!(disks::sha256(&seen(&site)), disks::sha256(&raw), "{}", format.name());
        assert_eq!(disks::sha256(site.source(0)), before, "the source was written to");
        site.assert_only(&[&format!("disk0.{}", format.name()), "report.json"]);
    }
}

#[test]
fn a_result_that_is_laid_out_beforehand_is_so_at_its_new_size() {
    use std::os::unix::fs::MetadataExt as _;
    let mut site = growing("raw");
    site.order.plan.output.format = OutputFormat::Raw;
    site.order.plan.output.preallocation = Preallocation::Falloc;
    site.succeed();
    let result = std::fs::metadata(site.out().join("disk0.raw")).unwrap();
    assert!(result.blocks() * 512 >= 128 * MIB, "{}", result.blocks());
}

#[test]
fn a_smaller_size_is_refused_before_any_byte_is_copied_and_the_same_size_is_nothing_to_do() {
    let mut site = growing("vmdk");
    site.order.plan.disks[0].resize = Some(PlannedGrowth::To(32 * MIB));
    let refused = site.fail();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("only grow"), "{refused}");
    assert!(!site.names().iter().any(|name| name.contains("qcow2")), "{:?}", site.names());

    site.order.plan.disks[0].resize = Some(PlannedGrowth::To(64 * MIB));
    site.succeed();
    site.assert_same_content();
}

#[test]
fn the_file_system_of_a_guest_grows_with_its_disk_and_the_source_does_not() {
    // Written at any offset, and as a stream.
    for format in [OutputFormat::Qcow2, OutputFormat::Vdi] {
        let mut site = guest();
        site.order.plan.output.format = format;
        let before = disks::sha256(site.source(0));
        let report = site.succeed().content.unwrap();
        assert_grown(&site, &report, &before);
    }
}

#[test]
fn where_there_is_no_system_the_disk_grows_alone_if_that_is_allowed_and_says_so() {
    let mut site = growing("raw");
    opens_guest(&mut site);
    site.order.plan.guest.fix.on_no_os = OnNoOs::Skip;
    let report = site.succeed().content.unwrap();
    assert_eq!(report.artifacts[0].virtual_size_bytes, 128 * MIB);
    assert!(report.fixes.is_empty(), "{:?}", report.fixes);
    let warned = |part: &str| report.warnings.iter().any(|warning| warning.message.contains(part));
    assert!(warned("but not the partitions"), "{:?}", report.warnings);
}

#[test]
#[cfg(feature = "failpoints")]
fn a_worker_killed_around_the_commit_is_gone_on_from_to_the_same_larger_guest() {
    for step in ["fix.before-mark", "fix.after-mark", "commit.before", "commit.after"] {
        let site = guest();
        let before = disks::sha256(site.source(0));
        let program = crate::crashes::armed(&site, step);
        let told = crate::site::drive(&program, &site.order, &site.log(), |_, _| {});
        let failed = matches!(told.outcome, hyper2kvm::model::protocol::WorkerOutcome::Failed { .. });
        assert!(failed, "{step}: {:?}", told.outcome);
        site.assert_no_process();
        let report = site.succeed().content.unwrap();
        assert_grown(&site, &report, &before);
    }
}
