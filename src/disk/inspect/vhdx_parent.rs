//! What a differing VHDX says of the disk that it stands on: by which name that is found, and how it is known.

use super::bytes::{le16, le32};
use super::{Parent, broken, unsupported, windows};
use crate::model::error::Result;
use crate::model::plan::SourceFormat;

/// The one kind of parent that is described: another VHDX.
const KIND: &str = "b04aefb7d19e4a81b78925b8e9445913";
const HEADER_BYTES: usize = 20;
const ENTRY_BYTES: usize = 12;
/// In the order in which they are tried.
const PATHS: [&str; 3] = ["relative_path", "volume_path", "absolute_win32_path"];
/// While a disk is merged into its parent it may have either id.
const LINKAGES: [&str; 2] = ["parent_linkage", "parent_linkage2"];

/// Reads the parent locator.
pub(super) fn parent(locator: &[u8]) -> Result<Parent> {
    if digits(locator.get(..16).unwrap_or_default()) != KIND {
        return Err(unsupported(
            "the disk stands on something that is no VHDX",
            "merge it with its parent in Hyper-V first (`Merge-VHD`)",
        ));
    }
    let count = usize::from(le16(locator, 18));
    let entries = locator.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES).take(count);
    let said: Vec<(String, String)> = entries
        .map(|entry| {
            let part = |at: u32, bytes: u16| {
                let at = at as usize;
                let part = locator.get(at..at + usize::from(bytes)).unwrap_or_default();
                windows::text(part.chunks_exact(2).map(|unit| le16(unit, 0)))
            };
            (part(le32(entry, 0), le16(entry, 8)), part(le32(entry, 4), le16(entry, 10)))
        })
        .collect();
    let value = |key: &str| said.iter().find(|(said, _)| said == key).map(|(_, value)| value.as_str());
    let ids: Vec<String> = LINKAGES
        .iter()
        .filter_map(|key| value(key))
        .map(|id| id.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase())
        .filter(|id| id.bytes().any(|digit| digit != b'0'))
        .collect();
    if ids.is_empty() {
        return Err(broken("it does not say which disk it stands on"));
    }
    Ok(Parent {
        name: PATHS.iter().filter_map(|key| value(key)).find_map(windows::name).unwrap_or_default(),
        format: Some(SourceFormat::Vhdx),
        ids,
        is_moved: true,
    })
}

/// The digits of a GUID as people write it, of how it lies in a file.
pub(super) fn digits(guid: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    ORDER.iter().filter_map(|at| guid.get(*at)).map(|byte| format!("{byte:02x}")).collect()
}
