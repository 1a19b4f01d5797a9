//! A domain as a source: how it is written down, whether it runs, and where its volumes lie.

use std::path::PathBuf;

use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;

use super::failure::told;
use super::link::Link;
use crate::model::error::{Error, Kind, Result};

/// A domain, as it is when it is started the next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its XML.
    pub xml: String,
    /// Whether it runs, or was paused.
    pub runs: bool,
    /// Whether its memory was saved when it went off.
    pub is_saved: bool,
}

/// The domain of this name.
pub fn definition(link: &Link, name: &str) -> Result<Definition> {
    let failed = |error| told(&format!("cannot look at the machine `{}`", name.escape_debug()), &error);
    let domain = Domain::lookup_by_name(link.raw(), speakable(name)?).map_err(failed)?;
    Ok(Definition {
        xml: domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).map_err(failed)?,
        runs: domain.is_active().map_err(failed)?,
        // Not every kind of machine can be saved.
        is_saved: domain.has_managed_save(0).unwrap_or(false),
    })
}

/// Where a volume of a pool lies, as its pool tells it.
pub fn volume_path(link: &Link, pool: &str, volume: &str) -> Result<PathBuf> {
    let (shown_pool, shown) = (pool.escape_debug(), volume.escape_debug());
    let failed =
        |error| told(&format!("cannot find the volume `{shown}` of the pool `{shown_pool}`"), &error);
    let pool = StoragePool::lookup_by_name(link.raw(), speakable(pool)?).map_err(failed)?;
    let found = StorageVol::lookup_by_name(&pool, speakable(volume)?).map_err(failed)?;
    found.get_path().map(PathBuf::from).map_err(failed)
}

/// Whether the machine of this UUID runs, or, if it has none, the one of this name.
pub fn runs(link: &Link, uuid: Option<&str>, name: &str) -> Result<bool> {
    let found = match uuid {
        Some(uuid) => Domain::lookup_by_uuid_string(link.raw(), speakable(uuid)?),
        None => Domain::lookup_by_name(link.raw(), speakable(name)?),
    };
    let failed = |error| told("cannot find out whether the machine runs", &error);
    match found {
        Ok(domain) => domain.is_active().map_err(failed),
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// The crate panics on a NUL.
fn speakable(name: &str) -> Result<&str> {
    match name.contains('\0') {
        true => Err(Error::new(Kind::Manifest, format!("`{}` holds a NUL", name.escape_debug()))
            .advice("write the name as `virsh list --all` shows it")),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::link::Access;

    #[test]
    fn a_machine_that_runs_is_told_and_names_that_cannot_be_are_refused() {
        let link = Link::open("test:///default", Access::Reads).unwrap();
        let found = definition(&link, "test").unwrap();
        assert!(found.runs && !found.is_saved && found.xml.starts_with("<domain"), "{found:?}");
        assert!(runs(&link, None, "test").unwrap());
        assert!(!runs(&link, None, "no such machine").unwrap());
        assert!(!runs(&link, Some("00000000-1111-2222-3333-444444444444"), "test").unwrap());
        for name in ["no such machine", "a\0b", "", "x/../y"] {
            let error = definition(&link, name).unwrap_err();
            assert!(error.details().advice.is_some(), "{error}");
        }
        for (pool, volume) in [("no-pool", "x"), ("default-pool", "gone"), ("a\0", "b")] {
            let error = volume_path(&link, pool, volume).unwrap_err();
            assert!(error.details().advice.is_some(), "{error}");
        }
    }
}
