//! What a worker and the process that runs its hooks say to each other: JSON, one a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::retry::RetryPolicy;

/// One attempt of a hook, everything filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Call {
    /// A program.
    Script { file: PathBuf, args: Vec<String>, env: Vec<(String, String)>, directory: PathBuf },
    /// A function.
    Python { file: PathBuf, function: String, args: serde_json::Value, env: Vec<(String, String)> },
    /// A program that reads a plan and answers; what it says besides is of no interest.
    Validator { file: PathBuf, input: String, env: Vec<(String, String)> },
    /// A request.
    Http { url: String, method: String, headers: Vec<(String, String)>, body: Option<String> },
}

/// What bounds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// Where its file has to lie.
    pub(super) roots: Vec<PathBuf>,
    /// Longer it does not run, not counting pauses.
    pub(super) timeout_s: f64,
    /// Address space.
    pub(super) memory_bytes: u64,
    /// How often it is tried to reach a host.
    pub(super) network: RetryPolicy,
}

/// What is to be done. The end of these lines ends everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Command {
    Run { id: u64, call: Box<Call>, bounds: Bounds },
    Pause { id: u64 },
    Resume { id: u64 },
    Kill { id: u64 },
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Event {
    /// A line of its output.
    Said { id: u64, line: String },
    /// It is over.
    Ended { id: u64, ended: Ended },
}

/// How an attempt ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) success: bool,
    /// For people: `exit code 1`.
    pub(super) status: String,
    pub(super) exit_code: Option<i32>,
    pub(super) http_status: Option<u16>,
    pub(super) timed_out: bool,
    /// Nothing that trying again would mend.
    pub(super) hopeless: bool,
    pub(super) seconds: f64,
    /// Of a validator: its answer.
    #[serde(default)]
    pub(super) answer: Option<String>,
}
