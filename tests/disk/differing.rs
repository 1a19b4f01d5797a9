//! Disks of Hyper-V that QEMU does not read: differing VHD and VHDX, sectors of 4 KiB; and blocks in any order, of any size.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::disk::{Control, SourceDisk, Target, estimate_virtual_size, names_in, stands_on};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{OutputFormat, Preallocation, SourceFormat};

use crate::support::disks::{content_sha256, sha256};
use crate::support::vhd::{Parent, Pieces, Vhd};
use crate::support::vhdx::{Block, Change, Entry, MIB, TABLE, Vhdx, leave_open, linkage, write_unfinished};
use crate::{copy_to, engine, open, open_chain, target};

/// The SHA-256 of what is copied of a disk by ourselves, to raw and to qcow2.
fn content(source: &SourceDisk) -> String {
    let (engine, control, dir) = (engine(), Control::new(), tempfile::tempdir().unwrap());
    let sums = [OutputFormat::Raw, OutputFormat::Qcow2].map(|format| {
        let target = target(dir.path().join(format.name()), format);
        let copied = copy_to(&engine, source, &target).unwrap();
        assert!(copied.engine.starts_with("hyper2kvm "));
        engine.check(&target.path, format, &control).unwrap();
        engine.compare(source, &target.path, format, &control, &mut |_| ()).unwrap();
        content_sha256(&target.path, format.name())
    });
    source.check_unchanged(&Control::new()).unwrap();
    assert_eq!(sums[0], sums[1]);
    sums[0].clone()
}

fn shown(show: &dyn Fn(&File)) -> String {
    let plain = tempfile::NamedTempFile::new().unwrap();
    show(plain.as_file());
    sha256(plain.path())
}

/// Numbers that come the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Some pieces of whole sectors in a block.
    fn pieces(&mut self, block: u64, sector: u64) -> Pieces {
        let piece = |dice: &mut Dice| {
            let at = dice.roll(block / sector);
            let count = 1 + dice.roll((block / sector - at).min(70));
            (at * sector, vec![1 + dice.roll(255) as u8; (count * sector) as usize])
        };
        (0..1 + self.roll(12)).map(|_| piece(self)).collect()
    }

    /// Some of the numbers below this, in any order.
    fn order(&mut self, count: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..count).collect();
        for place in (1..count).rev() {
            numbers.swap(place as usize, self.roll(place + 1) as usize);
        }
        numbers.truncate((count * 2 / 3).max(1) as usize);
        numbers
    }

    fn vhdx_blocks(&mut self, size: u64, block: u64, sector: u64, has_parent: bool) -> Vec<(u64, Block)> {
        let numbers = self.order(size.div_ceil(block));
        let one = |dice: &mut Dice| match dice.roll(if has_parent { 8 } else { 5 }) {
            0 => Block::Zeros,
            1 => Block::Unmapped,
            2..=4 => Block::Full(dice.pieces(block, sector)),
            _ => Block::Partly(dice.pieces(block, sector)),
        };
        numbers.into_iter().map(|number| (number, one(self))).collect()
    }

    fn vhd_blocks(&mut self, size: u64, block: u64) -> Vec<(u64, Pieces)> {
        self.order(size.div_ceil(block)).into_iter().map(|number| (number, self.pieces(block, 512))).collect()
    }
}

