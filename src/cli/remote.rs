//! `vsphere://CREDENTIAL-OR-HOST/PATH/TO/VM`: a VM of a vCenter or an ESXi host, as a person names it; and
//! `esxi://CREDENTIAL-OR-HOST/vmfs/volumes/…`: one by its VMX, or a disk, on a host that is reached over SSH.
//!
//! It stands for a manifest with that source. What is before the first `/` is the name of a stored credential, or a host for which there is one: a login
//! is stored before it is used, so that no password is ever on a command line. What is not here: asking the server.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::model::config::CredentialSettings;
use crate::model::error::{Error, Kind, Result};
use crate::model::remote::{HTTPS_PORT, SSH_PORT};
use crate::model::units::{is_id, safe_id};
use crate::vsphere::ssh::Account;
use crate::vsphere::stored;

/// What such a name begins with.
pub(super) const VM: &str = "vsphere://";

/// The same for one by its file on a host.
pub(super) const ON_HOST: &str = "esxi://";

/// Whether a VM of a server is named.
pub(super) fn is_meant(input: &Path) -> bool {
    input.to_str().is_some_and(|text| text.starts_with(VM) || text.starts_with(ON_HOST))
}

/// The manifest that such a VM stands for, and the name of the file that it would be; none if none is named.
pub(super) fn document(input: &Path, credentials: &CredentialSettings) -> Result<Option<(Value, String)>> {
    let text = input.to_str().unwrap_or_default();
    if let Some(named) = text.strip_prefix(ON_HOST) {
        return document_on_host(input, named, credentials).map(Some);
    }
    let Some(named) = text.strip_prefix(VM) else { return Ok(None) };
    let (at, path) = named.split_once('/').unwrap_or((named, ""));
    let path = path.trim_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    if at.is_empty() || name.is_empty() {
        return Err(Error::new(Kind::Source, format!("{} names no VM", input.display()))
            .advice("write `vsphere://CREDENTIAL-OR-HOST/PATH`, with a path of `hyper2kvm vsphere list`"));
    }
    let (at, port) = with_port(at)?;
    let credential = credential(at, credentials, &|file| stored::read(file, Some(at), HTTPS_PORT).is_ok())?;
    let mut vsphere = json!({ "credential": credential });
    if let Some(port) = port {
        vsphere["port"] = json!(port);
    }
    // A name alone may be anywhere; of several it is told where they are.
    let key = if path.contains('/') { "vm_path" } else { "vm_name" };
    vsphere[key] = json!(path);
    let document = json!({ "manifest_version": "1.0", "name": name, "source": { "vsphere": vsphere } });
    Ok(Some((document, format!("{}.yaml", safe_id(name)))))
}

/// The same for a VMX or a disk on a host.
fn document_on_host(input: &Path, named: &str, credentials: &CredentialSettings) -> Result<(Value, String)> {
    let (at, path) = named.split_once('/').unwrap_or((named, ""));
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = name.rsplit_once('.').map_or("", |(stem, _)| stem);
    if at.is_empty() || name.is_empty() {
        return Err(Error::new(Kind::Source, format!("{} names no VM", input.display()))
            .advice("write `esxi://CREDENTIAL-OR-HOST/vmfs/volumes/DATASTORE/DIRECTORY/NAME.vmx`"));
    }
    let (at, port) = with_port(at)?;
    let credential = credential(at, credentials, &|file| Account::stored(file, Some(at), SSH_PORT).is_ok())?;
    let mut esxi = json!({ "credential": credential, "path": format!("/{path}") });
    if let Some(port) = port {
        esxi["port"] = json!(port);
    }
    let document = json!({ "manifest_version": "1.0", "name": name, "source": { "esxi": esxi } });
    Ok((document, format!("{}.yaml", safe_id(name))))
}

/// The stored credential of this name, or the only one that is for this host.
fn credential(at: &str, credentials: &CredentialSettings, is_for: &dyn Fn(&Path) -> bool) -> Result<String> {
    match is_id(at) && credentials.stored(at).exists() {
        true => Ok(at.to_owned()),
        false => of_host(at, credentials, is_for),
    }
}

/// `vc.example.com:8443`; an IPv6 address has brackets.
fn with_port(at: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = match at.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => match at.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (at, None),
        },
    };
    let port = port.map(|port| {
        port.parse().map_err(|_| {
            Error::new(Kind::Source, format!("`{port}` is no port"))
                .advice("write an IPv6 address in brackets: `vsphere://[2001:db8::10]:8443/…`")
        })
    });
    Ok((host, port.transpose()?))
}

