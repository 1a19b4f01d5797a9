//! Defining a machine, and what has to hold before one takes the name of another.
//!
//! A machine that runs, or that this program did not make, is never replaced ([ADR 40](../../../docs/adr/0040-snapshots-and-machines-of-others.md)).

use std::path::PathBuf;

use serde::Serialize;
use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::{Error as Told, ErrorNumber};
use virt::sys;

use super::kept::{Kept, read_nvram};
use super::{
    Description, NEXT_START, Stand, absent, checked, child, look_up, look_up_uuid, parse, there, xml_of,
};
use crate::libvirt::element::Element;
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::error::{Error, Kind, Result};
use crate::model::provenance::Provenance;
use crate::sys::fs::atomic_create;

/// With what else passwords of screens are told.
const SECURE: u32 = sys::VIR_DOMAIN_XML_SECURE;

/// What becomes of a machine that has the name already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overwrite {
    /// It stays, and nothing is defined.
    Refuse,
    /// It is replaced if this program made it and it is off.
    OursThatIsOff {
        /// What it was is kept in a directory of its own in here.
        keep_in: PathBuf,
    },
}

/// A machine that was defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Where that lies which it has replaced.
    pub replaced: Option<PathBuf>,
}

/// What two machines would share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// The UUID.
    Uuid,
    /// The address of a network card.
    Mac,
}

/// Another machine has this already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collision {
    /// The other machine.
    pub domain: String,
    /// What it has.
    pub shared: Shared,
    /// The UUID or address itself.
    pub value: String,
}

/// Defines a machine that libvirt's schema takes. The same machine of the same batch is defined anew in place, with its UUID.
///
/// Between the look at the name and the definition another program may define the same name; with another UUID libvirt refuses the second one.
pub fn define(link: &Link, xml: &str, overwrite: &Overwrite) -> Result<Definition> {
    let wanted = Description::read(xml)?;
    let name = checked("a machine", &wanted.name)?;
    let Some(old) = look_up(link, name)? else {
        let made = fresh(link, xml).map_err(|error| refused(link, &wanted, &error))?;
        return definition(&made, name, None);
    };
    let known = may_be_replaced(&old, name)?;
    if is_same(&known, wanted.provenance.as_ref()) {
        return in_place(link, &old, xml, &wanted, overwrite);
    }
    match overwrite {
        Overwrite::Refuse => Err(Error::new(Kind::Exists, format!("there is a machine {name} already, made by batch {}", known.batch_id))
            .advice("allow it to be replaced (`--overwrite`, `libvirt_integration.overwrite_domain`), or give the new one another name")),
        Overwrite::OursThatIsOff { keep_in } => {
            let kept = keep(&old, name)?;
            let place = kept.write(keep_in)?;
            replace(link, &old, xml, &wanted, &kept, place)
        }
    }
}

/// The UUID, or addresses of cards, that another machine there has already, running or not. `except` names the machine that may have them.
pub fn collisions(
    link: &Link,
    uuid: Option<&str>,
    macs: &[String],
    except: Option<&str>,
) -> Result<Vec<Collision>> {
    let failed = |error| told("cannot compare with the other machines", &error);
    let wanted_uuid = uuid.map(plain_uuid);
    let wanted: Vec<String> = macs.iter().map(|mac| mac.to_ascii_lowercase()).collect();
    let mut found = Vec::new();
    for domain in link.raw().list_all_domains(0).map_err(failed)? {
        let Some(asked) = there(known_of(&domain, !wanted.is_empty())) else { continue };
        let (name, uuid, texts) = asked.map_err(failed)?;
        if except == Some(name.as_str()) {
            continue;
        }
        if wanted_uuid == Some(plain_uuid(&uuid)) {
            found.push(Collision { domain: name.clone(), shared: Shared::Uuid, value: uuid });
        }
        let mut taken = Vec::new();
        for text in &texts {
            taken.extend(Description::read(text)?.macs);
        }
        for mac in wanted.iter().filter(|mac| taken.contains(mac)) {
            found.push(Collision { domain: name.clone(), shared: Shared::Mac, value: mac.clone() });
        }
    }
    found.sort_by(|one, other| {
        (&one.domain, one.shared, &one.value).cmp(&(&other.domain, other.shared, &other.value))
    });
    Ok(found)
}

