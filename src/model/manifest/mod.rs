//! Artifact Manifest v1 and the batch manifest: what a person drops, as written.
//!
//! Every field of these types is what stands in the file; nothing is filled in here (that is
//! [`planner`](super::planner)'s work) and no feature is missing here: a field whose feature this
//! version lacks is read, checked, and refused by the planner as `unsupported`.

mod batch;
mod guest;
mod hooks;
mod integration;
mod mapping;
mod pipeline;
mod preflight;
mod profile;
mod source;
pub mod values;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{OnExists, OutputFormat, Packing, Preallocation, SourceFormat};
use super::planner::Rerun;
use values::{
    Checksum, FileMode, Free, GroupName, Growth, Id, InterfaceName, Ip, IpPrefix, Line, Mac, PathText,
};
use values::{Uuid, Version, Whole};

pub use batch::{
    AtClose, BatchManifest, BatchMetadata, BatchVm, Gate, Selection, SharedConfig, VmManifest, Window,
};
pub use guest::{
    CloudInit, Configuration, FirstBoot, FirstBootScript, GuestUser, Hostname, NetworkFile, NetworkFileType,
    NetworkFiles, NmConnection, NoCloud, Services, Users,
};
pub use hooks::{Hook, HookRetry, HookStage, HookType, Hooks, RetryStrategy};
pub use integration::LibvirtIntegration;
pub use mapping::{
    Bandwidth, DiskCache, DiskPlace, DiskQos, DiskTarget, Flow, FlowLimits, MacPolicy, NetworkMapping,
    NetworkPlug, NetworkTarget, StorageMapping,
};
pub use pipeline::{
    Accelerator, BootMethod, BootTest, Compress, Convert, Fix, FixEngine, FstabMode, Inspect, OnNoOs,
    OnUnsupportedGuest, Pipeline, TestFirmware, Validate,
};
pub use preflight::{PreflightChoice, RuleName, RuleWeights, weights};
pub use profile::{BUILTIN, PROFILE_NAMES, Profile};
pub use source::{
    ApplianceSource, EsxiSource, LaterSource, LibvirtXmlSource, LocalSource, PathSource, SnapshotQuiesce,
    Source, VsphereAfter, VsphereCutover, VsphereMode, VspherePower, VsphereSnapshot, VsphereSource,
    VsphereTransport, VsphereWarm,
};

/// One VM.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version: `"1.0"`. May be left out only of an inline manifest in a batch.
    pub manifest_version: Option<Version>,
    /// The VM's name everywhere.
    pub name: Option<Line>,
    /// The profile that this manifest builds on; default `production`.
    pub profile: Option<Line>,
    /// A directory of custom profiles.
    pub profiles_directory: Option<PathText>,
    /// Laid over the profile.
    pub profile_overrides: Option<Profile>,
    /// Lower runs first.
    pub priority: Option<Whole<{ i32::MIN as i64 }, { i32::MAX as i64 }>>,
    /// VMs of the same batch that have to succeed first.
    pub depends_on: Option<Vec<Id>>,
    /// Where the VM comes from; informational when there are `disks`.
    pub source: Option<Source>,
    /// The machine, where the source's own facts do not say it.
    pub vm: Option<Vm>,
    /// The disks, as local files.
    pub disks: Option<Vec<Disk>>,
    /// The network cards.
    pub nics: Option<Vec<Nic>>,
    /// Keys for encrypted volumes.
    pub luks: Option<Vec<Luks>>,
    /// Passed on to the report.
    pub notes: Option<Vec<String>>,
    /// Warnings of whoever wrote the manifest; passed on.
    pub warnings: Option<Vec<ManifestWarning>>,
    /// Passed on to the report.
    pub metadata: Option<Metadata>,
    /// The stages.
    pub pipeline: Option<Pipeline>,
    /// What is put into the guest.
    pub configuration: Option<Configuration>,
    /// What is run between stages.
    pub hooks: Option<Hooks>,
    /// Source networks to what cards are plugged into here.
    pub network_mapping: Option<NetworkMapping>,
    /// Disks to places.
    pub storage_mapping: Option<StorageMapping>,
    /// The results.
    pub output: Option<Output>,
    /// How the run itself goes.
    pub options: Option<RunOptions>,
    /// What libvirt is told.
    pub libvirt_integration: Option<LibvirtIntegration>,
    /// Which VMs of a batch that ran before run again.
    pub rerun: Option<Rerun>,
    /// What is checked before bytes move.
    pub preflight: Option<PreflightChoice>,
    /// Start the target although the source may run.
    pub allow_live_clone: Option<bool>,
}

/// `vm`: the machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Virtual processors.
    pub cpu: Option<Whole<1, 4096>>,
    /// Memory in GiB; or `mem_mb`.
    pub mem_gb: Option<Whole<1, 65_536>>,
    /// Memory in MiB; or `mem_gb`.
    pub mem_mb: Option<Whole<1, 67_108_864>>,
    /// What starts the guest; `unknown` is the same as `auto`.
    pub firmware: Option<Firmware>,
    /// Whether only signed boot loaders run.
    pub secureboot: Option<bool>,
    /// Whether the machine has a TPM.
    pub tpm: Option<bool>,
    /// SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// SMBIOS serial number.
    pub serial: Option<Line>,
    /// QEMU machine type.
    pub machine: Option<Id>,
    /// The bus of the disks.
    pub disk_bus: Option<DiskBus>,
    /// The model of the network cards.
    pub nic_model: Option<NicModel>,
    /// `linux`, `windows`, `unknown`, or anything.
    pub os_hint: Option<Line>,
    /// Free text.
    pub os_version: Option<Line>,
}

