//! Files that only root can have put where they are: what others name may be run from such, and from no others.
//!
//! [`open`] walks from the root of the file system by descriptors, never through a symbolic link, and looks at each directory on the way and at the
//! file itself by its descriptor. What is then run is that descriptor (see [`crate::sys::stub`]), so nothing can be put in its place between the look
//! and the use. What is not here: which directories are allowed (that is configured), and what is run.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};

/// Who may have made it.
const ROOT: u32 = 0;
/// Those who may not change it.
const GROUP_AND_OTHERS: u32 = 0o022;
/// In a directory with this bit, only its owner may rename or remove what is theirs.
const STICKY: u32 = 0o1000;
/// Somebody may execute it.
const EXECUTABLE: u32 = 0o111;

/// Why a file is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {why}", path.display())]
pub struct Untrusted {
    /// Which file or directory is to blame.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// What would mend it.
    pub advice: String,
}

/// What a trusted file is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is run itself.
    Program,
    /// Another program reads it.
    Text,
}

/// A program, told by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Begins with `#!`: its interpreter opens it once more.
    Script,
    /// The kernel runs it.
    Binary,
    /// Neither.
    Other,
}

/// Opens a file below one of the roots for reading, if nobody but root can have made or changed it.
pub fn open(path: &Path, roots: &[PathBuf], wanted: Use) -> Result<(File, Kind), Untrusted> {
    let refuse = |at: &Path, why: String, advice: &str| Untrusted {
        path: at.to_owned(),
        why,
        advice: advice.to_owned(),
    };
    let Some(root) = roots.iter().find(|root| path.starts_with(root) && path != root.as_path()) else {
        let advice = "move it there, or have the administrator add its directory";
        return Err(refuse(path, "does not lie below any of `hooks.allowed_dirs`".to_owned(), advice));
    };
    let failed = |at: &Path, error: rustix::io::Errno| {
        let why = match error {
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
                "is a symbolic link, or lies behind one".to_owned()
            }
            error => format!("cannot be opened: {error}"),
        };
        refuse(at, why, "name a plain file that the service's user may read, by a path without links")
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = PathBuf::from("/");
    let mut fd: OwnedFd =
        rustix::fs::open(&here, directory, Mode::empty()).map_err(|error| failed(&here, error))?;
    let mut components = path.components().skip(1).peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else {
            return Err(refuse(path, "holds `..`".to_owned(), "write its path out"));
        };
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(&here, error))?;
        // Above the root a directory for all is good enough, if nobody may take away there what is root's.
        let shared = !here.starts_with(root) && stat.st_mode & STICKY != 0;
        look(&here, &stat, shared)?;
        here.push(name);
        let flags = match components.peek() {
            Some(_) => directory,
            // A fifo must not hold us up before it is refused.
            None => OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        };
        fd = rustix::fs::openat(&fd, name, flags, Mode::empty()).map_err(|error| failed(&here, error))?;
    }
    let stat = rustix::fs::fstat(&fd).map_err(|error| failed(&here, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse(path, "is not a plain file".to_owned(), "name a plain file"));
    }
    look(&here, &stat, false)?;
    let file = File::from(fd);
    let kind = kind_of(&file);
    if wanted == Use::Program {
        if stat.st_mode & EXECUTABLE == 0 {
            let advice = format!("`chmod 755 {}`", path.display());
            return Err(refuse(path, "is not executable".to_owned(), &advice));
        }
        if kind == Kind::Other {
            let advice = "let its first line name its interpreter: `#!/bin/sh`";
            return Err(refuse(path, "is neither a program nor begins with `#!`".to_owned(), advice));
        }
    }
    Ok((file, kind))
}

