//! What a repair is, and how all of them are carried out.
//!
//! ```text
//!   for each fix that the options ask for and that the guest needs:  apply
//!   then, for each of these:                                          verify, by reading the guest again
//! ```
//!
//! All changes go into an overlay. It is committed only when every fix has verified, so a fix that fails leaves nothing behind. A guest
//! that was repaired before needs nothing: applying twice changes nothing. What is not here: what any of them does (see [`super::linux`]).

use super::facts::{Facts, FixOptions};
use super::tree::{Edit, Tree};
use crate::model::error::Result;

/// A guest under repair.
#[derive(Debug)]
pub struct Guest<'a> {
    /// Its files.
    pub tree: Tree,
    /// Who it is and where things lie.
    pub facts: Facts,
    /// What is wanted.
    pub options: &'a FixOptions,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// A repair. One file each.
pub trait Fix: Sync {
    /// As in reports: `fstab`.
    fn name(&self) -> &'static str;

    /// What it will see to with these options, for people; `None` if they switch it off.
    fn purpose(&self, options: &FixOptions) -> Option<&'static str>;

    /// Whether this guest has what it mends.
    fn applies(&self, facts: &Facts) -> bool;

    /// Makes its changes. Fails only where the guest would not boot, or would lose something, without them.
    fn apply(&self, guest: &mut Guest<'_>) -> Result<()>;

    /// Reads the guest again and fails if it is not as it has to be.
    fn verify(&self, guest: &Guest<'_>) -> Result<()>;
}

/// Carries out those of `fixes` that are wanted and needed, telling the name of each as it begins.
pub fn carry_out(
    fixes: &[&dyn Fix],
    guest: &mut Guest<'_>,
    begun: &mut dyn FnMut(&'static str),
) -> Result<()> {
    let mut applied: Vec<&dyn Fix> = Vec::new();
    for fix in fixes {
        if fix.purpose(guest.options).is_none() || !fix.applies(&guest.facts) {
            continue;
        }
        begun(fix.name());
        guest.tree.begin(fix.name());
        fix.apply(guest)?;
        applied.push(*fix);
    }
    guest.tree.forget();
    for fix in applied {
        fix.verify(guest)?;
    }
    Ok(())
}

/// A dry run's diff of one file, in the unified form; `None` for what has no text.
#[must_use]
pub fn diff(edits: &[Edit], path: &str) -> Option<String> {
    let mut of_path = edits.iter().filter(|edit| edit.path == path);
    let first = of_path.next()?;
    let last = of_path.next_back().unwrap_or(first);
    let text = |bytes: Option<&Vec<u8>>| {
        bytes.map_or(Some(String::new()), |bytes| String::from_utf8(bytes.clone()).ok())
    };
    let (before, after) = (text(first.before.as_ref())?, text(last.after.as_ref())?);
    if before == after {
        return None;
    }
    Some(super::diff::unified(path, &before, &after))
}
