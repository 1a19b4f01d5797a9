//! The initial RAM disk inside a unified kernel image: a PE file with a section of that name.
//!
//! Read, and made larger where nobody has signed the image. The new bytes go behind those of the section; what follows in the file moves
//! on, and the section gets a place behind all others in memory if it no longer fits where it was.
//!
//! ```text
//!   MZ PE sections │ .osrel │ .cmdline │ .initrd + new │ .linux
//! ```
//!
//! Offsets and sizes come from the file and are checked against it. What is not here: what is appended.

use std::io;

/// Where the offset of the PE header stands.
const HEADER_OFFSET_AT: usize = 0x3c;
/// The optional header stands behind the signature and the COFF header.
const OPTIONAL_AT: usize = 24;
/// `PE32+`: what runs on 64 bits.
const PE32_PLUS: usize = 0x20b;
/// Fields of a `PE32+` optional header.
const SECTION_ALIGNMENT_AT: usize = 32;
const FILE_ALIGNMENT_AT: usize = 36;
const IMAGE_SIZE_AT: usize = 56;
const CHECKSUM_AT: usize = 64;
const DIRECTORIES_AT: usize = 108;
/// The directory that says where signatures lie.
const CERTIFICATES: usize = 4;
const DIRECTORY_BYTES: usize = 8;
/// Fields of a section.
const SECTION_BYTES: usize = 40;
const VIRTUAL_SIZE_AT: usize = 8;
const ADDRESS_AT: usize = 12;
const RAW_SIZE_AT: usize = 16;
const RAW_START_AT: usize = 20;
const INITRD: &[u8; 8] = b".initrd\0";
/// Signatures of what firmware measures of the image.
const MEASUREMENTS: &[u8; 8] = b".pcrsig\0";
/// The kernel looks for another archive at multiples of 4; ours begin where those in files do.
const ARCHIVE_ALIGNMENT: usize = 512;
/// Larger is no section of a program.
const LARGEST_ALIGNMENT: usize = 1 << 20;

/// A section, as its header says; all within the file.
struct Section {
    header: usize,
    virtual_size: usize,
    address: usize,
    raw_size: usize,
    raw_start: usize,
}

impl Section {
    fn is(&self, image: &[u8], name: &[u8; 8]) -> bool {
        image.get(self.header..self.header + name.len()) == Some(name)
    }

    /// How many of its bytes in the file count.
    fn length(&self) -> usize {
        if self.virtual_size > 0 { self.virtual_size.min(self.raw_size) } else { self.raw_size }
    }
}

/// Where the optional header begins, and all sections.
fn sections(image: &[u8]) -> io::Result<(usize, Vec<Section>)> {
    let header = number(image, HEADER_OFFSET_AT)?;
    if image.get(header..header.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(bad("it is no EFI program"));
    }
    let count = short(image, header + 6)?;
    let optional = header + OPTIONAL_AT;
    let table = optional + short(image, header + 20)?;
    let section = |index: usize| {
        let at = table + index * SECTION_BYTES;
        if image.get(at..at + SECTION_BYTES).is_none() {
            return Err(bad("its table of sections is cut off"));
        }
        Ok(Section {
            header: at,
            virtual_size: number(image, at + VIRTUAL_SIZE_AT)?,
            address: number(image, at + ADDRESS_AT)?,
            raw_size: number(image, at + RAW_SIZE_AT)?,
            raw_start: number(image, at + RAW_START_AT)?,
        })
    };
    Ok((optional, (0..count).map(section).collect::<io::Result<_>>()?))
}

/// The content of `.initrd`.
pub(super) fn initramfs(image: &[u8]) -> io::Result<&[u8]> {
    let (_, sections) = sections(image)?;
    let Some(initrd) = sections.iter().find(|section| section.is(image, INITRD)) else {
        return Err(bad("it has no initial RAM disk"));
    };
    image
        .get(initrd.raw_start..initrd.raw_start.saturating_add(initrd.length()))
        .ok_or_else(|| bad("its initial RAM disk is cut off"))
}

