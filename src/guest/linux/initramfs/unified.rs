//! The initial RAM disk inside a unified kernel image: a PE file with a section of that name.
//!
//! Only read. Offsets and sizes come from the file and are checked against it. What is not here: signatures.

use std::io;

/// Where the offset of the PE header stands.
const HEADER_OFFSET_AT: usize = 0x3c;
const SECTION_BYTES: usize = 40;
const SECTION_NAME: &[u8; 8] = b".initrd\0";

/// The content of `.initrd`.
pub(super) fn initramfs(image: &[u8]) -> io::Result<&[u8]> {
    let header = number(image, HEADER_OFFSET_AT)?;
    if image.get(header..header.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(bad("it is no EFI program"));
    }
    let sections = short(image, header + 6)?;
    let optional_bytes = short(image, header + 20)?;
    let table = header + 24 + optional_bytes;
    for index in 0..sections {
        let at = table + index * SECTION_BYTES;
        let section =
            image.get(at..at + SECTION_BYTES).ok_or_else(|| bad("its table of sections is cut off"))?;
        if &section[..8] == SECTION_NAME {
            let virtual_size = number(section, 8)?;
            let (size, start) = (number(section, 16)?, number(section, 20)?);
            let length = if virtual_size > 0 { virtual_size.min(size) } else { size };
            return image
                .get(start..start.saturating_add(length))
                .ok_or_else(|| bad("its initial RAM disk is cut off"));
        }
    }
    Err(bad("it has no initial RAM disk"))
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

    fn program() -> Vec<u8> {
        let mut bytes = vec![0; 0x200];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[HEADER_OFFSET_AT] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x86] = 1;
        let section = 0x80 + 24;
        bytes[section..section + 8].copy_from_slice(SECTION_NAME);
        bytes[section + 8] = 3;
        bytes[section + 16] = 16;
        bytes[section + 20..section + 22].copy_from_slice(&[0, 1]);
        bytes[0x100..0x103].copy_from_slice(b"abc");
        bytes
    }

    #[test]
    fn the_section_of_that_name_is_found() {
        assert_eq!(initramfs(&program()).unwrap(), b"abc");
    }

    #[test]
    fn sections_that_lead_out_of_the_file_are_refused() {
        let mut bytes = program();
        let section = 0x80 + 24;
        bytes[section + 20..section + 24].copy_from_slice(&[0xff; 4]);
        assert!(initramfs(&bytes).is_err());
        assert!(initramfs(&bytes[..0x90]).is_err());
        assert!(initramfs(b"").is_err());
    }
}
