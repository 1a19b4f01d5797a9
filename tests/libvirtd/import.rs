//! Files that become volumes, where all goes well or is refused.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use hyper2kvm::libvirt::import::{How, Import, Imported, import};
use hyper2kvm::libvirt::link::{Access, Link};
use hyper2kvm::libvirt::pools::{self, Wanted};
use hyper2kvm::libvirt::volumes;
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::plan::OutputFormat;
use hyper2kvm::sys::record_lock::is_locked;
use serde_json::json;

use crate::storage::{define_with, link, names_in, pool, told};
use crate::support::disks::{disk, raw, sha256};
use crate::support::libvirtd::Libvirtd;
use crate::support::wait_for;

/// A raw file as a volume of this name in the pool `images`.
pub fn order<'a>(file: &'a Path, volume: &'a str) -> Import<'a> {
    Import { pool: "images", volume, file, format: OutputFormat::Raw, how: How::Copy, overwrite: false }
}

/// Imports from outside, and nobody minds.
pub fn imported(libvirtd: &Libvirtd, order: &Import<'_>) -> Result<Imported> {
    import(&link(libvirtd), order, &|| Ok(()), &mut |_| {})
}

#[test]
fn holes_stay_holes_and_every_byte_arrives_with_its_progress_told() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 300, 23, 1);
    // Bytes at an odd end, with a hole before them.
    std::fs::File::options().append(true).open(&file).unwrap().set_len((301 << 20) + 5).unwrap();
    std::io::Write::write_all(&mut std::fs::File::options().append(true).open(&file).unwrap(), b"end")
        .unwrap();
    let length = file.metadata().unwrap().len();
    let (asked, told) = (Cell::new(0), RefCell::new(Vec::new()));
    let keep_on = || {
        asked.set(asked.get() + 1);
        Ok(())
    };
    let imported =
        import(&link(&libvirtd), &order(&file, "web"), &keep_on, &mut |done| told.borrow_mut().push(done))
            .unwrap();
    assert_eq!((imported.how, imported.bytes), ("uploaded", length));
    let Imported { volume, .. } = imported;
    assert_eq!((volume.path.as_path(), volume.capacity), (path.join("web").as_path(), length));
    assert_eq!(volume.format.as_deref(), Some("raw"));
    assert!(volume.allocation < 25 << 20, "{volume:?}");
    assert_eq!(sha256(&path.join("web")), sha256(&file));
    assert_eq!(names_in(&path), ["web"]);
    let told = told.into_inner();
    assert!(told.is_sorted() && told.len() > 20, "{told:?}");
    assert_eq!(told.last(), Some(&length));
    assert!(asked.get() > 3, "{asked:?}");
}

#[test]
fn a_file_that_is_nothing_but_a_hole_becomes_a_volume() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("empty.raw");
    raw(&file, 64, 0, 1);
    let volume = imported(&libvirtd, &order(&file, "empty")).unwrap().volume;
    assert_eq!((volume.capacity, volume.allocation), (64 << 20, 0));
    assert_eq!(sha256(&path.join("empty")), sha256(&file));
}

#[test]
fn libvirt_knows_the_format_of_what_it_was_sent_and_what_is_another_is_refused() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    for (format, word) in
        [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vhd", "vpc"), ("vdi", "vdi")]
    {
        let file = disk(scratch.path(), format, format, 24, 3, 7);
        let at = file.to_str().unwrap();
        let made = told(&libvirtd, &["import", at, "images", "--name", format]).unwrap();
        assert_eq!((&made["volume"]["format"], &made["how"]), (&json!(word), &json!("uploaded")), "{made}");
        assert!(made["volume"]["capacity"].as_u64().unwrap() >= 24 << 20, "{made}");
        assert_eq!(sha256(&path.join(format)), sha256(&file), "{format}");
    }
    let raw = scratch.path().join("raw.raw");
    let error =
        told(&libvirtd, &["import", raw.to_str().unwrap(), "images", "--name", "no", "--format", "qcow2"])
            .unwrap_err();
    assert_eq!(error["kind"], json!("source"), "{error}");
    // What stands on another file would not be whole.
    libvirtd.sh(&format!(
        "cd '{}'; qemu-img create -q -f qcow2 -F qcow2 -b qcow2.qcow2 top.qcow2; : >empty",
        scratch.path().display()
    ));
    for (name, kind) in
        [("top.qcow2", "unsupported"), ("empty", "unsupported"), ("missing", "source"), (".", "source")]
    {
        let file = scratch.path().join(name);
        let error =
            told(&libvirtd, &["import", file.to_str().unwrap(), "images", "--name", "no"]).unwrap_err();
        assert_eq!(error["kind"], json!(kind), "{error}");
    }
    assert_eq!(names_in(&path), ["qcow2", "raw", "vdi", "vhd", "vmdk"]);
}

