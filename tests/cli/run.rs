//! Runs the built binary.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The built binary, with nothing of the tester's environment that it looks at.
pub fn hyper2kvm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    for variable in ["HYPER2KVM_CONFIG", "HYPER2KVM_STATE_DIR", "NO_COLOR", "COLUMNS"] {
        command.env_remove(variable);
    }
    command
}

/// What a run came to.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }

    pub fn error_json(&self) -> Value {
        serde_json::from_str(&self.stderr).unwrap_or_else(|e| panic!("{e}: {}", self.stderr))
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        Done {
            code: output.status.code().expect("not ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs it with these words.
pub fn run(words: &[&str]) -> Done {
    hyper2kvm().args(words).output().unwrap().into()
}

/// Runs it for the daemon of this state directory.
pub fn run_at(state: &Path, words: &[&str]) -> Done {
    hyper2kvm().env("HYPER2KVM_STATE_DIR", state).args(words).output().unwrap().into()
}
