//! `hooks`: what is run between stages.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::values::{Free, HttpUrl, Line, PathText, Seconds, Whole};

/// `hooks`: by stage, in the order in which they run.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Hooks(pub BTreeMap<HookStage, Vec<Hook>>);

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
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
    /// `script`: the program.
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
    pub url: Option<HttpUrl>,
    /// `http`: default POST.
    pub method: Option<Line>,
    /// `http`: headers.
    pub headers: Option<BTreeMap<String, String>>,
    /// `http`: JSON.
    pub body: Option<Free>,
}

/// What a hook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
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

/// How a delay grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryStrategy {
    /// It doubles.
    Exponential,
    /// By the same each time.
    Linear,
    /// Not.
    Constant,
}
