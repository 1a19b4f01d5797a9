//! Packing blocks, by as many threads as there are: each takes a packer, works with it outside of any lock, and puts it back.
//!
//! What is not here: where packed blocks lie.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::BLOCK_BYTES;

/// QEMU unpacks clusters with so small a window, and cannot with a larger one.
const CLUSTER_WINDOW_BITS: u8 = 12;
const STREAM_WINDOW_BITS: u8 = 15;
/// What blocks that cannot be packed grow by, at most.
const SLACK_BYTES: usize = 4 << 10;
/// Its own choice, and QEMU's.
const ZSTD_LEVEL: u8 = 3;
/// As QEMU's zlib, by size within some hundredths.
const ZLIB_LEVEL: u8 = 6;
/// `zlib-rs` panics at level 1 where data hardly packs.
const LEAST_ZLIB_LEVEL: u8 = 2;

/// How blocks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// As frames.
    Zstd,
    /// Deflated, with nothing around it and a small window: clusters of qcow2.
    ZlibBare,
    /// Deflated, with a header and a checksum around it: grains of VMDK.
    Zlib,
}

/// All packers of a copy.
pub(super) struct Packers {
    method: Method,
    level: u8,
    idle: Mutex<Vec<Packer>>,
    idle_unpackers: Mutex<Vec<zstd::bulk::Decompressor<'static>>>,
}

impl fmt::Debug for Packers {
    fn fmt(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        into.debug_struct("Packers").field("method", &self.method).field("level", &self.level).finish()
    }
}

/// One, with what it has packed last.
pub(super) struct Packer {
    engine: Engine,
    pub(super) packed: Vec<u8>,
    /// Room for a block that the disk ends in.
    whole: Vec<u8>,
}

enum Engine {
    Zstd(zstd::bulk::Compressor<'static>),
    Zlib(Compress),
}

impl Packers {
    pub(super) fn new(method: Method, level: Option<u8>) -> Packers {
        let usual = if method == Method::Zstd { ZSTD_LEVEL } else { ZLIB_LEVEL };
        Packers {
            method,
            level: level.unwrap_or(usual),
            idle: Mutex::default(),
            idle_unpackers: Mutex::default(),
        }
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    /// Lends a packer.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Packer) -> io::Result<R>) -> io::Result<R> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut packer = match idle {
            Some(packer) => packer,
            None => self.make()?,
        };
        packer.packed.clear();
        let done = work(&mut packer);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(packer);
        done
    }

    fn make(&self) -> io::Result<Packer> {
        let deflate = |has_header, bits| {
            let level = flate2::Compression::new(u32::from(self.level.max(LEAST_ZLIB_LEVEL)));
            Engine::Zlib(Compress::new_with_window_bits(level, has_header, bits))
        };
        let engine = match self.method {
            Method::Zstd => Engine::Zstd(zstd::bulk::Compressor::new(i32::from(self.level))?),
            Method::ZlibBare => deflate(false, CLUSTER_WINDOW_BITS),
            Method::Zlib => deflate(true, STREAM_WINDOW_BITS),
        };
        Ok(Packer { engine, packed: Vec::new(), whole: Vec::new() })
    }

    /// Unpacks a block of our own; what is behind it is left alone.
    pub(super) fn unpack(&self, packed: &[u8], into: &mut [u8]) -> io::Result<()> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "what was packed cannot be unpacked");
        if self.method == Method::Zstd {
            let length = zstd::zstd_safe::find_frame_compressed_size(packed).map_err(|_| broken())?;
            let frame = packed.get(..length).ok_or_else(broken)?;
            let idle = self.idle_unpackers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut unpacker = idle.map_or_else(zstd::bulk::Decompressor::new, Ok)?;
            let count = unpacker.decompress_to_buffer(frame, into)?;
            self.idle_unpackers.lock().unwrap_or_else(PoisonError::into_inner).push(unpacker);
            return if count == into.len() { Ok(()) } else { Err(broken()) };
        }
        let mut inflate = Decompress::new(self.method == Method::Zlib);
        match inflate.decompress(packed, into, FlushDecompress::Finish) {
            Ok(_) if inflate.total_out() == into.len() as u64 => Ok(()),
            _ => Err(broken()),
        }
    }
}

