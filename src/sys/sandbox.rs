//! What a process may open: landlock rules and no-new-privileges, applied by a process to itself.
//!
//! A process that has called [`apply`] can read, write and execute only below the paths it named,
//! cannot use TCP, cannot signal or talk to abstract sockets outside, and can never get any of this
//! back, nor can its children. Newer kernels can hold more of it than older ones, so what was
//! enforced is reported. With [`Rules::required`] a kernel that cannot even confine file access is an
//! error; rights that only newer kernels know (truncation, TCP, ioctl, signals) are never required.
//!
//! Landlock binds the calling *thread* and what it starts later: call it before starting threads.
//! It does not replace file permissions, it only takes away; and it does not hide that a path exists.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use serde::{Deserialize, Serialize};

/// File rights that every kernel with landlock can hold back.
const FIRST: ABI = ABI::V1;
/// The newest rights that were tried with this program.
const NEWEST: ABI = ABI::V6;

/// System files that any program needs to start; all are only read.
const SYSTEM_READ: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/proc/self",
    "/proc/sys/vm/overcommit_memory",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/sys/kernel/random/boot_id",
    "/sys/devices/system/cpu",
    "/dev/urandom",
    "/dev/zero",
];
/// Programs and their libraries: read and executed.
const SYSTEM_EXECUTE: &[&str] = &["/usr", "/lib", "/lib64", "/bin", "/sbin"];
/// Devices that swallow.
const SYSTEM_WRITE: &[&str] = &["/dev/null"];

/// What may be opened, besides the system's programs and libraries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Files and directories (with all below) that may be read.
    pub read: Vec<PathBuf>,
    /// Files and directories (with all below) that may be read and changed.
    pub write: Vec<PathBuf>,
    /// Files and directories (with all below) that may be executed and read.
    pub execute: Vec<PathBuf>,
    /// Whether to fail where file access cannot be confined.
    pub required: bool,
    /// Whether TCP may be used.
    pub network: bool,
}

/// How much of the rules the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// All of it.
    Full,
    /// File access is confined; some rights that newer kernels know are not.
    FilesOnly,
    /// Nothing: this kernel has no landlock, or it is switched off, or a seccomp filter forbids it.
    Nothing,
}

/// Why the rules could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A path of the rules cannot be opened.
    #[error("cannot confine access to {}: {error}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// The kernel refused.
    #[error("landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// Required, but the kernel does not do it.
    #[error(
        "this kernel does not confine file access with landlock (not built in, not in `lsm=`, or forbidden by a system call filter)"
    )]
    NotEnforced,
    /// Privileges could not be given up.
    #[error("no_new_privs: {0}")]
    Privileges(#[from] std::io::Error),
}

/// Confines the calling thread, and everything it starts later, to these rules. There is no way back.
pub fn apply(rules: &Rules) -> Result<Enforcement, SandboxError> {
    rustix::thread::set_no_new_privs(true).map_err(std::io::Error::from)?;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !rules.network {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut created = ruleset.create()?;
    created = allow_if_there(created, SYSTEM_READ, read)?;
    created = allow_if_there(created, SYSTEM_EXECUTE, read | AccessFs::Execute)?;
    created = allow_if_there(created, SYSTEM_WRITE, read | AccessFs::WriteFile)?;
    created = allow(created, &rules.read, read)?;
    created = allow(created, &rules.execute, read | AccessFs::Execute)?;
    created = allow(created, &rules.write, AccessFs::from_all(NEWEST) & !AccessFs::Execute)?;
    let status = created.restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(Enforcement::Full),
        RulesetStatus::PartiallyEnforced => Ok(Enforcement::FilesOnly),
        RulesetStatus::NotEnforced if rules.required => Err(SandboxError::NotEnforced),
        RulesetStatus::NotEnforced => Ok(Enforcement::Nothing),
    }
}

/// Paths that a caller named have to be there: a rule that silently vanished would show as a puzzling refusal later.
fn allow(
    mut ruleset: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    for path in paths {
        let opened = PathFd::new(path)
            .map_err(|error| SandboxError::Path { path: path.clone(), error: error.to_string() })?;
        ruleset = add(ruleset, opened, path, access)?;
    }
    Ok(ruleset)
}

fn allow_if_there(
    mut ruleset: RulesetCreated,
    paths: &[&str],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    for path in paths {
        if let Ok(opened) = PathFd::new(path) {
            ruleset = add(ruleset, opened, Path::new(path), access)?;
        }
    }
    Ok(ruleset)
}

fn add(
    ruleset: RulesetCreated,
    opened: PathFd,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    // Rights that only make sense for directories are refused on files.
    let fits = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    Ok(ruleset.add_rule(PathBeneath::new(opened, fits))?)
}

/// Whether this kernel can confine file access at all, told without confining anything.
#[must_use]
pub fn available() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(FIRST))
        .and_then(Ruleset::create)
        .is_ok()
}
