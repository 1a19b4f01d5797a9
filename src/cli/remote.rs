//! `vsphere://CREDENTIAL-OR-HOST/PATH/TO/VM`: a VM of a vCenter or an ESXi host, as a person names it.
//!
//! It stands for a manifest with that source. What is before the first `/` is the name of a stored credential, or a host for which there is one: a login
//! is stored before it is used, so that no password is ever on a command line. What is not here: asking the server.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::model::config::CredentialSettings;
use crate::model::error::{Error, Kind, Result};
use crate::model::remote::HTTPS_PORT;
use crate::model::units::{is_id, safe_id};
use crate::vsphere::stored;

/// What such a name begins with.
pub(super) const VM: &str = "vsphere://";

/// Whether a VM of a server is named.
pub(super) fn is_meant(input: &Path) -> bool {
    input.to_str().is_some_and(|text| text.starts_with(VM))
}

/// The manifest that such a VM stands for, and the name of the file that it would be; none if none is named.
pub(super) fn document(input: &Path, credentials: &CredentialSettings) -> Result<Option<(Value, String)>> {
    let Some(named) = input.to_str().and_then(|text| text.strip_prefix(VM)) else { return Ok(None) };
    let (at, path) = named.split_once('/').unwrap_or((named, ""));
    let path = path.trim_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    if at.is_empty() || name.is_empty() {
        return Err(Error::new(Kind::Source, format!("{} names no VM", input.display()))
            .advice("write `vsphere://CREDENTIAL-OR-HOST/PATH`, with a path of `hyper2kvm vsphere list`"));
    }
    let (at, port) = with_port(at)?;
    let credential = match is_id(at) && credentials.stored(at).exists() {
        true => at.to_owned(),
        false => of_host(at, credentials)?,
    };
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
fn of_host(host: &str, credentials: &CredentialSettings) -> Result<String> {
    let dir = &credentials.dir;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(Path::new(&entry.file_name()).file_stem()?.to_str()?.to_owned()))
        .filter(|name| is_id(name) && stored::read(&credentials.stored(name), Some(host), HTTPS_PORT).is_ok())
        .collect();
    names.sort_unstable();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(
            Kind::Source,
            format!("no stored credential is called `{host}` or is for that host"),
        )
        .advice(format!(
            "write its `host`, `username` and `password` into {}, readable for you alone",
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
