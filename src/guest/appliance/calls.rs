//! What is asked of the appliance: libguestfs' functions by their meaning, each with the shape that `guestfs.h` gives it.
//!
//! The one table of names. Paths are the guest's, and are resolved inside the appliance below the guest's root: a link of the guest
//! leads nowhere else. What is not here: what the answers are used for.

use super::{Appliance, Failure, Room, Stat};

type Answer<T> = Result<T, Failure>;

/// What is read of a file with one question: a message holds 4 MiB with all around it.
const PIECE_BYTES: i32 = 2 * 1024 * 1024;
/// What the appliance says where nothing is to be found: no such file, a file in the place of a directory, links in a circle.
const ABSENT: [&str; 3] = ["No such file", "Not a directory", "Too many levels"];

/// Storage.
impl Appliance {
    /// Whole disks, in the order in which they were attached.
    pub fn devices(&self) -> Answer<Vec<String>> {
        self.handle.list("guestfs_list_devices", &[])
    }

    /// Partitions of all disks.
    pub fn partitions(&self) -> Answer<Vec<String>> {
        self.handle.list("guestfs_list_partitions", &[])
    }

    /// md arrays that the appliance has put together.
    pub fn md_devices(&self) -> Answer<Vec<String>> {
        self.handle.list("guestfs_list_md_devices", &[])
    }

    /// Logical volumes.
    pub fn logical_volumes(&self) -> Answer<Vec<String>> {
        self.handle.list("guestfs_lvs", &[])
    }

    /// Looks for volume groups again and activates all: needed after something was unlocked.
    pub fn activate_volumes(&self) -> Answer<()> {
        self.handle.status("guestfs_vgscan", &[])?;
        self.handle.status_then_number("guestfs_vg_activate_all", &[], 1).map(drop)
    }

    /// What is on a device, in libblkid's words: `ext4`, `crypto_LUKS`, `LVM2_member`; empty where nothing is known.
    pub fn content_of(&self, device: &str) -> Answer<String> {
        self.handle.string("guestfs_vfs_type", &[device])
    }

    /// All that libblkid says of a device: `TYPE`, `UUID`, `LABEL`, `PARTUUID`, `PARTLABEL`.
    pub fn blkid(&self, device: &str) -> Answer<Vec<(String, String)>> {
        Ok(pairs(self.handle.list("guestfs_blkid", &[device])?))
    }

    /// `gpt`, `msdos`; an error where there is no table.
    pub fn partition_table(&self, disk: &str) -> Answer<String> {
        self.handle.string("guestfs_part_get_parttype", &[disk])
    }

    /// The GPT type of a partition, upper case.
    pub fn gpt_type(&self, disk: &str, number: i32) -> Answer<String> {
        self.handle.text_of_number("guestfs_part_get_gpt_type", disk, number)
    }

    /// The disk of a partition.
    pub fn disk_of(&self, partition: &str) -> Answer<String> {
        self.handle.string("guestfs_part_to_dev", &[partition])
    }

    /// The number of a partition.
    pub fn number_of(&self, partition: &str) -> Answer<i32> {
        self.handle.status("guestfs_part_to_partnum", &[partition])
    }

    /// Bytes of a device.
    pub fn device_bytes(&self, device: &str) -> Answer<u64> {
        self.handle.large("guestfs_blockdev_getsize64", &[device]).map(i64::cast_unsigned)
    }

    /// The name that is usual for a device: of LVM, `/dev/vg/lv`.
    pub fn device_name(&self, device: &str) -> Answer<String> {
        self.handle.string("guestfs_canonical_device_name", &[device])
    }

    /// Opens a LUKS device as `/dev/mapper/<name>`.
    pub fn unlock(&self, device: &str, key: &str, name: &str) -> Answer<()> {
        self.handle.status_without_options("guestfs_cryptsetup_open_argv", &[device, key, name]).map(drop)
    }

    /// Mounts with options (`ro`, `subvol=@`).
    pub fn mount(&self, options: &str, device: &str, at: &str) -> Answer<()> {
        self.handle.status("guestfs_mount_options", &[options, device, at]).map(drop)
    }

    /// Takes all file systems off.
    pub fn unmount_all(&self) -> Answer<()> {
        self.handle.status("guestfs_umount_all", &[]).map(drop)
    }

    /// Has the appliance write out all that it holds back.
    pub fn sync(&self) -> Answer<()> {
        self.handle.status("guestfs_sync", &[]).map(drop)
    }

    /// How full the file system of a path is.
    pub fn room(&self, path: &str) -> Answer<Room> {
        self.handle.room(path)
    }

