//! What libvirt will be told: whether its schema takes it, and whether its QEMU gets to the files that it names.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Scene, Validator};
use crate::libvirt::xml::{NAME_BYTES, domain_name, domain_xml, has_agent_socket};
use crate::model::error::{Error, Kind};
use crate::model::machine::Machine;
use crate::model::plan::Plan;
use crate::model::validation::Findings;
use crate::sys::process::{ChildLimits, ChildSpec, Launcher, find_program};

/// Installed with libvirt's library.
const SCHEMA: &str = "/usr/share/libvirt/schemas/domain.rng";
/// What holds a text against a schema.
const CHECKER: &str = "xmllint";
/// It takes a tenth of a second.
const WITHIN_S: f64 = 10.0;
/// Somebody else may go through a directory.
const OTHERS_PASS: u32 = 0o001;

pub(super) struct Domain;

impl Validator for Domain {
    fn name(&self) -> &'static str {
        "domain"
    }

    fn applies(&self, scene: &Scene<'_>) -> bool {
        scene.looks_at_metadata() && scene.plan.output.domain
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        let Some(machine) = planned(scene.plan) else { return };
        let taken = domain_name(&machine.name);
        if taken != machine.name {
            findings.add(
                "domain.name",
                Some("name"),
                Error::new(
                    Kind::Libvirt,
                    format!("libvirt does not take this name: the machine is called `{taken}`"),
                )
                .advice(format!("give a `name` of one line, of at most {NAME_BYTES} bytes, without a slash")),
            );
        }
        if !has_agent_socket(&machine.name) {
            findings.add(
                "domain.name",
                Some("name"),
                Error::new(
                    Kind::Libvirt,
                    "this name leaves no room for the guest agent's socket: the machine has none",
                )
                .advice("give a `name` whose first 20 characters are at most 33 bytes long"),
            );
        }
        if let Some(why) = objection(scene.launcher, &domain_xml(&machine)) {
            findings.add(
                "domain.schema",
                None,
                Error::new(Kind::Libvirt, format!("libvirt's schema has something against it: {why}"))
                    .advice("see which value of `vm` or `nics` it is about"),
            );
        }
        if let Some(directory) = closed(&scene.plan.output.directory) {
            findings.add(
                "domain.reach",
                None,
                Error::new(
                    Kind::Output,
                    format!(
                        "{} lets nobody else through, so libvirt's QEMU may not get to the results",
                        directory.display()
                    ),
                )
                .output(&directory)
                .advice(format!(
                    "`chmod o+x {}`, or move the results to where libvirt keeps images",
                    directory.display()
                )),
            );
        }
    }
}

/// The machine as the plan knows it, around the results.
fn planned(plan: &Plan) -> Option<Machine> {
    let mut machine = plan.machine.clone()?;
    for (disk, planned) in machine.disks.iter_mut().zip(&plan.disks) {
        disk.path = plan.result_path(planned);
    }
    Some(machine)
}

/// What the schema has against a text; nothing where there is nobody to ask.
fn objection(launcher: &Launcher, xml: &str) -> Option<String> {
    let checker = find_program(CHECKER).filter(|_| Path::new(SCHEMA).is_file())?;
    let spec = ChildSpec {
        input: xml.to_owned(),
        limits: ChildLimits { wall_s: Some(WITHIN_S), ..ChildLimits::default() },
        ..ChildSpec::new(checker, ["--nonet", "--noout", "--relaxng", SCHEMA, "-"])
    };
    let output = launcher.run_short(&spec, &mut |_| {}).ok()?;
    // 3 and 4: it is not valid; everything else is the checker's own trouble.
    let is_told = matches!(output.status.code(), Some(3 | 4));
    let complaint = output.complaint();
    is_told.then(|| complaint.lines().next().unwrap_or("it does not say what").to_owned())
}

/// The first directory on the way that others may not go through.
fn closed(directory: &Path) -> Option<PathBuf> {
    let mut on_the_way: Vec<&Path> = directory.ancestors().collect();
    on_the_way.reverse();
    on_the_way
        .into_iter()
        .find(|path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & OTHERS_PASS == 0))
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_schema_does_not_know_is_told_and_what_is_written_is_not() {
        // The tests' own binary is no stub: the checker is asked by itself.
        let program = find_program(CHECKER).unwrap();
        let ask = |xml: &str| {
            use std::io::Write;
            let mut child = std::process::Command::new(&program)
                .args(["--nonet", "--noout", "--relaxng", SCHEMA, "-"])
                .stdin(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
            child.wait().unwrap().code()
        };
        assert_eq!(ask(&domain_xml(&Machine::new("web"))), Some(0));
        let code = ask("<domain type='kvm'><name>web</name><nonsense/></domain>");
        assert!(matches!(code, Some(3 | 4)), "{code:?}");
    }

    #[test]
    fn the_first_directory_that_is_closed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let closed_one = dir.path().join("a");
        std::fs::create_dir_all(closed_one.join("b")).unwrap();
        assert_eq!(closed(&closed_one.join("b/not-yet")), None);
        std::fs::set_permissions(&closed_one, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(closed(&closed_one.join("b")), Some(closed_one));
    }
}
