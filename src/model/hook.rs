//! Hooks as they are planned, and how they went: what is run between the stages of one VM.
//!
//! What the planner knows is filled in; what only the run knows ([`RUN_NAMES`]) stands in the plan as a name. What is not here: what a person
//! writes ([`super::manifest::Hook`]), and how a hook is run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::manifest::{HookStage, HookType, RetryStrategy};
use super::template::Template;

/// How long a hook may take that does not say it.
pub const DEFAULT_TIMEOUT_S: f64 = 300.0;
/// Before the first repetition, where nothing is said.
pub const DEFAULT_DELAY_S: f64 = 1.0;
/// Between two attempts at most, where nothing is said.
pub const DEFAULT_MAX_DELAY_S: f64 = 60.0;

/// Names whose values are known when the work is planned.
pub const PLAN_NAMES: [&str; 10] = [
    "stage",
    "vm_name",
    "vm_id",
    "batch_id",
    "source_path",
    "source_dir",
    "source_filename",
    "output_format",
    "firmware",
    "manifest_path",
];

/// Names whose values only the run knows.
pub const RUN_NAMES: [&str; 13] = [
    "timestamp",
    "timestamp_iso",
    "output_dir",
    "output_directory",
    "output_path",
    "output_filename",
    "user",
    "hostname",
    "pwd",
    "job_id",
    "attempt",
    "error",
    "error_kind",
];

/// A value fit for any place in a URL: everything that could mean something there is percent-encoded.
#[must_use]
pub fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// One hook of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedHook {
    /// When it runs.
    pub stage: HookStage,
    /// Its place among those of its stage, from 1.
    pub number: u32,
    /// What it is called in logs and reports.
    pub name: String,
    /// What it does.
    #[serde(flatten)]
    pub call: HookCall,
    /// How long one attempt may take.
    pub timeout_s: f64,
    /// Whether its failure is only a warning.
    pub continue_on_error: bool,
    /// Whether the next stage begins while it runs.
    #[serde(rename = "async")]
    pub beside: bool,
    /// When it is tried again.
    pub retry: HookRetries,
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum HookCall {
    /// Runs a program.
    Script {
        /// Which.
        path: PathBuf,
        /// Its arguments, each as it is.
        args: Vec<Template>,
        /// Its variables.
        env: BTreeMap<String, Template>,
        /// Where it runs.
        working_directory: Option<Template>,
    },
    /// Calls a function.
    Python {
        /// The file, absolute or below one of the allowed directories.
        module: PathBuf,
        /// What is called in it.
        function: String,
        /// With these arguments, by name.
        args: BTreeMap<String, Content>,
    },
    /// Sends a request.
    Http {
        /// Where to; values are percent-encoded.
        url: Template,
        /// How.
        method: String,
        /// With these headers.
        headers: BTreeMap<String, Template>,
        /// JSON; of a GET its query.
        body: Option<Content>,
    },
}

impl HookCall {
    /// Of which type it is.
    #[must_use]
    pub fn hook_type(&self) -> HookType {
        match self {
            HookCall::Script { .. } => HookType::Script,
            HookCall::Python { .. } => HookType::Python,
            HookCall::Http { .. } => HookType::Http,
        }
    }
}

/// JSON whose texts are templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A text.
    Text(Template),
    /// Several.
    List(Vec<Content>),
    /// By key, in their order.
    Map(Vec<(String, Content)>),
    /// A number, true, false or null.
    Plain(serde_json::Value),
}

impl Content {
    /// Understands the texts in it.
    pub fn parse(value: &serde_json::Value) -> Result<Content, String> {
        use serde_json::Value;
        Ok(match value {
            Value::String(text) => Content::Text(Template::parse(text)?),
            Value::Array(items) => Content::List(items.iter().map(Content::parse).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let parsed = fields.iter().map(|(key, value)| Ok((key.clone(), Content::parse(value)?)));
                Content::Map(parsed.collect::<Result<_, String>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Content::Plain(value.clone()),
        })
    }

    /// Changes every text in it.
    #[must_use]
    pub fn each(&self, change: &dyn Fn(&Template) -> Template) -> Content {
        match self {
            Content::Text(template) => Content::Text(change(template)),
            Content::List(items) => Content::List(items.iter().map(|item| item.each(change)).collect()),
            Content::Map(fields) => {
                Content::Map(fields.iter().map(|(key, value)| (key.clone(), value.each(change))).collect())
            }
            Content::Plain(value) => Content::Plain(value.clone()),
        }
    }

    /// The JSON that it comes to; or the first name without a value.
    pub fn json(&self, value: &dyn Fn(&str) -> Option<String>) -> Result<serde_json::Value, String> {
        Ok(match self {
            Content::Text(template) => template.text(value)?.into(),
            Content::List(items) => items.iter().map(|item| item.json(value)).collect::<Result<_, _>>()?,
            Content::Map(fields) => {
                let fields = fields.iter().map(|(key, field)| Ok((key.clone(), field.json(value)?)));
                serde_json::Value::Object(fields.collect::<Result<_, String>>()?)
            }
            Content::Plain(plain) => plain.clone(),
        })
    }
}

/// When a hook that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HookRetries {
    /// How often at most.
    pub max_retries: u32,
    /// Before the first time.
    pub initial_delay_s: f64,
    /// How the delay grows.
    pub strategy: RetryStrategy,
    /// At most.
    pub max_delay_s: f64,
    /// Also after it took too long.
    pub retry_on_timeout: bool,
}

impl HookRetries {
    /// Seconds before repetition number `retry` (from 1).
    #[must_use]
    pub fn delay_s(&self, retry: u32) -> f64 {
        let grown = match self.strategy {
            RetryStrategy::Exponential => 2f64.powi(retry.saturating_sub(1).min(60) as i32),
            RetryStrategy::Linear => f64::from(retry),
            RetryStrategy::Constant => 1.0,
        };
        (self.initial_delay_s * grown).min(self.max_delay_s)
    }
}

/// How a hook went, for the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HookRun {
    /// When it ran.
    pub stage: HookStage,
    /// What it is called.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub hook_type: HookType,
    /// Whether it ended well.
    pub success: bool,
    /// How it ended: `exit code 0`, `HTTP status 204`.
    pub status: String,
    /// How often it was started, over all attempts of the job.
    pub attempts: u32,
    /// Seconds, without those of attempts that were cut.
    pub seconds: f64,
    /// Its exit code, if it was a process and ended by itself.
    pub exit_code: Option<i32>,
    /// The answer's status, if it was a request and there was one.
    pub http_status: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(strategy: RetryStrategy) -> Vec<f64> {
        let retry = HookRetries {
            max_retries: 9,
            initial_delay_s: 2.0,
            strategy,
            max_delay_s: 9.0,
            retry_on_timeout: true,
        };
        (1..=5).map(|number| retry.delay_s(number)).collect()
    }

    #[test]
    fn delays_grow_as_their_strategy_says_and_never_beyond_their_cap() {
        assert_eq!(delays(RetryStrategy::Exponential), [2.0, 4.0, 8.0, 9.0, 9.0]);
        assert_eq!(delays(RetryStrategy::Linear), [2.0, 4.0, 6.0, 8.0, 9.0]);
        assert_eq!(delays(RetryStrategy::Constant), [2.0; 5]);
        let far = HookRetries {
            initial_delay_s: 100.0,
            strategy: RetryStrategy::Constant,
            max_delay_s: 60.0,
            max_retries: 1,
            retry_on_timeout: true,
        };
        assert_eq!(far.delay_s(1), 60.0, "a constant delay is capped too");
    }
}
