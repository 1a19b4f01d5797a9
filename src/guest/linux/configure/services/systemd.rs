//! Services of a guest with systemd, as `systemctl --root` would enable, disable and mask them.
//!
//! A service is enabled by links that its own section `[Install]` names, and disabled by removing every link that leads to it. What is
//! not here: services that only a script of System V describes; systemd makes units of these while it runs.

use std::collections::BTreeSet;

use super::install::{Install, is_unit, template};
use super::{FIELD, OWN_UNITS, wants_link};
use crate::guest::fix::Guest;
use crate::guest::linux::configure::{unfit, unknown};
use crate::guest::linux::text::{self, not_kept, short};
use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};
use crate::model::setup::Services;

/// Where units lie; the first that has one counts.
const DIRECTORIES: [&str; 4] =
    [OWN_UNITS, "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
const KINDS: [&str; 3] = [".wants", ".requires", ".upholds"];
const NOWHERE: &str = "/dev/null";
/// Units that go with others, and with these; a circle ends here.
const MOST_UNITS: usize = 64;
const AVAILABLE: &str = "`systemctl list-unit-files` in the source machine shows what there is";

/// A unit that is there.
struct Unit {
    name: String,
    path: String,
    install: Install,
}

/// Makes all the changes.
pub(super) fn apply(guest: &mut Guest<'_>, wanted: &Services) -> Result<()> {
    for name in &wanted.enable {
        for unit in with_companions(&guest.tree, name, "enable")? {
            enable(guest, &unit)?;
        }
    }
    for name in &wanted.disable {
        for unit in with_companions(&guest.tree, name, "disable")? {
            let detail = format!("{} does not start by itself", unit.name);
            for link in links_to(&guest.tree, &unit)? {
                guest.tree.remove(&link, &detail)?;
            }
        }
    }
    for name in &wanted.mask {
        mask(&mut guest.tree, name)?;
    }
    Ok(())
}

/// Reads the links again.
pub(super) fn verify(guest: &Guest<'_>, wanted: &Services) -> Result<()> {
    let tree = &guest.tree;
    for name in &wanted.enable {
        for unit in with_companions(tree, name, "enable")? {
            for link in links_of(&unit) {
                if tree.link_target(&link)?.is_none() {
                    return Err(not_kept(&link, "the service is not enabled"));
                }
            }
        }
    }
    for name in &wanted.disable {
        for unit in with_companions(tree, name, "disable")? {
            if let Some(link) = links_to(tree, &unit)?.first() {
                return Err(not_kept(link, "the service is still enabled"));
            }
        }
    }
    for name in &wanted.mask {
        let link = format!("{OWN_UNITS}/{name}");
        if tree.link_target(&link)?.as_deref() != Some(NOWHERE) {
            return Err(not_kept(&link, "the service is not masked"));
        }
    }
    Ok(())
}

fn enable(guest: &mut Guest<'_>, unit: &Unit) -> Result<()> {
    let detail = format!("{} starts with the guest", unit.name);
    if unit.install.says_nothing() {
        guest.warnings.push(format!(
            "{} has no section [Install]: it cannot be enabled, and starts when something else needs it",
            unit.name
        ));
    }
    for link in links_of(unit) {
        let is_alias = !KINDS.iter().any(|kind| link.contains(&format!("{kind}/")));
        let leads = guest.tree.link_target(&link)?;
        let is_other = leads.as_deref().is_some_and(|target| base(target) != base(&unit.path));
        let is_file = leads.is_none() && guest.tree.exists(&link)?;
        if is_alias && (is_other || is_file) {
            let other = leads.unwrap_or_else(|| link.clone());
            return Err(unfit(
                &format!("{FIELD}.enable"),
                format!(
                    "{} would also be called {}, and {} is called so",
                    unit.name,
                    base(&link),
                    short(&other)
                ),
                "disable that one first: name it under `disable`",
            ));
        }
        // One that leads there by another path is as good.
        if leads.is_none() || is_other {
            guest.tree.link(&unit.path, &link, &detail)?;
        }
    }
    Ok(())
}

fn mask(tree: &mut Tree, name: &str) -> Result<()> {
    let link = format!("{OWN_UNITS}/{name}");
    if tree.link_target(&link)?.as_deref() == Some(NOWHERE) {
        return Ok(());
    }
    if tree.link_target(&link)?.is_none() && tree.exists(&link)? {
        return Err(unfit(
            &format!("{FIELD}.mask"),
            format!("{link} is the unit itself, and a mask would replace it"),
            "disable it instead, or remove that file in the source machine",
        ));
    }
    find(tree, name, "mask")?;
    tree.link(NOWHERE, &link, &format!("{name} never starts"))
}

/// A unit, and those that its section says go with it.
fn with_companions(tree: &Tree, name: &str, verb: &str) -> Result<Vec<Unit>> {
    let mut units: Vec<Unit> = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut names = vec![name.to_owned()];
    while let Some(name) = names.pop() {
        if units.len() >= MOST_UNITS || !seen.insert(name.clone()) {
            continue;
        }
        let unit = match find(tree, &name, verb) {
            Ok(unit) => unit,
            // What goes along may be in a package that is not installed.
            Err(error) if units.is_empty() || error.kind() != Kind::Guest => return Err(error),
            Err(_) => continue,
        };
        names.extend(unit.install.also.iter().cloned());
        units.push(unit);
    }
    Ok(units)
}

fn find(tree: &Tree, name: &str, verb: &str) -> Result<Unit> {
    let field = format!("{FIELD}.{verb}");
    let of_template = template(name);
    let instance =
        of_template.as_ref().map(|(_, instance)| *instance).filter(|instance| !instance.is_empty());
    let candidates = [Some(name), of_template.as_ref().map(|(template, _)| template.as_str())];
    for candidate in candidates.into_iter().flatten() {
        for directory in DIRECTORIES {
            let path = format!("{directory}/{candidate}");
            if let Some(target) = tree.link_target(&path)? {
                if target == NOWHERE && verb != "mask" {
                    return Err(unfit(
                        &field,
                        format!("{name} is masked in the guest"),
                        "`systemctl unmask` it in the source machine, or leave it out",
                    ));
                }
                // Another name of a unit: that one is meant.
                let real = base(&target);
                if real != candidate && is_unit(real) && verb != "mask" {
                    return by_real_name(tree, real, &field, name);
                }
            }
            if let Some(text) = text::read(tree, &path)? {
                return Ok(unit(name, path, &text, instance));
            }
        }
    }
    if tree.exists(&format!("/etc/init.d/{}", name.trim_end_matches(".service")))? {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{name} is a script of System V, and only its own tools know its order"),
        )
        .field(field)
        .advice("leave it out, and have a first-boot script run `systemctl enable` for it"));
    }
    let known = names(tree)?;
    Err(unknown(&field, "unit", name, known.iter().map(String::as_str), AVAILABLE))
}

