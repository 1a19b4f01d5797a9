//! What is to be set up inside the guest: `configuration` of the manifest, checked and spelled out for the plan.
//!
//! Everything that would only fail in the guest, and everything that could mean more there than it says (a name with a slash, a rule of
//! two lines), is refused here, where the line is known. Passwords in clear text never get further than this: [`seal`] puts their
//! hashes in their place before anything is stored. What is not here: how it is put into a guest (see `guest::linux::configure`).

mod accounts;
mod cloud;
mod files;
mod host;
mod words;

use super::build;
use super::effective::Effective;
use crate::model::config::Settings;
use crate::model::crypt::{salt_of, sha512_crypt};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::Manifest;
use crate::model::parse::{Key, Node, Tree, Value};
use crate::model::setup::Setup;

/// All texts together: what a person writes is far smaller, and the guest keeps room for no more.
const MOST_BYTES: usize = 4 << 20;

/// Refuses what cannot be set up.
pub(super) fn check(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    if !settings.credentials.allow_inline {
        accounts::check_no_clear_password(tree, manifest)?;
        cloud::check_no_clear_secret(tree)?;
    }
    let Some(setup) = wanted(tree, manifest)? else { return Ok(()) };
    if !build::is_on(tree, Stage::Fix) {
        return Err(tree
            .error(Kind::Manifest, "configuration", "the guest is not repaired, so nothing is set up in it")
            .advice("remove it, or set `pipeline.fix.enabled: true`"));
    }
    let texts = setup.networkd.iter().chain(&setup.network_manager);
    let scripts = setup.first_boot.iter().flat_map(|first_boot| &first_boot.scripts);
    let seed = setup.cloud_init.iter().filter_map(|cloud_init| cloud_init.seed.as_ref());
    let seed =
        seed.flat_map(|seed| [Some(&seed.user_data), Some(&seed.meta_data), seed.network_config.as_ref()]);
    let bytes: usize =
        texts.chain(scripts).map(|text| &text.text).chain(seed.flatten()).map(String::len).sum();
    if bytes > MOST_BYTES {
        return Err(tree
            .error(Kind::Manifest, "configuration", format!("its texts have {bytes} bytes"))
            .allowed(["at most 4 MiB"])
            .advice("have a first-boot script fetch what is larger"));
    }
    Ok(())
}

/// What a manifest wants set up; none if it wants nothing.
pub(super) fn wanted(tree: &Tree, manifest: &Manifest) -> Result<Option<Setup>> {
    let Some(configuration) = &manifest.configuration else { return Ok(None) };
    let mut setup = Setup::default();
    if let Some(hostname) = &configuration.hostname {
        setup.host = host::name(tree, hostname)?;
        setup.hosts = host::table(tree, hostname)?;
    }
    if let Some(users) = &configuration.users {
        setup.accounts = accounts::wanted(tree, users)?;
    }
    if let Some(services) = &configuration.services {
        setup.services = files::services(tree, services)?;
    }
    if let Some(first_boot) = &configuration.firstboot {
        setup.first_boot = files::first_boot(tree, first_boot)?;
    }
    if let Some(cloud_init) = &configuration.cloud_init {
        setup.cloud_init = cloud::wanted(tree, cloud_init, setup.host.as_ref())?;
    }
    if let Some(network) = &configuration.network {
        setup.networkd = files::networkd(tree, network)?;
        setup.network_manager = files::network_manager(tree, network)?;
    }
    Ok((setup != Setup::default()).then_some(setup))
}

/// Puts the hash of every password in clear text in its place.
///
/// The salt follows from the rest of the manifest, not from chance: the same manifest has to give the same plan and the same guest.
pub(super) fn seal(effective: &mut Effective) -> Result<()> {
    let users = "configuration.users.users";
    let has_one = |node: &Node| node.items().iter().any(|user| user.get("password").is_some());
    if !effective.tree.node(users).is_some_and(has_one) {
        return Ok(());
    }
    let rest = effective.redacted().canonical().to_string();
    let list = ["configuration", "users", "users"]
        .into_iter()
        .try_fold(&mut effective.tree.root, |node, key| node.get_mut(key));
    let Some(Node { value: Value::List(list), .. }) = list else { return Ok(()) };
    for user in list {
        let name = user.get("name").and_then(Node::text).unwrap_or_default().to_owned();
        let Some((key, node)) = user.take("password") else { continue };
        let (Some(password), Value::Map(entries)) = (node.text(), &mut user.value) else { continue };
        let salt = salt_of(format!("{rest}\0{name}").as_bytes());
        let hash = sha512_crypt(password, &salt);
        let key = Key { name: "password_hash".to_owned(), ..key };
        entries.push((key, Node { value: Value::Text(hash), ..node }));
    }
    effective.manifest = effective.tree.decode()?;
    Ok(())
}

/// An error of the kind `manifest`, with what would be right.
fn refused(tree: &Tree, field: &str, cause: impl Into<String>, allowed: &str, advice: &str) -> Error {
    tree.error(Kind::Manifest, field, cause).allowed([allowed]).advice(advice)
}
