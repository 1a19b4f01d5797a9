//! A conversion whose results are made in a storage pool (`output.pool`), killed and refused in every way.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::stage::{Site, failed_with, told, went_well};
use crate::support::daemon::Daemon;
use crate::support::wait::{PATIENCE, within};

const RESULT: &str = "web-boot.qcow2";
/// More memory than any machine has: it is defined, and does not start.
const TOO_LARGE: &str = "vm: {mem_mb: 67108864}\n";
/// So much is data of a disk, and of nothing else that is written.
const DATA: u64 = 1 << 20;

/// The manifest with results made in the pool `vms`, and what else is said of them.
fn manifest(site: &Site, told: &str, rest: &str, output: &str) -> PathBuf {
    let path = site.manifest(told, rest);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("output: {", &format!("output: {{pool: vms{output}, "))).unwrap();
    path
}

fn convert(site: &Site, told: &str, rest: &str, failpoint: Option<&str>) -> Output {
    let mut command = site.libvirtd.hyper2kvm();
    command.arg("convert").arg(manifest(site, told, rest, ""));
    command.envs(failpoint.map(|point| ("HYPER2KVM_FAILPOINT", point)));
    if site.out().exists() {
        command.arg("--resume");
    }
    command.output().unwrap()
}

/// Files below a directory that hold as much as a disk does.
fn with_data(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.metadata().is_ok_and(|found| found.blocks() * 512 > DATA)).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

impl Site {
    /// The volumes that libvirt shows, without looking again.
    fn volumes(&self) -> Vec<String> {
        let told = self.virsh("vol-list vms");
        told.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    }

    /// One volume, one machine around it, one report.
    fn is_made_in(&self, pool: &Path) {
        assert_eq!((self.volumes(), names(pool)), (vec![RESULT.to_owned()], vec![RESULT.to_owned()]));
        assert_eq!(self.virsh("list --all --name"), "web");
        assert!(self.virsh("domblklist web").contains(&pool.join(RESULT).display().to_string()));
        let report = self.report();
        let volume = &report["libvirt"]["volumes"][0];
        assert_eq!((&volume["pool"], &volume["volume"]), (&"vms".into(), &RESULT.into()));
        assert_eq!((&volume["path"], &report["artifacts"][0]["path"]), (&volume["path"], &volume["path"]));
        assert_eq!(volume["path"].as_str().map(Path::new), Some(pool.join(RESULT).as_path()));
        assert!(report["artifacts"][0]["sha256"].is_string());
        assert_eq!(with_data(&self.out()), Vec::<PathBuf>::new());
    }

    /// Nothing of the conversion can be seen: no machine, no volume that is called so, no result.
    fn shows_nothing(&self, pool: &Path) {
        assert_eq!(self.virsh("list --all --name"), "");
        assert!(self.volumes().iter().all(|name| name.starts_with('.')), "{:?}", self.volumes());
        assert!(names(pool).iter().all(|name| name.starts_with('.')), "{:?}", names(pool));
        assert!(!self.out().join("report.json").exists());
    }
}

#[test]
fn a_disk_is_made_in_its_pool_and_nowhere_else_and_its_machine_is_defined_around_it() {
    let site = Site::new();
    let pool = site.pool("vms");
    // All bytes are there, and nothing has a name.
    let output = convert(&site, "auto_start: true", "", Some("partial.done"));
    assert!(!output.status.success(), "{}", told(&output));
    site.shows_nothing(&pool);
    let [partial] = &with_data(&pool)[..] else { panic!("{:?}", names(&pool)) };
    let made = partial.metadata().unwrap().ino();
    assert_eq!((with_data(&site.out()), site.volumes()), (Vec::new(), Vec::new()));
    went_well(&convert(&site, "auto_start: true", "", None));
    site.is_made_in(&pool);
    assert_eq!(
        pool.join(RESULT).metadata().unwrap().ino(),
        made,
        "the file is the one that was written first"
    );
    assert_eq!(site.virsh("domstate web"), "running");
}

#[test]
fn a_worker_that_is_killed_anywhere_is_gone_on_from_and_no_volume_is_an_orphan() {
    let site = Site::new();
    let pool = site.pool("vms");
    let points = [
        "copy.target-made",
        "copy.after-sync",
        "publish.after-intent",
        "publish.after-renames",
        "handover.begun:1",
        "handover.answered:1",
        "handover.done:1",
        "handover.begun:2",
        "handover.answered:2",
        "handover.done:2",
    ];
    for point in points {
        let output = convert(&site, "", "", Some(point));
        assert!(!output.status.success(), "{point}: {}", told(&output));
        assert!(!site.out().join("report.json").exists(), "{point}");
        let output = convert(&site, "", "", None);
        assert!(output.status.success(), "{point}: {}", told(&output));
        site.is_made_in(&pool);
        site.virsh("undefine web");
        site.virsh(&format!("vol-delete --pool vms {RESULT}"));
        fs::remove_dir_all(site.out()).unwrap();
    }
}