/// The unit behind an alias; an alias of an alias is not followed.
fn by_real_name(tree: &Tree, real: &str, field: &str, asked: &str) -> Result<Unit> {
    for directory in DIRECTORIES {
        let path = format!("{directory}/{real}");
        if tree.link_target(&path)?.is_none()
            && let Some(text) = text::read(tree, &path)?
        {
            return Ok(unit(real, path, &text, None));
        }
    }
    Err(unfit(field, format!("{asked} leads to {}, which is not there", short(real)), AVAILABLE))
}

fn unit(name: &str, path: String, text: &str, instance: Option<&str>) -> Unit {
    let install = Install::of(text, instance);
    // A template by itself is enabled as its default instance.
    let name = match (&install.default_instance, name.split_once("@.")) {
        (Some(default), Some((stem, end))) => format!("{stem}@{default}.{end}"),
        _ => name.to_owned(),
    };
    Unit { name, path, install }
}

/// The links that enable a unit.
fn links_of(unit: &Unit) -> Vec<String> {
    let by = unit.install.by.iter().map(|(kind, of)| match *kind {
        "wants" => wants_link(of, &unit.name),
        kind => format!("{OWN_UNITS}/{of}.{kind}/{}", unit.name),
    });
    let end = unit.name.rsplit_once('.').map_or("", |(_, end)| end);
    let same_kind =
        |alias: &&String| alias.rsplit_once('.').is_some_and(|(_, of)| of == end) && **alias != unit.name;
    let aliases = unit.install.aliases.iter().filter(same_kind).map(|alias| format!("{OWN_UNITS}/{alias}"));
    by.chain(aliases).collect()
}

/// All links that start a unit, by whatever name.
fn links_to(tree: &Tree, unit: &Unit) -> Result<Vec<String>> {
    let mut links = Vec::new();
    let file = base(&unit.path);
    for entry in tree.list(OWN_UNITS)? {
        let path = format!("{OWN_UNITS}/{entry}");
        if KINDS.iter().any(|kind| entry.ends_with(kind)) {
            for name in tree.list(&path)? {
                let link = format!("{path}/{name}");
                // An instance of a template is its own unit, though its link leads to the template.
                let by_target = || -> Result<bool> {
                    let target = tree.link_target(&link)?;
                    Ok(target.is_some_and(|target| base(&target) == file) && template(&name).is_none())
                };
                if name == unit.name || by_target()? {
                    links.push(link);
                }
            }
        } else if entry != unit.name
            && entry != file
            && tree.link_target(&path)?.is_some_and(|target| base(&target) == file)
        {
            links.push(path);
        }
    }
    Ok(links)
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn names(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for directory in DIRECTORIES {
        names.extend(tree.list(directory)?.into_iter().filter(|name| is_unit(name)));
    }
    Ok(names)
}
