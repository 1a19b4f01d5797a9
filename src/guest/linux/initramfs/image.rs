//! Reading an initial RAM disk: archives strung together, each packed or not, as the kernel would unpack them.
//!
//! A microcode archive comes first on many, then the main one, then whatever was appended. Padding of zeros may stand between. What
//! is read comes from a guest, so the unpacked size is bounded. What is not here: any unpacking to a file system.

use std::io::{self, BufRead, Read};

use super::cpio::{self, Entry};
use super::lzo;

/// More than any initial RAM disk unpacks to.
const UNPACKED_LIMIT_BYTES: u64 = 4 << 30;
/// Segments of one image.
const SEGMENTS_LIMIT: usize = 64;
/// A file whose content is kept while the rest is only listed.
const KEPT_LIMIT_BYTES: u64 = 1 << 20;
/// `xz -9` has a dictionary of 64 MiB; a guest that asks for more than this wants only the memory.
const DICTIONARY_LIMIT_KIB: u32 = 128 << 10;
/// The blocks of what `lz4 -l` writes: 8 MiB, unpacked.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// How a segment is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not.
    None,
    /// gzip
    Gzip,
    /// Zstandard
    Zstd,
    /// xz
    Xz,
    /// The old lzma form.
    Lzma,
    /// LZ4 in the form of `lz4 -l`.
    Lz4,
    /// bzip2
    Bzip2,
    /// LZO
    Lzo,
}

impl Packing {
    fn of(bytes: &[u8]) -> Option<Packing> {
        let magics: [(&[u8], Packing); 8] = [
            (&[0x1f, 0x8b], Packing::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Packing::Xz),
            (&[0x5d, 0, 0], Packing::Lzma),
            (&[0x02, 0x21, 0x4c, 0x18], Packing::Lz4),
            (b"BZh", Packing::Bzip2),
            (&[0x89, b'L', b'Z', b'O'], Packing::Lzo),
            (b"0707", Packing::None),
        ];
        magics.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, packing)| *packing)
    }
}

/// What an image holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Image {
    /// All entries, in the order in which they are unpacked.
    pub(super) entries: Vec<Entry>,
    /// Contents of the files that were asked for, the last of each name.
    pub(super) kept: Vec<(String, Vec<u8>)>,
    /// How its segments are packed.
    pub(super) packings: Vec<Packing>,
}

impl Image {
    /// Whether it has a module, under any of the endings that modules have.
    #[must_use]
    pub(super) fn has_module(&self, kernel: &str, module: &str) -> bool {
        let wanted = module.replace('-', "_");
        let of_kernel = format!("lib/modules/{kernel}/");
        self.entries.iter().any(|entry| {
            entry.name.contains(&of_kernel)
                && super::modules::name_of(&entry.name).is_some_and(|name| name == wanted)
        })
    }

    /// The directory of a kernel's modules: `usr/lib/modules/6.1.0` or `lib/modules/6.1.0`, as files are really named.
    #[must_use]
    pub(super) fn modules_directory(&self, kernel: &str) -> Option<String> {
        let inner = format!("lib/modules/{kernel}/");
        self.entries.iter().filter(|entry| !entry.is_directory()).find_map(|entry| {
            let at = entry.name.find(&inner)?;
            let before = &entry.name[..at];
            (before.is_empty() || before == "usr/").then(|| format!("{before}lib/modules/{kernel}"))
        })
    }

    /// Whether something is there: a file, a link or a directory of exactly this name.
    #[must_use]
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }
}

/// Reads an image. `keep` says of which files the content is wanted.
pub(super) fn read(bytes: &[u8], keep: &dyn Fn(&str) -> bool) -> io::Result<Image> {
    let mut image = Image::default();
    let mut rest = bytes;
    let mut unpacked: u64 = 0;
    for _ in 0..SEGMENTS_LIMIT {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[zeros..];
        if rest.is_empty() {
            return Ok(image);
        }
        let Some(packing) = Packing::of(rest) else {
            return Err(bad("it holds something that is neither an archive nor packed in a known way"));
        };
        image.packings.push(packing);
        rest = segment(packing, rest, &mut image, &mut unpacked, keep)?;
    }
    Err(bad("it has too many segments"))
}

/// Reads one segment, which may hold several archives; gives back what is behind it.
fn segment<'b>(
    packing: Packing,
    bytes: &'b [u8],
    image: &mut Image,
    unpacked: &mut u64,
    keep: &dyn Fn(&str) -> bool,
) -> io::Result<&'b [u8]> {
    match packing {
        Packing::None => {
            let mut rest = bytes;
            archive(&mut rest, image, unpacked, keep)?;
            Ok(rest)
        }
        Packing::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(bytes);
            archives(&mut decoder, image, unpacked, keep)?;
            Ok(decoder.into_inner())
        }
        Packing::Zstd => {
            let mut rest = bytes;
            let decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest)
                .map_err(|error| bad(&error.to_string()))?;
            let mut decoder = decoder;
            archives(&mut decoder, image, unpacked, keep)?;
            drop(decoder);
            Ok(rest)
        }
        Packing::Xz => {
            let mut decoder = lzma_rust2::XzReader::new_mem_limit(bytes, false, DICTIONARY_LIMIT_KIB);
            archives(&mut decoder, image, unpacked, keep)?;
            Ok(decoder.into_inner())
        }
        Packing::Lzma => {
            let mut decoder = lzma_rust2::LzmaReader::new_mem_limit(bytes, DICTIONARY_LIMIT_KIB, None)?;
            archives(&mut decoder, image, unpacked, keep)?;
            // It reads ahead, and gives back what was not its own.
            let (behind, unused) = decoder.into_parts();
            Ok(&bytes[bytes.len() - behind.len() - unused.len()..])
        }
        Packing::Bzip2 => {
            let mut decoder = bzip2::bufread::BzDecoder::new(bytes);
            archives(&mut decoder, image, unpacked, keep)?;
            Ok(decoder.into_inner())
        }
        Packing::Lz4 => lz4(bytes, image, unpacked, keep),
        Packing::Lzo => {
            let (plain, rest) = lzo::unpack(bytes, UNPACKED_LIMIT_BYTES / 4)?;
            archives(&mut plain.as_slice(), image, unpacked, keep)?;
            Ok(rest)
        }
    }
}

