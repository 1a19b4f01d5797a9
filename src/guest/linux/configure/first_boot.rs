//! first-boot: scripts that run once, in their order, when the guest starts for the first time.
//!
//! A script waits in `pending/` and is moved to `done/` when it has succeeded, which is one step: whatever is cut off, it goes on with the
//! first that has not, and none that has runs again. One that fails ends the row, is told in the journal, and is tried again at the next
//! start. What is not here: guests that systemd does not start.

use super::services::{OWN_UNITS, check_systemd, wants_link};
use super::unfit;
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::linux::text::not_kept;
use crate::guest::tree::Tree;
use crate::model::error::Result;
use crate::model::setup::{FirstBoot as Wanted, NamedText};

const FIELD: &str = "configuration.firstboot";
const DIRECTORY: &str = "/var/lib/hyper2kvm/firstboot";
const TARGET: &str = "multi-user.target";
const PRIVATE: u32 = 0o700;
/// Tells our unit from one that the guest has under the same name.
const MARK: &str = "# Written by the migration to KVM.";
const RUNNER: &str = "\
#!/bin/sh
# Written by the migration to KVM. Runs each script in pending/ once, in the order of their names.
directory=/var/lib/hyper2kvm/firstboot
cd / || exit 1
for script in \"$directory\"/pending/*; do
    [ -f \"$script\" ] || continue
    name=${script##*/}
    echo \"first boot: $name\"
    \"$script\" </dev/null
    status=$?
    if [ \"$status\" -ne 0 ]; then
        echo \"first boot: $name ended with status $status; it is tried again at the next start\" >&2
        exit 1
    fi
    mv \"$script\" \"$directory/done/$name\" || exit 1
    sync
done
";

/// The repair.
#[derive(Debug)]
pub(in crate::guest::linux) struct FirstBoot;

impl Fix for FirstBoot {
    fn name(&self) -> &'static str {
        "first-boot"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        options.setup.first_boot.as_ref().map(|_| "scripts run once at the first start")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let Some(wanted) = &guest.options.setup.first_boot else { return Ok(()) };
        check_systemd(&guest.facts, FIELD)?;
        let tree = &mut guest.tree;
        let unit = format!("{OWN_UNITS}/{}", wanted.service);
        let is_taken =
            tree.exists(&unit)? && !tree.read(&unit)?.is_some_and(|text| text.starts_with(MARK.as_bytes()));
        if is_taken || is_shipped(tree, &wanted.service)? {
            return Err(unfit(
                &format!("{FIELD}.service_name"),
                format!("the guest has a `{}` of its own", wanted.service),
                "choose another name",
            ));
        }
        let detail = "scripts run once at the first start";
        for directory in ["", "/pending", "/done"] {
            tree.make_directory(&format!("{DIRECTORY}{directory}"), PRIVATE, detail)?;
        }
        for script in &wanted.scripts {
            if !is_done(tree, script)? {
                let path = pending(script);
                let detail = format!("{} runs once at the first start", script.name);
                tree.write_with_mode(&path, script.text.as_bytes(), PRIVATE, &detail)?;
                tree.set_access(&path, (0, 0), PRIVATE, &detail)?;
            }
        }
        tree.write_with_mode(&format!("{DIRECTORY}/run"), RUNNER.as_bytes(), PRIVATE, detail)?;
        tree.write(&unit, unit_text().as_bytes(), detail)?;
        tree.link(&unit, &wants_link(TARGET, &wanted.service), detail)
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let Some(wanted) = &guest.options.setup.first_boot else { return Ok(()) };
        let unit = format!("{OWN_UNITS}/{}", wanted.service);
        let link = wants_link(TARGET, &wanted.service);
        for (path, text) in [(&unit, unit_text()), (&format!("{DIRECTORY}/run"), RUNNER.to_owned())] {
            if guest.tree.read(path)?.as_deref() != Some(text.as_bytes()) {
                return Err(not_kept(path, "it says something else"));
            }
        }
        if guest.tree.link_target(&link)?.as_deref() != Some(unit.as_str()) {
            return Err(not_kept(&link, "it does not lead to the unit"));
        }
        check_scripts(guest, wanted)
    }
}

fn check_scripts(guest: &Guest<'_>, wanted: &Wanted) -> Result<()> {
    for script in &wanted.scripts {
        let path = pending(script);
        let mode = guest.tree.stat(&path)?.map(|stat| stat.mode & 0o777);
        let waits =
            mode == Some(PRIVATE) && guest.tree.read(&path)?.as_deref() == Some(script.text.as_bytes());
        if !waits && !is_done(&guest.tree, script)? {
            return Err(not_kept(&path, "it is not there as it was given"));
        }
    }
    Ok(())
}

fn pending(script: &NamedText) -> String {
    format!("{DIRECTORY}/pending/{}", script.name)
}

/// Whether the very script has run in this guest before.
fn is_done(tree: &Tree, script: &NamedText) -> Result<bool> {
    let ran = tree.read(&format!("{DIRECTORY}/done/{}", script.name))?;
    Ok(ran.as_deref() == Some(script.text.as_bytes()))
}

/// Whether a package has a unit of this name.
fn is_shipped(tree: &Tree, service: &str) -> Result<bool> {
    Ok(tree.exists(&format!("/usr/lib/systemd/system/{service}"))?
        || tree.exists(&format!("/lib/systemd/system/{service}"))?)
}

fn unit_text() -> String {
    format!(
        "{MARK} It does nothing once all scripts have succeeded.\n\
         [Unit]\n\
         Description=Scripts for the first start of this machine under KVM\n\
         ConditionDirectoryNotEmpty={DIRECTORY}/pending\n\
         Wants=network-online.target\n\
         After=network-online.target local-fs.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/bin/sh {DIRECTORY}/run\n\
         StandardOutput=journal\n\
         StandardError=journal\n\
         TimeoutStartSec=infinity\n\
         \n\
         [Install]\n\
         WantedBy={TARGET}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// The runner, on a directory of this machine.
    fn run(dir: &std::path::Path) -> bool {
        let runner = RUNNER.replace(DIRECTORY, dir.to_str().unwrap());
        Command::new("/bin/sh").arg("-c").arg(runner).output().unwrap().status.success()
    }

    fn script(dir: &std::path::Path, name: &str, text: &str) {
        let path = dir.join("pending").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(PRIVATE)).unwrap();
    }

    #[test]
    fn scripts_run_in_order_once_and_go_on_after_the_one_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("pending")).unwrap();
        fs::create_dir(dir.join("done")).unwrap();
        let log = dir.join("log");
        let say = |word: &str| format!("#!/bin/sh\necho {word} >>{}\n", log.display());
        script(dir, "01-a", &say("a"));
        script(dir, "02-b", &format!("{}[ -e {}/mended ]\n", say("b"), dir.display()));
        script(dir, "03-c", &say("c"));
        assert!(!run(dir), "the second fails");
        fs::write(dir.join("mended"), "").unwrap();
        assert!(run(dir));
        assert!(run(dir), "nothing is left to do");
        assert_eq!(fs::read_to_string(&log).unwrap(), "a\nb\nb\nc\n");
        let mut done: Vec<_> =
            fs::read_dir(dir.join("done")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        done.sort();
        assert_eq!(done, ["01-a", "02-b", "03-c"]);
    }
}