#[test]
fn differing_vhdx_show_their_own_sectors_and_below_them_those_of_their_parents() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for round in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let (sector, block) = ([512, 4096][round % 2], MIB << (round / 2));
        let size = (9 + round as u64) * MIB + 3 * 4096;
        let mut images = Vec::<Vhdx>::new();
        for level in 0..3_u8 {
            let name = format!("level-{level}.vhdx");
            // A parent may be smaller.
            let size = size + u64::from(level) * 5 * 4096;
            let blocks = dice.vhdx_blocks(size, block, sector, level > 0);
            let image = match images.last() {
                None => Vhdx { sector, block, ..Vhdx::new(size, 1, blocks) },
                Some(below) => {
                    Vhdx { size, ..below.on(&format!("level-{}.vhdx", level - 1), level + 1, blocks) }
                }
            };
            let path = dir.path().join(&name);
            image.write(&path);
            images.push(image);
            let source = open_chain(&path, SourceFormat::Vhdx, &[])
                .unwrap_or_else(|error| panic!("{round} {name}: {error}"));
            assert_eq!(source.facts.virtual_size, size);
            assert_eq!(estimate_virtual_size(&path, SourceFormat::Vhdx).unwrap(), size);
            assert_eq!(source.facts.backing.len(), usize::from(level));
            let expected = shown(&|plain| images.iter().for_each(|image| image.show(plain)));
            assert_eq!(content(&source), expected, "round {round}, {name}");
        }
    }
}

#[test]
fn differing_vhd_show_their_own_sectors_and_below_them_those_of_their_parents() {
    let mut dice = Dice(0x0BAD_5EED_0BAD_5EED);
    for block in [2 * MIB, 512 << 10, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let mut images = Vec::<Vhd>::new();
        for level in 0..3_u8 {
            let name = format!("level-{level}.vhd");
            let size = (block * 7).min(11 * MIB) + 512 * (1 + u64::from(level));
            let blocks = dice.vhd_blocks(size, block);
            let image = match images.last() {
                None => Vhd { block, ..Vhd::new(size, 1, blocks) },
                Some(below) => {
                    Vhd { size, ..below.on(&format!("level-{}.vhd", level - 1), level + 1, blocks) }
                }
            };
            let path = dir.path().join(&name);
            image.write(&path);
            images.push(image);
            let source = open_chain(&path, SourceFormat::Vhd, &[])
                .unwrap_or_else(|error| panic!("{block} {name}: {error}"));
            assert_eq!(source.facts.virtual_size, size);
            let expected = shown(&|plain| images.iter().for_each(|image| image.show(plain)));
            assert_eq!(content(&source), expected, "blocks of {block}, {name}");
        }
    }
}

#[test]
fn a_differing_vhd_stands_on_a_fixed_one_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let (flat, base, top) =
        (dir.path().join("flat.raw"), dir.path().join("base.vhd"), dir.path().join("top.avhd"));
    crate::support::disks::raw(&flat, 8, 3, 2);
    let done = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on"])
        .args([&flat, &base])
        .status()
        .unwrap();
    assert!(done.success());
    let mut footer = fs::read(&base).unwrap();
    let at = footer.len() - 512;
    footer[at + 68..at + 84].fill(1);
    crate::support::bad_disks::vhd_checksum(&mut footer[at..], 64);
    fs::write(&base, footer).unwrap();
    let below = Vhd::new(8 * MIB, 1, Vec::new());
    let image = below.on("base.vhd", 2, vec![(2, vec![(512, vec![9; 1024])])]);
    image.write(&top);
    let source = open_chain(&top, SourceFormat::Vhd, &[]).unwrap();
    image.show(&File::options().write(true).open(&flat).unwrap());
    assert_eq!(content(&source), sha256(&flat));
}

fn base() -> Vhdx {
    Vhdx::new(8 * MIB, 1, vec![(3, Block::Full(vec![(0, vec![7; 5000])]))])
}

fn refused(path: &Path, format: SourceFormat, word: &str) {
    let error = open_chain(path, format, &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Source, "{}: {error}", path.display());
    assert!(error.to_string().contains(word), "{}: {error}", path.display());
    assert!(error.details().advice.is_some());
}

