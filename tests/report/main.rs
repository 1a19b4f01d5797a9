//! What people read when all is over: the pages of a recorded batch as they were reviewed, and in a real browser, which asks for nothing.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod converted;
mod picture;
mod recorded;