/// Reads archives until a stream ends; zeros may stand between them and behind.
fn archives(
    stream: &mut dyn Read,
    image: &mut Image,
    unpacked: &mut u64,
    keep: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    let mut stream = io::BufReader::with_capacity(1 << 16, stream);
    loop {
        let buffer = stream.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 {
            stream.consume(zeros);
            continue;
        }
        archive(&mut stream, image, unpacked, keep)?;
    }
}

fn archive(
    source: &mut dyn Read,
    image: &mut Image,
    unpacked: &mut u64,
    keep: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    let mut limited = source.take(UNPACKED_LIMIT_BYTES.saturating_sub(*unpacked));
    let Image { entries, kept, .. } = image;
    *unpacked += cpio::read(&mut limited, &mut |entry, content| {
        if entry.size <= KEPT_LIMIT_BYTES && keep(&entry.name) {
            let mut bytes = Vec::new();
            if content.read_to_end(&mut bytes).is_ok() {
                kept.retain(|(name, _)| name != &entry.name);
                kept.push((entry.name.clone(), bytes));
            }
        }
        entries.push(entry.clone());
    })?;
    Ok(())
}

/// The old form: a magic number, then blocks, each with its length in front. It has no end mark: a length that cannot be one, or a
/// further magic number, ends it.
fn lz4<'b>(
    bytes: &'b [u8],
    image: &mut Image,
    unpacked: &mut u64,
    keep: &dyn Fn(&str) -> bool,
) -> io::Result<&'b [u8]> {
    let mut rest = &bytes[4..];
    let mut plain = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > behind.len() || length > LZ4_BLOCK_BYTES + (LZ4_BLOCK_BYTES >> 7) {
            break;
        }
        let block = lz4_flex::block::decompress(&behind[..length], LZ4_BLOCK_BYTES)
            .map_err(|error| bad(&error.to_string()))?;
        plain.extend_from_slice(&block);
        if plain.len() as u64 > UNPACKED_LIMIT_BYTES / 4 {
            return Err(bad("it unpacks to too much"));
        }
        rest = &behind[length..];
    }
    archives(&mut plain.as_slice(), image, unpacked, keep)?;
    Ok(rest)
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn archive_of(name: &str) -> Vec<u8> {
        let mut writer = cpio::Writer::default();
        writer.file(name, b"content");
        writer.finish()
    }

    fn packed(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
        let mut child =
            Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn every_way_of_packing_is_read_with_an_archive_before_and_one_behind() {
        let ways: [(&str, &[&str], Packing); 7] = [
            ("gzip", &["-c"], Packing::Gzip),
            ("zstd", &["-c", "-q"], Packing::Zstd),
            ("xz", &["-c", "--check=crc32"], Packing::Xz),
            ("lz4", &["-l", "-c", "-q"], Packing::Lz4),
            ("xz", &["-c", "--format=lzma"], Packing::Lzma),
            ("bzip2", &["-c"], Packing::Bzip2),
            ("lzop", &["-c"], Packing::Lzo),
        ];
        for (program, args, packing) in ways {
            let mut bytes = archive_of("kernel/x86/microcode/GenuineIntel.bin");
            bytes.extend(packed(program, args, &archive_of("usr/lib/modules/6.1/kernel/a.ko.xz")));
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes.extend(archive_of("conf/modules"));
            let image = read(&bytes, &|name| name == "conf/modules").unwrap();
            let names: Vec<&str> = image.entries.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(
                names,
                [
                    "kernel/x86/microcode/GenuineIntel.bin",
                    "usr/lib/modules/6.1/kernel/a.ko.xz",
                    "conf/modules"
                ],
                "{program}"
            );
            assert_eq!(image.packings, [Packing::None, packing, Packing::None]);
            assert_eq!(image.kept, [("conf/modules".to_owned(), b"content".to_vec())]);
            assert!(image.has_module("6.1", "a"));
            assert_eq!(image.modules_directory("6.1").as_deref(), Some("usr/lib/modules/6.1"));
        }
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused() {
        let whole = packed("gzip", &["-c"], &archive_of("a"));
        assert!(read(&whole[..whole.len() / 2], &|_| false).is_err());
        assert!(read(b"MZ not an archive", &|_| false).is_err());
        assert!(read(&[], &|_| false).unwrap().entries.is_empty());
    }
}
