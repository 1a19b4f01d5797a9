//! What people write and read, and what the rooms say to each other.
//!
//! Pure data and pure functions: nothing here opens a file, asks the clock or keeps a global. What
//! is not here: how any of it is done.

pub mod acts;
#[cfg(test)]
mod acts_tests;
pub mod address;
pub mod api;
pub mod bandwidth;
pub mod base64;
pub mod boot;
pub mod checksum;
pub mod config;
pub mod credential;
pub mod crypt;
pub(crate) mod element;
pub mod error;
pub mod facts;
pub mod fitting;
pub mod grouping;
pub mod guest;
pub mod guest_age;
pub mod handover;
pub mod hook;
pub mod job;
pub mod libosinfo;
pub mod libvirt_uri;
pub mod limits;
pub mod machine;
pub mod manifest;
pub mod notice;
pub mod parse;
pub mod pattern;
pub mod placement;
pub mod plan;
pub mod planner;
pub mod progress;
pub mod protocol;
pub mod provenance;
pub mod redaction;
pub mod remote;
pub mod report;
pub mod retry;
pub mod schema;
pub mod selection;
pub mod setup;
mod source_format;
pub mod template;
pub mod thumbprint;
pub mod transports;
pub mod units;
pub mod validation;
pub(crate) mod vmware;
pub mod warm;
pub mod web_address;
pub mod window;