#[test]
fn a_chain_of_hyper_v_is_read_only_when_it_is_allowed_whole_and_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    base().write(&at("base.vhdx"));
    let child = base().on("base.vhdx", 2, vec![(1, Block::Partly(vec![(512, vec![5; 512])]))]);
    child.write(&at("child.avhdx"));
    let error = open(&at("child.avhdx"), SourceFormat::Vhdx).unwrap_err();
    assert!(error.to_string().contains("backing_chain: true"), "{error}");
    assert_eq!(names_in(&at("child.avhdx")).unwrap().1.parent.as_deref(), Some("base.vhdx"));
    open_chain(&at("child.avhdx"), SourceFormat::Vhdx, &[]).unwrap();
    // The parent was written since; a second id is there while a disk is merged into its parent.
    Vhdx { id: 6, ..base() }.write(&at("base.vhdx"));
    refused(&at("child.avhdx"), SourceFormat::Vhdx, "changed after");
    let error = open_chain(&at("child.avhdx"), SourceFormat::Vhdx, &[]).unwrap_err().to_string();
    assert!(
        error.contains("child.avhdx was made on it") && error.contains("base.vhdx was changed"),
        "{error}"
    );
    let mut merged = child.clone();
    merged.locator.push(("parent_linkage2", linkage(6)));
    merged.write(&at("merged.avhdx"));
    open_chain(&at("merged.avhdx"), SourceFormat::Vhdx, &[]).unwrap();
    // Gone, in a circle, without an end, without an id, and on something else.
    base().on("gone.vhdx", 2, vec![]).write(&at("gap.avhdx"));
    refused(&at("gap.avhdx"), SourceFormat::Vhdx, "missing");
    Vhdx { id: 2, ..base().on("two.avhdx", 1, vec![]) }.write(&at("one.avhdx"));
    Vhdx { id: 1, ..base() }.on("one.avhdx", 1, vec![]).write(&at("two.avhdx"));
    for name in ["one.avhdx", "two.avhdx"] {
        refused(&at(name), SourceFormat::Vhdx, "chain of snapshots is broken");
    }
    base().on("self.avhdx", 1, vec![]).write(&at("self.avhdx"));
    refused(&at("self.avhdx"), SourceFormat::Vhdx, "twice");
    base().write(&at("deep-0.vhdx"));
    for number in 1..=32 {
        base().on(&format!("deep-{}.vhdx", number - 1), 1, vec![]).write(&at(&format!("deep-{number}.vhdx")));
    }
    refused(&at("deep-32.vhdx"), SourceFormat::Vhdx, "longer than");
    open_chain(&at("deep-31.vhdx"), SourceFormat::Vhdx, &[]).unwrap();
    let nameless = Vhdx { locator: vec![("relative_path", "base.vhdx".to_owned())], ..child.clone() };
    nameless.write(&at("nameless.avhdx"));
    refused(&at("nameless.avhdx"), SourceFormat::Vhdx, "which disk it stands on");
    let lost = Vhdx { locator: vec![("parent_linkage", linkage(1))], ..child };
    lost.write(&at("lost.avhdx"));
    refused(&at("lost.avhdx"), SourceFormat::Vhdx, "does not say what it stands on");
}

#[test]
fn a_differing_vhd_is_held_against_the_id_of_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let base = Vhd::new(4 * MIB, 1, vec![(0, vec![(0, vec![3; 512])])]);
    base.write(&at("base.vhd"));
    let child = base.on("base.vhd", 2, vec![(1, vec![(512, vec![4; 512])])]);
    child.write(&at("child.avhd"));
    open_chain(&at("child.avhd"), SourceFormat::Vhd, &[]).unwrap();
    assert_eq!(names_in(&at("child.avhd")).unwrap().1.parent.as_deref(), Some("base.vhd"));
    // Only the name in the header, and only a path of the whole machine.
    for paths in
        [vec![], vec![(b"W2ku", "\\\\server\\share\\base.vhd".to_owned()), (b"MacX", "file:///x".to_owned())]]
    {
        let parent = Parent { id: 1, name: "base.vhd".to_owned(), paths };
        Vhd { parent: Some(parent), ..child.clone() }.write(&at("named.avhd"));
        open_chain(&at("named.avhd"), SourceFormat::Vhd, &[]).unwrap();
    }
    Vhd { id: 9, ..base }.write(&at("base.vhd"));
    refused(&at("child.avhd"), SourceFormat::Vhd, "changed after");
    fs::remove_file(at("base.vhd")).unwrap();
    refused(&at("child.avhd"), SourceFormat::Vhd, "missing");
    assert!(
        open(&at("child.avhd"), SourceFormat::Vhd).unwrap_err().to_string().contains("backing_chain: true")
    );
}

