//! Which machine this is, and whether a process of it is still there.

use std::fs;

/// Where systemd keeps what tells machines apart.
const MACHINE_ID: &str = "/etc/machine-id";

/// What people call this machine.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What tells this machine from others; empty where nobody has given it such a name.
#[must_use]
pub fn machine_id() -> String {
    fs::read_to_string(MACHINE_ID).unwrap_or_default().trim().to_owned()
}

/// All memory of this machine, in bytes.
#[must_use]
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// Processors of this machine.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Whether it has a network interface of this name.
#[must_use]
pub fn has_interface(name: &str) -> bool {
    index_of(name).unwrap_or_else(|| in_sysfs(name).exists().then_some(0)).is_some()
}

/// Whether an interface that is there is a bridge, as far as that can be seen.
#[must_use]
pub fn is_bridge(name: &str) -> bool {
    let at = in_sysfs(name);
    let shown = fs::read_to_string(at.join("ifindex")).ok().and_then(|text| text.trim().parse::<u32>().ok());
    // In a network namespace of its own, a process may see the files of another one: they prove nothing then.
    let is_ours = shown.is_some() && index_of(name).is_some_and(|index| index == shown);
    !is_ours || at.join("bridge").is_dir()
}

/// The kernel's number of an interface, `Some(None)` if there is none of that name; nothing where the kernel cannot be asked.
fn index_of(name: &str) -> Option<Option<u32>> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None).ok()?;
    Some(netdevice::name_to_index(socket, name).ok())
}

fn in_sysfs(name: &str) -> std::path::PathBuf {
    std::path::Path::new("/sys/class/net").join(name)
}

/// Within what the ids of processes mean something: the machine, or a container on it.
#[must_use]
pub fn process_space() -> String {
    fs::read_link("/proc/self/ns/pid").unwrap_or_default().to_string_lossy().into_owned()
}

/// When a process began, in ticks since the machine did; `None` if there is none of this number. Numbers are used again, with another begin.
#[must_use]
pub fn process_began(pid: u32) -> Option<u64> {
    const BEGAN: usize = 19;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the rest is looked for behind the last one.
    stat.rsplit_once(") ")?.1.split(' ').nth(BEGAN)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interfaces_of_this_machine_are_known_by_name() {
        assert!(has_interface("lo") && !is_bridge("lo"));
        for name in ["no-such-device", "", "a/b", "..", "\0", "much-too-long-for-an-interface"] {
            assert!(!has_interface(name), "{name}");
        }
    }

    #[test]
    fn a_process_has_one_begin_and_a_number_that_nobody_has_has_none() {
        let me = std::process::id();
        assert!(process_began(me).is_some_and(|began| began > 0));
        assert_eq!(process_began(me), process_began(me));
        assert_eq!(process_began(u32::MAX), None);
        assert_eq!(process_space(), process_space());
    }
}
