//! Disks and network cards that come to a machine or leave it, now and for its next start, as its state allows.

use std::time::{Duration, Instant};

use serde::Serialize;
use virt::domain::Domain;
use virt::sys;

use super::{Description, NEXT_START, Source, checked_path, child, is_active, known, parse, xml_of};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

/// How long a guest may take to let go of a device before that is told as pending.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A disk that comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Where its bytes lie.
    pub source: Source,
    /// What it is called in there: `vdb`.
    pub target: String,
    /// What it hangs on; the target's name tells it otherwise.
    pub bus: Option<String>,
    /// How it is read: never guessed by QEMU.
    pub format: String,
    /// Whether the machine may only read it.
    pub readonly: bool,
}

/// A network card that comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNic {
    /// What it is connected to.
    pub source: NicSource,
    /// Its address; libvirt makes one otherwise.
    pub mac: Option<String>,
    /// What the guest sees: `virtio`.
    pub model: String,
    /// Whether its cable is in.
    pub link_up: bool,
}

/// What a card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicSource {
    /// A network of libvirt's.
    Network(String),
    /// A bridge of the host's.
    Bridge(String),
}

/// What a change has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The machine that runs.
    pub live: bool,
    /// What it is at its next start.
    pub persistent: bool,
    /// Its guest was asked to let go, and has not done so yet.
    pub pending: bool,
}

/// Gives it a disk.
pub fn attach_disk(link: &Link, name: &str, new: &NewDisk) -> Result<Changed> {
    let domain = known(link, name)?;
    let element = disk_element(new)?;
    let is_taken = |described: &Description| described.disk(&new.target).is_some();
    attach(&domain, name, &format!("a disk {}", new.target), is_taken, &element)
}

/// Takes the disk away that is called so in there.
pub fn detach_disk(link: &Link, name: &str, target: &str) -> Result<Changed> {
    detach(&known(link, name)?, name, &format!("disk {target}"), |device| {
        let called = child(device, "target").and_then(|node| node.attribute("dev"));
        device.has_tag_name("disk") && called == Some(target)
    })
}

/// Gives it a network card.
pub fn attach_nic(link: &Link, name: &str, new: &NewNic) -> Result<Changed> {
    let domain = known(link, name)?;
    let mac = new.mac.as_deref().map(str::to_ascii_lowercase);
    let is_taken = |described: &Description| mac.as_ref().is_some_and(|mac| described.macs.contains(mac));
    let shown = mac.clone().unwrap_or_default();
    attach(&domain, name, format!("a network card {shown}").trim_end(), is_taken, &nic_element(new))
}

/// Takes the network card of this address away.
pub fn detach_nic(link: &Link, name: &str, mac: &str) -> Result<Changed> {
    detach(&known(link, name)?, name, &format!("network card {mac}"), |device| {
        let address = child(device, "mac").and_then(|node| node.attribute("address"));
        device.has_tag_name("interface") && address.is_some_and(|address| address.eq_ignore_ascii_case(mac))
    })
}

fn attach(
    domain: &Domain,
    name: &str,
    what: &str,
    is_taken: impl Fn(&Description) -> bool,
    element: &Element,
) -> Result<Changed> {
    let reached = reach(domain, name)?;
    for flags in reached.definitions() {
        if is_taken(&Description::read(&xml_of(domain, name, flags)?)?) {
            return Err(Error::new(Kind::Exists, format!("{name} has {what} already"))
                .advice(format!("see what it has: `hyper2kvm libvirt show {name}`")));
        }
    }
    let attached = domain.attach_device_flags(&element.to_string(), reached.flags());
    attached.map_err(|error| told(&format!("cannot attach {what} to {name}"), &error))?;
    Ok(reached)
}

/// Takes a device away by what the machine itself says of it: as it runs, and as it is at its next start.
fn detach(
    domain: &Domain,
    name: &str,
    what: &str,
    is_it: impl Fn(roxmltree::Node<'_, '_>) -> bool,
) -> Result<Changed> {
    let mut changed = Changed { live: false, persistent: false, pending: false };
    let reached = reach(domain, name)?;
    for flags in reached.definitions() {
        let Some(element) = device(&xml_of(domain, name, flags)?, &is_it)? else { continue };
        let is_live = flags == 0;
        let impact = if is_live { sys::VIR_DOMAIN_AFFECT_LIVE } else { sys::VIR_DOMAIN_AFFECT_CONFIG };
        let detached = domain.detach_device_flags(&element, impact);
        detached.map_err(|error| told(&format!("cannot detach {what} from {name}"), &error))?;
        if is_live {
            changed.live = true;
            changed.pending = !is_let_go(domain, name, &is_it)?;
        } else {
            changed.persistent = true;
        }
    }
    if !changed.live && !changed.persistent {
        return Err(Error::new(Kind::Libvirt, format!("{name} has no {what}"))
            .advice(format!("see what it has: `hyper2kvm libvirt show {name}`")));
    }
    Ok(changed)
}

