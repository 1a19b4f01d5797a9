//! Names as Windows writes them into images, and what of them is of use elsewhere.
//!
//! An image says where its parent lay on the machine that it comes from. Of a drive, a share or a directory above nothing is left here:
//! what can still be right is a place below the image's own directory, and the name of the file.

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

/// Text in UTF-16, up to its first NUL; what is none shows as such.
pub(super) fn text(units: impl Iterator<Item = u16>) -> String {
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;

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
