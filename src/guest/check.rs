//! Whether file systems are sound: asked before a repair writes to them, and again when it has written.
//!
//! Always read-only, by the tools of the appliance and never by any that would bring an old guest's file system up to date. What a
//! crash left in a journal is settled by the appliance's kernel first, as the guest's own would at its next start; what is wrong after
//! that stays wrong. Checks are bounded: one that takes too long, or whose tool is missing, is a warning. What is not here: mending.

use super::appliance::Appliance;
use super::facts::Volume;
use super::inspect::mount::for_shell;
use super::tree::shown;
use crate::model::error::{Error, Kind, Result};

/// Each check says its number, how its tool ended, and its last words.
const CHECK: &str = r#"tell() {
  said=$3
  [ -z "$said" ] || said=$(printf %s "$said" | tail -n 4 | tr '\n\t' '  ')
  printf 'checked\t%s\t%s\t%s\n' "$1" "$2" "$said"
}
settle() { at=/tmp/hyper2kvm-check; mkdir -p $at; mount -o "$2" "$1" $at 2>/dev/null && umount $at; }
check() {
  case $3 in
    ext*) run="e2fsck -fn" own=rw ;;
    xfs) run="xfs_repair -n" own=rw,nouuid ;;
    btrfs) run="btrfs check --readonly" own=rw ;;
    *) return ;;
  esac
  said=$(timeout $limit $run "$2" 2>&1) && { tell "$1" 0 ''; return; }
  settle "$2" $own
  said=$(timeout $limit $run "$2" 2>&1)
  tell "$1" $? "$said"
}
"#;
/// A device that somebody holds open keeps what was read of it in memory, and the check after the repair reads the same. Only of ext, whose
/// driver reads and writes through that memory: XFS and btrfs have one of their own, so a second reader could be told what is old.
const KEEP: &str = r#"keep() { case $2 in ext*) sleep infinity <"$1" >/dev/null 2>&1 & ;; esac; }
"#;
/// As long as a check may take: a full one of a large file system takes minutes.
const LIMIT_S: u32 = 600;
/// What `timeout` ends with when it was the one who ended it, by itself and by the kernel for lack of memory.
const NOT_ENDED: [u32; 2] = [124, 137];
/// What a shell says of a program that is not there.
const NO_TOOL: [u32; 2] = [126, 127];
/// e2fsck: what went wrong was the check, not what it checked. The others have no such code.
const TOOL_FAILED: u32 = 8;

/// Whether there is something to ask this file system.
fn is_checked(content: &str) -> bool {
    content.starts_with("ext") || content == "xfs" || content == "btrfs"
}

/// Refuses file systems on which a repair would build on errors; none of them may be mounted. What could not be checked is told.
pub(super) fn before<'v>(
    appliance: &Appliance,
    volumes: impl IntoIterator<Item = (&'v Volume, &'v str)>,
) -> Result<Vec<String>> {
    run(appliance, volumes, "keep", &|device, why| {
        Error::new(Kind::Guest, format!("the file system on {device} has errors: {why}"))
            .rule("guest.file_system")
            .advice("check it in the source machine (`fsck -f`, `xfs_repair`, `btrfs check`), shut the machine down and convert it then")
            .permanent()
    })
}

/// Fails if a repair left a file system with errors; none of them may be mounted any more.
pub(super) fn after<'v>(
    appliance: &Appliance,
    volumes: impl IntoIterator<Item = (&'v Volume, &'v str)>,
) -> Result<Vec<String>> {
    run(appliance, volumes, ":", &|device, why| {
        Error::new(Kind::Guest, format!("the file system on {device} has errors after its repair: {why}"))
            .advice("nothing of the repair is kept; report this with the job's bundle")
    })
}

fn run<'v>(
    appliance: &Appliance,
    volumes: impl IntoIterator<Item = (&'v Volume, &'v str)>,
    afterwards: &str,
    error: &dyn Fn(&str, &str) -> Error,
) -> Result<Vec<String>> {
    let mut asked: Vec<(&Volume, &str)> = Vec::new();
    for (volume, node) in volumes {
        // A btrfs may be mounted in several places.
        if is_checked(&volume.content) && !asked.iter().any(|(other, _)| other.device == volume.device) {
            asked.push((volume, node));
        }
    }
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let mut script = format!("limit={LIMIT_S}\n{CHECK}{KEEP}");
    for (index, (volume, node)) in asked.iter().enumerate() {
        let what = format!("{} {}", for_shell(node), volume.content);
        script.push_str(&format!("check {index} {what}\n{afterwards} {what}\n"));
    }
    script.push_str("exit 0\n");
    let told = appliance.appliance_command(&script).map_err(|why| {
        Error::new(Kind::Guest, format!("the guest's file systems cannot be checked: {}", shown(&why)))
            .advice("see the appliance's log")
            .transient()
    })?;
    let mut unchecked = Vec::new();
    for (index, code, why) in told.lines().filter_map(answer) {
        let Some((volume, _)) = asked.get(index) else { continue };
        let device = shown(&volume.device);
        match code {
            0 => {}
            code if NOT_ENDED.contains(&code) => {
                unchecked.push(format!("the file system on {device} was not checked: it took too long"));
            }
            code if NO_TOOL.contains(&code) || code == TOOL_FAILED => {
                unchecked.push(format!("the file system on {device} was not checked: {}", shown(why)));
            }
            _ => return Err(error(&device, &shown(why))),
        }
    }
    Ok(unchecked)
}

fn answer(line: &str) -> Option<(usize, u32, &str)> {
    let mut fields = line.splitn(4, '\t');
    (fields.next() == Some("checked")).then_some(())?;
    let (index, code) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((index, code, fields.next()?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_number_an_end_and_last_words() {
        assert_eq!(
            answer("checked\t2\t4\t  Filesystem still has errors "),
            Some((2, 4, "Filesystem still has errors"))
        );
        assert_eq!(answer("checked\t0\t0\t"), Some((0, 0, "")));
        assert_eq!(answer("Pass 1: Checking inodes"), None);
    }

    #[test]
    fn what_has_no_check_of_its_own_is_left_alone() {
        for content in ["ext2", "ext4", "xfs", "btrfs"] {
            assert!(is_checked(content), "{content}");
        }
        for content in ["vfat", "ntfs", "swap", ""] {
            assert!(!is_checked(content), "{content}");
        }
    }
}