#[test]
fn a_parent_may_be_written_in_other_letters_as_windows_allows_it_if_only_one_file_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    base().write(&at("base.vhdx"));
    base().on("BASE.VhdX", 2, vec![]).write(&at("child.avhdx"));
    let vhd = Vhd::new(4 * MIB, 1, vec![(0, vec![(0, vec![3; 512])])]);
    vhd.write(&at("disk.vhd"));
    vhd.on("Disk.VHD", 2, vec![]).write(&at("child.avhd"));
    let source = open_chain(&at("child.avhdx"), SourceFormat::Vhdx, &[]).unwrap();
    assert!(source.paths().contains(&at("base.vhdx").canonicalize().unwrap()));
    open_chain(&at("child.avhd"), SourceFormat::Vhd, &[]).unwrap();
    assert_eq!(stands_on(&at("child.avhdx")), at("base.vhdx").canonicalize().ok());
    // Of several the one that is named to the letter, or none.
    fs::copy(at("base.vhdx"), at("Base.VHDX")).unwrap();
    refused(&at("child.avhdx"), SourceFormat::Vhdx, "BASE.VhdX` may be any of");
    refused(&at("child.avhdx"), SourceFormat::Vhdx, "base.vhdx");
    fs::rename(at("Base.VHDX"), at("BASE.VhdX")).unwrap();
    open_chain(&at("child.avhdx"), SourceFormat::Vhdx, &[]).unwrap();
    // Where it may lie elsewhere, too; but no qcow2 is meant so.
    let elsewhere = at("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::remove_file(at("BASE.VhdX")).unwrap();
    fs::rename(at("base.vhdx"), elsewhere.join("Base.vhdx")).unwrap();
    open_chain(&at("child.avhdx"), SourceFormat::Vhdx, std::slice::from_ref(&elsewhere)).unwrap();
    let img = |words: &[&str]| {
        assert!(Command::new("qemu-img").args(words).current_dir(dir.path()).status().unwrap().success());
    };
    img(&["create", "-q", "-f", "qcow2", "lower.qcow2", "1M"]);
    img(&["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "LOWER.qcow2", "top.qcow2", "1M"]);
    refused(&at("top.qcow2"), SourceFormat::Qcow2, "missing");
}

#[test]
fn a_parent_is_looked_for_by_its_name_beside_the_disk_and_where_it_may_lie() {
    let dir = tempfile::tempdir().unwrap();
    let (here, elsewhere) = (dir.path().join("here"), dir.path().join("elsewhere"));
    fs::create_dir_all(here.join("below")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let child = here.join("child.avhdx");
    let say = |paths: &[(&'static str, &str)]| {
        let mut image = base().on("x", 2, vec![]);
        image.locator = vec![("parent_linkage", linkage(1))];
        image.locator.extend(paths.iter().map(|(key, path)| (*key, (*path).to_owned())));
        image.write(&child);
    };
    let works = |allowed: &[PathBuf]| open_chain(&child, SourceFormat::Vhdx, allowed).is_ok();
    base().write(&here.join("base.vhdx"));
    for path in [
        r"\\?\C:\VMs\web\base.vhdx",
        r"\\?\UNC\server\share\base.vhdx",
        r"\\server\share\base.vhdx",
        "/etc/base.vhdx",
    ] {
        say(&[("absolute_win32_path", path)]);
        assert!(works(&[]), "{path}");
    }
    say(&[("relative_path", r"..\..\disks\base.vhdx")]);
    assert!(works(&[]));
    say(&[("relative_path", r".\below\base.vhdx")]);
    assert!(!works(&[]), "there is none below");
    fs::rename(here.join("base.vhdx"), here.join("below/base.vhdx")).unwrap();
    assert!(works(&[]));
    // Elsewhere only where that is allowed.
    fs::rename(here.join("below/base.vhdx"), elsewhere.join("base.vhdx")).unwrap();
    for path in [r"..\elsewhere\base.vhdx", r".\base.vhdx", r"D:\base.vhdx"] {
        say(&[("relative_path", path)]);
        refused(&child, SourceFormat::Vhdx, "missing");
        assert!(works(std::slice::from_ref(&elsewhere)), "{path}");
    }
    // A link beside it leads nowhere.
    std::os::unix::fs::symlink(elsewhere.join("base.vhdx"), here.join("base.vhdx")).unwrap();
    say(&[("relative_path", "base.vhdx")]);
    refused(&child, SourceFormat::Vhdx, "symbolic link");
    for path in [r"C:\", "..", r"\\?\"] {
        say(&[("absolute_win32_path", path)]);
        refused(&child, SourceFormat::Vhdx, "does not say what it stands on");
    }
}

#[test]
fn blocks_lie_in_any_order_and_have_any_size() {
    let mut dice = Dice(0x1234_5678_9ABC_DEF1);
    for shift in 0..=4 {
        let block = MIB << shift;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vhdx");
        let size = (block * 5 / 2).max(20 * MIB);
        let mut image = Vhdx::new(size, 1, Vec::new());
        for sector in [512, 4096] {
            // The model writes zeros, and large blocks have many of them.
            let mut blocks = dice.vhdx_blocks(size, block, sector, false);
            blocks.retain(|(_, block)| matches!(block, Block::Full(_)));
            image = Vhdx { block, sector, blocks, ..image };
            image.write(&path);
            let source =
                open(&path, SourceFormat::Vhdx).unwrap_or_else(|error| panic!("{block} {sector}: {error}"));
            let expected = shown(&|plain| image.show(plain));
            assert_eq!(content(&source), expected, "blocks of {block}, sectors of {sector}");
            let by_qemu = Command::new("qemu-img").args(["info", "-f", "vhdx"]).arg(&path).output().unwrap();
            assert_eq!(by_qemu.status.success(), sector == 512, "QEMU reads sectors of {sector}");
            if sector == 512 {
                assert_eq!(content_sha256(&path, "vhdx"), expected);
                assert!(source.warnings.is_empty(), "{:?}", source.warnings);
            } else {
                assert!(source.warnings[0].contains("4096"), "{:?}", source.warnings);
            }
        }
    }
}

#[test]
fn one_bitmap_tells_of_some_blocks_and_the_next_of_those_behind() {
    // Of blocks of 256 MiB one bitmap tells of 16: more than 4 GiB.
    let dir = tempfile::tempdir().unwrap();
    let (block, size) = (256 * MIB, 33 * 256 * MIB);
    let below = Vhdx { block, ..Vhdx::new(size, 1, vec![(31, Block::Full(vec![(0, vec![1; 8192])]))]) };
    let mark = |byte: u8| Block::Partly(vec![(512, vec![byte; 1024]), (block - 512, vec![byte; 512])]);
    let top = below.on("base.vhdx", 2, vec![(32, mark(6)), (15, mark(2)), (16, mark(3)), (31, mark(4))]);
    below.write(&dir.path().join("base.vhdx"));
    let path = dir.path().join("top.avhdx");
    top.write(&path);
    let source = open_chain(&path, SourceFormat::Vhdx, &[]).unwrap();
    let plain = dir.path().join("plain.raw");
    let file = File::create(&plain).unwrap();
    below.show(&file);
    top.show(&file);
    let control = Control::new();
    let target = target(dir.path().join("result.raw"), OutputFormat::Raw);
    let measure = engine().measure(&source, &target, &control).unwrap();
    assert_eq!(measure.bytes_to_copy, 4 * 1536 + 256 * MIB - 1536);
    engine().copy(&source, &target, &measure, &control, &mut |_| ()).unwrap();
    let same = Command::new("qemu-img")
        .args(["compare", "-f", "raw", "-F", "raw"])
        .args([&plain, &target.path])
        .output();
    let same = same.unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
}

#[test]
fn a_result_of_a_disk_that_only_we_read_is_compared_by_ourselves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    Vhdx { sector: 4096, ..base() }.write(&path);
    let source = open(&path, SourceFormat::Vhdx).unwrap();
    let target = target(dir.path().join("result"), OutputFormat::Raw);
    let (engine, control) = (engine(), Control::new());
    copy_to(&engine, &source, &target).unwrap();
    let compare = || engine.compare(&source, &target.path, OutputFormat::Raw, &control, &mut |_| ());
    compare().unwrap();
    let result = File::options().write(true).open(&target.path).unwrap();
    // In what holds data, and in what holds none.
    for at in [3 * MIB + 700, 5 * MIB] {
        result.write_all_at(b"!", at).unwrap();
        let error = compare().unwrap_err();
        assert_eq!(error.kind(), Kind::Validation, "{error}");
        assert!(error.to_string().contains("bytes into the disk"), "{error}");
        result.write_all_at(&[if at < 4 * MIB { 7 } else { 0 }], at).unwrap();
    }
    compare().unwrap();
    result.set_len(9 * MIB).unwrap();
    assert_eq!(compare().unwrap_err().kind(), Kind::Validation);
}

#[test]
fn the_log_of_a_parent_counts_and_so_does_what_a_log_says_of_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let before = base();
    let mut after = before.clone();
    after.blocks.push((1, Block::Full(vec![(0, vec![3; 4096])])));
    let changes = write_unfinished(&before, &after, &at("base.vhdx"));
    leave_open(&at("base.vhdx"), 9);
    Entry::new(0, 1, changes).write(&at("base.vhdx"));
    let child = after.on("base.vhdx", 2, vec![(1, Block::Partly(vec![(512, vec![4; 1024])]))]);
    child.write(&at("child.avhdx"));
    // Its bitmap lies behind its only block.
    let file = File::options().read(true).write(true).open(at("child.avhdx")).unwrap();
    let (bitmap, mut bytes) = (TABLE + 2 * MIB, vec![0; 4096]);
    file.read_exact_at(&mut bytes, bitmap).unwrap();
    assert!(bytes.iter().any(|byte| *byte != 0), "the bitmap lies elsewhere");
    file.write_all_at(&[0; 4096], bitmap).unwrap();
    leave_open(&at("child.avhdx"), 9);
    Entry::new(0, 1, vec![Change::Page { from: bitmap, bytes }]).write(&at("child.avhdx"));
    let source = open_chain(&at("child.avhdx"), SourceFormat::Vhdx, &[]).unwrap();
    let expected = shown(&|plain| {
        after.show(plain);
        child.show(plain);
    });
    assert_eq!(content(&source), expected);
    assert_eq!(names_in(&at("child.avhdx")).unwrap().1.parent.as_deref(), Some("base.vhdx"));
}

#[test]
fn a_disk_that_only_we_read_is_not_given_to_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    Vhdx { sector: 4096, ..base() }.write(&path);
    let source = open(&path, SourceFormat::Vhdx).unwrap();
    let result = dir.path().join("result.qcow2");
    // A layout that only QEMU writes.
    let target =
        Target { preallocation: Preallocation::Metadata, ..target(result.clone(), OutputFormat::Qcow2) };
    let engine = engine();
    let error = copy_to(&engine, &source, &target).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("QEMU cannot read"), "{error}");
    assert!(!result.exists());
}
