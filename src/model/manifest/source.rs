//! `source`: where the VM comes from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{
    DiskPattern, Free, HostName, Id, LibvirtUri, Line, PathText, Percent, Seconds, Secret, Uuid, Whole,
};

/// `source`: facts about the origin, and at most one provider.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// For people; with a provider's key, the same name.
    pub provider: Option<Line>,
    /// For people.
    pub vm_id: Option<Line>,
    /// The VM's name there.
    pub vm_name: Option<Line>,
    /// For people.
    pub datacenter: Option<Line>,
    /// For people.
    pub export_timestamp: Option<Line>,
    /// For people.
    pub export_method: Option<Line>,
    /// For people.
    pub hypervisor_version: Option<Line>,
    /// For people.
    pub libvirt_xml_path: Option<PathText>,
    /// An OVA archive.
    pub ova: Option<ApplianceSource>,
    /// An OVF descriptor with its disks beside it.
    pub ovf: Option<ApplianceSource>,
    /// A VMX with its disks beside it.
    pub vmx: Option<PathSource>,
    /// A directory of disks.
    pub local: Option<LocalSource>,
    /// A libvirt domain.
    #[serde(rename = "libvirt-xml")]
    pub libvirt_xml: Option<LibvirtXmlSource>,
    /// A VM of a vCenter or ESXi host.
    pub vsphere: Option<Box<VsphereSource>>,
    /// A VM of an ESXi host, over SSH.
    pub esxi: Option<EsxiSource>,
    /// Later.
    pub azure: Option<LaterSource>,
    /// Later.
    pub ami: Option<LaterSource>,
    /// Later.
    pub hyperv: Option<LaterSource>,
}

impl Source {
    /// The providers whose key is there.
    #[must_use]
    pub fn providers(&self) -> Vec<&'static str> {
        let there = [
            ("ova", self.ova.is_some()),
            ("ovf", self.ovf.is_some()),
            ("vmx", self.vmx.is_some()),
            ("local", self.local.is_some()),
            ("libvirt-xml", self.libvirt_xml.is_some()),
            ("vsphere", self.vsphere.is_some()),
            ("esxi", self.esxi.is_some()),
            ("azure", self.azure.is_some()),
            ("ami", self.ami.is_some()),
            ("hyperv", self.hyperv.is_some()),
        ];
        there.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }

    /// What the VM is called there.
    #[must_use]
    pub fn name_there(&self) -> Option<&str> {
        let own = self.vm_name.as_ref();
        let own =
            own.or(self.vsphere.as_ref().and_then(|vsphere| vsphere.vm_name.as_ref())).map(Line::as_str);
        own.or_else(|| self.esxi.as_ref()?.name_of_file())
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathSource {
    /// Where it lies.
    pub path: PathText,
}

/// A file with one or several VMs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplianceSource {
    /// Where it lies.
    pub path: PathText,
    /// Which VM of several.
    pub vm: Option<Line>,
}

/// A directory of disks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalSource {
    /// Where.
    pub directory: PathText,
    /// Tells the disks of several machines apart: a pattern over the names of their files, with the groups `vm` and `disk`.
    pub group_by: Option<DiskPattern>,
}

/// A libvirt domain: a file, or one of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtXmlSource {
    /// The file; or `uri` and `domain`.
    pub path: Option<PathText>,
    /// The daemon.
    pub uri: Option<LibvirtUri>,
    /// The domain.
    pub domain: Option<Line>,
}