/// What starts a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// The source's facts, else what the disk is set up for.
    Auto,
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// The same as `auto`.
    Unknown,
}

/// The bus of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// virtio-blk.
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// SATA.
    Sata,
    /// IDE.
    Ide,
}

/// The model of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// virtio-net.
    Virtio,
    /// Intel, PCIe.
    E1000e,
    /// Intel, PCI.
    E1000,
    /// Realtek.
    Rtl8139,
    /// VMware.
    Vmxnet3,
}

/// `disks[]`: one disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its id; the result is `<id>.<format>`.
    pub id: Id,
    /// The format; has to agree with the content, but a declared `raw` is always read as raw.
    pub source_format: SourceFormat,
    /// Where it lies.
    pub local_path: PathText,
    /// Which member of that file, if it is an archive (an OVA).
    pub member: Option<Line>,
    /// How that is packed; `bytes` then is the size of the disk.
    pub compression: Option<Packing>,
    /// How large it is (file or virtual).
    pub bytes: Option<Whole<0, { i64::MAX }>>,
    /// What the file hashes to.
    pub checksum: Option<Checksum>,
    /// The same of each of its pieces, if it is cut into such.
    pub piece_checksums: Option<Vec<Checksum>>,
    /// Lowest boots; default 999.
    pub boot_order_hint: Option<Whole<0, 1_000_000>>,
    /// For people.
    pub label: Option<Line>,
    /// For people.
    pub disk_type: Option<DiskType>,
    /// Allow a chain of snapshots.
    pub backing_chain: Option<bool>,
    /// Other directories in which members of the chain, or extents, may lie.
    pub allowed_paths: Option<Vec<PathText>>,
    /// Grow disk, partition, volume and file system.
    pub resize: Option<Growth>,
}

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskType {
    /// The guest starts from it.
    Boot,
    /// It holds data.
    Data,
    /// Not told.
    Unknown,
}

/// `nics[]`: one network card.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Its id.
    pub id: Option<Line>,
    /// Its address.
    pub mac: Option<Mac>,
    /// The source's network.
    pub network: Option<Line>,
    /// The bridge here.
    pub bridge: Option<InterfaceName>,
    /// The VLAN.
    pub vlan: Option<Whole<1, 4094>>,
    /// The model.
    pub model: Option<NicModel>,
    /// How much it may send and receive.
    pub bandwidth: Option<Bandwidth>,
    /// Addresses inside the guest, with prefix lengths.
    pub addresses: Option<Vec<IpPrefix>>,
    /// The default route inside the guest.
    pub gateway: Option<Ip>,
    /// The name servers inside the guest.
    pub dns: Option<Vec<Ip>>,
}

/// `luks[]`: the key of one encrypted volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Luks {
    /// The device inside the guest; or `uuid`.
    pub device: Option<Line>,
    /// The volume's UUID; or `device`.
    pub uuid: Option<Uuid>,
    /// The name of a stored credential; or `key_file`.
    pub credential: Option<Id>,
    /// A file that holds the key; or `credential`.
    pub key_file: Option<PathText>,
}

/// `warnings[]`: what whoever wrote the manifest wants to be known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestWarning {
    /// Where it came up.
    pub stage: Option<Line>,
    /// What.
    pub message: String,
    /// When.
    pub timestamp: Option<Line>,
}

/// `metadata`: passed on to the report.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The version of the program that exported the VM.
    pub hypersdk_version: Option<Line>,
    /// Its job.
    pub job_id: Option<Line>,
    /// When.
    pub created_at: Option<Line>,
    /// Anything.
    pub tags: Option<BTreeMap<String, Free>>,
}

/// `output`: the results.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The directory; this VM's files lie directly in it.
    pub directory: Option<PathText>,
    /// The storage pool of libvirt's that results are made in.
    pub pool: Option<Line>,
    /// The format; default qcow2.
    pub format: Option<OutputFormat>,
    /// Packing; `true` is the format's best.
    pub compress: Option<Compress>,
    /// How densely.
    pub compress_level: Option<Whole<1, 22>>,
    /// How much is laid out beforehand.
    pub preallocation: Option<Preallocation>,
    /// Group of the files.
    pub group: Option<GroupName>,
    /// Mode of the files.
    pub mode: Option<FileMode>,
    /// What if a result is there.
    pub on_exists: Option<OnExists>,
}

/// `options`: how the run itself goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunOptions {
    /// Do nothing.
    pub dry_run: Option<bool>,
    /// More words in the log.
    pub verbose: Option<Whole<0, 3>>,
    /// The report.
    pub report: Option<ReportOptions>,
}

/// `options.report`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportOptions {
    /// Whether one is written; default true.
    pub enabled: Option<bool>,
    /// Its name; only `report.json`, which marks a result as complete.
    pub path: Option<PathText>,
}
