//! What an import leaves in the pool while it is under way, so that the next one tells what is half-done, whoever died.
//!
//! libvirt cannot rename a volume, so one that is uploaded has its own name from the beginning. Before it is made, an empty volume beside it says
//! that it is not whole yet: the mark. Its name holds which volume is meant and which process works on it, so one request to libvirt makes it, and
//! nothing has to be read or locked. What we can put in place ourselves lies under such a name, too, until it is whole. What is not here: what an
//! import does.

use sha2::{Digest as _, Sha256};

use crate::sys::boot::boot_id;
use crate::sys::process::strays::begun_at;

/// How all our names begin; no volume that somebody names may.
pub(super) const PREFIX: &str = ".hyper2kvm-";
/// Where a machine's own id is.
const MACHINE_ID: &str = "/etc/machine-id";
/// In which namespace our number means us.
const NAMESPACE: &str = "/proc/self/ns/pid";

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The volume that is meant is being uploaded.
    Upload,
    /// The bytes of the volume that is meant are these, under a name of ours.
    Part,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            What::Upload => "upload",
            What::Part => "part",
        }
    }
}

/// Who works on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody any more. A process imports a volume once at a time, so one of this process is such a one, too.
    Gone,
    /// This process of this host.
    Running(i32),
    /// A process of another host or another container, if there is still one.
    Elsewhere,
}

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its name as a volume.
    pub(super) name: String,
    /// What it says.
    pub(super) what: What,
    /// Who made it.
    pub(super) owner: Owner,
    /// How long the file is that is being imported.
    pub(super) length: u64,
}

/// The name of a mark of ours. Letters, digits and dashes: every kind of pool takes them.
pub(super) fn name(what: What, volume: &str, length: u64) -> String {
    let Us { host, run, namespace, pid, begun } = Us::now();
    format!("{PREFIX}{}-{}-{host}-{run}-{namespace}-{pid}-{begun}-{length}", what.word(), digest(volume))
}

/// The mark of this name, if it is one, and of this volume.
pub(super) fn read(name: &str, volume: &str) -> Option<Mark> {
    let parts: Vec<&str> = name.strip_prefix(PREFIX)?.split('-').collect();
    let [what, meant, host, run, namespace, pid, begun, length] = parts[..] else { return None };
    let what = [What::Upload, What::Part].into_iter().find(|known| known.word() == what)?;
    if meant != digest(volume) {
        return None;
    }
    let maker = Us {
        host: host.to_owned(),
        run: run.to_owned(),
        namespace: namespace.to_owned(),
        pid: pid.parse().ok()?,
        begun: begun.parse().ok()?,
    };
    Some(Mark { name: name.to_owned(), what, owner: maker.seen_by(&Us::now()), length: length.parse().ok()? })
}

/// A process, among all processes of all hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Us {
    host: String,
    /// Of its kernel.
    run: String,
    /// In which its number means it: containers have their own.
    namespace: String,
    pid: i32,
    begun: u64,
}

impl Us {
    fn now() -> Us {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let namespace = std::fs::read_link(NAMESPACE).unwrap_or_default();
        Us {
            host: digest(std::fs::read_to_string(MACHINE_ID).unwrap_or_default().trim()),
            run: digest(&boot_id().unwrap_or_default()),
            namespace: digest(&namespace.to_string_lossy()),
            pid,
            begun: begun_at(pid).unwrap_or(0),
        }
    }

    /// What has become of it, as we see it.
    fn seen_by(&self, us: &Us) -> Owner {
        match () {
            // Nobody knows of a host without a name of its own which it is.
            () if self.host != us.host || us.host == digest("") => Owner::Elsewhere,
            // The host was started again.
            () if self.run != us.run => Owner::Gone,
            () if self.namespace != us.namespace => Owner::Elsewhere,
            () if self != us && begun_at(self.pid) == Some(self.begun) => Owner::Running(self.pid),
            () => Owner::Gone,
        }
    }
}

/// Enough of a digest to tell some thousands of names apart.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_its_volume_and_its_maker() {
        for what in [What::Upload, What::Part] {
            let ours = name(what, "it's / web", u64::MAX);
            assert!(ours.len() < 127 && !ours.contains('/'), "{ours}");
            let read = read(&ours, "it's / web").unwrap();
            assert_eq!((&read.name, read.what, read.length), (&ours, what, u64::MAX));
        }
        assert_eq!(read(&name(What::Part, "web", 7), "other"), None);
        for other in ["web", ".hyper2kvm-", ".hyper2kvm-upload-x", ".hyper2kvm-upload-a-b-c-d-e-f", "\u{0}"] {
            assert_eq!(read(other, "web"), None, "{other}");
        }
    }

    #[test]
    fn a_maker_that_runs_is_told_from_one_that_is_gone_and_from_one_that_cannot_be_seen() {
        let us = Us { host: "named".to_owned(), ..Us::now() };
        assert_eq!(us.seen_by(&us), Owner::Gone);
        let nameless = Us { host: digest(""), ..us.clone() };
        assert_eq!(nameless.seen_by(&nameless), Owner::Elsewhere);
        let pid = std::os::unix::process::parent_id().cast_signed();
        let parent = Us { pid, begun: begun_at(pid).unwrap(), ..us.clone() };
        assert_eq!(parent.seen_by(&us), Owner::Running(pid));
        let other = || "other".to_owned();
        for (maker, owner) in [
            (Us { begun: parent.begun + 1, ..parent.clone() }, Owner::Gone),
            (Us { run: other(), ..parent.clone() }, Owner::Gone),
            (Us { namespace: other(), ..parent.clone() }, Owner::Elsewhere),
            (Us { host: other(), run: other(), ..parent.clone() }, Owner::Elsewhere),
        ] {
            assert_eq!(maker.seen_by(&us), owner, "{maker:?}");
        }
    }
}
