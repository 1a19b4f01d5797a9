//! Small real disks with known content, made by qemu-img in any format.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};

/// Writes a raw disk: `data_mib` of reproducible noise spread over `size_mib`, the rest holes.
pub fn raw(path: &Path, size_mib: u64, data_mib: u64, seed: u64) {
    let mut file = File::create(path).unwrap();
    file.set_len(size_mib << 20).unwrap();
    let stride = (size_mib / data_mib.max(1)).max(1);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for index in 0..data_mib {
        let mut block = vec![0_u8; 1 << 20];
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.seek(SeekFrom::Start(((index * stride) % size_mib) << 20)).unwrap();
        file.write_all(&block).unwrap();
    }
}

/// A disk of this format beside `dir`, named `<stem>.<suffix>`.
pub fn disk(dir: &Path, stem: &str, format: &str, size_mib: u64, data_mib: u64, seed: u64) -> PathBuf {
    let flat = dir.join(format!(".{stem}.making.raw"));
    raw(&flat, size_mib, data_mib, seed);
    let path = dir.join(format!("{stem}.{format}"));
    if format == "raw" {
        std::fs::rename(&flat, &path).unwrap();
        return path;
    }
    let (driver, options) = match format {
        "vhd" => ("vpc", "force_size=on"),
        other => (other, ""),
    };
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", driver]);
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    let done = command.arg(&flat).arg(&path).output().expect("qemu-img is installed by set-up");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::remove_file(&flat).unwrap();
    path
}

/// SHA-256 of a file, in hex.
pub fn sha256(path: &Path) -> String {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer).unwrap();
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of what the guest would see.
pub fn content_sha256(path: &Path, driver: &str) -> String {
    let aside = tempfile::tempdir().unwrap();
    let flat = aside.path().join("content.raw");
    let done = Command::new("qemu-img")
        .args(["convert", "-U", "-f", driver, "-O", "raw"])
        .arg(path)
        .arg(&flat)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    sha256(&flat)
}

/// What a manifest says whose disks hold no system: nobody opens a guest in them.
pub const BYTES_ONLY: &str =
    "pipeline: {inspect: {enabled: false}, fix: {enabled: false}, boot_test: {enabled: false}}\n";

/// A manifest for these disks (`(id, path, source_format)`), with further top-level lines. Bytes only, unless
/// those say what is to be done.
pub fn manifest(disks: &[(&str, &Path, &str)], further: &str) -> String {
    let mut text = String::from("manifest_version: \"1.0\"\n");
    text.push_str(further);
    if !further.is_empty() && !further.ends_with('\n') {
        text.push('\n');
    }
    if !further.contains("pipeline:") && !further.contains("profile:") {
        text.push_str(BYTES_ONLY);
    }
    text.push_str("disks:\n");
    for (id, path, format) in disks {
        text.push_str(&format!(
            "  - id: {id}\n    source_format: {format}\n    local_path: {}\n",
            path.display()
        ));
    }
    text
}

/// An image that somebody has open for writing, with QEMU's locks, until the input of this ends.
pub fn held(image: &Path, format: &str) -> Child {
    let mut holder = Command::new("qemu-io")
        .args(["-f", format])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It answers when it has it.
    writeln!(holder.stdin.as_mut().unwrap(), "length").unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "qemu-io has not got the image");
    holder
}