#[test]
fn a_file_beside_the_pool_is_moved_by_its_name_alone() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let file = disk(&libvirtd.images(), "web", "qcow2", 16, 3, 7);
    let (inode, sum) = (file.metadata().unwrap().ino(), sha256(&file));
    let at = file.to_str().unwrap();
    let rehearsed = told(&libvirtd, &["import", at, "images", "--move", "--dry-run"]).unwrap();
    assert_eq!((&rehearsed["volume"], &rehearsed["dry_run"]), (&json!("web.qcow2"), &json!(true)));
    assert!(file.exists() && names_in(&path).is_empty());
    let made = told(&libvirtd, &["import", at, "images", "--move"]).unwrap();
    assert_eq!((&made["how"], &made["volume"]["format"]), (&json!("renamed"), &json!("qcow2")));
    assert!(!file.exists());
    assert_eq!(
        (path.join("web.qcow2").metadata().unwrap().ino(), sha256(&path.join("web.qcow2"))),
        (inode, sum)
    );
    assert_eq!(names_in(&path), ["web.qcow2"]);
    // One that turns out to be something else goes back.
    raw(&file, 4, 1, 1);
    let error =
        told(&libvirtd, &["import", at, "images", "--name", "no", "--move", "--format", "vdi"]).unwrap_err();
    assert_eq!(error["kind"], json!("source"), "{error}");
    assert!(file.exists());
    assert_eq!(names_in(&path), ["web.qcow2"]);
}

#[test]
fn a_file_of_another_file_system_is_copied_compared_and_only_then_removed() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    libvirtd.sh(&format!("mount -t tmpfs -o size=64m h2k '{}'", path.display()));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 200, 20, 3);
    let sum = sha256(&file);
    let made = told(&libvirtd, &["import", file.to_str().unwrap(), "images", "--move"]).unwrap();
    assert_eq!(made["how"], json!("uploaded"), "{made}");
    assert!(!file.exists());
    assert!(made["volume"]["allocation"].as_u64().unwrap() < 22 << 20, "{made}");
    let there = libvirtd.sh(&format!("cd '{}'; ls -A; sha256sum <web.raw", path.display()));
    assert_eq!(there, format!("web.raw\n{sum}  -\n"));
}

#[test]
fn blocks_are_shared_where_the_file_system_can() {
    for make in ["mkfs.xfs -q", "mkfs.btrfs -q"] {
        let libvirtd = Libvirtd::start();
        let at = libvirtd.images().join("shared");
        let shown = at.display();
        libvirtd.sh(&format!(
            "truncate -s 400M '{shown}.image'; {make} '{shown}.image'; mkdir '{shown}'; mount -o loop '{shown}.image' '{shown}'
             mkdir '{shown}/pool'; dd if=/dev/urandom of='{shown}/web.raw' bs=1M count=60 status=none
             virsh -q pool-define-as images dir --target '{shown}/pool'; virsh -q pool-start images"
        ));
        let file = at.join("web.raw");
        let made = told(&libvirtd, &["import", file.to_str().unwrap(), "images"]).unwrap();
        assert_eq!(
            (&made["how"], &made["volume"]["capacity"]),
            (&json!("reflinked"), &json!(60 << 20)),
            "{make}: {made}"
        );
        libvirtd.sh(&format!(
            "cmp '{shown}/web.raw' '{shown}/pool/web.raw'; [ \"$(ls -A '{shown}/pool')\" = web.raw ]"
        ));
        // A change of the one is none of the other, and so is a new one in its place.
        libvirtd.sh(&format!("printf x | dd of='{shown}/pool/web.raw' conv=notrunc status=none; ! cmp -s '{shown}/web.raw' '{shown}/pool/web.raw'"));
        let error = told(&libvirtd, &["import", file.to_str().unwrap(), "images"]).unwrap_err();
        assert_eq!(error["kind"], json!("exists"), "{error}");
        told(&libvirtd, &["import", file.to_str().unwrap(), "images", "--overwrite"]).unwrap();
        libvirtd.sh(&format!(
            "cmp '{shown}/web.raw' '{shown}/pool/web.raw'; [ \"$(ls -A '{shown}/pool')\" = web.raw ]"
        ));
    }
}

