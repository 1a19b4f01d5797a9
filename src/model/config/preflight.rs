//! `preflight`: what an administrator says of the pre-flight of every job.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::error::{Kind, Result};
use crate::model::hook::DEFAULT_TIMEOUT_S;
use crate::model::manifest::values::{AbsolutePath, Id, Seconds};
use crate::model::manifest::{RuleWeights, weights};
use crate::model::parse::Tree;
use crate::model::validation::Weights;

/// `preflight`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreflightFile {
    /// What becomes of which rule; a manifest may raise it and not lower it. Default: what docs/validation.md says.
    pub rules: Option<RuleWeights>,
    /// Programs that have their say. Default none.
    pub validators: Option<Vec<ValidatorFile>>,
}

/// `preflight.validators[]`
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidatorFile {
    /// What its results are told as: `custom.<name>`.
    pub name: Id,
    /// The program, below one of `hooks.allowed_dirs`.
    pub path: AbsolutePath,
    /// How long it may take. Default 300.
    pub timeout_s: Option<Seconds>,
}

/// `preflight.*`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreflightSettings {
    /// What becomes of which rule.
    pub rules: Weights,
    /// Programs that have their say.
    pub validators: Vec<CustomValidator>,
}

/// A program that has its say in the pre-flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomValidator {
    /// What it is called.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// How long it may take.
    pub timeout_s: f64,
}

/// What a file says, over what was there.
pub(super) fn apply(file: &PreflightFile, settings: &mut PreflightSettings) {
    if let Some(rules) = &file.rules {
        settings.rules = weights(rules);
    }
    if let Some(validators) = &file.validators {
        let planned = |validator: &ValidatorFile| CustomValidator {
            name: validator.name.as_str().to_owned(),
            path: validator.path.to_path(),
            timeout_s: validator.timeout_s.map_or(DEFAULT_TIMEOUT_S, |seconds| seconds.0),
        };
        settings.validators = validators.iter().map(planned).collect();
    }
}

/// What a single value cannot know.
pub(super) fn check(settings: &PreflightSettings, tree: &Tree) -> Result<()> {
    for (number, validator) in settings.validators.iter().enumerate() {
        if settings.validators[..number].iter().any(|other| other.name == validator.name) {
            let field = format!("preflight.validators[{number}].name");
            return Err(tree
                .error(Kind::Manifest, &field, format!("another one is called `{}` too", validator.name))
                .advice("give each its own: its results are told by it"));
        }
        if validator.timeout_s < 1.0 {
            let field = format!("preflight.validators[{number}].timeout_s");
            return Err(tree
                .error(Kind::Manifest, &field, "it would be ended before it could say anything")
                .advice("allow at least a second; 300 is the default"));
        }
    }
    Ok(())
}
