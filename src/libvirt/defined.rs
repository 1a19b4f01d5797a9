//! Which machines are defined on this host, and with which files: whoever changes or replaces a disk asks before.
//!
//! All machines count, running or not, with their snapshots: those of the system, which libvirt is asked for, and those of this user's own
//! session. A session's daemon ends when nobody needs it and would have to be started to be asked, so what it has written down is read.
//! What is not here: what a file stands on, as far as the file itself tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[cfg(feature = "libvirt")]
use super::LibvirtUri;
#[cfg(feature = "libvirt")]
pub(super) use asking::below_volume;
#[cfg(feature = "libvirt")]
use asking::told_by_system;

/// What libvirt has written down of the system's machines, and its settings, without which it cannot be asked.
const SYSTEM_DIRECTORY: &str = "/etc/libvirt";
/// Where a user's machines are written down, below the directory for settings.
const SESSION_DIRECTORY: &str = "libvirt";
/// Where they lie in both.
const MACHINES: &str = "qemu";
/// Where the session's snapshots are, beside its machines.
const SNAPSHOTS: &str = "snapshot";
/// Where storage pools are written down in both.
const POOLS: &str = "storage";
/// A definition of hundreds of disks has less.
const MOST_XML_BYTES: u64 = 16 << 20;

/// A machine that is defined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defined {
    /// Its name.
    pub name: String,
    /// Every file that it names: disks, what libvirt knows them to stand on, firmware, kernels.
    pub files: BTreeSet<PathBuf>,
    /// Those of them that are disks.
    pub disks: BTreeSet<PathBuf>,
    /// Disks that are named by a storage pool and a volume in it, until their files are found.
    pub volumes: BTreeSet<(String, String)>,
}

/// All machines of this host that can be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machines {
    /// The machines.
    pub defined: Vec<Defined>,
    /// What libvirt says that disks stand on which this user may not read.
    pub below: BTreeMap<PathBuf, Option<PathBuf>>,
    /// Why some may be missing, in libvirt's words; nothing where all were told.
    pub silent: Option<String>,
}

/// The machines of this host. Where nothing of libvirt is installed, there are none. May block for as long as libvirt likes.
#[must_use]
pub fn machines() -> Machines {
    let mut machines =
        told_by_system().unwrap_or_else(|| Machines::written_down(Path::new(SYSTEM_DIRECTORY)));
    if let Some(directory) = session_directory() {
        let session = Machines::written_down(&directory);
        machines.defined.extend(session.defined);
        machines.silent = machines.silent.or(session.silent);
    }
    machines
}

/// This build cannot ask: what is written down has to do.
#[cfg(not(feature = "libvirt"))]
fn told_by_system() -> Option<Machines> {
    None
}

/// The directories that [`machines`] reads, as far as they are there: for whoever confines the one who asks.
#[must_use]
pub fn readable() -> Vec<PathBuf> {
    let all = Some(PathBuf::from(SYSTEM_DIRECTORY)).into_iter().chain(session_directory());
    all.filter(|directory| directory.is_dir()).collect()
}

/// That of this user. `sudo` may leave the home of somebody else in the environment: root sees to that, too, and nobody else can.
fn session_directory() -> Option<PathBuf> {
    let me = rustix::process::geteuid();
    let is_mine = |found: std::fs::Metadata| me.is_root() || found.uid() == me.as_raw();
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let settings = named("XDG_CONFIG_HOME").or_else(|| named("HOME").map(|home| home.join(".config")))?;
    Some(settings.join(SESSION_DIRECTORY)).filter(|directory| directory.metadata().is_ok_and(is_mine))
}