#[test]
fn a_pool_that_lies_elsewhere_under_the_same_path_is_not_mistaken_for_its_directory() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    // libvirt sees this there, and who imports from outside does not.
    libvirtd.sh(&format!("mount -t tmpfs -o size=64m h2k '{}'", path.display()));
    let file = libvirtd.images().join("web.raw");
    raw(&file, 16, 2, 3);
    let sum = sha256(&file);
    let made = imported(&libvirtd, &Import { how: How::Move, ..order(&file, "web") }).unwrap();
    assert_eq!(made.how, "uploaded");
    assert!(!file.exists() && names_in(&path).is_empty());
    assert_eq!(
        libvirtd.sh(&format!("cd '{}'; ls -A; sha256sum <web", path.display())),
        format!("web\n{sum}  -\n")
    );
}

#[test]
fn a_taken_name_is_refused_or_replaced_unless_something_uses_it() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 8, 2, 3);
    let old = || std::fs::write(path.join("web"), [7; 4096]).unwrap();
    old();
    let error = imported(&libvirtd, &order(&file, "web")).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    let over = Import { overwrite: true, ..order(&file, "web") };
    assert_eq!(imported(&libvirtd, &over).unwrap().volume.capacity, 8 << 20);
    assert_eq!(sha256(&path.join("web")), sha256(&file));
    old();
    define_with(
        &libvirtd,
        "user",
        "<disk type='volume'><source pool='images' volume='web'/><target dev='vda' bus='virtio'/></disk>",
    );
    for how in [How::Copy, How::Move] {
        let error = imported(&libvirtd, &Import { how, ..over }).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert!(error.to_string().contains("the machine user"), "{error}");
    }
    assert_eq!(std::fs::read(path.join("web")).unwrap(), [7; 4096]);
    libvirtd.sh("virsh -q undefine user");
    // What somebody has open is not replaced either, and not moved away.
    let held = |file: &Path| {
        let mut qemu = Command::new("qemu-io");
        let child = qemu.args(["-f", "raw"]).arg(file).args(["-c", "sleep 600000"]).spawn().unwrap();
        let file = std::fs::File::open(file).unwrap();
        wait_for("a lock", || is_locked(&file, 0..0).unwrap().then_some(()));
        child
    };
    let moved = Import { how: How::Move, ..order(&file, "other") };
    for (held_one, order, kind) in
        [(path.join("web"), &over, Kind::Exists), (file.clone(), &moved, Kind::Source)]
    {
        let mut holder = held(&held_one);
        let error = imported(&libvirtd, order).unwrap_err();
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("locked"), "{error}");
    }
    assert!(file.exists());
}

#[test]
fn a_volume_is_not_replaced_by_what_turns_out_to_be_something_else() {
    let libvirtd = Libvirtd::start();
    let shown = libvirtd.images().join("shared").display().to_string();
    // Where blocks are shared, a copy is in place as soon as a file that is moved.
    libvirtd.sh(&format!(
        "truncate -s 400M '{shown}.image'; mkfs.xfs -q '{shown}.image'; mkdir '{shown}'; mount -o loop '{shown}.image' '{shown}'
         mkdir '{shown}/pool'; virsh -q pool-define-as images dir --target '{shown}/pool'; virsh -q pool-start images
         truncate -s 4M '{shown}/web.raw'; truncate -s 60M '{shown}/whole.raw'; echo old >'{shown}/pool/web'"
    ));
    let is_as_it_was = || {
        libvirtd.sh(&format!(
            "[ \"$(cat '{shown}/pool/web')\" = old ]; [ \"$(ls -A '{shown}/pool')\" = web ]; [ -e '{shown}/web.raw' ]"
        ));
    };
    let file = format!("{shown}/web.raw");
    for further in [&[][..], &["--move"], &["--dry-run"]] {
        let mut words = vec!["import", &file, "images", "--name", "web", "--overwrite", "--format", "qcow2"];
        words.extend(further);
        let error = told(&libvirtd, &words).unwrap_err();
        assert_eq!(error["kind"], json!("source"), "{error}");
        is_as_it_was();
    }
    // Who does not look at the file himself: libvirt does, before anything is replaced.
    let outside = Link::open(&libvirtd.uri(), Access::Changes).unwrap();
    let path = libvirtd.images().join("pool");
    pools::ensure(&outside, &Wanted { name: "beside".to_owned(), path: Some(path.clone()), start: true })
        .unwrap();
    let here = libvirtd.images().join("web.raw");
    raw(&here, 4, 1, 1);
    std::fs::write(path.join("web"), "old").unwrap();
    let order = Import {
        pool: "beside",
        format: OutputFormat::Qcow2,
        how: How::Move,
        overwrite: true,
        ..order(&here, "web")
    };
    let error = import(&outside, &order, &|| Ok(()), &mut |_| {}).unwrap_err();
    assert!(error.kind() == Kind::Source && error.to_string().contains("takes it for raw"), "{error}");
    assert_eq!((std::fs::read(path.join("web")).unwrap(), here.exists()), (b"old".to_vec(), true));
    assert_eq!(names_in(&path), ["web"]);
    import(&outside, &Import { format: OutputFormat::Raw, ..order }, &|| Ok(()), &mut |_| {}).unwrap();
    assert_eq!((names_in(&path), here.exists()), (vec!["web".to_owned()], false));
    assert_eq!(path.join("web").metadata().unwrap().len(), 4 << 20);
}

