//! The drop directory itself: who may put something there.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use crate::model::error::{Error, Kind, Result};
use crate::sys::users;

/// Members may put files into the drop directory, where such a group exists.
const SUBMIT_GROUP: &str = "hyper2kvm-submit";

/// What files there are called is nobody else's business.
const DROP_DIRECTORY_MODE: u32 = 0o2770;

/// Members of the submitting group may drop, where that group exists and we may give it the directory.
pub(in crate::service) fn prepare_drop_directory(path: &Path) -> Result<()> {
    const WITHOUT_SET_GROUP_ID: u32 = DROP_DIRECTORY_MODE & 0o777;
    if path.exists() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(WITHOUT_SET_GROUP_ID).create(path).map_err(|error| {
        Error::io(Kind::Output, "make", path, &error)
            .advice("name a drop directory that this user may write: `intake.dir`, or --state-dir")
    })?;
    let group = users::group_id(SUBMIT_GROUP).ok().flatten();
    let given = group.map(|group| std::os::unix::fs::chown(path, None, Some(group)));
    if let Some(Err(error)) = given {
        tracing::warn!("the drop directory could not be given to group {SUBMIT_GROUP}: {error}");
    }
    match std::fs::set_permissions(path, PermissionsExt::from_mode(DROP_DIRECTORY_MODE)) {
        // The unit's sandbox forbids set-group-id; in the packaged place the directory is made before the start.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            tracing::warn!(
                "{} is made without set-group-id, so dropped files keep the group of whoever drops them: `chmod 2770` it",
                path.display()
            );
            std::fs::set_permissions(path, PermissionsExt::from_mode(WITHOUT_SET_GROUP_ID))
        }
        other => other,
    }
    .map_err(|error| Error::io(Kind::Output, "set the mode of", path, &error))
}
