//! The batch manifest: several VMs in one file.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserialize as DeserializeTrait, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::values::{Id, Line, PathText, Version, WeekTime, Whole};
use super::{
    Configuration, Hooks, LibvirtIntegration, Manifest, NetworkMapping, Output, Pipeline, PreflightChoice,
    RunOptions, StorageMapping,
};
use crate::model::planner::Rerun;
use crate::model::selection::SelectedPower;

/// Several VMs.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchManifest {
    /// The format's version: `"1.0"`.
    pub batch_version: Version,
    /// About all of them.
    pub batch_metadata: Option<BatchMetadata>,
    /// The VMs; may be empty.
    pub vms: Vec<BatchVm>,
    /// Laid under every VM's manifest, over its profile.
    pub shared_config: Option<SharedConfig>,
}

/// `batch_metadata`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchMetadata {
    /// The batch's name.
    pub batch_id: Option<Id>,
    /// How many at a time; default 4.
    pub parallel_limit: Option<Whole<1, 1024>>,
    /// Whether the others go on when one fails; default true.
    pub continue_on_error: Option<bool>,
    /// Which VMs of a batch that ran before run again.
    pub rerun: Option<Rerun>,
    /// When it may work.
    pub window: Option<Window>,
}

/// `batch_metadata.window`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// A time zone, as `Europe/Berlin`; default UTC.
    pub tz: Option<Line>,
    /// From when.
    pub open: WeekTime,
    /// Until when.
    pub close: WeekTime,
    /// What waits for it; default: all of it.
    pub gates: Option<Vec<Gate>>,
    /// What becomes of what runs when it closes; default `finish`.
    pub at_close: Option<AtClose>,
}

/// What waits for a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// Starting a job.
    Start,
    /// Shutting a source down.
    Shutdown,
    /// The last pass of a warm migration.
    Cutover,
    /// Starting the target.
    Autostart,
}

impl Gate {
    /// Every gate.
    pub const ALL: [Gate; 4] = [Gate::Start, Gate::Shutdown, Gate::Cutover, Gate::Autostart];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Gate::Start => "start",
            Gate::Shutdown => "shutdown",
            Gate::Cutover => "cutover",
            Gate::Autostart => "autostart",
        }
    }
}

/// What becomes of what runs when a window closes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AtClose {
    /// It waits for the next.
    Hold,
    /// It goes on to its end.
    #[default]
    Finish,
}

/// `vms[]`: one VM of a batch.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchVm {
    /// Its manifest.
    pub manifest: Option<VmManifest>,
    /// Its id.
    pub id: Option<Id>,
    /// Lower runs first; default 0.
    pub priority: Option<Whole<{ i32::MIN as i64 }, { i32::MAX as i64 }>>,
    /// Whether it takes part; default true.
    pub enabled: Option<bool>,
    /// VMs of this batch that have to succeed first.
    pub depends_on: Option<Vec<Id>>,
    /// Laid over its manifest.
    pub overrides: Option<Box<Manifest>>,
    /// Several VMs of a source instead.
    pub select: Option<Selection>,
}

/// A VM's manifest: a path, or the manifest itself.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum VmManifest {
    /// A file.
    Path(PathText),
    /// Here.
    Inline(Box<Manifest>),
}

impl<'de> DeserializeTrait<'de> for VmManifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ManifestVisitor;
        impl<'de> Visitor<'de> for ManifestVisitor {
            type Value = VmManifest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a manifest")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<VmManifest, E> {
                PathText::new(text).map(VmManifest::Path).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VmManifest, A::Error> {
                let manifest = Manifest::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(VmManifest::Inline(Box::new(manifest)))
            }
        }
        deserializer.deserialize_any(ManifestVisitor)
    }
}

/// `vms[].select`: several VMs of a source.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Of this folder.
    pub folder: Option<Line>,
    /// With these tags.
    pub tags: Option<Vec<Line>>,
    /// With names like these.
    pub names: Option<Vec<Line>>,
    /// But not with names like these.
    pub exclude: Option<Vec<Line>>,
    /// Only VMs of a server that run, or only those that do not.
    pub power: Option<SelectedPower>,
}

/// `shared_config`: what all VMs of a batch have in common.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedConfig {
    /// The batch's directory: each VM lies in `<it>/<vm-id>/`.
    pub output_directory: Option<PathText>,
    /// The profile of all.
    pub profile: Option<Line>,
    /// The stages.
    pub pipeline: Option<Pipeline>,
    /// The results.
    pub output: Option<Output>,
    /// How the run itself goes.
    pub options: Option<RunOptions>,
    /// What is put into the guests.
    pub configuration: Option<Configuration>,
    /// What is run between stages.
    pub hooks: Option<Hooks>,
    /// Source networks to bridges.
    pub network_mapping: Option<NetworkMapping>,
    /// Disks to places.
    pub storage_mapping: Option<StorageMapping>,
    /// What libvirt is told.
    pub libvirt_integration: Option<LibvirtIntegration>,
    /// What is checked before bytes move.
    pub preflight: Option<PreflightChoice>,
}