impl Machines {
    /// What a libvirt that is not asked has left below its directory.
    fn written_down(directory: &Path) -> Machines {
        let mut machines = Machines::default();
        machines.read_definitions(&directory.join(MACHINES));
        machines.read_snapshots(&directory.join(MACHINES).join(SNAPSHOTS));
        machines.find_volumes(|pool| match text_of(&directory.join(POOLS).join(format!("{pool}.xml"))) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        });
        machines
    }

    /// Finds the files of disks that are named by a pool and a volume in it. A pool that is not there has none.
    fn find_volumes(&mut self, definition: impl Fn(&str) -> Result<Option<String>, String>) {
        let mut trouble = None;
        for machine in &mut self.defined {
            for (pool, volume) in std::mem::take(&mut machine.volumes) {
                match definition(&pool) {
                    Ok(Some(text)) => {
                        let path =
                            text_below(&text, "target", "path").map(|path| Path::new(&path).join(&volume));
                        machine.files.extend(path.clone());
                        machine.disks.extend(path);
                    }
                    Ok(None) => {}
                    Err(why) => trouble = Some(format!("the storage pool {pool}: {why}")),
                }
            }
        }
        trouble.into_iter().for_each(|why| self.not_told(why));
    }

    /// Reads the definitions in a directory; one that is not there holds none.
    fn read_definitions(&mut self, directory: &Path) {
        let listed = match directory.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            listed => listed.and_then(Iterator::collect::<io::Result<Vec<_>>>),
        };
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) => return self.not_told(format!("{} cannot be read: {error}", directory.display())),
        };
        let paths = entries.iter().map(std::fs::DirEntry::path);
        for path in paths.filter(|path| path.extension().is_some_and(|end| end == "xml") && path.is_file()) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match text_of(&path) {
                Ok(text) => self.understand(&stem, &text),
                Err(error) => self.not_told(format!("{} cannot be read: {error}", path.display())),
            }
        }
    }

    /// Each machine's snapshots have a directory of their own, called like the machine.
    fn read_snapshots(&mut self, directory: &Path) {
        let entries = directory.read_dir().into_iter().flatten().flatten();
        for machine in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
            self.read_definitions(&machine);
        }
    }

    fn not_told(&mut self, why: String) {
        self.silent.get_or_insert(why);
    }

    /// Takes up what a definition, or a snapshot, names.
    fn understand(&mut self, fallback: &str, xml: &str) {
        let document = match roxmltree::Document::parse(xml) {
            Ok(document) => document,
            Err(error) => return self.not_told(format!("the definition of {fallback} is no XML: {error}")),
        };
        let mut defined = Defined { name: fallback.to_owned(), ..Defined::default() };
        if let Some(name) = text_below(xml, "domain", "name") {
            defined.name = name;
        }
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            if let (Some(pool), Some(volume)) = (node.attribute("pool"), node.attribute("volume")) {
                defined.volumes.insert((pool.to_owned(), volume.to_owned()));
            }
            for attribute in node.attributes().filter(|attribute| attribute.value().starts_with('/')) {
                let path = PathBuf::from(attribute.value());
                if node.has_tag_name("source") && attribute.name() == "file" {
                    defined.disks.insert(path.clone());
                }
                defined.files.insert(path);
            }
        }
        self.defined.push(defined);
    }
}

/// The text of the first element of this name whose parent has that name.
fn text_below(xml: &str, parent: &str, name: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let found = document.descendants().find(|node| {
        node.has_tag_name(name) && node.parent_element().is_some_and(|above| above.has_tag_name(parent))
    });
    found.and_then(|node| node.text()).map(str::to_owned)
}

fn text_of(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_XML_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(feature = "libvirt")]
mod asking {
    //! What a connection tells.

    use std::fs::File;

    use virt::connect::Connect;
    use virt::domain::Domain;
    use virt::error::{Error, ErrorNumber};
    use virt::storage_pool::StoragePool;
    use virt::storage_vol::StorageVol;

    use super::{LibvirtUri, Machines, PathBuf, io, text_below};
    use crate::libvirt::SYSTEM;

    /// The flag for a machine as it is when it is started the next time.
    const NEXT_START: u32 = virt::sys::VIR_DOMAIN_XML_INACTIVE;
    /// No chain of snapshots is longer.
    const MOST_BELOW: usize = 64;

    /// Asks the system's libvirt, if it listens.
    pub(super) fn told_by_system() -> Option<Machines> {
        SYSTEM.may_be_served().then(|| Machines::of(SYSTEM))
    }

    /// What a volume stands on, as its pool knows it.
    pub(in crate::libvirt) fn below_volume(volume: &StorageVol) -> Option<PathBuf> {
        let told = volume.get_xml_desc(0).ok()?;
        text_below(&told, "backingStore", "path").map(PathBuf::from)
    }

    impl Machines {
        /// The machines of one connection.
        pub(super) fn of(uri: LibvirtUri<'_>) -> Machines {
            virt::error::clear_error_callback();
            let mut machines = Machines::default();
            let asked = Connect::open_read_only(Some(uri.0)).and_then(|mut connection| {
                let told = machines.ask(&connection);
                // A connection that cannot be closed ends with this process.
                let _ = connection.close();
                told
            });
            if let Err(error) = asked {
                machines.not_told(error.message().to_owned());
            }
            machines
        }

        /// The machines of a connection that is open already.
        pub(in crate::libvirt) fn of_link(connection: &Connect) -> Machines {
            let mut machines = Machines::default();
            if let Err(error) = machines.ask(connection) {
                machines.not_told(error.message().to_owned());
            }
            machines
        }