/// Whether somebody vouches for this very image: for the firmware, or for what it measures. Such an image stays as it is.
pub(super) fn is_signed(image: &[u8]) -> io::Result<bool> {
    let (optional, sections) = sections(image)?;
    if short(image, optional)? != PE32_PLUS {
        // Not what we would change anyway.
        return Ok(true);
    }
    let certificates = match number(image, optional + DIRECTORIES_AT)? > CERTIFICATES {
        true => number(image, optional + DIRECTORIES_AT + 4 + CERTIFICATES * DIRECTORY_BYTES + 4)? > 0,
        false => false,
    };
    Ok(certificates || sections.iter().any(|section| section.is(image, MEASUREMENTS)))
}

/// The image with this archive behind its initial RAM disk.
pub(super) fn with_archive(image: &[u8], archive: &[u8]) -> io::Result<Vec<u8>> {
    let (optional, sections) = sections(image)?;
    let alignment = |at: usize| match number(image, optional + at)? {
        sound if sound.is_power_of_two() && sound <= LARGEST_ALIGNMENT => Ok(sound),
        _ => Err(bad("its alignment is none")),
    };
    let (in_memory, in_file) = (alignment(SECTION_ALIGNMENT_AT)?, alignment(FILE_ALIGNMENT_AT)?);
    let Some(initrd) = sections.iter().find(|section| section.is(image, INITRD)) else {
        return Err(bad("it has no initial RAM disk"));
    };
    let mut content = initramfs(image)?.to_vec();
    content.resize(content.len().next_multiple_of(ARCHIVE_ALIGNMENT), 0);
    content.extend_from_slice(archive);
    let (size, raw_size) = (content.len(), content.len().next_multiple_of(in_file));
    content.resize(raw_size, 0);

    let old_end = initrd.raw_start + initrd.raw_size;
    let rest = image.get(old_end..).ok_or_else(|| bad("its initial RAM disk is cut off"))?;
    let moved = raw_size
        .checked_sub(initrd.raw_size)
        .filter(|moved| moved.is_multiple_of(in_file))
        .ok_or_else(|| bad("its sections are not aligned"))?;
    let mut changed = Vec::with_capacity(image.len() + moved);
    changed.extend_from_slice(&image[..initrd.raw_start]);
    changed.extend_from_slice(&content);
    changed.extend_from_slice(rest);

    let image_size = number(image, optional + IMAGE_SIZE_AT)?;
    let fits =
        |section: &Section| section.address <= initrd.address || section.address >= initrd.address + size;
    let (address, image_size) = if sections.iter().all(fits) && initrd.address + size <= image_size {
        (initrd.address, image_size)
    } else {
        let behind = image_size.next_multiple_of(in_memory);
        (behind, behind + size.next_multiple_of(in_memory))
    };
    for section in sections.iter().filter(|section| section.raw_start >= old_end && section.raw_size > 0) {
        set(&mut changed, section.header + RAW_START_AT, section.raw_start + moved)?;
    }
    set(&mut changed, initrd.header + VIRTUAL_SIZE_AT, size)?;
    set(&mut changed, initrd.header + ADDRESS_AT, address)?;
    set(&mut changed, initrd.header + RAW_SIZE_AT, raw_size)?;
    set(&mut changed, optional + IMAGE_SIZE_AT, image_size)?;
    // None: nobody but drivers of Windows is asked for it.
    set(&mut changed, optional + CHECKSUM_AT, 0)?;
    Ok(changed)
}

