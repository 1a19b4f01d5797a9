//! cloud-init: it is configured as the manifest says, and finds the seed that the manifest gives it.
//!
//! A seed is a new instance to cloud-init: that is what an administrator wants who gives one, so the instance that the guest knows is then
//! not held on to (see [`super::super::identity`]). What would hurt a machine that has run for years is still kept away from it: its SSH host keys
//! stay, and so does its network where the seed says nothing about it. What is not here: what a seed does.

use serde_json::{Map, Value, json};

use super::services::{OWN_UNITS, check_systemd, wants_link};
use super::unfit;
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::linux::identity;
use crate::guest::linux::text::not_kept;
use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};
use crate::model::setup::CloudInit as Wanted;

const FIELD: &str = "configuration.cloud_init";
const PROGRAM: &str = "/usr/bin/cloud-init";
/// Read behind every other file there, also behind the one in which installers say that there is no cloud.
const SEED_SETTINGS: &str = "/etc/cloud/cloud.cfg.d/99zz-hyper2kvm-seed.cfg";
const HEADER: &str = "# Written by the migration to KVM, from its manifest.\n";
const SECRET_MODE: u32 = 0o600;
const INSTALLER: &str = "hyper2kvm-cloud-init.service";
const TARGET: &str = "multi-user.target";
/// How each package manager is asked for it.
const PACKAGE_MANAGERS: [(&str, &[&str]); 5] = [
    ("apt", &["/usr/bin/apt-get update", "/usr/bin/apt-get --yes install cloud-init"]),
    ("dnf", &["/usr/bin/dnf --assumeyes install cloud-init"]),
    ("yum", &["/usr/bin/yum --assumeyes install cloud-init"]),
    ("tdnf", &["/usr/bin/tdnf --assumeyes install cloud-init"]),
    ("zypper", &["/usr/bin/zypper --non-interactive install cloud-init"]),
];

/// The repair.
#[derive(Debug)]
pub(in crate::guest::linux) struct CloudInit;

/// A file that the guest is to have.
struct Planned {
    path: String,
    text: String,
    mode: u32,
}

impl Fix for CloudInit {
    fn name(&self) -> &'static str {
        "cloud-init"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        options.setup.cloud_init.as_ref().map(|_| "cloud-init does what the manifest tells it")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let Some(wanted) = &guest.options.setup.cloud_init else { return Ok(()) };
        if guest.tree.exists(identity::OFF)? {
            return Err(unfit(
                FIELD,
                format!("cloud-init is switched off in the guest by {}", identity::OFF),
                "remove that file in the source machine, or remove `cloud_init` from the manifest",
            ));
        }
        if !is_installed(&guest.tree)? {
            install(guest, wanted)?;
        }
        for file in planned(&guest.tree, wanted)? {
            let detail = "cloud-init does what the manifest tells it";
            guest.tree.write_with_mode(&file.path, file.text.as_bytes(), file.mode, detail)?;
            guest.tree.set_access(&file.path, (0, 0), file.mode, detail)?;
        }
        if wanted.seed.is_some() {
            guest.tree.remove(identity::MARK, "cloud-init takes the seed for a new instance")?;
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let Some(wanted) = &guest.options.setup.cloud_init else { return Ok(()) };
        for file in planned(&guest.tree, wanted)? {
            if guest.tree.read(&file.path)?.as_deref() != Some(file.text.as_bytes()) {
                return Err(not_kept(&file.path, "it is not there, or says something else"));
            }
        }
        if wanted.seed.is_some() && guest.tree.exists(identity::MARK)? {
            return Err(not_kept(identity::MARK, "it keeps cloud-init from looking for the seed"));
        }
        Ok(())
    }
}

/// What cloud-init is told beside what it knows: what the manifest says counts over what we would say.
pub(in crate::guest::linux) fn drop_in(wanted: &Wanted, keeps_instance: bool) -> Result<String> {
    let mut map = Map::new();
    if keeps_instance {
        map.insert("manual_cache_clean".to_owned(), json!(true));
        map.insert("ssh_deletekeys".to_owned(), json!(false));
    }
    map.extend(wanted.drop_in.clone());
    yaml(map)
}

/// What has it find the seed, and leave alone what the seed does not speak of.
fn seed_settings(wanted: &Wanted, has_network: bool) -> Result<String> {
    let mut map = Map::new();
    map.insert("datasource_list".to_owned(), json!(["NoCloud", "None"]));
    map.insert("ssh_deletekeys".to_owned(), json!(false));
    map.insert("manual_cache_clean".to_owned(), json!(false));
    if !has_network {
        map.insert("network".to_owned(), json!({"config": "disabled"}));
    }
    map.retain(|key, _| !wanted.drop_in.contains_key(key));
    yaml(map)
}

fn yaml(map: Map<String, Value>) -> Result<String> {
    let text = serde_yaml::to_string(&Value::Object(map))
        .map_err(|error| Error::internal(format!("a map cannot be written as YAML: {error}")))?;
    Ok(format!("{HEADER}{text}"))
}

