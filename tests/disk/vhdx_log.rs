//! VHDX that were not closed cleanly: what their log changes is seen, and nothing of them is written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::disk::Control;
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::plan::{OutputFormat, SourceFormat};

use crate::support::disks::sha256;
use crate::support::vhdx::{
    Block, Change, Entry, LOG, LOG_BYTES, MIB, PAGE, TABLE, Vhdx, leave_open, summed, write_unfinished,
};
use crate::{copy_to, engine, open, target};

/// The SHA-256 of what is copied of a disk, by ourselves.
fn content(path: &Path) -> Result<String> {
    let engine = engine();
    let before = sha256(path);
    let source = open(path, SourceFormat::Vhdx)?;
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path().join("result"), OutputFormat::Raw);
    let copied = copy_to(&engine, &source, &target)?;
    assert!(copied.engine.starts_with("hyper2kvm "));
    source.check_unchanged(&Control::new())?;
    assert_eq!(sha256(path), before, "the source was written");
    Ok(sha256(&target.path))
}

fn shown(image: &Vhdx) -> String {
    let plain = tempfile::NamedTempFile::new().unwrap();
    image.show(plain.as_file());
    sha256(plain.path())
}

fn block(byte: u8) -> Block {
    Block::Full(vec![(0, vec![byte; MIB as usize])])
}

/// A disk of five blocks, and the same when three more had been written.
fn states() -> (Vhdx, Vhdx) {
    let before = Vhdx::new(64 * MIB, 1, vec![(7, block(1)), (0, block(2))]);
    let mut after = before.clone();
    after.blocks.extend([(1, block(3)), (63, block(4)), (20, block(5))]);
    (before, after)
}

struct Open {
    dir: tempfile::TempDir,
    path: PathBuf,
    before: Vhdx,
    after: Vhdx,
    /// What is missing of the second state.
    changes: Vec<Change>,
}

/// A disk whose tables are those of the first state, and whose log is empty yet.
fn unfinished() -> Open {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = states();
    let path = dir.path().join("disk.vhdx");
    let changes = write_unfinished(&before, &after, &path);
    leave_open(&path, 9);
    assert!(!changes.is_empty());
    Open { dir, path, before, after, changes }
}

/// A table without anything in it: what a newer entry has to hide.
fn empty_table() -> Change {
    Change::Page { from: TABLE, bytes: vec![0; PAGE as usize] }
}

fn refused(path: &Path) -> String {
    let error = open(path, SourceFormat::Vhdx).unwrap_err();
    assert_eq!(error.kind(), Kind::Source, "{error}");
    assert!(error.details().advice.is_some(), "{error}");
    error.to_string()
}

#[test]
fn what_the_log_holds_is_read_as_if_it_were_in_its_place() {
    let Open { dir: _dir, path, before, after, changes, .. } = unfinished();
    Entry::new(3, 100, changes).write(&path);
    assert_eq!(content(&path).unwrap(), shown(&after));
    assert_ne!(shown(&before), shown(&after));
    let source = open(&path, SourceFormat::Vhdx).unwrap();
    assert!(source.warnings.iter().any(|warning| warning.contains("log")), "{:?}", source.warnings);
    assert_eq!(source.facts.virtual_size, 64 * MIB);
}

#[test]
fn a_row_of_entries_goes_on_at_the_beginning_of_the_log() {
    let Open { dir: _dir, path, after, changes, .. } = unfinished();
    let last_page = LOG_BYTES / PAGE - 1;
    // The first one's second page, and the second one, lie at the beginning.
    let first = Entry::new(last_page, 7, vec![empty_table()]);
    let second = Entry { tail: last_page, ..Entry::new(first.pages() - 1, 8, changes) };
    // What an earlier round left.
    Entry::new(40, 2, vec![empty_table()]).write(&path);
    first.write(&path);
    second.write(&path);
    assert_eq!(content(&path).unwrap(), shown(&after));
}

#[test]
fn only_the_newest_row_counts_and_only_from_its_tail_on() {
    let Open { dir: _dir, path, after, changes, .. } = unfinished();
    Entry::new(100, 4, vec![empty_table()]).write(&path);
    // The one before the tail is in its place already, as its writer said.
    let done = Entry::new(0, 20, vec![Change::Zeros { from: TABLE, bytes: 2 * PAGE }]);
    let newest = Entry::new(done.pages(), 21, changes);
    done.write(&path);
    newest.write(&path);
    // An entry of another log is none, however new.
    Entry { id: 8, ..Entry::new(200, 99, vec![empty_table()]) }.write(&path);
    assert_eq!(content(&path).unwrap(), shown(&after));
}

