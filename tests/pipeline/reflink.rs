//! Raw results of raw sources where the file system lets files share what they hold: nothing is copied, and all is as ever.

use std::path::PathBuf;
use std::process::Command;

use hyper2kvm::model::plan::OutputFormat;

use crate::hostile::in_private_mounts;
use crate::site::Site;
use crate::support::disks;

const MIB: u64 = 1 << 20;
const DATA_MIB: u64 = 96;

/// A file system whose files may share blocks; nothing is left of it when it goes out of scope.
struct Sharing(PathBuf);

impl Sharing {
    fn mount(site: &Site) -> Sharing {
        let (at, image) = (site.root().join("sharing"), site.root().join("image"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(512 * MIB).unwrap();
        run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Sharing(at)
    }

    fn used_mib(&self) -> u64 {
        let told = Command::new("df").args(["--output=used", "-BM"]).arg(&self.0).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        told.lines().last().unwrap().trim().trim_end_matches('M').parse().unwrap()
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A VM whose source and result lie there.
fn site() -> (Site, Sharing) {
    let mut site = Site::sized(&["raw"], DATA_MIB + 32, DATA_MIB);
    let sharing = Sharing::mount(&site);
    let source = sharing.0.join("disk0.raw");
    std::fs::copy(site.source(0), &source).unwrap();
    site.order.plan.disks[0].source = source;
    site.order.plan.output.directory = sharing.0.join("out");
    site.order.plan.output.format = OutputFormat::Raw;
    (site, sharing)
}

#[test]
fn a_raw_result_shares_the_blocks_of_its_raw_source_and_is_a_file_of_its_own() {
    in_private_mounts(
        "reflink::a_raw_result_shares_the_blocks_of_its_raw_source_and_is_a_file_of_its_own",
        || {
            for read_back in [false, true] {
                let (mut site, sharing) = site();
                site.order.plan.output.read_back = read_back;
                run(Command::new("sync").arg("-f").arg(&sharing.0));
                let before = sharing.used_mib();
                let published = site.succeed();
                let content = published.content.unwrap();
                assert!(
                    content.artifacts[0].engine.ends_with(", reflink"),
                    "{}",
                    content.artifacts[0].engine
                );
                run(Command::new("sync").arg("-f").arg(&sharing.0));
                assert!(sharing.used_mib() < before + DATA_MIB / 4, "{} after {before}", sharing.used_mib());
                let source = disks::sha256(site.source(0));
                assert_eq!(content.artifacts[0].sha256.as_ref(), Some(&source));
                // What is written into the result does not get into the source.
                let result = site.out().join("disk0.raw");
                run(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 7 0 1M"]).arg(&result));
                assert_eq!(disks::sha256(site.source(0)), source);
                assert_ne!(disks::sha256(&result), source);
            }
        },
    );
}

#[test]
fn another_format_of_it_is_copied() {
    in_private_mounts("reflink::another_format_of_it_is_copied", || {
        let (mut site, _sharing) = site();
        site.order.plan.output.format = OutputFormat::Qcow2;
        let published = site.succeed();
        assert!(!published.content.unwrap().artifacts[0].engine.contains("reflink"));
        site.assert_same_content();
    });
}
