//! How far the passes of a warm migration are, as a VM's journal has it.
//!
//! A disk's change id is written down when what it stands for is durable in its copy, and not before. So a pass that is cut anywhere is made
//! again from there, and what it had put in already is put in once more. What is not here: the passes (`stages::warm`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::warm::Pass;

/// All that is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Passes {
    /// Copies that are whole, by disk.
    pub copies: BTreeMap<String, WarmCopy>,
    /// The passes so far, for the report; of very many the first and the newest.
    pub made: Vec<Pass>,
    /// Whether the newest is complete, and its end was not: it may not have been told, and what was frozen for it may stand.
    pub is_ending: bool,
    /// Whether the last one is made: from here on it goes on as with any other VM that is off.
    pub is_over: bool,
}

/// A copy of a disk as it was at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmCopy {
    /// Its file. What it holds and when that was changed are others after each pass.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// What the server knows that moment by; none: it does not, and the next pass copies all of it.
    pub change_id: Option<String>,
}
