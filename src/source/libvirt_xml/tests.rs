//! What is read of a domain, without disks that are there.

use super::*;
use crate::source::{LibvirtDomain, NoLibvirt};

/// A libvirt with one domain.
struct Answers(LibvirtDomain);

impl Libvirt for Answers {
    fn domain(&self, _: &str, _: &str) -> Result<LibvirtDomain> {
        Ok(self.0.clone())
    }

    fn volume(&self, uri: Option<&str>, pool: &str, volume: &str) -> Result<PathBuf> {
        assert_eq!(uri, Some("qemu:///system"));
        Ok(PathBuf::from(format!("{pool}/{volume}")))
    }

    fn pool(&self, uri: &str, name: &str) -> Result<PathBuf> {
        NoLibvirt.pool(uri, name)
    }

    fn runs(&self, uuid: Option<&str>, _: &str) -> bool {
        uuid.is_some()
    }
}

fn domain(source: &str, further: &str) -> String {
    format!(
        "<domain><name>web</name>{further}<devices><disk type='volume'><driver type='qcow2'/>{source}\
         <target dev='vda'/></disk></devices></domain>"
    )
}

fn read(uri: &str, xml: &str, runs: bool) -> Result<Vec<Facts>> {
    let libvirt = Answers(LibvirtDomain { xml: xml.to_owned(), runs, is_saved: true });
    read_domain(uri, "web", Reach { libvirt: &libvirt, read_roots: &[] })
}

#[test]
fn a_domain_of_a_libvirt_is_refused_while_it_runs_and_of_another_host() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("a.qcow2");
    std::fs::write(&disk, b"QFI\xfb\0\0\0\x03").unwrap();
    let (pool, volume) = (dir.path().display(), "a.qcow2");
    let xml = domain(&format!("<source pool='{pool}' volume='{volume}'/>"), "");
    let facts = read("qemu:///system", &xml, false).unwrap().remove(0);
    assert_eq!(facts.disks[0].path, disk);
    assert!(facts.warnings.iter().any(|warning| warning.contains("managedsave")), "{:?}", facts.warnings);
    let error = read("qemu:///system", &xml, true).unwrap_err();
    assert!(error.to_string().contains("`web` runs"), "{error}");
    for uri in ["qemu+ssh://other/system", "qemu+tls://root@other.example.com:16514/system"] {
        let error = read(uri, &xml, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("another host"), "{error}");
    }
    // What a pool of another kind calls a path is none.
    let error = read("qemu:///system", &domain("<source pool='rbd' volume='a'/>", ""), false).unwrap_err();
    assert!(error.to_string().contains("no file of this host"), "{error}");
}

#[test]
fn a_file_is_refused_while_its_machine_runs_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.xml");
    let libvirt = Answers(LibvirtDomain { xml: String::new(), runs: false, is_saved: false });
    let told = |further: &str| {
        let xml = domain("<source file='/no/such/disk'/>", further).replace("type='volume'", "type='file'");
        std::fs::write(&path, xml).unwrap();
        read_file(&path, Reach { libvirt: &libvirt, read_roots: &[] }).unwrap_err().to_string()
    };
    assert!(told("<uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid>").contains("`web` runs on this host"));
    assert!(told("").contains("is not there: /no/such/disk"));
}

#[test]
fn a_domain_that_was_cut_or_changed_anywhere_is_read_or_refused() {
    let xml = domain("<source pool='a' volume='b'/>", "<memory unit='KiB'>65536</memory><vcpu>1</vcpu>");
    let mut read = 0;
    for at in 0..xml.len() {
        let mut changed = xml.clone().into_bytes();
        changed[at] ^= 1;
        for bytes in [&xml.as_bytes()[..at], &changed] {
            read += usize::from(described(bytes).is_ok());
        }
    }
    assert!(read > 10, "names and numbers may be others: {read}");
}
