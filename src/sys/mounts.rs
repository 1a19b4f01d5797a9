//! Which file system a path lies on, told without touching that file system.
//!
//! A network file system that is away answers nothing, not even what it is. So this reads the kernel's
//! table of mounts and walks the path through it; links are followed as far as local file systems hold
//! them, and the walk ends where the first other one begins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// The kernel's table, as this process sees it.
const TABLE: &str = "/proc/self/mountinfo";

/// File systems that answer as long as this machine does. What is not among them may be away.
const LOCAL: [&str; 14] = [
    "bcachefs", "btrfs", "devtmpfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs",
    "tmpfs", "xfs", "zfs",
];

/// More links in one path than this are a circle.
const MAX_LINKS: u32 = 40;

/// The mount points, and whether each is local.
#[derive(Debug, Clone, Default)]
pub struct Mounts(BTreeMap<PathBuf, bool>);

impl Mounts {
    /// As they are now.
    pub fn read() -> io::Result<Mounts> {
        Ok(Mounts::parse(&std::fs::read(TABLE)?))
    }

    fn parse(table: &[u8]) -> Mounts {
        let line = |line: &[u8]| -> Option<(PathBuf, bool)> {
            let mut fields = line.split(|byte| *byte == b' ');
            let point = unescaped(fields.nth(4)?);
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            Some((point, LOCAL.iter().any(|local| local.as_bytes() == kind)))
        };
        // Of several at one place the last one is what is seen.
        Mounts(table.split(|byte| *byte == b'\n').filter_map(line).collect())
    }

    /// The mount point of the file system that an absolute path lies on, or that the way to it enters first
    /// where that may be away.
    #[must_use]
    pub fn of(&self, path: &Path) -> PathBuf {
        self.walk(path, |link| std::fs::read_link(link).ok())
    }

    fn walk(&self, path: &Path, read_link: impl Fn(&Path) -> Option<PathBuf>) -> PathBuf {
        let mut left: Vec<OsString> = steps(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(step) = left.pop() {
            if step == ".." {
                here.pop();
                continue;
            }
            here.push(&step);
            match self.0.get(&here) {
                Some(false) => return here,
                Some(true) => continue,
                None => {}
            }
            if links < MAX_LINKS
                && let Some(target) = read_link(&here)
            {
                links += 1;
                here.pop();
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                left.extend(steps(&target));
            }
        }
        here.ancestors()
            .find(|ancestor| self.0.contains_key(*ancestor))
            .map_or_else(|| PathBuf::from("/"), Path::to_owned)
    }
}

/// The steps of a path, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let named = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    let mut steps: Vec<OsString> = path.components().filter_map(named).collect();
    steps.reverse();
    steps
}

/// The table writes blanks and the like as `\040`.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
31 22 0:27 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
90 22 0:50 / /mnt/nfs\\040one rw,relatime shared:9 master:2 - nfs4 server:/export rw,hard
91 22 0:51 / /data rw,relatime - xfs /dev/vdb rw
92 91 0:52 / /data/share rw,relatime - cifs //server/share rw
";

    fn links(path: &Path) -> Option<PathBuf> {
        let target = match path.to_str()? {
            "/srv/out" => "/mnt/nfs one/out",
            "/srv/near" => "../data/here",
            "/srv/circle" => "/srv/circle",
            "/mnt/nfs one/back" => panic!("a file system that may be away is asked"),
            _ => return None,
        };
        Some(PathBuf::from(target))
    }

    #[test]
    fn a_path_lies_where_its_links_lead_and_nothing_beyond_is_asked() {
        let mounts = Mounts::parse(SAMPLE);
        for (path, mount) in [
            ("/", "/"),
            ("/var/lib/x", "/"),
            ("/run/x/y", "/run"),
            ("/runs/x", "/"),
            ("/data/x", "/data"),
            ("/data/share/x", "/data/share"),
            ("/data/x/../share/y", "/data/share"),
            ("/mnt/nfs one/back/x", "/mnt/nfs one"),
            ("/srv/out/web/disk.qcow2", "/mnt/nfs one"),
            ("/srv/near/x", "/data"),
            ("/srv/circle/x", "/"),
        ] {
            assert_eq!(mounts.walk(Path::new(path), links), Path::new(mount), "{path}");
        }
    }

    #[test]
    fn this_machine_has_a_root() {
        assert_eq!(Mounts::read().unwrap().of(Path::new("/no/such/place")), Path::new("/"));
    }
}
