//! `hooks`: what is run between stages.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Free, HookUrl, Line, PathText, Seconds, Whole};
use crate::model::job::Stage;

/// `hooks`: by stage, in the order in which they run.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Hooks(pub BTreeMap<HookStage, Vec<Hook>>);

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HookStage {
    /// Before the source is read.
    PreExtraction,
    /// After it was read.
    PostExtraction,
    /// Before the guest is repaired.
    PreFix,
    /// After.
    PostFix,
    /// Before the final format is written.
    PreConvert,
    /// After.
    PostConvert,
    /// After the result was checked.
    PostValidate,
    /// At a good end.
    OnSuccess,
    /// At a bad end.
    OnFailure,
}

impl HookStage {
    /// Every point, in the order in which they are reached.
    pub const ALL: [HookStage; 9] = [
        HookStage::PreExtraction,
        HookStage::PostExtraction,
        HookStage::PreFix,
        HookStage::PostFix,
        HookStage::PreConvert,
        HookStage::PostConvert,
        HookStage::PostValidate,
        HookStage::OnSuccess,
        HookStage::OnFailure,
    ];

    /// The name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HookStage::PreExtraction => "pre_extraction",
            HookStage::PostExtraction => "post_extraction",
            HookStage::PreFix => "pre_fix",
            HookStage::PostFix => "post_fix",
            HookStage::PreConvert => "pre_convert",
            HookStage::PostConvert => "post_convert",
            HookStage::PostValidate => "post_validate",
            HookStage::OnSuccess => "on_success",
            HookStage::OnFailure => "on_failure",
        }
    }

    /// The stage that it belongs to; none of the two at the end.
    #[must_use]
    pub fn of(self) -> Option<Stage> {
        Stage::ALL
            .into_iter()
            .find(|stage| HookStage::before(*stage) == Some(self) || HookStage::after(*stage) == Some(self))
    }

    /// The point before a stage, if it has one.
    #[must_use]
    pub fn before(stage: Stage) -> Option<HookStage> {
        match stage {
            Stage::Extraction => Some(HookStage::PreExtraction),
            Stage::Fix => Some(HookStage::PreFix),
            Stage::Convert => Some(HookStage::PreConvert),
            _ => None,
        }
    }

    /// The point after a stage, if it has one.
    #[must_use]
    pub fn after(stage: Stage) -> Option<HookStage> {
        match stage {
            Stage::Extraction => Some(HookStage::PostExtraction),
            Stage::Fix => Some(HookStage::PostFix),
            Stage::Convert => Some(HookStage::PostConvert),
            Stage::Validate => Some(HookStage::PostValidate),
            _ => None,
        }
    }
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// What it is.
    #[serde(rename = "type")]
    pub hook_type: HookType,
    /// For people.
    pub name: Option<Line>,
    /// How long it may take; default 300.
    pub timeout: Option<Seconds>,
    /// Whether its failure is only a warning.
    pub continue_on_error: Option<bool>,
    /// Whether the next stage begins while it runs.
    #[serde(rename = "async")]
    pub beside: Option<bool>,
    /// When it is tried again.
    pub retry: Option<HookRetry>,
    /// The same as `retry.max_retries`.
    pub max_retries: Option<Whole<0, 100>>,
    /// The same as `retry.initial_delay`.
    pub retry_delay: Option<Seconds>,
    /// The same as `retry.strategy`.
    pub retry_strategy: Option<RetryStrategy>,
    /// The same as `retry.max_delay`.
    pub max_delay: Option<Seconds>,
    /// `script`: the program, below `hooks.allowed_dirs`.
    pub path: Option<PathText>,
    /// `script`: a list of arguments; `python`: a map of them.
    pub args: Option<Free>,
    /// `script`: variables.
    pub env: Option<BTreeMap<String, String>>,
    /// `script`: where it runs.
    pub working_directory: Option<PathText>,
    /// `python`: a file below `hooks.allowed_dirs`.
    pub module: Option<Line>,
    /// `python`: what is called in it.
    pub function: Option<Line>,
    /// `http`: where to.
    pub url: Option<HookUrl>,
    /// `http`: default POST.
    pub method: Option<Line>,
    /// `http`: headers.
    pub headers: Option<BTreeMap<String, String>>,
    /// `http`: JSON; of a GET its query.
    pub body: Option<Free>,
}

/// What a hook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HookType {
    /// A program.
    Script,
    /// A Python function.
    Python,
    /// A request.
    Http,
}

/// `retry` of a hook.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HookRetry {
    /// How often at most; default 0.
    pub max_retries: Option<Whole<0, 100>>,
    /// Before the first; default 1.
    pub initial_delay: Option<Seconds>,
    /// How it grows.
    pub strategy: Option<RetryStrategy>,
    /// At most; default 60.
    pub max_delay: Option<Seconds>,
    /// Whether a timeout is retried too.
    pub retry_on_timeout: Option<bool>,
}

impl HookType {
    /// The name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HookType::Script => "script",
            HookType::Python => "python",
            HookType::Http => "http",
        }
    }
}

/// How a delay grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryStrategy {
    /// It doubles.
    Exponential,
    /// By the same each time.
    Linear,
    /// Not.
    Constant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_but_the_two_at_the_end_belongs_to_a_stage() {
        let of_stages: Vec<HookStage> = Stage::ALL
            .into_iter()
            .flat_map(|stage| [HookStage::before(stage), HookStage::after(stage)])
            .flatten()
            .collect();
        assert_eq!(of_stages, HookStage::ALL[..7]);
    }
}
