//! tools: what VMware, VirtualBox, Xen, Parallels and Hyper-V put into a guest is switched off, and what no package owns is removed.
//!
//! Nothing of the guest is run. A package stays installed: to take its files away and its record out of the package manager's database
//! by hand is to guess what its scripts would have done, and to leave a database that the next upgrade may stumble over. Its services are
//! masked instead, which every administrator can see and undo, and the report says how to remove it. Modules are left too: the kernel's
//! own always, those of an archive because `modules.dep` names them and nothing loads them here. What is not here: agents of clouds, of
//! which a person is only told.

mod known;
mod texts;

use super::text::{self, Rewritten, not_kept, short};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::InitSystem;
use known::{ARCHIVES, CLOUD_AGENTS, TOOLS};

const MASKED: &str = "/dev/null";
const OWN_UNITS: &str = "/etc/systemd/system";
const UNITS: [&str; 3] = ["/usr/lib/systemd/system", "/lib/systemd/system", OWN_UNITS];
const SCRIPTS: [&str; 2] = ["/etc/init.d", "/etc/rc.d/init.d"];
/// Links that start a script.
const STARTS: [&str; 3] = ["/etc/rc[0-6S].d/S*", "/etc/rc.d/rc[0-6S].d/S*", "/etc/runlevels/*/*"];
/// What loads modules by name.
const MODULE_LISTS: [&str; 2] = ["/etc/modules", "/etc/modules-load.d/*.conf"];
const SCREEN_FILES: [&str; 2] = ["/etc/X11/xorg.conf", "/etc/X11/xorg.conf.d/*.conf"];
/// More than any guest has of one pattern.
const MOST_PATHS: usize = 512;

/// The repair.
#[derive(Debug)]
pub struct GuestTools;

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    /// A unit is masked.
    Mask { unit: String, tools: &'static str },
    /// A file, a link or a tree goes.
    Remove { path: String, tools: &'static str },
}

/// What is to be done, and of which packages a person is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    acts: Vec<Act>,
    packages: Vec<(&'static str, &'static str)>,
    clouds: Vec<&'static str>,
}

