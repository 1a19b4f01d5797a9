//! Runs the built binary, and speaks to a control socket by hand.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

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

/// Sends bytes to a control socket and reads all that comes back.
pub fn talk(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server that has heard enough closes while we still talk.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request with this first line (without the version) and body.
pub fn request(head: &str, body: &str) -> Vec<u8> {
    format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Status code and body of an answer.
pub fn parts(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")))
}
