//! `pipeline`: the stages and how each of them works.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize as DeserializeTrait, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::values::{Line, Seconds, Whole};
use crate::model::parse::{closest, refuse};
use crate::model::plan::Compression;

/// `pipeline`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Find out what guest is inside.
    pub inspect: Option<Inspect>,
    /// Repair it for KVM.
    pub fix: Option<Fix>,
    /// Write the final format.
    pub convert: Option<Convert>,
    /// Prove that the result holds what the source held.
    pub validate: Option<Validate>,
    /// Prove that it boots.
    pub boot_test: Option<BootTest>,
}

/// `pipeline.inspect`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// Whether it runs.
    pub enabled: Option<bool>,
    /// Whether all about the guest goes into the report.
    pub collect_guest_info: Option<bool>,
}

/// `pipeline.fix`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fix {
    /// Whether it runs.
    pub enabled: Option<bool>,
    /// Keep what was there.
    pub backup: Option<bool>,
    /// Put the guest's fstab into the log.
    pub print_fstab: Option<bool>,
    /// Repair the boot loader.
    pub update_grub: Option<bool>,
    /// Put drivers into the initramfs.
    pub regen_initramfs: Option<bool>,
    /// What becomes of device names in fstab.
    pub fstab_mode: Option<FstabMode>,
    /// Remove what VMware installed.
    pub remove_vmware_tools: Option<bool>,
    /// What does it.
    pub engine: Option<FixEngine>,
    /// What if there is no operating system.
    pub on_no_os: Option<OnNoOs>,
    /// What if it is one that cannot be repaired.
    pub on_unsupported_guest: Option<OnUnsupportedGuest>,
    /// Give the guest a serial console.
    pub console: Option<bool>,
    /// The root file system, where it cannot be found.
    pub root: Option<Line>,
    /// Repair the network configuration.
    pub network: Option<bool>,
}

/// What becomes of device names in fstab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FstabMode {
    /// Every unstable name becomes a stable one.
    #[default]
    StabilizeAll,
    /// Only by-path names.
    BypathOnly,
    /// Nothing.
    Noop,
}

/// What repairs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FixEngine {
    /// This program.
    #[default]
    Native,
    /// virt-v2v.
    #[serde(rename = "virt-v2v")]
    VirtV2v,
    /// Whichever can.
    Auto,
}

/// What if a disk holds no operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnNoOs {
    /// The job fails.
    #[default]
    Fail,
    /// It is converted as it is.
    Skip,
}

/// What if a guest cannot be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnsupportedGuest {
    /// The job fails.
    #[default]
    Refuse,
    /// It is converted as it is and gets SATA and e1000e.
    Emulated,
}

/// `pipeline.convert`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Convert {
    /// Whether it runs.
    pub enabled: Option<bool>,
    /// The same as `output.compress`.
    pub compress: Option<Compress>,
    /// The same as `output.compress_level`.
    pub compress_level: Option<Whole<1, 22>>,
    /// The same as `pipeline.validate.check_image_integrity`.
    pub check_image_integrity: Option<bool>,
}

/// `pipeline.validate`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validate {
    /// Whether it runs.
    pub enabled: Option<bool>,
    /// Whether `qemu-img check` is part of it.
    pub check_image_integrity: Option<bool>,
    /// Whether every byte of the result is read back from the medium.
    pub read_back: Option<bool>,
}

/// `pipeline.boot_test`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BootTest {
    /// Whether it runs.
    pub enabled: Option<bool>,
    /// How long the guest may take.
    pub timeout_s: Option<Seconds>,
    /// What runs it.
    pub accel: Option<Accelerator>,
    /// Who runs it.
    pub method: Option<BootMethod>,
    /// Memory of the test machine, MiB.
    pub memory_mb: Option<Whole<64, 67_108_864>>,
    /// Processors of the test machine.
    pub vcpus: Option<Whole<1, 4096>>,
    /// What starts it.
    pub firmware: Option<TestFirmware>,
    /// Whether there is a screen.
    pub display: Option<bool>,
    /// Text on the console that means "booted".
    pub expect: Option<Line>,
}

/// What runs a test machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM where it works.
    Auto,
    /// KVM.
    Kvm,
    /// Emulation.
    Tcg,
}

/// Who runs a test machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BootMethod {
    /// QEMU, started here.
    #[default]
    Qemu,
    /// libvirt.
    Libvirt,
}

impl BootMethod {
    /// Whether nothing has to be said of it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == BootMethod::default()
    }
}

/// What starts a test machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TestFirmware {
    /// What the guest has.
    Auto,
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// `output.compress`: `false`, `true`, or a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// Whatever packs the format best.
    Best,
    /// This, or not at all.
    With(Compression),
}

impl<'de> DeserializeTrait<'de> for Compress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CompressVisitor;
        impl Visitor<'_> for CompressVisitor {
            type Value = Compress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, true, zstd or zlib")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Compress, E> {
                Ok(if on { Compress::Best } else { Compress::With(Compression::None) })
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Compress, E> {
                match name {
                    "zstd" => Ok(Compress::With(Compression::Zstd)),
                    "zlib" => Ok(Compress::With(Compression::Zlib)),
                    "none" => Ok(Compress::With(Compression::None)),
                    _ => {
                        let advice = closest(name, ["zstd", "zlib", "none", "true", "false"])
                            .map(|meant| format!("did you mean `{meant}`?"))
                            .unwrap_or_default();
                        let cause = format!("`{}` is not a compression", name.escape_debug());
                        Err(E::custom(refuse(cause, advice).allowed("false, true, zstd, zlib")))
                    }
                }
            }
        }
        deserializer.deserialize_any(CompressVisitor)
    }
}

impl JsonSchema for Compress {
    fn schema_name() -> Cow<'static, str> {
        "Compress".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": [false, true, "zstd", "zlib", "none"] })
    }
}