/// What a guest has of all that may be meant.
#[derive(Debug, Default)]
struct Found {
    systemd: bool,
    /// Paths of units and scripts.
    units: Vec<String>,
    scripts: Vec<String>,
    /// Units that are masked.
    masked: Vec<String>,
    /// Paths of links that start scripts.
    starts: Vec<String>,
    /// What an archive left, by its name.
    leftovers: Vec<(&'static str, String)>,
}

impl Fix for GuestTools {
    fn name(&self) -> &'static str {
        "guest-tools"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        options.remove_tools.then_some("tools of the old hypervisor are switched off")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let work = decide(&find(guest)?);
        for act in &work.acts {
            match act {
                Act::Mask { unit, tools } => {
                    let path = format!("{OWN_UNITS}/{unit}");
                    if guest.tree.link_target(&path)?.is_none() {
                        guest.tree.remove(&path, &format!("a unit of {tools}"))?;
                    }
                    guest.tree.link(MASKED, &path, &format!("{tools} is switched off"))?;
                }
                Act::Remove { path, tools } => {
                    let detail = format!("left by {tools}");
                    // A link to a directory is a link.
                    if guest.tree.link_target(path)?.is_none() && guest.tree.is_directory(path)? {
                        guest.tree.remove_tree(path, &detail)?;
                    } else {
                        guest.tree.remove(path, &detail)?;
                    }
                }
            }
        }
        for (tools, package) in &work.packages {
            guest.warnings.push(format!(
                "{tools} is switched off and stays installed; remove the package {package} with the guest's package manager"
            ));
        }
        for agent in &work.clouds {
            guest
                .warnings
                .push(format!("{agent} is installed and was left as it is: see whether it is still wanted"));
        }
        for (path, repair) in configuration(&guest.tree)? {
            text::edit(&mut guest.tree, &mut guest.warnings, &path, repair)?;
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        match decide(&find(guest)?).acts.first() {
            Some(Act::Mask { unit, .. }) => return Err(not_kept(unit, "it is not masked")),
            Some(Act::Remove { path, .. }) => return Err(not_kept(path, "it is still there")),
            None => {}
        }
        for (path, repair) in configuration(&guest.tree)? {
            text::is_settled(&guest.tree, &guest.warnings, &path, repair)?;
        }
        Ok(())
    }
}

type Repair = fn(&str) -> Rewritten;

fn configuration(tree: &Tree) -> Result<Vec<(String, Repair)>> {
    let mut files: Vec<(String, Repair)> = Vec::new();
    for pattern in MODULE_LISTS {
        files.extend(glob(tree, pattern)?.into_iter().map(|path| (path, texts::modules as Repair)));
    }
    for pattern in SCREEN_FILES {
        files.extend(glob(tree, pattern)?.into_iter().map(|path| (path, texts::screen as Repair)));
    }
    Ok(files)
}

fn glob(tree: &Tree, pattern: &str) -> Result<Vec<String>> {
    let mut paths = tree.appliance().glob(pattern).map_err(|why| {
        Error::new(Kind::Guest, format!("cannot look for {pattern} in the guest: {}", short(&why)))
            .advice("check the guest's file systems in the source machine, then try again")
    })?;
    paths.truncate(MOST_PATHS);
    // The library marks directories, and links to them, by a slash behind which a link would be followed.
    for path in &mut paths {
        path.truncate(path.trim_end_matches('/').len());
    }
    Ok(paths)
}

fn find(guest: &Guest<'_>) -> Result<Found> {
    let tree = &guest.tree;
    let mut found = Found {
        systemd: guest.facts.identity.init_system == InitSystem::Systemd
            || tree.exists("/usr/lib/systemd/systemd")?
            || tree.exists("/lib/systemd/systemd")?,
        ..Found::default()
    };
    let list = |directory: &str| -> Result<Vec<String>> {
        Ok(tree.list(directory)?.into_iter().map(|name| format!("{directory}/{name}")).collect())
    };
    for directory in UNITS {
        found.units.extend(list(directory)?);
    }
    for directory in SCRIPTS {
        found.scripts.extend(list(directory)?);
    }
    for unit in TOOLS.iter().flat_map(|tools| tools.services).map(|service| unit_of(service)) {
        let path = format!("{OWN_UNITS}/{unit}");
        if found.units.contains(&path) && tree.link_target(&path)?.as_deref() == Some(MASKED) {
            found.masked.push(unit);
        }
    }
    for pattern in STARTS {
        found.starts.extend(glob(tree, pattern)?);
    }
    for archive in &ARCHIVES {
        let of_package = |unit: &&'static str| {
            [UNITS[0], UNITS[1]].iter().any(|directory| found.units.contains(&format!("{directory}/{unit}")))
        };
        if archive.unless.iter().any(of_package) || glob(tree, archive.sign)?.is_empty() {
            continue;
        }
        for pattern in archive.leftovers {
            found.leftovers.extend(glob(tree, pattern)?.into_iter().map(|path| (archive.name, path)));
        }
    }
    Ok(found)
}

/// The unit of a service; a mount is one by another ending.
fn unit_of(service: &str) -> String {
    if service.starts_with("run-") { format!("{service}.mount") } else { format!("{service}.service") }
}

/// The script that a link starts: `S20open-vm-tools`, or in OpenRC `open-vm-tools`.
fn started_by(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.strip_prefix('S') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
        }
        _ => name,
    }
}