    /// Gives blocks that a file system does not use back to the disk.
    pub fn trim(&self, mountpoint: &str) -> Answer<()> {
        self.handle.status_without_options("guestfs_fstrim_argv", &[mountpoint]).map(drop)
    }

    /// So many bytes of a device, from an offset.
    pub fn read_device(&self, device: &str, count: i32, offset: u64) -> Answer<Vec<u8>> {
        self.handle.read_at("guestfs_pread_device", device, count, offset.cast_signed())
    }

    /// Writes bytes to a device at an offset.
    pub fn write_device(&self, device: &str, bytes: &[u8], offset: u64) -> Answer<()> {
        let written = self.handle.write_device(device, bytes, offset.cast_signed())?;
        match written == bytes.len() {
            true => Ok(()),
            false => Err(format!("{written} of {} bytes were written to {device}", bytes.len())),
        }
    }

    /// Has a physical volume of LVM take all of its device.
    pub fn grow_physical_volume(&self, device: &str) -> Answer<()> {
        self.handle.status("guestfs_pvresize", &[device]).map(drop)
    }

    /// Checks an ext file system that is not mounted, and mends what is safe to mend.
    pub fn check_ext(&self, device: &str) -> Answer<()> {
        self.handle.status("guestfs_e2fsck_f", &[device]).map(drop)
    }

    /// Has an ext file system that is not mounted take all of its device.
    pub fn grow_ext(&self, device: &str) -> Answer<()> {
        self.handle.status("guestfs_resize2fs", &[device]).map(drop)
    }

    /// What an ext file system says of itself: `Block count`, `Filesystem features`.
    pub fn ext_facts(&self, device: &str) -> Answer<Vec<(String, String)>> {
        Ok(pairs(self.handle.list("guestfs_tune2fs_l", &[device])?))
    }

    /// Has a mounted XFS take all of its device.
    pub fn grow_xfs(&self, mountpoint: &str) -> Answer<()> {
        self.handle.status_without_options("guestfs_xfs_growfs_argv", &[mountpoint]).map(drop)
    }

    /// Has a mounted btrfs take all of its device.
    pub fn grow_btrfs(&self, mountpoint: &str) -> Answer<()> {
        self.handle.status_without_options("guestfs_btrfs_filesystem_resize_argv", &[mountpoint]).map(drop)
    }

    /// Runs a command of the *appliance*, not of the guest: nothing of the guest is executed. Its standard output.
    pub fn appliance_command(&self, script: &str) -> Answer<String> {
        self.handle.string_of_list("guestfs_debug", "sh", &[script])
    }
}

/// Files.
impl Appliance {
    /// What is at a path itself, a link not followed; `None` where nothing is.
    pub fn look(&self, path: &str) -> Answer<Option<Stat>> {
        unless_absent(self.handle.lstat(path))
    }

    /// Where a link points. By the library's function for many links: that for one takes ten times as long.
    pub fn link_target(&self, path: &str) -> Answer<String> {
        let (directory, name) = split(path);
        match self.handle.list_of_list("guestfs_readlinklist", directory, &[name])?.pop() {
            Some(target) if !target.is_empty() => Ok(target),
            _ => Err(format!("{path} is not a link that can be read")),
        }
    }

    /// The path with all links followed, inside the guest; `None` where they lead to nothing.
    pub fn real_path(&self, path: &str) -> Answer<Option<String>> {
        unless_absent(self.handle.string("guestfs_realpath", &[path]))
    }

    /// Names in a directory, sorted.
    pub fn list(&self, directory: &str) -> Answer<Vec<String>> {
        self.handle.list("guestfs_ls", &[directory])
    }

    /// Paths that a pattern of the shell matches.
    pub fn glob(&self, pattern: &str) -> Answer<Vec<String>> {
        self.handle.list("guestfs_glob_expand", &[pattern])
    }

