//! Which other files an image names, by its header and descriptor alone: also of one that is not whole yet.
//!
//! For those who have to know what belongs together before everything is there. Nothing is checked here, and a header that lies
//! names files that are not there.

use super::bytes::Image;
use super::{Parent, qcow2, vhd, vhdx, vmdk};
use crate::disk::format::Format;
use crate::model::error::Result;

/// What an image needs besides itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files with its data, as it names them.
    pub extents: Vec<String>,
    /// What it stands on, as it names that.
    pub parent: Option<String>,
    /// Whether that name is from Windows, to which upper and lower case are the same.
    pub any_case: bool,
    /// It is one extent of a disk whose descriptor is another file.
    pub is_extent: bool,
}

/// Reads what an image names.
pub(crate) fn needs(image: &Image<'_>, found: Format) -> Result<Needs> {
    Ok(match found {
        Format::VmdkDescriptor | Format::VmdkSparse | Format::VmdkStreamOptimized => {
            let Some(descriptor) = vmdk::descriptor(image, found)? else {
                return Ok(Needs { is_extent: true, ..Needs::default() });
            };
            // An embedded descriptor names the file itself.
            let others = (found == Format::VmdkDescriptor).then_some(&descriptor.extents);
            Needs {
                extents: others.into_iter().flatten().filter_map(|extent| extent.file.clone()).collect(),
                parent: descriptor.has_parent().then(|| descriptor.parent.unwrap_or_default()),
                ..Needs::default()
            }
        }
        Format::VmdkCowd | Format::VmdkSeSparse => Needs { is_extent: true, ..Needs::default() },
        Format::Qcow2 => on(qcow2::parent(image)?),
        Format::VhdDifferencing => on(vhd::parent(image, found)?),
        Format::Vhdx => on(vhdx::parent(image)?),
        _ => Needs::default(),
    })
}

fn on(parent: Option<Parent>) -> Needs {
    let any_case = parent.as_ref().is_some_and(|parent| parent.is_moved);
    Needs { parent: parent.map(|parent| parent.name), any_case, ..Needs::default() }
}
