//! What is in a tar archive, and where: nothing is unpacked, members are read in place.
//!
//! ustar, pax and GNU's long names and large sizes are understood, as exporters of appliances and people's own tools write them. Members that
//! are anything but plain files or directories are refused, and so are names that would mean something outside of the archive, names
//! that come twice, and an archive that was cut off: it ends with a block of zeros, or it is not whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::model::error::{Error, Kind, Result};

/// Everything in an archive lies at a multiple of this.
const BLOCK: u64 = 512;
/// No appliance has so many files; each costs a read.
const MOST_MEMBERS: usize = 4096;
/// Longer descriptions of a member than this are an attack.
const MOST_DESCRIPTION_BYTES: u64 = 64 << 10;
/// Longer names are not file names anywhere.
const MOST_NAME_BYTES: usize = 1024;

/// A plain file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name; parts are separated by `/`, and none of them is `..`.
    pub name: String,
    /// Where its bytes begin in the archive.
    pub offset: u64,
    /// How many there are; all of them lie within the archive.
    pub bytes: u64,
}

/// The plain files of an archive of this size, in its order.
pub(super) fn members(archive: &File, size: u64) -> Result<Vec<Member>> {
    let (mut found, mut at, mut names) = (Vec::new(), 0, BTreeSet::new());
    // What a description before a member says of it.
    let mut told = Told::default();
    for _ in 0..MOST_MEMBERS {
        let header = match read(archive, size, at, BLOCK)? {
            Some(bytes) => bytes,
            None => return Err(cut_off("it has no end")),
        };
        if header.iter().all(|byte| *byte == 0) {
            return Ok(found);
        }
        let header = Header::parse(&header, at)?;
        let (begin, bytes) = (at + BLOCK, told.bytes.unwrap_or(header.bytes));
        let bytes = if header.kind.has_content() { bytes } else { 0 };
        let end = begin.checked_add(bytes).filter(|end| *end <= size);
        let Some(end) = end else {
            return Err(cut_off(&format!("`{}` goes on beyond its end", told.name(&header.name))));
        };
        at = end.next_multiple_of(BLOCK);
        match header.kind {
            Entry::NameFollows => told.name = Some(text(&description(archive, begin, bytes)?)?),
            Entry::Described => told.add(&description(archive, begin, bytes)?)?,
            Entry::DescribesAll => {}
            Entry::Directory => told = Told::default(),
            Entry::Plain => {
                let name = sound_name(&told.name(&header.name))?;
                told = Told::default();
                // What macOS leaves beside each file when it packs them.
                if name.rsplit('/').next().is_some_and(|last| last.starts_with("._")) {
                    continue;
                }
                if !names.insert(name.to_lowercase()) {
                    return Err(bad(&format!(
                        "two of its files are called `{name}`, but for upper and lower case"
                    )));
                }
                found.push(Member { name, offset: begin, bytes });
            }
        }
    }
    Err(bad(&format!("it has more than {MOST_MEMBERS} members")))
}

/// What a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Plain,
    Directory,
    /// The next one's name, as GNU writes it.
    NameFollows,
    /// What the next one is like, as pax writes it.
    Described,
    /// What all of them are like: nothing that matters here.
    DescribesAll,
}

impl Entry {
    fn has_content(self) -> bool {
        self != Entry::Directory
    }
}

struct Header {
    kind: Entry,
    name: String,
    bytes: u64,
}

impl Header {
    fn parse(block: &[u8], at: u64) -> Result<Header> {
        let sum = |wanted: std::ops::Range<usize>| {
            let counted =
                |(index, byte): (usize, &u8)| if wanted.contains(&index) { 32 } else { u32::from(*byte) };
            block.iter().enumerate().map(counted).sum::<u32>()
        };
        if number(&block[148..156]) != Some(u64::from(sum(148..156))) {
            return Err(bad(&format!("what is {at} bytes into it is no header of a member")));
        }
        let mut name = text(until_zero(&block[..100]))?;
        let kind = match block[156] {
            0 | b'0' | b'7' if name.ends_with('/') => Entry::Directory,
            0 | b'0' | b'7' => Entry::Plain,
            b'5' => Entry::Directory,
            b'L' => Entry::NameFollows,
            b'x' | b'X' => Entry::Described,
            b'g' => Entry::DescribesAll,
            other => return Err(bad(&format!("`{name}` is {}, and no plain file", kind_of(other)))),
        };
        // GNU keeps times where others keep the beginning of a long name.
        let is_ustar = &block[257..263] == b"ustar\0";
        let prefix = until_zero(&block[345..500]);
        if is_ustar && !prefix.is_empty() {
            name = format!("{}/{name}", text(prefix)?);
        }
        let bytes =
            number(&block[124..136]).ok_or_else(|| bad(&format!("how large `{name}` is makes no sense")))?;
        Ok(Header { kind, name, bytes })
    }
}

