//! Copies that were cut: what is gone on with, and what is not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper2kvm::disk::{Control, CopyOutcome, CopyProgress, Fence, SourceDisk, Target};
use hyper2kvm::model::error::{Error, Kind, Result};
use hyper2kvm::model::plan::{Compression, OutputFormat, SourceFormat};

use crate::support::disks;
use crate::{engine, open, target};

const MIB: u64 = 1 << 20;
/// More of a source is never read again.
const READ_AGAIN: u64 = 64 * MIB;
/// Long enough to be cut in the middle.
const DATA_MIB: u64 = 160;

/// A source, and the place where it is copied to.
struct Site {
    dir: tempfile::TempDir,
    source: SourceDisk,
    format: OutputFormat,
    compress: Compression,
}

impl Site {
    fn new(from: SourceFormat, to: OutputFormat) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let path = disks::disk(dir.path(), "disk", from.name(), DATA_MIB + 24, DATA_MIB, 3);
        Site { source: open(&path, from).unwrap(), dir, format: to, compress: Compression::None }
    }

    /// Of a disk that only QEMU reads.
    fn read_by_qemu(to: OutputFormat) -> Site {
        let mut site = Site::new(SourceFormat::Raw, to);
        let path = site.path("disk.qcow2");
        let mut make = Command::new("qemu-img");
        make.args(["convert", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on"]);
        assert!(make.arg(&site.source.path).arg(&path).status().unwrap().success());
        site.source = open(&path, SourceFormat::Qcow2).unwrap();
        site
    }

    /// A raw disk of which some blocks pack well, some hardly and some not at all.
    fn packed(to: OutputFormat, compress: Compression) -> Site {
        let site = Site { compress, ..Site::new(SourceFormat::Raw, to) };
        let disk = OpenOptions::new().write(true).open(&site.source.path).unwrap();
        // Numbers as text, ever more of them in each MiB of noise.
        let text: String = (0..80_000).map(|number| format!("{number:>8} of them\n")).collect();
        for number in 0..DATA_MIB {
            let count = (number as usize * 7919) % text.len();
            disk.write_all_at(&text.as_bytes()[..count], number * MIB + number * 512).unwrap();
        }
        let source = open(&site.source.path, SourceFormat::Raw).unwrap();
        Site { source, ..site }
    }

    fn target(&self) -> Target {
        Target {
            compress: self.compress,
            journal: Some(self.path("journal")),
            ..target(self.path("result"), self.format)
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Copies with this hand in it; and how much was done at the end.
    fn copy_with(&self, control: &Control) -> (Result<CopyOutcome>, u64) {
        let (engine, target) = (engine(), self.target());
        let measure = engine.measure(&self.source, &target, control).unwrap();
        let mut done = 0;
        let mut heard = |progress: CopyProgress| done = progress.bytes_done;
        let copied = engine.copy(&self.source, &target, &measure, control, &mut heard);
        (copied, done)
    }

    /// Copies to the end.
    fn copy(&self) -> CopyOutcome {
        self.copy_with(&Control::new()).0.unwrap()
    }

    /// A copy that was stopped as soon as some of it was written down, and how much it had done then.
    fn cut(&self) -> u64 {
        // A loaded machine may look too late.
        for _ in 0..50 {
            let control = Control::new();
            let (cut, done) = thread::scope(|scope| {
                let copy = scope.spawn(|| self.copy_with(&control));
                // The first two say what is copied, and when.
                while !copy.is_finished() && self.frames() < 3 {
                    thread::sleep(Duration::from_millis(1));
                }
                control.stop();
                copy.join().unwrap()
            });
            match cut {
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Cancelled, "{error}");
                    return done;
                }
                Ok(_) => self.remove(),
            }
        }
        panic!("no copy was cut in time");
    }

    fn remove(&self) {
        for name in ["result", "journal"] {
            fs::remove_file(self.path(name)).unwrap();
        }
    }

    /// Frames of the journal.
    fn frames(&self) -> usize {
        let journal = fs::read(self.path("journal")).unwrap_or_default();
        let (mut at, mut count) = (0, 0);
        while let Some(length) = journal.get(at..at + 4) {
            at += 12 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
            count += usize::from(at <= journal.len());
        }
        count
    }

    fn assert_same(&self) {
        let (engine, control, path) = (engine(), Control::new(), self.path("result"));
        engine.check(&path, self.format, &control).unwrap();
        engine.compare(&self.source, &path, self.format, &control, &mut |_| ()).unwrap();
    }

    /// What a copy that nothing disturbed makes.
    fn undisturbed(&self) -> String {
        self.remove();
        self.copy();
        disks::sha256(&self.path("result"))
    }
}

#[test]
fn a_copy_that_was_cut_goes_on_to_the_same_file_and_reads_little_again() {
    let sources = SourceFormat::ALL.map(|from| (from, OutputFormat::Qcow2, Compression::None));
    let targets = [
        (SourceFormat::Vmdk, OutputFormat::Raw, Compression::None),
        (SourceFormat::Raw, OutputFormat::Qcow2, Compression::Zstd),
        (SourceFormat::Raw, OutputFormat::Qcow2, Compression::Zlib),
        (SourceFormat::Raw, OutputFormat::Vmdk, Compression::None),
        (SourceFormat::Raw, OutputFormat::Vmdk, Compression::Zlib),
        (SourceFormat::Raw, OutputFormat::Vhd, Compression::None),
        (SourceFormat::Raw, OutputFormat::Vdi, Compression::None),
    ];
    for (from, to, compress) in sources.into_iter().chain(targets) {
        let case = format!("{} to {} {compress:?}", from.name(), to.name());
        let site = match compress {
            Compression::None => Site::new(from, to),
            _ => Site::packed(to, compress),
        };
        goes_on(&site, &case);
    }
}

#[test]
fn a_copy_of_what_only_qemu_reads_goes_on_too() {
    let second = goes_on(&Site::read_by_qemu(OutputFormat::Qcow2), "extended tables to qcow2");
    assert!(second.engine.contains("qemu-storage-daemon"), "{}", second.engine);
}

/// Cuts a copy and lets another go on.
fn goes_on(site: &Site, case: &str) -> CopyOutcome {
    let done = site.cut();
    let second = site.copy();
    assert_eq!(second.restarted, None, "{case}");
    assert!(second.kept_bytes + READ_AGAIN >= done, "{case}: {} kept of {done}", second.kept_bytes);
    site.assert_same();
    let digest = disks::sha256(&site.path("result"));
    assert_eq!(digest, site.undisturbed(), "{case}");
    println!("{case}: {} of {} MiB read again", done.saturating_sub(second.kept_bytes) / MIB, done / MIB);
    second
}

/// A fence that closes when some of a copy is written down.
#[derive(Debug)]
struct ClosesAt {
    journal: PathBuf,
    bytes: u64,
}

impl Fence for ClosesAt {
    fn check(&self) -> Result<()> {
        match fs::metadata(&self.journal).is_ok_and(|file| file.len() >= self.bytes) {
            true => Err(Error::new(Kind::Exists, "somebody else works there")),
            false => Ok(()),
        }
    }

    fn glance(&self) -> Result<()> {
        self.check()
    }
}

#[test]
fn behind_a_fence_nothing_is_written_and_what_was_written_before_is_gone_on_with() {
    let site = Site::new(SourceFormat::Raw, OutputFormat::Qcow2);
    let control = Control::new();
    control.fence(Arc::new(ClosesAt { journal: site.path("journal"), bytes: 1024 }));
    let (copied, _) = site.copy_with(&control);
    assert_eq!(copied.unwrap_err().kind(), Kind::Exists);
    let state = || {
        let marks =
            ["result", "journal"].map(|name| fs::metadata(site.path(name)).unwrap().modified().unwrap());
        (marks, disks::sha256(&site.path("result")), disks::sha256(&site.path("journal")))
    };
    let before = state();
    let control = Control::new();
    control.fence(Arc::new(ClosesAt { journal: site.path("journal"), bytes: 0 }));
    assert_eq!(site.copy_with(&control).0.unwrap_err().kind(), Kind::Exists);
    assert_eq!(state(), before, "not even begun");
    let second = site.copy();
    assert!(second.kept_bytes > 0 && second.restarted.is_none(), "{second:?}");
    site.assert_same();
}

#[test]
fn a_copy_goes_on_where_the_devices_have_other_numbers() {
    let site = Site::new(SourceFormat::Raw, OutputFormat::Qcow2);
    site.cut();
    // As another host, or another run of the kernel, would find it: the first frame says what is copied.
    let mut journal = fs::read(site.path("journal")).unwrap();
    let length = u32::from_le_bytes(journal[..4].try_into().unwrap()) as usize;
    let text = String::from_utf8(journal[12..12 + length].to_vec()).unwrap();
    let dev = site.source.identity()[0].dev.to_string();
    let other = "7".repeat(dev.len());
    let changed = text.replace(&format!("\"dev\":{dev}"), &format!("\"dev\":{other}"));
    assert_ne!(changed, text);
    journal[12..12 + length].copy_from_slice(changed.as_bytes());
    let hash = twox_hash::XxHash3_64::oneshot_with_seed(0, changed.as_bytes());
    journal[4..12].copy_from_slice(&hash.to_le_bytes());
    fs::write(site.path("journal"), journal).unwrap();
    let second = site.copy();
    assert!(second.restarted.is_none(), "{second:?}");
    site.assert_same();
}

#[test]
fn a_copy_that_was_finished_and_not_recorded_is_gone_on_with_too() {
    let site = Site::new(SourceFormat::Vmdk, OutputFormat::Qcow2);
    let first = site.copy();
    let before = disks::sha256(&site.path("result"));
    let again = site.copy();
    assert_eq!((first.kept_bytes, again.kept_bytes), (0, DATA_MIB * MIB));
    assert_eq!(disks::sha256(&site.path("result")), before);
    site.assert_same();
}

/// Cuts a copy, does something, and says why the next one started over.
fn restarted(what: impl FnOnce(&Site)) -> (Site, Option<String>) {
    let site = Site::new(SourceFormat::Raw, OutputFormat::Qcow2);
    site.cut();
    what(&site);
    let second = site.copy();
    if second.restarted.is_some() {
        assert_eq!(second.kept_bytes, 0);
    }
    site.assert_same();
    (site, second.restarted)
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn what_was_written_last_is_looked_at_before_anything_is_built_on_it() {
    let (_, why) = restarted(|site| {
        let end = fs::metadata(site.path("result")).unwrap().len();
        for at in (MIB..end).step_by(1 << 16) {
            write_at(&site.path("result"), at, b"spoiled");
        }
    });
    assert!(why.unwrap().contains("written last is not there"));
}

#[test]
fn a_result_that_lost_its_end_is_not_gone_on_with() {
    let (_, why) = restarted(|site| {
        OpenOptions::new().write(true).open(site.path("result")).unwrap().set_len(3 * MIB).unwrap();
    });
    assert!(why.is_some());
}

#[test]
fn a_result_that_somebody_put_there_is_not_gone_on_with() {
    let (site, why) = restarted(|site| {
        fs::copy(site.path("result"), site.path("other")).unwrap();
        fs::rename(site.path("other"), site.path("result")).unwrap();
    });
    assert!(why.is_some());
    drop(site);
    let (site, why) = restarted(|site| {
        fs::rename(site.path("result"), site.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(site.path("elsewhere"), site.path("result")).unwrap();
    });
    assert!(why.is_some());
    assert!(fs::symlink_metadata(site.path("result")).unwrap().is_file());
    drop(site);
    let (_, why) = restarted(|site| fs::hard_link(site.path("result"), site.path("second name")).unwrap());
    assert!(why.unwrap().contains("not a file of our own"));
}

#[test]
fn without_its_journal_a_result_is_made_anew() {
    let (_, why) = restarted(|site| fs::remove_file(site.path("journal")).unwrap());
    assert_eq!(why, None);
}

#[test]
fn a_result_that_is_to_be_packed_otherwise_is_made_anew() {
    let (mut site, other) = (Site::new(SourceFormat::Raw, OutputFormat::Qcow2), Compression::Zstd);
    site.cut();
    site.compress = other;
    let second = site.copy();
    assert!(second.kept_bytes == 0, "{second:?}");
    assert!(second.restarted.unwrap().contains("made in another way"));
    site.assert_same();
}

/// What the first frame of a journal says, put through `change`.
fn rewrite(journal: &Path, change: impl FnOnce(&str) -> String) {
    let bytes = fs::read(journal).unwrap();
    let end = 12 + u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let payload = change(std::str::from_utf8(&bytes[12..end]).unwrap()).into_bytes();
    let mut changed = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    changed.extend(twox_hash::XxHash3_64::oneshot_with_seed(0, &payload).to_le_bytes());
    changed.extend(&payload);
    changed.extend(&bytes[end..]);
    fs::write(journal, changed).unwrap();
}

#[test]
fn why_a_journal_is_of_no_use_is_told_as_it_is() {
    let version = |text: &str| {
        let at = text.find("\"version\":").unwrap() + 10;
        let number = text[at..].find(',').unwrap();
        format!("{}99{}", &text[..at], &text[at + number..])
    };
    let other = |what: &dyn Fn(&str) -> String| restarted(|site| rewrite(&site.path("journal"), what)).1;
    for (expected, why) in [
        ("begun by another version of hyper2kvm", other(&version)),
        ("none of ours", other(&|_| "[]".to_owned())),
        ("made in another way", other(&|text| text.replace("\"qcow2\"", "\"raw\""))),
        ("damaged", restarted(|site| fs::write(site.path("journal"), b"x").unwrap()).1),
    ] {
        let why = why.unwrap();
        assert!(why.contains(expected) && !why.contains("source"), "{expected}: {why}");
    }
}

#[test]
fn a_source_that_changed_is_copied_from_its_beginning() {
    let mut site = Site::new(SourceFormat::Raw, OutputFormat::Qcow2);
    site.cut();
    let path = site.source.path.clone();
    write_at(&path, 5 * MIB, b"changed");
    site.source = open(&path, SourceFormat::Raw).unwrap();
    let second = site.copy();
    assert!(second.restarted.unwrap().contains("source was changed"));
    site.assert_same();
}
