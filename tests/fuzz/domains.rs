//! Domains of libvirt that were spoiled: read, or refused with a reason; and what is read of them makes a manifest.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::planner::{Origin, Submission};
use hyper2kvm::source::{Libvirt, LibvirtDomain, NoLibvirt, machines};

use crate::hold;
use crate::mutate::{mutated, steps};

/// Every domain of the tests, without those that are refused whatever they say.
fn domains() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/domains");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "xml"));
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A libvirt in which every volume is this file, and every domain is written so.
struct Knows(PathBuf, String);

impl Libvirt for Knows {
    fn domain(&self, _: &str, _: &str) -> Result<LibvirtDomain> {
        Ok(LibvirtDomain { xml: self.1.clone(), runs: false, is_saved: false })
    }

    fn volume(&self, _: Option<&str>, _: &str, _: &str) -> Result<PathBuf> {
        Ok(self.0.clone())
    }

    fn pool(&self, uri: &str, name: &str) -> Result<PathBuf> {
        NoLibvirt.pool(uri, name)
    }

    fn runs(&self, uuid: Option<&str>, name: &str) -> bool {
        NoLibvirt.runs(uuid, name)
    }
}

#[test]
fn a_spoiled_domain_is_read_or_refused() {
    let scratch = TempDir::new().unwrap();
    let image = scratch.path().join("disk.img");
    fs::write(&image, vec![0; 4096]).unwrap();
    let whole = domains();
    // Where a disk lies is not what is spoiled.
    let led_here = |text: Vec<u8>| {
        let text = String::from_utf8_lossy(&text).into_owned();
        let parts: Vec<&str> = text.split("/var/lib/libvirt/images/").collect();
        let here = |part: &&str| part.split_once('\'').map(|(_, rest)| format!("{}'{rest}", image.display()));
        let rest: String = parts[1..].iter().map(|part| here(part).unwrap_or_default()).collect();
        format!("{}{rest}", parts[0])
    };
    hold(1500, &(any::<usize>(), steps()), |(which, steps)| {
        let text = led_here(mutated(&whole[which % whole.len()], &steps));
        let path = scratch.path().join("web.xml");
        fs::write(&path, &text).unwrap();
        let knows = Knows(image.clone(), text);
        let by_name = Origin::LibvirtDomain { uri: "qemu:///system".to_owned(), name: "web".to_owned() };
        for origin in [Origin::LibvirtXml(path), by_name] {
            let found = match machines(&origin, &knows) {
                Ok(found) => found,
                Err(error) => {
                    prop_assert!([Kind::Source, Kind::Unsupported].contains(&error.kind()), "{error:?}");
                    prop_assert!(error.details().advice.is_some(), "{error:?}");
                    prop_assert!(!error.to_string().contains(char::is_control), "{error:?}");
                    continue;
                }
            };
            let mut document = found[0].document();
            document["manifest_version"] = "1.0".into();
            let settings = Settings::defaults(Path::new("/state"), 2);
            let text = document.to_string();
            if let Err(error) = Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings)
            {
                prop_assert_eq!(error.kind(), Kind::Manifest, "{}: {}", error, text);
            }
        }
        Ok(())
    });
}
