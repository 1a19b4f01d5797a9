//! CRC-32C, by which a VHDX tells whether its structures are whole.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// The checksum of bytes that come in parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crc32c(u32);

impl Crc32c {
    pub(super) fn new() -> Crc32c {
        Crc32c(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 >> 8 ^ TABLE[((self.0 ^ u32::from(*byte)) & 0xff) as usize];
        }
    }

    pub(super) fn sum(self) -> u32 {
        !self.0
    }
}

/// Of a structure whose own checksum field counts as zero.
pub(super) fn crc32c(bytes: &[u8], checksum_at: usize) -> u32 {
    let mut crc = Crc32c::new();
    let (before, rest) = bytes.split_at(checksum_at.min(bytes.len()));
    crc.update(before);
    crc.update(&[0; 4][..rest.len().min(4)]);
    crc.update(rest.get(4..).unwrap_or(&[]));
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The published check value of "123456789".
        assert_eq!(crc32c(b"123456789", 100), 0xe306_9283);
        // Its own bytes count as zeros.
        assert_eq!(crc32c(b"\xff\xff\xff\xff123456789", 0), crc32c(b"\x00\x00\x00\x00123456789", 0));
        assert_ne!(crc32c(b"1234", 0), crc32c(b"12345", 0));
    }
}
