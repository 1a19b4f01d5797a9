//! Profiles: what a manifest builds on.

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::Line;
use super::{
    Configuration, Hooks, LibvirtIntegration, NetworkMapping, Output, Pipeline, PreflightChoice, RunOptions,
    StorageMapping,
};

/// A profile's file, and `profile_overrides` (there without `description` and `extends`).
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// For people.
    pub description: Option<Line>,
    /// The profile that this one builds on.
    pub extends: Option<Line>,
    /// The stages.
    pub pipeline: Option<Pipeline>,
    /// The results.
    pub output: Option<Output>,
    /// How the run itself goes.
    pub options: Option<RunOptions>,
    /// What is put into the guest.
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

/// The profiles that the program brings along, by name.
pub const BUILTIN: &str = include_str!("builtin_profiles.yaml");

/// Their names, as they are told to people.
pub const PROFILE_NAMES: [&str; 8] =
    ["production", "none", "testing", "minimal", "fast", "windows", "archive", "debug"];
