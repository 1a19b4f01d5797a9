//! A validator's answer: a program of the administrator's that is given the plan, run by the process that runs hooks.
//!
//! It gets the plan on standard input, and nothing of our environment. What is not here: what its answer means (`pipeline::preflight`).

use super::host::Host;
use super::runner::PATH;
use super::wire::{Bounds, Call, Ended};
use crate::disk::Control;
use crate::model::config::CustomValidator;
use crate::model::protocol::WorkLimits;

/// What it answers, or why it does not.
pub(in crate::pipeline) fn consult(
    host: &Host,
    validator: &CustomValidator,
    limits: &WorkLimits,
    plan: &str,
    control: &Control,
) -> Result<String, String> {
    let call = Call::Validator {
        file: validator.path.clone(),
        input: plan.to_owned(),
        env: vec![("PATH".to_owned(), PATH.to_owned()), ("H2K_VALIDATOR".to_owned(), validator.name.clone())],
    };
    let bounds = Bounds {
        roots: limits.hook_roots.clone(),
        timeout_s: validator.timeout_s,
        memory_bytes: limits.child_memory_bytes,
        network: limits.retries.network,
    };
    let ended =
        host.attempt(call, bounds, control, &mut |_| {}).map_err(|error| error.details().cause.clone())?;
    match ended {
        Ended { success: true, answer: Some(answer), .. } => Ok(answer),
        Ended { success: true, answer: None, .. } => Err("what it says is not UTF-8".to_owned()),
        Ended { status, .. } => Err(status),
    }
}