/// Waits until the guest has let go; some guests, and all that have not booted, never do.
fn is_let_go(domain: &Domain, name: &str, is_it: &impl Fn(roxmltree::Node<'_, '_>) -> bool) -> Result<bool> {
    let deadline = Instant::now() + LET_GO_WITHIN;
    loop {
        // With the machine its devices are gone, too.
        if !is_active(domain, name)? || device(&xml_of(domain, name, 0)?, is_it)?.is_none() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The text of the first device that is meant.
fn device(xml: &str, is_it: &impl Fn(roxmltree::Node<'_, '_>) -> bool) -> Result<Option<String>> {
    let document = parse(xml)?;
    let devices = child(document.root_element(), "devices");
    let found = devices.and_then(|devices| devices.children().find(|device| is_it(*device)));
    Ok(found.map(|node| xml[node.range()].to_owned()))
}

/// What can be changed of it now.
fn reach(domain: &Domain, name: &str) -> Result<Changed> {
    let persistent =
        domain.is_persistent().map_err(|error| told(&format!("cannot ask about {name}"), &error))?;
    Ok(Changed { live: is_active(domain, name)?, persistent, pending: false })
}

impl Changed {
    fn flags(self) -> u32 {
        let live = if self.live { sys::VIR_DOMAIN_AFFECT_LIVE } else { 0 };
        live | if self.persistent { sys::VIR_DOMAIN_AFFECT_CONFIG } else { 0 }
    }

    /// The flags by which libvirt tells the definitions that are concerned; that of the machine that runs comes first.
    fn definitions(self) -> impl Iterator<Item = u32> {
        self.live.then_some(0).into_iter().chain(self.persistent.then_some(NEXT_START))
    }
}

fn disk_element(new: &NewDisk) -> Result<Element> {
    let bus = match (&new.bus, new.target.get(..2)) {
        (Some(bus), _) => bus.as_str(),
        (None, Some("vd")) => "virtio",
        (None, Some("sd")) => "scsi",
        (None, Some("hd")) => "ide",
        _ => {
            return Err(Error::new(
                Kind::Manifest,
                format!("it cannot be told what a disk {} hangs on", new.target),
            )
            .advice("call it vdb, sdb or hdb, or say its bus"));
        }
    };
    if let Source::Path(path) = &new.source {
        checked_path(path)?;
    }
    let (kind, source) = match &new.source {
        Source::Path(path) if path.starts_with("/dev") => {
            ("block", Element::new("source").with("dev", path.display()))
        }
        Source::Path(path) => ("file", Element::new("source").with("file", path.display())),
        Source::Volume { pool, volume } => {
            ("volume", Element::new("source").with("pool", pool).with("volume", volume))
        }
        Source::Network(protocol) => {
            return Err(Error::new(Kind::Unsupported, format!("a disk over {protocol} cannot be attached"))
                .advice("give a file, a device or a volume of a pool"));
        }
    };
    Ok(Element::new("disk")
        .with("type", kind)
        .with("device", "disk")
        .child(Element::new("driver").with("name", "qemu").with("type", &new.format))
        .child(source)
        .child(Element::new("target").with("dev", &new.target).with("bus", bus))
        .children(new.readonly.then(|| Element::new("readonly"))))
}

fn nic_element(new: &NewNic) -> Element {
    let (kind, name) = match &new.source {
        NicSource::Network(name) => ("network", name),
        NicSource::Bridge(name) => ("bridge", name),
    };
    Element::new("interface")
        .with("type", kind)
        .children(new.mac.iter().map(|mac| Element::new("mac").with("address", mac)))
        .child(Element::new("source").with(kind, name))
        .child(Element::new("model").with("type", &new.model))
        .children((!new.link_up).then(|| Element::new("link").with("state", "down")))
}
