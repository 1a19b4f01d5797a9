//! What will be done to one VM and why: every decision made before anything is touched.
//!
//! A [`Plan`] is pure data. It is made from a manifest and the settings, before the source is
//! opened; stored with the job; handed to the worker, which takes no decision that is not in here
//! except those that only the source's content can make (its real format, its size).

use std::cmp::Ordering;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boot::BootOptions;
use super::facts::SourceNote;
use super::handover::PlannedLibvirt;
use super::hook::PlannedHook;
use super::job::Stage;
use super::machine::Machine;
use super::manifest::{FixEngine, FstabMode, OnNoOs, OnUnsupportedGuest, VsphereMode};
use super::placement::Placement;
use super::remote::PlannedRemote;
use super::setup::Setup;
pub use super::source_format::{Packing, SourceFormat};
use super::validation::Weights;

/// The formats that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// QEMU's own.
    #[default]
    Qcow2,
    /// Bytes as they are, sparse.
    Raw,
    /// streamOptimized when compressed, else monolithicSparse.
    Vmdk,
    /// Dynamic VHD.
    Vhd,
    /// VirtualBox.
    Vdi,
}

impl OutputFormat {
    /// Every format.
    pub const ALL: [OutputFormat; 5] =
        [OutputFormat::Qcow2, OutputFormat::Raw, OutputFormat::Vmdk, OutputFormat::Vhd, OutputFormat::Vdi];

    /// The name in manifests, and the suffix of the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Qcow2 => "qcow2",
            OutputFormat::Raw => "raw",
            OutputFormat::Vmdk => "vmdk",
            OutputFormat::Vhd => "vhd",
            OutputFormat::Vdi => "vdi",
        }
    }
}

impl From<OutputFormat> for SourceFormat {
    /// The format by which a result is read again.
    fn from(format: OutputFormat) -> SourceFormat {
        match format {
            OutputFormat::Qcow2 => SourceFormat::Qcow2,
            OutputFormat::Raw => SourceFormat::Raw,
            OutputFormat::Vmdk => SourceFormat::Vmdk,
            OutputFormat::Vhd => SourceFormat::Vhd,
            OutputFormat::Vdi => SourceFormat::Vdi,
        }
    }
}

/// How the result's clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not.
    #[default]
    None,
    /// Fast and dense; qcow2 only.
    Zstd,
    /// For old readers.
    Zlib,
}

/// How much of the result is laid out beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preallocation {
    /// Nothing: thin.
    #[default]
    Off,
    /// qcow2's tables only.
    Metadata,
    /// Blocks reserved.
    Falloc,
    /// Blocks reserved and written.
    Full,
}

impl Preallocation {
    /// Whether a result occupies its whole size from its beginning.
    #[must_use]
    pub fn lays_out(self) -> bool {
        matches!(self, Preallocation::Falloc | Preallocation::Full)
    }
}

/// What to do when a result of that name is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExists {
    /// Refuse (kind `exists`).
    #[default]
    Refuse,
    /// Put the result beside it, with `-2`, `-3`…
    Suffix,
    /// Replace it, unless it is locked or in use.
    Replace,
}

/// What is checked before bytes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preflight {
    /// Everything, including given checksums.
    #[default]
    Full,
    /// What can be told from metadata.
    Metadata,
    /// Nothing beyond what a copy needs.
    Off,
}

impl Preflight {
    /// Every choice.
    pub const ALL: [Preflight; 3] = [Preflight::Full, Preflight::Metadata, Preflight::Off];

    /// The name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Preflight::Full => "full",
            Preflight::Metadata => "metadata",
            Preflight::Off => "off",
        }
    }
}

/// Every format can have disks of such sizes, and partitions end well there.
const GROWN_TO_A_MULTIPLE_OF: u64 = 1 << 20;

/// A SHA-256 as 64 lower-case hex digits.
pub type Sha256Hex = String;

/// One disk of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDisk {
    /// Its id; the result's file is `<id>.<format>`, unless a mapping places it elsewhere.
    pub id: String,
    /// Where the source lies (absolute).
    pub source: PathBuf,
    /// Which member of it, if it is an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// How that is packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// The format that the manifest declares.
    pub source_format: SourceFormat,
    /// What the source file, or the member, has to hash to (see [`checksum`](super::checksum)).
    pub checksum: Option<String>,
    /// The same of each piece of it, in their order; none: they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub piece_checksums: Vec<String>,
    /// The size that the manifest names (file or virtual).
    pub bytes: Option<u64>,
    /// Whether a chain of snapshots is allowed.
    pub backing_chain: bool,
    /// Other directories in which members of the chain, or extents, may lie.
    pub allowed_paths: Vec<PathBuf>,
    /// Lowest boots.
    pub boot_order_hint: u32,
    /// How far its result is larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<PlannedGrowth>,
    /// Where and how its result lies, where that is not as for the VM.
    #[serde(default, skip_serializing_if = "Placement::is_none")]
    pub placement: Placement,
}