/// A VM of a vCenter or ESXi host.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VsphereSource {
    /// The vCenter or ESXi host; may come from the credential.
    pub host: Option<HostName>,
    /// Default 443.
    pub port: Option<Whole<1, 65_535>>,
    /// The name of a stored credential.
    pub credential: Option<Id>,
    /// Or a user.
    pub username: Option<Line>,
    /// With this password.
    pub password: Option<Secret>,
    /// Or the one in this file.
    pub password_file: Option<PathText>,
    /// Or the one in this variable.
    pub password_env: Option<Line>,
    /// Or the one systemd was given.
    pub password_credential: Option<Line>,
    /// Which VM: by name,
    pub vm_name: Option<Line>,
    /// by UUID,
    pub vm_uuid: Option<Uuid>,
    /// by inventory path,
    pub vm_path: Option<Line>,
    /// or by managed object.
    pub moref: Option<Line>,
    /// Narrows the name.
    pub datacenter: Option<Line>,
    /// Narrows the name.
    pub datastore: Option<Line>,
    /// Narrows the name.
    pub folder: Option<Line>,
    /// Whether the certificate is checked; default true.
    pub verify_ssl: Option<bool>,
    /// SHA-256 of the certificate.
    pub thumbprint: Option<Line>,
    /// Who signed it. Not in a drop.
    pub ca_file: Option<PathText>,
    /// Not in a drop.
    pub vddk_libdir: Option<PathText>,
    /// Not in a drop.
    pub identity: Option<PathText>,
    /// Not in a drop.
    pub known_hosts: Option<PathText>,
    /// How bytes come; default auto.
    pub transport: Option<VsphereTransport>,
    /// How many at a time; default 4.
    pub connections: Option<Whole<1, 64>>,
    /// Default cold.
    pub mode: Option<VsphereMode>,
    /// Default require_off.
    pub power: Option<VspherePower>,
    /// Default 600.
    pub shutdown_timeout_s: Option<Seconds>,
    /// Switch off what does not shut down.
    pub force_off: Option<bool>,
    /// Snapshots on the source.
    pub snapshot: Option<VsphereSnapshot>,
    /// Warm migration.
    pub warm: Option<VsphereWarm>,
    /// What is done to the source afterwards.
    pub after: Option<VsphereAfter>,
}

/// How bytes come from vSphere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VsphereTransport {
    /// Whatever works best.
    Auto,
    /// Datastore files.
    Https,
    /// Export lease.
    Nfc,
    /// The ESXi host's shell.
    Ssh,
    /// VMware's library.
    Vddk,
}

/// What happens to a running source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VsphereMode {
    /// It is off.
    Cold,
    /// It runs until the cutover.
    Warm,
    /// A snapshot is copied; it runs on.
    Clone,
}

/// How the source comes to be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VspherePower {
    /// It has to be.
    RequireOff,
    /// It is shut down.
    Shutdown,
}

/// `source.vsphere.snapshot`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VsphereSnapshot {
    /// Whether the guest holds still.
    pub quiesce: Option<SnapshotQuiesce>,
    /// Of the datastore; default 20%.
    pub min_free: Option<Percent>,
    /// Of the datastore; default 10%.
    pub abort_free: Option<Percent>,
    /// Default 43200.
    pub max_age_s: Option<Seconds>,
}

/// Whether the guest holds still for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotQuiesce {
    /// If it can.
    Try,
    /// It must.
    Yes,
    /// No.
    No,
}

/// `source.vsphere.warm`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VsphereWarm {
    /// Who says when; default manual.
    pub cutover: Option<VsphereCutover>,
    /// For `at`: when.
    pub at: Option<Line>,
    /// How little is left for the last pass; default 512.
    pub max_delta_mb: Option<Whole<1, { i64::MAX }>>,
    /// Between passes; default 3600.
    pub interval_s: Option<Seconds>,
}

/// Who says when the last pass is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VsphereCutover {
    /// A person.
    Manual,
    /// It happens when little is left.
    Auto,
    /// The clock.
    At,
}

/// `source.vsphere.after`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VsphereAfter {
    /// Unplug its network cards.
    pub disconnect_nics: Option<bool>,
    /// Leave a note on it.
    pub annotate: Option<bool>,
    /// Do not start it with its host.
    pub disable_autostart: Option<bool>,
    /// Rename it.
    pub rename_suffix: Option<Line>,
}

/// A VM of an ESXi host, over SSH.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EsxiSource {
    /// The host.
    pub host: Option<HostName>,
    /// Default 22.
    pub port: Option<Whole<1, 65_535>>,
    /// The name of the stored credential that has its key.
    pub credential: Option<Id>,
    /// Said by the credential.
    pub username: Option<Line>,
    /// Not in a drop.
    pub identity: Option<PathText>,
    /// Not in a drop.
    pub known_hosts: Option<PathText>,
    /// The VM's VMX there, or the descriptor of one disk: `/vmfs/volumes/ds1/web/web.vmx`.
    pub path: Option<Line>,
}

impl EsxiSource {
    /// What the file of its VM is called, without what says what it is.
    fn name_of_file(&self) -> Option<&str> {
        let file = self.path.as_ref()?.as_str().rsplit('/').next()?;
        Some(file.rsplit_once('.').map_or(file, |(name, _)| name)).filter(|name| !name.is_empty())
    }
}

/// A source that no version reads yet.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LaterSource(pub Free);
