//! Every parser against inputs that nobody would write: generated and mutated, none may panic, hang
//! or answer without saying why.
//!
//! In the suite each property gets a fixed number of cases. `make fuzz-smoke` gives each of them a
//! time instead (`HYPER2KVM_FUZZ_SECONDS`). It is property testing on stable Rust, not guided by
//! coverage. A failure prints the input, which belongs into the suite as a test of its own.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

mod images;
mod lines;
mod manifests;
mod mutate;

use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// No input of the sizes used here may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Holds a property against `cases` inputs, or against as many as the given time allows.
fn hold<S: Strategy>(cases: u32, inputs: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let seconds = std::env::var("HYPER2KVM_FUZZ_SECONDS").ok().map(|text| text.parse().expect("seconds"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut rounds = 0_u32;
    loop {
        let timed = |input: S::Value| {
            let begun = Instant::now();
            property(input)?;
            let took = begun.elapsed();
            if took > PATIENCE {
                return Err(TestCaseError::fail(format!("it took {took:?}")));
            }
            Ok(())
        };
        if let Err(failure) = TestRunner::new(config.clone()).run(inputs, timed) {
            panic!("{failure}");
        }
        rounds += 1;
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    eprintln!("  {} cases", u64::from(rounds) * u64::from(cases));
}
