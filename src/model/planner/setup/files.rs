//! `configuration.{services, firstboot, network}`: names of units, scripts, and files for the network.
//!
//! What is not here: whether a guest has these services or reads these files.

use super::{refused, words};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Line;
use crate::model::manifest::{
    FirstBoot as WantedFirstBoot, NetworkFileType, NetworkFiles, Services as WantedServices,
};
use crate::model::parse::Tree;
use crate::model::setup::{FirstBoot, NamedText, Services};

const FIRST_BOOT_SERVICE: &str = "hyper2kvm-firstboot.service";
const DEFAULT_ORDER: i64 = 50;
const DEFAULT_PRIORITY: i64 = 50;
/// More scripts than this are one script.
const MOST_SCRIPTS: usize = 100;

/// What starts and what does not.
pub(super) fn services(tree: &Tree, wanted: &WantedServices) -> Result<Services> {
    let mut services = Services::default();
    let mut seen = std::collections::BTreeSet::new();
    for (key, names, to) in [
        ("enable", &wanted.enable, &mut services.enable),
        ("disable", &wanted.disable, &mut services.disable),
        ("mask", &wanted.mask, &mut services.mask),
    ] {
        for (index, name) in names.iter().flatten().enumerate() {
            let field = format!("configuration.services.{key}[{index}]");
            let unit = words::unit(tree, &field, name.as_str())?;
            if !seen.insert(unit.clone()) {
                return Err(tree
                    .error(Kind::Manifest, &field, format!("`{unit}` is named twice"))
                    .advice("say once what becomes of a service; one that is masked needs no `disable`"));
            }
            to.push(unit);
        }
    }
    Ok(services)
}

/// What runs once.
pub(super) fn first_boot(tree: &Tree, wanted: &WantedFirstBoot) -> Result<Option<FirstBoot>> {
    const FIELD: &str = "configuration.firstboot";
    let service = match &wanted.service_name {
        None => FIRST_BOOT_SERVICE.to_owned(),
        Some(name) => {
            let field = format!("{FIELD}.service_name");
            let unit = words::unit(tree, &field, name.as_str())?;
            if !unit.ends_with(".service") || unit.contains(['@', '\\']) {
                return Err(refused(
                    tree,
                    &field,
                    format!("`{unit}` cannot be the name of this service"),
                    "a plain name that ends in `.service`",
                    "leave it out, or choose one such as site-setup.service",
                ));
            }
            unit
        }
    };
    let mut scripts: Vec<(i64, NamedText)> = Vec::new();
    match (&wanted.script, &wanted.scripts) {
        (Some(_), Some(_)) => {
            return Err(tree
                .error(Kind::Manifest, &format!("{FIELD}.scripts"), "`script` is given too")
                .advice("keep one of them"));
        }
        (Some(script), None) => {
            let text = content(tree, &format!("{FIELD}.script"), script)?;
            scripts.push((DEFAULT_ORDER, NamedText { name: "script".to_owned(), text }));
        }
        (None, list) => {
            for (index, script) in list.iter().flatten().enumerate() {
                let field = |key: &str| format!("{FIELD}.scripts[{index}].{key}");
                let name = words::file(tree, &field("name"), script.name.as_str())?;
                let text = content(tree, &field("content"), &script.content)?;
                let order = script.order.map_or(DEFAULT_ORDER, |order| order.get());
                if scripts.iter().any(|(_, known)| known.name == name) {
                    return Err(twice(tree, &field("name"), &name));
                }
                scripts.push((order, NamedText { name, text }));
            }
        }
    }
    if scripts.len() > MOST_SCRIPTS {
        return Err(refused(
            tree,
            &format!("{FIELD}.scripts"),
            format!("these are {} scripts", scripts.len()),
            "at most 100",
            "join some of them",
        ));
    }
    // Those of one order run as they are listed.
    scripts.sort_by_key(|(order, _)| *order);
    let number = |(index, (_, script)): (usize, (i64, NamedText))| NamedText {
        name: format!("{:02}-{}", index + 1, script.name),
        text: script.text,
    };
    let scripts: Vec<NamedText> = scripts.into_iter().enumerate().map(number).collect();
    Ok((!scripts.is_empty()).then_some(FirstBoot { service, scripts }))
}

/// Files of systemd-networkd.
pub(super) fn networkd(tree: &Tree, wanted: &NetworkFiles) -> Result<Vec<NamedText>> {
    let mut files: Vec<NamedText> = Vec::new();
    for (index, file) in wanted.network_files.iter().flatten().enumerate() {
        let field = |key: &str| format!("configuration.network.network_files[{index}].{key}");
        let (end, section) = match file.file_type.unwrap_or(NetworkFileType::Network) {
            NetworkFileType::Network => ("network", "[Match]"),
            NetworkFileType::Netdev => ("netdev", "[NetDev]"),
        };
        let stem = stem(tree, &field("name"), &file.name, end)?;
        let priority = file.priority.map_or(DEFAULT_PRIORITY, |priority| priority.get());
        let text = with_section(tree, &field("content"), &file.content, section)?;
        let name = format!("{priority:02}-{stem}.{end}");
        if files.iter().any(|known| known.name == name) {
            return Err(twice(tree, &field("name"), &name));
        }
        files.push(NamedText { name, text });
    }
    Ok(files)
}

/// Files of NetworkManager.
pub(super) fn network_manager(tree: &Tree, wanted: &NetworkFiles) -> Result<Vec<NamedText>> {
    let mut files: Vec<NamedText> = Vec::new();
    for (index, file) in wanted.nm_connections.iter().flatten().enumerate() {
        let field = |key: &str| format!("configuration.network.nm_connections[{index}].{key}");
        let name = format!("{}.nmconnection", stem(tree, &field("name"), &file.name, "nmconnection")?);
        let text = with_section(tree, &field("content"), &file.content, "[connection]")?;
        if files.iter().any(|known| known.name == name) {
            return Err(twice(tree, &field("name"), &name));
        }
        files.push(NamedText { name, text });
    }
    Ok(files)
}

/// A file's name, with or without its ending.
fn stem(tree: &Tree, field: &str, name: &Line, end: &str) -> Result<String> {
    let name = name.as_str();
    let stem = name.strip_suffix(end).and_then(|stem| stem.strip_suffix('.')).unwrap_or(name);
    words::file(tree, field, stem)
}

/// A text without the section that makes it what it is would be read as nothing.
fn with_section(tree: &Tree, field: &str, text: &str, section: &str) -> Result<String> {
    let text = content(tree, field, text)?;
    if text.lines().any(|line| line.trim() == section) {
        return Ok(text);
    }
    Err(tree
        .error(Kind::Manifest, field, format!("there is no section `{section}`, so it would have no effect"))
        .advice("write the file's whole text"))
}

/// A text that is there, and ends as lines do.
pub(super) fn content(tree: &Tree, field: &str, text: &str) -> Result<String> {
    if text.trim().is_empty() {
        return Err(tree
            .error(Kind::Manifest, field, "this text is empty")
            .advice("write it, or remove the entry"));
    }
    if text.len() > MOST_TEXT {
        return Err(refused(
            tree,
            field,
            format!("this text has {} bytes", text.len()),
            "at most 1 MiB",
            "have a first-boot script fetch what is larger",
        ));
    }
    Ok(if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") })
}

/// One text; configuration is smaller.
const MOST_TEXT: usize = 1 << 20;

fn twice(tree: &Tree, field: &str, name: &str) -> Error {
    tree.error(Kind::Manifest, field, format!("`{name}` is there twice"))
        .advice("give each a name of its own")
}