        fn ask(&mut self, connection: &Connect) -> Result<(), Error> {
            for domain in connection.list_all_domains(0)? {
                // One that was undefined since it was listed is none.
                if let Err(error) = self.ask_about(&domain)
                    && error.code() != ErrorNumber::NoDomain
                {
                    return Err(error);
                }
            }
            self.find_volumes(|pool| {
                match StoragePool::lookup_by_name(connection, pool).and_then(|pool| pool.get_xml_desc(0)) {
                    Ok(text) => Ok(Some(text)),
                    Err(error) if error.code() == ErrorNumber::NoStoragePool => Ok(None),
                    Err(error) => Err(error.message().to_owned()),
                }
            });
            let disks: Vec<PathBuf> =
                self.defined.iter().flat_map(|machine| &machine.disks).cloned().collect();
            disks.into_iter().for_each(|disk| self.ask_what_is_below(connection, disk));
            Ok(())
        }

        fn ask_about(&mut self, domain: &Domain) -> Result<(), Error> {
            let name = domain.get_name()?;
            for flags in [0, NEXT_START] {
                self.understand(&name, &domain.get_xml_desc(flags)?);
            }
            // Not every kind of machine can have snapshots.
            for snapshot in domain.list_all_snapshots(0).unwrap_or_default() {
                self.understand(&name, &snapshot.get_xml_desc(0)?);
            }
            Ok(())
        }

        /// A disk that this user may not read, libvirt may have read: it knows the images in its pools.
        fn ask_what_is_below(&mut self, connection: &Connect, disk: PathBuf) {
            let mut next = Some(disk);
            for _ in 0..MOST_BELOW {
                let Some(path) = next.take().filter(|path| !self.below.contains_key(path)) else { return };
                let is_hidden =
                    File::open(&path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
                let Some(text) = path.to_str().filter(|text| is_hidden && !text.contains('\0')) else {
                    return;
                };
                let Ok(volume) = StorageVol::lookup_by_path(connection, text) else { return };
                let below = below_volume(&volume);
                next.clone_from(&below);
                self.below.insert(path, below);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "<!-- virsh edit web's machine -->\n<domain type='kvm'><name>web &amp; co</name>\
        <description>Bob's</description><os><loader>/usr/share/x.fd</loader></os><devices>\
        <emulator>/usr/bin/qemu</emulator><disk type='file'><source file='/srv/a&amp;b.qcow2'/>\
        <backingStore type='file'><source file=\"/srv/base's.qcow2\"/></backingStore></disk>\
        <serial type='unix'><source mode='bind' path='/run/web.sock'/></serial></devices></domain>";

    #[test]
    fn the_files_of_a_machine_are_read_out_of_its_definition() {
        let mut machines = Machines::default();
        machines.understand("stem", WEB);
        let disks = ["/srv/a&b.qcow2", "/srv/base's.qcow2"].map(PathBuf::from);
        assert_eq!(machines.defined[0].name, "web & co");
        assert_eq!(machines.defined[0].disks, BTreeSet::from(disks));
        assert!(machines.defined[0].files.contains(Path::new("/run/web.sock")));
    }

    #[test]
    fn definitions_and_snapshots_are_read_where_nobody_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut machines = Machines::default();
        machines.read_definitions(&dir.path().join("missing"));
        machines.read_snapshots(&dir.path().join("missing"));
        assert_eq!(machines, Machines::default());
        let snapshots = dir.path().join(SNAPSHOTS).join("web");
        std::fs::create_dir_all(&snapshots).unwrap();
        std::fs::write(dir.path().join("web.xml"), WEB).unwrap();
        std::fs::write(snapshots.join("one.xml"), format!("<domainsnapshot>{}</domainsnapshot>", &WEB[34..]))
            .unwrap();
        machines.read_definitions(dir.path());
        machines.read_snapshots(&dir.path().join(SNAPSHOTS));
        assert_eq!(machines.silent, None);
        assert_eq!(machines.defined.len(), 2);
        assert_eq!(machines.defined[0], machines.defined[1]);
        std::fs::write(dir.path().join("bad.xml"), "<domain").unwrap();
        machines.read_definitions(dir.path());
        assert!(machines.silent.unwrap().contains("bad"));
    }

    #[cfg(feature = "libvirt")]
    #[test]
    fn libvirt_is_asked_for_all_its_machines() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node.xml");
        // A driver that needs no daemon, with one machine.
        let text = "<node><domain type='test'><name>web</name><memory>65536</memory><os><type>hvm</type></os>\
             <devices><disk type='file' device='disk'><source file='/srv/a&amp;b'/><target dev='vda' bus='virtio'/></disk></devices>\
             </domain></node>";
        std::fs::write(&node, text).unwrap();
        let told = Machines::of(LibvirtUri(&format!("test://{}", node.display())));
        assert_eq!(told.silent, None);
        assert!(told.defined.iter().all(|machine| machine.name == "web"));
        assert!(told.defined[0].disks.contains(Path::new("/srv/a&b")));
        let silent = Machines::of(LibvirtUri("nonsense:///x"));
        assert!(silent.silent.is_some_and(|why| !why.is_empty()));
    }
}
