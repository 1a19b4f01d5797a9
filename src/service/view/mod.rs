//! What the outside reads: progress, status, metrics, batch reports, checkpoints.
//!
//! The builders here are pure: rows of the queue and what workers told go in, the documents of the
//! contract come out. [`writer`] puts them on the disk. What is not here: when a document is due,
//! which the scheduler decides, and everything that has to happen exactly once (see
//! [`super::settle`]).

pub mod batch_report;
pub mod checkpoint;
mod lane;
pub mod live;
pub mod metrics;
pub mod progress;
pub mod status;
pub mod writer;