#[test]
fn an_entry_that_was_cut_while_it_was_written_is_none() {
    let Open { dir: _dir, path, after, changes, .. } = unfinished();
    let first = Entry::new(0, 5, changes);
    let torn = Entry { tail: 0, ..Entry::new(first.pages(), 6, vec![empty_table()]) };
    for spoilt in [0, 70, PAGE + 500] {
        first.write(&path);
        torn.write(&path);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"torn", LOG + first.pages() * PAGE + spoilt).unwrap();
        assert_eq!(content(&path).unwrap(), shown(&after), "spoilt at {spoilt}");
    }
}

#[test]
fn what_a_log_makes_zero_is_zero_also_beyond_the_end_of_the_file() {
    let Open { dir: _dir, path, mut after, mut changes, .. } = unfinished();
    // A block that had no place in the file yet when its entry was written.
    let length = fs::metadata(&path).unwrap().len();
    let entry = length | 6;
    for change in &mut changes {
        if let Change::Page { from: TABLE, bytes } = change {
            bytes[40 * 8..41 * 8].copy_from_slice(&entry.to_le_bytes());
        }
    }
    // The first block in the file is block 7.
    changes.push(Change::Zeros { from: TABLE + MIB, bytes: MIB / 2 });
    after.blocks[0].1 = Block::Full(vec![(MIB / 2, vec![1; MIB as usize / 2])]);
    Entry { flushed: length, last: length + MIB, ..Entry::new(0, 1, changes.clone()) }.write(&path);
    assert_eq!(content(&path).unwrap(), shown(&after));
    // Without that room the table tells of a block beyond the end.
    Entry { flushed: length, last: length, ..Entry::new(0, 1, changes) }.write(&path);
    assert!(refused(&path).contains("beyond its end"));
}

