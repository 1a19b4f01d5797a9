//! Programs of other projects: where they are and what version they say they are.

use std::path::PathBuf;

use super::{Check, Health};
use crate::sys::process::{ChildLimits, ChildSpec, Launcher, find_program};

/// A program tells its version within this time or hangs.
const VERSION_WITHIN_S: f64 = 10.0;

/// What a program says when it is asked for its version.
pub(super) fn ask(program: PathBuf, arguments: &[&str]) -> Result<String, String> {
    let spec = ChildSpec {
        limits: ChildLimits { wall_s: Some(VERSION_WITHIN_S), ..ChildLimits::default() },
        ..ChildSpec::new(program, arguments.iter().copied())
    };
    let output = Launcher::this_program().run_short(&spec, &mut |_| {}).map_err(|error| error.to_string())?;
    // `ssh -V` speaks on standard error.
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), output.complaint());
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{}: {}", output.ending(), said.lines().next().unwrap_or_default())),
    }
}

/// A check of a program that is fine when it tells its version.
pub(super) fn check(name: &'static str, candidates: &[&str], arguments: &[&str], package: &str) -> Check {
    let Some(program) = candidates.iter().find_map(|candidate| find_program(candidate)) else {
        return Check::new(name, Health::Missing, "not found").advice(package);
    };
    let place = program.display().to_string();
    match ask(program, arguments) {
        Ok(said) => Check::new(name, Health::Ok, place).version(version_in(&said)),
        Err(why) => Check::new(name, Health::Broken, format!("{place}: {why}"))
            .advice(format!("reinstall it: {package}")),
    }
}

/// The first thing in a text that looks like a version.
pub(super) fn version_in(text: &str) -> Option<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
        .map(|word| word.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches('.'))
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("qemu-img version 10.0.2 (Debian 1:10.0.2+ds-2)", "10.0.2"),
            ("OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17", "9.2p1"),
            ("virt-v2v 2.2.0", "2.2.0"),
            ("TPM emulator version 0.7.3, Copyright (c) 2014", "0.7.3"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version));
        }
        assert_eq!(version_in("no idea"), None);
    }
}
