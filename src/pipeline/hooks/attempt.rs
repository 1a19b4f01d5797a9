//! One hook with its repetitions: everything filled in, each attempt recorded before it begins.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::{Host, cut};
use super::ledger::Ledger;
use super::runner::PATH;
use super::wire::{Bounds, Call, Ended};
use super::{Outcome, file_of};
use crate::disk::Control;
use crate::model::error::{Error, Result};
use crate::model::hook::{Content, HookCall, HookRun, PlannedHook, percent_encoded};
use crate::model::redaction::{REDACTED, redact};
use crate::model::retry::RetryPolicy;
use crate::model::template::Template;

/// How often it is looked whether waiting is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Lines that an error quotes.
const TAIL_LINES: usize = 20;

/// A hook and all that it takes to run it, on any thread.
pub(super) struct Attempts {
    pub(super) host: Arc<Host>,
    pub(super) control: Control,
    pub(super) ledger: Ledger,
    pub(super) hook: PlannedHook,
    pub(super) roots: Vec<PathBuf>,
    pub(super) memory_bytes: u64,
    pub(super) network: RetryPolicy,
    pub(super) values: Vec<(&'static str, String)>,
    /// What must not be told, whoever says it.
    pub(super) secrets: Vec<String>,
}

impl Attempts {
    /// Runs it until it ends well, or for good. An error is not its own: it was cut, or could not be recorded.
    pub(super) fn run(&mut self) -> Result<Outcome> {
        let mut retries = 0;
        let mut seconds = 0.0;
        loop {
            let number = self.ledger.start(&self.hook)?;
            let mut tail = VecDeque::new();
            let ended = self.attempt(number, &mut tail)?;
            seconds += ended.seconds;
            let may_repeat = !ended.hopeless && (!ended.timed_out || self.hook.retry.retry_on_timeout);
            if !ended.success && may_repeat && retries < self.hook.retry.max_retries {
                retries += 1;
                let delay = self.hook.retry.delay_s(retries);
                tracing::warn!(
                    hook = self.hook.name,
                    attempt = number,
                    status = ended.status,
                    "hook failed: tried again in {delay} s"
                );
                self.wait(delay)?;
                continue;
            }
            let run = HookRun {
                stage: self.hook.stage,
                name: self.hook.name.clone(),
                hook_type: self.hook.call.hook_type(),
                success: ended.success,
                status: ended.status,
                attempts: number,
                seconds: (seconds * 1000.0).round() / 1000.0,
                exit_code: ended.exit_code,
                http_status: ended.http_status,
            };
            // One that failed the job is not done: it runs again when the job is tried again.
            if run.success || self.hook.continue_on_error {
                self.ledger.end(&self.hook, &run)?;
            }
            return Ok(Outcome { run, tail: Vec::from(tail).join("\n") });
        }
    }

    fn attempt(&self, number: u32, tail: &mut VecDeque<String>) -> Result<Ended> {
        let call = self.call(number)?;
        let bounds = Bounds {
            roots: self.roots.clone(),
            timeout_s: self.hook.timeout_s,
            memory_bytes: self.memory_bytes,
            network: self.network,
        };
        self.host.attempt(call, bounds, &self.control, &mut |line| {
            let line = self.told(line);
            tracing::info!(hook = self.hook.name, "| {line}");
            if tail.len() >= TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        })
    }

    /// A line as it may be shown: without secrets, and without what would move a terminal.
    fn told(&self, line: &str) -> String {
        let mut line = redact(line);
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            line = line.replace(secret.as_str(), REDACTED);
        }
        let shown = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
        line.trim_end_matches('\n').chars().map(shown).collect()
    }

    fn call(&self, number: u32) -> Result<Call> {
        let value = |name: &str| match name {
            "attempt" => Some(number.to_string()),
            name => self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()),
        };
        let unknown = |name: String| {
            Error::internal(format!("the hook {}: nothing is known as `{name}`", self.hook.name))
        };
        let text = |template: &Template| template.text(&value).map_err(unknown);
        Ok(match &self.hook.call {
            HookCall::Script { path, args, env, working_directory } => {
                let mut variables = self.environment(number, &path.display().to_string());
                for (name, template) in env {
                    variables.push((name.clone(), text(template)?));
                }
                Call::Script {
                    file: path.clone(),
                    args: args.iter().map(text).collect::<Result<_>>()?,
                    env: variables,
                    directory: working_directory
                        .as_ref()
                        .map(text)
                        .transpose()?
                        .map_or("/".into(), PathBuf::from),
                }
            }
            HookCall::Python { module, function, args } => {
                let file = file_of(module, &self.roots);
                let fields: Vec<(String, Content)> =
                    args.iter().map(|(name, content)| (name.clone(), content.clone())).collect();
                Call::Python {
                    env: self.environment(number, &file.display().to_string()),
                    file,
                    function: function.clone(),
                    args: Content::Map(fields).json(&value).map_err(unknown)?,
                }
            }
            HookCall::Http { url, method, headers, body } => {
                let encoded = |name: &str| value(name).map(|value| percent_encoded(&value));
                let url = url.text(&encoded).map_err(unknown)?;
                let body = body.as_ref().map(|body| body.json(&value)).transpose().map_err(unknown)?;
                let is_query = matches!(method.as_str(), "GET" | "HEAD");
                let mut sent = Vec::new();
                for (name, template) in headers {
                    sent.push((name.clone(), text(template)?));
                }
                Call::Http {
                    url: if is_query { with_query(&url, body.as_ref()) } else { url },
                    method: method.clone(),
                    headers: sent,
                    body: body.filter(|_| !is_query).map(|body| body.to_string()),
                }
            }
        })
    }

    fn environment(&self, number: u32, file: &str) -> Vec<(String, String)> {
        let of = |name: &str| {
            let found = self.values.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        [
            ("PATH", PATH.to_owned()),
            ("H2K_HOOK", file.to_owned()),
            ("H2K_STAGE", self.hook.stage.name().to_owned()),
            ("H2K_ATTEMPT", number.to_string()),
            ("H2K_JOB", of("job_id")),
            ("H2K_BATCH", of("batch_id")),
            ("H2K_VM", of("vm_id")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Waits between two attempts. Standing still counts as waiting; an end is heard at once.
    fn wait(&self, seconds: f64) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds || self.control.is_paused() {
            if self.control.interruption().is_some() {
                return Err(cut());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

/// A URL with these fields in its query.
fn with_query(url: &str, body: Option<&serde_json::Value>) -> String {
    let fields = body.and_then(serde_json::Value::as_object).into_iter().flatten();
    let pairs: Vec<String> = fields
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{}={}", percent_encoded(name), percent_encoded(&value))
        })
        .collect();
    let (plain, fragment) = url.split_once('#').map_or((url, ""), |(plain, fragment)| (plain, fragment));
    let fragment = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
    match (pairs.is_empty(), plain.contains('?')) {
        (true, _) => url.to_owned(),
        (false, true) => format!("{plain}&{}{fragment}", pairs.join("&")),
        (false, false) => format!("{plain}?{}{fragment}", pairs.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_carries_its_body_as_its_query() {
        let body = serde_json::json!({ "vm": "a b&c", "count": 2 });
        assert_eq!(with_query("http://h/x", Some(&body)), "http://h/x?vm=a%20b%26c&count=2");
        assert_eq!(with_query("http://h/x?y=1#z", Some(&body)), "http://h/x?y=1&vm=a%20b%26c&count=2#z");
        assert_eq!(with_query("http://h/x", None), "http://h/x");
    }
}