/// Its name, its UUID, and its definitions: as it runs, and as it starts the next time.
fn known_of(domain: &Domain, with_definitions: bool) -> Result<(String, String, Vec<String>), Told> {
    let flags: &[u32] = if with_definitions { &[0, NEXT_START] } else { &[] };
    let texts = flags.iter().map(|flags| domain.get_xml_desc(*flags)).collect::<Result<_, _>>()?;
    Ok((domain.get_name()?, domain.get_uuid_string()?, texts))
}

/// UUIDs are written with hyphens and without.
fn plain_uuid(uuid: &str) -> String {
    uuid.chars().filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect()
}

/// Who made the machine that has the name, if it may be touched at all.
fn may_be_replaced(old: &Domain, name: &str) -> Result<Provenance> {
    let taken = |why: &str, advice: &str| {
        Err(Error::new(Kind::Exists, format!("there is a machine {name} already, and it {why}"))
            .advice(advice))
    };
    let failed = |error| told(&format!("cannot ask about {name}"), &error);
    let Some(known) = Description::read(&xml_of(old, name, NEXT_START)?)?.provenance else {
        return taken(
            "was not made by hyper2kvm",
            "give the new one another name, or rename or undefine the other one yourself",
        );
    };
    if old.is_active().map_err(failed)? {
        let state = Stand::of(old).map_err(failed)?.state.name();
        return taken(&format!("is {state}"), "shut it down first: `hyper2kvm libvirt stop`");
    }
    // A driver that cannot save memory has none.
    if old.has_managed_save(0).unwrap_or(false) {
        return taken(
            "is only saved: its memory waits for the next start",
            "start it and shut it down first",
        );
    }
    Ok(known)
}

fn is_same(known: &Provenance, wanted: Option<&Provenance>) -> bool {
    wanted.is_some_and(|wanted| (&wanted.batch_id, &wanted.vm_id) == (&known.batch_id, &known.vm_id))
}

fn fresh(link: &Link, xml: &str) -> Result<Domain, Told> {
    Domain::define_xml_flags(link.raw(), xml, sys::VIR_DOMAIN_DEFINE_VALIDATE)
}

/// Why a machine cannot be defined: whether its name or UUID is taken is asked again, since another may have been quicker.
fn refused(link: &Link, wanted: &Description, error: &Told) -> Error {
    let name = &wanted.name;
    let advice = "give the new one another name and UUID, or undefine the other one";
    if let Ok(Some(_)) = look_up(link, name) {
        return Error::new(Kind::Exists, format!("there is a machine {name} already")).advice(advice);
    }
    let other = wanted.uuid.as_deref().and_then(|uuid| look_up_uuid(link, uuid).ok().flatten());
    if let Some(other) = other.and_then(|other| other.get_name().ok()) {
        let cause = format!("cannot define {name}: the machine {other} has its UUID already");
        return Error::new(Kind::Exists, cause).advice(advice);
    }
    match error.code() {
        // The lines below the first say what the schema does not take.
        ErrorNumber::XmlInvalidSchema | ErrorNumber::XmlError | ErrorNumber::XmlDetail => {
            let lines: Vec<&str> =
                error.message().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            Error::new(Kind::Manifest, format!("cannot define {name}: {}", lines.join("; ")))
                .advice("see https://libvirt.org/formatdomain.html for what may stand there")
        }
        _ => told(&format!("cannot define {name}"), error),
    }
}

fn definition(made: &Domain, name: &str, replaced: Option<PathBuf>) -> Result<Definition> {
    let uuid = made.get_uuid_string().map_err(|error| told(&format!("cannot ask about {name}"), &error))?;
    Ok(Definition { name: name.to_owned(), uuid, replaced })
}