#[test]
fn a_damaged_log_is_told_and_never_left_out() {
    let Open { dir, path, changes, .. } = unfinished();
    let fresh = fs::read(&path).unwrap();
    let with = |entries: &[Entry]| {
        fs::write(&path, &fresh).unwrap();
        entries.iter().for_each(|entry| entry.write(&path));
        refused(&path)
    };
    let first = Entry::new(0, 5, changes.clone());
    let pages = first.pages();
    let second = Entry { tail: 0, ..Entry::new(pages, 6, vec![empty_table()]) };
    // No entry at all, and only one of another log.
    assert!(with(&[]).contains("no entry"));
    assert!(with(&[Entry { id: 8, ..first.clone() }]).contains("no entry"));
    // A gap in the numbers, one in the entries, and a tail where nothing begins.
    assert!(with(&[first.clone(), Entry { sequence: 7, ..second.clone() }]).contains("missing"));
    let third = Entry { tail: 0, ..Entry::new(pages * 2 + 9, 7, vec![empty_table()]) };
    assert!(with(&[first.clone(), second.clone(), third]).contains("missing"));
    assert!(with(&[Entry { tail: 77, ..first.clone() }]).contains("missing"));
    // A file that is shorter than it was.
    assert!(with(&[Entry { flushed: 1 << 40, ..first.clone() }]).contains("cut off"));
    // Headers, the log itself, places that no file has, and files that no disk has.
    for change in [
        Change::Zeros { from: 0, bytes: MIB },
        Change::Zeros { from: 64 << 10, bytes: PAGE },
        Change::Zeros { from: LOG + 8 * PAGE, bytes: PAGE },
        Change::Zeros { from: 1 << 62, bytes: 1 << 62 },
        Change::Zeros { from: MIB * 3, bytes: u64::MAX - PAGE + 1 },
    ] {
        assert!(with(&[Entry::new(0, 1, vec![change])]).contains("changes what"));
    }
    assert!(with(&[Entry { last: 1 << 60, ..first }]).contains("would have"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_log_that_asks_for_too_much_is_refused_at_once() {
    let Open { dir: _dir, path, .. } = unfinished();
    // Every page begins an entry that is as long as the log.
    let begun = std::time::Instant::now();
    let mut entry = Entry::new(0, 1, vec![]).bytes();
    entry[8..12].copy_from_slice(&(LOG_BYTES as u32).to_le_bytes());
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for page in 0..LOG_BYTES / PAGE {
        file.write_all_at(&entry, LOG + page * PAGE).unwrap();
    }
    assert!(refused(&path).contains("cover each other"));
    // A log of 3 GiB, all of it a hole.
    file.set_len(4 << 30).unwrap();
    for at in [64 << 10, 128 << 10] {
        let mut header = vec![0; 4096];
        file.read_exact_at(&mut header, at).unwrap();
        header[68..72].copy_from_slice(&(3_u32 << 30).to_le_bytes());
        file.write_all_at(&summed(header), at).unwrap();
    }
    let error = open(&path, SourceFormat::Vhdx).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(begun.elapsed().as_secs() < 20);
}

#[test]
fn headers_that_are_as_new_as_each_other_have_to_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    states().0.write(&path);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut header = vec![0; 4096];
    file.read_exact_at(&mut header, 128 << 10).unwrap();
    file.write_all_at(&header, 64 << 10).unwrap();
    open(&path, SourceFormat::Vhdx).unwrap();
    header[48] = 5;
    file.write_all_at(&summed(header), 64 << 10).unwrap();
    assert!(refused(&path).contains("two headers"));
}

/// Puts a disk of QEMU's back into the state before its last write was in its place: the table's page as it was, and a header that says that
/// the entry counts which QEMU wrote into the log.
fn cut_by_power(path: &Path, table_before: &[u8], table_at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.write_all_at(table_before, table_at).unwrap();
    // Each run of QEMU begins with the first page.
    let mut entry = vec![0; 64];
    file.read_exact_at(&mut entry, LOG).unwrap();
    assert!(entry.starts_with(b"loge"), "QEMU wrote no log");
    let id = &entry[32..48];
    for at in [64 << 10, 128 << 10] {
        let mut header = vec![0; 4096];
        file.read_exact_at(&mut header, at).unwrap();
        header[48..64].copy_from_slice(id);
        file.write_all_at(&summed(header), at).unwrap();
    }
}

#[test]
fn a_log_of_qemu_is_read_as_qemu_carries_it_out() {
    let dir = tempfile::tempdir().unwrap();
    let (path, repaired) = (dir.path().join("disk.vhdx"), dir.path().join("repaired.vhdx"));
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let name = path.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "vhdx", "-o", "block_size=1M,log_size=1M", name, "64M"]);
    run("qemu-io", &["-f", "vhdx", "-c", "write -P 1 0 3M", "-c", "write -P 7 10M 64k", name]);
    let table_at = 2 * MIB;
    let mut table = vec![0; PAGE as usize];
    let tables = File::open(&path).unwrap();
    tables.read_exact_at(&mut table, table_at).unwrap();
    // QEMU ends in the middle, as by a crash; the block it wrote last is in the file.
    let done = Command::new("qemu-io")
        .args(["-f", "vhdx", "-c", "write -P 2 5M 1M", "-c", "abort", name])
        .output()
        .unwrap();
    assert!(!done.status.success());
    let mut changed = vec![0; PAGE as usize];
    tables.read_exact_at(&mut changed, table_at).unwrap();
    assert!(table != changed, "the block table lies elsewhere");
    cut_by_power(&path, &table, table_at);

    fs::copy(&path, &repaired).unwrap();
    let refused =
        Command::new("qemu-img").args(["convert", "-f", "vhdx", "-O", "raw", name, "/dev/null"]).output();
    assert!(!refused.unwrap().status.success(), "QEMU reads it as it is");
    run("qemu-img", &["check", "-q", "-r", "all", "-f", "vhdx", repaired.to_str().unwrap()]);
    let plain = dir.path().join("plain.raw");
    run(
        "qemu-img",
        &["convert", "-f", "vhdx", "-O", "raw", repaired.to_str().unwrap(), plain.to_str().unwrap()],
    );
    let seen = fs::read(&plain).unwrap();
    assert!(seen[5 << 20..6 << 20].iter().all(|byte| *byte == 2));
    assert_eq!(content(&path).unwrap(), sha256(&plain));
}
