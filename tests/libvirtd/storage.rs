//! Pools and volumes, from the command line and as the pipeline asks for them.

use std::path::{Path, PathBuf};

use hyper2kvm::libvirt::link::{Access, Link};
use hyper2kvm::libvirt::pools::{self, Wanted};
use hyper2kvm::libvirt::volumes::{self, NewVolume};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{OutputFormat, Preallocation};
use serde_json::{Value, json};

use crate::support::libvirtd::Libvirtd;

/// A connection from outside.
pub fn link(libvirtd: &Libvirtd) -> Link {
    Link::open(&libvirtd.uri(), Access::Changes).unwrap()
}

/// A started pool of this name in a directory of its own.
pub fn pool(libvirtd: &Libvirtd, name: &str) -> PathBuf {
    let path = libvirtd.images().join(name);
    let wanted = Wanted { name: name.to_owned(), path: Some(path.clone()), start: true };
    pools::ensure(&link(libvirtd), &wanted).unwrap();
    path
}

/// What a command inside says as JSON; on standard error where it fails.
pub fn told(libvirtd: &Libvirtd, arguments: &[&str]) -> Result<Value, Value> {
    let output = libvirtd.hyper2kvm().arg("libvirt").args(arguments).arg("--json").output().unwrap();
    let read =
        |text: &[u8]| serde_json::from_slice(text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    if output.status.success() { Ok(read(&output.stdout)) } else { Err(read(&output.stderr)) }
}

/// The names of what lies in a directory.
pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = directory
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Defines a machine, which is off, with this as its disk.
pub fn define_with(libvirtd: &Libvirtd, machine: &str, source: &str) {
    libvirtd.sh(&format!(
        "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>{machine}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>{source}</devices></domain>
end"
    ));
}

#[test]
fn a_pool_is_defined_started_refreshed_and_forgotten_and_what_lies_in_it_stays() {
    let libvirtd = Libvirtd::start();
    let path = libvirtd.images().join("made/for it");
    let at = path.to_str().unwrap();
    let made = told(&libvirtd, &["pool", "define", "fast", at]).unwrap();
    assert_eq!(
        (&made["kind"], &made["active"], &made["autostart"]),
        (&json!("dir"), &json!(true), &json!(true))
    );
    assert_eq!(made["path"], json!(at));
    assert!(made["available"].as_u64().unwrap() > 0);
    std::fs::write(path.join("late"), [7; 4096]).unwrap();
    assert_eq!(told(&libvirtd, &["volumes", "fast"]).unwrap(), json!({"volumes": []}));
    told(&libvirtd, &["pool", "refresh", "fast"]).unwrap();
    let volumes = told(&libvirtd, &["volumes", "fast"]).unwrap();
    assert_eq!(volumes["volumes"][0]["name"], json!("late"), "{volumes}");
    let text = |task: &[&str]| {
        String::from_utf8(libvirtd.hyper2kvm().arg("libvirt").args(task).output().unwrap().stdout).unwrap()
    };
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (listed, volumes) = (text(&["pools"]), text(&["volumes", "fast"]));
    assert_eq!(
        words(&listed)[..11],
        ["NAME", "KIND", "STATE", "AUTOSTART", "SIZE", "FREE", "PATH", "fast", "dir", "active", "yes"]
    );
    assert_eq!(
        words(&volumes)[..11],
        ["NAME", "FORMAT", "SIZE", "OCCUPIES", "PATH", "late", "raw", "4.0", "KiB", "4.0", "KiB"]
    );
    libvirtd.sh("virsh -q pool-destroy fast");
    let error = told(&libvirtd, &["volumes", "fast"]).unwrap_err();
    assert!(error["suggestion"].as_str().unwrap().contains("libvirt pool start fast"), "{error}");
    let listed = told(&libvirtd, &["pools"]).unwrap();
    assert_eq!((&listed["pools"][0]["name"], &listed["pools"][0]["active"]), (&json!("fast"), &json!(false)));
    for _ in 0..2 {
        assert_eq!(told(&libvirtd, &["pool", "start", "fast"]).unwrap()["active"], json!(true));
    }
    told(&libvirtd, &["pool", "undefine", "fast"]).unwrap();
    assert_eq!(told(&libvirtd, &["pools"]).unwrap(), json!({"pools": []}));
    assert_eq!(names_in(&path), ["late"]);
    let error = told(&libvirtd, &["pool", "undefine", "fast"]).unwrap_err();
    assert_eq!(error["kind"], json!("libvirt"), "{error}");
}

#[test]
fn a_wanted_pool_is_made_or_taken_as_it_is_or_refused() {
    let libvirtd = Libvirtd::start();
    let link = link(&libvirtd);
    let at = |name: &str| libvirtd.images().join(name);
    let wanted = |name: &str, path: Option<PathBuf>| Wanted { name: name.to_owned(), path, start: true };
    let error = pools::ensure(&link, &wanted("web", None)).unwrap_err();
    assert_eq!(error.kind(), Kind::Libvirt);
    let made = pools::ensure(&link, &wanted("web", Some(at("web")))).unwrap();
    assert!(made.active && made.persistent && made.autostart && at("web").is_dir());
    // As it is, by whatever path; inactive, it is started.
    libvirtd.sh("virsh -q pool-destroy web");
    let asleep = Wanted { start: false, ..wanted("web", None) };
    assert!(!pools::ensure(&link, &asleep).unwrap().active);
    for path in [None, Some(at("web")), Some(at(".").join("web"))] {
        let found = pools::ensure(&link, &wanted("web", path)).unwrap();
        assert!(found.active);
        assert_eq!(found.uuid, made.uuid);
    }
    let error = pools::ensure(&link, &wanted("web", Some(at("other")))).unwrap_err();
    assert_eq!(error.kind(), Kind::Manifest);
    assert!(error.to_string().contains(at("web").to_str().unwrap()), "{error}");
    // The directory of another pool, and a file in its place, leave nothing behind.
    std::fs::write(at("file"), "").unwrap();
    for path in [at("web"), at("file")] {
        let error = pools::ensure(&link, &wanted("second", Some(path))).unwrap_err();
        assert!(error.details().advice.is_some(), "{error}");
    }
    let error = pools::define(&link, "web", &at("third"), true).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists, "{error}");
    let names: Vec<String> = pools::list(&link).unwrap().into_iter().map(|pool| pool.name).collect();
    assert_eq!(names, ["web"]);
    // Those that there are, for whoever mistyped.
    let error = pools::ensure(&link, &wanted("wep", None)).unwrap_err();
    assert!(error.to_string().contains("web"), "{error}");
}