/// How far a disk grows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedGrowth {
    /// By so much.
    By(u64),
    /// To so much.
    To(u64),
}

impl PlannedGrowth {
    /// The size of the result: in whole MiB, unless it is the source's; `None` where it would be smaller than that, or larger than can be
    /// counted.
    #[must_use]
    pub fn applied_to(self, source: u64) -> Option<u64> {
        let wanted = match self {
            PlannedGrowth::By(bytes) => source.checked_add(bytes)?,
            PlannedGrowth::To(bytes) => bytes,
        };
        match wanted.cmp(&source) {
            Ordering::Less => None,
            Ordering::Equal => Some(source),
            Ordering::Greater => wanted.checked_next_multiple_of(GROWN_TO_A_MULTIPLE_OF),
        }
    }
}

/// One stage of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedStage {
    /// Which.
    pub stage: Stage,
    /// Whether it will run.
    pub enabled: bool,
    /// Why (or why not), for people.
    pub reason: String,
}

/// How the results are to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedOutput {
    /// The directory of this VM's files (absolute).
    pub directory: PathBuf,
    /// Format of every disk.
    pub format: OutputFormat,
    /// Packing of every disk.
    pub compress: Compression,
    /// Level of packing, where the format knows levels.
    pub compress_level: Option<u8>,
    /// Layout.
    pub preallocation: Preallocation,
    /// Group of the files.
    pub group: Option<String>,
    /// Mode of the files.
    pub mode: Option<u32>,
    /// What if a result is there.
    pub on_exists: OnExists,
    /// Whether `report.json` is written.
    pub report: bool,
    /// Whether `domain.xml` is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub domain: bool,
    /// Whether `qemu-img check` is part of validation.
    pub check_image_integrity: bool,
    /// Whether every byte of a result is read back from the medium.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_back: bool,
}

/// What may be written for repairs, besides the guest's own data: overlays, and what their content adds to the results.
const ROOM_FOR_FIXES_BYTES: u64 = 512 << 20;

/// A file system that grows writes tables for what it gains: generously, one byte for this many.
const TABLES_OF_GROWTH_PART: u64 = 4096;

/// What is done inside the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedGuest {
    /// How it is repaired.
    pub fix: PlannedFix,
    /// Keys for encrypted volumes.
    pub keys: Vec<PlannedKey>,
    /// The NICs of the machine to come, in order.
    pub nics: Vec<PlannedNic>,
    /// What is set up in it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
}

/// How a guest is repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedFix {
    /// Who repairs it.
    pub engine: FixEngine,
    /// What becomes of device names in fstab.
    pub fstab_mode: FstabMode,
    /// Repair the boot loader.
    pub update_grub: bool,
    /// Put drivers into the initramfs.
    pub regen_initramfs: bool,
    /// Repair the network configuration.
    pub network: bool,
    /// Remove what VMware and others installed.
    pub remove_vmware_tools: bool,
    /// Give the guest a serial console.
    pub console: bool,
    /// Keep what was there.
    pub backup: bool,
    /// Put the guest's fstab into the log.
    pub print_fstab: bool,
    /// The root file system, where it cannot be found.
    pub root: Option<String>,
    /// What if there is no operating system.
    pub on_no_os: OnNoOs,
    /// What if it is one that cannot be repaired.
    pub on_unsupported_guest: OnUnsupportedGuest,
}

/// Where the key of an encrypted volume is; never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedKey {
    /// Of this device, in the guest's words.
    pub device: Option<String>,
    /// Of the volume with this UUID.
    pub uuid: Option<String>,
    /// Where it is.
    #[serde(flatten)]
    pub source: KeySource,
}

/// Where a key is (both absolute).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// In a file that holds nothing else.
    KeyFile(PathBuf),
    /// In this stored credential.
    Credential(PathBuf),
}

/// A NIC as the guest will see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedNic {
    /// Its address, if it is fixed.
    pub mac: Option<String>,
    /// The address that it had where it came from, if that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// The default route.
    pub gateway: Option<String>,
    /// Name servers.
    pub dns: Vec<String>,
}

