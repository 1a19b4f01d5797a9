//! selinux: what was made in the guest has the label that its policy gives it.
//!
//! The appliance knows no SELinux, so what it makes has no label, and an enforcing guest would not let its services read that. A file that
//! was changed in place has kept its own. Only where the policy cannot be asked is the whole guest labelled again at its first start,
//! which takes minutes. This comes last, after everything that makes files.

mod contexts;
mod pattern;

use std::collections::BTreeSet;

use super::text::{self, not_kept, short};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::tree::Tree;
use crate::model::error::{Error, Kind, Result};
use contexts::{Contexts, FileKind};

const CONFIGURATION: &str = "/etc/selinux/config";
const RELABEL: &str = "/.autorelabel";
const ATTRIBUTE: &str = "security.selinux";

/// The repair.
#[derive(Debug)]
pub struct Selinux;

impl Fix for Selinux {
    fn name(&self) -> &'static str {
        "selinux"
    }

    fn purpose(&self, _: &FixOptions) -> Option<&'static str> {
        Some("what was made has the label that SELinux wants")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let Some(policy) = policy(&guest.tree)? else { return Ok(()) };
        let bare = unlabelled(guest)?;
        if bare.is_empty() {
            return Ok(());
        }
        let Some(contexts) = contexts_of(&guest.tree, &policy)? else {
            guest.warnings.push(format!(
                "SELinux's policy `{}` has no list of labels: the guest labels all its files at its first start, which takes a while",
                short(&policy)
            ));
            return guest.tree.write(RELABEL, b"", "all files are labelled at the first start");
        };
        for path in bare {
            let Some(label) = wanted(&guest.tree, &contexts, &path)? else { continue };
            let value = [label.as_bytes(), b"\0"].concat();
            guest.tree.appliance().set_attribute(&path, ATTRIBUTE, &value).map_err(|why| {
                Error::new(
                    Kind::Guest,
                    format!("cannot label {} in the guest: {}", short(&path), short(&why)),
                )
                .advice("check the guest's file systems in the source machine, then try again")
            })?;
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let Some(policy) = policy(&guest.tree)? else { return Ok(()) };
        if guest.tree.exists(RELABEL)? {
            return Ok(());
        }
        let Some(contexts) = contexts_of(&guest.tree, &policy)? else { return Ok(()) };
        for path in unlabelled(guest)? {
            if wanted(&guest.tree, &contexts, &path)?.is_some() {
                return Err(not_kept(&path, "it has no SELinux label"));
            }
        }
        Ok(())
    }
}

/// The name of the policy of a guest that has SELinux on.
fn policy(tree: &Tree) -> Result<Option<String>> {
    Ok(text::read(tree, CONFIGURATION)?.and_then(|text| enabled(&text)))
}

fn enabled(text: &str) -> Option<String> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .filter(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().trim_matches('"'))
            .next_back()
    };
    if !matches!(value("SELINUX")?.to_ascii_lowercase().as_str(), "enforcing" | "permissive") {
        return None;
    }
    let name = value("SELINUXTYPE").unwrap_or("targeted");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!name.is_empty() && name.len() < 64 && name.chars().all(plain)).then(|| name.to_owned())
}

fn contexts_of(tree: &Tree, policy: &str) -> Result<Option<Contexts>> {
    let base = format!("/etc/selinux/{policy}/contexts/files/file_contexts");
    let Some(mut contexts) = text::read(tree, &base)? else { return Ok(None) };
    for more in [".homedirs", ".local"] {
        contexts.push('\n');
        contexts.push_str(&text::read(tree, &format!("{base}{more}"))?.unwrap_or_default());
    }
    let mut substitutions = String::new();
    for file in [".subs", ".subs_dist"] {
        substitutions.push_str(&text::read(tree, &format!("{base}{file}"))?.unwrap_or_default());
        substitutions.push('\n');
    }
    Ok(Some(Contexts::parse(&contexts, &substitutions)))
}

/// What was made or written, and what it lies in, as far as it has no label.
fn unlabelled(guest: &Guest<'_>) -> Result<Vec<String>> {
    let mut paths: BTreeSet<String> = BTreeSet::new();
    for edit in guest.tree.edits() {
        for path in [Some(&edit.path), edit.backup.as_ref()].into_iter().flatten() {
            paths.extend(with_parents(path));
        }
    }
    let mut bare = Vec::new();
    for path in paths {
        if guest.tree.stat(&path)?.is_some()
            && keeps_labels(&guest.facts, &path)
            && guest.tree.appliance().attribute(&path, ATTRIBUTE).is_err()
        {
            bare.push(path);
        }
    }
    Ok(bare)
}

/// A path, and the directories above it without the root.
fn with_parents(path: &str) -> impl Iterator<Item = String> + '_ {
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
    ends.map(|end| path[..end].to_owned())
}

fn keeps_labels(facts: &Facts, path: &str) -> bool {
    let layout = &facts.layout;
    let content = layout.file_system_of(path).and_then(|mounted| layout.volume(&mounted.device));
    !content.is_some_and(|volume| ["vfat", "msdos", "exfat"].contains(&volume.content.as_str()))
}

fn wanted<'c>(tree: &Tree, contexts: &'c Contexts, path: &str) -> Result<Option<&'c str>> {
    let kind = match tree.stat(path)? {
        Some(stat) if stat.is_file() => FileKind::Plain,
        Some(stat) if stat.is_directory() => FileKind::Directory,
        Some(stat) if stat.is_link() => FileKind::Link,
        _ => FileKind::Other,
    };
    Ok(contexts.label(path, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_without_selinux_is_left_alone() {
        for text in [
            "",
            "SELINUX=disabled\nSELINUXTYPE=targeted\n",
            "# SELINUX=enforcing\n",
            "SELINUX=enforcing\nSELINUXTYPE=../x\n",
        ] {
            assert_eq!(enabled(text), None, "{text:?}");
        }
        assert_eq!(enabled("# c\nSELINUX=permissive\nSELINUXTYPE=minimum \n").as_deref(), Some("minimum"));
        assert_eq!(enabled("SELINUX=enforcing\n").as_deref(), Some("targeted"));
    }

    #[test]
    fn directories_that_were_made_on_the_way_are_labelled_too() {
        let paths: Vec<String> = with_parents("/etc/systemd/network/x.link").collect();
        assert_eq!(paths, ["/etc", "/etc/systemd", "/etc/systemd/network", "/etc/systemd/network/x.link"]);
    }
}
