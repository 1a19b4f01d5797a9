//! LZO in the form of `lzop`: what few initial RAM disks are packed with, read within the bounds of its buffers.
//!
//! A header, then blocks, each with its sizes and whatever checksums the header promises. A block is a series of instructions: copy so many
//! bytes that follow, copy so many from so far back. What is not here: packing, other methods than LZO1X, and the checksums, which
//! protect from accidents on the way that this image did not take.

use std::io;

const MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n'];
/// From this version on the header says what is needed to read it, and at which level it was packed.
const WITH_LEVEL: u16 = 0x0940;
/// LZO1X in its three strengths.
const METHODS: std::ops::RangeInclusive<u8> = 1..=3;
const ADLER32_OF_PLAIN: u32 = 0x1;
const ADLER32_OF_PACKED: u32 = 0x2;
const EXTRA_FIELD: u32 = 0x40;
const CRC32_OF_PLAIN: u32 = 0x100;
const CRC32_OF_PACKED: u32 = 0x200;
const FILTER: u32 = 0x800;
/// `lzop` makes blocks of a quarter of a mebibyte.
const BLOCK_LIMIT_BYTES: usize = 8 << 20;

/// What a stream unpacks to, and what is behind it.
pub(super) fn unpack(bytes: &[u8], limit_bytes: u64) -> io::Result<(Vec<u8>, &[u8])> {
    let mut input = Input(bytes);
    let flags = header(&mut input)?;
    let count = |wanted: [u32; 2]| wanted.iter().filter(|flag| flags & **flag != 0).count();
    let mut plain = Vec::new();
    loop {
        let plain_size = input.number()?;
        if plain_size == 0 {
            return Ok((plain, input.0));
        }
        let packed_size = input.number()?;
        if plain_size > BLOCK_LIMIT_BYTES || packed_size > plain_size {
            return Err(bad("a block has an impossible size"));
        }
        if (plain.len() + plain_size) as u64 > limit_bytes {
            return Err(bad("it unpacks to too much"));
        }
        input.take(4 * count([ADLER32_OF_PLAIN, CRC32_OF_PLAIN]))?;
        if packed_size == plain_size {
            plain.extend_from_slice(input.take(packed_size)?);
            continue;
        }
        input.take(4 * count([ADLER32_OF_PACKED, CRC32_OF_PACKED]))?;
        block(Input(input.take(packed_size)?), plain_size, &mut plain)?;
    }
}

/// Goes past the header; its flags.
fn header(input: &mut Input<'_>) -> io::Result<u32> {
    if input.take(MAGIC.len())? != MAGIC {
        return Err(bad("it is no lzop file"));
    }
    let version = u16::from_be_bytes([input.byte()?, input.byte()?]);
    let has_level = version >= WITH_LEVEL;
    // The version of the library, and the one that is needed.
    input.take(if has_level { 4 } else { 2 })?;
    if !METHODS.contains(&input.byte()?) {
        return Err(bad("it is packed with a method that nobody knows"));
    }
    input.take(usize::from(has_level))?;
    let flags = input.word()?;
    if flags & FILTER != 0 {
        return Err(bad("it was filtered before it was packed"));
    }
    // The file's mode and times, and its name.
    input.take(if has_level { 12 } else { 8 })?;
    let name = usize::from(input.byte()?);
    input.take(name + 4)?;
    if flags & EXTRA_FIELD != 0 {
        let extra = input.number()?;
        input.take(extra.saturating_add(4))?;
    }
    Ok(flags)
}

/// Unpacks one block behind what is there; it may not reach further back than its own beginning.
fn block(mut input: Input<'_>, size: usize, plain: &mut Vec<u8>) -> io::Result<()> {
    let mut output = Output { begins: plain.len(), ends: plain.len() + size, plain };
    // How many bytes the last instruction copied behind its match: 0 to 3, or 4 for a long run of them.
    let mut state = 0;
    if input.0.first().is_some_and(|first| *first > 17) {
        let count = usize::from(input.byte()?) - 17;
        output.literals(&mut input, count)?;
        state = count.min(4);
    }
    loop {
        let code = usize::from(input.byte()?);
        let (distance, length, then) = match code {
            0..16 if state == 0 => {
                let count = input.length(code, 15)? + 3;
                output.literals(&mut input, count)?;
                state = 4;
                continue;
            }
            0..16 => {
                let (base, length) = if state == 4 { (2049, 3) } else { (1, 2) };
                ((usize::from(input.byte()?) << 2) + (code >> 2) + base, length, code & 3)
            }
            16..32 => {
                let length = input.length(code & 7, 7)? + 2;
                let operand = input.little_endian()?;
                let distance = 16384 + ((code & 8) << 11) + (operand >> 2);
                if distance == 16384 {
                    return output.is_full();
                }
                (distance, length, operand & 3)
            }
            32..64 => {
                let length = input.length(code & 31, 31)? + 2;
                let operand = input.little_endian()?;
                ((operand >> 2) + 1, length, operand & 3)
            }
            _ => {
                let length = if code < 128 { 3 + ((code >> 5) & 1) } else { 5 + ((code >> 5) & 3) };
                ((usize::from(input.byte()?) << 3) + ((code >> 2) & 7) + 1, length, code & 3)
            }
        };
        output.again(distance, length)?;
        output.literals(&mut input, then)?;
        state = then;
    }
}

