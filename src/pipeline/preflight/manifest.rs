//! The manifest: what planning it found. What a manifest may not say at all is refused before there is a plan, by the same names
//! (see `service::preflight`).

use super::{Scene, Validator};
use crate::model::error::{Error, Kind};
use crate::model::validation::Findings;

pub(super) struct Manifest;

impl Validator for Manifest {
    fn name(&self) -> &'static str {
        "manifest"
    }

    fn applies(&self, scene: &Scene<'_>) -> bool {
        scene.looks_at_metadata()
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        for warning in &scene.plan.warnings {
            findings.add("manifest.note", None, Error::new(Kind::Manifest, warning.clone()));
        }
    }
}
