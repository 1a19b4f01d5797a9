//! `vc_connection_*`: how long a vCenter that does not answer is waited for.
//!
//! The keys keep the names that they have had before, so they stand at the top and not below one key. What is not here: which trouble passes
//! by waiting (those know that who ask).

use serde::{Deserialize, Serialize};

use super::ConfigFile;
use super::resolve::{put, put_seconds, put_u32};
use crate::model::error::{Kind, Result};
use crate::model::parse::Tree;

/// `vc_connection_*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VcConnectionSettings {
    /// How often it is asked again.
    pub max_retries: u32,
    /// Before the first time; it doubles from there.
    pub base_backoff_s: f64,
    /// At most.
    pub max_backoff_s: f64,
    /// What has not answered for this long does not.
    pub timeout_s: f64,
    /// Whether delays are spread at random.
    pub enable_jitter: bool,
}

impl Default for VcConnectionSettings {
    fn default() -> VcConnectionSettings {
        VcConnectionSettings {
            max_retries: 3,
            base_backoff_s: 2.0,
            max_backoff_s: 60.0,
            timeout_s: 30.0,
            enable_jitter: true,
        }
    }
}

/// What a file says, over what was there.
pub(super) fn apply(file: &ConfigFile, settings: &mut VcConnectionSettings) {
    put_u32(&mut settings.max_retries, file.vc_connection_max_retries.map(|number| number.get()));
    put_seconds(&mut settings.base_backoff_s, file.vc_connection_base_backoff_s);
    put_seconds(&mut settings.max_backoff_s, file.vc_connection_max_backoff_s);
    put_seconds(&mut settings.timeout_s, file.vc_connection_timeout_s);
    put(&mut settings.enable_jitter, file.vc_connection_enable_jitter);
}

/// What a single value cannot know.
pub(super) fn check(settings: &VcConnectionSettings, tree: &Tree) -> Result<()> {
    let (first, longest) = (settings.base_backoff_s, settings.max_backoff_s);
    if longest < first {
        let cause = format!("the longest delay, {longest} s, is shorter than the first, {first} s");
        return Err(tree
            .error(Kind::Manifest, "vc_connection_max_backoff_s", cause)
            .advice("raise it, or lower `vc_connection_base_backoff_s`"));
    }
    if settings.timeout_s < 1.0 {
        return Err(tree
            .error(Kind::Manifest, "vc_connection_timeout_s", "no server would be as fast")
            .advice("allow at least a second; 30 is the default"));
    }
    Ok(())
}
