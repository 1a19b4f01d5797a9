//! VMDK descriptors: the text that says what files a disk is made of. Parsed here, before QEMU sees it.
//!
//! QEMU's own parser skips extents that it does not know (`RDONLY`, `ZERO`, raw devices), which would
//! give a disk with holes or with everything after them moved. Here they are named and refused.

/// A descriptor is a page or two of text; one beyond this is not read.
pub(crate) const DESCRIPTOR_BYTES: u64 = 1 << 20;
/// More pieces than this no tool makes (64 TiB in pieces of 2 GiB are 32768; QEMU opens each).
const MAX_EXTENTS: usize = 4096;
/// `parentCID` of a disk that has no parent.
const NO_PARENT: &str = "ffffffff";

/// One extent line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    /// `RW`, `RDONLY`, `NOACCESS`.
    pub(crate) access: String,
    /// Its part of the disk, in sectors.
    pub(crate) sectors: u64,
    /// `FLAT`, `SPARSE`, `VMFS`, …
    pub(crate) kind: String,
    /// The file, as written.
    pub(crate) file: Option<String>,
    /// Where its data begins in the file, in sectors.
    pub(crate) offset: u64,
}

/// What a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// `createType`
    pub(crate) create_type: String,
    /// `CID`
    pub(crate) cid: Option<String>,
    /// `parentCID`, unless it says that there is none.
    pub(crate) parent_cid: Option<String>,
    /// `parentFileNameHint`
    pub(crate) parent: Option<String>,
    /// The extents, in order.
    pub(crate) extents: Vec<Extent>,
}

impl Descriptor {
    /// Reads a descriptor's text; what is wrong is told in words.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Descriptor, String> {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let mut descriptor = Descriptor::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(extent) = Extent::parse(line)? {
                descriptor.extents.push(extent);
                if descriptor.extents.len() > MAX_EXTENTS {
                    return Err(format!("it has more than {MAX_EXTENTS} extents"));
                }
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches('"').to_owned();
                match key.trim().to_ascii_lowercase().as_str() {
                    "createtype" => descriptor.create_type = value,
                    "cid" => descriptor.cid = Some(value),
                    "parentcid" => {
                        descriptor.parent_cid = (!value.eq_ignore_ascii_case(NO_PARENT)).then_some(value);
                    }
                    "parentfilenamehint" => descriptor.parent = Some(value),
                    _ => {}
                }
            }
        }
        if descriptor.create_type.is_empty() {
            return Err("it has no createType".to_owned());
        }
        Ok(descriptor)
    }

    /// Whether another disk holds what this one does not.
    pub(crate) fn has_parent(&self) -> bool {
        self.parent_cid.is_some() || self.parent.as_ref().is_some_and(|hint| !hint.is_empty())
    }
}

impl Extent {
    /// `RW 4192256 SPARSE "disk-s001.vmdk" 0`; none for lines that are no extents.
    fn parse(line: &str) -> Result<Option<Extent>, String> {
        let Some((access, rest)) = line.split_once(char::is_whitespace) else { return Ok(None) };
        if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
            return Ok(None);
        }
        let bad = || format!("the extent line `{}` is malformed", shortened(line));
        let (head, quoted) = match rest.split_once('"') {
            Some((head, quoted)) => (head, Some(quoted.split_once('"').ok_or_else(bad)?)),
            None => (rest, None),
        };
        let mut words = head.split_whitespace();
        let sectors = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
        let kind = words.next().ok_or_else(bad)?.to_owned();
        let offset = match quoted.map(|(_, after)| after.split_whitespace().next()) {
            Some(Some(word)) => word.parse().unwrap_or(0),
            _ => 0,
        };
        let file = quoted.map(|(name, _)| name.to_owned());
        Ok(Some(Extent { access: access.to_owned(), sectors, kind, file, offset }))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_its_extents_and_its_parent() {
        let text = b"# Disk DescriptorFile\nversion=1\nCID=123a\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentSparse\"\n\n\
            RW 4192256 SPARSE \"a disk-s001.vmdk\"\nRW 100 FLAT \"b-flat.vmdk\" 128\r\nRW 63 ZERO\n";
        let descriptor = Descriptor::parse(text).unwrap();
        assert_eq!(descriptor.create_type, "twoGbMaxExtentSparse");
        assert!(!descriptor.has_parent());
        let [first, second, third] = descriptor.extents.as_slice() else { panic!("three extents") };
        assert_eq!(first.file.as_deref(), Some("a disk-s001.vmdk"));
        assert_eq!((second.sectors, second.offset, second.kind.as_str()), (100, 128, "FLAT"));
        assert_eq!((third.kind.as_str(), &third.file), ("ZERO", &None));
    }

    #[test]
    fn a_child_disk_is_told_by_its_parent() {
        let text = b"createType=\"vmfsSparse\"\nparentCID=0123abcd\nparentFileNameHint=\"base.vmdk\"\n";
        assert!(Descriptor::parse(text).unwrap().has_parent());
    }

    #[test]
    fn malformed_descriptors_are_told_in_words() {
        for (text, word) in [
            ("RW x FLAT \"a\" 0\ncreateType=\"vmfs\"", "malformed"),
            ("RW 5 FLAT \"a 0\ncreateType=\"vmfs\"", "malformed"),
            ("CID=1", "createType"),
        ] {
            assert!(Descriptor::parse(text.as_bytes()).unwrap_err().contains(word), "{text}");
        }
    }
}
