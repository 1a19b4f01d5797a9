//! Which UEFI firmware this machine has: by the descriptors that its packages install, else where they are known to lie.
//!
//! The descriptors are those that libvirt goes by as well (QEMU's `firmware.json`), in the same order, so that
//! the test runs what the domain will run. What is not here: SeaBIOS, which QEMU brings along.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::error::{Error, Kind, Result};
use crate::model::machine::FirmwareFiles;

/// Where descriptors lie; a name in an earlier directory hides the same one in a later.
const DESCRIPTORS: [&str; 2] = ["/etc/qemu/firmware", "/usr/share/qemu/firmware"];
/// Descriptors are some dozen lines.
const DESCRIPTOR_BYTES: u64 = 64 << 10;

/// Where firmware lies on systems without descriptors: code, variables, whether it is one with secure boot.
const KNOWN: [(&str, &str, bool); 6] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", false),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd", false),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd", false),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd", false),
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", true),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd", true),
];

/// One UEFI firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UefiFirmware {
    /// Its code: only read.
    pub(super) code: PathBuf,
    /// Its variables as they are delivered: each machine gets a copy.
    pub(super) variables: PathBuf,
    /// The format of both, as QEMU calls it.
    pub(super) format: String,
    /// Whether it works only with system management mode.
    pub(super) needs_smm: bool,
}

/// The firmware for a machine with or without secure boot.
pub(super) fn find(secure_boot: bool) -> Result<UefiFirmware> {
    let lacking = || {
        let with = if secure_boot { " with secure boot and enrolled keys" } else { "" };
        Error::new(Kind::Unsupported, format!("there is no UEFI firmware{with} here"))
            .rule(if secure_boot { "host.secure_boot" } else { "host.uefi" })
            .advice("install it: `apt-get install ovmf` (Debian) or `dnf install edk2-ovmf`")
    };
    described(&DESCRIPTORS.map(PathBuf::from), secure_boot).or_else(|| known(secure_boot)).ok_or_else(lacking)
}

/// The firmware by its files, where libvirt would not find it by itself: it is here, and nothing describes it.
pub(in crate::pipeline) fn undescribed(secure_boot: bool) -> Option<FirmwareFiles> {
    let is_described = described(&DESCRIPTORS.map(PathBuf::from), secure_boot).is_some();
    let found = known(secure_boot).filter(|_| !is_described);
    found.map(|firmware| FirmwareFiles { code: firmware.code, variables: firmware.variables })
}

fn described(directories: &[PathBuf], secure_boot: bool) -> Option<UefiFirmware> {
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in directories {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let hidden = files.iter().any(|file| file.file_name() == path.file_name());
            if path.extension().is_some_and(|suffix| suffix == "json") && !hidden {
                files.push(path);
            }
        }
    }
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    files.iter().filter_map(|file| read(file)).find_map(|found| found.usable(secure_boot))
}

fn read(path: &Path) -> Option<Descriptor> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(DESCRIPTOR_BYTES).read_to_end(&mut text).ok()?;
    // One that is of no use to us, or damaged, is passed over as libvirt does it.
    serde_json::from_slice(&text).ok()
}

fn known(secure_boot: bool) -> Option<UefiFirmware> {
    KNOWN
        .iter()
        .filter(|(.., secure)| *secure == secure_boot)
        .find(|(code, variables, _)| Path::new(code).is_file() && Path::new(variables).is_file())
        .map(|(code, variables, secure)| UefiFirmware {
            code: PathBuf::from(code),
            variables: PathBuf::from(variables),
            format: "raw".to_owned(),
            needs_smm: *secure,
        })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    executable: Option<Flash>,
    nvram_template: Option<Flash>,
}

#[derive(Debug, Deserialize)]
struct Flash {
    filename: PathBuf,
    format: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

impl Descriptor {
    fn usable(self, secure_boot: bool) -> Option<UefiFirmware> {
        let has = |feature: &str| self.features.iter().any(|has| has == feature);
        let ours = |target: &Target| {
            target.architecture == "x86_64" && target.machines.iter().any(|name| name.starts_with("pc-q35"))
        };
        let secure = has("secure-boot");
        let fits = self.mapping.device == "flash"
            && self.interface_types.iter().any(|kind| kind == "uefi")
            && self.targets.iter().any(ours)
            && if secure_boot { secure && has("enrolled-keys") } else { !secure };
        let needs_smm = has("requires-smm");
        let (code, variables) = (self.mapping.executable?, self.mapping.nvram_template?);
        let there =
            code.filename.is_file() && variables.filename.is_file() && code.format == variables.format;
        (fits && there).then_some(UefiFirmware {
            code: code.filename,
            variables: variables.filename,
            format: code.format,
            needs_smm,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, features: &str, interface: &str) {
        let [code, variables] = ["code", "vars"].map(|part| directory.join(format!("{name}.{part}")));
        std::fs::write(&code, "c").unwrap();
        std::fs::write(&variables, "v").unwrap();
        let text = format!(
            r#"{{"interface-types": ["{interface}"], "features": [{features}], "tags": [],
                "mapping": {{"device": "flash", "executable": {{"filename": "{}", "format": "raw"}},
                             "nvram-template": {{"filename": "{}", "format": "raw"}}}},
                "targets": [{{"architecture": "x86_64", "machines": ["pc-q35-*"]}}]}}"#,
            code.display(),
            variables.display()
        );
        std::fs::write(directory.join(format!("{name}.json")), text).unwrap();
    }

    #[test]
    fn the_first_descriptor_that_fits_counts_as_it_does_for_libvirt() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        let usr = dir.path().join("usr");
        for directory in [&etc, &usr] {
            std::fs::create_dir(directory).unwrap();
        }
        write(&usr, "20-broken", "", "uefi");
        std::fs::write(usr.join("20-broken.json"), "{").unwrap();
        write(&usr, "30-bios", "", "bios");
        write(&usr, "40-enrolled", r#""secure-boot", "enrolled-keys", "requires-smm""#, "uefi");
        write(&usr, "50-empty", r#""secure-boot", "requires-smm""#, "uefi");
        write(&usr, "60-plain", "", "uefi");
        let directories = [etc.clone(), usr.clone()];
        let plain = described(&directories, false).unwrap();
        assert_eq!((plain.code, plain.needs_smm), (usr.join("60-plain.code"), false));
        let secure = described(&directories, true).unwrap();
        assert_eq!((secure.code, secure.needs_smm), (usr.join("40-enrolled.code"), true));
        // The administrator's word goes first.
        write(&etc, "60-plain", "", "uefi");
        assert_eq!(described(&directories, false).unwrap().code, etc.join("60-plain.code"));
    }

    #[test]
    fn a_firmware_whose_files_are_gone_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "60-plain", "", "uefi");
        std::fs::remove_file(dir.path().join("60-plain.vars")).unwrap();
        assert_eq!(described(&[dir.path().to_owned()], false), None);
    }
}
