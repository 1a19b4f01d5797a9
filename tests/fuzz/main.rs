//! Every parser against inputs that nobody would write: generated and mutated, none may panic, hang
//! or answer without saying why.
//!
//! In the suite each property gets a fixed number of cases. `make fuzz-smoke` gives each of them a
//! time instead (`HYPER2KVM_FUZZ_SECONDS`). It is property testing on stable Rust, not guided by
//! coverage. A failure prints the input, which belongs into the suite as a test of its own.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

mod appliances;
mod domains;
mod images;
mod lines;
mod manifests;
mod mutate;
mod served;

#[path = "../support/mod.rs"]
mod support;

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
    let over = || until.is_some_and(|until| Instant::now() >= until);
    let begun = Instant::now();
    let tried = std::cell::Cell::new(0_u64);
    let slowest = std::cell::Cell::new(Duration::ZERO);
    loop {
        let timed = |input: S::Value| {
            if over() {
                return Ok(());
            }
            tried.set(tried.get() + 1);
            let begun = Instant::now();
            property(input)?;
            let took = begun.elapsed();
            slowest.set(slowest.get().max(took));
            if took > PATIENCE {
                return Err(TestCaseError::fail(format!("it took {took:?}")));
            }
            Ok(())
        };
        if let Err(failure) = TestRunner::new(config.clone()).run(inputs, timed) {
            panic!("{failure}");
        }
        if until.is_none() || over() {
            break;
        }
    }
    eprintln!(
        "  {} cases in {:.1} s, the slowest {:.2} s",
        tried.get(),
        begun.elapsed().as_secs_f64(),
        slowest.get().as_secs_f64()
    );
}
