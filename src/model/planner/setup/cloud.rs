//! `configuration.cloud_init`: its own configuration, and a seed of the data source NoCloud.
//!
//! Maps become YAML, texts stay as they are. What is not here: how a seed goes together with the instance that a guest knows.

use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::{files, refused};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Free;
use crate::model::manifest::{CloudInit as Wanted, NoCloud};
use crate::model::parse::{Node, Tree, Value};
use crate::model::redaction::names_secret;
use crate::model::setup::{CloudInit, HostName, Seed};

const FIELD: &str = "configuration.cloud_init";
/// Where cloud-init looks for a seed without being told.
const SEEDS: [&str; 2] = ["/var/lib/cloud/seed/nocloud", "/var/lib/cloud/seed/nocloud-net"];
const CLOUD_CONFIG: &str = "#cloud-config\n";

/// A drop is kept, and may be read by more people than the service.
pub(super) fn check_no_clear_secret(tree: &Tree) -> Result<()> {
    let Some(node) = tree.node(FIELD) else { return Ok(()) };
    match clear_secret(node, FIELD) {
        None => Ok(()),
        Some(field) => Err(tree
            .error(
                Kind::Manifest,
                &field,
                "a secret in clear text is only taken where `credentials.allow_inline` is true",
            )
            .advice("write a hash as `openssl passwd -6` makes it, or have cloud-init fetch the secret")),
    }
}

/// The first field that is named like a secret and holds one.
fn clear_secret(node: &Node, field: &str) -> Option<String> {
    let at = |key: &str| format!("{field}.{key}");
    match &node.value {
        Value::Map(entries) => entries.iter().find_map(|(key, value)| match &value.value {
            Value::Text(text) if names_secret(&key.name) && !is_hash(text) => Some(at(&key.name)),
            _ => clear_secret(value, &at(&key.name)),
        }),
        Value::List(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| clear_secret(item, &format!("{field}[{index}]"))),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => None,
    }
}

fn is_hash(text: &str) -> bool {
    text.is_empty() || text.starts_with(['$', '!', '*'])
}

/// What cloud-init is told.
pub(super) fn wanted(tree: &Tree, wanted: &Wanted, host: Option<&HostName>) -> Result<Option<CloudInit>> {
    let drop_in: Map<String, Json> =
        wanted.dropin_cfg.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    let seed = wanted.nocloud.as_ref().map(|nocloud| seed(tree, nocloud, host)).transpose()?;
    let install = wanted.install_if_missing.unwrap_or(false);
    if drop_in.is_empty() && seed.is_none() {
        return if install {
            Err(tree
                .error(
                    Kind::Manifest,
                    &format!("{FIELD}.install_if_missing"),
                    "cloud-init would have nothing to do",
                )
                .advice("give it `dropin_cfg` or `nocloud`, or remove this"))
        } else {
            Ok(None)
        };
    }
    Ok(Some(CloudInit { drop_in, seed, install }))
}

fn seed(tree: &Tree, nocloud: &NoCloud, host: Option<&HostName>) -> Result<Seed> {
    let at = |key: &str| format!("{FIELD}.nocloud.{key}");
    let directory = nocloud.seed_dir.as_ref().map_or(SEEDS[0], |dir| dir.as_str().trim_end_matches('/'));
    if !SEEDS.contains(&directory) {
        return Err(tree
            .error(
                Kind::Manifest,
                &at("seed_dir"),
                format!("cloud-init does not look for a seed in {directory}"),
            )
            .allowed(SEEDS)
            .advice("leave it out"));
    }
    let user_data = match &nocloud.user_data {
        None => CLOUD_CONFIG.to_owned() + "{}\n",
        Some(Free(Json::String(text))) => files::content(tree, &at("user-data"), text)?,
        Some(Free(map @ Json::Object(_))) => format!("{CLOUD_CONFIG}{}", yaml(map)?),
        Some(_) => return Err(no_text(tree, &at("user-data"))),
    };
    let network_config = match &nocloud.network_config {
        None => None,
        Some(Free(Json::String(text))) => Some(files::content(tree, &at("network-config"), text)?),
        Some(Free(map @ Json::Object(_))) => Some(yaml(map)?),
        Some(_) => return Err(no_text(tree, &at("network-config"))),
    };
    let meta_data = match &nocloud.meta_data {
        Some(Free(Json::String(text))) => files::content(tree, &at("meta-data"), text)?,
        Some(Free(Json::Object(map))) => {
            yaml(&with_instance(map.clone(), &user_data, network_config.as_deref(), host))?
        }
        None => yaml(&with_instance(Map::new(), &user_data, network_config.as_deref(), host))?,
        Some(_) => return Err(no_text(tree, &at("meta-data"))),
    };
    Ok(Seed { directory: directory.to_owned(), user_data, meta_data, network_config })
}

/// cloud-init takes a guest for a new instance by its id: the same seed has the same one, another another.
fn with_instance(
    mut map: Map<String, Json>,
    user_data: &str,
    network_config: Option<&str>,
    host: Option<&HostName>,
) -> Json {
    if !map.contains_key("instance-id") {
        let digest = Sha256::new()
            .chain_update(user_data)
            .chain_update("\0")
            .chain_update(network_config.unwrap_or_default())
            .finalize();
        let id: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        map.insert("instance-id".to_owned(), json!(format!("hyper2kvm-{id}")));
    }
    if let Some(host) = host.filter(|_| !map.contains_key("local-hostname")) {
        map.insert("local-hostname".to_owned(), json!(host.full.as_ref().unwrap_or(&host.name)));
    }
    Json::Object(map)
}

fn yaml(value: &Json) -> Result<String> {
    serde_yaml::to_string(value)
        .map_err(|error| Error::internal(format!("a map cannot be written as YAML: {error}")))
}

fn no_text(tree: &Tree, field: &str) -> Error {
    refused(
        tree,
        field,
        "this is neither a map nor a text",
        "a map, or a text",
        "write it as cloud-init reads it",
    )
}
