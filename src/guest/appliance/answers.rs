//! What the appliance answers with where a string is not enough.
//!
//! What is not here: how the library lays it out.

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Which file, within its file system.
    pub inode: u64,
    /// Device of its file system.
    pub device: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may be written by ordinary users.
    pub free_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
    /// Files that may be made; `None` where the file system has no such limit.
    pub free_inodes: Option<u64>,
}
