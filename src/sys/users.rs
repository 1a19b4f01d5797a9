//! Users and groups of this machine: who is in which group.
//!
//! The look-ups go through the C library, so that directory services count too; they may block for
//! as long as such a service takes, and are not made on an executor's thread.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// The number of the group of this name, if there is one.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// Whether the user of this number is in the group of this number, as primary or supplementary group.
pub fn user_is_in_group(uid: u32, gid: u32) -> io::Result<bool> {
    let Some(user) = User::from_uid(Uid::from_raw(uid))? else { return Ok(false) };
    let name = CString::new(user.name).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(getgrouplist(&name, user.gid)?.contains(&Gid::from_raw(gid)))
}

/// The user that this process acts as.
#[must_use]
pub fn effective_uid() -> u32 {
    Uid::effective().as_raw()
}

/// What that user is called; its number where it has no name.
#[must_use]
pub fn effective_name() -> String {
    let uid = Uid::effective();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// What this machine calls itself.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_not_there_has_no_number() {
        assert_eq!(group_id("no-such-group-here").unwrap(), None);
        assert_eq!(group_id("root").unwrap(), Some(0));
    }

    #[test]
    fn root_is_in_its_own_group_and_a_user_that_is_not_there_is_in_none() {
        assert!(user_is_in_group(0, 0).unwrap());
        assert!(!user_is_in_group(4_000_000_000, 0).unwrap());
    }
}