    /// A plain file's content; the caller has looked at it, and knows that so much may be read.
    ///
    /// Not by the library's own function for that: it sends every file through a file of the host, which takes fifty times as long.
    pub fn read(&self, path: &str, limit_bytes: u64) -> Answer<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let offset = content.len() as u64;
            let wanted = i32::try_from(limit_bytes.saturating_sub(offset))
                .map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            if wanted == 0 {
                return Ok(content);
            }
            let piece = self.handle.read_at("guestfs_pread", path, wanted, offset.cast_signed())?;
            if piece.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(&piece);
        }
    }

    /// Writes a file's content in place: an existing one keeps its inode, mode, owner and labels.
    pub fn write(&self, path: &str, content: &[u8]) -> Answer<()> {
        self.handle.write("guestfs_write", path, content)
    }

    /// Adds to the end of a file.
    pub fn append(&self, path: &str, content: &[u8]) -> Answer<()> {
        self.handle.write("guestfs_write_append", path, content)
    }

    /// Makes a directory with all above it.
    pub fn make_directories(&self, path: &str) -> Answer<()> {
        self.handle.status("guestfs_mkdir_p", &[path]).map(drop)
    }

    /// Removes a file or a link.
    pub fn remove(&self, path: &str) -> Answer<()> {
        self.handle.status("guestfs_rm_f", &[path]).map(drop)
    }

    /// Removes a tree; links in it are not followed.
    pub fn remove_tree(&self, path: &str) -> Answer<()> {
        self.handle.status("guestfs_rm_rf", &[path]).map(drop)
    }

    /// Copies with owner, mode, times and attributes.
    pub fn copy(&self, from: &str, to: &str) -> Answer<()> {
        self.handle.status("guestfs_cp_a", &[from, to]).map(drop)
    }

    /// Gives a file owner, mode, attributes and time of another, whose time this is.
    pub fn copy_access(&self, from: &str, to: &str, modified: (i64, i64)) -> Answer<()> {
        self.handle.copy_attributes(from, to)?;
        self.handle.set_times(to, modified)
    }

    /// Whether two files have the same content.
    pub fn equal(&self, one: &str, other: &str) -> Answer<bool> {
        self.handle.status("guestfs_equal", &[one, other]).map(|answer| answer == 1)
    }

    /// Makes a symbolic link, replacing what was there.
    pub fn make_link(&self, target: &str, link: &str) -> Answer<()> {
        self.handle.status("guestfs_ln_sf", &[target, link]).map(drop)
    }

    /// Sets permissions.
    pub fn set_mode(&self, path: &str, mode: u32) -> Answer<()> {
        self.handle.numbers_then_path("guestfs_chmod", &[i32::try_from(mode & 0o7777).unwrap_or(0)], path)
    }

    /// Sets owner and group, a link not followed.
    pub fn set_owner(&self, path: &str, uid: u32, gid: u32) -> Answer<()> {
        let number = |id: u32| i32::try_from(id).map_err(|_| format!("{id} is too large an id"));
        self.handle.numbers_then_path("guestfs_lchown", &[number(uid)?, number(gid)?], path)
    }

    /// An extended attribute; an error where there is none of that name.
    pub fn attribute(&self, path: &str, name: &str) -> Answer<Vec<u8>> {
        self.handle.bytes("guestfs_lgetxattr", &[path, name])
    }

    /// Sets an extended attribute.
    pub fn set_attribute(&self, path: &str, name: &str, value: &[u8]) -> Answer<()> {
        self.handle.set_attribute(path, name, value)
    }
}

/// A Windows' registry.
impl Appliance {
    /// Texts of values below a key of a hive, `None` for each that is not there.
    pub fn registry(&self, hive: &str, key: &[&str], values: &[&str]) -> Answer<Vec<Option<String>>> {
        self.handle.status_without_options("guestfs_hivex_open_argv", &[hive])?;
        let told = self.registry_values(key, values);
        // What was opened for reading loses nothing.
        let _ = self.handle.status("guestfs_hivex_close", &[]);
        told
    }

    fn registry_values(&self, key: &[&str], values: &[&str]) -> Answer<Vec<Option<String>>> {
        let mut node = self.handle.large("guestfs_hivex_root", &[])?;
        for part in key {
            node = self.handle.large_of_large("guestfs_hivex_node_get_child", node, part)?;
            if node == 0 {
                return Ok(vec![None; values.len()]);
            }
        }
        values
            .iter()
            .map(|name| match self.handle.large_of_large("guestfs_hivex_node_get_value", node, name)? {
                0 => Ok(None),
                // A number is no text, and not what was asked for.
                value => Ok(self.handle.string_of_large("guestfs_hivex_value_string", value).ok()),
            })
            .collect()
    }
}

fn unless_absent<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(why) if ABSENT.iter().any(|words| why.contains(words)) => Ok(None),
        Err(why) => Err(why),
    }
}

/// The directory of a path, and the name in it.
fn split(physical: &str) -> (&str, &str) {
    match physical.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", physical),
    }
}

fn pairs(list: Vec<String>) -> Vec<(String, String)> {
    let mut pairs = Vec::with_capacity(list.len() / 2);
    let mut items = list.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((key, value));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_into_a_directory_and_a_name() {
        assert_eq!(split("/lib"), ("/", "lib"));
        assert_eq!(split("/etc/rc2.d/S01vmtools"), ("/etc/rc2.d", "S01vmtools"));
    }
}