#[test]
fn what_fails_is_taken_back_and_the_pool_does_not_show_it_any_more() {
    let site = Site::new();
    let pool = site.pool("vms");
    let steps = "create_snapshot: true, auto_start: true";
    failed_with(&convert(&site, steps, TOO_LARGE, None), "cannot start web");
    site.shows_nothing(&pool);
    for point in ["handover.undoing", "handover.undone"] {
        let output = convert(&site, steps, TOO_LARGE, Some(point));
        assert!(!output.status.success(), "{point}: {}", told(&output));
        failed_with(&convert(&site, steps, TOO_LARGE, None), "cannot start web");
        site.shows_nothing(&pool);
    }
    went_well(&convert(&site, steps, "", None));
    site.is_made_in(&pool);
    assert_eq!(site.virsh("snapshot-list web --name"), "pre-first-boot");
}

#[test]
fn what_is_begun_anew_by_another_plan_leaves_no_volume_of_the_first() {
    let site = Site::new();
    let pool = site.pool("vms");
    assert!(!convert(&site, "", "", Some("handover.answered:2")).status.success());
    assert_eq!(
        (site.volumes(), site.virsh("list --all --name")),
        (vec![RESULT.to_owned()], "web".to_owned())
    );
    assert!(!convert(&site, "", "priority: 1\n", Some("copy.target-made")).status.success());
    site.shows_nothing(&pool);
    went_well(&convert(&site, "", "priority: 1\n", None));
    site.is_made_in(&pool);
}

#[test]
fn a_libvirt_that_is_away_when_it_is_to_see_the_volume_is_waited_for() {
    let site = Site::new();
    let pool = site.pool("vms");
    assert!(!convert(&site, "", "", Some("handover.begun:1")).status.success());
    let planned = manifest(&site, "", "", "");
    site.libvirtd.hold(true);
    site.libvirtd.kill();
    let output = site.libvirtd.hyper2kvm().args(["convert", "--resume"]).arg(&planned).output().unwrap();
    assert!(!output.status.success() && told(&output).contains("libvirt"), "{}", told(&output));
    assert!(pool.join(RESULT).exists() && !site.out().join("report.json").exists());
    site.libvirtd.hold(false);
    site.libvirtd.await_up();
    went_well(&convert(&site, "", "", None));
    site.is_made_in(&pool);
}

#[test]
fn a_pool_in_which_somebody_makes_a_volume_is_looked_at_when_they_are_done() {
    let site = Site::new();
    let pool = site.pool("vms");
    assert!(!convert(&site, "", "", Some("handover.begun:1")).status.success());
    // It takes libvirt a while, as a large one would.
    let slow = site.libvirtd.images().join("slow");
    let real = slow.with_file_name("real");
    fs::write(&slow, format!("#!/bin/sh\nsleep 10\nexec {} \"$@\"\n", real.display())).unwrap();
    site.libvirtd.sh(&format!(
        "cp /usr/bin/qemu-img {}; chmod 755 {slow}; mount --bind {slow} /usr/bin/qemu-img",
        real.display(),
        slow = slow.display(),
    ));
    let mut other = site.libvirtd.inside("virsh");
    let mut other =
        other.args(["-q", "vol-create-as", "vms", "other", "1M", "--format", "qcow2"]).spawn().unwrap();
    let refresh = || site.libvirtd.sh("virsh pool-refresh vms 2>&1 || true");
    let is_busy = within(PATIENCE, || refresh().contains("asynchronous").then_some(()));
    assert!(is_busy.is_some(), "{}", refresh());
    site.libvirtd.sh("umount -l /usr/bin/qemu-img");
    went_well(&convert(&site, "", "", None));
    assert!(other.wait().unwrap().success());
    site.virsh("vol-delete --pool vms other");
    site.is_made_in(&pool);
}

#[test]
fn a_pool_in_which_nothing_can_be_made_is_told_before_a_byte_is_copied() {
    let site = Site::new();
    failed_with(&convert(&site, "", "", None), "there is no storage pool vms");
    let pool = site.pool("vms");
    let here = pool.display();
    site.virsh("pool-destroy vms");
    failed_with(&convert(&site, "", "", None), "the storage pool vms is not active");
    site.virsh("pool-start vms");
    // Writable for nobody, root included.
    site.libvirtd.sh(&format!("mount -t tmpfs -o size=1m,mode=755 small {here}; mount -o remount,ro {here}"));
    let output = convert(&site, "", "", None);
    failed_with(&output, "no result can be made in the storage pool vms");
    assert!(told(&output).contains("import_to_pool"), "{}", told(&output));
    site.libvirtd.sh(&format!("mount -o remount,rw {here}"));
    let output = convert(&site, "", "", None);
    failed_with(&output, "may be used");
    assert!(told(&output).contains(&here.to_string()), "{}", told(&output));
    assert_eq!(site.libvirtd.sh(&format!("find {here} -size +64k")), "");
    site.libvirtd.sh(&format!("umount {here}"));
    // Devices are no directory.
    site.virsh("pool-destroy vms");
    site.virsh("pool-undefine vms");
    site.virsh("pool-define-as vms logical --source-name h2k-none --target /dev/h2k-none");
    failed_with(&convert(&site, "", "", None), "vms");
    assert_eq!(names(&site.out()).iter().filter(|name| name.ends_with(".qcow2")).count(), 0);
}

