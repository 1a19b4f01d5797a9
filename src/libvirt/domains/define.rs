//! Defining a machine, and what has to hold before one takes the name of another.
//!
//! A machine that runs, or that this program did not make, is never replaced ([ADR 40](../../../docs/adr/0040-snapshots-and-machines-of-others.md)).
//! First it is settled what gives way, and that is kept; only then is libvirt told anything. Who has to know of it after a death writes it down in
//! between. What is not here: how it is taken away and put back.

use std::path::{Path, PathBuf};

use serde::Serialize;
use virt::domain::Domain;
use virt::error::{Error as Told, ErrorNumber};
use virt::sys;

use super::kept::{Kept, SECURE};
use super::{
    Description, NEXT_START, Stand, absent, checked, child, look_up, look_up_uuid, parse, put_back, there,
    xml_of,
};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::model::provenance::Provenance;
use crate::sys::failpoint;

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

/// What was settled before libvirt is told of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The definition.
    pub xml: String,
    /// The UUID of the same machine of the same batch, if it is there: it is defined anew, and keeps it.
    pub in_place: Option<String>,
    /// Where that is kept which gives way, or is defined anew.
    pub replaced: Option<PathBuf>,
}

/// Defines a machine that libvirt's schema takes. The same machine of the same batch is defined anew in place, with its UUID.
///
/// Between the look at the name and the definition another program may define the same name; with another UUID libvirt refuses the second one.
pub fn define(link: &Link, xml: &str, overwrite: &Overwrite) -> Result<Definition> {
    let settled = settle(link, xml, overwrite, None)?;
    let made = define_settled(link, &settled.xml, settled.replaced.as_deref())?;
    let Some(place) = settled.replaced.filter(|_| settled.in_place.is_some()) else { return Ok(made) };
    let now = xml_of(&super::known(link, &made.name)?, &made.name, NEXT_START | SECURE)?;
    let is_unchanged = without_times(&Kept::read(&place)?.xml) == without_times(&now);
    // One too many, if it cannot be removed, does no harm.
    let is_gone = is_unchanged && std::fs::remove_dir_all(&place).is_ok();
    Ok(Definition { replaced: Some(place).filter(|_| !is_gone), ..made })
}

/// Looks whether the name may be had, and keeps what gives way to the machine; libvirt is told nothing yet. `before`: what was settled of this very
/// definition at an earlier time, which may have been carried out since.
pub fn settle(link: &Link, xml: &str, overwrite: &Overwrite, before: Option<&Settled>) -> Result<Settled> {
    let wanted = Description::read(xml)?;
    let name = checked("a machine", &wanted.name)?;
    let kept_before = before.and_then(|before| before.replaced.clone());
    let as_before = |in_place| Settled { xml: xml.to_owned(), in_place, replaced: kept_before.clone() };
    let Some(old) = look_up(link, name)? else { return Ok(as_before(None)) };
    let known = may_be_replaced(&old, name)?;
    let uuid = uuid_of(&old, name)?;
    if is_same(&known, wanted.provenance.as_ref()) {
        // It is the one that was defined, or that one was settled to be defined anew.
        if before.is_some() && wanted.uuid.as_deref().map(plain_uuid) == Some(plain_uuid(&uuid)) {
            return Ok(as_before(Some(uuid)));
        }
        let replaced = match overwrite {
            Overwrite::Refuse => None,
            Overwrite::OursThatIsOff { keep_in } => Some(Kept::of(&old, name)?.write(keep_in)?),
        };
        return Ok(Settled { xml: with_uuid(xml, &uuid)?, in_place: Some(uuid), replaced });
    }
    match overwrite {
        Overwrite::Refuse => Err(Error::new(Kind::Exists, format!("there is a machine {name} already, made by batch {}", known.batch_id))
            .advice("allow it to be replaced (`--overwrite`, `libvirt_integration.overwrite_domain`), or give the new one another name")),
        Overwrite::OursThatIsOff { keep_in } => {
            let kept = Kept::of(&old, name)?;
            let is_kept = |place: &PathBuf| Kept::read(place).is_ok_and(|before| before == kept);
            let replaced = match kept_before.filter(is_kept) {
                Some(place) => place,
                None => kept.write(keep_in)?,
            };
            Ok(Settled { xml: xml.to_owned(), in_place: None, replaced: Some(replaced) })
        }
    }
}

/// Defines what was settled, also a second time; what gives way is taken away.
pub fn define_settled(link: &Link, xml: &str, replaced: Option<&Path>) -> Result<Definition> {
    let wanted = Description::read(xml)?;
    let name = checked("a machine", &wanted.name)?;
    let place = replaced.map(Path::to_owned);
    let Some(old) = look_up(link, name)? else {
        let made = fresh(link, xml).map_err(|error| refused(link, &wanted, &error))?;
        return definition(&made, name, place);
    };
    let known = may_be_replaced(&old, name)?;
    let is_its_own = wanted.uuid.as_deref().map(plain_uuid) == Some(plain_uuid(&uuid_of(&old, name)?));
    if is_its_own && is_same(&known, wanted.provenance.as_ref()) {
        let made = fresh(link, xml).map_err(|error| told(&format!("cannot define {name} again"), &error))?;
        return definition(&made, name, place);
    }
    // What is taken away is what was kept, and nothing that came, or was changed, since.
    let kept = replaced.map(Kept::read).transpose()?;
    let Some(kept) = kept.filter(|kept| Kept::of(&old, name).is_ok_and(|now| now == *kept)) else {
        return Err(Error::new(
            Kind::Exists,
            format!("there is a machine {name} already, which was made or changed just now"),
        )
        .advice("see who works on it, and try again"));
    };
    put_back::take_away(&old, name)?;
    failpoint::hit("handover.gave-way");
    let made = fresh(link, xml).map_err(|error| {
        let refusal = refused(link, &wanted, &error);
        let Err(why) = put_back::bring_back(link, &kept) else { return refusal };
        let lies_in = place.iter().map(|place| place.display().to_string()).collect::<String>();
        refusal.and_also(&[&format!("the old one, which lies in {lies_in}, cannot be defined again: {why}")])
    })?;
    definition(&made, name, place)
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
pub(super) fn plain_uuid(uuid: &str) -> String {
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
    Ok(Definition { name: name.to_owned(), uuid: uuid_of(made, name)?, replaced })
}

fn uuid_of(domain: &Domain, name: &str) -> Result<String> {
    domain.get_uuid_string().map_err(|error| told(&format!("cannot ask about {name}"), &error))
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