/// What is still to be read.
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn take(&mut self, count: usize) -> io::Result<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(cut)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let (first, rest) = self.0.split_first().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*first)
    }

    fn word(&mut self) -> io::Result<u32> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(cut)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*first))
    }

    fn number(&mut self) -> io::Result<usize> {
        Ok(self.word()? as usize)
    }

    fn little_endian(&mut self) -> io::Result<usize> {
        Ok(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    /// A length whose bits in the instruction did not suffice goes on in bytes: zeros count 255 each, the first other one ends it.
    fn length(&mut self, bits: usize, most: usize) -> io::Result<usize> {
        if bits > 0 {
            return Ok(bits);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Ok(length + usize::from(last)),
            }
        }
    }
}

/// The block as far as it is unpacked.
struct Output<'p> {
    plain: &'p mut Vec<u8>,
    begins: usize,
    ends: usize,
}

impl Output<'_> {
    fn literals(&mut self, input: &mut Input<'_>, count: usize) -> io::Result<()> {
        self.has_room(count)?;
        self.plain.extend_from_slice(input.take(count)?);
        Ok(())
    }

    /// What was `distance` bytes ago, once more; it may overlap with what it makes.
    fn again(&mut self, distance: usize, length: usize) -> io::Result<()> {
        self.has_room(length)?;
        let from = self.plain.len().checked_sub(distance).filter(|from| *from >= self.begins);
        let from = from.ok_or_else(|| bad("a block reaches back before its beginning"))?;
        for at in from..from + length {
            self.plain.push(self.plain[at]);
        }
        Ok(())
    }

    fn has_room(&self, count: usize) -> io::Result<()> {
        match count <= self.ends - self.plain.len() {
            true => Ok(()),
            false => Err(bad("a block is larger than it says")),
        }
    }

    fn is_full(&self) -> io::Result<()> {
        match self.plain.len() == self.ends {
            true => Ok(()),
            false => Err(bad("a block is smaller than it says")),
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off")
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 64 << 20;

    fn packed(level: &str, bytes: &[u8]) -> Vec<u8> {
        let mut lzop = Command::new("lzop");
        let mut child =
            lzop.args([level, "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let bytes = bytes.to_owned();
        let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.stdout
    }

    /// Words, runs, noise, and distances of every size.
    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut state = 7_u32;
        for round in 0..6000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 29 {
                0 => bytes.extend(std::iter::repeat_n((round & 0xff) as u8, (state & 0xfff) as usize)),
                1 => bytes.extend_from_slice(&state.to_le_bytes()),
                2 if bytes.len() > 60_000 => {
                    let from = bytes.len() - 50_000 - (state & 0x1fff) as usize;
                    let again = bytes[from..from + 40].to_vec();
                    bytes.extend(again);
                }
                _ => bytes.extend_from_slice(format!("line {} of some text\n", state & 0x3ff).as_bytes()),
            }
        }
        bytes
    }

    #[test]
    fn what_lzop_packs_at_any_level_is_read_and_what_follows_is_left() {
        let bytes = sample();
        for level in ["-1", "-3", "-7", "-9"] {
            let mut stream = packed(level, &bytes);
            stream.extend_from_slice(b"behind");
            let (plain, rest) = unpack(&stream, LIMIT).unwrap();
            assert!(plain == bytes, "{level}");
            assert_eq!(rest, b"behind");
        }
        let noise: Vec<u8> =
            (0..1000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        assert!(unpack(&packed("-3", &noise), LIMIT).unwrap().0 == noise, "what cannot be packed is stored");
    }

    #[test]
    fn what_is_cut_or_too_large_is_refused() {
        let stream = packed("-3", &sample());
        for length in [0, 5, 30, 60, stream.len() / 2, stream.len() - 1] {
            assert!(unpack(&stream[..length], LIMIT).is_err(), "{length}");
        }
        assert!(unpack(&stream, 1000).is_err());
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0_usize..4000, value: u8) {
            static STREAM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut stream = STREAM.get_or_init(|| packed("-3", &sample()[..20_000])).clone();
            let at = at % stream.len();
            stream[at] = value;
            // Whatever comes of it is bounded.
            if let Ok((plain, _)) = unpack(&stream, LIMIT) {
                prop_assert!(plain.len() as u64 <= LIMIT);
            }
        }
    }
}
