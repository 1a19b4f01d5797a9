//! A TPM of the test machine's own: `swtpm` with empty state, gone with the test.
//!
//! The guest's real TPM, if it had one, is never here; what was sealed to it cannot be opened in a test.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::Control;
use crate::model::error::{Error, Kind, Result};
use crate::sys::process::{ChildLimits, ChildSpec, Launcher, LongChild, find_program};
use crate::sys::sandbox::Rules;
use crate::sys::scratch::Scratch;

/// The socket by which QEMU finds it, in the test's directory.
pub(super) const SOCKET: &str = "tpm.sock";
const STATE: &str = "tpm";
/// It has nothing to do but to listen.
const READY_WITHIN: Duration = Duration::from_secs(20);
const MEMORY_BYTES: u64 = 1 << 30;
/// Its state is some kilobytes.
const FILE_BYTES: u64 = 16 << 20;

/// What emulates it.
pub(super) fn program() -> Result<PathBuf> {
    find_program("swtpm").ok_or_else(|| {
        Error::new(Kind::Unsupported, "the machine has a TPM, and swtpm is not here to emulate one")
            .rule("host.tpm")
            .advice("install it: `apt-get install swtpm` (Debian) or `dnf install swtpm`")
    })
}

/// Starts one; it lives as long as what is returned.
pub(super) fn start(
    launcher: &Launcher,
    scratch: &Scratch,
    required: bool,
    control: &Control,
) -> Result<LongChild> {
    let program = program()?;
    let failed = |why: String| {
        Error::new(Kind::Boot, format!("the TPM of the test machine does not start: {why}"))
            .advice("see `hyper2kvm doctor`")
    };
    std::fs::create_dir(scratch.file(STATE)).map_err(|error| failed(error.to_string()))?;
    let words = ["socket", "--tpm2", "--tpmstate", "dir=tpm,mode=0600", "--ctrl"];
    let mut spec = ChildSpec::new(&program, words);
    spec.args.extend([format!("type=unixio,path={SOCKET}"), "--terminate".to_owned()]);
    spec.directory = Some(scratch.path().to_owned());
    spec.limits = ChildLimits {
        memory_bytes: Some(MEMORY_BYTES),
        file_size_bytes: Some(FILE_BYTES),
        ..ChildLimits::default()
    };
    spec.sandbox = Some(Rules {
        write: vec![scratch.path().to_owned()],
        execute: program.parent().map(Path::to_owned).into_iter().collect(),
        required,
        ..Rules::default()
    });
    let child = launcher.start(&spec).map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + READY_WITHIN;
    while !scratch.file(SOCKET).exists() {
        control.checkpoint()?;
        if Instant::now() > deadline {
            return Err(failed("it does not listen".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}
