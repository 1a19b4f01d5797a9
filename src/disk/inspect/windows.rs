//! Names as Windows writes them into images, and what of them is of use elsewhere.
//!
//! An image says where its parent lay on the machine that it comes from. Of a drive, a share or a directory above nothing is left here:
//! what can still be right is a place below the image's own directory, and the name of the file; and that in upper or lower case, which are the
//! same to Windows.

use std::path::{Path, PathBuf};

use crate::sys::fs::parent_of;

/// Longer than any path that Windows knows, in bytes.
pub(super) const MOST_BYTES: u64 = 128 << 10;

/// The name by which a file is looked for: what a relative path says; of any other only its last part.
pub(super) fn name(path: &str) -> Option<String> {
    const BETWEEN: [char; 3] = ['\\', '/', ':'];
    let last = path.rsplit(BETWEEN).next().filter(|last| !["", ".", ".."].contains(last))?;
    let parts: Vec<&str> = path.split(BETWEEN).filter(|part| !["", "."].contains(part)).collect();
    let is_below = !path.starts_with(['\\', '/']) && !path.contains(':') && !parts.contains(&"..");
    Some(if is_below { parts.join("/") } else { last.to_owned() })
}

/// Those of these names that Windows takes for this one: itself, or else all that differ from it only in upper and lower case.
pub fn alike<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let wanted = name.to_lowercase();
    let alike: Vec<&str> = names.filter(|other| other.to_lowercase() == wanted).collect();
    match alike.iter().find(|other| **other == name) {
        Some(itself) => vec![itself],
        None => alike,
    }
}

/// The files that Windows takes for this one: itself, or else all in its directory whose names differ only in upper and lower case.
pub fn files_alike(path: &Path) -> Vec<PathBuf> {
    if path.symlink_metadata().is_ok() {
        return vec![path.to_owned()];
    }
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let entries = parent_of(path).read_dir().into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let mut alike = alike(name, names.iter().map(String::as_str));
    alike.sort_unstable();
    alike.into_iter().map(|name| path.with_file_name(name)).collect()
}

/// Text in UTF-16, up to its first NUL; what is none shows as such.
pub(super) fn text(units: impl Iterator<Item = u16>) -> String {
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_and_lower_case_are_the_same_where_nothing_fits_better() {
        let names = ["base.vhdx", "Base.VHDX", "GRÖSSE.vhd", "other"];
        let alike = |name: &str| alike(name, names.into_iter());
        assert_eq!(alike("Base.VHDX"), ["Base.VHDX"]);
        assert_eq!(alike("BASE.vhdx"), ["base.vhdx", "Base.VHDX"]);
        assert_eq!(alike("Größe.VHD"), Vec::<&str>::new());
        assert_eq!(alike("grösse.VHD"), ["GRÖSSE.vhd"]);
    }

    #[test]
    fn of_a_windows_path_is_kept_what_may_be_right_here() {
        let is = |path: &str, wanted: &str| assert_eq!(name(path).as_deref(), Some(wanted), "{path}");
        is(r".\base.vhdx", "base.vhdx");
        is("base.vhdx", "base.vhdx");
        is(r".\disks\.\base.vhdx", "disks/base.vhdx");
        is(r"..\base.vhdx", "base.vhdx");
        is(r"disks\..\..\base.vhdx", "base.vhdx");
        is(r"C:\VMs\web\base.vhdx", "base.vhdx");
        is(r"C:base.vhdx", "base.vhdx");
        is(r"\\?\C:\VMs\base.vhdx", "base.vhdx");
        is(r"\\server\share\base.vhdx", "base.vhdx");
        is(r"\\?\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\base.vhdx", "base.vhdx");
        is("/etc/passwd", "passwd");
        for path in ["", ".", "..", r"C:\", r"\\", r"C:\VMs\.."] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
