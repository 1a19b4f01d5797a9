//! `libvirt`: which one is asked, and which ones drops may name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resolve::{put, put_seconds};
use crate::model::error::{Error, Kind, Result};
use crate::model::libvirt_uri::{SYSTEM, check_form};
use crate::model::manifest::values::Seconds;
use crate::model::parse::Tree;

/// `libvirt`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtFile {
    /// The libvirt that is asked where nothing else is named. It may have a query. Default qemu:///system.
    pub uri: Option<String>,
    /// Drops may name these, to the letter. Default qemu:///system.
    pub allowed_uris: Option<Vec<String>>,
    /// What has not answered for this long hangs. Default 30.
    pub timeout_s: Option<Seconds>,
}

/// `libvirt.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LibvirtSettings {
    /// Asked where nothing else is named.
    pub uri: String,
    /// What drops may name.
    pub allowed_uris: Vec<String>,
    /// What has not answered for this long hangs.
    pub timeout_s: f64,
}

impl Default for LibvirtSettings {
    fn default() -> LibvirtSettings {
        LibvirtSettings { uri: SYSTEM.to_owned(), allowed_uris: vec![SYSTEM.to_owned()], timeout_s: 30.0 }
    }
}

/// What a file says, over what was there.
pub(super) fn apply(file: &LibvirtFile, settings: &mut LibvirtSettings) {
    put(&mut settings.uri, file.uri.clone());
    put(&mut settings.allowed_uris, file.allowed_uris.clone());
    put_seconds(&mut settings.timeout_s, file.timeout_s);
}

/// What a single value cannot know.
pub(super) fn check(settings: &LibvirtSettings, tree: &Tree) -> Result<()> {
    let of_form = |field: &str, uri: &str| -> Result<()> {
        check_form(uri).map(drop).map_err(|told| {
            let told = told.details();
            let error: Error = tree.error(Kind::Manifest, field, told.cause.clone());
            error.allowed(&told.place.allowed).advice("write it as qemu:///system")
        })
    };
    of_form("libvirt.uri", &settings.uri)?;
    for (number, uri) in settings.allowed_uris.iter().enumerate() {
        let field = format!("libvirt.allowed_uris[{number}]");
        of_form(&field, uri)?;
        if uri.contains('?') {
            return Err(tree
                .error(Kind::Manifest, &field, format!("no drop may name `{uri}`: it has a query"))
                .advice("remove what follows the `?`, or make it `libvirt.uri`, which may have one"));
        }
    }
    if settings.timeout_s < 1.0 {
        return Err(tree
            .error(Kind::Manifest, "libvirt.timeout_s", "no libvirt would be as fast")
            .advice("allow at least a second; 30 is the default"));
    }
    Ok(())
}
