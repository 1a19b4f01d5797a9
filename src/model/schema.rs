//! JSON Schemas of everything that people and programs exchange as files, made from the types themselves.
//!
//! They say what a key may hold; what keys mean together (two disks with one id) only the planner knows.

use schemars::{JsonSchema, schema_for};

use super::config::ConfigFile;
use super::error::{Error, Kind, Result};
use super::manifest::{BatchManifest, Manifest, Profile};
use super::progress::BatchProgress;
use super::report::{BatchReport, ErrorReport, Report};

/// What there is a schema of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// Artifact Manifest v1.
    Manifest,
    /// Batch manifest v1.
    Batch,
    /// A custom profile.
    Profile,
    /// A configuration file.
    Config,
    /// `progress/<batch-id>.json`
    Progress,
    /// `report.json`
    Report,
    /// `batch_report.json`
    BatchReport,
    /// `<name>.error.json`
    Error,
}

impl SchemaKind {
    /// Every kind.
    pub const ALL: [SchemaKind; 8] = [
        SchemaKind::Manifest,
        SchemaKind::Batch,
        SchemaKind::Profile,
        SchemaKind::Config,
        SchemaKind::Progress,
        SchemaKind::Report,
        SchemaKind::BatchReport,
        SchemaKind::Error,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SchemaKind::Manifest => "manifest",
            SchemaKind::Batch => "batch",
            SchemaKind::Profile => "profile",
            SchemaKind::Config => "config",
            SchemaKind::Progress => "progress",
            SchemaKind::Report => "report",
            SchemaKind::BatchReport => "batch-report",
            SchemaKind::Error => "error",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Result<SchemaKind> {
        SchemaKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::new(Kind::Manifest, format!("there is no schema `{name}`"))
                .allowed(SchemaKind::ALL.map(SchemaKind::name))
        })
    }
}

/// The JSON Schema (draft 2020-12) of a kind of file.
#[must_use]
pub fn schema(kind: SchemaKind) -> serde_json::Value {
    match kind {
        SchemaKind::Manifest => of::<Manifest>("hyper2kvm Artifact Manifest v1"),
        SchemaKind::Batch => of::<BatchManifest>("hyper2kvm batch manifest v1"),
        SchemaKind::Profile => of::<Profile>("hyper2kvm profile"),
        SchemaKind::Config => of::<ConfigFile>("hyper2kvm configuration"),
        SchemaKind::Progress => of::<BatchProgress>("hyper2kvm progress file"),
        SchemaKind::Report => of::<Report>("hyper2kvm report of one VM"),
        SchemaKind::BatchReport => of::<BatchReport>("hyper2kvm report of a batch"),
        SchemaKind::Error => of::<ErrorReport>("hyper2kvm error file"),
    }
}

fn of<T: JsonSchema>(title: &str) -> serde_json::Value {
    let mut schema = schema_for!(T);
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}
