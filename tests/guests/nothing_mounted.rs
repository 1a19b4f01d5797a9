//! A filter under which nothing of a guest can be mounted or activated on this machine: who tries it is killed by the kernel.
//!
//! It holds for the thread that asks for it and for everything that it starts afterwards, so for a service and its workers, their children, and the
//! emulators that these start. File systems, volumes and arrays of guests are opened by the kernel of an appliance, never by this machine's.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// By x86_64's numbers: mount, umount2, pivot_root, open_tree, move_mount, fsopen, fsmount.
const MOUNTING: [i64; 7] = [165, 166, 155, 428, 429, 430, 432];
const IOCTL: i64 = 16;
/// Requests to loop devices, to the device mapper, to md arrays and to network block devices, by the byte that marks each kind.
const ACTIVATING: [u64; 4] = [b'L' as u64, 0xfd, 9, 0xab];
const KIND: u64 = 0xff00;
const SIGSYS: i32 = 31;

/// From here on, for this thread and what it starts.
pub fn from_here_on() {
    let rule = |kind: u64| {
        let is_kind = SeccompCmpOp::MaskedEq(KIND);
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, is_kind, kind << 8).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = MOUNTING.map(|call| (call, Vec::new())).into();
    rules.insert(IOCTL, ACTIVATING.map(rule).into());
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, TargetArch::x86_64)
            .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn who_mounts_or_activates_under_the_filter_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    from_here_on();
    let mut mount = Command::new("/bin/mount");
    mount.args(["-t", "tmpfs", "none"]).arg(dir.path());
    // LOOP_CTL_GET_FREE of a file that is no loop device at all: the request alone is enough.
    let ioctl = "import fcntl; fcntl.ioctl(open('/dev/null'), 0x4C82)";
    let mut activate = Command::new("python3");
    activate.args(["-c", ioctl]);
    for command in [&mut mount, &mut activate] {
        assert_eq!(command.status().unwrap().signal(), Some(SIGSYS), "{command:?}");
    }
    assert!(Command::new("true").status().unwrap().success());
}