/// Everything that will be done to one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The VM's id in its batch.
    pub vm_id: String,
    /// The VM's name.
    pub name: String,
    /// The profile it is based on.
    pub profile: String,
    /// All stages in order, also those that are off.
    pub stages: Vec<PlannedStage>,
    /// The disks; the boot disk first.
    pub disks: Vec<PlannedDisk>,
    /// Whose disks these are, if they are not here: without any until that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Box<PlannedRemote>>,
    /// The machine that the results are for.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// What is done inside the guest.
    #[serde(default)]
    pub guest: PlannedGuest,
    /// How it is tried whether the result boots.
    #[serde(default)]
    pub boot_test: BootOptions,
    /// What is run between the stages, in that order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<PlannedHook>,
    /// What libvirt is told of it, if it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<PlannedLibvirt>,
    /// The results.
    pub output: PlannedOutput,
    /// What is checked first.
    pub preflight: Preflight,
    /// What the manifest makes of which rule of that.
    #[serde(default, skip_serializing_if = "Weights::is_empty")]
    pub rules: Weights,
    /// What is known of its source by the name of a rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<SourceNote>,
    /// Stages that the profile asks for and that this version lacks.
    pub lacking: Vec<Stage>,
    /// Things a person should know.
    pub warnings: Vec<String>,
    /// Lower runs first.
    pub priority: i64,
    /// VMs of the same batch that have to succeed first.
    pub depends_on: Vec<String>,
    /// Whether an input or output needs the network (remote sources, network file systems named as such).
    pub needs_network: bool,
    /// SHA-256 of the canonical effective manifest: what "the same content" means.
    pub content_sha256: Sha256Hex,
    /// What the report says of the input.
    pub input: InputManifest,
}

impl Plan {
    /// Whether a stage will run.
    #[must_use]
    pub fn runs(&self, stage: Stage) -> bool {
        self.stages.iter().any(|planned| planned.stage == stage && planned.enabled)
    }

    /// The same, fit to be shown: without what passwords could be guessed from.
    #[must_use]
    pub fn without_secrets(mut self) -> Plan {
        if let Some(setup) = &mut self.guest.setup {
            setup.accounts.hide_passwords();
        }
        self.without_draft()
    }

    /// Whether the guest is opened.
    #[must_use]
    pub fn opens_guest(&self) -> bool {
        self.runs(Stage::Inspect) || self.runs(Stage::Fix)
    }

    /// Whether the guest of a source that is to be shut down is looked into while it still runs. One that is copied while it runs is not.
    #[must_use]
    pub fn looks_before_shutdown(&self) -> bool {
        let is_meant = |remote: &PlannedRemote| {
            remote.looks_first && remote.shutdown.is_some() && remote.mode == VsphereMode::Cold
        };
        self.opens_guest() && self.remote.as_deref().is_some_and(is_meant)
    }

    /// Bytes that repairs may take on the results' file system, besides the results.
    #[must_use]
    pub fn room_for_fixes(&self) -> u64 {
        let tables = self.disks.iter().filter_map(|disk| disk.resize).fold(0_u64, |sum, growth| {
            let (PlannedGrowth::By(bytes) | PlannedGrowth::To(bytes)) = growth;
            sum.saturating_add(bytes / TABLES_OF_GROWTH_PART)
        });
        if self.runs(Stage::Fix) { ROOM_FOR_FIXES_BYTES.saturating_add(tables) } else { 0 }
    }

    /// Whether what is in a disk that grows does so too.
    #[must_use]
    pub fn grows_content(&self) -> bool {
        self.runs(Stage::Fix)
    }
}

/// What a report says of the manifest it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputManifest {
    /// Name or path of the dropped file.
    pub path: Option<String>,
    /// Its version.
    pub manifest_version: String,
    /// `source.provider`.
    pub source_provider: Option<String>,
    /// `source.vm_id`.
    pub source_vm_id: Option<String>,
    /// `source.vm_name`.
    pub source_vm_name: Option<String>,
    /// The manifest's notes, passed on.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The manifest's metadata, passed on.
    #[serde(default)]
    pub metadata: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_grows_by_so_much_or_to_so_much_and_then_has_whole_mebibytes() {
        assert_eq!(PlannedGrowth::By(10 * GIB).applied_to(2 * GIB), Some(12 * GIB));
        assert_eq!(PlannedGrowth::To(50 * GIB).applied_to(2 * GIB), Some(50 * GIB));
        assert_eq!(PlannedGrowth::By(1).applied_to(2 * GIB), Some(2 * GIB + (1 << 20)));
        assert_eq!(PlannedGrowth::To(5_000_000_000).applied_to(512), Some(4769 << 20));
    }

    #[test]
    fn the_same_size_is_nothing_to_do_and_a_smaller_one_is_no_growth() {
        assert_eq!(PlannedGrowth::To(GIB + 512).applied_to(GIB + 512), Some(GIB + 512));
        assert_eq!(PlannedGrowth::To(GIB).applied_to(GIB + 512), None);
        assert_eq!(PlannedGrowth::By(u64::MAX).applied_to(GIB), None);
    }
}
