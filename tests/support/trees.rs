//! Trees of a guest's files, and file systems that hold them, made without mounting anything.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// These files below a directory.
pub fn tree<T: AsRef<[u8]>>(dir: &Path, files: &[(&str, T)]) -> PathBuf {
    let tree = dir.join("tree");
    for (path, content) in files {
        let path = tree.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    tree
}

/// A raw image that is one ext4 with a tree's files, with further options of mke2fs.
pub fn ext4(image: &Path, size_mib: u64, tree: &Path, options: &[&str]) {
    fs::File::create(image).unwrap().set_len(size_mib << 20).unwrap();
    let mut mke2fs = Command::new("/sbin/mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4"]).args(options).arg("-d").arg(tree).arg(image);
    assert!(mke2fs.status().unwrap().success());
}

/// What a file of such an image holds.
pub fn bytes_in(image: &Path, path: &str) -> Vec<u8> {
    let mut debugfs = Command::new("/sbin/debugfs");
    debugfs.arg("-R").arg(format!("cat {path}")).arg(image).output().unwrap().stdout
}

/// The same of a text.
pub fn file_in(image: &Path, path: &str) -> String {
    String::from_utf8(bytes_in(image, path)).unwrap()
}

/// Runs a script of guestfish on raw disks, in an appliance of its own; what it printed.
///
/// One in some hundred appliances ends before it begins: another is started then, as the program does.
#[track_caller]
pub fn guestfish<T: AsRef<Path>>(disks: &[T], script: &str) -> String {
    let mut told = guestfish_once(disks, script);
    if told.as_ref().is_err_and(|why| why.contains("guestfs_launch failed")) {
        told = guestfish_once(disks, script);
    }
    told.unwrap_or_else(|why| panic!("guestfish: {why}"))
}

fn guestfish_once<T: AsRef<Path>>(disks: &[T], script: &str) -> Result<String, String> {
    let mut fish = Command::new("guestfish");
    fish.env("LIBGUESTFS_BACKEND", "direct").env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    fish.args(["--keys-from-stdin", "--format=raw"]);
    for disk in disks {
        fish.arg("-a").arg(disk.as_ref());
    }
    fish.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = fish.spawn().unwrap();
    // One that ends at once does not read it.
    let _ = child.stdin.take().unwrap().write_all(format!("run\n{script}").as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(format!("{}: {why}{said}", output.status)) }
}