#[test]
fn pools_and_names_that_cannot_be_are_refused_with_what_to_do() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("web.raw");
    raw(&file, 2, 1, 3);
    for name in
        ["", ".", "..", "a/b", "../web", "nul\0", "line\nbreak", &"x".repeat(256), ".hyper2kvm-upload-x"]
    {
        assert_eq!(imported(&libvirtd, &order(&file, name)).unwrap_err().kind(), Kind::Manifest, "{name:?}");
    }
    for name in ["a b", "Ünïcode-☃", "it's \"<&>\"", ".dotted..name", &"x".repeat(65), &"y".repeat(255)] {
        let made = imported(&libvirtd, &order(&file, name)).unwrap();
        assert_eq!((made.volume.name.as_str(), sha256(&path.join(name))), (name, sha256(&file)));
    }
    assert_eq!(names_in(&path).len(), 6);
    let error = imported(&libvirtd, &Import { pool: "imagse", ..order(&file, "web") }).unwrap_err();
    assert!(
        error.to_string().contains("there is no storage pool imagse") && error.to_string().contains("images"),
        "{error}"
    );
    libvirtd.sh("virsh -q pool-destroy images");
    let error = imported(&libvirtd, &order(&file, "web")).unwrap_err();
    assert!(error.to_string().contains("libvirt pool start images"), "{error}");
}

#[test]
fn a_file_that_may_only_be_read_is_copied_and_not_moved() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let aside = libvirtd.images().join("aside");
    std::fs::create_dir(&aside).unwrap();
    raw(&aside.join("web.raw"), 8, 2, 3);
    libvirtd.sh(&format!("mount --bind -o ro '{0}' '{0}'", aside.display()));
    let at = aside.join("web.raw");
    let error = told(&libvirtd, &["import", at.to_str().unwrap(), "images", "--move"]).unwrap_err();
    assert_eq!(error["kind"], json!("output"), "{error}");
    assert!(names_in(&path).is_empty());
    told(&libvirtd, &["import", at.to_str().unwrap(), "images"]).unwrap();
    assert_eq!(sha256(&path.join("web.raw")), sha256(&at));
}

#[test]
fn a_user_of_libvirts_group_needs_no_access_to_the_pools_directory() {
    let libvirtd = Libvirtd::start();
    let path = pool(&libvirtd, "images");
    let file = libvirtd.images().join("web.raw");
    raw(&file, 8, 2, 3);
    libvirtd.sh(&format!(
        "echo 'auth_unix_rw = \"none\"' >>/etc/libvirt/libvirtd.conf; chmod 711 '{}'",
        path.display()
    ));
    libvirtd.kill();
    libvirtd.await_up();
    let output = libvirtd
        .inside("setpriv")
        .args([
            "--reuid=nobody",
            "--regid=libvirt",
            "--clear-groups",
            env!("CARGO_BIN_EXE_hyper2kvm"),
            "libvirt",
            "import",
        ])
        .args([file.to_str().unwrap(), "images"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("uploaded to images/web.raw"), "{output:?}");
    assert_eq!(sha256(&path.join("web.raw")), sha256(&file));
    assert_eq!(volumes::list(&link(&libvirtd), "images").unwrap().len(), 1);
}