fn planned(tree: &Tree, wanted: &Wanted) -> Result<Vec<Planned>> {
    let mut files = Vec::new();
    let keeps_instance = wanted.seed.is_none() && identity::is_at_risk(tree)?;
    if keeps_instance || !wanted.drop_in.is_empty() || tree.exists(identity::PIN)? {
        let text = drop_in(wanted, keeps_instance)?;
        files.push(Planned { path: identity::PIN.to_owned(), text, mode: 0o644 });
    }
    let Some(seed) = &wanted.seed else { return Ok(files) };
    let settings = seed_settings(wanted, seed.network_config.is_some())?;
    files.push(Planned { path: SEED_SETTINGS.to_owned(), text: settings, mode: 0o644 });
    let texts = [
        ("user-data", Some(&seed.user_data)),
        ("meta-data", Some(&seed.meta_data)),
        ("network-config", seed.network_config.as_ref()),
    ];
    for (name, text) in texts {
        let Some(text) = text else { continue };
        files.push(Planned {
            path: format!("{}/{name}", seed.directory),
            text: text.clone(),
            mode: SECRET_MODE,
        });
    }
    Ok(files)
}

fn is_installed(tree: &Tree) -> Result<bool> {
    Ok(tree.exists(identity::CONFIGURATION)? || tree.exists(PROGRAM)?)
}

/// Has the guest install it when it starts, because nothing of the guest runs now.
fn install(guest: &mut Guest<'_>, wanted: &Wanted) -> Result<()> {
    if !wanted.install {
        return Err(unfit(
            FIELD,
            "the guest has no cloud-init",
            "install it in the source machine, or set `install_if_missing: true`: the guest then installs it at its first start",
        ));
    }
    let field = format!("{FIELD}.install_if_missing");
    check_systemd(&guest.facts, &field)?;
    let manager = guest.facts.identity.package_manager.as_deref().unwrap_or("none");
    let Some((_, commands)) = PACKAGE_MANAGERS.iter().find(|(name, _)| *name == manager) else {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the guest's package manager ({manager}) cannot be told to install cloud-init by itself"),
        )
        .field(field)
        .advice("install it in the source machine"));
    };
    let detail = "cloud-init is installed at the first start with a network, and does its work at the start after that";
    guest.warnings.push(detail.to_owned());
    let unit = format!("{OWN_UNITS}/{INSTALLER}");
    guest.tree.write(&unit, installer(commands).as_bytes(), detail)?;
    guest.tree.link(&unit, &wants_link(TARGET, INSTALLER), detail)
}

fn installer(commands: &[&str]) -> String {
    let starts: String = commands.iter().map(|command| format!("ExecStart={command}\n")).collect();
    format!(
        "# Written by the migration to KVM. It does nothing where cloud-init is there.\n\
         [Unit]\n\
         Description=Install cloud-init from this machine's package sources\n\
         ConditionPathExists=!{PROGRAM}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         Environment=DEBIAN_FRONTEND=noninteractive\n\
         {starts}\
         TimeoutStartSec=30min\n\
         \n\
         [Install]\n\
         WantedBy={TARGET}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        assert!(text.starts_with("# "), "{text}");
        serde_yaml::from_str(text).unwrap()
    }

    fn wanted(drop_in: Value) -> Wanted {
        let Value::Object(drop_in) = drop_in else { panic!("a map") };
        Wanted { drop_in, ..Wanted::default() }
    }

    #[test]
    fn what_the_manifest_says_stands_beside_what_keeps_the_instance() {
        let wanted = wanted(json!({"timezone": "Europe/Berlin", "ssh_deletekeys": true}));
        assert_eq!(
            parsed(&drop_in(&wanted, true).unwrap()),
            json!({"manual_cache_clean": true, "ssh_deletekeys": true, "timezone": "Europe/Berlin"})
        );
        assert_eq!(
            parsed(&drop_in(&wanted, false).unwrap()),
            json!({"timezone": "Europe/Berlin", "ssh_deletekeys": true})
        );
    }

    #[test]
    fn a_seed_without_a_network_leaves_the_guests_network_alone() {
        let settings = |has_network| parsed(&seed_settings(&Wanted::default(), has_network).unwrap());
        assert_eq!(settings(false)["network"], json!({"config": "disabled"}));
        assert_eq!(settings(true).get("network"), None);
        assert_eq!(settings(true)["datasource_list"], json!(["NoCloud", "None"]));
        assert_eq!(settings(true)["ssh_deletekeys"], json!(false));
        let own = wanted(json!({"network": {"config": "x"}, "datasource_list": ["NoCloud"]}));
        let text = seed_settings(&own, false).unwrap();
        assert!(!text.contains("network") && !text.contains("datasource_list"), "{text}");
    }

    #[test]
    fn it_is_installed_by_the_guests_own_package_manager() {
        let text = installer(PACKAGE_MANAGERS[0].1);
        assert!(text.contains(
            "ExecStart=/usr/bin/apt-get update\nExecStart=/usr/bin/apt-get --yes install cloud-init\n"
        ));
        assert!(text.contains("ConditionPathExists=!/usr/bin/cloud-init\n"));
    }
}