fn set(bytes: &mut [u8], at: usize, value: usize) -> io::Result<()> {
    let word = u32::try_from(value).map_err(|_| bad("it would be too large"))?;
    let place = bytes.get_mut(at..at + 4).ok_or_else(|| bad("it is cut off"))?;
    place.copy_from_slice(&word.to_le_bytes());
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> io::Result<usize> {
    let word =
        bytes.get(at..at + 4).and_then(|word| word.first_chunk::<4>()).ok_or_else(|| bad("it is cut off"))?;
    Ok(u32::from_le_bytes(*word) as usize)
}

fn short(bytes: &[u8], at: usize) -> io::Result<usize> {
    let word =
        bytes.get(at..at + 2).and_then(|word| word.first_chunk::<2>()).ok_or_else(|| bad("it is cut off"))?;
    Ok(usize::from(u16::from_le_bytes(*word)))
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONAL: usize = 0x80 + OPTIONAL_AT;
    const OPTIONAL_BYTES: usize = DIRECTORIES_AT + 4 + 16 * DIRECTORY_BYTES;
    const TABLE: usize = OPTIONAL + OPTIONAL_BYTES;

    fn put(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// `.initrd` with `abc`, and after it `.linux` with `kernel`, whose place in memory follows at once.
    fn program() -> Vec<u8> {
        let mut bytes = vec![0; 0x800];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[HEADER_OFFSET_AT] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x86] = 2;
        bytes[0x94..0x96].copy_from_slice(&u16::try_from(OPTIONAL_BYTES).unwrap().to_le_bytes());
        bytes[OPTIONAL..OPTIONAL + 2].copy_from_slice(&0x20b_u16.to_le_bytes());
        for (at, value) in [
            (SECTION_ALIGNMENT_AT, 0x1000),
            (FILE_ALIGNMENT_AT, 0x200),
            (IMAGE_SIZE_AT, 0x3000),
            (DIRECTORIES_AT, 16),
        ] {
            put(&mut bytes, OPTIONAL + at, value);
        }
        for (index, name, fields) in
            [(0, INITRD, [3, 0x1000, 0x200, 0x400]), (1, b".linux\0\0", [6, 0x2000, 0x200, 0x600])]
        {
            let at = TABLE + index * SECTION_BYTES;
            bytes[at..at + 8].copy_from_slice(name);
            for (number, value) in fields.into_iter().enumerate() {
                put(&mut bytes, at + VIRTUAL_SIZE_AT + 4 * number, value);
            }
        }
        bytes[0x400..0x403].copy_from_slice(b"abc");
        bytes[0x600..0x606].copy_from_slice(b"kernel");
        bytes
    }

    #[test]
    fn the_section_of_that_name_is_found() {
        assert_eq!(initramfs(&program()).unwrap(), b"abc");
    }

    #[test]
    fn sections_that_lead_out_of_the_file_are_refused() {
        let mut bytes = program();
        put(&mut bytes, TABLE + RAW_START_AT, u32::MAX);
        assert!(initramfs(&bytes).is_err());
        assert!(with_archive(&bytes, b"new").is_err());
        assert!(initramfs(&bytes[..0x90]).is_err());
        assert!(initramfs(b"").is_err());
    }

    #[test]
    fn an_archive_is_put_behind_and_what_follows_moves_on() {
        let changed = with_archive(&program(), &[b'x'; 600]).unwrap();
        let content = initramfs(&changed).unwrap();
        assert_eq!((&content[..4], &content[512..]), (&b"abc\0"[..], &[b'x'; 600][..]));
        let (_, sections) = sections(&changed).unwrap();
        assert_eq!(&changed[sections[1].raw_start..][..6], b"kernel");
        // 1112 bytes fit into the 4096 before the kernel's place.
        assert_eq!((sections[0].address, changed.len()), (0x1000, 0x800 + 0x400));
    }

    #[test]
    fn an_initial_ram_disk_that_no_longer_fits_gets_a_place_behind_all_others() {
        let changed = with_archive(&program(), &[b'x'; 0x1000]).unwrap();
        let (optional, sections) = sections(&changed).unwrap();
        assert_eq!((sections[0].address, sections[1].address), (0x3000, 0x2000));
        assert_eq!(number(&changed, optional + IMAGE_SIZE_AT).unwrap(), 0x5000);
        assert_eq!(initramfs(&changed).unwrap().len(), 512 + 0x1000);
    }

    #[test]
    fn a_signature_is_seen_wherever_it_is() {
        assert!(!is_signed(&program()).unwrap());
        let mut certified = program();
        put(&mut certified, OPTIONAL + DIRECTORIES_AT + 4 + CERTIFICATES * DIRECTORY_BYTES + 4, 0x100);
        assert!(is_signed(&certified).unwrap());
        let mut measured = program();
        measured[TABLE + SECTION_BYTES..][..8].copy_from_slice(MEASUREMENTS);
        assert!(is_signed(&measured).unwrap());
    }
}