/// The only stored credential that is for this host.
fn of_host(host: &str, credentials: &CredentialSettings, is_for: &dyn Fn(&Path) -> bool) -> Result<String> {
    let dir = &credentials.dir;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(Path::new(&entry.file_name()).file_stem()?.to_str()?.to_owned()))
        .filter(|name| is_id(name) && is_for(&credentials.stored(name)))
        .collect();
    names.sort_unstable();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(
            Kind::Source,
            format!("no stored credential is called `{host}` or is for that host"),
        )
        .advice(format!(
            "write its `host`, `username` and `password` (over SSH: `identity` and `known_hosts`) into {}, readable for you alone",
            dir.join("NAME.yaml").display()
        ))),
        _ => Err(Error::new(Kind::Source, format!("{} stored credentials are for {host}", names.len()))
            .allowed(names.clone())
            .advice("name one of them: `vsphere://CREDENTIAL/…`")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn stored_in(dir: &Path) -> CredentialSettings {
        for (name, host) in
            [("prod", "vc.example.com"), ("lab-1", "esx.example.com"), ("lab-2", "esx.example.com")]
        {
            let text = format!("host: {host}\nusername: root\npassword: geheim\n");
            fs::write(dir.join(format!("{name}.yaml")), text).unwrap();
        }
        fs::write(dir.join("broken.yaml"), "host: [").unwrap();
        CredentialSettings { dir: dir.to_owned(), ..CredentialSettings::default() }
    }

    #[test]
    fn a_vm_is_named_by_a_credential_or_its_host() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = stored_in(dir.path());
        let source = |text: &str| {
            let (document, filename) = document(&PathBuf::from(text), &credentials).unwrap().unwrap();
            (document["source"]["vsphere"].clone(), document["name"].clone(), filename)
        };
        let (vsphere, name, filename) = source("vsphere://prod/DC0/vm/web 01");
        assert_eq!(vsphere, json!({ "credential": "prod", "vm_path": "DC0/vm/web 01" }));
        assert_eq!((name, filename.as_str()), (json!("web 01"), "web-01.yaml"));
        let (vsphere, ..) = source("vsphere://VC.example.com:8443/web");
        assert_eq!(vsphere, json!({ "credential": "prod", "port": 8443, "vm_name": "web" }));
    }

    #[test]
    fn a_vm_is_named_by_its_file_on_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let text = "host: esx.example.com\nidentity: /keys/id\nknown_hosts: /keys/known\n";
        fs::write(dir.path().join("esx.yaml"), text).unwrap();
        let credentials = CredentialSettings { dir: dir.path().to_owned(), ..CredentialSettings::default() };
        for at in ["esx", "esx.example.com"] {
            let text = format!("esxi://{at}:2222/vmfs/volumes/ds 1/web/it's web.vmx");
            let (document, filename) = document(Path::new(&text), &credentials).unwrap().unwrap();
            let path = "/vmfs/volumes/ds 1/web/it's web.vmx";
            assert_eq!(
                document["source"]["esxi"],
                json!({ "credential": "esx", "path": path, "port": 2222 })
            );
            assert_eq!((document["name"].as_str(), filename.as_str()), (Some("it's web"), "it-s-web.yaml"));
        }
        for text in [
            "esxi://",
            "esxi://esx",
            "esxi://esx/",
            "esxi:///vmfs/volumes/ds1/a.vmx",
            "esxi://other/vmfs/volumes/ds1/a.vmx",
        ] {
            assert!(
                document(Path::new(text), &credentials).unwrap_err().details().advice.is_some(),
                "{text}"
            );
        }
    }

    #[test]
    fn what_names_no_vm_or_no_login_is_told_with_what_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = stored_in(dir.path());
        for text in [
            "vsphere://",
            "vsphere://prod",
            "vsphere://prod/",
            "vsphere:///web",
            "vsphere://other.example.com/web",
            "vsphere://esx.example.com/web",
            "vsphere://prod:high/web",
            "vsphere://../web",
        ] {
            let error = document(Path::new(text), &credentials).unwrap_err();
            assert!(error.details().advice.is_some(), "{text}: {error}");
        }
        assert!(document(Path::new("prod/web"), &credentials).unwrap().is_none());
    }
}
