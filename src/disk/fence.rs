//! Whether a target may still be written: asked by whoever writes it, answered by whoever knows.

use std::fmt::Debug;

use crate::model::error::Result;

/// Says no once somebody else may write there, and from then on.
pub trait Fence: Debug + Send + Sync {
    /// Looks, whatever that costs.
    fn check(&self) -> Result<()>;

    /// Looks, unless it was looked a moment ago.
    fn glance(&self) -> Result<()>;
}