#[test]
fn a_name_that_is_taken_is_kept_to_the_rules_of_results() {
    let site = Site::new();
    let pool = site.pool("vms");
    fs::write(pool.join(RESULT), "of somebody else").unwrap();
    failed_with(&convert(&site, "", "", None), "is already there");
    assert_eq!(fs::read_to_string(pool.join(RESULT)).unwrap(), "of somebody else");
    let suffixed = manifest(&site, "", "", ", on_exists: suffix");
    went_well(&site.libvirtd.hyper2kvm().arg("convert").arg(suffixed).output().unwrap());
    assert!(site.volumes().contains(&"web-boot-2.qcow2".to_owned()), "{:?}", site.volumes());
    assert!(site.virsh("domblklist web").contains("web-boot-2.qcow2"));
    fs::remove_dir_all(site.out()).unwrap();
    site.virsh("undefine web");
    let replacing = manifest(&site, "vm_name: db", "", ", on_exists: replace");
    went_well(&site.libvirtd.hyper2kvm().arg("convert").arg(replacing).output().unwrap());
    assert!(pool.join(RESULT).metadata().unwrap().len() > DATA);
    // Now a machine is defined with it.
    fs::remove_dir_all(site.out()).unwrap();
    let again = manifest(
        &site,
        "vm_name: third",
        "vm: {uuid: 564d1c2a-0000-1111-2222-333344445555}\n",
        ", on_exists: replace",
    );
    let output = site.libvirtd.hyper2kvm().arg("convert").arg(again).output().unwrap();
    failed_with(&output, "the machine db is defined with it");
}

#[test]
fn a_job_of_the_service_makes_its_disk_in_the_pool_of_the_configured_libvirt() {
    let site = Site::new();
    let pool = site.pool("vms");
    let daemon_with = |further: &str| {
        let mut daemon = Daemon::prepare();
        daemon.configure(&format!("libvirt: {{uri: \"{}\"}}\n{further}", site.libvirtd.uri()));
        daemon.start();
        daemon
    };
    let bytes = fs::read(manifest(&site, "", "", "")).unwrap();
    let elsewhere = daemon_with(&format!("paths: {{write: [{}]}}\n", site.out().display()));
    elsewhere.drop_file("web.yaml", &bytes);
    let refused = elsewhere.wait_settled("failed", "web.yaml.error.json");
    let refused = fs::read_to_string(refused).unwrap();
    assert!(refused.contains("output.pool") && refused.contains("paths.write"), "{refused}");
    drop(elsewhere);
    let daemon = daemon_with("");
    daemon.drop_file("web.yaml", bytes);
    let batch = daemon.wait_batch("web");
    assert_eq!(batch["vms"]["web"]["state"], "succeeded", "{}", daemon.log());
    site.is_made_in(&pool);
}

#[test]
fn a_libvirt_that_has_another_directory_there_is_found_out_and_nothing_stays() {
    let site = Site::new();
    let pool = site.pool("vms");
    site.libvirtd.sh(&format!("mount -t tmpfs -o mode=755 other {}", pool.display()));
    let daemon = {
        let mut daemon = Daemon::prepare();
        daemon.configure(&format!("libvirt: {{uri: \"{}\"}}\n", site.libvirtd.uri()));
        daemon.start();
        daemon
    };
    daemon.drop_file("web.yaml", fs::read(manifest(&site, "", "", "")).unwrap());
    let batch = daemon.wait_batch("web");
    assert_eq!(batch["vms"]["web"]["state"], "failed", "{}", daemon.log());
    assert!(batch["vms"]["web"]["error"].to_string().contains("has no volume"), "{batch}");
    site.shows_nothing(&pool);
}

#[test]
fn what_is_made_in_a_pool_is_planned_in_words() {
    let site = Site::new();
    let pool = site.pool("vms");
    let output = site.libvirtd.hyper2kvm().arg("plan").arg(manifest(&site, "", "", "")).output().unwrap();
    went_well(&output);
    let result = format!("-> {}", pool.join(RESULT).display());
    let line = format!("disk boot is made in the pool vms, as {RESULT}: it lies there from its first byte");
    assert!(told(&output).contains(&result) && told(&output).contains(&line), "{}", told(&output));
}