impl Packer {
    /// Packs a block behind what was packed before, and says how many bytes that took. One that the disk ends in is filled up with zeros.
    pub(super) fn add(&mut self, block: &[u8]) -> io::Result<usize> {
        let block = if block.len() < BLOCK_BYTES {
            self.whole.clear();
            self.whole.extend(block);
            self.whole.resize(BLOCK_BYTES, 0);
            &self.whole
        } else {
            block
        };
        let before = self.packed.len();
        let most = match &self.engine {
            Engine::Zstd(_) => zstd::zstd_safe::compress_bound(block.len()),
            Engine::Zlib(_) => block.len() + SLACK_BYTES,
        };
        self.packed.resize(before + most, 0);
        let into = &mut self.packed[before..];
        let bytes = match &mut self.engine {
            Engine::Zstd(engine) => engine.compress_to_buffer(block, into)?,
            Engine::Zlib(engine) => {
                engine.reset();
                let status = engine.compress(block, into, FlushCompress::Finish).map_err(io::Error::other)?;
                if status != Status::StreamEnd {
                    return Err(io::Error::other("a block grew beyond measure when it was packed"));
                }
                engine.total_out() as usize
            }
        };
        self.packed.truncate(before + bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_level_fails_on_data_that_hardly_packs() {
        let mut state = 1u64;
        // Bytes of which some are more frequent than others, with repetitions here and there.
        let byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let wide = (state >> 56) as u8;
            if state >> 40 & 1 == 0 { wide & 0x8f } else { wide }
        };
        let data: Vec<_> = std::iter::repeat_with(byte).take(32 * BLOCK_BYTES).collect();
        for (method, levels) in [(Method::Zstd, 1..=22), (Method::ZlibBare, 1..=9), (Method::Zlib, 1..=9)] {
            for level in levels {
                let packers = Packers::new(method, Some(level));
                // The slow ones see less.
                for block in data.chunks(BLOCK_BYTES).take(if level > 9 { 1 } else { 32 }) {
                    let packed =
                        packers.with(|packer| packer.add(block).map(|_| packer.packed.clone())).unwrap();
                    let mut again = vec![0; BLOCK_BYTES];
                    packers.unpack(&packed, &mut again).unwrap();
                    assert!(again == block, "{method:?} {level}");
                }
            }
        }
    }

    #[test]
    fn what_was_packed_is_unpacked_and_is_the_same_each_time() {
        let mut state = 7u32;
        let noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<_> = std::iter::repeat_with(noise).take(BLOCK_BYTES).collect();
        let text = b"the same again ".repeat(BLOCK_BYTES / 15 + 1)[..BLOCK_BYTES].to_vec();
        for method in [Method::Zstd, Method::ZlibBare, Method::Zlib] {
            let packers = Packers::new(method, None);
            let packed = |block: &[u8]| {
                packers.with(|packer| {
                    packer.add(block)?;
                    Ok(packer.packed.clone())
                })
            };
            for block in [&text, &noise] {
                let first = packed(block).unwrap();
                // The same packer has packed something else in between.
                packed(&noise[..777]).unwrap();
                assert_eq!(packed(block).unwrap(), first, "{method:?}");
                let mut again = vec![0; BLOCK_BYTES];
                packers.unpack(&[&first[..], b"beyond"].concat(), &mut again).unwrap();
                assert!(again == *block, "{method:?}");
            }
            assert!(packed(&text).unwrap().len() < 2000, "{method:?}");
            let mut again = vec![1; BLOCK_BYTES];
            packers.unpack(&packed(&text[..512]).unwrap(), &mut again).unwrap();
            assert!(again[..512] == text[..512] && again[512..] == [0; BLOCK_BYTES - 512], "{method:?}");
            assert!(packers.unpack(&noise, &mut again).is_err(), "{method:?}");
        }
    }
}