#[test]
fn many_who_want_a_pool_at_once_all_get_it() {
    let libvirtd = Libvirtd::start();
    let wanted = Wanted { name: "web".to_owned(), path: Some(libvirtd.images().join("web")), start: true };
    let found: Vec<pools::Pool> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| pools::ensure(&link(&libvirtd), &wanted).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.iter().all(|pool| pool.active && pool.uuid == found[0].uuid), "{found:?}");
    let there = pools::find(&link(&libvirtd), "web").unwrap().unwrap();
    assert!(there.active && there.autostart);
}

#[test]
fn pools_and_volumes_may_have_any_name_that_libvirt_can_keep() {
    let libvirtd = Libvirtd::start();
    let link = link(&libvirtd);
    for (index, name) in ["a b", "Ünïcode-☃", "it's \"<&>\"", ".dotted..name", "$(touch x)", &"x".repeat(200)]
        .iter()
        .enumerate()
    {
        let path = libvirtd.images().join(format!("{index} ' \" & ü"));
        let wanted = Wanted { name: (*name).to_owned(), path: Some(path.clone()), start: true };
        let made = pools::ensure(&link, &wanted).unwrap();
        assert_eq!((made.name.as_str(), made.path.as_ref()), (*name, Some(&path)));
        let new = NewVolume {
            name: (*name).to_owned(),
            format: OutputFormat::Raw,
            capacity: 1 << 20,
            allocation: 0,
            preallocation: Preallocation::Off,
        };
        let volume = volumes::create(&link, name, &new).unwrap();
        assert_eq!(volume.path, path.join(name));
        assert_eq!(volumes::find(&link, name, name).unwrap(), Some(volume));
        assert_eq!(told(&libvirtd, &["volumes", name]).unwrap()["volumes"][0]["name"], json!(name));
        volumes::remove(&link, name, name).unwrap();
        assert_eq!(names_in(&path), [""; 0]);
        pools::undefine(&link, name).unwrap();
    }
    for name in ["", "a/b", "..", "nul\0", "line\nbreak", &"x".repeat(300)] {
        let wanted = Wanted { name: name.to_owned(), path: Some(libvirtd.images().join("p")), start: true };
        assert_eq!(pools::ensure(&link, &wanted).unwrap_err().kind(), Kind::Manifest, "{name:?}");
    }
    assert!(!libvirtd.images().join("p").exists());
}

