//! Whether a machine is defined with a disk: whoever changes a disk asks before.
//!
//! All of a connection's machines are looked through, running or not, for a file of theirs that is this one. Paths are read out of the XML
//! that libvirt itself has written, so no parser is needed for it. What is not here: machines that libvirt does not know.

use std::path::Path;

use super::LibvirtUri;

/// Who uses a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// No machine.
    Nobody,
    /// This one.
    Domain(String),
    /// libvirt is there and does not tell.
    Unknown {
        /// In its words.
        why: String,
    },
}

/// The machine that is defined with a disk. Where nothing of libvirt is installed or running, nobody is.
#[cfg(feature = "libvirt")]
#[must_use]
pub fn user_of(uri: LibvirtUri<'_>, disk: &Path) -> User {
    use virt::connect::Connect;
    if !uri.may_be_served() {
        return User::Nobody;
    }
    virt::error::clear_error_callback();
    let unknown = |error: virt::error::Error| User::Unknown { why: error.message().to_owned() };
    let mut connection = match Connect::open_read_only(Some(uri.0)) {
        Ok(connection) => connection,
        Err(error) => return unknown(error),
    };
    let told = connection.list_all_domains(0).map(|domains| {
        domains.iter().find_map(|domain| {
            let xml = domain.get_xml_desc(0).ok()?;
            names(&xml, disk).then(|| domain.get_name().unwrap_or_else(|_| "without a name".to_owned()))
        })
    });
    let _ = connection.close();
    match told {
        Ok(Some(name)) => User::Domain(name),
        Ok(None) => User::Nobody,
        Err(error) => unknown(error),
    }
}

/// This build knows nothing of libvirt.
#[cfg(not(feature = "libvirt"))]
#[must_use]
pub fn user_of(_uri: LibvirtUri<'_>, _disk: &Path) -> User {
    User::Nobody
}

/// Whether an attribute of the XML is a path to this very file.
#[cfg(feature = "libvirt")]
fn names(xml: &str, disk: &Path) -> bool {
    let Ok(real) = disk.canonicalize() else { return false };
    let attributes = xml.split(['\'', '"']).skip(1).step_by(2);
    let unescaped = attributes.map(|value| {
        let value = value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
        value.replace("&apos;", "'").replace("&amp;", "&")
    });
    unescaped
        .filter(|value| value.starts_with('/'))
        .any(|value| Path::new(&value).canonicalize().is_ok_and(|path| path == real))
}

#[cfg(test)]
#[cfg(feature = "libvirt")]
mod tests {
    use super::*;

    /// A driver that needs no daemon, with one machine.
    fn machine(dir: &Path, disk: &Path) -> String {
        let node = dir.join("node.xml");
        let disk = disk.display().to_string().replace('&', "&amp;");
        let text = format!(
            "<node><domain type='test'><name>web</name><memory>65536</memory><os><type>hvm</type></os>\
             <devices><disk type='file' device='disk'><source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices>\
             </domain></node>"
        );
        std::fs::write(&node, text).unwrap();
        format!("test://{}", node.display())
    }

    #[test]
    fn the_machine_that_has_a_disk_is_named_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, other, link) =
            (dir.path().join("a&b.qcow2"), dir.path().join("c.qcow2"), dir.path().join("link"));
        for file in [&disk, &other] {
            std::fs::write(file, "").unwrap();
        }
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let uri = machine(dir.path(), &disk);
        assert_eq!(user_of(LibvirtUri(&uri), &disk), User::Domain("web".to_owned()));
        assert_eq!(user_of(LibvirtUri(&uri), &link), User::Domain("web".to_owned()));
        assert_eq!(user_of(LibvirtUri(&uri), &other), User::Nobody);
    }

    #[test]
    fn one_who_does_not_answer_leaves_it_open() {
        let user = user_of(LibvirtUri("nonsense:///x"), Path::new("/disk"));
        assert!(matches!(user, User::Unknown { .. }), "{user:?}");
    }
}
