//! Copies of a disk that goes on changing: what was told to have changed is in the copy, and nothing else.

use std::num::NonZeroU64;
use std::sync::atomic::AtomicU64;

use tempfile::TempDir;

use super::*;
use crate::disk::read::{Holds, Range as Told};
use crate::disk::remote::Remote;
use crate::sys::process::Launcher;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 24 * MIB + 512;

/// A disk elsewhere that lies in memory, and breaks after so many bytes.
#[derive(Debug)]
struct Far {
    content: Vec<u8>,
    breaks_after: AtomicU64,
}

impl Remote for Arc<Far> {
    fn name(&self) -> String {
        "[ds1] far/far.vmdk".to_owned()
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn identity(&self) -> String {
        "far".to_owned()
    }

    fn reader(&self, _: &Control) -> Result<Box<dyn Reader>> {
        Ok(Box::new(FarReader(Arc::clone(self))))
    }

    fn check_unchanged(&self, _: &Control) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct FarReader(Arc<Far>);

impl Reader for FarReader {
    fn size(&self) -> u64 {
        self.0.content.len() as u64
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Told> {
        Ok(Told { start: at, length: self.size() - at, holds: Holds::Data })
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        let left = self.0.breaks_after.load(Ordering::SeqCst);
        let left = left
            .checked_sub(buffer.len() as u64)
            .ok_or_else(|| Error::new(Kind::Network, "the connection is cut").transient())?;
        self.0.breaks_after.store(left, Ordering::SeqCst);
        buffer.copy_from_slice(&self.0.content[at as usize..at as usize + buffer.len()]);
        Ok(())
    }
}

fn far(content: Vec<u8>, breaks_after: u64) -> SourceDisk {
    let far = Far { content, breaks_after: AtomicU64::new(breaks_after) };
    SourceDisk::remote(Arc::new(Arc::new(far))).unwrap()
}

fn engine() -> Engine {
    // No child has a part in this.
    Engine {
        qemu_img: PathBuf::from("/not/there"),
        version: String::new(),
        storage_daemon: None,
        launcher: Launcher::default(),
        memory_bytes: 0,
        stall_timeout_s: 60.0,
        sandbox_required: false,
        looks_again: true,
    }
}

/// Bytes of a disk at some time: each sector tells its number and the time; each fourth MiB is empty.
fn content(time: u8) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    for (sector, number) in bytes.chunks_mut(512).zip(0_u64..) {
        if (number * 512 / MIB + u64::from(time)) % 4 != 3 {
            sector.fill((number % 251) as u8 | 1);
            sector[0] = time;
        }
    }
    bytes
}

/// A copy of the disk as it was at first.
fn copy(scratch: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = scratch.path().join("copy.raw");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// What the copy has to be: the new content where it was told, the old one elsewhere.
fn expected(old: &[u8], new: &[u8], areas: &[Range<u64>]) -> Vec<u8> {
    let mut bytes = old.to_vec();
    for area in areas {
        let area = area.start as usize..area.end as usize;
        bytes[area.clone()].copy_from_slice(&new[area]);
    }
    bytes
}

#[test]
fn what_has_changed_is_in_the_copy_and_nothing_else_is_touched() {
    let scratch = tempfile::tempdir().unwrap();
    let (old, new) = (content(1), content(2));
    let path = copy(&scratch, &old);
    // Out of order, over each other, of no length, at odd places, of several pieces, and the end of the disk.
    let areas = [5 * MIB + 7..9 * MIB, 0..512, 8 * MIB..9 * MIB + 1, 3 * MIB..3 * MIB, SIZE - 512..SIZE];
    let mut told = 0;
    let patched = engine()
        .patch(&far(new.clone(), u64::MAX), &areas, &path, &Control::new(), &mut |done| told = done)
        .unwrap();
    assert!(std::fs::read(&path).unwrap() == expected(&old, &new, &areas));
    assert_eq!((patched.bytes, told), (4 * MIB - 7 + 1 + 1024, patched.bytes));
}

fn one(area: Range<u64>) -> [Range<u64>; 1] {
    [area]
}

#[test]
fn what_is_empty_now_takes_no_room_any_more() {
    use std::os::unix::fs::MetadataExt;
    let scratch = tempfile::tempdir().unwrap();
    let path = copy(&scratch, &content(1));
    let before = std::fs::metadata(&path).unwrap().blocks();
    let empty = vec![0; SIZE as usize];
    engine()
        .patch(&far(empty.clone(), u64::MAX), &one(0..SIZE), &path, &Control::new(), &mut |_| {})
        .unwrap();
    assert!(std::fs::read(&path).unwrap() == empty);
    assert!(std::fs::metadata(&path).unwrap().blocks() < before / 8);
}

#[test]
fn a_pass_that_was_cut_is_made_again_and_gives_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let (old, new) = (content(1), content(3));
    let path = copy(&scratch, &old);
    let areas = one(MIB..20 * MIB);
    let cut = engine().patch(&far(new.clone(), 7 * MIB), &areas, &path, &Control::new(), &mut |_| {});
    assert_eq!(cut.unwrap_err().kind(), Kind::Network);
    let newer = content(4);
    let areas = [MIB..20 * MIB, 22 * MIB..23 * MIB];
    engine().patch(&far(newer.clone(), u64::MAX), &areas, &path, &Control::new(), &mut |_| {}).unwrap();
    assert!(std::fs::read(&path).unwrap() == expected(&old, &newer, &areas));
}

#[test]
fn areas_that_cannot_be_and_copies_that_are_none_are_refused_before_anything_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let (old, new) = (content(1), content(2));
    let path = copy(&scratch, &old);
    let backwards = Range { start: MIB, end: 0 };
    for area in [SIZE - 1..SIZE + 1, u64::MAX - 1..u64::MAX, backwards] {
        let patched =
            engine().patch(&far(new.clone(), u64::MAX), &[0..512, area], &path, &Control::new(), &mut |_| {});
        assert_eq!(patched.unwrap_err().kind(), Kind::Source);
    }
    assert!(std::fs::read(&path).unwrap() == old);
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let short = scratch.path().join("short");
    std::fs::write(&short, b"short").unwrap();
    for target in [link, short, scratch.path().to_owned(), scratch.path().join("absent")] {
        let patched =
            engine().patch(&far(new.clone(), u64::MAX), &one(0..512), &target, &Control::new(), &mut |_| {});
        assert_eq!(patched.unwrap_err().kind(), Kind::Output, "{}", target.display());
    }
}

#[test]
fn who_puts_changes_in_obeys() {
    let scratch = tempfile::tempdir().unwrap();
    let path = copy(&scratch, &content(1));
    let control = Control::new();
    control.limit_reading(NonZeroU64::new(MIB));
    let work = thread::spawn({
        let control = control.clone();
        move || engine().patch(&far(content(2), u64::MAX), &one(0..SIZE), &path, &control, &mut |_| {})
    });
    while !control.stands_still() {
        assert!(!work.is_finished());
        thread::yield_now();
    }
    control.cancel(false);
    assert_eq!(work.join().unwrap().unwrap_err().kind(), Kind::Cancelled);
}

#[test]
fn only_what_takes_no_room_yet_needs_some() {
    let scratch = tempfile::tempdir().unwrap();
    let file = File::create_new(scratch.path().join("copy.raw")).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&content(1)[..2 * MIB as usize], 4 * MIB).unwrap();
    let file = File::open(scratch.path().join("copy.raw")).unwrap();
    assert_eq!(unstored(&file, &[3 * MIB..5 * MIB, 5 * MIB..8 * MIB]).unwrap(), 3 * MIB);
    assert_eq!(unstored(&file, &one(4 * MIB..6 * MIB)).unwrap(), 0);
    assert_eq!(unstored(&file, &one(SIZE - 512..SIZE)).unwrap(), 512);
}
