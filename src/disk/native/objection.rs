//! Why a journal that is there is not gone on with, as it is told to people.
//!
//! What is not here: whether it is gone on with (see [`super::journal`]).

use std::io::{self, BufReader};
use std::path::Path;

use super::frames::Frames;
use super::journal::{Subject, VERSION};
use crate::sys::fs::open_to_go_on;

/// What speaks against it, by its first frame.
pub(super) fn objection(path: &Path, subject: &Subject) -> io::Result<&'static str> {
    let Some(first) = Frames::of(BufReader::new(open_to_go_on(path)?)).next()? else {
        return Ok("its journal is damaged");
    };
    let said: serde_json::Value = serde_json::from_slice(&first).unwrap_or_default();
    let Some(found) = serde_json::from_slice::<Subject>(&first).ok().filter(|found| found.version == VERSION)
    else {
        return Ok(match said["version"].is_u64() {
            true => "its copy was begun by another version of hyper2kvm",
            false => "its journal is none of ours",
        });
    };
    Ok(if (&found.source, found.virtual_size) != (&subject.source, subject.virtual_size) {
        "its source was changed since the earlier attempt"
    } else if found.target_inode != subject.target_inode {
        "its partial result is another file than that of the earlier attempt"
    } else if found != *subject {
        "its result is to be made in another way than by the earlier attempt"
    } else {
        "its journal tells what no copy writes down"
    })
}