#[test]
fn a_volume_is_deleted_unless_something_uses_it() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    libvirtd.sh(&format!(
        "cd '{}'; qemu-img create -q -f qcow2 base 4M; qemu-img create -q -f qcow2 -F qcow2 -b base top; \
         truncate -s 1M plain named free; virsh -q pool-refresh images",
        path.display()
    ));
    let disk = |name: &str| {
        let file = path.join(name);
        format!(
            "<disk type='file'><driver type='qcow2'/><source file='{}'/><target dev='vda'/></disk>",
            file.display()
        )
    };
    define_with(&libvirtd, "by-file", &disk("plain"));
    define_with(
        &libvirtd,
        "by-name",
        "<disk type='volume'><source pool='images' volume='named'/><target dev='vda'/></disk>",
    );
    let delete = |name: &str| told(&libvirtd, &["volume", "delete", "images", name]);
    for (name, why) in [("plain", "by-file"), ("named", "by-name"), ("base", "the volume top")] {
        let error = delete(name).unwrap_err();
        assert_eq!(error["kind"], json!("libvirt"));
        assert!(error["error"].as_str().unwrap().contains(why), "{error}");
    }
    // A chain of a machine that is off holds what is below.
    define_with(&libvirtd, "on-top", &disk("top"));
    assert!(delete("top").unwrap_err().to_string().contains("on-top"));
    assert!(delete("base").unwrap_err().to_string().contains("on-top"));
    let rehearsed = told(&libvirtd, &["volume", "delete", "images", "free", "--dry-run"]).unwrap();
    assert_eq!((&rehearsed["deleted"], &rehearsed["volume"]["name"]), (&json!(false), &json!("free")));
    assert!(path.join("free").exists());
    assert_eq!(delete("free").unwrap()["deleted"], json!(true));
    assert_eq!(names_in(&path), ["base", "named", "plain", "top"]);
    let error = delete("free").unwrap_err();
    assert!(error.to_string().contains("hyper2kvm libvirt volumes images"), "{error}");
}

#[test]
fn an_empty_volume_has_the_format_and_the_room_that_it_was_made_with() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let link = link(&libvirtd);
    let new = |name: &str, format, preallocation| NewVolume {
        name: name.to_owned(),
        format,
        capacity: 16 << 20,
        allocation: 0,
        preallocation,
    };
    for (format, word) in [
        (OutputFormat::Raw, "raw"),
        (OutputFormat::Qcow2, "qcow2"),
        (OutputFormat::Vmdk, "vmdk"),
        (OutputFormat::Vhd, "vpc"),
        (OutputFormat::Vdi, "vdi"),
    ] {
        let made = volumes::create(&link, "images", &new(word, format, Preallocation::Off)).unwrap();
        assert_eq!(made.format.as_deref(), Some(word));
        assert!(made.capacity >= 16 << 20 && made.allocation < 1 << 20, "{made:?}");
    }
    for (name, format) in [("thick-raw", OutputFormat::Raw), ("thick-qcow2", OutputFormat::Qcow2)] {
        let made = volumes::create(&link, "images", &new(name, format, Preallocation::Falloc)).unwrap();
        assert!(made.allocation >= 16 << 20, "{made:?}");
    }
    let made =
        volumes::create(&link, "images", &new("web", OutputFormat::Qcow2, Preallocation::Off)).unwrap();
    assert_eq!((made.capacity, &made.path), (16 << 20, &path.join("web")));
    let again = volumes::create(&link, "images", &new("web", OutputFormat::Qcow2, Preallocation::Off));
    assert_eq!(again.unwrap_err().kind(), Kind::Exists);
    assert_eq!(volumes::list(&link, "images").unwrap().len(), 8);
}
