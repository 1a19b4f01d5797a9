//! The long-running daemon: takes drops, keeps the queue, runs workers, tells the outside.

pub mod admission;
pub mod command;
pub mod configuration;
pub mod control;
pub mod daemon;
pub mod intake;
mod kept;
pub mod leftovers;
pub mod logging;
pub mod network;
pub mod notices;
mod passwords;
mod places;
pub mod preflight;
pub mod queue;
pub mod retention;
pub mod scheduler;
pub mod settle;
pub mod space;
pub mod supervisor;
pub mod unit_settings;
pub mod view;
pub mod watchdog;
