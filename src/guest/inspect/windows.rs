//! Who a Windows is, by its registry: name, version, processor, its own name. Nothing of it is changed.
//!
//! Hives are a guest's own binary files, so they are read by hivex inside the appliance. One that cannot be read leaves the system without a
//! description, which is told, and a Windows all the same. What is not here: drivers and services, which a repair would need.

use super::files::Files;
use crate::guest::appliance::Appliance;
use crate::guest::tree::shown;
use crate::model::error::Result;
use crate::model::guest::{GuestIdentity, GuestType};

/// Names on NTFS keep their case, and installations differ in theirs.
const SOFTWARE: &str = "/[Ww][Ii][Nn]*/[Ss]ystem32/[Cc]onfig/[Ss][Oo][Ff][Tt][Ww][Aa][Rr][Ee]";
const SYSTEM: &str = "/[Ww][Ii][Nn]*/[Ss]ystem32/[Cc]onfig/[Ss][Yy][Ss][Tt][Ee][Mm]";
const VERSION: [&str; 3] = ["Microsoft", "Windows NT", "CurrentVersion"];
/// From these builds on, `CurrentVersion` stays at 6.3 and `ProductName` at Windows 10.
const FIRST_BUILD_OF_10: u32 = 10_240;
const FIRST_BUILD_OF_11: u32 = 22_000;

/// What is known of it, and what a person should know of what is not.
pub(super) fn describe(appliance: &Appliance, files: Files<'_>) -> Result<(GuestIdentity, Vec<String>)> {
    let mut notes = Vec::new();
    let mut ask = |pattern: &str, key: &[&str], values: &[&str]| -> Result<Vec<Option<String>>> {
        let Some(hive) = files.matching(&[pattern])?.into_iter().next() else { return Ok(Vec::new()) };
        Ok(appliance.registry(&hive, key, values).unwrap_or_else(|why| {
            notes.push(format!("{} of the Windows cannot be read: {}", shown(&hive), shown(&why)));
            Vec::new()
        }))
    };
    let told = ask(SOFTWARE, &VERSION, &["ProductName", "CurrentVersion", "CurrentBuildNumber"])?;
    let system =
        |key: &[&'static str]| -> Vec<&'static str> { [&["ControlSet001", "Control"], key].concat() };
    let machine = ask(SYSTEM, &system(&["ComputerName", "ComputerName"]), &["ComputerName"])?;
    let processor = ask(SYSTEM, &system(&["Session Manager", "Environment"]), &["PROCESSOR_ARCHITECTURE"])?;
    let value = |list: &[Option<String>], at: usize| list.get(at).cloned().flatten();
    let (name, version, build) = (value(&told, 0), value(&told, 1), value(&told, 2));
    let identity = GuestIdentity {
        kind: GuestType::Windows,
        os_id: Some("windows".to_owned()),
        os_version: full_version(version.as_deref(), build.as_deref()),
        os_pretty: name.map(|name| true_name(&name, build.as_deref())),
        architecture: value(&processor, 0).and_then(|name| architecture(&name)).map(str::to_owned),
        hostname: value(&machine, 0),
        ..GuestIdentity::default()
    };
    // The same hive is asked twice.
    notes.dedup();
    Ok((identity, notes))
}

/// `6.1.7601`, `10.0.20348`
fn full_version(version: Option<&str>, build: Option<&str>) -> Option<String> {
    let is_10 =
        build.and_then(|build| build.parse().ok()).is_some_and(|build: u32| build >= FIRST_BUILD_OF_10);
    let version = if is_10 { "10.0" } else { version? };
    Some(build.map_or_else(|| version.to_owned(), |build| format!("{version}.{build}")))
}

fn true_name(name: &str, build: Option<&str>) -> String {
    let is_11 =
        build.and_then(|build| build.parse().ok()).is_some_and(|build: u32| build >= FIRST_BUILD_OF_11);
    match name.strip_prefix("Windows 10") {
        Some(edition) if is_11 => format!("Windows 11{edition}"),
        _ => name.to_owned(),
    }
}

fn architecture(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_uppercase().as_str() {
        "AMD64" => "x86_64",
        "X86" => "i686",
        "ARM64" => "aarch64",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_what_the_build_says_where_the_registry_stands_still() {
        assert_eq!(full_version(Some("6.1"), Some("7601")).as_deref(), Some("6.1.7601"));
        assert_eq!(full_version(Some("6.3"), Some("20348")).as_deref(), Some("10.0.20348"));
        assert_eq!(full_version(Some("5.2"), None).as_deref(), Some("5.2"));
        assert_eq!(full_version(None, Some("x")), None);
    }

    #[test]
    fn windows_11_calls_itself_10() {
        assert_eq!(true_name("Windows 10 Pro", Some("22631")), "Windows 11 Pro");
        assert_eq!(true_name("Windows 10 Pro", Some("19045")), "Windows 10 Pro");
        assert_eq!(true_name("Windows Server 2022 Standard", Some("20348")), "Windows Server 2022 Standard");
    }
}
