//! Machines of vCenter and ESXi, spoken to in their own protocol: SOAP over HTTPS, as vSphere 6.5 to 8 and a host alone speak it.
//!
//! ```text
//!   endpoint, login ─▶ client ─▶ session ─▶ calls ─▶ soap ─▶ wire ─▶ web
//!                        │                    ▲
//!                        │     property, task ◀── inventory, machine, snapshot, cbt, privileges
//!                        └──▶ connection: GETs of files, with the session's cookie
//! ```
//!
//! Everything here blocks its caller, and obeys the hand ([`crate::disk::Control`]) that the client was given. What a server says is hostile: each
//! answer has limits of size, nodes and time. What is not here: jobs and plans, and changing anything that a caller did not ask to be changed.

pub mod cbt;
pub mod client;
mod connection;
pub mod devices;
pub mod endpoint;
pub mod export;
pub mod facts;
mod failure;
mod flow;
pub mod folder;
pub mod giving_way;
pub mod inventory;
pub mod machine;
pub mod nfc;
pub mod orphans;
pub mod power;
pub mod privileges;
mod property;
pub mod room;
mod service;
mod session;
pub mod snapshot;
mod soap;
pub mod ssh;
pub mod stored;
pub mod tags;
pub mod task;
mod tree;
pub mod vddk;
mod wire;

pub use client::Client;
pub use connection::{Body, Connection, Response};
pub use endpoint::{Endpoint, Login, Patience, Trusted};
pub(crate) use failure::forbidden;
pub use wire::Filled;
