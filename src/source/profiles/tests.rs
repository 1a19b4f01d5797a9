//! What is remembered of profiles, against files that change.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::model::error::Kind;

/// A directory with these profiles, so old that they are remembered.
fn profiles(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(path_of(dir.path(), name), text).unwrap();
    }
    rest();
    dir
}

fn rest() {
    thread::sleep(Duration::from_millis(120));
}

fn format(profile: &ResolvedProfile) -> String {
    let values = profile.values();
    let value = values.iter().find(|value| value.field == "output.format");
    value.map(|value| value.value.as_str().unwrap().to_owned()).unwrap_or_default()
}

fn counts(memory: &Memory) -> (u64, u64, u64) {
    let ProfileStatus { hits, misses, invalidations, .. } = memory.statistics();
    (hits, misses, invalidations)
}

#[test]
fn a_profile_is_read_once_while_nothing_changes() {
    let dir = profiles(&[("web", "extends: base\n"), ("base", "output: {format: raw}\n")]);
    let memory = Memory::default();
    for _ in 0..5 {
        assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "raw");
    }
    assert_eq!(counts(&memory), (4, 1, 0));
    memory.get("production", dir.path()).unwrap();
    memory.get("production", dir.path()).unwrap();
    assert_eq!(counts(&memory), (5, 2, 0));
    assert_eq!(memory.statistics().kept, 2);
}

/// The Python program watched the time of the profile's own file only: with a changed parent it went on with the old values.
#[test]
fn a_change_of_any_parent_is_seen() {
    let dir = profiles(&[
        ("web", "extends: middle\n"),
        ("middle", "extends: base\n"),
        ("base", "output: {format: raw}\n"),
    ]);
    let memory = Memory::default();
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "raw");
    fs::write(path_of(dir.path(), "base"), "output: {format: vdi}\n").unwrap();
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "vdi");
    rest();
    memory.get("web", dir.path()).unwrap();
    fs::write(path_of(dir.path(), "middle"), "extends: none\n").unwrap();
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "");
    assert_eq!(memory.statistics().invalidations, 2);
}

#[test]
fn a_file_that_appears_in_the_place_of_a_built_in_profile_counts_at_once_and_so_does_its_going() {
    let dir = profiles(&[("web", "extends: production\n")]);
    let memory = Memory::default();
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "qcow2");
    assert_eq!(format(&memory.get("production", dir.path()).unwrap()), "qcow2");
    let own = path_of(dir.path(), "production");
    fs::write(&own, "extends: production\noutput: {format: raw}\n").unwrap();
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "raw");
    assert_eq!(format(&memory.get("production", dir.path()).unwrap()), "raw");
    fs::remove_file(own).unwrap();
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "qcow2");
    assert_eq!(format(&memory.get("production", dir.path()).unwrap()), "qcow2");
}

#[test]
fn a_file_that_was_changed_just_now_is_not_remembered() {
    let dir = profiles(&[]);
    let memory = Memory::default();
    for format_name in ["raw", "vdi", "vhd"] {
        // All of one size, within one tick of the clock.
        fs::write(path_of(dir.path(), "web"), format!("output: {{format: {format_name}}}\n")).unwrap();
        assert_eq!(format(&memory.get("web", dir.path()).unwrap()), format_name);
    }
    assert_eq!(memory.statistics().hits, 0);
}

#[test]
fn a_profile_that_is_wrong_is_not_remembered_and_right_as_soon_as_it_is_mended() {
    let dir = profiles(&[("web", "extends: bsae\n"), ("base", "output: {format: raw}\n")]);
    let memory = Memory::default();
    let error = memory.get("web", dir.path()).unwrap_err().to_string();
    assert!(error.contains("web -> bsae") && error.contains("did you mean `base`?"), "{error}");
    assert!(
        error.starts_with(&format!("{}:1:10: extends: ", path_of(dir.path(), "web").display())),
        "{error}"
    );
    fs::write(path_of(dir.path(), "web"), "extends: base\n").unwrap();
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "raw");
}

#[test]
fn what_is_no_plain_readable_file_is_refused_and_never_passed_over() {
    let dir = profiles(&[("good", "extends: none\n"), ("huge", &format!("# {}\n", "x".repeat(300 << 10)))]);
    let at = |name: &str| path_of(dir.path(), name);
    symlink(at("good"), at("link")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("production"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    fs::write(at("bytes"), [0xff, 0xfe, 0]).unwrap();
    fs::write(at("latin"), b"description: gr\xf6\xdfer\n").unwrap();
    fs::write(at("nothing"), "# nothing\n").unwrap();
    fs::write(at("bomb"), "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b]\n").unwrap();
    let memory = Memory::default();
    for (name, said) in [
        ("link", "is a symbolic link"),
        ("directory", "is not a plain file"),
        ("production", "is not a plain file"),
        ("huge", "larger than 256 KiB"),
        ("bytes", "UTF-16"),
        ("latin", "not UTF-8"),
        ("nothing", "says nothing"),
        ("bomb", "unknown key `a`"),
        ("../good", "no name of a profile"),
        ("", "no name of a profile"),
        (".hidden", "no name of a profile"),
    ] {
        let error = memory.get(name, dir.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Manifest, "{name}: {error}");
        assert!(error.to_string().contains(said), "{name}: {error}");
        assert!(error.details().advice.is_some() || said.starts_with("unknown key"), "{name}: {error}");
    }
    let listed = list(dir.path()).unwrap();
    assert_eq!(listed.iter().filter(|listed| listed.profile.is_err()).count(), 8);
}

#[test]
fn many_threads_get_the_same_answer_while_the_file_changes() {
    let dir = profiles(&[("web", "output: {format: raw}\n")]);
    let memory = Memory::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let format = format(&memory.get("web", dir.path()).unwrap());
                    assert!(format == "raw" || format == "vdi", "{format}");
                }
            });
        }
        for number in 0..50 {
            let text = if number % 2 == 0 { "output: {format: vdi}\n" } else { "output: {format: raw}\n" };
            let other = dir.path().join("new");
            fs::write(&other, text).unwrap();
            fs::rename(&other, path_of(dir.path(), "web")).unwrap();
        }
    });
    assert_eq!(format(&memory.get("web", dir.path()).unwrap()), "raw");
}