/// Defines it again. What somebody has changed of it since is kept, too, where there is a place for it.
fn in_place(
    link: &Link,
    old: &Domain,
    xml: &str,
    wanted: &Description,
    overwrite: &Overwrite,
) -> Result<Definition> {
    let name = &wanted.name;
    let kept = keep(old, name)?;
    let place = match overwrite {
        Overwrite::Refuse => None,
        Overwrite::OursThatIsOff { keep_in } => Some(kept.write(keep_in)?),
    };
    let uuid = definition(old, name, None)?.uuid;
    let made = fresh(link, &with_uuid(xml, &uuid)?).map_err(|error| refused_in_place(name, &error))?;
    let is_unchanged = without_times(&kept.xml) == without_times(&xml_of(&made, name, NEXT_START | SECURE)?);
    let place = place.filter(|place| {
        // One too many, if it cannot be removed, does no harm.
        !(is_unchanged && std::fs::remove_dir_all(place).is_ok())
    });
    Ok(Definition { name: name.clone(), uuid, replaced: place })
}

fn refused_in_place(name: &str, error: &Told) -> Error {
    told(&format!("cannot define {name} again"), error)
}

/// Our own mark says when it was made, which is no change.
fn without_times(xml: &str) -> String {
    xml.lines().filter(|line| !line.contains("<h2k:made ")).collect()
}

/// The definition with this UUID.
fn with_uuid(xml: &str, uuid: &str) -> Result<String> {
    let document = parse(xml)?;
    let root = document.root_element();
    let element = Element::text("uuid", uuid).to_string();
    let (from, to) = match (child(root, "uuid"), child(root, "name")) {
        (Some(node), _) => (node.range().start, node.range().end),
        (None, Some(node)) => (node.range().end, node.range().end),
        (None, None) => return Err(absent("")),
    };
    Ok(format!("{}{}{}", &xml[..from], element.trim_end(), &xml[to..]))
}

/// All that is needed to define a machine again.
fn keep(old: &Domain, name: &str) -> Result<Kept> {
    let failed = |error| told(&format!("cannot read the snapshots of {name}"), &error);
    let xml = xml_of(old, name, NEXT_START | SECURE)?;
    let nvram = match Description::read(&xml)?.nvram {
        Some(path) => read_nvram(&path)?.map(|bytes| (path, bytes)),
        None => None,
    };
    // A driver that has no snapshots has none of this machine.
    let snapshots = old.list_all_snapshots(sys::VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL).unwrap_or_default();
    let snapshots = snapshots.iter().map(|snapshot| snapshot.get_xml_desc(0));
    Ok(Kept {
        name: name.to_owned(),
        xml,
        nvram,
        snapshots: snapshots.collect::<Result<_, _>>().map_err(failed)?,
        autostart: old.get_autostart().unwrap_or(false),
    })
}

/// Takes the old machine away and defines the new one; the old one comes back where that fails.
fn replace(
    link: &Link,
    old: &Domain,
    xml: &str,
    wanted: &Description,
    kept: &Kept,
    place: PathBuf,
) -> Result<Definition> {
    let name = &wanted.name;
    // Its variables are kept and must not become those of the new machine. Its TPM belongs to its UUID and stays where it is.
    let mut flags = sys::VIR_DOMAIN_UNDEFINE_NVRAM | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;
    flags |= sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    old.undefine_flags(flags).map_err(|error| told(&format!("cannot take away the old {name}"), &error))?;
    match fresh(link, xml) {
        Ok(made) => definition(&made, name, Some(place)),
        Err(error) => {
            let refusal = refused(link, wanted, &error);
            match bring_back(link, kept) {
                Ok(()) => Err(refusal),
                Err(why) => {
                    let lost = format!(
                        "the old one, which lies in {}, cannot be defined again: {why}",
                        place.display()
                    );
                    Err(refusal.and_also(&[&lost]))
                }
            }
        }
    }
}

/// Defines a machine as it was.
fn bring_back(link: &Link, kept: &Kept) -> Result<()> {
    let failed = |error| told(&format!("cannot define {} again", kept.name), &error);
    let domain = Domain::define_xml_flags(link.raw(), &kept.xml, 0).map_err(failed)?;
    if let Some((path, bytes)) = &kept.nvram {
        match atomic_create(path, bytes, 0o600) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(Kind::Output, "write", path, &error));
            }
            _ => {}
        }
    }
    for xml in &kept.snapshots {
        let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE;
        DomainSnapshot::create_xml(&domain, xml, flags).map_err(failed)?;
    }
    if kept.autostart {
        domain.set_autostart(true).map_err(failed)?;
    }
    Ok(())
}
