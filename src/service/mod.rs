//! The long-running daemon: takes drops, keeps the queue, runs workers, tells the outside.

pub mod admission;
pub mod command;
pub mod configuration;
pub mod control;
pub mod intake;
pub mod logging;
pub mod network;
pub mod preflight;
pub mod queue;
pub mod scheduler;
pub mod unit_settings;
pub mod watchdog;