fn decide(found: &Found) -> Work {
    let mut work = Work::default();
    let stays = |directories: &[&str], paths: &[String], name: &str| {
        directories
            .iter()
            .map(|directory| format!("{directory}/{name}"))
            .any(|path| paths.contains(&path) && !found.leftovers.iter().any(|(_, left)| *left == path))
    };
    for tools in &TOOLS {
        let mut is_there = false;
        for service in tools.services {
            let unit = unit_of(service);
            let has_unit = stays(&UNITS, &found.units, &unit);
            let has_script = stays(&SCRIPTS, &found.scripts, service);
            is_there |= has_unit || has_script;
            if found.systemd && (has_unit || has_script) && !found.masked.contains(&unit) {
                work.acts.push(Act::Mask { unit, tools: tools.name });
            }
            let starts = found.starts.iter().filter(|path| started_by(path) == *service);
            work.acts.extend(starts.map(|path| Act::Remove { path: path.clone(), tools: tools.name }));
        }
        if let Some(package) = tools.package.filter(|_| is_there) {
            work.packages.push((tools.name, package));
        }
    }
    let leftovers = found.leftovers.iter().map(|(tools, path)| Act::Remove { path: path.clone(), tools });
    work.acts.splice(0..0, leftovers);
    for (service, agent) in CLOUD_AGENTS {
        if stays(&UNITS, &found.units, &unit_of(service)) && !work.clouds.contains(&agent) {
            work.clouds.push(agent);
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn told(found: &Found) -> Vec<String> {
        decide(found)
            .acts
            .into_iter()
            .map(|act| match act {
                Act::Mask { unit, .. } => format!("mask {unit}"),
                Act::Remove { path, .. } => format!("remove {path}"),
            })
            .collect()
    }

    #[test]
    fn the_services_of_a_package_are_masked_and_the_package_is_told() {
        let found = Found {
            systemd: true,
            units: names(&[
                "/lib/systemd/system/open-vm-tools.service",
                "/lib/systemd/system/vgauth.service",
                "/lib/systemd/system/run-vmblock\\x2dfuse.mount",
                "/lib/systemd/system/ssh.service",
            ]),
            scripts: names(&["/etc/init.d/open-vm-tools", "/etc/init.d/ssh"]),
            starts: names(&["/etc/rc3.d/S20open-vm-tools", "/etc/rc3.d/S01ssh"]),
            ..Found::default()
        };
        assert_eq!(
            told(&found),
            [
                "mask open-vm-tools.service",
                "remove /etc/rc3.d/S20open-vm-tools",
                "mask vgauth.service",
                "mask run-vmblock\\x2dfuse.mount"
            ]
        );
        assert_eq!(decide(&found).packages, [("open-vm-tools", "open-vm-tools")]);
    }

    #[test]
    fn what_is_masked_is_not_masked_again() {
        let found = Found {
            systemd: true,
            units: names(&[
                "/lib/systemd/system/open-vm-tools.service",
                "/etc/systemd/system/open-vm-tools.service",
            ]),
            masked: names(&["open-vm-tools.service"]),
            ..Found::default()
        };
        assert_eq!(told(&found), [""; 0]);
    }

    #[test]
    fn without_systemd_links_that_start_it_go_and_nothing_is_masked() {
        let found = Found {
            scripts: names(&["/etc/init.d/open-vm-tools"]),
            starts: names(&["/etc/runlevels/default/open-vm-tools", "/etc/runlevels/default/sshd"]),
            ..Found::default()
        };
        assert_eq!(told(&found), ["remove /etc/runlevels/default/open-vm-tools"]);
    }

    #[test]
    fn a_service_that_goes_with_its_archive_is_not_masked() {
        let unit = "/etc/systemd/system/vmware-tools.service";
        let found = Found {
            systemd: true,
            units: names(&[unit]),
            leftovers: vec![("VMware Tools", unit.to_owned())],
            ..Found::default()
        };
        assert_eq!(told(&found), [format!("remove {unit}")]);
    }

    #[test]
    fn what_an_archive_left_goes_and_its_sign_goes_last() {
        for archive in &ARCHIVES {
            let last = archive.leftovers.last().copied().unwrap_or_default();
            assert!(archive.sign.starts_with(last), "{}", archive.name);
        }
    }

    #[test]
    fn an_agent_of_a_cloud_is_told_of_and_left() {
        let units = ["/lib/systemd/system/walinuxagent.service", "/lib/systemd/system/waagent.service"];
        let found = Found { systemd: true, units: names(&units), ..Found::default() };
        let work = decide(&found);
        assert!(work.acts.is_empty());
        assert_eq!(work.clouds, ["Azure's agent"]);
    }

    #[test]
    fn the_drivers_of_the_kernel_are_in_no_table() {
        for driver in ["vmxnet3", "vmw_pvscsi", "vmwgfx", "hv_storvsc", "hv_netvsc", "xen_blkfront", "mptspi"]
        {
            assert!(!known::MODULES.contains(&driver), "{driver}");
        }
    }
}
