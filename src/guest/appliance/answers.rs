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
    /// When it was last written: seconds since the epoch, and nanoseconds.
    pub modified: (i64, i64),
}

impl Stat {
    const TYPE_MASK: u32 = 0o170_000;
    const PERMISSIONS: u32 = 0o7777;

    /// Whether it is a plain file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & Self::TYPE_MASK == 0o100_000
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & Self::TYPE_MASK == 0o040_000
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.mode & Self::TYPE_MASK == 0o120_000
    }

    /// Its mode without its type.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode & Self::PERMISSIONS
    }
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