fn kind_of(flag: u8) -> &'static str {
    match flag {
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'3' | b'4' => "a device",
        b'6' => "a pipe",
        b'S' => "a file with holes that only tar can fill",
        _ => "something unknown",
    }
}

/// What descriptions before a member say.
#[derive(Debug, Default)]
struct Told {
    name: Option<String>,
    bytes: Option<u64>,
}

impl Told {
    fn name(&self, short: &str) -> String {
        self.name.clone().unwrap_or_else(|| short.to_owned())
    }

    /// Records of pax: `LENGTH KEY=VALUE\n`, the length counting all of it.
    fn add(&mut self, mut records: &[u8]) -> Result<()> {
        let broken = || bad("a description of one of its members makes no sense");
        while !records.is_empty() && records[0] != 0 {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let length =
                std::str::from_utf8(&records[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let length =
                length.filter(|length| *length > space + 1 && *length <= records.len()).ok_or_else(broken)?;
            let (record, rest) = records.split_at(length);
            records = rest;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(text(value)?),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                    self.bytes = Some(size.ok_or_else(broken)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(bad("a member is a file with holes that only tar can fill"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A name that means a file below some directory, whatever that is.
fn sound_name(name: &str) -> Result<String> {
    let refused = |why: &str| Err(bad(&format!("the name `{}` in it {why}", name.escape_debug())));
    if name.starts_with('/') {
        return refused("is absolute");
    }
    if name.len() > MOST_NAME_BYTES {
        return refused("is too long");
    }
    if name.chars().any(|c| c.is_control() || c == '\\') {
        return refused("has characters that no file name should have");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.contains(&"..") {
        return refused("leads out of it");
    }
    Ok(parts.join("/"))
}

/// Octal digits, or, for what is larger than those can tell, a binary number behind a set bit.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let (head, tail) = field.split_at(field.len() - 8);
        let is_small = head.iter().enumerate().all(|(at, byte)| *byte == if at == 0 { 0x80 } else { 0 });
        return is_small.then(|| tail.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let digits = std::str::from_utf8(until_zero(field)).ok()?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(&[])
}

fn text(bytes: &[u8]) -> Result<String> {
    let bytes = until_zero(bytes);
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| bad(&format!("the name `{}` in it is not UTF-8", bytes.escape_ascii())))
}

fn description(archive: &File, at: u64, bytes: u64) -> Result<Vec<u8>> {
    if bytes > MOST_DESCRIPTION_BYTES {
        return Err(bad("a description of one of its members is larger than any can be"));
    }
    let mut read = vec![0; bytes as usize];
    archive.read_exact_at(&mut read, at).map_err(|error| unreadable(&error))?;
    Ok(read)
}

fn read(archive: &File, size: u64, at: u64, bytes: u64) -> Result<Option<Vec<u8>>> {
    if at.checked_add(bytes).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut read = vec![0; bytes as usize];
    archive.read_exact_at(&mut read, at).map_err(|error| unreadable(&error))?;
    Ok(Some(read))
}

fn unreadable(error: &io::Error) -> Error {
    Error::new(Kind::Source, format!("the archive cannot be read: {error}"))
        .advice("check the storage that it lies on")
}

fn cut_off(why: &str) -> Error {
    Error::new(Kind::Source, format!("the archive is cut off: {why}"))
        .advice("copy or export the appliance again")
        .permanent()
}

fn bad(why: &str) -> Error {
    Error::new(Kind::Source, format!("the archive is refused: {why}"))
        .advice("export the appliance again, or pack its files anew with `tar --format=ustar -cf`")
        .permanent()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A member as ustar has it.
    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        finish(header, content)
    }

    fn finish(mut header: Vec<u8>, content: &[u8]) -> Vec<u8> {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header.extend(content);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    }

    fn read(parts: &[Vec<u8>]) -> Result<Vec<Member>> {
        let mut file = tempfile::tempfile().unwrap();
        let bytes = parts.concat();
        file.write_all(&bytes).unwrap();
        members(&file, bytes.len() as u64)
    }

    fn end() -> Vec<u8> {
        vec![0; 1024]
    }

    fn refused(parts: &[Vec<u8>]) -> String {
        let error = read(parts).unwrap_err();
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.details().advice.is_some());
        error.to_string()
    }

    #[test]
    fn plain_files_are_found_where_they_lie_whatever_else_is_there() {
        let found = read(&[
            member("a.ovf", b'0', b"first"),
            member("dir/", b'5', b""),
            member("./dir/./b.vmdk", 0, &[7; 513]),
            member("._a.ovf", b'0', b"left by somebody"),
            member("pax_global_header", b'g', b"19 comment=anything\n"),
            member("empty", b'7', b""),
            end(),
        ]);
        let expected = [("a.ovf", 512, 5), ("dir/b.vmdk", 2048, 513), ("empty", 5632, 0)];
        let expected = expected.map(|(name, offset, bytes)| Member { name: name.to_owned(), offset, bytes });
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn long_names_and_sizes_are_read_as_each_writer_tells_them() {
        let long = "d/".repeat(80) + "disk.vmdk";
        let mut prefixed = vec![0; 512];
        prefixed[..9].copy_from_slice(b"disk.vmdk");
        prefixed[345..351].copy_from_slice(b"folder");
        prefixed[156] = b'0';
        prefixed[257..263].copy_from_slice(b"ustar\0");
        let mut binary = vec![0; 512];
        binary[..3].copy_from_slice(b"bin");
        binary[124] = 0x80;
        binary[135] = 3;
        let pax = format!("{} path={long}\n", long.len() + 10);
        assert_eq!(pax.len(), long.len() + 10);
        let found = read(&[
            member("././@LongLink", b'L', long.as_bytes()),
            member("short", b'0', b"1"),
            member("header", b'x', format!("{}10 size=4\n", pax.replacen("disk", "pax_", 1)).as_bytes()),
            // Its own size is more than the octal digits could say, so it says nothing there.
            {
                let mut m = member("short", b'0', b"");
                m.extend([b"abcd".to_vec(), vec![0; 508]].concat());
                m
            },
            finish(prefixed, b""),
            finish(binary, b"xyz"),
            end(),
        ])
        .unwrap();
        let names: Vec<_> = found.iter().map(|member| (member.name.as_str(), member.bytes)).collect();
        let pax_name = long.replacen("disk", "pax_", 1);
        assert_eq!(names, [(long.as_str(), 1), (&pax_name, 4), ("folder/disk.vmdk", 0), ("bin", 3)]);
    }

    #[test]
    fn what_is_no_plain_file_is_refused_by_name() {
        for (kind, what) in
            [(b'1', "hard link"), (b'2', "symbolic link"), (b'3', "device"), (b'6', "pipe"), (b'S', "holes")]
        {
            let told = refused(&[member("evil", kind, b""), end()]);
            assert!(told.contains(what) && told.contains("`evil`"), "{told}");
        }
        let told =
            refused(&[member("x", b'x', b"25 GNU.sparse.major=1.0.\n"), member("a", b'0', b""), end()]);
        assert!(told.contains("holes"), "{told}");
    }

    #[test]
    fn names_that_lead_elsewhere_or_come_twice_are_refused() {
        for name in ["/etc/shadow", "../x", "a/../../x", "..", "a\\..\\b", "new\nline", "."] {
            let told = refused(&[member(name, b'0', b"").clone(), end()]);
            assert!(told.contains("in it"), "{name}: {told}");
        }
        let told = refused(&[member("a.ovf", b'0', b""), member("A.OVF", b'0', b""), end()]);
        assert!(told.contains("two of its files"), "{told}");
        let mut latin = member("caf?", b'0', b"");
        latin[3] = 0xe9;
        let told = refused(&[finish(latin, b""), end()]);
        assert!(told.contains("not UTF-8"), "{told}");
    }

    #[test]
    fn an_archive_that_was_cut_anywhere_is_refused() {
        let whole =
            [member("a.ovf", b'0', &[1; 700]), member("b.vmdk", b'0', &[2; 1500]), vec![0; 512]].concat();
        assert_eq!(read(std::slice::from_ref(&whole)).unwrap().len(), 2);
        for length in 0..whole.len() {
            refused(&[whole[..length].to_vec()]);
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let mut huge = vec![0; 512];
        huge[..1].copy_from_slice(b"a");
        huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(refused(&[finish(huge.clone(), b""), end()]).contains("beyond its end"));
        huge[124] = 0xff;
        assert!(refused(&[finish(huge, b""), end()]).contains("makes no sense"));
        let told = refused(&[member("x", b'x', b"999999999999999999999999 path=a\n"), end()]);
        assert!(told.contains("description"), "{told}");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        assert!(refused(&[vec![b'x'; 2048]]).contains("no header"));
        assert!(refused(&[Vec::new()]).contains("cut off"));
    }
}