/// Looks at a directory from which programs load what is in it: nobody but root can have made or changed it. It is not opened for reading.
pub fn directory(path: &Path) -> Result<(), Untrusted> {
    let refuse = |at: &Path, why: String, advice: &str| Untrusted {
        path: at.to_owned(),
        why,
        advice: advice.to_owned(),
    };
    if !path.is_absolute() {
        return Err(refuse(path, "is no absolute path".to_owned(), "write its path out"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = PathBuf::from("/");
    let mut parent: Option<OwnedFd> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let opened = match (component, &parent) {
            (Component::RootDir, _) => rustix::fs::open("/", flags, Mode::empty()),
            (Component::Normal(name), Some(parent)) => {
                here.push(name);
                rustix::fs::openat(parent, name, flags, Mode::empty())
            }
            _ => return Err(refuse(path, "holds `..`".to_owned(), "write its path out")),
        };
        let fd = opened.map_err(|error| {
            let why = match error {
                rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
                    "is no directory, or a symbolic link".to_owned()
                }
                error => format!("cannot be looked at: {error}"),
            };
            refuse(&here, why, "name a directory by a path without links")
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| {
            refuse(&here, format!("cannot be looked at: {error}"), "see who may look into it")
        })?;
        let shared = components.peek().is_some() && stat.st_mode & STICKY != 0;
        look(&here, &stat, shared)?;
        parent = Some(fd);
    }
    Ok(())
}

fn look(path: &Path, stat: &Stat, shared: bool) -> Result<(), Untrusted> {
    let told = |why: String, advice: String| Err(Untrusted { path: path.to_owned(), why, advice });
    if stat.st_uid != ROOT {
        return told(
            format!("belongs to user {} and not to root", stat.st_uid),
            format!("`chown root {}`", path.display()),
        );
    }
    if stat.st_mode & GROUP_AND_OTHERS != 0 && !shared {
        return told(
            format!("may be changed by others than root (mode {:o})", stat.st_mode & 0o7777),
            format!("`chmod go-w {}`", path.display()),
        );
    }
    Ok(())
}

fn kind_of(file: &File) -> Kind {
    let mut start = [0u8; 4];
    // By a position of its own: whoever is handed the file reads it from its beginning.
    let read = rustix::io::pread(file, &mut start, 0).unwrap_or(0);
    match &start[..read] {
        [b'#', b'!', ..] => Kind::Script,
        b"\x7fELF" => Kind::Binary,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn why(path: &str, roots: &[&str]) -> String {
        let roots: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
        open(Path::new(path), &roots, Use::Program).unwrap_err().to_string()
    }

    #[test]
    fn a_program_of_the_system_may_be_run_and_is_read_from_its_beginning() {
        let root = std::fs::canonicalize("/usr/bin").unwrap();
        let env = std::fs::canonicalize("/usr/bin/env").unwrap();
        let (mut file, kind) = open(&env, std::slice::from_ref(&root), Use::Program).unwrap();
        let mut start = [0u8; 4];
        file.read_exact(&mut start).unwrap();
        assert_eq!((kind, &start), (Kind::Binary, b"\x7fELF"));
    }

    #[test]
    fn what_lies_elsewhere_is_refused_however_it_is_named() {
        assert!(why("/usr/bin/env", &[]).contains("allowed_dirs"));
        assert!(why("/usr/bin/env", &["/usr/bi"]).contains("allowed_dirs"));
        assert!(why("/usr/bin", &["/usr/bin"]).contains("allowed_dirs"));
        assert!(why("/usr/lib/../bin/env", &["/usr/lib"]).contains("`..`"));
        assert!(why("/usr/share/../../etc/passwd", &["/usr/share"]).contains("`..`"));
    }

    #[test]
    fn what_is_no_program_is_refused_before_a_shell_could_guess() {
        let why = why("/etc/passwd", &["/etc"]);
        assert!(why.contains("is not executable"), "{why}");
        let roots = [PathBuf::from("/etc")];
        assert!(open(Path::new("/etc/passwd"), &roots, Use::Text).is_ok());
    }

    #[test]
    fn a_directory_is_taken_only_if_all_the_way_to_it_is_roots() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let usr = std::fs::canonicalize("/usr/share").unwrap();
        directory(&usr).unwrap();
        assert!(directory(Path::new("usr/share")).unwrap_err().why.contains("absolute"));
        assert!(directory(Path::new("/usr/share/../share")).unwrap_err().why.contains("`..`"));
        let dir = tempfile::tempdir().unwrap();
        let (open, link) = (dir.path().join("open"), dir.path().join("link"));
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        symlink(&open, &link).unwrap();
        for path in [&open, &link, &dir.path().join("none")] {
            assert!(directory(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        let roots = [dir.path().to_owned()];
        let error = open(&path, &roots, Use::Program).unwrap_err();
        // As root it is the mode that is wrong, as anybody else the owner of the directory.
        assert!(error.why.contains("root"), "{error}");
        assert!(error.advice.contains("chmod") || error.advice.contains("chown"), "{error:?}");
    }
}
