//! VMDK, as VMware's hosted products have it (monolithicSparse) and as appliances do (streamOptimized): what both have in common.

mod sparse;
mod stream;

use std::path::Path;

pub(super) use sparse::Sparse;
pub(super) use stream::Stream;

use super::BLOCK_BYTES;

const SECTOR: u64 = 512;
const GRAIN: u64 = BLOCK_BYTES as u64;
const GRAIN_SECTORS: u64 = GRAIN / SECTOR;
/// Grains of a table, and its bytes.
const TABLE_GRAINS: u64 = 512;
const TABLE_BYTES: u64 = TABLE_GRAINS * 4;
const DESCRIPTOR_AT: u64 = SECTOR;
const DESCRIPTOR_SECTORS: u64 = 20;
/// "Line ends can be told from each other."
const HAS_LINE_ENDS: u32 = 1;
/// Bytes that a transfer in text mode would change.
const LINE_ENDS: &[u8] = b"\n \r\n";
/// What content ids are made with.
const SEED: u64 = 0x766d_646b;

/// The largest disk whose tables are of a size to be held. Of its grains no more than 2 TiB can be told, less what the tables take.
pub(super) const MOST_BYTES: u64 = 64 << 40;

/// What a header says.
#[derive(Debug, Clone, Copy)]
struct Header {
    version: u32,
    flags: u32,
    /// In bytes.
    capacity: u64,
    /// These in sectors: the second directory, the first, and where grains begin.
    spare_directory: u64,
    directory: u64,
    overhead: u64,
    /// Whether grains are deflated.
    is_packed: bool,
}

impl Header {
    fn bytes(self) -> Vec<u8> {
        let mut header = Vec::with_capacity(SECTOR as usize);
        header.extend(b"KDMV");
        header.extend(self.version.to_le_bytes());
        header.extend((self.flags | HAS_LINE_ENDS).to_le_bytes());
        header.extend((self.capacity / SECTOR).to_le_bytes());
        header.extend(GRAIN_SECTORS.to_le_bytes());
        header.extend((DESCRIPTOR_AT / SECTOR).to_le_bytes());
        header.extend(DESCRIPTOR_SECTORS.to_le_bytes());
        header.extend((TABLE_GRAINS as u32).to_le_bytes());
        header.extend(self.spare_directory.to_le_bytes());
        header.extend(self.directory.to_le_bytes());
        header.extend(self.overhead.to_le_bytes());
        // It was closed cleanly.
        header.push(0);
        header.extend(LINE_ENDS);
        header.extend(u16::from(self.is_packed).to_le_bytes());
        header.resize(SECTOR as usize, 0);
        header
    }
}

/// The text inside, in its place filled up with zeros.
fn descriptor(kind: &str, name: &str, bytes: u64, mark: u64) -> Vec<u8> {
    // The largest two stand for "none" and "unknown".
    let cid = (mark as u32).min(u32::MAX - 2);
    let (heads, sectors) = (16, 63);
    let cylinders = bytes / (sectors * heads * SECTOR);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n\
         # Extent description\nRW {} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"{sectors}\"\nddb.adapterType = \"ide\"\n",
        bytes / SECTOR
    );
    let mut text = text.into_bytes();
    text.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    text
}

/// The name that a descriptor has for its own file: the one under which it will be published, if it is made under another.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".partial").and_then(|name| name.strip_prefix('.')).unwrap_or(&name);
    name.chars().map(|letter| if letter.is_control() || letter == '"' { '_' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_itself_as_it_will_be_called() {
        let name = |path: &str| name_of(Path::new(path));
        assert_eq!(name("/out/.disk0.vmdk.partial"), "disk0.vmdk");
        assert_eq!(name("/out/disk0.vmdk"), "disk0.vmdk");
        assert_eq!(name("/out/a\"b\nc.vmdk"), "a_b_c.vmdk");
    }
}
